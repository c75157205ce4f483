"""Flushes behind logs of different lengths: how long one takes, and how often it reads the card.

A longer log mostly holds more chunks of root, too, each of which is a line in the kernel's table;
so the two are measured apart.
"""

from __future__ import annotations

import json
import statistics
from typing import Any

from bench import ways
from bench.output import Row
from harness.lab import Lab
from product import logged

# Numbers of segments, and of chunks of root that they hold
FEW, MANY = 60, 4800
LOGS = ((10, FEW), (100, FEW), (400, FEW), (800, FEW), (10, MANY), (800, MANY))
# The first round is not counted: it also writes what the guest's own start changed.
ROUNDS = 12


def measure(lab: Lab) -> dict[str, Any]:
    found = []
    for count, live in LOGS:
        card = logged.long(lab.card(), count, max(6, live // count), live)
        # The clock counts instructions, so the host's other load is not measured.
        vm = lab(card, append="cowflush.merge=100% tsc=reliable", icount="shift=3")
        rounds = []
        for number in range(ROUNDS):
            vm.run(f"seq {number} 4000 >/root/small; sync").ok()
            before = vm.card_stats()
            text, _ = ways.timed(vm, "cowflush flush --json")
            stats, record = vm.card_stats() - before, json.loads(text)["flush"]
            rounds.append(
                {
                    "took_ms": record["took_ms"],
                    "log_ms": record["log_ms"],
                    "bytes": record["logged"],
                }
                | {"reads": stats.rd_operations, "read_bytes": stats.rd_bytes}
            )
        vm.kill()
        counted = {key: [one[key] for one in rounds[1:]] for key in rounds[0]}
        middle = {key: statistics.median(values) for key, values in counted.items()}
        # The host's other load only adds time.
        best = {f"best_{key}": min(counted[key]) for key in ("took_ms", "log_ms")}
        found.append({"segments": count, "live_chunks": live, **middle, **best, "rounds": rounds})
    return {"logs": found}


def rows(figures: dict[str, Any]) -> list[Row]:
    logs = figures["logs"]
    return [
        Row("segments in the log", *(str(log["segments"]) for log in logs)),
        Row("  chunks of root in them", *(str(log["live_chunks"]) for log in logs)),
        *_times("a small flush", "took_ms", logs),
        *_times("its append", "log_ms", logs),
        Row("  reads of the card", *(f"{log['reads']:.0f}" for log in logs)),
        Row("  KiB that it read", *(f"{log['read_bytes'] / 1024:.0f}" for log in logs)),
    ]


def _times(what: str, key: str, logs: list[dict[str, Any]]) -> list[Row]:
    first = logs[0]
    return [
        Row(f"  {what}, median", *(f"{log[key]:.0f} ms" for log in logs)),
        Row("    times the first", *(f"{log[key] / first[key]:.2f}" for log in logs)),
        Row(f"  {what}, the quickest", *(f"{log[f'best_{key}']} ms" for log in logs)),
        Row(
            "    times the first",
            *(f"{log[f'best_{key}'] / first[f'best_{key}']:.2f}" for log in logs),
        ),
    ]
