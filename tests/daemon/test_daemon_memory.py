"""The COW never overflows and memory never runs out, however fast programs write or take memory."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from harness import artefacts
from harness.job import Job
from harness.lab import Lab
from harness.machine import VM
from product import daemon, flood, workload

COW_MIB = 16
# Twice the COW, so what is rewritten again and again can't all stay in it.
PLACES = 2 * COW_MIB * 16
ENOUGH = 2 * PLACES + 1
# A writer that is not stopped ends by itself, in seconds.
LIMIT = 1800


def nothing() -> None:
    pass


def write(
    boot: Lab,
    vm: VM,
    log: bool,
    *,
    merges: int = 1,
    flushes: int = 0,
    writer: workload.Writer | None = None,
    others: tuple[Job, ...] = (),
    meanwhile: Callable[[], None] = nothing,
) -> None:
    """Floods root, cuts the power during it and at its end, and checks each block from outside.

    The flood lasts until each place was written twice, this many flushes merged something and this
    many more flushes came, and `meanwhile` returns. `writer` and `others` run beside it, and
    `writer`'s files are checked as well.
    """
    job = vm.start(f"guest-tools flood {flood.FILE} --places {PLACES} --seconds {LIMIT}")
    daemon.wait_flushes(vm, 1)
    durable, rounds = flood.written(vm), writer.rounds() if writer else 0
    daemon.wait_flushes(vm, 2, timeout=120)
    if log:
        image = daemon.root_of(vm.cut_copy(boot.directory / "cut.img"), log)
        flood.check(image.read(flood.FILE), PLACES, durable)
        if writer:
            workload.check(image, rounds)
    daemon.wait_merges(vm, merges, timeout=240)
    daemon.wait_flushes(vm, flushes, timeout=240)
    meanwhile()
    vm.until(f"[ $(cat {flood.NOTE}) -ge {ENOUGH} ]", timeout=240)
    vm.run(f": >{flood.STOP}").ok()
    blocks = int(job.wait(timeout=60).ok().text.split()[-1])
    for other in others:
        assert other.running(), f"{other.command} ended by itself: {other.wait().text}"
        other.kill()
    if writer:
        writer.stop()
        assert writer.rounds() > rounds, "the writer stood still"
        rounds = writer.rounds()
    daemon.no_trouble(vm)
    daemon.flush(vm)
    vm.kill()
    image = daemon.root_of(vm.card, log)
    assert flood.check(image.read(flood.FILE), PLACES, blocks) == blocks
    if writer:
        workload.check(image, rounds)


def start(boot: Lab, memory: int, log: bool) -> VM:
    vm = boot(memory=memory)
    daemon.start(vm, f"{daemon.QUIET}size={COW_MIB}M\n", log)
    return vm


def flood_alone(boot: Lab, memory: int, log: bool, merges: int, flushes: int = 0) -> None:
    """No command flushes: the daemon does, since the COW fills up."""
    vm = start(boot, memory, log)
    write(boot, vm, log, merges=merges, flushes=flushes)


def test_a_writer_at_full_speed_with_the_least_memory(boot: Lab) -> None:
    """The log is merged once."""
    flood_alone(boot, 64, log=True, merges=1)


@pytest.mark.systems
@pytest.mark.kernels("6.1", "6.12")
@pytest.mark.parametrize("memory", [256, 128, 64])
def test_a_writer_at_full_speed_for_long(boot: Lab, memory: int) -> None:
    """The log is merged again and again."""
    flood_alone(boot, memory, log=True, merges=6)


@pytest.mark.systems
@pytest.mark.kernels(*artefacts.ELSEWHERE)
def test_a_writer_at_full_speed_elsewhere(boot: Lab) -> None:
    flood_alone(boot, 128, log=True, merges=2)


@pytest.mark.thorough
@pytest.mark.parametrize("memory", [256, 128, 64])
def test_a_writer_at_full_speed_without_a_log(boot: Lab, memory: int) -> None:
    flood_alone(boot, memory, log=False, merges=2, flushes=4)


# The guest's memory, and what hogs leave of it, in MiB: enough for the reserve behind a COW, and
# less.
LEFT = [
    pytest.param(128, 9),
    *(
        pytest.param(memory, left, marks=pytest.mark.thorough)
        for memory, left in [(256, 24), (128, 20), (64, 20), (256, 18), (64, 9)]
    ),
]


@pytest.mark.parametrize(("memory", "left"), LEFT)
def test_memory_hogs_while_flushing(boot: Lab, memory: int, left: int) -> None:
    vm = start(boot, memory, log=True)
    writer = workload.Writer(vm)
    hog = vm.start(f"guest-tools hog --leave {left} --seconds {LIMIT}")

    def hog_was_at_work() -> None:
        """Waits until the hog has twice taken all but what it leaves to others, and freed it."""
        while len(held := re.findall(r"least_mib (\d+)", hog.output().decode())) < 2:
            assert hog.running(), f"the hog ended by itself: {hog.wait().text}"
            vm.run("sleep 0.2").ok()
        assert max(map(int, held)) <= left, f"it left more than {left} MiB: {held}"

    write(boot, vm, log=True, writer=writer, others=(hog,), meanwhile=hog_was_at_work)
