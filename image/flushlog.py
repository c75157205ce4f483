"""Makes the flush log of an image with the project's own program, built for this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

from image import regions, tools
from image.errors import Refused
from image.table import Partition

TOP = Path(__file__).resolve().parent.parent
PROGRAM = TOP / "build" / "host" / "release" / "cowflush"


def make(image: Path, log: Partition, root: Partition) -> None:
    """Formats the partition `log` for the filesystem that now is in `root`."""
    if not PROGRAM.exists():
        raise Refused(f"{PROGRAM} is missing: run `make host`")
    with tempfile.TemporaryDirectory(dir=image.parent) as temporary:
        log_file, root_file = Path(temporary, "log.img"), Path(temporary, "root.img")
        regions.create(log_file, log.bytes)
        regions.create(root_file, root.bytes)
        regions.copy(image, root_file, root.offset, 0, root.bytes)
        tools.ok([PROGRAM, "log", "format", log_file, "--root", root_file])
        regions.copy(log_file, image, 0, log.offset, log.bytes)
