"""Figures as JSON files and as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LABEL = 40
CELL = 15


class Row:
    """One line of the table: what, and its cells."""

    def __init__(self, what: str, *cells: str) -> None:
        self.what = what
        self.cells = cells

    def __str__(self) -> str:
        # A last cell that is a sentence may be as long as it likes.
        cells = (f"{cell:>{CELL}}" if len(cell) <= CELL else f"   {cell}" for cell in self.cells)
        return f"{self.what:<{LABEL}}{''.join(cells)}".rstrip()


def save(directory: Path, name: str, figures: dict[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")


def show(rows: Iterable[Row]) -> None:
    """Prints as it goes: a bench takes minutes."""
    for row in rows:
        print(row, flush=True)
