"""The programs' sizes."""

from __future__ import annotations

from typing import Any

from bench.output import Row
from harness import artefacts

AIM_BYTES = 300 << 10


def measure() -> dict[str, Any]:
    return {
        "cowflush_bytes": artefacts.cowflush().stat().st_size,
        "initramfs_bytes": artefacts.initramfs().stat().st_size,
    }


def rows(figures: dict[str, Any]) -> list[Row]:
    binary, initramfs = figures["cowflush_bytes"], figures["initramfs_bytes"]
    return [
        Row("cowflush, i586", f"{binary / 1024:.0f} KiB", f"aim: {AIM_BYTES / 1024:.0f} KiB"),
        Row("initramfs", f"{initramfs / 1024:.0f} KiB"),
    ]
