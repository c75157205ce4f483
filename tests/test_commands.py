"""What the commands say and how they end, whoever calls them and whatever is missing around them."""

from __future__ import annotations

import json
import re

import pytest
from vm import Throttle, artefacts
from vm.lab import Lab
from vm.machine import VM
from vm.router import MERGING, check_settled, loops, memory, status, wait_status

BUSY, INTERRUPTED, USAGE = 4, 8, 2
AS_NOBODY = "setuidgid nobody"

RECORD = {
    "when",
    "command",
    "reason",
    "bytes",
    "logged",
    "merged",
    "took_ms",
    "log_ms",
    "merge_ms",
    "stall_us",
    "pruned",
    "not_pruned",
}
WRITTEN = {"requests", "bytes"}
STATUS = {
    "version", "mode", "phase", "card", "cow_used", "cow_size", "pending", "sealed", "spill", "page_cache", "absorbed",
    "reached_card", "last_flush", "busy_pid", "boot", "log", "log_kept", "held_since", "daemon",
}  # fmt: skip


def slow_flush(boot: Lab) -> VM:
    """A router whose next merge takes long, until it is unthrottled."""
    vm = boot(throttle=Throttle())
    vm.run(
        "dd if=/dev/urandom of=/root/big bs=64k count=64 2>&1; echo kept >/root/kept; cowflush status; sync"
    ).ok()
    vm.throttle(Throttle(bytes_per_second=250_000))
    return vm


# --- one at a time ---------------------------------------------------------------


def test_a_second_command_is_told_who_is_at_work(boot: Lab) -> None:
    vm = slow_flush(boot)
    first = vm.start("cowflush flush")
    wait_status(vm, MERGING)
    pid = status(vm)["busy_pid"]
    # The other one looks after the writers.
    assert str(pid) in vm.run("pidof cowflush").ok().text.split()
    for command in ("flush", "stop", "start"):
        said = vm.run(f"cowflush {command}").exits(BUSY).text
        assert (
            f"cannot begin: process {pid} (cowflush flush) is at work. Wait for it to end" in said
        )
    assert f"process {pid} is flushing" in vm.run("cowflush status").ok().text
    vm.throttle(Throttle())
    assert first.wait(60).code == 0
    check_settled(vm)


# --- signals -----------------------------------------------------------------------


@pytest.mark.parametrize("signal", ["INT", "TERM", "HUP"])
def test_a_signal_ends_a_flush_but_not_its_merge(boot: Lab, signal: str) -> None:
    vm = slow_flush(boot)
    flush = vm.start("exec cowflush flush")
    wait_status(vm, MERGING)
    flush.kill(signal)
    ended = flush.wait(10).exits(INTERRUPTED)
    assert (
        f"cannot wait for the end of the merge: SIG{signal} came. The kernel goes on merging"
        in ended.text
    )
    assert status(vm)["phase"] == "merging"
    vm.throttle(Throttle())
    vm.run("cowflush flush", timeout=60).ok()
    check_settled(vm)
    vm.kill()
    vm.card.fsck()
    assert vm.card.read("/root/kept") == b"kept\n"


def test_a_shutdown_does_not_end_a_stop(boot: Lab) -> None:
    """It sends SIGTERM to everybody, and SIGHUP."""
    vm = slow_flush(boot)
    stop = vm.start("exec cowflush stop")
    wait_status(vm, MERGING)
    stop.kill("TERM")
    stop.kill("HUP")
    vm.run("sleep 0.5").ok()
    assert stop.running()
    vm.throttle(Throttle())
    assert stop.wait(60).code == 0
    check_settled(vm, "write-through")


# --- what a shutdown leaves -----------------------------------------------------------


@pytest.mark.kernels("6.1", "6.12")
@pytest.mark.parametrize(
    "before", ["mount -o remount,ro /", "umount -l /run", "umount -l /run && mount -o remount,ro /"]
)
def test_stop_late_in_a_shutdown(boot: Lab, before: str) -> None:
    vm = boot()
    vm.run(f"echo kept >/root/kept; {before}").ok()
    vm.run("cowflush stop", timeout=60).ok()
    assert status(vm)["mode"] == "write-through" and loops(vm) == []
    vm.kill()
    files = vm.card.fs(replay=True)
    files.fsck()
    assert files.read("/root/kept") == b"kept\n"


