"""Writes an image to a card, shows how far it is, and reads all of it back."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from image import disk
from image.disk import Kernel
from image.errors import Refused

BLOCK = 4 << 20
BLKRRPART, BLKFLSBUF = 0x125F, 0x1261


def run(image: Path, device: Path, yes: bool, kernel: Kernel = Kernel()) -> str:
    """Writes and verifies; returns what to tell."""
    if not image.is_file() or image.stat().st_size == 0:
        raise Refused(f"{image} is no image: `make image` makes one")
    if not device.exists():
        raise Refused(f"{device} does not exist")
    size = image.stat().st_size
    what, room = describe(device, kernel)
    if device.samefile(image):
        raise Refused(f"{device} is the image itself")
    if room < size:
        raise Refused(f"{what} has {room >> 20} MiB, and the image takes {-(-size >> 20)} MiB")
    if not yes and not _agreed(what):
        raise Refused("nothing was written")
    with open(image, "rb") as source, _exclusive(device) as target:
        wrote = _write(source.fileno(), target, size)
        os.fsync(target)
        _forget(target, size)
    read = _read_back(device, size)
    if read != wrote:
        raise Refused(
            f"{device} does not give back what was written to it: the card, or its reader, is broken"
        )
    _new_partitions(device)
    return f"{device}: {size >> 20} MiB written and verified (SHA-256 {wrote[:16]}…)"


def describe(device: Path, kernel: Kernel) -> tuple[str, int]:
    """What would be overwritten, and how much it holds. Refuses what must not be."""
    if stat.S_ISREG(device.stat().st_mode):
        return f"the file {device}", device.stat().st_size
    found = disk.look(disk.number_of(device), kernel)
    disk.check_unused(found, kernel)
    return f"{device} ({found.model or 'no model known'}, {found.size >> 20} MiB)", found.size


def _agreed(what: str) -> bool:
    if not sys.stdin.isatty():
        raise Refused(
            f"all on {what} would be lost, and nobody is there to agree: say --yes (YES=1)"
        )
    return input(f"All on {what} will be lost. Type yes to go on: ") == "yes"


@contextlib.contextmanager
def _exclusive(device: Path) -> Iterator[int]:
    """O_EXCL: the kernel refuses a device that somebody mounted or took meanwhile."""
    flags = os.O_RDWR | (0 if device.is_file() else os.O_EXCL)
    try:
        fd = os.open(device, flags)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise Refused(f"{device} is in use") from error
        raise
    try:
        yield fd
    finally:
        os.close(fd)


def _write(source: int, target: int, size: int) -> str:
    digest, progress = hashlib.sha256(), Progress("written", size)
    for at in range(0, size, BLOCK):
        chunk = os.pread(source, BLOCK, at)
        digest.update(chunk)
        done = 0
        while done < len(chunk):
            done += os.pwrite(target, chunk[done:], at + done)
        # Each part for itself: else all waits in RAM, and "written" says nothing.
        os.fdatasync(target)
        progress.show(at + len(chunk))
    return digest.hexdigest()


def _forget(target: int, size: int) -> None:
    """What is read back must come from the card."""
    os.posix_fadvise(target, 0, size, os.POSIX_FADV_DONTNEED)
    with contextlib.suppress(OSError):  # a file has no such buffers
        fcntl.ioctl(target, BLKFLSBUF)


def _read_back(device: Path, size: int) -> str:
    digest, progress = hashlib.sha256(), Progress("verified", size)
    buffer = mmap.mmap(-1, BLOCK)  # aligned, as O_DIRECT wants it
    fd = _open_direct(device)
    try:
        at = 0
        while at < size and (count := os.preadv(fd, [buffer], at)):
            digest.update(buffer[: min(count, size - at)])
            at += count
            progress.show(min(at, size))
    finally:
        os.close(fd)
        buffer.close()
    return digest.hexdigest()


def _open_direct(device: Path) -> int:
    """Past the page cache, where that is possible."""
    try:
        return os.open(device, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(device, os.O_RDONLY)


def _new_partitions(device: Path) -> None:
    with contextlib.suppress(OSError), _exclusive(device) as fd:
        fcntl.ioctl(fd, BLKRRPART)


class Progress:
    """Per cent on a terminal's line; else a line for each tenth."""

    def __init__(self, word: str, size: int) -> None:
        self.word, self.size, self.shown = word, size, -1

    def show(self, done: int) -> None:
        percent = done * 100 // self.size
        terminal = sys.stderr.isatty()
        step = percent if terminal else percent // 10 * 10
        if step == self.shown:
            return
        self.shown = step
        end = "\n" if not terminal or percent == 100 else ""
        print(
            f"{chr(13) if terminal else ''}{self.word} {step:3} %",
            end=end,
            file=sys.stderr,
            flush=True,
        )
