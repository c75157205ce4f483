"""Shutdowns as they happen: each ends with the data on the card, or says what is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from harness import Throttle
from harness.lab import Lab
from harness.machine import VM
from product import flushlog
from product.router import when_free
from systems import debian
from systems.debian import SLOW

SAFE = "cowflush: all data are on the card."


def command(text: str) -> Callable[[VM], None]:
    return lambda vm: vm.send(text)


def ctrl_alt_del(vm: VM) -> None:
    vm.press("ctrl", "alt", "delete")


@dataclass(frozen=True)
class Case:
    """What is wrong before the shutdown, how it begins, and how the machine then ends."""

    before: str
    begin: Callable[[VM], None]
    end: str = "guest-shutdown"
    # There is something to write then, so the machine must not be turned off.
    warns: bool = True


POWEROFF = command("poweroff")
# What init does without being asked by a command
BY_SIGNAL = command("kill -s RTMIN+4 1")
# Its filesystem is in a file on root, and a process that heeds no signal but KILL holds a file
# open.
BUSY = (
    "truncate -s 8M /root/image && mke2fs -q /root/image && mkdir /root/mnt && mount -o loop /root/image /root/mnt && "
    "{ sh -c 'trap \"\" TERM HUP; exec 9>/root/mnt/held; while :; do echo x >&9; sleep 1; done' </dev/null >/dev/null 2>&1 & }"
)
# All services are gone before the shutdown begins. The command that begins it has a session of its
# own, since the end of the agent, whose terminal is ttyS1, would hang it up; and under systemd a
# scope, else systemd ends what the agent leaves.
KILLED = "setsid sh -c 'sync; kill -KILL -1; sleep 3; {}'"

DROP_IN = "/run/systemd/system/cowflush-shutdown.service.d"
SYSTEMD = {
    "root is read-only": Case("echo u >/proc/sysrq-trigger", POWEROFF),
    "root is busy": Case(BUSY, POWEROFF),
    "run is gone": Case("umount -l /run", BY_SIGNAL),
    "everything is killed": Case(
        "true", command("systemd-run --scope " + KILLED.format("kill -s RTMIN+4 1"))
    ),
    "the journal goes on": Case(
        "mkdir -p /var/log/journal && systemctl restart systemd-journald && "
        "{ while :; do logger -t late $(date); done </dev/null >/dev/null 2>&1 & }",
        POWEROFF,
    ),
    "ctrl-alt-del": Case("true", ctrl_alt_del, "guest-reset"),
    # No service is stopped, but the script at the very end runs.
    "systemctl reboot -f": Case("true", command("systemctl reboot -f"), "guest-reset"),
    # The flush at shutdown is another unit's. By hand the daemon's stop brings everything to the
    # card, and lets writes go there.
    "the daemon is off": Case("systemctl disable --now cowflush.service", POWEROFF, warns=False),
    "the service does not flush": Case(
        f"mkdir -p {DROP_IN} && printf '[Service]\\nExecStop=\\n' >{DROP_IN}/idle.conf && systemctl daemon-reload",
        POWEROFF,
    ),
}
SYSVINIT = {
    "root is read-only": Case("echo u >/proc/sysrq-trigger", POWEROFF),
    "root is busy": Case(BUSY, POWEROFF),
    # Its pipe to init was there, too; USR1 makes init create it again.
    "run is gone": Case(
        "umount -l /run/lock; umount -l /run", command("kill -USR1 1; sleep 2; poweroff")
    ),
    "everything is killed": Case("true", command(KILLED.format("poweroff"))),
    "ctrl-alt-del": Case("true", ctrl_alt_del, "guest-reset"),
}
# They differ most; also in `make test-all`.
SAY_MOST = [
    ("systemd", "root is busy"),
    ("systemd", "systemctl reboot -f"),
    ("sysvinit", "everything is killed"),
]
ALL = [
    pytest.param(*case, marks=pytest.mark.thorough if case in SAY_MOST else pytest.mark.systems)
    for case in [
        *(("systemd", name) for name in SYSTEMD),
        *(("sysvinit", name) for name in SYSVINIT),
    ]
]


@pytest.mark.parametrize(("init", "name"), ALL, ids=lambda word: word.replace(" ", "-"))
def test_a_shutdown_ends_with_the_data_on_the_card(boot: Lab, init: str, name: str) -> None:
    case = (SYSTEMD if init == "systemd" else SYSVINIT)[name]
    vm = debian.running(boot, init)
    assert debian.root_device(vm) == debian.STACK
    vm.run(
        "head -c 300000 /dev/urandom >/root/data && sha256sum </root/data | cut -c1-64 >/root/sum && sync"
    ).ok()
    vm.run(case.before).ok()
    case.begin(vm)
    assert vm.wait_stopped(timeout=SLOW) == case.end
    assert SAFE in vm.console
    # In capitals, or, for what the daemon was flushing just then, beside its progress
    assert ("don't power off" in vm.console.lower()) == case.warns
    vm.card.fsck()
    assert vm.card.hashes("/root")["/root/data"] == vm.card.read("/root/sum").decode().strip()


LOGGING = "cowflush: logging "
IMPATIENT = "cowflush-shutdown.service: Stopping timed out. Terminating."


def killed_in_mid_flush(lab: Lab) -> VM:
    """A shutdown whose service manager kills the unit's stop halfway, on a card of some kB/s."""
    vm = debian.running(lab, "systemd", throttle=Throttle())
    vm.run("echo flushed >/root/before").ok()
    debian.flush(vm)
    vm.run(
        f"mkdir -p {DROP_IN} && printf '[Service]\\nTimeoutStopSec=5\\n' >{DROP_IN}/impatient.conf && "
        "systemctl daemon-reload && systemctl log-target console"
    ).ok()
    vm.run(
        "head -c 12000000 /dev/urandom >/root/data && sha256sum </root/data | cut -c1-64 >/root/sum && sync"
    ).ok()
    # First slow enough to be noticed, and quick enough for the shutdown's reads; then it hardly
    # moves.
    vm.throttle(Throttle(bytes_per_second=1 << 20))
    vm.send("systemctl --no-block poweroff")
    vm.wait_console(LOGGING, timeout=SLOW)
    vm.throttle(Throttle(bytes_per_second=16 << 10))
    vm.wait_console(IMPATIENT, timeout=SLOW)
    assert vm.console.index(LOGGING) < vm.console.index(IMPATIENT)
    return vm


