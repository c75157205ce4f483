"""A second reader of the flush log, made from its description alone.

It shares nothing with the program, so where both agree on a card, neither has misread the format.
It is strict and simple: it follows the chain as far as it goes and drops what is damaged; it
doesn't tell torn from clean.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness import sparse
from harness.card import Card, Partition
from harness.ext import ExtImage
from harness.sparse import SECTOR

CHUNK = 4096
RECORD = 512
ENTRY = struct.Struct("<QI")
PREFIX = struct.Struct("<8sII")  # magic, version, checksum
CRC_AT = 12
# UUID, label, chunks, align, fill, number, root's UUID, root's sectors, start (id, sequence,
# position, behind, -), life (made, segments, chunks, merges, merged), where root begins
HEADER = struct.Struct("<16s16sQIIQ16sQQQQIIqQQQQQ")
# log's UUID, generation, id, previous, sequence, position, count, table's checksum, when
HEAD = struct.Struct("<16sQQQQQIIq")
# log's UUID, random number of the last segment or of the generation, boots that began
TRIES = struct.Struct("<16sQI")
TRIES_AT = 512
# log's UUID, generation, position, link (id, sequence, position, behind, -)
COMMIT = struct.Struct("<16sQQQQQII")
VERSION = 1


@functools.cache
def _crc_table() -> list[int]:
    """The table for two bytes at a time: one byte at a time takes twice as long."""
    table = []
    for value in range(1 << 16):
        for _ in range(16):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


def crc32c(data: bytes | bytearray) -> int:
    """Castagnoli's checksum (RFC 3720) of an even number of bytes."""
    return _crc32c(bytes(data))


# Tests check the same chunks again and again.
@functools.lru_cache(maxsize=1 << 14)
def _crc32c(data: bytes) -> int:
    table, state = _crc_table(), 0xFFFFFFFF
    for (pair,) in struct.iter_unpack("<H", data):
        state = table[(state ^ pair) & 0xFFFF] ^ state >> 16
    return state ^ 0xFFFFFFFF


class HasLog(Protocol):
    """A file with a flush log in it, such as a card."""

    @property
    def path(self) -> Path: ...

    @property
    def log(self) -> Partition: ...


