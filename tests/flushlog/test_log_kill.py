"""SIGKILL and power cuts at any point of a command that uses the flush log."""

from __future__ import annotations

import filecmp
import os

import pytest

from harness.card import Card
from harness.lab import Lab
from harness.machine import VM
from product import flushlog, logged, workload
from product.router import LOGGED, check_settled
from product.sweep import KILLED, in_log, sweep

DM_DEV_REMOVE, DM_DEV_SUSPEND, DM_TABLE_LOAD = "C138FD04", "C138FD06", "C138FD09"


def step(usual: int) -> int:
    """One kill in so many, to save time; COWFLUSH_KILLS=all kills at each stop (20 minutes)."""
    return 1 if os.environ.get("COWFLUSH_KILLS") == "all" else usual


# What a merge must find in the log is flushed after it is written; what a stop must find in RAM is
# written after a start.
@pytest.mark.thorough
@pytest.mark.parametrize(
    ("command", "before", "prepare", "usual"),
    [
        ("flush", "true", "true", 13),
        ("merge", "true", "cowflush flush", 19),
        ("stop", "cowflush start", "true", 61),
    ],
)
def test_killed_anywhere(boot: Lab, command: str, before: str, prepare: str, usual: int) -> None:
    kills = sweep(
        logged.start(boot),
        f"cowflush {command}",
        1,
        step(usual),
        prepare=prepare,
        before=before,
        log=True,
        look=in_log,
    )
    assert kills > 15


# It depends on device-mapper as much as on cowflush, so on both kernels.
@pytest.mark.kernels("6.1", "6.12")
@pytest.mark.parametrize(
    ("command", "prepare"),
    [
        ("flush", "true"),
        pytest.param("merge", "cowflush flush", marks=pytest.mark.thorough),
        pytest.param("stop", "true", marks=pytest.mark.thorough),
    ],
)
def test_killed_at_every_table_that_is_loaded(boot: Lab, command: str, prepare: str) -> None:
    """Loading, swapping and clearing tables leaves half-made states: each such call is a stop."""
    vm = logged.start(boot)
    for call in (DM_DEV_SUSPEND, DM_TABLE_LOAD, DM_DEV_REMOVE):
        stop, code = 0, KILLED
        while code == KILLED:
            stop += 1
            vm.run(f"echo {call} {stop} >/root/x && {prepare}").ok()
            code = vm.run(
                f"guest-tools killat --ioctl {call} {stop} cowflush {command}", timeout=60
            ).code
            assert code in (0, KILLED), (call, stop)
            # A stop may have finished.
            vm.run(f"cowflush start && echo {stop} >/root/y && cowflush flush").ok()
            check_settled(vm, log=LOGGED)
        assert stop > 4
    vm.kill()
    assert flushlog.recovered(vm.card).read("/root/x") == f"{call} {stop}\n".encode()


def judge(boot: Lab, card: Card, rounds: int, started: bool) -> None:
    """Judges a card after a power cut: it has the state of the last finished flush, or the next.

    The second reader and the program on the host look; and a boot every now and then.
    """
    root, log = logged.images(card)
    export = boot.directory / "export.img"
    done = logged.host("recover", root, log, "--export", export)
    assert done.returncode == 0, done.stderr
    recovered = flushlog.recovered(card)
    assert filecmp.cmp(export, recovered.path, shallow=False)
    export.unlink()
    recovered.replay_journal()
    assert workload.check(recovered, rounds) <= rounds + 1
    if started:
        vm = boot(card)
        assert workload.check_in_guest(vm, rounds) <= rounds + 1
        vm.kill()


# In a later flush the log has a layer of its own, which the new one replaces. The card's content at
# a stop depends on the command, so one kernel will do.
@pytest.mark.parametrize(
    ("command", "before", "prepare", "usual"),
    [
        ("flush", "true", "true", 83),
        pytest.param("merge", "true", "cowflush flush", 127, marks=pytest.mark.thorough),
        pytest.param("stop", "cowflush start", "true", 257, marks=pytest.mark.thorough),
    ],
    ids=["flush", "merge", "stop"],
)
def test_power_cut_where_it_is_killed(
    boot: Lab, command: str, before: str, prepare: str, usual: int
) -> None:
    """Copies the card at the very moment of the kill, before any other command can repair it."""
    vm: VM = logged.start(boot)
    vm.run(f"mkdir {workload.FOLDER}; cowflush flush").ok()
    stop, round_ = 1, 0
    while True:
        round_ += 1
        vm.run(
            f"{before} && seq {round_} {round_ + workload.LINES} >{workload.FOLDER}/{round_} && {prepare}"
        ).ok()
        killed = vm.run(f"guest-tools killat {stop} cowflush {command}", timeout=60)
        vm.pause()
        then = vm.card.copy(boot.directory / "then.img")
        vm.cont()
        # What a flush prepared had returned.
        returned = round_ if killed.code == 0 or command == "merge" else round_ - 1
        judge(boot, then, returned, started=round_ % 3 == 0)
        if killed.code == 0:
            break
        killed.exits(KILLED)
        vm.run("cowflush flush").ok()
        stop += step(usual)
    assert round_ > 3
    vm.run("cowflush start; echo x >/root/x; cowflush flush").ok()
    check_settled(vm, log=LOGGED)
