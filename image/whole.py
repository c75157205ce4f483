"""Whether an image is whole, by its partition table and each filesystem's own size."""

from __future__ import annotations

import struct
from pathlib import Path

from image import files
from image.errors import Refused
from image.table import Partition, Table

EXT_AT = 1024
EXT_64BIT = 0x80
# How a flush log begins, and the copy of its header in its last chunk
LOG_MAGIC, CHUNK = b"cowflLOG", 4096


def filesystem_bytes(head: bytes) -> int | None:
    """The size of the filesystem with these first bytes; None if it is unknown."""
    match files.kind_of(head):
        case "ext":
            low, log_size = struct.unpack_from("<4xI16xI", head, EXT_AT)
            (features,) = struct.unpack_from("<I", head, EXT_AT + 0x60)
            high = struct.unpack_from("<I", head, EXT_AT + 0x150)[0] if features & EXT_64BIT else 0
            if log_size > 6:
                raise Refused(f"an ext filesystem in it has blocks of 2^{10 + log_size} bytes")
            return int((high << 32 | low) << (10 + log_size))
        case "vfat":
            sector, small, large = struct.unpack_from("<11xH6xH11xI", head)
            return int(sector * (small or large))
        case "squashfs":
            return int(struct.unpack_from("<Q", head, 40)[0])
        case _:
            return None


def check(image: Path, disk: Table, called: Path) -> None:
    """Refuses an image that ends before its content does. `called` is what the person calls it.

    A squashfs needs no more than its own bytes: OpenWrt's images may end with it, in a larger
    partition.
    """
    size = image.stat().st_size
    for partition in disk.partitions:
        own = filesystem_bytes(files.head_of(image, partition))
        if own is not None and own > partition.bytes:
            raise Refused(
                f"{called}: the filesystem in partition {partition.number} has {own:,} bytes, and the partition "
                f"{partition.bytes:,}: get the image again"
            )
        end = partition.offset + (partition.bytes if own is None else own)
        if end > size:
            raise Refused(
                f"{called} is cut short: it has {size:,} bytes, and partition {partition.number} goes on to "
                f"{end:,}: get it again"
            )


def is_log(image: Path, partition: Partition) -> bool:
    """Whether a partition is a flush log, by either of its headers."""
    with open(image, "rb") as file:
        for at in (partition.offset, partition.offset + partition.bytes // CHUNK * CHUNK - CHUNK):
            file.seek(at)
            if file.read(len(LOG_MAGIC)) == LOG_MAGIC:
                return True
    return False
