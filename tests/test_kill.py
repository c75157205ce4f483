"""SIGKILL at any point of a command: root lives on, and the next command puts all in order."""

from __future__ import annotations

import pytest
from vm import Throttle, artefacts, workload
from vm.lab import Lab
from vm.machine import VM
from vm.router import MERGING, check_settled, status, wait_status
from vm.sweep import KILLED, sweep

# DM_DEV_SUSPEND suspends and resumes; a flush's first three suspend root, hand its changes over
# and resume root. Each has two stops, before and after.
DM_DEV_SUSPEND = "C138FD06"
WINDOW = range(1, 7)
# A COW of 8 MiB could be full before the new tables are loaded: root's filesystem is frozen first.
TIGHT = "cowflush.size=8M"
FIFREEZE, FITHAW = "C0045877", "C0045878"
# Seconds in which a write ends if it ends at all
PATIENCE = 20
SIZES = pytest.mark.parametrize("append", ["", TIGHT], ids=["roomy", "tight"])


@pytest.mark.parametrize("half", [1, 2])
def test_flush_killed_anywhere(boot: Lab, half: int) -> None:
    assert sweep(boot(), "cowflush flush", half, 2) > 100


@pytest.mark.kernels("6.12", *artefacts.ELSEWHERE)
def test_flush_killed_here_and_there(boot: Lab) -> None:
    assert sweep(boot(), "cowflush flush", 3, 11) > 20


@pytest.mark.kernels("6.1", "6.12")
def test_a_flush_that_freezes_first_killed_here_and_there(boot: Lab) -> None:
    assert sweep(boot(append=TIGHT), "cowflush flush", 2, 7) > 20


@pytest.mark.kernels("6.1", "6.12")
@pytest.mark.parametrize(
    ("command", "prepare", "step"), [("stop", "start", 11), ("start", "stop", 4)]
)
def test_stop_and_start_killed_here_and_there(
    boot: Lab, command: str, prepare: str, step: int
) -> None:
    assert sweep(boot(), f"cowflush {command}", 3, step, f"cowflush {prepare}") > 20


def take_write(vm: VM, seconds: int) -> bool:
    """Whether a write to root and a sync end in time."""
    write = "{ date >/root/probe && sync && : >/run/probed; } >/dev/null 2>&1 &"
    wait = f"timeout {seconds} sh -c 'until [ -e /run/probed ]; do usleep 20000; done'"
    return vm.run(f"rm -f /run/probed\n{write}\n{wait}").code == 0


def prepared(boot: Lab, append: str) -> VM:
    """A router with a file to flush, and a copy of the binary that root's suspension can't reach."""
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


def stops(append: str) -> list[tuple[str, int]]:
    """Where to kill: an ioctl, and before (odd) or after (even) which of its calls."""
    frozen = [(FIFREEZE, 1), (FIFREEZE, 2), (FITHAW, 1), (FITHAW, 2)] if append == TIGHT else []
    return frozen + [(DM_DEV_SUSPEND, stop) for stop in WINDOW]


@SIZES
@pytest.mark.kernels(*artefacts.EVERYWHERE)
def test_the_guard_wakes_root(boot: Lab, append: str) -> None:
    """Nobody but the guard can: no other command runs until root has taken a write."""
    vm = prepared(boot, append)
    for ioctl, stop in stops(append):
        vm.run(
            f"echo {stop} >>/root/f1; guest-tools killat --ioctl {ioctl} {stop} cowflush flush"
        ).exits(KILLED)
        assert take_write(vm, PATIENCE), stop
        vm.run("cowflush flush").ok()
    check_flushed(vm)


@pytest.mark.kernels("6.1", "6.12")
def test_without_its_guard_root_stays_frozen_until_the_next_command(boot: Lab) -> None:
    vm = prepared(boot, TIGHT)
    for ioctl, stop in [(FIFREEZE, 2), (FITHAW, 1)]:
        vm.run(
            f"echo {stop} >>/root/f1; guest-tools killat --family --ioctl {ioctl} {stop} cowflush flush"
        ).exits(KILLED)
        assert not take_write(vm, 1), (ioctl, stop)
        vm.run("/run/rescue flush", timeout=30).ok()
        assert take_write(vm, PATIENCE), (ioctl, stop)
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
        # A tmpfs is where a person would have to start it from.
        vm.run("/run/rescue flush", timeout=30).ok()
        assert take_write(vm, PATIENCE), stop
    vm.run("cowflush flush").ok()
    check_flushed(vm)


@pytest.mark.kernels("6.1", "6.12")
@pytest.mark.parametrize("command", ["flush", "stop"])
def test_killed_while_the_card_is_slow(boot: Lab, command: str) -> None:
    """The kernel goes on merging by itself, and the next command waits for it."""
    vm = boot(throttle=Throttle())
    writer = workload.Writer(vm)
    before = writer.wait_rounds(5)
    vm.run("dd if=/dev/urandom of=/root/big bs=64k count=64 2>&1; sync").ok()
    vm.throttle(Throttle(bytes_per_second=250_000))
    job = vm.start(f"cowflush {command}")
    wait_status(vm, MERGING)
    job.kill("KILL")
    assert job.wait().code == KILLED
    left = status(vm)["sealed"]
    assert left > 0
    assert writer.wait_rounds(2) > before
    vm.run("sleep 1")
    assert 0 < status(vm)["sealed"] < left
    vm.throttle(Throttle())
    vm.run("cowflush flush", timeout=60).ok()
    writer.stop()
    check_settled(vm)
    vm.kill()
    workload.check(vm.card, before)
