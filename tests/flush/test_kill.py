"""SIGKILL at any point of a command: root lives on, and the next command restores order."""

from __future__ import annotations

import pytest

from harness import Throttle, artefacts
from harness.lab import Lab
from harness.machine import VM
from product import workload
from product.router import LIMITS, MERGING, check_settled, status, wait_status
from product.sweep import KILLED, sweep

# DM_DEV_SUSPEND suspends and resumes; a flush's first three suspend root, hand its changes over and
# resume root. Each has two stops, before and after.
DM_DEV_SUSPEND = "C138FD06"
WINDOW = range(1, 7)
# A COW of 8 MiB could be full before the new tables are loaded, so root's filesystem is frozen
# first.
TIGHT = "cowflush.size=8M"
# Exists while a command's own freeze may be in force
NOTE = "/run/cowflush/frozen"
FAILED, BUSY = 1, 4
# A write ends within this many seconds if it ends at all.
PATIENCE = 20
# A merge of some MiB is still under way when the process that waits for it has done its part. Not a
# limit of bytes: once lifted, the waiting request would still have to wait for its own time.
SLOW = Throttle(iops=8)


@pytest.mark.parametrize(
    ("first", "step", "least"),
    [
        (3, 11, 20),
        # All stops, in two halves, for two workers.
        pytest.param(1, 2, 100, marks=pytest.mark.thorough),
        pytest.param(2, 2, 100, marks=pytest.mark.thorough),
    ],
    ids=["here-and-there", "odd", "even"],
)
def test_flush_killed_anywhere(boot: Lab, first: int, step: int, least: int) -> None:
    assert sweep(boot(), "cowflush flush", first, step) > least


@pytest.mark.kernels("6.12", *artefacts.ELSEWHERE)
def test_flush_killed_here_and_there(boot: Lab) -> None:
    assert sweep(boot(), "cowflush flush", 3, 11) > 20


# The stops depend on the command, so one kernel will do.
@pytest.mark.thorough
def test_a_flush_that_freezes_first_killed_here_and_there(boot: Lab) -> None:
    assert sweep(boot(append=TIGHT), "cowflush flush", 2, 7) > 20


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("command", "before", "step"), [("stop", "start", 11), ("start", "stop", 4)]
)
def test_stop_and_start_killed_here_and_there(
    boot: Lab, command: str, before: str, step: int
) -> None:
    kills = sweep(boot(), f"cowflush {command}", 3, step, before=f"cowflush {before}")
    assert kills > 20


def take_write(vm: VM, seconds: int) -> bool:
    """Whether a write to root and a sync end in time."""
    write = "{ date >/root/probe && sync && : >/run/probed; } >/dev/null 2>&1 &"
    wait = f"timeout {seconds} sh -c 'until [ -e /run/probed ]; do usleep 20000; done'"
    return vm.run(f"rm -f /run/probed\n{write}\n{wait}").code == 0


def prepared(boot: Lab, append: str) -> VM:
    """A router with a file to flush, and a copy of the program outside root's suspension."""
    vm = boot(append=append)
    vm.run(
        "cp /usr/sbin/cowflush /run/rescue; for i in 1 2 3; do seq $i 3000 >/root/f$i; done; sync"
    ).ok()
    return vm


def check_flushed(vm: VM) -> None:
    check_settled(vm)
    hashes = {
        name: vm.run(f"sha256sum {name}").ok().text.split()[0]
        for name in ("/root/f1", "/root/f2", "/root/f3")
    }
    vm.kill()
    vm.card.fsck()
    found = vm.card.hashes("/root")
    assert {name: found[name] for name in hashes} == hashes


def kills(vm: VM, append: str) -> list[str]:
    """Where to kill the command: before (odd) and after (even) each call of the window.

    And where the guard is about to freeze or thaw for it.
    """
    frozen = [f"inject --rule {call}=ORPHAN" for call in ("freeze", "thaw") if append == TIGHT]
    # Before them cowflush resumes the device under the fresh COW, if there is one.
    more = 2 if vm.run(LIMITS).code == 0 else 0
    return frozen + [
        f"killat --ioctl {DM_DEV_SUSPEND} {stop}" for stop in range(1, WINDOW.stop + more)
    ]


def wake(boot: Lab, append: str) -> None:
    """Only the guard can resume root: no other command runs until root has taken a write."""
    vm = prepared(boot, append)
    for kill in kills(vm, append):
        vm.run(f"echo {kill} >>/root/f1; guest-tools {kill} cowflush flush").exits(KILLED)
        assert take_write(vm, PATIENCE), kill
        vm.run(f"[ ! -e {NOTE} ]").ok()
        vm.run("cowflush flush").ok()
    check_flushed(vm)


@pytest.mark.kernels(*artefacts.EVERYWHERE)
def test_the_guard_wakes_root(boot: Lab) -> None:
    wake(boot, "")


@pytest.mark.thorough
@pytest.mark.kernels("6.1", "6.12")
def test_the_guard_wakes_a_root_that_was_frozen_first(boot: Lab) -> None:
    wake(boot, TIGHT)


