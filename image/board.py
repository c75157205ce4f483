"""Builds the image of a board: a card that boots into a small system on cowflush's stack."""

from __future__ import annotations

import re
from pathlib import Path

from image import bootloader, flushlog, notices, output, regions, table, tools, tree, version
from image import kernel as kernels
from image.errors import Refused
from image.ext import Ext
from image.regions import SECTOR
from image.table import Partition, Table

TOP = Path(__file__).resolve().parent.parent
ROOT, LOG = 1, 2
SMALLEST = 160 << 20
# Root's UUID, the same in each image, so that images are reproducible
UUID = "c0f1a5b0-5eed-4c0f-8a5b-0000000a11c2"


def run(board: str, kernel: Path, out: Path, size: int, replace: bool = False) -> str:
    """Makes the image in the file `out`."""
    folder = TOP / "board" / board
    if not re.fullmatch(r"[\w-]+", board) or not (folder / "partitions.sfdisk").exists():
        known = ", ".join(
            sorted(path.parent.name for path in (TOP / "board").glob("*/partitions.sfdisk"))
        )
        raise Refused(f"no board {board!r}: there are {known}")
    if size < SMALLEST or size % SECTOR:
        raise Refused(f"{size >> 20} MiB are too few: an image takes {SMALLEST >> 20} MiB or more")
    out.parent.mkdir(parents=True, exist_ok=True)
    replaced = output.check(out, replace)
    cmdline = (folder / "cmdline").read_text().strip()
    with output.workplace(out) as work:
        image = work / output.NAME
        disk = _partitions(image, size, (folder / "partitions.sfdisk").read_text())
        root, log = _wanted(disk, cmdline)
        packed = kernel.read_bytes()
        boot = {
            "vmlinuz": packed,
            "cowflush.gz": (TOP / "build" / "initramfs.cpio.gz").read_bytes(),
            "grub/grub.cfg": bootloader.menu(cmdline, f"cowflush on {board}").encode(),
        }
        _root(image, root, boot, notices.packed(_parts(packed)))
        flushlog.make(image, log, root)
        bootloader.install(image, min(root.start, log.start), root.number)
        output.finish(image, out)
    said = f"{out}: {size >> 20} MiB, for {board}"
    return f"{said}\n{replaced}" if replaced else said


def _parts(kernel: bytes) -> tuple[notices.Part, ...]:
    """The works in the image, each with its licence and, where needed, the place of its source."""
    banner = tools.ok([TOP / "build" / "i586" / "busybox"]).decode(errors="replace").splitlines()[0]
    grub = tools.run(["dpkg-query", "--show", "--showformat", "${Version}", "grub-pc-bin"]).stdout
    return (
        *notices.linked(notices.I586),
        notices.gpl(
            f"Linux {kernels.release(kernel)}",
            2,
            "Source: Debian's package linux-source; its configuration: board/kernel.config and the board's own",
        ),
        notices.gpl(
            banner.split(" multi-call")[0],
            2,
            "Source: Debian's package busybox; its configuration: cross/busybox.config",
        ),
        notices.gpl(
            f"GRUB {grub.decode(errors='replace') or '2'}", 3, "Source: Debian's package grub2"
        ),
    )


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


def _root(image: Path, root: Partition, boot: dict[str, bytes], notice: bytes) -> None:
    """Makes and fills the filesystem.

    debugfs fills it in a fixed order: mke2fs would take the files' order and times from their
    folder.
    """
    with output.workplace(image) as folder:
        filesystem = folder / "root.img"
        # Debian's busybox and this project give only plain names.
        tree.fill(
            folder / "tree", TOP / "build" / "i586", boot, TOP / "package" / "cowflush.conf", notice
        )
        # Everything is initialized now: otherwise the kernel would do it on the card after the
        # boot.
        options = f"lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,hash_seed={UUID}"
        command = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "root", "-U", UUID]
        command += ["-E", options, filesystem.name, f"{root.bytes >> 10}k"]
        tools.ok(command, cwd=folder, more={"E2FSPROGS_FAKE_TIME": str(version.epoch())})
        made = Ext(filesystem, 0)
        made.edit(tree.script(folder / "tree", "tree"))
        made.verify("root")
        regions.copy(filesystem, image, 0, root.offset, root.bytes)