# --- who calls ------------------------------------------------------------------------


def test_a_user_sees_the_mode_and_nothing_else(boot: Lab) -> None:
    vm = boot()
    vm.run("cowflush flush; echo secret >/root/secret; sync").ok()
    text = vm.run(f"{AS_NOBODY} cowflush status").ok().text
    assert "deferring: writes stay in RAM, sda1 is only read" in text
    assert "how much is used only root can see" in text
    report = json.loads(vm.run(f"{AS_NOBODY} cowflush status --json").ok().output)
    assert set(report) == STATUS
    assert (report["mode"], report["card"], report["cow_used"], report["pending"]) == (
        "deferring",
        "sda1",
        None,
        None,
    )
    nodes = vm.run("ls /dev/loop[0-9]* /dev/dm-* /dev/sda* /dev/mapper/control").ok().text.split()
    assert len(nodes) >= 7
    for node in nodes:
        refused = vm.run(f"{AS_NOBODY} dd if={node} of=/dev/null count=1 2>&1").fails().text
        assert "Permission denied" in refused, node
    assert vm.run("find / -xdev -name 'cowflush-*'; find /run -name 'cowflush-*'").text == ""
    for command in ("flush", "stop", "start", "check"):
        assert re.search(
            r"(?i)run .*as root", vm.run(f"{AS_NOBODY} cowflush {command}").exits(1).text
        ), command


# --- what they print --------------------------------------------------------------------


@pytest.mark.kernels("6.1", *artefacts.ELSEWHERE)
def test_json_has_the_documented_keys(boot: Lab) -> None:
    vm = boot()
    report = status(vm)
    assert set(report) == STATUS and report["version"] == 1
    assert set(report["absorbed"]) == set(report["reached_card"]) == WRITTEN
    assert report["boot"] == {"mode": "deferring", "reason": ""} and report["last_flush"] is None
    vm.run("echo x >/root/x; sync").ok()
    for command in ("flush", "stop"):
        vm.run(f"cowflush start; echo {command} >/root/x; sync").ok()
        done = json.loads(vm.run(f"cowflush {command} --json", timeout=60).ok().output)
        assert set(done) == {"card", "complete", "flush"} and set(done["flush"]) == RECORD
        assert (done["card"], done["complete"], done["flush"]["command"]) == ("sda1", True, command)
        assert done["flush"]["bytes"] > 0 and done["flush"]["stall_us"] > 0
        assert status(vm)["last_flush"] == done["flush"]
    nothing = json.loads(vm.run("cowflush flush --json").ok().output)
    assert nothing == {"card": "sda1", "complete": True, "flush": None}
    check = json.loads(vm.run("cowflush check --json").ok().output)
    assert set(check) == {"complete", "items"} and check["complete"] is True
    assert all(set(item) == {"name", "state", "found", "advice"} for item in check["items"])
    assert {
        "device-mapper",
        "linear",
        "snapshot",
        "snapshot-merge",
        "loop devices",
        "tmpfs",
        "memory",
        "card",
        "reads",
        "journal commits",
    } <= {item["name"] for item in check["items"]}


def test_help_and_usage(boot: Lab) -> None:
    vm = boot()
    text = vm.run("cowflush --help").ok().text
    for word in ("flush", "stop", "start", "status", "check", "init", "version"):
        assert re.search(rf"^  {word} ", text, re.MULTILINE), word
        assert "Usage: cowflush" in vm.run(f"cowflush {word} --help").ok().text
    for code in range(9):
        assert re.search(rf"^  {code} ", text, re.MULTILINE), f"exit code {code} isn't in the help"
    for words in ("", "nonsense", "flush now", "flush --now", "status --json=1", "init"):
        assert vm.run(f"cowflush {words}").exits(USAGE).text.startswith("cowflush: "), words
    assert re.fullmatch(r"cowflush \d+\.\d+\.\d+\S*\n", vm.run("cowflush version").ok().text)


