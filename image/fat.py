"""A FAT filesystem in an image, by way of mtools."""

from __future__ import annotations

import re
from pathlib import Path

from image import tools
from image.errors import Refused


class Fat:
    """The filesystem that begins at `offset` of the file `image`."""

    kind = "vfat"

    def __init__(self, image: Path, offset: int) -> None:
        self.drive = f"{image}@@{offset}"

    def read(self, path: str) -> bytes | None:
        """A file's content; None when there is no such file."""
        done = tools.run(["mtype", "-i", self.drive, f"::{path}"])
        return done.stdout if done.returncode == 0 else None

    def write(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Writes a file, also over an old one. `mode` is what other filesystems keep."""
        tools.ok(["mcopy", "-o", "-i", self.drive, "-", f"::{path}"], content)

    def free(self) -> int:
        """Bytes that a file could still take."""
        text = tools.ok(["mdir", "-i", self.drive, "::/"]).decode(errors="replace")
        found = re.search(r"([\d ]+) bytes free", text)
        if not found:
            raise Refused(f"mdir does not say how much is free in {self.drive}")
        return int(found[1].replace(" ", ""))
