"""What the daemon does when the COW or the memory gets full and a flush alone does not help."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import pytest

from harness.drive import Drive, Throttle
from harness.ext import ExtImage
from harness.lab import Lab
from harness.machine import VM
from product import daemon
from product.daemon import QUIET
from product.router import status

BOTH = pytest.mark.kernels("6.1", "6.12")
PIECE = 1 << 20
# More than a guest of 64 MB has for a COW, and less than `full-wait` of RAM and spill area
SPILLED = 50


def fill(vm: VM, pieces: int) -> str:
    """Writes this many MiB of random data to root, in the background; the checksums are in RAM."""
    script = f"for n in $(seq {pieces}); do head -c {PIECE} /dev/urandom | tee /root/big$n | md5sum >>/run/sums && [ $(wc -c </root/big$n) = {PIECE} ] || exit 7; done; sync"
    vm.run(f"(sh -c '{script}'; echo $? >/run/filled) >/run/fill.log 2>&1 &").ok()
    return "until [ -e /run/filled ]; do usleep 100000; done; cat /run/fill.log; exit $(cat /run/filled)"


def check(vm: VM, pieces: int) -> None:
    """Checks that root has what `fill` wrote."""
    found = vm.run(f"for n in $(seq {pieces}); do md5sum </root/big$n; done", timeout=60).ok().text
    assert found.split() == vm.run("cat /run/sums").ok().text.split() != []


def sums(vm: VM) -> list[str]:
    """The checksums, to judge the card by when the guest is gone."""
    return [line.split()[0] for line in vm.run("cat /run/sums").ok().text.splitlines()]


def check_card(image: ExtImage, wanted: list[str]) -> None:
    """Checks the same from outside."""
    image.fsck()
    with tempfile.TemporaryDirectory() as temporary:
        image.dump("/root", Path(temporary))
        pieces = [Path(temporary) / "root" / f"big{n}" for n in range(1, len(wanted) + 1)]
        assert (
            wanted and [hashlib.md5(piece.read_bytes()).hexdigest() for piece in pieces] == wanted
        )


def with_log(boot: Lab, memory: int) -> VM:
    vm = boot(memory=memory)
    vm.run("cowflush log format /dev/sda2").ok()
    return vm


@BOTH
@pytest.mark.thorough
def test_writers_wait_for_a_card_that_works_again(boot: Lab) -> None:
    vm = with_log(boot, memory=128)
    daemon.start(vm, QUIET + "size=16M\non-overflow=wait\n")
    vm.fail_writes(vm.card.log.sectors)
    filled = fill(vm, 40)
    # The daemon tries again and again. Meanwhile the test can't rely on the agent: its shell may
    # wait for root as well.
    vm.wait_console(r"programs wait until it can be(?s:.*?flush \(high\) failed){3}", timeout=120)
    vm.heal()
    vm.run(filled, timeout=120).ok()
    check(vm, 40)
    daemon.flush(vm)
    words = daemon.said(vm)
    assert "failed" in words and "straight to the card" not in words
    assert status(vm)["mode"] == "deferring"
    wanted = sums(vm)
    vm.kill()
    check_card(daemon.root_of(vm.card, log=True), wanted)


def test_write_through_is_the_last_resort(boot: Lab) -> None:
    vm = with_log(boot, memory=128)
    daemon.start(vm, QUIET + "size=16M\n")
    vm.fail_writes(vm.card.log.sectors)
    filled = fill(vm, 40)
    vm.run(filled, timeout=120).ok()
    daemon.wait_for(vm, "writes go straight to the card from now on")
    vm.heal()
    check(vm, 40)
    assert status(vm)["mode"] == "write-through"
    wanted = sums(vm)
    vm.poweroff("sync; poweroff -f")
    check_card(vm.card.fs(replay=True), wanted)


def test_a_hold_that_fills_the_cow_is_dropped_where_that_is_wanted(boot: Lab) -> None:
    vm = boot()
    vm.run("echo before >/root/before").ok()
    daemon.start(vm, QUIET + "size=8M\nhold-full=discard\n")
    vm.run("cowflush hold && echo trial >/root/trial; sync").ok()
    before = vm.card_stats()
    # The guest's `reboot` asks an init that it does not have, so the daemon reboots by itself.
    stopped = vm.run_last(
        "while :; do dd if=/dev/urandom of=/root/big bs=64k count=160 2>/dev/null; sync; done",
        timeout=60,
    )
    assert stopped == "guest-reset"
    assert "rebooting, what was held is dropped" in vm.console
    assert (vm.card_stats() - before).wr_operations == 0, "a hold lets nothing reach the card"
    vm.card.fsck()
    assert set(vm.card.hashes("/root")) == {"/root/before"}


def swap(directory: Path, mib: int) -> Drive:
    path = directory / "swap.img"
    path.write_bytes(b"")
    with path.open("r+b") as image:
        image.truncate(mib << 20)
    return Drive(path)


# The board's card with a smaller root, and a swap area after it
WITH_SWAP = """
label: dos
label-id: 0xc0f1a1c2
unit: sectors
1: start=139264, size=256000, type=83, bootable
2: start=8192, size=131072, type=da
3: start=395264, size=129024, type=82
"""


@pytest.mark.thorough
def test_what_the_ram_can_not_take_spills_to_the_card(boot: Lab) -> None:
    vm = boot(boot.card(partitions=WITH_SWAP), memory=64)
    holds_more_than_the_ram(boot, vm, "/dev/sda3")


@pytest.mark.kernels("6.12")
def test_what_the_ram_can_not_take_spills_to_another_disk(boot: Lab) -> None:
    vm = boot(memory=64, drives=[swap(boot.directory, 64)])
    holds_more_than_the_ram(boot, vm, vm.disk(1))


def holds_more_than_the_ram(boot: Lab, vm: VM, spill: str) -> None:
    """During a hold nothing reaches the card but what spills."""
    vm.run(f"mkswap {spill}").ok()
    daemon.start(vm, QUIET + f"size=8M\nspill={spill}\n")
    daemon.flush(vm)  # the COW grows with the spill area at the next flush
    vm.run("cowflush hold").ok()
    before = vm.cut_copy(boot.directory / "before.img")
    vm.run(fill(vm, SPILLED), timeout=120).ok()
    spilled = before.differing_sectors(vm.cut_copy(boot.directory / "during.img"))
    if spill == "/dev/sda3":
        place = before.partitions[2]
        assert spilled and all(sector in place.sectors for sector in spilled)
    else:
        assert not spilled
    report = status(vm)
    assert report["pending"] >= SPILLED * PIECE and report["held_since"]
    assert report["spill"]["size"] > 60 << 20 and report["spill"]["used"] > 0
    assert "MiB on the card in use" in vm.run("cowflush status").ok().text
    assert "Out of memory" not in vm.run("dmesg").ok().text
    check(vm, SPILLED)
    daemon.flush(vm)
    wanted = sums(vm)
    vm.kill()
    check_card(vm.card.fs(), wanted)


@pytest.mark.thorough
def test_a_spill_area_is_never_made_of_something_else(boot: Lab) -> None:
    vm = boot(drives=[swap(boot.directory, 16)], append="cowflush.spill=/dev/sdb")
    assert "/dev/sdb holds nothing that is known" in vm.console and "mkswap /dev/sdb" in vm.console
    vm.run("mkfs.ext2 /dev/sdb").ok()
    daemon.start(vm, QUIET + "spill=/dev/sdb\n")
    assert "/dev/sdb holds ext2" in daemon.wait_for(vm, "spill")
    vm.run(
        "mkswap -L spill /dev/sdb; printf 'spill=LABEL=spill\\n' >/etc/cowflush.conf; killall -HUP cowflush"
    ).ok()
    vm.until("grep -q sdb /proc/swaps")
    assert vm.run("cat /proc/sys/vm/swappiness").ok().text.strip() == "1"


@pytest.mark.thorough
def test_short_memory_is_given_back_but_not_for_a_few_bytes(boot: Lab) -> None:
    vm = boot(memory=128)
    daemon.start(vm, QUIET + "memory-low=30%\nhigh=90%\nfull-wait=95%\n")
    vm.run("dd if=/dev/urandom of=/root/big bs=64k count=128 2>/dev/null; sync").ok()
    assert "(memory)" not in daemon.said(vm)
    vm.run(
        "mkdir /run/hog; mount -t tmpfs -o size=100M hog /run/hog; dd if=/dev/zero of=/run/hog/x bs=1M count=70 2>/dev/null"
    ).ok()
    daemon.wait_for(vm, "(memory)")
    # Memory stays short, and root goes on changing a little: that is no reason to write.
    count = daemon.said(vm).count("(memory)")
    vm.run("for n in $(seq 15); do echo $n >/root/small; sync; usleep 100000; done").ok()
    assert daemon.said(vm).count("(memory)") == count


@pytest.mark.thorough
def test_programs_that_wait_for_memory_are_given_it(boot: Lab) -> None:
    """The kernel's PSI counts, however much memory its other figures show as available.

    The COW's limit follows the memory, so `high` would come first if the writer were fast, or
    little memory were left. This writer goes on until the COW holds enough for a flush to free
    something.
    """
    vm = boot(memory=128)
    vm.run("dd if=/dev/urandom of=/root/read bs=64k count=480 2>/dev/null").ok()
    daemon.start(vm, QUIET + "memory-low=1%\nhigh=90%\nfull-wait=95%\n")
    writer = vm.start(
        "n=0; while :; do n=$(((n + 1) % 128)); "
        "dd if=/dev/urandom of=/root/big bs=64k count=1 seek=$n conv=notrunc 2>/dev/null; sync; done"
    )
    hog = vm.start("guest-tools hog --leave 20 --seconds 600")
    # More than is left, so each page has to be read again.
    reader = vm.start("while :; do cat /root/read >/dev/null || exit; done")
    daemon.wait_for(vm, "(memory)", timeout=60)
    for job in (hog, reader, writer):
        assert job.running(), job.wait().text
        job.kill()
    daemon.no_trouble(vm)


MARGIN = 6
# Longer than the watchdog waits
BEYOND = MARGIN + 2


@pytest.mark.thorough
def test_a_watchdog_is_fed_through_a_long_flush_and_bites_when_the_daemon_dies(boot: Lab) -> None:
    vm = boot(append=f"softdog.soft_margin={MARGIN}", throttle=Throttle())
    vm.run("cowflush log format /dev/sda2").ok()
    daemon.start(vm, QUIET + "watchdog=/dev/watchdog\n")
    vm.run("dd if=/dev/urandom of=/root/big bs=64k count=128 2>/dev/null; sync").ok()
    vm.throttle(Throttle(bytes_per_second=512 << 10))
    daemon.signal(vm, "USR1")
    # Not `cowflush status`, which would read the card, and that is busy.
    under_way = "grep -q cowflush-sealed /sys/block/dm-*/dm/name"
    vm.until(under_way)
    vm.run(f"sleep {BEYOND}; {under_way}").ok()
    vm.throttle(Throttle())
    daemon.wait_for(vm, "(asked)", timeout=60)
    # With watchdog=none the daemon stops the watchdog.
    daemon.reconfigure(vm, "watchdog=none\n")
    daemon.signal(vm, "KILL")
    vm.run(f"sleep {BEYOND}").ok()
    vm.put("/etc/cowflush.conf", b"watchdog=/dev/watchdog\n")
    daemon.begin(vm)
    daemon.signal(vm, "TERM")
    daemon.wait_for(vm, f"is not fed any more: it resets the machine in {MARGIN} s")
    daemon.begin(vm)
    vm.run(f"sleep {BEYOND}").ok()
    daemon.signal(vm, "KILL")
    assert vm.wait_stopped(timeout=30) == "guest-reset"
