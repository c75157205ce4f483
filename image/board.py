"""Builds the image of a board: a card that boots into a small system on cowflush's stack."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from image import bootloader, flushlog, regions, table, tools, tree
from image.errors import Refused
from image.regions import SECTOR
from image.table import Partition, Table

TOP = Path(__file__).resolve().parent.parent
ROOT, LOG = 1, 2
SMALLEST = 160 << 20
# Root's. The same in each image, so that an image is the same each time as far as that goes.
UUID = "c0f1a5b0-5eed-4c0f-8a5b-0000000a11c2"


def run(board: str, kernel: Path, out: Path, size: int) -> str:
    """Makes the image in the file `out`."""
    folder = TOP / "board" / board
    if not (folder / "partitions.sfdisk").exists():
        known = ", ".join(
            sorted(path.parent.name for path in (TOP / "board").glob("*/partitions.sfdisk"))
        )
        raise Refused(f"no board {board!r}: there are {known}")
    if size < SMALLEST or size % SECTOR:
        raise Refused(f"{size >> 20} MiB are too few: an image takes {SMALLEST >> 20} MiB or more")
    cmdline = (folder / "cmdline").read_text().strip()
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        disk = _partitions(partial, size, (folder / "partitions.sfdisk").read_text())
        root, log = _wanted(disk, cmdline)
        boot = {
            "vmlinuz": kernel.read_bytes(),
            "cowflush.gz": (TOP / "build" / "initramfs.cpio.gz").read_bytes(),
            "grub/grub.cfg": bootloader.menu(cmdline, f"cowflush on {board}").encode(),
        }
        _root(partial, root, boot)
        flushlog.make(partial, log, root)
        bootloader.install(partial, min(root.start, log.start), root.number)
        partial.rename(out)
    finally:
        partial.unlink(missing_ok=True)
    return f"{out}: {size >> 20} MiB, for {board}"


def _partitions(image: Path, size: int, script: str) -> Table:
    regions.create(image, size)
    disk = table.make(image, script)
    for partition in disk.partitions:
        if partition.start % table.ALIGN:
            raise Refused(
                f"the board's partition {partition.number} does not begin at a multiple of 4 MiB"
            )
    return disk


def _wanted(disk: Table, cmdline: str) -> tuple[Partition, Partition]:
    root, log = disk.partition(ROOT), disk.partition(LOG)
    if not root or not log or not re.search(rf"\broot=PARTUUID={disk.id}-0{ROOT}\b", cmdline):
        raise Refused(
            "the board's command line, or its partitions, are not root first and then the flush log"
        )
    return root, log


def _root(image: Path, root: Partition, boot: dict[str, bytes]) -> None:
    """The filesystem, filled. fakeroot: everything in it is root's, whoever builds it."""
    with tempfile.TemporaryDirectory(dir=image.parent) as temporary:
        folder, filesystem = Path(temporary, "tree"), Path(temporary, "root.img")
        tree.fill(folder, TOP / "build" / "i586", boot, TOP / "package" / "cowflush.conf")
        # All of it now: the kernel would else go on making the filesystem after the boot, on the card.
        options = "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0"
        command = [
            "fakeroot",
            "--",
            "mke2fs",
            "-q",
            "-F",
            "-t",
            "ext4",
            "-b",
            "4096",
            "-L",
            "root",
            "-U",
            UUID,
        ]
        tools.ok([*command, "-E", options, "-d", folder, filesystem, f"{root.bytes >> 10}k"])
        regions.copy(filesystem, image, 0, root.offset, root.bytes)
    nodes = b"cd /dev\nmknod console c 5 1\nmknod null c 1 3\n"
    tools.ok(["debugfs", "-w", "-f", "-", f"{image}?offset={root.offset}"], nodes)