@pytest.mark.parametrize("command", ["status", "check", "flush", "stop", "start", "--help"])
def test_a_reader_that_goes_away(boot: Lab, command: str) -> None:
    """The pipe is closed before the first byte; standard error, too."""
    vm = boot()
    vm.run("echo kept >/root/kept; sync").ok()
    code = vm.run(
        f"{{ sleep 0.3; cowflush {command} 2>&1; echo $? >/run/code; }} | true; cat /run/code",
        timeout=60,
    )
    assert code.ok().text == "0\n"
    vm.run("cowflush flush >/dev/full 2>/dev/full; cowflush status >&- 2>&-", timeout=60).ok()
    vm.kill()
    assert vm.card.fs(replay=True).read("/root/kept") == b"kept\n"


def test_a_flush_is_logged(boot: Lab) -> None:
    vm = boot()
    vm.run(
        "syslogd -O /run/log; until [ -S /dev/log ]; do sleep 0.05; done; echo x >/root/x; cowflush flush >/run/out"
    ).ok()
    said = vm.get("/run/out").decode().strip()
    vm.until("grep -q cowflush /run/log")
    line = vm.run("grep cowflush /run/log").ok().text
    assert re.search(rf"daemon\.notice cowflush\[\d+\]: {re.escape(said)}$", line.strip()), line


# --- old kernels ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "calls"),
    [
        ("--ioctl 4C0A --errno 22", "LOOP_CONFIGURE, since 5.8"),
        ("--call 430 --errno 38", "fsopen, since 5.2"),
    ],
)
def test_a_kernel_without(boot: Lab, missing: str, calls: str) -> None:
    vm = boot()
    before = memory(vm, "Shmem")
    for round_ in range(3):
        said = (
            vm.run(f"echo {round_} >/root/x; guest-tools deny {missing} cowflush flush", timeout=60)
            .ok()
            .text
        )
        denied = re.search(r"^denied (\d+) calls", said, re.MULTILINE)
        assert denied and int(denied[1]) > 0, f"{calls} was never called: {said}"
        check_settled(vm)
    assert "cowflush" not in vm.run("cat /proc/mounts").ok().text.replace(
        "/dev/mapper/cowflush-root", ""
    )
    assert memory(vm, "Shmem") - before < 1024
    vm.kill()
    vm.card.fsck()
    assert vm.card.read("/root/x") == b"2\n"


def test_nothing_to_do(boot: Lab) -> None:
    """On a read-only root: ext4 writes its superblock when it thaws, so a writable one always has a little."""
    vm = boot()
    vm.run("mount -o remount,ro / && cowflush flush", timeout=60).ok()
    assert vm.run("cowflush flush").ok().text == "nothing to flush: the card is up to date\n"
    assert vm.run("cowflush start").ok().text == "started already: writes stay in RAM\n"
    vm.run("cowflush stop").ok()
    assert vm.run("cowflush stop").ok().text == "stopped already: writes go to the card\n"


@pytest.mark.kernels(*artefacts.EVERYWHERE)
def test_a_small_cow_is_filled_slowly(boot: Lab) -> None:
    """The kernel is told so while writes are deferred, and only then."""

    def threshold() -> int:
        return int(
            vm.run("cat /sys/module/dm_snapshot/parameters/snapshot_cow_threshold").ok().text
        )

    vm = boot(append="cowflush.size=16M")
    assert threshold() == 4
    vm.run("dd if=/dev/zero of=/root/big bs=64k count=100 2>/dev/null; cowflush flush").ok()
    assert threshold() == 4
    vm.run("cowflush stop").ok()
    assert threshold() == 2048
    vm.run("cowflush start").ok()
    assert threshold() == 4
    vm.kill()
    vm = boot(append="cowflush.size=65M")
    assert threshold() == 2048
