"""The demonstration's own judgement: its map of a card, and which files it calls whole."""

from __future__ import annotations

import pytest

from demo import picture
from demo.load import Files
from harness.card import Partition
from harness.writelog import Entry

CELL = picture.CELL_BYTES // 512


def test_a_request_counts_in_each_cell_that_it_touches() -> None:
    entries = [Entry(CELL - 1, 0, bytes(1024)), Entry(0, 0, bytes(512)), Entry(5 * CELL, 1, b"")]
    assert picture.touched(entries) == {0: 2, 1: 1}


def test_partitions_stand_below_each_other_and_what_is_outside_does_not_show() -> None:
    root, log = Partition(CELL, picture.COLUMNS * CELL + 1), Partition(1000 * CELL, CELL)
    entries = [Entry(0, 0, bytes(512)), *[Entry(2 * CELL, 0, bytes(512))] * 50]
    lines = picture.card(entries, [("root", root), ("log", log)])
    assert lines == ["root  ·█" + "·" * (picture.COLUMNS - 2), "      ·", "log   ·"]


@pytest.mark.parametrize(
    ("writes", "sign"), [(0, "·"), (1, "░"), (2, "▒"), (7, "▒"), (8, "▓"), (50, "█")]
)
def test_more_writes_are_darker(writes: int, sign: str) -> None:
    assert picture.shade(writes) == sign


@pytest.mark.parametrize(
    ("files", "whole"),
    [
        (Files(7, 7, 7, 7), True),
        (Files(8, 7, 7, 7), True),
        (Files(8, 8, 7, 7), True),
        (Files(8, 8, 8, 7), True),
        (Files(8, 8, 7, 6), False),
        (Files(7, 8, 7, 7), False),
        (Files(7, 6, 7, 7), False),
        (Files(8, 7, 7, 8), False),
    ],
)
def test_files_of_two_moments_are_not_whole(files: Files, whole: bool) -> None:
    assert files.whole() is whole
