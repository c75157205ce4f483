"""Commands and the daemon flush while a writer is at full speed."""

from __future__ import annotations

import pytest

import daemon.test_daemon_memory as flooding
from harness.lab import Lab
from product import daemon

BY_HAND = """
while :; do
    cowflush flush; code=$?
    [ $code = 0 ] || [ $code = 4 ] || exit $code
    usleep 100000
done
"""


@pytest.mark.thorough
@pytest.mark.parametrize("memory", [256, 128, 64])
def test_others_flush_while_a_writer_is_at_full_speed(boot: Lab, memory: int) -> None:
    """Flushes by hand and urgent ones during a flood: a COW that fills up must not shut others out.

    A flush that first writes out the page cache has no watch of the daemon's. Which flush comes
    first is a matter of chance, so the test sees each kind alone before the flood, and then some of
    them during it.
    """
    vm = boot(memory=memory)
    daemon.start(
        vm,
        "interval=off\nurgent=/etc\nurgent-delay=100ms\nurgent-pause=off\nmerge-on=none\nsize=16M\n",
        log=True,
    )
    change = vm.start("while :; do date >/etc/changed || exit; usleep 300000; done")
    daemon.wait_for(vm, "flushed (urgent)")
    by_hand = vm.start(BY_HAND)
    daemon.wait_flushes(vm, 1, "flush")
    flooding.write(
        boot,
        vm,
        log=True,
        others=(change, by_hand),
        meanwhile=lambda: daemon.wait_flushes(vm, 2, "flush|urgent", timeout=240),
    )
