"""A map of a card: where it was written, and how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from harness.card import Partition
from harness.sparse import SECTOR
from harness.writelog import Entry

# About a large erase block of a cheap card
CELL_BYTES = 512 << 10
COLUMNS = 60
# How many requests have touched a cell, at most; the last is for all above.
SHADES = ((0, "·"), (1, "░"), (7, "▒"), (49, "▓"))
MOST = "█"


def touched(entries: Iterable[Entry]) -> Counter[int]:
    """How many write requests touched each cell of the card."""
    found: Counter[int] = Counter()
    for entry in entries:
        if entry.data:
            begin = entry.sector * SECTOR
            found.update(
                range(begin // CELL_BYTES, (begin + len(entry.data) - 1) // CELL_BYTES + 1)
            )
    return found


def shade(writes: int) -> str:
    """The character for one cell."""
    return next((sign for most, sign in SHADES if writes <= most), MOST)


def card(entries: Iterable[Entry], parts: Sequence[tuple[str, Partition]]) -> list[str]:
    """Lines that show some partitions, each from a new line on, with its name before it."""
    counts = touched(entries)
    width = max(len(name) for name, _ in parts)
    lines = []
    for name, part in parts:
        first = part.start * SECTOR // CELL_BYTES
        after = -(-part.sectors.stop * SECTOR // CELL_BYTES)
        cells = "".join(shade(counts[cell]) for cell in range(first, after))
        for at in range(0, len(cells), COLUMNS):
            lines.append(f"{name if at == 0 else '':<{width}}  {cells[at : at + COLUMNS]}")
    return lines


def legend() -> str:
    """What the cells' characters mean."""
    words = ["not written", "once"] + [f"up to {most} times" for most, _ in SHADES[2:]]
    signs = [f"{sign} {word}" for (_, sign), word in zip(SHADES, words, strict=True)]
    return f"a cell is {CELL_BYTES >> 10} KiB: {', '.join(signs)}, {MOST} more often"
