"""The COW never overflows and memory never runs out, whoever writes or takes memory however fast."""

from __future__ import annotations

import pytest
from vm import artefacts, daemon, flood, workload
from vm.job import Job
from vm.lab import Lab
from vm.machine import VM

COW_MIB = 16
# Twice the COW: what is written again and again can't stay in it.
PLACES = 2 * COW_MIB * 16
ENOUGH = 2 * PLACES + 1


def write(boot: Lab, vm: VM, log: bool, seconds: int, others: tuple[Job, ...] = ()) -> None:
    """Floods root, cuts the power in the middle and at the end, and looks for each block from outside.

    What `others` do goes on meanwhile."""
    job = vm.start(
        f"guest-tools flood {flood.FILE} --places {PLACES} --seconds {seconds} --at-least {ENOUGH}"
    )
    daemon.wait_for(vm, "flushed (high)", timeout=60)
    durable, flushes = (
        flood.written(vm),
        daemon.wait_for(vm, "flushed (high)").count("flushed (high)"),
    )
    # The first one after may have begun before.
    daemon.wait_for(vm, "flushed (high)", flushes + 2, timeout=120)
    if log:
        image = daemon.root_of(vm.cut_copy(boot.directory / "cut.img"), log)
        flood.check(image.read(flood.FILE), PLACES, durable)
    blocks = int(job.wait(timeout=seconds + 180).ok().text.split()[-1])
    for other in others:
        assert other.running(), other.wait().text
        other.kill()
    daemon.no_trouble(vm)
    daemon.flush(vm)
    vm.kill()
    assert flood.check(daemon.root_of(vm.card, log).read(flood.FILE), PLACES, blocks) == blocks


def start(boot: Lab, memory: int, log: bool) -> VM:
    vm = boot(memory=memory)
    daemon.start(vm, f"{daemon.QUIET}size={COW_MIB}M\n", log)
    return vm


@pytest.mark.parametrize("memory", [256, 128])
def test_a_writer_at_full_speed_for_a_minute(boot: Lab, memory: int) -> None:
    """With a log that is merged again and again."""
    write(boot, start(boot, memory, log=True), log=True, seconds=60)


@pytest.mark.kernels("6.1", "6.12")
def test_a_writer_at_full_speed_for_a_minute_with_the_least_memory(boot: Lab) -> None:
    write(boot, start(boot, 64, log=True), log=True, seconds=60)


@pytest.mark.kernels(*artefacts.ELSEWHERE)
def test_a_writer_at_full_speed_for_some_seconds(boot: Lab) -> None:
    write(boot, start(boot, 128, log=True), log=True, seconds=20)


@pytest.mark.parametrize("memory", [256, 128, 64])
def test_a_writer_at_full_speed_without_a_log(boot: Lab, memory: int) -> None:
    write(boot, start(boot, memory, log=False), log=False, seconds=12)


# The guest's memory and what hogs leave of it to others, in MiB: enough for the reserve behind a COW, and not.
LEFT = [(256, 24), (128, 20), (64, 20), (256, 18), (128, 9), (64, 9)]


@pytest.mark.parametrize(("memory", "left"), LEFT)
def test_memory_hogs_while_flushing(boot: Lab, memory: int, left: int) -> None:
    vm = start(boot, memory, log=True)
    workload.Writer(vm)
    vm.start(f"guest-tools hog --leave {left} --seconds 25")
    write(boot, vm, log=True, seconds=20)
