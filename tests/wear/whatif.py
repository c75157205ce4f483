"""What other orders and sizes of the same writes would cost, by the models.

It shows what is worth building. Merges: each erase block that a merge writes to is

as it is   written where something changed
prefix     written from its first page to the last one that changed, with the gaps: then
           a log-block card completes it by itself
whole      written from its first page to its last

Segments: they begin anywhere, or at the next border of an erase block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from harness.card import CARD_BYTES
from wear import model
from wear.model import Kind

# From an erase block's pages, ascending, and its size: the offsets that are written
Fill = Callable[[Sequence[int], int], Iterable[int]]
FILLS: dict[str, Fill] = {
    "as_it_is": lambda offsets, _size: offsets,
    "prefix": lambda offsets, _size: range(offsets[-1] + 1),
    "whole": lambda _offsets, size: range(size),
}


def filled(kind: Kind, pages: Iterable[int], fill: Fill) -> Iterator[int]:
    """One merge's pages, ascending, with the gaps filled."""
    size = kind.pages_per_block
    for block, group in groupby(sorted(set(pages)), lambda page: page // size):
        yield from (block * size + offset for offset in fill([page % size for page in group], size))


def merges(kind: Kind, pages: Sequence[Iterable[int]]) -> dict[str, float]:
    """The erases of all merges, for each way to fill gaps. `pages` has what each merge writes."""
    return {
        name: round(
            model.erases(
                kind, CARD_BYTES, (page for one in pages for page in filled(kind, one, fill))
            ),
            2,
        )
        for name, fill in FILLS.items()
    }


def segments(kind: Kind, lengths: Iterable[int]) -> dict[str, float]:
    """The erases of a ring of the card's size to which segments of these lengths are appended."""
    packed, padded = list[int](), list[int]()
    at = aligned = 0
    for length in lengths:
        packed += range(at, at + length)
        padded += range(aligned, aligned + length)
        at += length
        aligned = -(-(aligned + length) // kind.pages_per_block) * kind.pages_per_block
    total = CARD_BYTES // model.PAGE
    return {
        name: round(model.erases(kind, CARD_BYTES, (page % total for page in pages)), 2)
        for name, pages in (("packed", packed), ("padded", padded))
    }
