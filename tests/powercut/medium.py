"""Rebuilds the card as a power cut left it, quickly: it writes only what differs."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness import sparse
from harness.card import Card
from harness.sparse import SECTOR
from harness.writelog import Entry
from powercut.states import State


class Medium:
    """Each partition of a card in a file of its own.

    States must come in the order of their epochs.
    """

    def __init__(self, directory: Path, blank: Card, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self._applied = 0
        self.files: list[Path] = []
        self._parts: list[tuple[range, mmap.mmap]] = []
        for number, part in enumerate(blank.partitions, start=1):
            path = directory / f"part-{number}.img"
            path.unlink(missing_ok=True)
            sparse.copy_range(blank.path, path, part.start * SECTOR, 0, part.size * SECTOR)
            with open(path, "r+b") as file:
                self._parts.append((part.sectors, mmap.mmap(file.fileno(), 0)))
            self.files.append(path)

    @contextmanager
    def after(self, state: State) -> Iterator[None]:
        """The files hold this state until the end of the block."""
        if state.start < self._applied:
            raise ValueError(
                f"{state.name} lies before a state that was rebuilt already: sort them by epoch"
            )
        for entry in self._entries[self._applied : state.start]:
            self._write(entry.sector, entry.data)
        self._applied = state.start
        undo = [(sector, self._write(sector, data)) for sector, data in state.pieces(self._entries)]
        yield
        for sector, data in reversed(undo):
            self._write(sector, data)

    def _write(self, sector: int, data: bytes) -> bytes:
        """Writes to the sector's partition, if any, and returns what was there."""
        for sectors, content in self._parts:
            if sector in sectors:
                at = (sector - sectors.start) * SECTOR
                before = content[at : at + len(data)]
                content[at : at + len(data)] = data
                return before
        return b""


def rebuild(path: Path, blank: Card, entries: Sequence[Entry], state: State) -> Card:
    """A whole card in this state, to boot from."""
    card = blank.copy(path)
    before = ((entry.sector, entry.data) for entry in entries[: state.start])
    with open(path, "r+b") as image:
        for sector, data in (*before, *state.pieces(entries)):
            image.seek(sector * SECTOR)
            image.write(data)
    return card
