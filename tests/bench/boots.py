"""How long a boot takes by the guest's clock: without the initramfs, with it, with a flush log."""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass
from typing import Any

from bench import logcards
from bench.cards import SLOW
from bench.logcards import LogCard
from bench.output import Row
from harness.card import Card
from harness.lab import Lab

AIM_SECONDS = 0.2
DIRECT = "direct"
# The boots that are measured, by key: the options in which they differ.
WAYS: dict[str, dict[str, Any]] = {
    DIRECT: {"direct": True},
    "cowflush": {},
    "cowflush_by_name": {"root": "/dev/sda1"},
}
# With this option the guest's clock counts instructions: 8 ns each.
ICOUNT = "shift=3"
COUNTED_BOOTS = 3
BOOT_SECONDS = 120
# Reading a full log on the slow card takes a while, so there are fewer of these boots.
LOG_BOOTS = 3


@dataclass(frozen=True)
class Boot:
    seconds: float
    reads: int
    read_bytes: int


def measure(lab: Lab, boots: int) -> dict[str, Any]:
    plain, logs = lab.card(), logcards.prepare(lab)
    booted = {**WAYS, **{log: {} for log in logs}}
    figures: dict[str, Any] = {
        "icount": ICOUNT,
        "logs": {way: _shape(log) for way, log in logs.items()},
    }
    kinds: dict[str, tuple[int, dict[str, Any]]] = {
        "counted": (COUNTED_BOOTS, {"icount": ICOUNT}),
        "timed": (boots, {}),
        "slow": (boots, {"throttle": SLOW.throttle}),
    }
    for kind, (count, machine) in kinds.items():
        done: dict[str, list[Boot]] = {way: [] for way in booted}
        for number in range(count):
            # In turn, and each way in each place, so that the host's other load affects all alike.
            for place in range(len(booted)):
                way = list(booted)[(number + place) % len(booted)]
                if way in logs and len(done[way]) == LOG_BOOTS:
                    continue
                card = logs[way].card if way in logs else plain
                done[way].append(_boot(lab, card, **machine, **booted[way]))
        figures[kind] = {way: _summary(mine, done[DIRECT]) for way, mine in done.items()}
    return figures


def _shape(log: LogCard) -> dict[str, int]:
    return {"segments": log.segments, "used_bytes": log.used_bytes, "size_bytes": log.size_bytes}


def _boot(lab: Lab, card: Card, **options: Any) -> Boot:
    # While it reads a full log on the slow card, a boot prints nothing on the console.
    vm = lab(card.copy(lab.directory / "boot.img"), inactivity=BOOT_SECONDS, **options)
    stats = vm.card_stats()
    found = re.search(
        r"^\[ *(\d+\.\d+)\] vm: boot complete$", vm.run("dmesg").ok().text, re.MULTILINE
    )
    vm.kill()
    if not found:
        raise RuntimeError("the kernel's log does not have the line that ends a boot")
    return Boot(float(found[1]), stats.rd_operations, stats.rd_bytes)


def _summary(mine: list[Boot], direct: list[Boot]) -> dict[str, Any]:
    seconds, others = [boot.seconds for boot in mine], [boot.seconds for boot in direct]
    return {
        "seconds": seconds,
        "median_seconds": statistics.median(seconds),
        "shortest_seconds": min(seconds),
        "longest_seconds": max(seconds),
        "added_median_seconds": statistics.median(seconds) - statistics.median(others),
        "added_shortest_seconds": min(seconds) - min(others),
        "card_reads": statistics.median(boot.reads for boot in mine),
        "card_read_bytes": statistics.median(boot.read_bytes for boot in mine),
    }


def rows(figures: dict[str, Any]) -> list[Row]:
    found = []
    for way, log in figures["logs"].items():
        used = f"{log['used_bytes'] / 1024:.0f} of {log['size_bytes'] / 1024:.0f} KiB"
        found.append(Row(way, f"{log['segments']} segments", used))
    for kind in ("counted", "timed", "slow"):
        for way, values in figures[kind].items():
            spread = f"{values['shortest_seconds']:.3f} to {values['longest_seconds']:.3f} s"
            note = f"{spread}; {values['card_reads']:.0f} reads, {values['card_read_bytes'] / 1024:.0f} KiB"
            if way != DIRECT:
                median, shortest = values["added_median_seconds"], values["added_shortest_seconds"]
                note += f"; adds {median:+.3f} s, of the shortest {shortest:+.3f} s (aim: {AIM_SECONDS} s)"
            found.append(Row(f"boot, {way}, {kind}", f"{values['median_seconds']:.3f} s", note))
    return found
