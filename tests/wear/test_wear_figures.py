"""What changed between flushes, the table, and other orders of a merge: on records made by hand."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from harness import ext
from harness.card import Card
from harness.ext import ExtImage, Filesystem
from harness.writelog import Entry
from product.flushlog import CHUNK, ENTRY, HEAD, RECORD
from wear import figures, states, table, whatif
from wear.model import KINDS, Kind
from wear.trace import MARK_SECTOR, SECTORS, Part

SMALL = Kind("log blocks", 4 * 4096, page_mapped=False)


def segment(chunks: dict[int, bytes]) -> bytes:
    """A segment's head, table and data, as far as the tests read them."""
    head = b"cowflSEG" + bytes(8) + HEAD.pack(bytes(16), 0, 0, 0, 1, 0, len(chunks), 0, 0)
    entries = b"".join(ENTRY.pack(old, 0) for old in chunks)
    front = head.ljust(RECORD, b"\0") + entries
    return front.ljust(-(-len(front) // CHUNK) * CHUNK, b"\0") + b"".join(chunks.values())


def mark(text: str) -> Entry:
    return Entry(MARK_SECTOR, 0, struct.pack("512s", f"wear-mark {text}\n".encode()))


def filled(byte: int) -> bytes:
    return bytes([byte]) * CHUNK


@pytest.fixture
def card(tmp_path: Path) -> Card:
    return Card.create(tmp_path / "card.img")


def test_segments_are_found_between_marks(card: Card) -> None:
    first, second = {5: filled(1), 9: filled(2)}, {9: filled(3)}
    start = card.log.start
    written = segment(first)
    entries = [
        Entry(start, 0, b"before the day"),
        mark("day 0"),
        mark("flush 1"),
        # In two requests, then the commit record; and a write of a merge besides
        Entry(start + 8, 0, written[:CHUNK]),
        Entry(start + 16, 0, written[CHUNK:]),
        Entry(card.root.start, 0, filled(7)),
        Entry(start + 40, 0, filled(0)),
        mark("day 1"),
        mark("flush 2"),
        mark("day 2"),
        mark("flush 3"),
        Entry(start + 48, 0, segment(second)),
        mark("finish 0"),
        Entry(start + 80, 0, segment({1: filled(9)})),
    ]
    assert list(states.segments(card, entries)) == [first, {}, second]


def test_a_segment_that_is_cut_off_is_an_error(card: Card) -> None:
    entries = [
        mark("flush 1"),
        Entry(card.log.start, 0, segment({5: filled(1)})[:-CHUNK]),
        mark("day 1"),
    ]
    with pytest.raises(ValueError, match="cut off"):
        list(states.segments(card, entries))


def test_only_what_differs_has_changed(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(filled(1) + filled(2))
    with open(image, "r+b") as file:
        assert states.apply(file.fileno(), {0: filled(1), 1: filled(5)}) == {1}
        assert states.apply(file.fileno(), {1: filled(5)}) == set()
    assert image.read_bytes() == filled(1) + filled(5)


def test_free_blocks_are_not_used(tmp_path: Path) -> None:
    folder, path = tmp_path / "folder", tmp_path / "root.img"
    folder.mkdir()
    (folder / "dev").mkdir()
    (folder / "file").write_bytes(os.urandom(10 * CHUNK))
    ext.make(path, Filesystem(), folder, 16 << 20)
    root = ExtImage(path)
    mine = root.blocks("/file")
    last = (16 << 20) // CHUNK - 1
    assert states.used(root, {0, *mine, last}) == {0, *mine}
    assert len(root.blocks("<8>")) >= 1024


def test_a_merge_is_compared_with_what_changed_since_the_last(card: Card) -> None:
    first = card.root.start // SECTORS
    flushes = [Part("flush", number) for number in (1, 2, 3)]
    flushes[1].pages.extend([first + 1, first + 2])
    finish = Part("finish", 0)
    finish.pages.append(first + 3)
    record = figures.Record([*flushes, finish], card)
    assert figures._merged(record, [{1}, {2}, {3}]) == [{1, 2}, {3}]


def test_gaps_are_filled_as_said() -> None:
    ways = {
        name: list(whatif.filled(SMALL, [9, 5, 6], fill)) for name, fill in whatif.FILLS.items()
    }
    assert ways == {
        "as_it_is": [5, 6, 9],
        "prefix": [4, 5, 6, 8, 9],
        "whole": [4, 5, 6, 7, 8, 9, 10, 11],
    }
    # Each of the two blocks is merged in full, or completed by the card, or switched.
    assert whatif.merges(SMALL, [[9, 5, 6]]) == {"as_it_is": 4, "prefix": 2, "whole": 2}


def test_segments_that_are_padded_take_a_block_each() -> None:
    # 3 and 3 pages: side by side they are two blocks, the second one begun where the first ended;
    # padded, each has a block that the card completes.
    assert whatif.segments(SMALL, [3, 3]) == {"packed": 2, "padded": 2}
    assert whatif.segments(SMALL, [1, 1, 1, 1]) == {"packed": 1, "padded": 4}


def a_day() -> dict[str, Any]:
    def contender(label: str, erases: float) -> dict[str, Any]:
        kinds = {
            kind.name: {"erases": erases, "of_packed": erases / 10, "of_in_place": None}
            for kind in KINDS
        }
        return {
            "label": label,
            "loses": "little",
            "kinds": kinds,
            "writes": 3,
            "written_bytes": 2 << 20,
            "flushes": 1,
        }

    bounds = {kind.name: {"packed": 10.0, "in_place": 0} for kind in KINDS}
    return {
        "bounds": bounds,
        "contenders": {"one": contender("One", 20), "other": contender("Other", 1000)},
    }


def test_the_table_has_the_most_worn_first() -> None:
    lines = table.main(a_day()).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "*bound: packed*",
        "*bound: in place*",
        "Other",
        "One",
    ]
    assert "1,000 (100×, -)" in lines[4] and "20 (2×, -)" in lines[5]
    assert len({len(line) for line in lines}) == 1


def test_the_losses_stand_beside_each_contender() -> None:
    assert "little" in table.losses(a_day()).splitlines()[-1]
    assert table.fewer(a_day(), "one", "other").endswith(f"{KINDS[-1].name}: 50.0")
