"""Card images: an MBR, a root filesystem, and the flush log's partition."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import artefacts, ext, local, rootfs, sparse
from harness.ext import ExtImage, Filesystem
from harness.sparse import SECTOR

CARD_BYTES = 256 << 20
STALE_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Partition:
    """Where a partition lies, in sectors."""

    start: int
    size: int

    @property
    def sectors(self) -> range:
        return range(self.start, self.start + self.size)


class Card:
    """A card's image. Read it only while no guest runs on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.disk_id, self.partitions = _read_back(path)

    @classmethod
    def create(
        cls,
        path: Path,
        filesystem: Filesystem = Filesystem(),
        partitions: str = "",
        target: str = "i586",
    ) -> Card:
        """A new card. `partitions` is sfdisk's script; by default the board's."""
        script = partitions or artefacts.needed(artefacts.PARTITIONS).read_text()
        with _template(filesystem, script, target) as template:
            sparse.copy(template, path)
        return cls(path)

    def copy(self, path: Path) -> Card:
        sparse.copy(self.path, path)
        return Card(path)

    @property
    def root(self) -> Partition:
        return self.partitions[0]

    @property
    def log(self) -> Partition:
        return self.partitions[1]

    def fs(self, replay: bool = False) -> ExtImage:
        """The root filesystem as it is on the card now, in a file beside the card's.

        `replay` replays its journal first, as a mount would: a card that was cut off while mounted
        directly needs it, one behind cowflush must not.
        """
        image = self.path.with_suffix(".root.img")
        image.unlink(missing_ok=True)
        sparse.copy_range(self.path, image, self.root.start * SECTOR, 0, self.root.size * SECTOR)
        filesystem = ExtImage(image)
        if replay:
            filesystem.replay_journal()
        return filesystem

    def fsck(self) -> str:
        return self.fs().fsck()

    def read(self, name: str) -> bytes:
        return self.fs().read(name)

    def hashes(self, directory: str) -> dict[str, str]:
        return self.fs().hashes(directory)

    def edit(self, script: list[str]) -> None:
        """Changes the root filesystem with debugfs' commands."""
        ext.edit(f"{self.path}?offset={self.root.start * SECTOR}", script)

    def differing_sectors(self, other: Card) -> list[int]:
        return sparse.differing_sectors(self.path, other.path)


def _read_back(path: Path) -> tuple[str, list[Partition]]:
    """The disk's identifier, with which PARTUUIDs begin, and its partitions, as sfdisk sees them."""
    table = json.loads(_sfdisk(["-J", str(path)]))["partitiontable"]
    if table["sectorsize"] != SECTOR:
        raise ValueError(f"{path} has sectors of {table['sectorsize']} bytes, not {SECTOR}")
    partitions = [Partition(entry["start"], entry["size"]) for entry in table["partitions"]]
    return table["id"].removeprefix("0x"), partitions


def _sfdisk(arguments: list[str], script: bytes = b"") -> bytes:
    environment = {**os.environ, **ext.PATH}
    done = local.run(["sfdisk", *arguments], input=script, capture_output=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"sfdisk {' '.join(arguments)} failed: {done.stderr.decode().strip()}")
    return done.stdout


@contextmanager
def _template(filesystem: Filesystem, partitions: str, target: str) -> Iterator[Path]:
    """A card to copy from: the first test that needs one makes it, once for each set of options.

    Other runners share these templates: a runner that copies one holds a shared lock, and one that
    makes a template or drops old ones holds the lock exclusively.
    """
    template = artefacts.CACHE / f"card-{_key(filesystem, partitions, target)}.img"
    artefacts.CACHE.mkdir(parents=True, exist_ok=True)
    with open(artefacts.CACHE / "cards.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        if not _usable(template):
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _usable(template):
                _drop_stale(artefacts.CACHE.glob("card-*.img"))
                _put(template, partitions, filesystem, target)
        yield template


def _usable(template: Path) -> bool:
    """Whether the template exists and is whole; then this also marks it as used."""
    try:
        os.utime(template)
        return template.stat().st_size == CARD_BYTES
    except FileNotFoundError:
        return False


def _put(template: Path, partitions: str, filesystem: Filesystem, target: str) -> None:
    with tempfile.TemporaryDirectory(dir=artefacts.CACHE) as temporary:
        card = _make(Path(temporary), partitions.encode(), filesystem, target)
        packed = card.with_suffix(".sparse")
        sparse.copy(card, packed)  # mke2fs writes many zeroes
        packed.rename(template)  # in one step: this runner may be killed


def _make(work: Path, partitions: bytes, filesystem: Filesystem, target: str) -> Path:
    card, image, directory = work / "card.img", work / "root.img", work / "root"
    with open(card, "wb") as file:
        file.truncate(CARD_BYTES)
    _sfdisk(["--quiet", str(card)], partitions)
    root = Card(card).root
    directory.mkdir(mode=0o755)
    rootfs.fill(directory, dict(filesystem.files), target)
    ext.make(image, filesystem, directory, root.size * SECTOR)
    sparse.copy_range(image, card, 0, root.start * SECTOR, root.size * SECTOR)
    return card


def _key(filesystem: Filesystem, partitions: str, target: str) -> str:
    digest = hashlib.sha256(repr((filesystem, CARD_BYTES, partitions)).encode())
    for source in [*rootfs.sources(target), Path(__file__), Path(ext.__file__)]:
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _drop_stale(templates: Iterable[Path]) -> None:
    """Removes templates that nobody used for a day: each build of ours makes new ones."""
    for template in templates:
        if time.time() - template.stat().st_mtime > STALE_SECONDS:
            template.unlink(missing_ok=True)
