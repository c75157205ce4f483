"""A flush costs the same however many flushes the log holds, and still notices damage in it."""

from __future__ import annotations

import json
import statistics

import pytest

from harness.lab import Lab
from harness.machine import VM
from product import daemon, flushlog, logged
from product.flushlog import FlushLog
from product.router import LOG, check_settled, status, when_free

CARD = 5
FEW, MANY = 10, 400
NO_MERGE = "cowflush.merge=100%"
FIGURES = "/run/cowflush.prom"
# An append checks this many of the segments before the last one.
LOOKS = 8


def reads(vm: VM, number: int) -> int:
    """How often a small flush reads the card."""
    vm.run(f"seq {number} 4000 >/root/small; sync").ok()
    before = vm.card_stats()
    assert "to the log on sda2" in vm.run("cowflush flush", timeout=60).ok().text
    return (vm.card_stats() - before).rd_operations


def test_a_flush_reads_no_more_behind_400_flushes_than_behind_10(boot: Lab) -> None:
    vm = boot(logged.long(boot.card(), MANY), append=NO_MERGE)
    # The first flush also writes what the boot has changed.
    many = [reads(vm, number) for number in range(4)][1:]
    assert len(logged.report(vm)["segments"]) == MANY + 4
    vm.run("cowflush merge", timeout=120).ok()
    few = [reads(vm, number) for number in range(FEW + 2)][-3:]
    # Which blocks of the filesystem's own a flush reads besides varies a little.
    assert max(many) <= max(few) + 4, (many, few)


def took(boot: Lab, segments: int, chunks: int) -> float:
    """How long a small flush takes after `segments` segments with `chunks` chunks of root in all.

    By the number of instructions, so the host's other load does not count.
    """
    card = logged.long(boot.card(), segments, max(6, chunks // segments), chunks)
    vm = boot(card, append=f"{NO_MERGE} tsc=reliable", icount="shift=3")
    times: list[float] = []
    for number in range(4):
        vm.run(f"seq {number} 4000 >/root/small; sync").ok()
        done = vm.run("cowflush flush --json", timeout=60).ok()
        times.append(json.loads(done.output)["flush"]["took_ms"])
    vm.kill()
    return float(statistics.median(times[1:]))


@pytest.mark.thorough
def test_a_flush_takes_no_longer_for_what_the_log_says_of_thousands_of_chunks(boot: Lab) -> None:
    few, many = took(boot, FEW, 60), took(boot, 2 * MANY, 4800)
    # The table has a line for each chunk, which cowflush writes and the kernel reads.
    assert many < 2 * few, (many, few)


def figure(vm: VM, name: str) -> str:
    """One of the daemon's figures for Prometheus."""
    return vm.run(f"sed -n 's/^cowflush_{name} //p' {FIGURES}").ok().text.strip()


def metered_reads(vm: VM, number: int) -> int:
    """How often the daemon reads the card for a small flush and the figures after it."""
    segments = int(figure(vm, "log_segments")) + 1
    vm.run(f"seq {number} 4000 >/root/small; sync").ok()
    before = vm.card_stats()
    vm.run("killall -USR1 cowflush").ok()
    vm.until(f"grep -qx 'cowflush_log_segments {segments}' {FIGURES}", timeout=60)
    return (vm.card_stats() - before).rd_operations


def test_the_figures_after_a_flush_cost_no_more_behind_400_flushes_than_behind_10(
    boot: Lab,
) -> None:
    vm = boot(logged.long(boot.card(), MANY), append=NO_MERGE)
    daemon.start(vm, daemon.QUIET + f"metrics={FIGURES}\n")
    vm.until(f"grep -q ^cowflush_log_segments {FIGURES}")
    many = [metered_reads(vm, number) for number in range(4)][1:]
    # The counts that the daemon carried on are those of a full look.
    log, life = status(vm)["log"], logged.report(vm)["life"]
    assert log["segments"] == int(figure(vm, "log_segments")) == MANY + 5
    assert log["used_percent"] == round(100 * float(figure(vm, "log_used_ratio")))
    assert life["segments"] == int(figure(vm, "log_flushes_total"))
    assert life["bytes"] == int(figure(vm, "log_flushed_bytes_total"))
    when_free(vm, "merge").ok()
    # A log that began anew is read as a whole.
    vm.run("seq 7 4000 >/root/small; sync; killall -USR1 cowflush").ok()
    vm.until(f"grep -qx 'cowflush_log_segments 1' {FIGURES}", timeout=60)
    few = [metered_reads(vm, number) for number in range(FEW + 2)][-3:]
    assert max(many) <= max(few) + 4, (many, few)


@pytest.mark.thorough
def test_damage_in_a_long_log_is_noticed_and_nothing_that_root_reads_is_overwritten(
    boot: Lab,
) -> None:
    count = 3 * LOOKS
    vm = boot(logged.long(boot.card(), count), append=NO_MERGE)
    logged.flush(vm, 1)
    vm.pause()
    # The first flush checked the first eight segments, and it's the third one's turn to check here.
    flushlog.flip(vm.card, FlushLog(vm.card).segments[2 * LOOKS + 4].head, 100)
    vm.cont()
    for number in range(2, 9):
        vm.run(f"echo {number} >{logged.STATE} && seq {number} 3000 >/root/f{number} && sync").ok()
        done = vm.run("cowflush flush", timeout=60)
        vm.run("echo 3 >/proc/sys/vm/drop_caches").ok()
        logged.check_state(vm, number)
        if done.code:
            break
    assert "/dev/sda2 does not hold any more what root reads through it" in done.exits(CARD).text
    assert 2 < number <= 2 + (count + number) // LOOKS + 1
    # Nothing is lost: the kernel's table still has all of it.
    vm.run("cowflush merge", timeout=120).ok()
    logged.check_state(vm, number)
    check_settled(vm, log=LOG)
    vm.kill()
    logged.check_card(vm.card, number)
