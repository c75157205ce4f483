"""Makes the flush log of an image with the project's own program, built for this machine."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from image import regions, tools, version
from image.errors import Refused
from image.output import workplace
from image.table import Partition

TOP = Path(__file__).resolve().parent.parent
PROGRAM = TOP / "build" / "host" / "release" / "cowflush"
# Of the header, as docs/formats.md has it.
RECORD, CHUNK = 512, 4096
MAGIC, CHECKSUM_AT, UUID_AT, RANDOM_AT, TIME_AT = b"cowflLOG", 12, 16, 96, 128


def make(image: Path, log: Partition, root: Partition) -> None:
    """Formats the partition `log` for the filesystem that now is in `root`."""
    if not PROGRAM.exists():
        raise Refused(f"{PROGRAM} is missing: run `make host`")
    with workplace(image) as folder:
        log_file, root_file = folder / "log.img", folder / "root.img"
        regions.create(log_file, log.bytes)
        regions.create(root_file, root.bytes)
        regions.copy(image, root_file, root.offset, 0, root.bytes)
        tools.ok([PROGRAM, "log", "format", log_file.name, "--root", root_file.name], cwd=folder)
        _settle(log_file, log.bytes // CHUNK, _digest(root_file))
        # It is read once more by the program: what it says of a log that it doesn't know is an error.
        tools.ok([PROGRAM, "recover", root_file.name, log_file.name], cwd=folder)
        # What was behind the image's last partition may be anything, an old flush log too.
        regions.clear(image, log.offset, log.bytes)
        regions.copy(log_file, image, 0, log.offset, log.bytes)


def _digest(root: Path) -> bytes:
    """SHA-256 of what is in root, and where."""
    digest = hashlib.sha256()
    with open(root, "rb") as file:
        for begin, end in regions.data(file.fileno(), 0, root.stat().st_size):
            for at in range(begin, end, regions.BLOCK):
                part = regions.read_all(file.fileno(), min(regions.BLOCK, end - at), at)
                # Which zeros are a hole is the host's filesystem's choice.
                if part.count(0) != len(part):
                    digest.update(at.to_bytes(8, "little") + part)
    return digest.digest()


def _settle(log: Path, chunks: int, digest: bytes) -> None:
    """Takes the log's UUID, its random number and its time from what root is: the same root gives the same image.

    Cards that one image was written to have one UUID and number anyway; two different images don't.
    """
    with open(log, "r+b") as file:
        for chunk in (0, chunks - 1):
            record = bytearray(regions.read_all(file.fileno(), RECORD, chunk * CHUNK))
            if record[: len(MAGIC)] != MAGIC or _sealed(record) != record:
                raise Refused("the flush log's header is not as docs/formats.md has it")
            record[UUID_AT : UUID_AT + 16] = _uuid(digest)
            record[RANDOM_AT : RANDOM_AT + 8] = digest[16:24]
            struct.pack_into("<Q", record, TIME_AT, version.epoch())
            regions.write_all(file.fileno(), bytes(_sealed(record)), chunk * CHUNK)


def _uuid(digest: bytes) -> bytes:
    """Sixteen bytes of it as a UUID that is as good as a random one."""
    made = bytearray(digest[:16])
    made[6] = made[6] & 0x0F | 0x40
    made[8] = made[8] & 0x3F | 0x80
    return bytes(made)


def _sealed(record: bytearray) -> bytearray:
    """The record with its own checksum, which is made with its field as zeros."""
    sealed = bytearray(record)
    struct.pack_into("<I", sealed, CHECKSUM_AT, 0)
    struct.pack_into("<I", sealed, CHECKSUM_AT, _crc32c(sealed))
    return sealed


def _crc32c(content: bytearray) -> int:
    state = 0xFFFFFFFF
    for byte in content:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF
