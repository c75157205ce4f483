"""The partition of an image that `root=` means."""

from __future__ import annotations

import re
from pathlib import Path

from image import files
from image.errors import Refused
from image.ext import Ext
from image.table import Partition, Table


def partition_of(image: Path, disk: Table, root: str) -> Partition:
    """The partition that `root=` names, in words that cowflush's init understands, too."""
    if not root:
        raise Refused("the entry that is started by itself has no root=")
    key, _, value = root.partition("=")
    if key == "PARTUUID":
        number = _by_disk(disk, value)
    elif key in ("UUID", "LABEL"):
        number = _by_filesystem(image, disk, key, value)
    elif found := re.fullmatch(r"/dev/(?:[hs]d[a-z]|mmcblk\d+p)(\d+)", root):
        number = int(found[1])
    else:
        raise Refused(
            f"root={root} is not understood: it must be /dev/sda1, PARTUUID=, UUID= or LABEL="
        )
    partition = disk.partition(number)
    if partition is None:
        raise Refused(f"root={root} names none of the image's partitions")
    return partition


def _by_disk(disk: Table, value: str) -> int:
    name, _, number = value.lower().rpartition("-")
    return (
        int(number, 16) if name == disk.id.lower() and re.fullmatch(r"[0-9a-f]{2}", number) else 0
    )


def _by_filesystem(image: Path, disk: Table, key: str, value: str) -> int:
    name = {"UUID": "Filesystem UUID", "LABEL": "Filesystem volume name"}[key]
    found = [
        partition.number
        for partition in disk.partitions
        if files.kind(image, partition) == "ext"
        and Ext(image, partition.offset).superblock().get(name) == value
    ]
    if len(found) > 1:
        raise Refused(f"root={key}={value} names several of the image's partitions")
    return found[0] if found else 0
