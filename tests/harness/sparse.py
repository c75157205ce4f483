"""Copies and compares large, mostly empty files quickly."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from harness import local

SECTOR = 512
BLOCK = 1 << 20


def copy(source: Path, target: Path) -> None:
    """A copy that takes no more room than the original."""
    local.run(["cp", "--reflink=auto", "--sparse=always", source, target], check=True)


def extents(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts (from, to) of a file that hold data; the rest is holes."""
    position = start
    while position < end:
        try:
            data = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        if data >= end:
            return
        position = min(os.lseek(fd, data, os.SEEK_HOLE), end)
        yield data, position


def copy_range(source: Path, target: Path, source_at: int, target_at: int, size: int) -> None:
    """Copies a part of one file over a hole of another."""
    flags = os.O_RDWR | os.O_CREAT
    with open(source, "rb") as src, open(os.open(target, flags, 0o644), "r+b") as dst:
        dst.truncate(max(os.fstat(dst.fileno()).st_size, target_at + size))
        for begin, end in extents(src.fileno(), source_at, source_at + size):
            for at in range(begin, end, BLOCK):
                chunk = os.pread(src.fileno(), min(BLOCK, end - at), at)
                os.pwrite(dst.fileno(), chunk, at - source_at + target_at)


def differing_sectors(one: Path, other: Path) -> list[int]:
    """The sectors in which two files of the same size differ."""
    if one.stat().st_size != other.stat().st_size:
        raise ValueError(f"{one} and {other} differ in size, so their sectors can't be compared")
    found: set[int] = set()
    with open(one, "rb") as left, open(other, "rb") as right:
        a, b = left.fileno(), right.fileno()
        # A hole in both files is the same in both.
        for begin, end in [
            *extents(a, 0, one.stat().st_size),
            *extents(b, 0, other.stat().st_size),
        ]:
            for at in range(begin, end, BLOCK):
                size = min(BLOCK, end - at)
                found.update(_differing(os.pread(a, size, at), os.pread(b, size, at), at))
    return sorted(found)


def _differing(a: bytes, b: bytes, at: int) -> Iterator[int]:
    if a != b:
        for i in range(0, len(a), SECTOR):
            if a[i : i + SECTOR] != b[i : i + SECTOR]:
                yield (at + i) // SECTOR