@pytest.mark.thorough
@pytest.mark.kernels("6.1", "6.12")
def test_without_its_guard_root_stays_frozen_until_the_next_command(boot: Lab) -> None:
    vm = prepared(boot, TIGHT)
    # Root is frozen, or about to be, and the guard of a killed command finishes that.
    for call, frozen in (("thaw", True), ("freeze", False)):
        vm.run(
            f"echo {call} >>/root/f1; guest-tools inject --rule {call}=BOTH cowflush flush"
        ).exits(KILLED)
        assert take_write(vm, 1 if frozen else PATIENCE) is not frozen, call
        vm.run(f"[ -e {NOTE} ] && /run/rescue flush", timeout=30).ok()
        assert take_write(vm, PATIENCE), call
    # Only its guard is killed: the command begins nothing, and root goes on.
    vm.run("echo alone >>/root/f1; sync").ok()
    for call, code in (("freeze", FAILED), ("thaw", 0)):
        done = vm.run(f"guest-tools inject --rule {call}#1=KILL cowflush flush").exits(code)
        assert ("it ended before it was ready" in done.text) is (code == FAILED), done.text
        assert take_write(vm, PATIENCE), call
        vm.run(f"[ ! -e {NOTE} ]").ok()
    vm.run("cowflush flush").ok()
    check_flushed(vm)


@pytest.mark.kernels("6.1", "6.12")
def test_who_is_killed_beside_the_freeze_of_another_program_leaves_that_alone(boot: Lab) -> None:
    vm = prepared(boot, TIGHT)
    # A thaw of what is not frozen fails.
    freeze, thaw = "fsfreeze --freeze /", "fsfreeze --unfreeze /"
    vm.run(freeze).ok()
    # The guard learns of the other freeze after the command is gone.
    vm.run("guest-tools inject --rule freeze=ORPHAN /run/rescue flush").exits(KILLED)
    vm.until("! pidof cowflush-guard")
    vm.run(f"[ ! -e {NOTE} ] && {thaw}").ok()
    # The guard has thawed what it froze for a killed command; another program's later freeze is not
    # its own.
    for call in ("freeze", "thaw"):
        vm.run(f"guest-tools inject --rule {call}=ORPHAN /run/rescue flush").exits(KILLED)
        vm.until("! pidof cowflush-guard")
        vm.run(freeze).ok()
        # This flush settles what the killed one has left, and seals nothing.
        said = vm.run("/run/rescue flush", timeout=60).exits(BUSY).text
        assert "frozen by another program" in said
        vm.run(thaw).ok()
        vm.run("echo more >>/root/f1; sync").ok()
    vm.run("cowflush flush").ok()
    check_flushed(vm)


@pytest.mark.kernels("6.1", "6.12")
def test_without_its_guard_root_sleeps_until_the_next_command(boot: Lab) -> None:
    vm = prepared(boot, "")
    for stop in WINDOW:
        vm.run(f"guest-tools killat --family --ioctl {DM_DEV_SUSPEND} {stop} cowflush flush").exits(
            KILLED
        )
        asleep = stop not in (WINDOW[0], WINDOW[-1])
        assert (status(vm)["phase"] == "suspended") is asleep, stop
        assert take_write(vm, 1 if asleep else PATIENCE) is not asleep, stop
        # A person would have to start it from a tmpfs, too.
        vm.run("/run/rescue flush", timeout=30).ok()
        assert take_write(vm, PATIENCE), stop
    vm.run("cowflush flush").ok()
    check_flushed(vm)


@pytest.mark.thorough
def test_what_a_killed_flush_left_to_the_throttle_is_waited_for(boot: Lab) -> None:
    """The throttle worker may suspend and resume root, so no command may be in a window meanwhile.
    It ends at once, unless it is stopped."""
    vm = boot(throttle=Throttle())
    vm.run("dd if=/dev/urandom of=/root/big bs=64k count=64 2>&1; sync").ok()
    vm.throttle(SLOW)
    job = vm.start("cowflush flush")
    wait_status(vm, MERGING)
    pid = status(vm)["busy_pid"]
    helper = vm.run(f"pgrep -P {pid}").ok().text.strip()
    vm.run(f"kill -STOP {helper} && kill -9 {pid}").ok()
    assert job.wait().code == KILLED
    vm.throttle(Throttle())
    vm.run(f"cowflush flush && ! [ -e /proc/{helper} ]", timeout=60).ok()
    check_settled(vm)


@pytest.mark.kernels("6.1", "6.12")
def test_killed_while_the_card_is_slow(boot: Lab) -> None:
    """The kernel goes on merging by itself, and the next command waits for it."""
    vm = boot(throttle=Throttle())
    writer = workload.Writer(vm)
    before = writer.wait_rounds(5)
    for command in ("flush", "stop"):
        vm.run("dd if=/dev/urandom of=/root/big bs=64k count=64 2>&1; sync").ok()
        vm.throttle(SLOW)
        job = vm.start(f"cowflush {command}")
        wait_status(vm, MERGING)
        job.kill("KILL")
        assert job.wait().code == KILLED
        left = status(vm)["sealed"]
        assert left > 0
        before = max(before, writer.wait_rounds(2))
        vm.until(f"! cowflush status --json | grep -q '\"sealed\":{left},'")
        assert 0 < status(vm)["sealed"] < left
        vm.throttle(Throttle())
        vm.run("cowflush flush", timeout=60).ok()
        check_settled(vm)
    writer.stop()
    vm.run("cowflush flush").ok()
    before = writer.rounds()
    vm.kill()
    workload.check(vm.card, before)
