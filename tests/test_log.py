"""The flush log: flushes that a power cut can't tear, merges, and what is wrong with a log."""

from __future__ import annotations

import json

import pytest
from vm import artefacts
from vm.lab import Lab
from vm.machine import VM

ALL = pytest.mark.kernels(*artefacts.EVERYWHERE)


def logged(boot: Lab) -> VM:
    """A guest whose card has a log, in use."""
    vm = boot()
    vm.run("cowflush log format /dev/sda2").ok()
    return vm


def log(vm: VM) -> dict:
    return json.loads(vm.run("cowflush log --json").ok().output)


def test_the_log_may_be_the_last_thing_on_the_card(boot: Lab) -> None:
    """Its second header then ends the disk, too; the disk is no log for that."""
    to_the_end = "label: dos\nlabel-id: 0xc0f1a586\n1: start=8192, size=245760, type=83\n2: start=253952, size=270336, type=da\n"
    vm = boot(boot.card(partitions=to_the_end))
    vm.run("cowflush log format /dev/sda2 && echo kept >/root/kept && cowflush flush").ok()
    vm.kill()
    again = boot(vm.card)
    assert "the flush log on sda2 holds 1 flushes" in again.console
    assert again.get("/root/kept") == b"kept\n"


@ALL
def test_a_flush_goes_to_the_log_and_is_there_after_a_power_cut(boot: Lab) -> None:
    vm = logged(boot)
    plain = vm.card.copy(boot.directory / "plain.img")
    for number in range(3):
        vm.run(f"echo {number} >/root/x{number}; echo {number} >/root/same").ok()
        assert "to the log on sda2" in vm.run("cowflush flush").ok().text
    assert len(log(vm)["segments"]) == 3
    vm.run("echo later >/root/later; sync").ok()
    vm.kill()
    root = vm.card.root.sectors
    assert not [sector for sector in vm.card.differing_sectors(plain) if sector in root]
    again = boot(vm.card)
    assert again.run("cat /root/x0 /root/x1 /root/x2 /root/same").ok().text.split() == [
        "0",
        "1",
        "2",
        "2",
    ]
    again.run("ls /root/later").fails()
    assert len(log(again)["segments"]) == 3
    assert "merged" in again.run("cowflush merge").ok().text
    assert not log(again)["segments"]
    again.kill()
    again.card.fsck()
    assert again.card.read("/root/same") == b"2\n"
