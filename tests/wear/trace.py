"""What a card received, cut into the parts of a day by the marks that the guest left."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from harness.sparse import SECTOR
from harness.writelog import Entry
from wear.model import PAGE

# Marks are single sectors between the partition table and the first partition.
MARK_SECTOR = 4096
MARK = re.compile(rb"wear-mark (\w+) (\d+)\n")
SECTORS = PAGE // SECTOR


@dataclass
class Part:
    """The writes between two marks; `name` and `number` are those of the mark before."""

    name: str
    number: int
    pages: array[int] = field(default_factory=lambda: array("L"))
    writes: int = 0
    written_bytes: int = 0
    flushes: int = 0

    def add(self, entry: Entry) -> None:
        self.flushes += entry.is_flush
        if entry.data:
            self.writes += 1
            self.written_bytes += len(entry.data)
            self.pages.extend(touched(entry))


def touched(entry: Entry) -> range:
    """The pages that a write programs: the card writes a page as a whole even for a part of it."""
    end = entry.sector + len(entry.data) // SECTOR
    return range(entry.sector // SECTORS, -(-end // SECTORS))


def mark(entry: Entry) -> tuple[str, int] | None:
    """The guest's mark, if the request is one."""
    if entry.sector != MARK_SECTOR:
        return None
    found = MARK.match(entry.data)
    return (found[1].decode(), int(found[2])) if found else None


def parts(entries: Iterable[Entry]) -> Iterator[Part]:
    """The parts in order: before the first mark it is the boot's, after the last one the end's."""
    part = Part("boot", 0)
    for entry in entries:
        found = mark(entry)
        if found:
            yield part
            part = Part(*found)
        else:
            part.add(entry)
    yield part
