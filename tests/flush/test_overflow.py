"""A COW that fills up: writes fail, reads go on, and a flush saves all accepted writes."""

from __future__ import annotations

import re

import pytest

from harness import artefacts
from harness.lab import Lab
from harness.machine import VM
from product.router import check_settled, status
from product.sweep import TO_RAM

FILL = "dd if=/dev/zero of=/root/fill bs=64k count={count} conv=fsync 2>&1"
# More than any COW here takes, and less than root's filesystem does, which would refuse it by
# itself
TOO_MUCH = FILL.format(count=1600)
FAILED = 1
# The kernel's errors for a write or an fsync when the COW is full and ext4 aborts its journal
REFUSED = r"dd: .*(I/O error|Read-only file system)"


def overflow(vm: VM) -> None:
    """Writes more than the COW takes, and checks that the writer gets an error."""
    # ext4 aborts its journal when a write to it fails. From then on 6.12 (not 6.1) refuses reads,
    # too, so the programs have to be in RAM.
    vm.run(TO_RAM).ok()
    told = vm.run(TOO_MUCH, timeout=120).exits(FAILED).text
    assert re.search(REFUSED, told), told
    assert status(vm)["phase"] == "overflow"


def kept(vm: VM) -> str:
    """A file that was synced before the COW filled up."""
    vm.run("head -c 1000000 /dev/urandom >/root/kept; sync").ok()
    return vm.run("sha256sum /root/kept").ok().text.split()[0]


@pytest.mark.kernels(*artefacts.EVERYWHERE)
def test_a_full_cow(boot: Lab) -> None:
    vm = boot(append="cowflush.size=8M")
    digest = kept(vm)
    overflow(vm)
    report = status(vm)
    assert (report["phase"], report["cow_used"], report["cow_size"]) == (
        "overflow",
        16 << 20,
        16 << 20,
    )
    assert (
        "the COW is full and writes fail: `/run/cowflush/cowflush flush`, then reboot"
        in vm.run("cowflush status").ok().text
    )
    vm.run("dd if=/dev/mapper/cowflush-root of=/dev/null bs=1M 2>&1", timeout=60).ok()
    said = vm.run("/run/cowflush/cowflush flush", timeout=60).exits(FAILED).text
    assert (
        "The COW had overflowed: the filesystem was refused writes. What it had written before is on the card"
        in said
    )
    assert "raise cowflush.size or flush more often" in said
    assert (status(vm)["phase"], status(vm)["sealed"]) == ("idle", None)
    vm.kill()
    assert vm.card.fs(replay=True).hashes("/root")["/root/kept"] == digest
    again = boot(vm.card, append="cowflush.size=32M")
    assert again.run("sha256sum /root/kept").ok().text.split()[0] == digest
    again.run("cowflush flush", timeout=60).ok()
    again.kill()
    vm.card.fsck()
    assert vm.card.hashes("/root")["/root/kept"] == digest


@pytest.mark.thorough
def test_reads_go_on_beside_a_full_cow(boot: Lab) -> None:
    vm = boot(append="cowflush.size=8M")
    digest = kept(vm)
    overflow(vm)
    vm.run("echo 3 >/proc/sys/vm/drop_caches").ok()
    assert vm.run("sha256sum /root/kept").ok().text.split()[0] == digest


@pytest.mark.thorough
@pytest.mark.kernels("6.1", "6.12")
def test_a_router_with_64_mib(boot: Lab) -> None:
    vm = boot(memory=64)
    digest = kept(vm)
    for _ in range(3):
        vm.run(FILL.format(count=128)).ok()
        vm.run("cowflush flush", timeout=60).ok()
    check_settled(vm)
    vm.run("cowflush stop", timeout=60).ok()
    check_settled(vm, "write-through")
    vm.run("mount -o remount,ro /").ok()
    vm.poweroff()
    vm.card.fsck()
    assert vm.card.hashes("/root")["/root/kept"] == digest
    assert "Out of memory" not in vm.console


@pytest.mark.thorough
@pytest.mark.kernels("6.1", "6.12")
@pytest.mark.parametrize("memory", [64, 128])
def test_a_cow_as_large_as_memory_allows(boot: Lab, memory: int) -> None:
    """At worst the COW overflows.

    If it ran out of memory, the kernel would make it Invalid, and lose it.
    """
    vm = boot(memory=memory, append="cowflush.size=90%")
    digest = kept(vm)
    overflow(vm)
    said = vm.run("cowflush flush", timeout=120).exits(FAILED).text
    assert "The COW had overflowed" in said
    assert status(vm)["phase"] == "idle"
    assert "Out of memory" not in vm.console and "oom-kill" not in vm.console
    vm.kill()
    assert vm.card.fs(replay=True).hashes("/root")["/root/kept"] == digest


@pytest.mark.thorough
@pytest.mark.kernels("6.1", "6.12")
def test_memory_that_others_took_since_the_boot(boot: Lab) -> None:
    """The limit is now lower than what the COW holds; the COW must not be cut."""
    vm = boot(memory=128, append="cowflush.size=90%")
    digest = kept(vm)
    vm.run(FILL.format(count=1100)).ok()
    vm.run(
        "mount -t tmpfs -o size=60M others /tmp && dd if=/dev/zero of=/tmp/all bs=64k count=400 2>&1"
    ).ok()
    used = status(vm)["cow_used"]
    vm.run("cowflush flush", timeout=60).ok()
    assert used > 69 << 20
    check_settled(vm)
    vm.kill()
    vm.card.fsck()
    assert vm.card.hashes("/root")["/root/kept"] == digest
    assert len(vm.card.read("/root/fill")) == 1100 << 16


@pytest.mark.kernels("6.1", "6.12")
def test_a_writer_that_goes_on_through_an_overflow(boot: Lab) -> None:
    """The writer may be stuck in a system call for good: a freeze would wait for it."""
    vm = boot(append="cowflush.size=8M")
    vm.run(TO_RAM).ok()
    digest = kept(vm)
    # The daemon does the same: pages that can't be written out keep the page cache full, and
    # writers waiting.
    vm.run("echo 1048576 >/proc/sys/vm/dirty_bytes").ok()
    writer = vm.start(
        "while :; do guest-tools flood /root/flood --places 512 --seconds 60; done 2>/dev/null"
    )
    vm.until("cowflush status --json | grep -q overflow", timeout=60)
    said = vm.run("/run/cowflush/cowflush flush", timeout=60).exits(FAILED).text
    assert "The COW had overflowed" in said
    assert status(vm)["phase"] == "idle"
    # The filesystem stays shut down until the next boot, whatever is in the page cache, and never
    # counts as up to date.
    for _ in range(2):
        said = vm.run("/run/cowflush/cowflush flush", timeout=60).exits(FAILED).text
        assert "The COW had overflowed" in said and "nothing to flush" not in said, said
    assert status(vm)["phase"] == "idle"
    assert writer.running()
    vm.kill()
    assert vm.card.fs(replay=True).hashes("/root")["/root/kept"] == digest
