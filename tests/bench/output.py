"""Figures of every bench: as JSON files, build/bench/NAME.json, and as a table."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness import artefacts

RESULTS = artefacts.BUILD / "bench"
LABEL = 40
CELL = 15


class Row:
    """One line of the table: its name and its cells."""

    def __init__(self, what: str, *cells: str) -> None:
        self.what = what
        self.cells = cells

    def __str__(self) -> str:
        # A last cell that is a sentence may have any length.
        cells = (f"{cell:>{CELL}}" if len(cell) <= CELL else f"   {cell}" for cell in self.cells)
        return f"{self.what:<{LABEL}}{''.join(cells)}".rstrip()


def describe_run(kernel: str) -> dict[str, Any]:
    """Which run figures come from: the key `run` of every file."""
    qemu = subprocess.run(
        ["qemu-system-i386", "--version"], capture_output=True, text=True, check=True
    ).stdout
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    load = float(Path("/proc/loadavg").read_text().split()[0])
    return {"started": started, "kernel": kernel, "qemu": qemu.splitlines()[0], "host_load": load}


def forget(name: str) -> None:
    """Removes what an earlier run left, which would pass for this run's.

    Other benches' files stay.
    """
    for path in [RESULTS / f"{name}.json", *RESULTS.glob(f"{name}-*.json")]:
        path.unlink(missing_ok=True)


def save(name: str, run: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    """Writes NAME.json and returns its content; docs/bench.md says what each key means."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    saved = {"run": run, **figures}
    (RESULTS / f"{name}.json").write_text(json.dumps(saved, indent=2) + "\n")
    return saved


def show(rows: Iterable[Row]) -> None:
    """Prints rows as soon as they are measured: a bench takes minutes."""
    for row in rows:
        print(row, flush=True)
