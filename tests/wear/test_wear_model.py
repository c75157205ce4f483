"""The card's models and the bounds, against traces worked out by hand."""

from __future__ import annotations

import struct

import pytest

from harness.writelog import FLUSH, Entry
from wear.bounds import Bounds, bounds
from wear.model import KINDS, Kind, LogBlocks, PageMapped, erases
from wear.trace import MARK_SECTOR, parts

# Small cards that a person can follow: four pages to a block
SMALL_LOG = Kind("log blocks", 4 * 4096, page_mapped=False)
SMALL_MAP = Kind("page-mapped", 4 * 4096, page_mapped=True)


def log_blocks(pages: list[int], log_blocks: int = 2) -> LogBlocks:
    model = LogBlocks(4, log_blocks)
    for page in pages:
        model.write(page)
    return model


def test_a_whole_block_in_order_is_switched() -> None:
    model = log_blocks([4, 5, 6, 7])
    assert (model.erases, model.copied) == (1, 0)


def test_a_beginning_in_order_is_completed_and_switched() -> None:
    model = log_blocks([4, 5])
    assert model.erases == 0
    model.settle()
    assert (model.erases, model.copied) == (1, 2)


@pytest.mark.parametrize("pages", [[5], [4, 6], [5, 4], [4, 4], [7, 6, 5, 4]])
def test_anything_else_is_merged_in_full(pages: list[int]) -> None:
    model = log_blocks(pages)
    model.settle()
    assert (model.erases, model.copied) == (2, 4)


def test_a_full_log_block_is_merged_at_once() -> None:
    assert log_blocks([4, 4, 4, 4]).erases == 2
    # The fifth write opens another log block.
    model = log_blocks([4, 4, 4, 4, 4])
    model.settle()
    assert model.erases == 3


def test_the_log_block_unused_for_longest_makes_room() -> None:
    # Blocks 0 and 1 are open, block 0 was used last: block 1 is merged, in full.
    assert log_blocks([0, 5, 1, 8]).erases == 2
    # Here block 0 is merged; it is in order, so that costs one.
    assert log_blocks([0, 5, 8]).erases == 1


def test_a_page_mapped_card_counts_parts_of_a_block() -> None:
    # Two blocks shown and two spare: one to write to, one free
    model = PageMapped(4, 8, 0)
    for page in (0, 1):
        model.write(page)
    assert (model.programmed, model.erases) == (2, 0.5)
    # Blocks 0 1 | 2 is written to | 3 is free. The second block of writes makes block 0 all stale:
    # it is collected without a copy.
    for page in (2, 3):
        model.write(page)
    assert (model.programmed, model.copied, model.erases) == (4, 0, 1)


def test_a_page_mapped_card_pays_for_what_it_must_move() -> None:
    # One page of each of both blocks, twice: pages 0 and 4 are stale in blocks 0 and 1. When block
    # 2 is full (0 4 0 4, so two of it are valid), it is the one with the fewest valid pages.
    model = PageMapped(4, 8, 0)
    for page in (0, 4, 0, 4):
        model.write(page)
    assert (model.copied, model.programmed) == (2, 6)


def test_a_page_mapped_card_keeps_every_page_once() -> None:
    model = PageMapped(4, 40, 0.1)
    state = 1
    for _ in range(3000):
        state = state * 1103515245 + 12345 & 0x7FFFFFFF
        model.write(state >> 8 & 31)
    held = [page for pages in model._pages for page in pages]
    assert sorted(held) == list(range(40))
    assert all(page in model._pages[model._place[page]] for page in range(40))
    assert model.erases == (3000 + model.copied) / 4


def test_erases_are_counted_to_the_end() -> None:
    assert erases(SMALL_LOG, 64 * 4096, [5]) == 2
    assert erases(SMALL_MAP, 64 * 4096, [5]) == 0.25


def test_the_kinds_differ() -> None:
    assert len({kind.name for kind in KINDS}) == 4
    assert {kind.pages_per_block for kind in KINDS} == {32, 1024}


def test_the_bounds() -> None:
    intervals = [{0, 1, 2, 3, 4}, {9}, set()]
    assert bounds(SMALL_LOG, intervals) == Bounds(packed=6 / 4, in_place=3)
    # An interval costs again what the one before had changed.
    assert bounds(SMALL_LOG, [{9}, {9}]) == Bounds(packed=2 / 4, in_place=2)


def sector(text: bytes) -> bytes:
    return struct.pack("512s", text)


def test_a_trace_is_cut_at_its_marks() -> None:
    first = Entry(MARK_SECTOR, 0, sector(b"wear-mark day 0\n"))
    second = Entry(MARK_SECTOR, 0, sector(b"wear-mark flush 1\n"))
    other = Entry(MARK_SECTOR, 0, sector(b"something else\n"))
    written = [
        Entry(0, 0, bytes(4096)),
        first,
        Entry(8, 0, bytes(8192)),
        Entry(0, FLUSH, b""),
        other,
        second,
        # One sector across no border, and two across one
        Entry(25, 0, bytes(512)),
        Entry(31, 0, bytes(1024)),
    ]
    found = list(parts(written))
    assert [(part.name, part.number) for part in found] == [("boot", 0), ("day", 0), ("flush", 1)]
    assert [list(part.pages) for part in found] == [[0], [1, 2, MARK_SECTOR // 8], [3, 3, 4]]
    day = found[1]
    assert (day.writes, day.written_bytes, day.flushes) == (2, 8192 + 512, 1)
