"""The flush log: a flush is whole after a power cut, and a merge leaves a plain card."""

from __future__ import annotations

import pytest

from harness import artefacts
from harness.lab import Lab
from product import logged

ALL = pytest.mark.kernels(*artefacts.EVERYWHERE)


@pytest.mark.thorough
def test_the_log_may_be_the_last_thing_on_the_card(boot: Lab) -> None:
    """The log's second header then ends the disk, too; that doesn't make the disk a log."""
    to_the_end = "label: dos\nlabel-id: 0xc0f1a586\n1: start=8192, size=245760, type=83\n2: start=253952, size=270336, type=da\n"
    card = logged.made(boot.card(partitions=to_the_end), 1)
    assert card.log.sectors.stop * 512 == card.path.stat().st_size
    vm = boot(card)
    assert "the flush log on sda2 holds 1 flushes" in vm.console
    logged.check_state(vm, 1)
    assert "to the log on sda2" in logged.flush(vm, 2)
    vm.kill()
    logged.check_card(card, 2)


@ALL
def test_a_flush_goes_to_the_log_and_is_there_after_a_power_cut(boot: Lab) -> None:
    vm = logged.start(boot)
    plain = vm.card.copy(boot.directory / "plain.img")
    for number in (1, 2, 3):
        assert "to the log on sda2" in logged.flush(vm, number)
    assert len(logged.report(vm)["segments"]) == 3
    vm.run("echo later >/root/later; sync").ok()
    vm.kill()
    root = vm.card.root.sectors
    assert not [sector for sector in vm.card.differing_sectors(plain) if sector in root]
    logged.check_card(vm.card, 3)
    again = boot(vm.card)
    logged.check_state(again, 3)
    again.run("ls /root/later").exits(1)
    assert len(logged.report(again)["segments"]) == 3
    assert "merged" in again.run("cowflush merge").ok().text
    assert not logged.report(again)["segments"]
    again.kill()
    # Without the log's help
    logged.check_root(again.card.fs(), 3)