@pytest.mark.thorough
def test_a_service_manager_that_loses_patience(boot: Lab) -> None:
    """The unit's stop is killed halfway; the script at the very end does the rest."""
    vm = killed_in_mid_flush(boot)
    vm.wait_console(
        "cowflush-shutdown.service: Killing process .* with signal SIGKILL", timeout=SLOW
    )
    assert SAFE not in vm.console
    vm.throttle(Throttle())
    assert vm.wait_stopped(timeout=SLOW) == "guest-shutdown"
    assert SAFE in vm.console
    vm.card.fsck()
    assert vm.card.hashes("/root")["/root/data"] == vm.card.read("/root/sum").decode().strip()


@pytest.mark.systems
def test_a_card_that_is_too_slow_for_the_very_end(boot: Lab) -> None:
    """The script gives up before systemd would go on without it, and says what is lost."""
    vm = killed_in_mid_flush(boot)
    assert vm.wait_stopped(timeout=SLOW) == "guest-shutdown"
    assert "NOT ON THE CARD" in vm.console and SAFE not in vm.console
    root = flushlog.recovered(vm.card)
    root.fsck()
    assert root.read("/root/before") == b"flushed\n"
    assert "/root/data" not in root.hashes("/root")


@pytest.mark.systems
@pytest.mark.parametrize("init", ["systemd", "sysvinit"])
def test_a_forced_reboot_is_told_of_at_the_next_boot(boot: Lab, init: str) -> None:
    vm = debian.running(boot, init)
    vm.run("echo kept >/root/kept").ok()
    debian.flush(vm)
    vm.run("echo lost >/root/lost && sync").ok()
    assert vm.run_last("reboot -f") == "guest-reset"
    vm = debian.boot(boot, vm.card)
    assert vm.run("cat /root/kept && ! ls /root/lost").ok().text.startswith("kept\n")
    assert "Root was not stopped" in vm.run("dmesg").text


@pytest.mark.systems
def test_a_hold_is_dropped(boot: Lab) -> None:
    vm = debian.running(boot, "systemd")
    vm.run("echo flushed >/root/before").ok()
    debian.flush(vm)
    when_free(vm, "hold").ok()
    vm.run("echo trial >/root/trial && sync").ok()
    debian.shut_down(vm, "systemd")
    assert "what was written since then is dropped now" in vm.console
    root = flushlog.recovered(vm.card)
    root.fsck()
    assert root.read("/root/before") == b"flushed\n"
    assert "/root/trial" not in root.hashes("/root")
