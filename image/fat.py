"""A FAT filesystem in an image, by means of mtools."""

from __future__ import annotations

import re
from pathlib import Path

from image import tools, version
from image.errors import Refused

ABSENT = re.compile(r'File ".*" not found')
# Where a FAT32 and the older ones record that they are mounted (linux: `state` in struct
# fat_boot_sector)
STATE_AT, STATE32_AT, MOUNTED = 37, 65, 1


class Fat:
    """The filesystem that begins at `offset` of the file `image`."""

    kind = "vfat"

    def __init__(self, image: Path, offset: int) -> None:
        self._image, self._offset = image, offset
        self.drive = f"{image.name}@@{offset}"

    def read(self, path: str) -> bytes | None:
        """A file's content; None if there is no such file."""
        done = tools.run(["mtype", "-i", self.drive, f"::{_plain(path)}"], cwd=self._image.parent)
        if done.returncode == 0:
            return done.stdout
        if ABSENT.search(tools.words(done.stderr)):
            return None
        raise Refused(f"mtype can't read {path}: {tools.words(done.stderr)}")

    def write(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Writes a file, also over an old one. Only other filesystems keep the `mode`."""
        command = ["mcopy", "-o", "-i", self.drive, "-", f"::{_plain(path)}"]
        # mtools' only clock; its times have no zone.
        tools.ok(
            command,
            content,
            cwd=self._image.parent,
            more={"SOURCE_DATE_EPOCH": str(version.epoch())},
        )

    def free(self) -> int:
        """Bytes that a file could still take."""
        said = tools.ok(["mdir", "-i", self.drive, "::/"], cwd=self._image.parent)
        found = re.search(r"([\d ]+) bytes free", tools.words(said))
        if not found:
            raise Refused(
                f"mdir does not say how much is free in {self._image.parent / self.drive}"
            )
        return int(found[1].replace(" ", ""))

    def prepare(self, what: str) -> str:
        """Refuses one that was not unmounted: what it calls free need not be."""
        with open(self._image, "rb") as file:
            file.seek(self._offset)
            head = file.read(512)
        state = head[STATE32_AT] if head[82:85] == b"FAT" else head[STATE_AT]
        if state & MOUNTED:
            raise Refused(
                f"{what} was not unmounted: boot it once and shut it down, or run fsck.fat on a copy"
            )
        return ""

    def verify(self, what: str) -> None:
        """Lists its root folder once more. Not every machine has fsck.fat."""
        tools.ok(["mdir", "-i", self.drive, "::/"], cwd=self._image.parent)


def _plain(path: str) -> str:
    """A path for mtools, which takes *, ? and [] for patterns."""
    if not re.fullmatch(r"[\w./ +@~,=-]*", path, re.ASCII):
        raise Refused(
            f"the boot loader's configuration names a file that is not said plainly: {path}"
        )
    return path
