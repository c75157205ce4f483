"""What the daemon does when the COW or the memory gets full and a flush alone does not help."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from vm import daemon
from vm.daemon import QUIET
from vm.drive import Drive, Throttle
from vm.lab import Lab
from vm.machine import VM

BOTH = pytest.mark.kernels("6.1", "6.12")
PIECE = 1 << 20
# More than a guest of 64 MB has for a COW, and less than `full-wait` of RAM and spill area
SPILLED = 50


def fill(vm: VM, pieces: int) -> str:
    """Writes so many MiB of random data to root, in the background; the checksums are in RAM."""
    script = f"for n in $(seq {pieces}); do head -c {PIECE} /dev/urandom | tee /root/big$n | md5sum >>/run/sums && [ $(wc -c </root/big$n) = {PIECE} ] || exit 7; done; sync"
    vm.run(f"(sh -c '{script}'; echo $? >/run/filled) >/run/fill.log 2>&1 &").ok()
    return "until [ -e /run/filled ]; do usleep 100000; done; cat /run/fill.log; exit $(cat /run/filled)"


def check(vm: VM, pieces: int) -> None:
    """Root has what `fill` wrote."""
    found = vm.run(f"for n in $(seq {pieces}); do md5sum </root/big$n; done", timeout=60).ok().text
    assert found.split() == vm.run("cat /run/sums").ok().text.split() != []


def with_log(boot: Lab, **options: object) -> VM:
    vm = boot(**options)
    vm.run("cowflush log format /dev/sda2").ok()
    return vm


@BOTH
def test_writers_wait_for_a_card_that_works_again(boot: Lab) -> None:
    vm = with_log(boot, memory=128)
    daemon.start(vm, QUIET + "size=16M\non-overflow=wait\n")
    vm.fail_writes(vm.card.log.sectors)
    filled = fill(vm, 40)
    vm.wait_console("cowflush: flush .* failed", timeout=60)
    # Far longer than the rest of the COW lasts at any speed. Nothing that the agent would do can be
    # relied on meanwhile: its shell may wait for root as well.
    time.sleep(20)
    vm.heal()
    vm.run(filled, timeout=120).ok()
    check(vm, 40)
    daemon.flush(vm)
    words = daemon.said(vm)
    assert "failed" in words and "straight to the card" not in words
    assert json.loads(vm.run("cowflush status --json").ok().output)["mode"] == "deferring"
    sums = vm.run("cat /run/sums").ok().output
    vm.kill()
    again = boot(vm.card)
    again.put("/run/sums", sums)
    check(again, 40)


def test_write_through_is_the_last_resort(boot: Lab) -> None:
    vm = with_log(boot, memory=128)
    daemon.start(vm, QUIET + "size=16M\n")
    vm.fail_writes(vm.card.log.sectors)
    filled = fill(vm, 40)
    vm.run(filled, timeout=120).ok()
    daemon.wait_for(vm, "writes go straight to the card from now on")
    vm.heal()
    check(vm, 40)
    assert json.loads(vm.run("cowflush status --json").ok().output)["mode"] == "write-through"
    vm.poweroff("sync; poweroff -f")
    root = vm.card.fs(replay=True)
    root.fsck()
    assert len([name for name in root.hashes("/root") if "/big" in name]) == 40


def test_a_hold_that_fills_the_cow_is_dropped_where_that_is_wanted(boot: Lab) -> None:
    vm = boot()
    daemon.start(vm, QUIET + "size=8M\nhold-full=discard\n")
    vm.run("cowflush hold && echo trial >/root/trial; sync").ok()
    # The guest's `reboot` asks an init that it does not have, so the daemon reboots by itself.
    stopped = vm.run_last(
        "while :; do dd if=/dev/urandom of=/root/big bs=64k count=160 2>/dev/null; sync; done",
        timeout=60,
    )
    assert stopped == "guest-reset"
    assert "rebooting, what was held is dropped" in vm.console
    again = boot(vm.card)
    again.run("ls /root/trial").fails()


def swap(directory: Path, mib: int) -> Drive:
    path = directory / "swap.img"
    path.write_bytes(b"")
    with path.open("r+b") as image:
        image.truncate(mib << 20)
    return Drive(path)


@BOTH
def test_what_the_ram_can_not_take_spills_to_the_card(boot: Lab) -> None:
    vm = boot(memory=64, drives=[swap(boot.directory, 64)])
    vm.run("mkswap /dev/sdb").ok()
    daemon.start(vm, QUIET + "size=8M\nspill=/dev/sdb\n")
    daemon.flush(vm)  # the COW grows with the spill area at the next flush
    vm.run("cowflush hold").ok()
    before = vm.card_stats()
    vm.run(fill(vm, SPILLED), timeout=120).ok()
    assert (vm.card_stats() - before).wr_operations == 0, "a hold lets nothing reach the card"
    status = json.loads(vm.run("cowflush status --json").ok().output)
    assert status["pending"] >= SPILLED * PIECE and status["held_since"]
    assert status["spill"]["size"] > 60 << 20 and status["spill"]["used"] > 0
    assert "MiB on the card in use" in vm.run("cowflush status").ok().text
    assert "Out of memory" not in vm.run("dmesg").ok().text
    check(vm, SPILLED)
    daemon.flush(vm)
    vm.kill()
    vm.card.fsck()
    assert len([name for name in vm.card.hashes("/root") if "/big" in name]) == SPILLED


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


def test_short_memory_is_given_back_but_not_for_a_few_bytes(boot: Lab) -> None:
    vm = boot(memory=128)
    daemon.start(vm, QUIET + "memory-low=30%\nhigh=90%\nfull-wait=95%\n")
    # The kernel's trigger is set: /proc/PID/fd shows what it hangs on.
    assert "/proc/pressure/memory" in vm.run(f"ls -l /proc/{daemon.field(vm, 'Pid')}/fd").ok().text
    vm.run("dd if=/dev/urandom of=/root/big bs=64k count=128 2>/dev/null; sync").ok()
    assert "(memory)" not in daemon.said(vm)
    vm.run(
        "mkdir /run/hog; mount -t tmpfs -o size=100M hog /run/hog; dd if=/dev/zero of=/run/hog/x bs=1M count=70 2>/dev/null"
    ).ok()
    daemon.wait_for(vm, "(memory)")
    # Memory stays short, and root goes on changing a little: that is no reason to write.
    count = daemon.said(vm).count("(memory)")
    vm.run("for n in $(seq 30); do echo $n >/root/small; sync; usleep 100000; done").ok()
    assert daemon.said(vm).count("(memory)") == count


def test_a_watchdog_is_fed_through_a_long_flush_and_bites_when_the_daemon_dies(boot: Lab) -> None:
    vm = boot(append="softdog.soft_margin=10", throttle=Throttle(bytes_per_second=100 << 20))
    vm.run("cowflush log format /dev/sda2").ok()
    daemon.start(vm, QUIET + "watchdog=/dev/watchdog\n")
    vm.run("dd if=/dev/urandom of=/root/big bs=64k count=128 2>/dev/null; sync").ok()
    vm.throttle(Throttle(bytes_per_second=512 << 10))
    vm.run("killall -USR1 cowflush").ok()
    daemon.wait_for(vm, "(asked)", timeout=60)
    took = json.loads(vm.run("cowflush status --json").ok().output)["last_flush"]["took_ms"]
    assert took > 12_000, "the flush was too short to tell"
    # Told that it is not wanted any more, it is stopped.
    daemon.reconfigure(vm, "watchdog=none\n")
    vm.run("killall -9 cowflush 2>/dev/null; sleep 13").ok()
    vm.put("/etc/cowflush.conf", b"watchdog=/dev/watchdog\n")
    daemon.begin(vm)
    daemon.signal(vm, "TERM")
    daemon.wait_for(vm, "is not fed any more: it resets the machine in 10 s")
    vm.run("cowflush daemon >/run/daemon.log 2>&1 & sleep 12; kill -9 $!").ok()
    assert vm.wait_stopped(timeout=30) == "guest-reset"
