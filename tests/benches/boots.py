"""How long a boot takes, by the guest's clock, with and without the initramfs."""

from __future__ import annotations

import re
import statistics
from typing import Any

from benches.output import Row
from vm.card import Card
from vm.lab import Lab

AIM_SECONDS = 0.2
DIRECT = "direct"
# What is booted, by key: the options that differ.
WAYS: dict[str, dict[str, Any]] = {
    DIRECT: {"direct": True},
    "cowflush": {},
    "cowflush_by_name": {"root": "/dev/sda1"},
}
# The guest's clock then counts instructions: 8 ns each.
ICOUNT = "shift=3"


def measure(lab: Lab, boots: int) -> dict[str, Any]:
    card = lab.card()
    figures: dict[str, Any] = {"boots": boots, "icount": ICOUNT}
    for clock, icount in (("timed", ""), ("counted", ICOUNT)):
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(boots if not icount else 2):
            # In turn, so that what else the host does meets all of them.
            for way, options in WAYS.items():
                seconds[way].append(_boot(lab, card, icount=icount, **options))
        figures[clock] = {way: _summary(values, seconds[DIRECT]) for way, values in seconds.items()}
    return figures


def _boot(lab: Lab, card: Card, **options: Any) -> float:
    vm = lab(card.copy(lab.directory / "boot.img"), **options)
    found = re.search(r"^\[ *(\d+\.\d+)\] vm: boot complete$", vm.run("dmesg").ok().text, re.MULTILINE)
    vm.kill()
    if not found:
        raise RuntimeError("the kernel's log does not have the line that ends a boot")
    return float(found[1])


def _summary(seconds: list[float], direct: list[float]) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "median_seconds": statistics.median(seconds),
        "spread_seconds": max(seconds) - min(seconds),
        "added_seconds": statistics.median(seconds) - statistics.median(direct),
    }


def rows(figures: dict[str, Any]) -> list[Row]:
    found = []
    for clock in ("timed", "counted"):
        for way, values in figures[clock].items():
            value = f"{values['median_seconds']:.3f} s"
            note = f"spread {values['spread_seconds']:.3f} s"
            if way != DIRECT:
                note = f"adds {values['added_seconds']:+.3f} s (aim: {AIM_SECONDS} s), {note}"
            found.append(Row(f"boot, {way}, {clock}", value, note))
    return found
