"""A flush log on another disk, which may appear after root: a new initramfs knows of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness.drive import Drive
from harness.lab import Lab
from harness.machine import VM
from harness.sparse import SECTOR
from systems import debian
from systems.debian import SLOW
from systems.test_debian import on_the_stack

MAKE_IT_ANEW = {"systemd": "update-initramfs -u", "dracut": "dracut --force"}


def boot_with(lab: Lab, vm: VM, init: str, *others: Path) -> VM:
    """Boots the same card, with these disks beside it."""
    card = vm.card
    machine = debian.machine(card, debian.arch(init))
    machine = dataclasses.replace(machine, drives=(*machine.drives, *map(Drive, others)))
    return lab.add(lambda directory: VM(machine, card, directory, total=debian.TOTAL), wait=True)


@pytest.mark.systems
@pytest.mark.parametrize("init", ["systemd", "dracut"])
def test_a_boot_without_the_disk_misses_its_flushes_and_makes_none(boot: Lab, init: str) -> None:
    vm = debian.running(boot, init)
    debian.flush(vm, merge=True)
    vm.kill()
    # Removes the card's own log.
    with open(vm.card.path, "r+b") as image:
        log = vm.card.partitions[1]
        image.seek(log.start * SECTOR)
        image.write(bytes(log.size * SECTOR))
    disk = boot.directory / "far.img"
    disk.write_bytes(bytes(64 << 20))

    vm = boot_with(boot, vm, init, disk)
    made = vm.run("cowflush log format /dev/sdb").ok().text
    assert "cowflush.log=UUID=" in made
    vm.run(MAKE_IT_ANEW[init], timeout=2 * SLOW).ok()
    # The boot loader reads the plain card.
    debian.flush(vm, merge=True)
    vm.run("echo kept >/root/kept").ok()
    debian.flush(vm)
    vm.kill()

    vm = boot_with(boot, vm, init)
    debian.settled(vm, init)
    assert "cannot use the flush log cowflush.log=UUID=" in vm.run("dmesg").ok().text
    vm.run("[ ! -e /root/kept ]").ok()
    refused = vm.run("echo later >/root/later; cowflush flush", timeout=SLOW).exits(1).text
    assert "the owner's word about the flush log is waited for" in refused
    vm.kill()

    vm = boot_with(boot, vm, init, disk)
    debian.settled(vm, init)
    on_the_stack(vm)
    assert vm.run("cat /root/kept; [ ! -e /root/later ]").ok().text == "kept\n"
