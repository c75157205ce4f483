"""Figures as JSON files and as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    value: str
    note: str = ""


def save(directory: Path, name: str, figures: dict[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")


def show(rows: Iterable[Row]) -> None:
    """Prints as it goes: a bench takes minutes."""
    for row in rows:
        print(f"{row.what:<52} {row.value:>12}  {row.note}".rstrip(), flush=True)
