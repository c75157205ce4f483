"""Makes the flush log of an image with the project's own program, built for the host."""

from __future__ import annotations

import hashlib
from pathlib import Path

from image import regions, tools, version
from image.errors import Refused
from image.output import workplace
from image.table import Partition

TOP = Path(__file__).resolve().parent.parent
PROGRAM = TOP / "build" / "host" / "release" / "cowflush"
HEADER = PROGRAM.parent / "examples" / "log-header"


def make(image: Path, log: Partition, root: Partition) -> None:
    """Formats the partition `log` for the filesystem that is in `root` now."""
    for program in (PROGRAM, HEADER):
        if not program.exists():
            raise Refused(f"{program} is missing: run `make host`")
    with workplace(image) as folder:
        log_file, root_file = folder / "log.img", folder / "root.img"
        regions.create(log_file, log.bytes)
        regions.create(root_file, root.bytes)
        regions.copy(image, root_file, root.offset, 0, root.bytes)
        tools.ok([PROGRAM, "log", "format", log_file.name, "--root", root_file.name], cwd=folder)
        tools.ok([HEADER, log_file.name, *_told_by(_digest(root_file))], cwd=folder)
        # The program reads it once more: an unknown log is an error to it.
        tools.ok([PROGRAM, "recover", root_file.name, log_file.name], cwd=folder)
        # The space after the image's last partition may hold anything, even an old flush log.
        regions.clear(image, log.offset, log.bytes)
        regions.copy(log_file, image, 0, log.offset, log.bytes)


def _digest(root: Path) -> bytes:
    """SHA-256 of root's data and their places."""
    digest = hashlib.sha256()
    with open(root, "rb") as file:
        for begin, end in regions.data(file.fileno(), 0, root.stat().st_size):
            for at in range(begin, end, regions.BLOCK):
                part = regions.read_all(file.fileno(), min(regions.BLOCK, end - at), at)
                # The host's filesystem chooses which zeros are a hole.
                if part.count(0) != len(part):
                    digest.update(at.to_bytes(8, "little") + part)
    return digest.digest()


def _told_by(digest: bytes) -> tuple[str, str, str]:
    """The log's UUID, its random number and its time: the same root gives the same image.

    Cards that one image was written to share UUID and number anyway; two different images don't.
    """
    return _uuid(digest).hex(), digest[16:24][::-1].hex(), str(version.epoch())


def _uuid(digest: bytes) -> bytes:
    """The first sixteen bytes as a UUID, as good as a random one."""
    made = bytearray(digest[:16])
    made[6] = made[6] & 0x0F | 0x40
    made[8] = made[8] & 0x3F | 0x80
    return bytes(made)
