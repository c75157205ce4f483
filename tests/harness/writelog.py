"""Reads the writes that a card received, in the order it received them (`write_log`).

SIGKILL of QEMU keeps every completed write. To test what a real card may lose at a power cut, tests
replay this log only up to a point.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAGIC = 0x6A736677736872
SUPERBLOCK = struct.Struct("<QQQI")  # magic, version, entries, sector size
ENTRY = struct.Struct("<QQQQ")  # sector, sectors, flags, length of a mark's text
FLUSH, FUA, DISCARD = 1, 2, 4


@dataclass(frozen=True)
class Entry:
    """One request; `data` is empty for a plain FLUSH and for a discard."""

    sector: int
    flags: int
    data: bytes

    @property
    def is_flush(self) -> bool:
        return bool(self.flags & FLUSH)


def entries(log: Path) -> Iterator[Entry]:
    """All complete entries, oldest first."""
    with open(log, "rb") as file:
        magic, _version, _count, size = SUPERBLOCK.unpack(file.read(SUPERBLOCK.size))
        if magic != MAGIC:
            raise ValueError(f"{log} isn't a write log: it does not begin with its magic number")
        # QEMU updates the superblock's count only now and then, so after a power cut the file's end
        # is what counts.
        at = size
        while True:
            file.seek(at)
            header = file.read(ENTRY.size)
            if len(header) < ENTRY.size:
                return
            sector, count, flags, _length = ENTRY.unpack(header)
            length = 0 if flags & DISCARD else count * size
            file.seek(at + size)
            data = file.read(length)
            if len(data) < length:
                return
            yield Entry(sector * size // 512, flags, data)
            at += size + length


def replay(writes: Iterator[Entry], card: Path) -> None:
    """Applies the entries to an image. Discards change nothing: our disks ignore them."""
    with open(card, "r+b") as image:
        for entry in writes:
            image.seek(entry.sector * 512)
            image.write(entry.data)
