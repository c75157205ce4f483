"""cowflush as /init: root boots from the COW, and flushes reach the card."""

from __future__ import annotations

import json

import pytest
from vm import Filesystem, artefacts, workload
from vm.lab import Lab
from vm.machine import VM

BOTH = pytest.mark.kernels("6.1", "6.12")
ALL = pytest.mark.kernels(*artefacts.EVERYWHERE)


def status(vm: VM) -> dict[str, object]:
    report: dict[str, object] = json.loads(vm.run("cowflush status --json").ok().output)
    return report


@ALL
def test_boot_and_persist(boot: Lab) -> None:
    vm = boot()
    assert status(vm)["mode"] == "deferring"
    vm.run("echo hello >/root/x").ok()
    vm.run("cowflush flush").ok()
    vm.run("echo later >/root/y; sync").ok()
    vm.kill()
    vm.card.fsck()
    assert vm.card.read("/root/x") == b"hello\n"
    again = boot(vm.card)
    assert again.run("cat /root/x; ls /root/y").fails().text.startswith("hello\n")


@BOTH
def test_the_card_rests_until_a_flush(boot: Lab) -> None:
    card = boot.card()
    before = card.copy(boot.directory / "before.img")
    vm = boot(card)
    vm.run(
        "head -c 5000000 /dev/urandom >/root/big; sync; rm /root/big; echo 3 >/proc/sys/vm/drop_caches"
    ).ok()
    vm.run("dd if=/dev/zero of=/root/synced bs=4k count=100 conv=fsync 2>&1").ok()
    stats = vm.card_stats()
    assert (stats.wr_operations, stats.flush_operations) == (0, 0)
    vm.kill()
    assert card.differing_sectors(before) == []


@ALL
def test_flush_under_load(boot: Lab) -> None:
    vm = boot()
    writer = workload.Writer(vm)
    before = writer.wait_rounds(20)
    vm.run("cowflush flush", timeout=60).ok()
    assert writer.wait_rounds(5) > before
    writer.stop()
    vm.kill()
    workload.check(vm.card, before)


@BOTH
def test_ten_flushes_in_a_row(boot: Lab) -> None:
    vm = boot()
    writer = workload.Writer(vm)
    for _ in range(10):
        before = writer.wait_rounds(3)
        vm.run("cowflush flush", timeout=60).ok()
    writer.stop()
    vm.kill()
    workload.check(vm.card, before)


@ALL
def test_stop_and_start(boot: Lab) -> None:
    vm = boot()
    vm.run("echo before >/root/before").ok()
    vm.run("cowflush stop", timeout=60).ok()
    assert status(vm)["mode"] == "write-through"
    at_stop = vm.card_stats()
    vm.run("echo through >/root/through; sync").ok()
    assert (vm.card_stats() - at_stop).wr_operations > 0
    vm.run("cowflush start", timeout=60).ok()
    assert status(vm)["mode"] == "deferring"
    at_start = vm.card_stats()
    vm.run("echo after >/root/after; sync").ok()
    assert (vm.card_stats() - at_start).wr_operations == 0
    vm.kill()
    files = vm.card.fs(replay=True)
    files.fsck()
    assert sorted(files.hashes("/root")) == ["/root/before", "/root/through"]


def test_stop_then_power_off_leaves_a_clean_card(boot: Lab) -> None:
    vm = boot()
    vm.run("echo kept >/root/kept; cowflush stop && mount -o remount,ro /", timeout=60).ok()
    vm.poweroff()
    vm.card.fsck()
    assert vm.card.read("/root/kept") == b"kept\n"
    assert "needs_recovery" not in vm.card.fs().superblock()["Filesystem features"]


def test_a_read_only_boot_is_remounted_by_init(boot: Lab) -> None:
    vm = boot(rw=False)
    vm.run("echo x >/root/x").fails()
    vm.run("mount -o remount,rw / && echo x >/root/x && cowflush flush", timeout=60).ok()
    vm.kill()
    vm.card.fsck()
    assert vm.card.read("/root/x") == b"x\n"


@pytest.mark.parametrize("root", ["/dev/sda1", "LABEL=root", "PARTUUID={partition}"])
def test_ways_to_name_the_root(boot: Lab, root: str) -> None:
    card = boot.card()
    vm = boot(card, root=root.format(partition=f"{card.disk_id}-01"))
    assert status(vm)["mode"] == "deferring"


@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4"])
def test_filesystems_flush_clean(boot: Lab, kind: str) -> None:
    vm = boot(filesystem=Filesystem(kind))
    writer = workload.Writer(vm)
    before = writer.wait_rounds(10)
    vm.run("cowflush flush", timeout=60).ok()
    writer.stop()
    vm.kill()
    workload.check(vm.card, before)


def test_off_boots_from_the_card(boot: Lab) -> None:
    vm = boot(append="cowflush=off")
    assert vm.run("cowflush status").code == 3
    vm.run("echo x >/root/x; sync").ok()
    assert vm.card_stats().wr_operations > 0
