"""`python3 -m image`: images of cards. The Makefile's image and flash targets run it."""

from __future__ import annotations

import argparse
import io
import re
import sys
from pathlib import Path

from image import add, board, flash, notices, output
from image.errors import Refused
from image.kernel import release
from image.plan import New

TOP = Path(__file__).resolve().parent.parent
BUILD = TOP / "build"
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size(text: str) -> int:
    """A size in bytes, with K, M or G."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if not re.fullmatch("[0-9]{1,12}", number) or unit not in UNITS:
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
        help="the board's kernel (cross/kernel builds it)",
    )
    one.add_argument("--out", type=Path, required=True, metavar="FILE", help="the image to write")
    one.add_argument(
        "--size",
        type=size,
        default=240 << 20,
        help="the card's size; 240M fits every card that is sold as one of 256 MB or more",
    )
    one.add_argument("--replace", action="store_true", help="over an image that is there")

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
    other.add_argument("--replace", action="store_true", help="over an image that is there")
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
        return board.run(wanted.board, wanted.kernel, wanted.out, wanted.size, wanted.replace)
    if wanted.command == "flash":
        return flash.run(wanted.image, wanted.device, wanted.yes)
    kernel = wanted.kernel.read_bytes() if wanted.kernel else None
    new = New(
        initramfs=(BUILD / "initramfs.cpio.gz").read_bytes(),
        program=(BUILD / "i586" / "cowflush").read_bytes(),
        configuration=(TOP / "package" / "cowflush.conf").read_bytes(),
        notices=lambda: notices.packed((*notices.linked(notices.I586), *_kernel_notice(kernel))),
        kernel=kernel,
        log_bytes=wanted.log_size,
    )
    name = wanted.base.name.removesuffix(".gz").removesuffix(".img")
    # A result in build/ is replaced; a named file may be its owner's only copy.
    out, replace = wanted.out, wanted.replace
    if out is None:
        out, replace = BUILD / f"{name}-cowflush.img", True
    return add.run(wanted.base, out, new, wanted.dry_run, replace)


def _kernel_notice(kernel: bytes | None) -> tuple[notices.Part, ...]:
    if kernel is None:
        return ()
    source = "Source: where its image came from; of those that cross/kernel builds Debian's package linux-source"
    return (notices.gpl(f"Linux {release(kernel)}", 2, source),)


def main() -> int:
    # A name in no encoding, or a terminal that can't show it, is no reason to stop.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    output.stop_cleanly()
    try:
        wanted = parser().parse_args()
        print(run(wanted), flush=True)
    except (Refused, OSError) as error:
        print(f"image: {error}", file=sys.stderr)
        return 1
    except (EOFError, KeyboardInterrupt, output.Stopped):
        print("image: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        # No input should cause this; what is half made is removed all the same.
        print(f"image: a fault of this tool: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
