"""A second writer of the flush log, made from its description alone, like flushlog.py's reader.

With it a card has flushes in its log that the program never saw, whose content is known beforehand,
and for which no guest has to boot. It sends no FLUSH: the order of writes is not its subject.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from harness.sparse import SECTOR
from product.flushlog import CHUNK, COMMIT, ENTRY, HEAD, HEADER, PREFIX, RECORD, VERSION, crc32c

# How many chunks after a segment its commit record describes
BEHIND = 8
# For each of four places: chunk of root, checksums of its sectors before the segment and with it
FINGERPRINT = struct.Struct("<Q8I8I")
UNUSED = FINGERPRINT.pack(2**64 - 1, *[0] * 16)


@dataclass(frozen=True)
class Written:
    """The places of a segment's parts, as chunks of the log's partition."""

    sequence: int
    head: list[int]
    table_bytes: int
    data: dict[int, int]  # chunk of root to its place
    commit: int


@dataclass
class LogWriter:
    """Makes an empty log in `path`, `chunks` long from byte `start` on, and appends to it."""

    path: Path
    chunks: int
    root_sectors: int
    root_uuid: bytes = bytes(16)
    start: int = 0
    align: int = 1
    label: bytes = b""
    root_start: int = 0
    seed: int = 0
    segments: list[Written] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = Random(self.seed)
        self.uuid = self._random.randbytes(16)
        self.length = (self.chunks - 1 - self.align) // self.align * self.align
        self._number = self._generation = self._previous = 0
        self._fingerprint: tuple[int, ...] = ()
        self._sequence = 0
        self._position = self._first = 0
        self._life = [0, 0, 0, 0]  # segments, chunks, merges, merged chunks
        self._begin()

    # --- what it does -------------------------------------------------------

    def fits(self, count: int) -> bool:
        """Whether a segment with this many chunks of data fits."""
        needed = self._head_chunks(count) + count + 1
        return self._position + needed - self._first <= self.length

    def append(
        self, data: Mapping[int, bytes], card: bytes = b"", when: int = 1_700_000_000
    ) -> Written:
        """Appends a flush of these chunks of root.

        With `card`, root's first chunk as the card has it, the segment can later tell whether
        another system wrote to that chunk.
        """
        assert self.fits(len(data)), "the log is full"
        olds = sorted(data)
        table = b"".join(ENTRY.pack(old, crc32c(data[old])) for old in olds)
        begin, count = self._position, len(olds)
        behind_head = begin + self._head_chunks(count)
        end = behind_head + count
        sequence, id_ = self._sequence + 1, self._random.getrandbits(64)
        head = _record(
            b"cowflSEG",
            HEAD.pack(
                self.uuid, self._generation, id_, self._previous, sequence, begin, count,
                crc32c(table), when,
            ) + self._watch(data, card),
        )  # fmt: skip
        self._put_row(begin, (head + table).ljust((behind_head - begin) * CHUNK, b"\0"))
        for n, old in enumerate(olds):
            self._put(self._at(behind_head + n), data[old])
        self._position = -(-(end + 1) // self.align) * self.align
        self._sequence, self._previous = sequence, id_
        commit = COMMIT.pack(
            self.uuid, self._generation, begin, id_, sequence, self._position,
            self._behind(self._position), 0,
        )  # fmt: skip
        self._put(self._at(end), _record(b"cowflEND", commit))
        written = Written(
            sequence=sequence,
            head=[self._at(at) for at in range(begin, behind_head)],
            table_bytes=len(table),
            data={old: self._at(behind_head + n) for n, old in enumerate(olds)},
            commit=self._at(end),
        )
        self.segments.append(written)
        return written

    def merged(self) -> None:
        """Records that root has all of the log: a new generation begins where the last one ends."""
        live = {old for segment in self.segments for old in segment.data}
        self._life[0] += len(self.segments)
        self._life[1] += sum(len(segment.data) for segment in self.segments)
        self._life[2] += 1
        self._life[3] += len(live)
        self.segments.clear()
        self._begin()

    # --- how ------------------------------------------------------------------

    def _begin(self) -> None:
        self._number += 1
        self._generation = self._previous = self._random.getrandbits(64)
        self._first = self._position
        self._fingerprint = ()
        header = HEADER.pack(
            self.uuid, self.label, self.chunks, self.align, 0, self._number, self.root_uuid,
            self.root_sectors, self._generation, self._sequence, self._position,
            self._behind(self._position), 0, 1_600_000_000, *self._life, self.root_start,
        )  # fmt: skip
        for chunk in (self.chunks - 1, 0):
            self._put(chunk, _record(b"cowflLOG", header))

    def _watch(self, data: Mapping[int, bytes], card: bytes) -> bytes:
        """The fingerprint of root's first chunk (ext's superblock) on the card and in this segment."""
        if not card:
            return UNUSED * 4
        before = _sectors(card)
        after = _sectors(data[0]) if 0 in data else self._fingerprint or before
        self._fingerprint = after
        return FINGERPRINT.pack(0, *before, *after) + UNUSED * 3

    @staticmethod
    def _head_chunks(count: int) -> int:
        return -(-(RECORD + count * ENTRY.size) // CHUNK)

    def _at(self, position: int) -> int:
        return self.align + position % self.length

    def _behind(self, position: int) -> int:
        with open(self.path, "rb") as file:
            read = bytearray()
            for at in range(position, position + BEHIND):
                file.seek(self.start + self._at(at) * CHUNK)
                read += file.read(CHUNK)
        return crc32c(read)

    def _put_row(self, position: int, data: bytes) -> None:
        for n in range(len(data) // CHUNK):
            self._put(self._at(position + n), data[n * CHUNK : (n + 1) * CHUNK])

    def _put(self, chunk: int, data: bytes) -> None:
        with open(self.path, "r+b") as file:
            file.seek(self.start + chunk * CHUNK)
            file.write(data.ljust(CHUNK, b"\0"))


def _record(magic: bytes, fields: bytes) -> bytes:
    blank = (PREFIX.pack(magic, VERSION, 0) + fields).ljust(RECORD, b"\0")
    return PREFIX.pack(magic, VERSION, crc32c(blank)) + blank[PREFIX.size :]


def _sectors(chunk: bytes) -> tuple[int, ...]:
    return tuple(crc32c(chunk[at : at + SECTOR]) for at in range(0, CHUNK, SECTOR))