@dataclass(frozen=True)
class LogImage:
    """A file that is a log's partition and nothing else."""

    path: Path

    @property
    def log(self) -> Partition:
        return Partition(0, self.path.stat().st_size // SECTOR)


@dataclass(frozen=True)
class Header:
    uuid: bytes
    label: bytes
    chunks: int
    align: int
    fill: int
    number: int
    root_uuid: bytes
    root_sectors: int
    generation: int
    sequence: int
    position: int
    root_start: int


@dataclass(frozen=True)
class Segment:
    """A segment, and the places of its parts, as chunks of the log's partition."""

    sequence: int
    id: int
    head: int
    table_bytes: int
    olds: tuple[int, ...]
    crcs: tuple[int, ...]
    places: tuple[int, ...]
    commit: int
    committed: bool
    next_position: int


class FlushLog:
    """What a boot must find in the log of a card that no guest runs on."""

    def __init__(self, card: HasLog) -> None:
        self.card = card
        with open(card.path, "rb") as image:
            image.seek(card.log.start * SECTOR)
            self._data = image.read(card.log.size * SECTOR)
        copies = [self._header(0), self._header(len(self._data) // CHUNK - 1)]
        intact = [copy for copy in copies if copy]
        assert intact, f"{card.path} has no intact header of a flush log"
        self.whole = copies[0] == copies[1]
        self.header = max(intact, key=lambda header: header.number)
        self.first = self.header.align
        self.length = (
            (self.header.chunks - 1 - self.header.align) // self.header.align * self.header.align
        )
        self.segments = self._follow()
        self.dropped = self._drop_damaged()

    @property
    def sequences(self) -> list[int]:
        return [segment.sequence for segment in self.segments]

    @property
    def youngest(self) -> int:
        """The largest sequence number in any commit record of this log, chained or not."""
        found = [0]
        for chunk in range(self.first, self.first + self.length):
            fields = self._record(b"cowflEND", COMMIT, chunk)
            if fields and fields[0] == self.header.uuid:
                found.append(fields[4])
        return max(found)

    @property
    def tries(self) -> int:
        """How many boots in a row have begun on the stack without a flush or an orderly end."""
        at = len(self._data) // CHUNK * CHUNK - CHUNK + TRIES_AT
        fields = self._fields(b"cowflTRY", TRIES, at)
        last = self.segments[-1].id if self.segments else self.header.generation
        return fields[2] if fields and fields[:2] == (self.header.uuid, last) else 0

    def live(self) -> dict[int, int]:
        """For each chunk of root, the chunk of the log that holds its youngest data."""
        return {
            old: place
            for segment in self.segments
            for old, place in zip(segment.olds, segment.places, strict=True)
        }

    def used(self) -> int:
        """Chunks in use."""
        return (
            self.segments[-1].next_position if self.segments else self.header.position
        ) - self.header.position

    def chunk(self, number: int) -> bytes:
        return self._data[number * CHUNK : (number + 1) * CHUNK]

    def sector(self, chunk: int) -> int:
        """The first sector of the card that a chunk of the log lies on."""
        return self.card.log.start + chunk * CHUNK // SECTOR

    def apply(self, root: Path) -> None:
        """Merges the log into an image of root."""
        with open(root, "r+b") as image:
            for old, place in self.live().items():
                image.seek(old * CHUNK)
                image.write(self.chunk(place))

    # --- records ------------------------------------------------------------

    def _record(self, magic: bytes, fields: struct.Struct, chunk: int) -> tuple[Any, ...] | None:
        return self._fields(magic, fields, chunk * CHUNK)

    def _fields(self, magic: bytes, fields: struct.Struct, at: int) -> tuple[Any, ...] | None:
        if self._data[at : at + 8] != magic:
            return None
        record = self._data[at : at + RECORD]
        _magic, version, crc = PREFIX.unpack_from(record)
        if crc32c(record[:CRC_AT] + bytes(4) + record[CRC_AT + 4 :]) != crc or version != VERSION:
            return None
        return fields.unpack_from(record, PREFIX.size)

    def _header(self, chunk: int) -> Header | None:
        fields = self._record(b"cowflLOG", HEADER, chunk)
        if not fields:
            return None
        (
            uuid,
            label,
            chunks,
            align,
            fill,
            number,
            root_uuid,
            root_sectors,
            id_,
            sequence,
            position,
            *_,
            root_start,
        ) = fields
        return Header(
            uuid=uuid,
            label=label.rstrip(b"\0"),
            chunks=chunks,
            align=align,
            fill=fill,
            number=number,
            root_uuid=root_uuid,
            root_sectors=root_sectors,
            generation=id_,
            sequence=sequence,
            position=position,
            root_start=root_start,
        )

    def _at(self, position: int) -> int:
        return self.first + position % self.length

    def _follow(self) -> list[Segment]:
        segments: list[Segment] = []
        previous, sequence, position = (
            self.header.generation,
            self.header.sequence,
            self.header.position,
        )
        while segment := self._segment(previous, sequence, position):
            segments.append(segment)
            previous, sequence, position = segment.id, segment.sequence, segment.next_position
        return segments

    def _segment(self, previous: int, sequence: int, position: int) -> Segment | None:
        head = self._record(b"cowflSEG", HEAD, self._at(position))
        if not head:
            return None
        log, generation, id_, before, number, where, count, table_crc, _when = head
        head_chunks = -(-(RECORD + count * ENTRY.size) // CHUNK)
        end = position + head_chunks + count + 1
        ours = (log, generation, before, where) == (
            self.header.uuid,
            self.header.generation,
            previous,
            position,
        )
        if not ours or number <= sequence or end - self.header.position > self.length:
            return None
        table = b"".join(self.chunk(self._at(position + n)) for n in range(head_chunks))
        table = table[RECORD : RECORD + count * ENTRY.size]
        if crc32c(table) != table_crc:
            return None
        entries = list(ENTRY.iter_unpack(table))
        commit = self._at(end - 1)
        align = self.header.align
        segment = Segment(
            sequence=number,
            id=id_,
            head=self._at(position),
            table_bytes=len(table),
            olds=tuple(old for old, _ in entries),
            crcs=tuple(crc for _, crc in entries),
            places=tuple(self._at(position + head_chunks + n) for n in range(count)),
            commit=commit,
            committed=self._committed(commit, position, id_),
            next_position=-(-end // align) * align,
        )
        return segment if segment.committed or not self._bad(segment) else None

    def _committed(self, chunk: int, position: int, id_: int) -> bool:
        fields = self._record(b"cowflEND", COMMIT, chunk)
        return fields is not None and fields[:4] == (
            self.header.uuid,
            self.header.generation,
            position,
            id_,
        )

    def _bad(self, segment: Segment) -> set[int]:
        return {
            place
            for place, crc in zip(segment.places, segment.crcs, strict=True)
            if crc32c(self.chunk(place)) != crc
        }

    def _drop_damaged(self) -> int:
        """Ends the chain before the first segment with damaged live data.

        Returns how many it drops.
        """
        there = len(self.segments)
        bad = [self._bad(segment) for segment in self.segments]
        while True:
            live = set(self.live().values())
            cut = next((n for n, _ in enumerate(self.segments) if bad[n] & live), None)
            if cut is None:
                return there - len(self.segments)
            del self.segments[cut:]


def recovered(card: Card) -> ExtImage:
    """The card's root as a boot would find it, with the log applied, in a file beside the card's."""
    image = card.path.with_suffix(".recovered.img")
    image.unlink(missing_ok=True)
    sparse.copy_range(card.path, image, card.root.start * SECTOR, 0, card.root.size * SECTOR)
    FlushLog(card).apply(image)
    return ExtImage(image)


def log_image(card: Card, path: Path) -> Path:
    """The log's partition as a file."""
    path.unlink(missing_ok=True)
    sparse.copy_range(card.path, path, card.log.start * SECTOR, 0, card.log.size * SECTOR)
    return path


def flip(card: HasLog, chunk: int, byte: int = 0, bit: int = 0) -> None:
    """Flips one bit of a chunk of the log."""
    with open(card.path, "r+b") as image:
        at = card.log.start * SECTOR + chunk * CHUNK + byte
        image.seek(at)
        value = image.read(1)[0]
        image.seek(at)
        image.write(bytes([value ^ 1 << bit]))


def write(card: HasLog, chunk: int, data: bytes) -> None:
    """Writes over a chunk of the log."""
    with open(card.path, "r+b") as image:
        image.seek(card.log.start * SECTOR + chunk * CHUNK)
        image.write(data)


def formats(card: HasLog) -> list[int]:
    """The number of the format in each copy of the header."""
    return [int(PREFIX.unpack_from(record)[1]) for _, record in _copies(card)]


def set_format(card: HasLog, number: int) -> None:
    """Sets the format's number in the header; an older program must not look at anything else."""
    for at, record in _copies(card):
        magic, _, _ = PREFIX.unpack_from(record)
        blank = PREFIX.pack(magic, number, 0) + record[PREFIX.size :]
        with open(card.path, "r+b") as image:
            image.seek(at)
            image.write(PREFIX.pack(magic, number, crc32c(blank)) + blank[PREFIX.size :])


def _copies(card: HasLog) -> list[tuple[int, bytes]]:
    start, chunks = card.log.start * SECTOR, card.log.size * SECTOR // CHUNK
    with open(card.path, "rb") as image:
        found = []
        for at in (start, start + (chunks - 1) * CHUNK):
            image.seek(at)
            found.append((at, image.read(RECORD)))
    return found
