"""A run's record as numbers: what the card received and erased, compared with the bounds."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import writelog
from harness.card import CARD_BYTES, Card, Partition
from wear import model, states, whatif
from wear.bounds import Bounds, bounds
from wear.model import KINDS, Kind
from wear.run import Run
from wear.trace import SECTORS, Part, parts

Figures = dict[str, Any]
# Other assumptions about a controller, to see whether they change the order
OTHER_LOG_BLOCKS = (4, 16)


@dataclass(frozen=True)
class Record:
    """What a card received from the first mark on: the day, its flushes, and its last flush."""

    parts: list[Part]
    card: Card

    @classmethod
    def read(cls, log: Path, card: Card) -> Record:
        return cls([part for part in parts(writelog.entries(log)) if part.name != "boot"], card)

    def pages(self, partition: Partition | None = None) -> array[int]:
        """All page writes in order, or those in a partition."""
        found = array("L")
        for part in self.parts:
            found.extend(part.pages if partition is None else _inside(part.pages, partition))
        return found

    def has_log(self) -> bool:
        return any(True for part in self.parts for _ in _inside(part.pages, self.card.log))


def _inside(pages: Iterable[int], partition: Partition) -> Iterable[int]:
    first, end = partition.start // SECTORS, (partition.start + partition.size) // SECTORS
    return (page for page in pages if first <= page < end)


def changed(run: Run, blank: Card) -> list[Set[int]]:
    """What changed from flush to flush; `run` must be of a card with a flush log."""
    return list(states.changes(blank, writelog.entries(run.log)))


def of_bounds(intervals: Sequence[Set[int]]) -> Figures:
    figures: Figures = {kind.name: asdict(bounds(kind, intervals)) for kind in KINDS}
    return {"pages": sum(map(len, intervals)), "intervals": len(intervals), **figures}


def of_run(run: Run, host_seconds: float, intervals: Sequence[Set[int]]) -> Figures:
    """A run's figures; `intervals` is what changed from flush to flush in the same work."""
    record = Record.read(run.log, run.card)
    figures: Figures = {
        "label": run.contender.label,
        "loses": run.contender.loses,
        "host_seconds": round(host_seconds, 1),
        "events": run.events,
        "late_ms": run.late_ms,
        "latest_ms": run.latest_ms,
        "flush_commands": run.flushes,
        "writes": sum(part.writes for part in record.parts),
        "written_bytes": sum(part.written_bytes for part in record.parts),
        "flushes": sum(part.flushes for part in record.parts),
        "kinds": _each(lambda kind: _compared(kind, record.pages(), bounds(kind, intervals))),
        "other_log_blocks": {
            str(count): _with_log_blocks(record.pages(), count) for count in OTHER_LOG_BLOCKS
        },
    }
    if record.has_log():
        figures["log"] = _of_log(record, intervals)
    return figures


def _each(figures: Callable[[Kind], Figures]) -> Figures:
    return {kind.name: figures(kind) for kind in KINDS}


def _compared(kind: Kind, pages: Iterable[int], least: Bounds) -> Figures:
    erases = model.erases(kind, CARD_BYTES, pages)
    return {
        "erases": round(erases, 2),
        "of_packed": round(erases / least.packed, 3) if least.packed else None,
        "of_in_place": round(erases / least.in_place, 3) if least.in_place else None,
    }


def _with_log_blocks(pages: Iterable[int], count: int) -> float:
    card = model.LogBlocks(KINDS[0].pages_per_block, count)
    for page in pages:
        card.write(page)
    card.settle()
    return card.erases


def _of_log(record: Record, intervals: Sequence[Set[int]]) -> Figures:
    """The flushes alone against the packed bound, the merges alone against the one in place."""
    merged = _merged(record, intervals)
    root, log = record.pages(record.card.root), record.pages(record.card.log)
    return {
        "merges": len(merged),
        "merged_pages": sum(map(len, merged)),
        "log_pages": len(log),
        "root_pages": len(root),
        "other_merges": _each(lambda kind: whatif.merges(kind, _root_writes(record))),
        "other_segments": _each(lambda kind: whatif.segments(kind, _segments(record))),
        "append": _each(lambda kind: _compared(kind, log, bounds(kind, intervals))),
        "merge": _each(
            lambda kind: {
                **_compared(kind, root, bounds(kind, merged)),
                "in_place": bounds(kind, merged).in_place,
            }
        ),
    }


def _merged(record: Record, intervals: Sequence[Set[int]]) -> list[Set[int]]:
    """For each merge, what changed since the last one. Only merges write to root's partition."""
    found, pending = list[Set[int]](), set[int]()
    for part in record.parts:
        if part.name == "flush" and part.number <= len(intervals):
            pending |= intervals[part.number - 1]
        if any(True for _ in _inside(part.pages, record.card.root)):
            found.append(pending)
            pending = set()
    return found


def _root_writes(record: Record) -> list[list[int]]:
    """The pages that each merge writes."""
    return [
        pages for part in record.parts if (pages := list(_inside(part.pages, record.card.root)))
    ]


def _segments(record: Record) -> list[int]:
    """How many pages each flush appends."""
    lengths = (
        sum(1 for _ in _inside(part.pages, record.card.log))
        for part in record.parts
        if part.name == "flush"
    )
    return [length for length in lengths if length]
