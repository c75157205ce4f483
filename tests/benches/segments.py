"""Flushes behind logs of different lengths: how long one takes, and how often it reads the card."""

from __future__ import annotations

import json
import statistics
from typing import Any

from vm import logged
from vm.lab import Lab

from benches import ways
from benches.output import Row

COUNTS = (10, 100, 400, 800)
# The first is not counted: with it the guest's own start is written.
ROUNDS = 12


def measure(lab: Lab) -> dict[str, Any]:
    found = []
    for count in COUNTS:
        vm = lab(logged.long(lab.card(), count), append="cowflush.merge=100% tsc=reliable")
        rounds = []
        for number in range(ROUNDS):
            vm.run(f"seq {number} 4000 >/root/small; sync").ok()
            before = vm.card_stats()
            text, _ = ways.timed(vm, "cowflush flush --json")
            card, record = vm.card_stats() - before, json.loads(text)["flush"]
            rounds.append(
                {
                    "took_ms": record["took_ms"],
                    "log_ms": record["log_ms"],
                    "bytes": record["logged"],
                }
                | {"reads": card.rd_operations, "read_bytes": card.rd_bytes}
            )
        vm.kill()
        counted = {key: [one[key] for one in rounds[1:]] for key in rounds[0]}
        middle = {key: statistics.median(values) for key, values in counted.items()}
        # What else the host does only adds.
        best = {f"best_{key}": min(counted[key]) for key in ("took_ms", "log_ms")}
        found.append({"segments": count, **middle, **best, "rounds": rounds})
    return {"logs": found}


def rows(figures: dict[str, Any]) -> list[Row]:
    logs = figures["logs"]
    return [
        Row("segments in the log", *(str(log["segments"]) for log in logs)),
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
