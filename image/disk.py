"""Whether a disk may be overwritten, by the kernel's files in /sys and /proc."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from image.errors import Refused
from image.regions import SECTOR


@dataclass(frozen=True)
class Kernel:
    """Where the kernel's own filesystems are; tests use others."""

    sys: Path = Path("/sys")
    proc: Path = Path("/proc")


@dataclass(frozen=True)
class Disk:
    """A whole disk, as /sys shows it."""

    name: str
    folder: Path
    size: int
    model: str

    @property
    def parts(self) -> list[Path]:
        """The disk's own folder, and those of its partitions."""
        return [self.folder, *sorted(path.parent for path in self.folder.glob("*/partition"))]


def _read(path: Path) -> str:
    """A file of the kernel's; empty if missing. Names in it are bytes, in no known encoding."""
    try:
        return path.read_text(errors="surrogateescape").strip()
    except FileNotFoundError:
        return ""


def _mounts(kernel: Kernel) -> list[tuple[str, str, str]]:
    """Device number, place and source of every mount. What can't be read is not "nothing"."""
    text = _read(kernel.proc / "self" / "mountinfo")
    if not text:
        raise Refused(
            f"{kernel.proc}/self/mountinfo does not say what is mounted: is /proc mounted?"
        )
    return [_mount(line) for line in text.split("\n")]


def number_of(device: Path) -> str:
    """A block device's number, such as 8:16."""
    found = device.stat()
    if not stat.S_ISBLK(found.st_mode):
        raise Refused(f"{device} is neither a block device nor a file")
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"


def look(number: str, kernel: Kernel) -> Disk:
    """The disk with this number. Refuses what is not a whole disk, or has no card in it."""
    folder = (kernel.sys / "dev" / "block" / number).resolve()
    if not folder.is_dir():
        raise Refused(f"the kernel knows no block device {number}")
    if (folder / "partition").exists():
        raise Refused(f"{folder.name} is a partition: name the whole disk, {folder.parent.name}")
    if (
        (folder / "dm").exists()
        or (folder / "md").exists()
        or (folder / "loop" / "backing_file").exists()
    ):
        raise Refused(f"{folder.name} is no disk of its own, but made of other devices")
    size = int(_read(folder / "size") or 0) * SECTOR
    if size == 0:
        raise Refused(f"{folder.name} is empty: is there a card in the reader?")
    if _read(folder / "ro") == "1":
        raise Refused(f'{folder.name} is read-only: is the card\'s switch on "lock"?')
    return Disk(folder.name, folder, size, _read(folder / "device" / "model"))


def check_unused(disk: Disk, kernel: Kernel) -> None:
    """Refuses a disk that is mounted, has swap, or holds other devices, like the system's own."""
    numbers = {_read(part / "dev"): part.name for part in disk.parts}
    names = {part.name for part in disk.parts}
    for number, place, source in _mounts(kernel):
        name = numbers.get(number) or (
            Path(source).name if _is_node(source) and Path(source).name in names else ""
        )
        if name:
            runs = place in ("/", "/usr", "/boot")
            why = "the system runs on it" if runs else "unmount it first"
            raise Refused(f"{name} is mounted at {place}: {why}")
    for line in _read(kernel.proc / "swaps").split("\n")[1:]:
        if Path(line.split()[0]).name in names:
            raise Refused(f"{Path(line.split()[0]).name} is swapped to: swapoff it first")
    for part in disk.parts:
        holders = sorted(path.name for path in (part / "holders").glob("*"))
        if holders:
            holder = _read(part / "holders" / holders[0] / "dm" / "name") or holders[0]
            where = _mounted_over(part / "holders" / holders[0], kernel)
            raise Refused(f"{part.name} is in use by the device {holder}{where}")


def _mount(line: str) -> tuple[str, str, str]:
    """Parses a line of mountinfo. Spaces in names appear as \\040, byte by byte."""
    first, _, last = line.partition(" - ")
    # Not split(): a name may hold what Unicode counts as a space, or bytes in no encoding.
    fields, source = first.split(" "), last.split(" ")
    if len(fields) < 5 or len(source) < 2:
        raise Refused(f"a line of mountinfo is not understood: {line}")
    return fields[2], _plain(fields[4]), _plain(source[1])


def _plain(word: str) -> str:
    escaped = word.encode(errors="surrogateescape")
    plain = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8) & 255]), escaped)
    return plain.decode(errors="surrogateescape")


def _is_node(source: str) -> bool:
    return source.startswith("/dev/")


def _mounted_over(holder: Path, kernel: Kernel) -> str:
    """Where the device, or one that it is a part of, is mounted, to explain a refusal."""
    waiting = [holder.resolve()]
    while waiting:
        device = waiting.pop()
        for number, place, _ in _mounts(kernel):
            if number == _read(device / "dev"):
                return f", which is mounted at {place}" + (
                    ": the system runs on it" if place == "/" else ""
                )
        waiting += [path.resolve() for path in (device / "holders").glob("*")]
    return ""
