"""A disk's partition table, read and extended by sfdisk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image import tools
from image.errors import Refused
from image.regions import SECTOR

# Erase blocks of cards are powers of two up to 4 MiB.
ALIGN = (4 << 20) // SECTOR
LOG_TYPE = "da"
# The type of the entry that keeps programs without GPT support off a GPT disk
PROTECTIVE = "ee"
PRIMARIES = 4


@dataclass(frozen=True)
class Partition:
    """A partition's place, in sectors."""

    number: int
    start: int
    size: int

    @property
    def offset(self) -> int:
        return self.start * SECTOR

    @property
    def bytes(self) -> int:
        return self.size * SECTOR

    @property
    def end(self) -> int:
        return self.start + self.size


@dataclass(frozen=True)
class Table:
    """A DOS partition table; `id` is the disk's, as PARTUUID= begins with it."""

    id: str
    partitions: tuple[Partition, ...]

    def partition(self, number: int) -> Partition | None:
        return next((found for found in self.partitions if found.number == number), None)

    @property
    def end(self) -> int:
        """The first sector after all partitions."""
        return max(partition.end for partition in self.partitions)


def read(image: Path, called: Path | None = None) -> Table:
    """An image's table. `called` is what the person calls the image."""
    called = called or image
    found = look(image)
    if found is None:
        raise Refused(f"{called} has no partition table: is it the image of a whole card?")
    label = found["label"]
    # If the GPT itself can't be read, or both tables are used, only its entry in the DOS table
    # tells.
    if any(entry.get("type") == PROTECTIVE for entry in found.get("partitions", [])):
        label = "gpt"
    if label != "dos":
        raise Refused(
            f"{called} has a {label.upper()} partition table, as images for EFI have. Only those that boot "
            'by BIOS, with a DOS one, are understood: take the image without "efi" in its name'
        )
    partitions = partitions_of(found, image)
    if not partitions:
        raise Refused(f"{called} has no partitions")
    return Table(found["id"].removeprefix("0x"), partitions)


def look(image: Path) -> dict[str, Any] | None:
    """sfdisk's description of a table of any kind; None if there is none."""
    done = tools.run(["sfdisk", "-J", image.name], cwd=image.parent)
    if done.returncode:
        return None
    found: dict[str, Any] = json.loads(done.stdout)["partitiontable"]
    return found


def partitions_of(found: dict[str, Any], image: Path) -> tuple[Partition, ...]:
    """The partitions: sfdisk names them like devices, a `p` following a name's last digit."""
    return tuple(
        Partition(
            int(entry["node"].removeprefix(image.name).removeprefix("p")),
            entry["start"],
            entry["size"],
        )
        for entry in found.get("partitions", [])
    )


def place(table: Table, size: int) -> Partition:
    """Where a partition of `size` sectors goes: after all others, aligned."""
    if (
        len(table.partitions) >= PRIMARIES
        or max(found.number for found in table.partitions) > PRIMARIES
    ):
        raise Refused(
            "all four primary partitions are in use, so there is no place for the flush log"
        )
    taken = {found.number for found in table.partitions}
    number = next(number for number in range(1, PRIMARIES + 1) if number not in taken)
    start = -(-table.end // ALIGN) * ALIGN
    return Partition(number, start, size)


def add(image: Path, partition: Partition) -> None:
    """Adds a partition of the flush log's type; the others stay unchanged."""
    line = f"{partition.number}: start={partition.start}, size={partition.size}, type={LOG_TYPE}\n"
    command = ["sfdisk", "--quiet", "--append", "--no-reread", "--no-tell-kernel", image.name]
    tools.ok(command, line.encode(), cwd=image.parent)
    if read(image).partition(partition.number) != partition:
        raise Refused(f"sfdisk did not make partition {partition.number} where it belongs")


def make(image: Path, script: str) -> Table:
    """Makes a new table, by sfdisk's own script."""
    tools.ok(["sfdisk", "--quiet", image.name], script.encode(), cwd=image.parent)
    return read(image)
