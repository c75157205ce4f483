"""Writes an image to a card, shows its progress, and reads everything back."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from image import disk, output, regions, table, whole
from image.disk import Kernel
from image.errors import Refused
from image.table import Table

BLOCK = 4 << 20
BLKRRPART, BLKFLSBUF = 0x125F, 0x1261
# O_DIRECT reads whole blocks; no card's are larger.
UNIT = 4096
# In the folder for temporary files
SOMEWHERE = Path(tempfile.gettempdir(), "image")


@dataclass(frozen=True)
class Target:
    """What would be overwritten."""

    what: str
    room: int
    # A block device's number, the kernel's st_rdev; 0 for a file.
    number: int


def run(image: Path, device: Path, yes: bool, kernel: Kernel = Kernel()) -> str:
    """Writes and verifies; returns a message."""
    if not image.is_file() or image.stat().st_size == 0:
        raise Refused(f"{image} is no image: `make image` makes one")
    if not device.exists():
        raise Refused(f"{device} does not exist")
    if device.samefile(image):
        raise Refused(f"{device} is the image itself")
    found = describe(device, kernel)
    with _plain(image) as plain:
        size = plain.stat().st_size
        _check_whole(plain, image)
        if found.room < size:
            raise Refused(
                f"{found.what} has {found.room >> 20} MiB, and the image takes {-(-size >> 20)} MiB"
            )
        if not yes and not _agreed(found.what, image, size):
            raise Refused("nothing was written")
        # The claim ends last: a desktop that mounts the card before it is read back would change
        # it.
        with open(plain, "rb") as source, _exclusive(device, found, kernel) as target:
            wrote = _write(source.fileno(), target, size)
            os.fsync(target)
            _forget(target, size)
            read = _read_back(device, target, size)
            if read != wrote:
                raise Refused(
                    f"{device} does not give back what was written to it: the card, or its reader, is broken"
                )
            with contextlib.suppress(OSError):  # a file has no partitions
                fcntl.ioctl(target, BLKRRPART)
    return f"{device}: {size >> 20} MiB written and verified (SHA-256 {wrote[:16]}...)"


@contextlib.contextmanager
def _plain(image: Path) -> Iterator[Path]:
    """The image as it goes to the card: first unpacked, and so verified, if it is packed."""
    if not regions.packed(image):
        yield image
        return
    # An image's folder may be read-only.
    beside = image if os.access(image.parent, os.W_OK) else SOMEWHERE
    with output.workplace(beside) as folder:
        regions.duplicate(image, folder / output.NAME)
        yield folder / output.NAME


def _check_whole(plain: Path, image: Path) -> None:
    """Refuses an image cut short, as far as a partition table tells; sfdisk needs a plain name."""
    with output.workplace(SOMEWHERE) as folder:
        link = folder / output.NAME
        link.symlink_to(plain.resolve())
        found = table.look(link)
        if found is not None:
            whole.check(link, Table("", table.partitions_of(found, link)), image)


def describe(device: Path, kernel: Kernel) -> Target:
    """What would be overwritten, and its size. Refuses what must not be."""
    state = device.stat()
    if stat.S_ISREG(state.st_mode):
        return Target(f"the file {device}", state.st_size, 0)
    found = disk.look(disk.number_of(device), kernel)
    disk.check_unused(found, kernel)
    what = f"{device} ({found.model or 'no model known'}, {found.size >> 20} MiB)"
    return Target(what, found.size, state.st_rdev)


def _agreed(what: str, image: Path, size: int) -> bool:
    if not sys.stdin.isatty():
        raise Refused(
            f"all on {what} would be lost, and nobody is there to agree: say --yes (YES=1)"
        )
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(image.stat().st_mtime))
    print(f"{image} ({size >> 20} MiB, of {made}) goes to {what}, and all on that is lost.")
    return input("Type yes to go on: ") == "yes"


@contextlib.contextmanager
def _exclusive(device: Path, found: Target, kernel: Kernel) -> Iterator[int]:
    """Opens with O_EXCL: the kernel refuses a device in use, and lets none mount it until the end."""
    flags = os.O_RDWR | (os.O_EXCL if found.number else 0)
    try:
        fd = os.open(device, flags)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise Refused(f"{device} is in use") from error
        raise
    try:
        # Between the question and its answer the reader may have got another name.
        if os.fstat(fd).st_rdev != found.number or describe(device, kernel) != found:
            raise Refused(f"{device} is not the same any more: nothing was written")
        yield fd
    finally:
        os.close(fd)


def _write(source: int, target: int, size: int) -> str:
    digest, progress = hashlib.sha256(), Progress("written", size)
    for at in range(0, size, BLOCK):
        chunk = regions.read_all(source, min(BLOCK, size - at), at)
        digest.update(chunk)
        regions.write_all(target, chunk, at)
        # Each part by itself: otherwise everything waits in RAM, and "written" means nothing.
        os.fdatasync(target)
        progress.show(at + len(chunk))
    return digest.hexdigest()


def _forget(target: int, size: int) -> None:
    """Drops the page cache, so that what is read back comes from the card."""
    os.posix_fadvise(target, 0, size, os.POSIX_FADV_DONTNEED)
    with contextlib.suppress(OSError):  # a file has no such buffers
        fcntl.ioctl(target, BLKFLSBUF)


def _read_back(device: Path, target: int, size: int) -> str:
    """SHA-256 of the card's first `size` bytes.

    It reads no block after them: a bad one is not the image's fault.
    """
    digest, progress = hashlib.sha256(), Progress("verified", size)
    buffer = mmap.mmap(-1, BLOCK)  # aligned, as O_DIRECT wants it
    fd = _open_direct(device)
    try:
        if os.fstat(fd).st_rdev != os.fstat(target).st_rdev:
            raise Refused(f"{device} is not the same any more: it was not read back")
        at = 0
        while at < size:
            wanted = min(BLOCK, -(-(size - at) // UNIT) * UNIT)
            with memoryview(buffer) as view, view[:wanted] as part:
                count = min(os.preadv(fd, [part], at), size - at)
            if count == 0:
                break
            digest.update(buffer[:count])
            at += count
            progress.show(at)
    finally:
        os.close(fd)
        buffer.close()
    return digest.hexdigest()


def _open_direct(device: Path) -> int:
    """Opens with O_DIRECT, if possible."""
    try:
        return os.open(device, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(device, os.O_RDONLY)


class Progress:
    """Shows per cent on a terminal's line; else a line for each tenth."""

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
