"""The least that any way to keep data in place could wear a card, for the same work and flushes.

The bounds come from the states of root at successive flushes, frozen and clean: from what changed
and not from how it was written. Blocks that the filesystem does not use, and the journal, which is
empty in a frozen filesystem, need not reach the card and don't count.

packed    the bytes changed in each interval by the erase block's size, summed:
          what it takes to write them anywhere, side by side
in place  the distinct erase blocks in which something changed in each
          interval, summed: what it takes to write them where they belong

A byte changes with its page of 4 KiB, since a card writes no less.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from wear.model import PAGE, Kind


@dataclass(frozen=True)
class Bounds:
    """Both bounds, in erases."""

    packed: float
    in_place: int


def bounds(kind: Kind, intervals: Iterable[Set[int]]) -> Bounds:
    """The bounds for intervals, each given as the card's pages that changed in it."""
    packed, in_place = 0.0, 0
    for pages in intervals:
        packed += len(pages) * PAGE / kind.block_bytes
        in_place += len({page // kind.pages_per_block for page in pages})
    return Bounds(packed, in_place)
