"""Copies parts of large, mostly empty files."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

SECTOR = 512
BLOCK = 1 << 20


def data(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts (from, to) of a file that hold data; the rest are holes."""
    while start < end:
        try:
            begin = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        if begin >= end:
            return
        start = min(os.lseek(fd, begin, os.SEEK_HOLE), end)
        yield begin, start


def copy(source: Path, target: Path, source_at: int, target_at: int, size: int) -> None:
    """Copies a part of one file over a part of another that holds nothing there; zeros stay holes."""
    with open(source, "rb") as src, open(target, "r+b") as dst:
        for begin, end in data(src.fileno(), source_at, source_at + size):
            for at in range(begin, end, BLOCK):
                chunk = os.pread(src.fileno(), min(BLOCK, end - at), at)
                if chunk.count(0) != len(chunk):
                    os.pwrite(dst.fileno(), chunk, at - source_at + target_at)


def create(path: Path, size: int) -> None:
    """An empty file of `size` bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.truncate(size)


def duplicate(source: Path, target: Path) -> None:
    """The whole file; what is packed with gzip is unpacked. What follows the packed data is left out."""
    with open(source, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if packed:
        _unpack(source, target)
    else:
        create(target, source.stat().st_size)
        copy(source, target, 0, 0, source.stat().st_size)


def _unpack(source: Path, target: Path) -> None:
    unpacker, size = zlib.decompressobj(31), 0
    create(target, 0)
    with open(source, "rb") as src, open(target, "r+b") as dst:
        while not unpacker.eof and (chunk := src.read(BLOCK)):
            plain = unpacker.decompress(chunk)
            for at in range(0, len(plain), BLOCK):
                part = plain[at : at + BLOCK]
                if part.count(0) != len(part):
                    os.pwrite(dst.fileno(), part, size + at)
            size += len(plain)
        dst.truncate(size)
