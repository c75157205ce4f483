"""`python3 -m image`: images of cards. The Makefile's image and flash are this."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from image import add, board, flash
from image.errors import Refused
from image.plan import New

TOP = Path(__file__).resolve().parent.parent
BUILD = TOP / "build"
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size(text: str) -> int:
    """Bytes, with K, M or G."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if not number.isdigit() or unit not in UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: 512M, for example")
    return int(number) * UNITS[unit]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python3 -m image", description="Makes images of cards, and flashes them."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    one = commands.add_parser(
        "board", help="a board's image, with a small system that runs cowflush"
    )
    one.add_argument("board", metavar="BOARD", help="a folder of board/, such as alix2")
    one.add_argument(
        "--kernel",
        type=Path,
        required=True,
        metavar="FILE",
        help="the board's kernel (cross/kernel.sh builds it)",
    )
    one.add_argument("--out", type=Path, required=True, metavar="FILE", help="the image to write")
    one.add_argument(
        "--size",
        type=size,
        default=256 << 20,
        help="the card's size; 256M fits every card from that on",
    )

    other = commands.add_parser("add", help="adds cowflush to an image, in a new file")
    other.add_argument(
        "base",
        type=Path,
        metavar="BASE",
        help="the image of a card, also packed with gzip; it is never changed",
    )
    other.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the image to write; else BASE's name with -cowflush, in build/",
    )
    other.add_argument(
        "--kernel", type=Path, metavar="FILE", help="boot this kernel instead of the image's own"
    )
    other.add_argument(
        "--log-size", type=size, default=64 << 20, metavar="SIZE", help="of the flush log, 64M"
    )
    other.add_argument("--dry-run", action="store_true", help="only show what would be changed")

    write = commands.add_parser("flash", help="writes an image to a card, and reads it back")
    write.add_argument("image", type=Path, metavar="IMAGE")
    write.add_argument(
        "device", type=Path, metavar="DEVICE", help="the whole card, such as /dev/sdb, or a file"
    )
    write.add_argument("--yes", action="store_true", help="don't ask")
    return top


def run(wanted: argparse.Namespace) -> str:
    if wanted.command == "board":
        return board.run(wanted.board, wanted.kernel, wanted.out, wanted.size)
    if wanted.command == "flash":
        return flash.run(wanted.image, wanted.device, wanted.yes)
    new = New(
        initramfs=(BUILD / "initramfs.cpio.gz").read_bytes(),
        program=(BUILD / "i586" / "cowflush").read_bytes(),
        configuration=(TOP / "package" / "cowflush.conf").read_bytes(),
        kernel=wanted.kernel.read_bytes() if wanted.kernel else None,
        log_bytes=wanted.log_size,
    )
    name = wanted.base.name.removesuffix(".gz").removesuffix(".img")
    return add.run(wanted.base, wanted.out or BUILD / f"{name}-cowflush.img", new, wanted.dry_run)


def main() -> int:
    wanted = parser().parse_args()
    try:
        print(run(wanted))
    except (Refused, OSError) as error:
        print(f"image: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("image: stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
