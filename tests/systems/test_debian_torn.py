"""A root with a torn superblock: Debian's initramfs waits for its UUID, cowflush finds it."""

from __future__ import annotations

import dataclasses
from random import Random

import pytest

from harness.lab import Lab
from harness.machine import VM
from harness.sparse import SECTOR
from product import flushlog
from systems import debian
from systems.test_debian import flush_and_cut, on_the_stack


@pytest.mark.systems
@pytest.mark.parametrize("init", ["systemd", "dracut"])
def test_a_root_that_only_the_flush_log_knows_boots(boot: Lab, init: str) -> None:
    """The power failed while a merge wrote the superblock's chunk.

    GRUB can't read such a root, so the kernel and its initramfs come from elsewhere, as from a
    /boot of its own.
    """
    vm = debian.running(boot, init)
    words = vm.run("cat /proc/cmdline").ok().text.split()
    kernel = vm.run("uname -r").ok().text.strip()
    flush_and_cut(vm)

    root = flushlog.recovered(vm.card)
    files = {}
    for name in ("vmlinuz", "initrd.img"):
        files[name] = boot.directory / name
        files[name].write_bytes(root.read(f"/boot/{name}-{kernel}"))
    with open(vm.card.path, "r+b") as image:
        image.seek(vm.card.root.start * SECTOR)
        image.write(Random(10).randbytes(flushlog.CHUNK))
    machine = dataclasses.replace(
        debian.machine(vm.card, debian.arch(init)),
        kernel=files["vmlinuz"],
        initramfs=files["initrd.img"],
        append=" ".join(word for word in words if not word.startswith("BOOT_IMAGE=")),
    )
    card = vm.card
    vm = boot.add(lambda directory: VM(machine, card, directory, total=debian.TOTAL), wait=True)
    debian.settled(vm, init)
    assert f"root=UUID={debian.UUID} is sda1 as its flush log has it" in vm.console
    on_the_stack(vm)
    assert vm.run("cat /root/kept").ok().text == "kept\n"
    debian.flush(vm, merge=True)
    debian.shut_down(vm, init)
    card.fsck()
    assert card.read("/root/kept") == b"kept\n"
