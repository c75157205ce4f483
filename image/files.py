"""Files in a filesystem of an image, whatever its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from image.ext import Ext
from image.fat import Fat
from image.regions import SECTOR
from image.table import Partition

EXT_MAGIC_AT, EXT_MAGIC = 1024 + 56, b"\x53\xef"
SQUASHFS = b"hsqs"
HEAD = 4 * SECTOR


class Files(Protocol):
    """What all kinds can do. Paths are absolute."""

    kind: str

    def read(self, path: str) -> bytes | None: ...
    def write(self, path: str, content: bytes, mode: int = 0o644) -> None: ...
    def free(self) -> int: ...
    def prepare(self, what: str) -> str: ...
    def verify(self, what: str) -> None: ...


def head_of(image: Path, partition: Partition) -> bytes:
    """The first bytes of a partition, where superblocks are; zeros past the file's end."""
    with open(image, "rb") as file:
        file.seek(partition.offset)
        return file.read(HEAD).ljust(HEAD, b"\0")


def kind_of(head: bytes) -> str:
    """What a partition with these first bytes holds: ext, vfat, squashfs, or ""."""
    if head[EXT_MAGIC_AT : EXT_MAGIC_AT + 2] == EXT_MAGIC:
        return "ext"
    if head[510:512] == b"\x55\xaa" and (head[54:57] == b"FAT" or head[82:85] == b"FAT"):
        return "vfat"
    return "squashfs" if head[:4] == SQUASHFS else ""


def kind(image: Path, partition: Partition) -> str:
    """What an image's partition holds, in `kind_of`'s words."""
    return kind_of(head_of(image, partition))


def open_partition(image: Path, partition: Partition) -> Files | None:
    """The files of a partition, if they can be read and written."""
    match kind(image, partition):
        case "ext":
            return Ext(image, partition.offset)
        case "vfat":
            return Fat(image, partition.offset)
        case _:
            return None
