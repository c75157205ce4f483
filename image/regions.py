"""Copies parts of large, mostly empty files."""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from image.errors import Refused

SECTOR = 512
BLOCK = 1 << 20
GZIP = b"\x1f\x8b"
# How files of other packers begin; nothing on a card begins like that
PACKED = {b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"PK\x03\x04": "zip"}
# The end of what OpenWrt's fwtool appends: magic, checksum, type, bytes including this record;
# big-endian
TRAILER, TRAILER_MAGIC = struct.Struct(">4sIB3xI"), b"FWx0"


def data(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts (from, to) of a file that hold data; the rest is holes."""
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


def read_all(fd: int, size: int, at: int) -> bytes:
    """`size` bytes from `at`: one call may return less. A file that ends before is an error."""
    parts, done = [], 0
    while done < size:
        part = os.pread(fd, size - done, at + done)
        if not part:
            raise Refused(f"it ends at {at + done} bytes, and goes on to {at + size}")
        parts.append(part)
        done += len(part)
    return b"".join(parts)


def write_all(fd: int, content: bytes, at: int) -> None:
    """Writes all of it: one call may write less, for example on a nearly full filesystem."""
    done = 0
    while done < len(content):
        done += os.pwrite(fd, content[done:], at + done)


def copy(source: Path, target: Path, source_at: int, target_at: int, size: int) -> None:
    """Copies a part of one file over an empty part of another; zeros stay holes."""
    with open(source, "rb") as src, open(target, "r+b") as dst:
        for begin, end in data(src.fileno(), source_at, source_at + size):
            for at in range(begin, end, BLOCK):
                chunk = read_all(src.fileno(), min(BLOCK, end - at), at)
                if chunk.count(0) != len(chunk):
                    write_all(dst.fileno(), chunk, at - source_at + target_at)


def clear(path: Path, at: int, size: int) -> None:
    """Clears a part of a file: `copy` leaves zeros out, so nothing old may be there."""
    with open(path, "r+b") as file:
        for begin, end in data(file.fileno(), at, at + size):
            for place in range(begin, end, BLOCK):
                count = min(BLOCK, end - place)
                old = read_all(file.fileno(), count, place)
                if old.count(0) != count:
                    write_all(file.fileno(), bytes(count), place)


def create(path: Path, size: int) -> None:
    """An empty file of `size` bytes."""
    with open(path, "wb") as file:
        file.truncate(size)


def packed(source: Path) -> bool:
    """Whether it is packed with gzip. Refuses what is packed in another way."""
    with open(source, "rb") as file:
        head = file.read(8)
    for magic, name in PACKED.items():
        if head.startswith(magic):
            raise Refused(f"{source} is packed with {name}: unpack it first (gzip is understood)")
    return head.startswith(GZIP)


def duplicate(source: Path, target: Path) -> None:
    """Copies the whole file; unpacks it if it is packed with gzip."""
    if packed(source):
        _unpack(source, target)
    else:
        create(target, source.stat().st_size)
        copy(source, target, 0, 0, source.stat().st_size)


def _unpack(source: Path, target: Path) -> None:
    """Unpacks all members in order, as gzip does; each proves its length and its checksum."""
    create(target, 0)
    with open(source, "rb") as src, open(target, "r+b") as dst:
        size, at = 0, 0
        while True:
            try:
                size, at = _member(src, at, dst.fileno(), size)
            except zlib.error as error:
                raise Refused(f"{source} is damaged: {error}: get it again") from error
            if at == 0:
                raise Refused(f"{source} is cut short: get it again")
            if not _another(src, at):
                break
        _check_rest(source, src, at)
        dst.truncate(size)


def _member(src: BinaryIO, at: int, target: int, size: int) -> tuple[int, int]:
    """Unpacks the member at `at` to the target's byte `size`.

    Returns where the target then ends, and the member; the latter is 0 if the file ends first.
    """
    unpacker = zlib.decompressobj(31)
    src.seek(at)
    while not unpacker.eof and (chunk := src.read(BLOCK)):
        plain = unpacker.decompress(chunk)
        for place in range(0, len(plain), BLOCK):
            part = plain[place : place + BLOCK]
            if part.count(0) != len(part):
                write_all(target, part, size + place)
        size += len(plain)
    return size, src.tell() - len(unpacker.unused_data) if unpacker.eof else 0


def _another(src: BinaryIO, at: int) -> bool:
    src.seek(at)
    return src.read(2) == GZIP


def _check_rest(source: Path, src: BinaryIO, at: int) -> None:
    """Allows zeros and OpenWrt's trailer after the packed data; the rest may be the image's."""
    end = src.seek(0, os.SEEK_END)
    while end - at >= TRAILER.size:
        src.seek(end - TRAILER.size)
        magic, _, _, count = TRAILER.unpack(src.read(TRAILER.size))
        if magic != TRAILER_MAGIC or not TRAILER.size <= count <= end - at:
            break
        end -= count
    src.seek(at)
    while at < end:
        chunk = src.read(min(BLOCK, end - at))
        if chunk.count(0) != len(chunk):
            raise Refused(
                f"{source}: what follows its packed data is not understood: get it again, or unpack it with gunzip"
            )
        at += len(chunk)
