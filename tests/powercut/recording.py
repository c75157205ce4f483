"""Records a busy guest that flushes: all its card receives, and the exact state of each flush."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vm import Drive, sparse, workload, writelog
from vm.card import Card
from vm.ext import ExtImage
from vm.lab import Lab
from vm.machine import VM
from vm.sparse import SECTOR
from vm.writelog import Entry

from powercut.medium import Medium
from powercut.ways import ROOT_SECTORS, Way

# Marks go between the partition table and the first partition.
MARK_SECTOR = 4096
MARK = re.compile(rb"flush (\d+) returned, rounds (\d+)\n")

BLANK = "blank.img"
# States begin behind so many sectors: a disk that begins with a copy of root would be root itself,
# by its UUID.
STATES_SECTOR = 8192
LOAD_FOLDER = "/root/load"
LOAD_MIB = 2
LOAD_BYTES = 768 << 10

# Kernel names, since nobody but udev makes links in /dev/mapper. Past the page cache, since that of
# a device does not see what another device above the same card writes.
READ_OUT = f"""
for name in cowflush-origin cowflush-logged; do
    for dm in /sys/block/dm-*; do
        [ "$(cat $dm/dm/name)" != $name ] || below=/dev/${{dm##*/}}
    done
done
guest-tools direct $below /dev/sdb --seek $(({STATES_SECTOR} + number * {ROOT_SECTORS}))
"""
# Right after the flush's return, so that the write log itself tells when that was.
FLUSH = f"""
printf 'flush %s returned, rounds %s\\n' $number $rounds >/run/mark && truncate -s {SECTOR} /run/mark &&
cowflush flush &&
guest-tools direct /run/mark /dev/sda --seek $(({MARK_SECTOR} + number))
"""


@dataclass(frozen=True)
class Recording:
    """`states` holds root as it was after flush 0 (before the guest), 1, 2, ..., one behind the other."""

    directory: Path
    blank: Card
    log: Path
    states: Path

    @classmethod
    def open(cls, directory: Path) -> Recording:
        return cls(
            directory, Card(directory / BLANK), directory / "writes.log", directory / "states.img"
        )

    def entries(self) -> list[Entry]:
        return list(writelog.entries(self.log))

    def digests(self) -> list[str]:
        """Each flush's content, as SHA-256."""
        return list(digests(self.states))

    @contextmanager
    def state(self, number: int) -> Iterator[ExtImage]:
        """Root as flush `number` left it, in a file until the end of the block."""
        with extracted(self.states, number) as image:
            yield image


@dataclass(frozen=True)
class Mark:
    """The request `entry` was sent when flush `number` had returned; `rounds` were complete when it began."""

    entry: int
    number: int
    rounds: int


def marks(entries: list[Entry]) -> list[Mark]:
    """The recorder's own requests, oldest first."""
    found = []
    for index, entry in enumerate(entries):
        text = MARK.match(entry.data)
        if text and entry.sector == MARK_SECTOR + int(text[1]):
            found.append(Mark(index, int(text[1]), int(text[2])))
    return found


def record(
    lab: Lab, way: Way, flushes: int, start: Card | None = None, name: str = "recording"
) -> Recording:
    """Boots a guest from a fresh card or `start`, lets it write without a pause, and flushes so many times."""
    recording = prepare(lab.directory / name, way, start or fresh(lab, way), flushes)
    card = recording.blank.copy(recording.directory / "card.img")
    vm = lab(card, write_log=recording.log, drives=[Drive(recording.states)], append=way.append)
    vm.run(
        f"mkdir -p {LOAD_FOLDER} && head -c {LOAD_MIB << 20} /dev/urandom >{LOAD_FOLDER}/base"
    ).ok()
    writer = workload.Writer(vm)
    appender = vm.start("guest-tools writer /root/appended --seconds 600 --pause 50000")
    for number in range(1, flushes + 1):
        vm.run(
            f"guest-tools load scattered {LOAD_FOLDER} --bytes {LOAD_BYTES} --seed {number}",
            timeout=120,
        ).ok()
        flush(vm, number, writer.rounds())
    assert appender.running(), f"the appending writer ended by itself: {appender.wait().text}"
    writer.stop()
    vm.kill()
    found = marks(recording.entries())
    assert [mark.number for mark in found] == list(range(1, flushes + 1)), (
        f"the write log's marks are {found}"
    )
    return recording


def fresh(lab: Lab, way: Way) -> Card:
    """A card that is ready to flush to."""
    card = lab.card(partitions=way.partitions)
    if way.setup:
        with lab(card) as vm:
            vm.run(way.setup).ok()
    return card


def prepare(directory: Path, way: Way, card: Card, flushes: int) -> Recording:
    """The card as it is before the guest boots, and room for so many flushes' states behind state 0."""
    directory.mkdir()
    card.copy(directory / BLANK)
    recording = Recording.open(directory)
    make_states(recording.states, flushes + 1)
    root = way.recover(Medium(directory, card, []).files)
    sparse.copy_range(root, recording.states, 0, STATES_SECTOR * SECTOR, ROOT_SECTORS * SECTOR)
    return recording


def make_states(path: Path, count: int) -> None:
    """An empty disk with room for so many states."""
    path.unlink(missing_ok=True)
    with open(path, "wb") as file:
        file.truncate((STATES_SECTOR + count * ROOT_SECTORS) * SECTOR)


def digests(states: Path) -> Iterator[str]:
    """SHA-256 of the content of each state on the second disk: all but what is free or in the journal, which
    a flush may leave as it was."""
    for number in range((states.stat().st_size // SECTOR - STATES_SECTOR) // ROOT_SECTORS):
        with extracted(states, number) as image:
            yield image.content()


@contextmanager
def extracted(states: Path, number: int) -> Iterator[ExtImage]:
    """One state in a file of its own."""
    path = states.with_name(f"state-{number}.img")
    path.unlink(missing_ok=True)
    at = (STATES_SECTOR + number * ROOT_SECTORS) * SECTOR
    sparse.copy_range(states, path, at, 0, ROOT_SECTORS * SECTOR)
    try:
        yield ExtImage(path)
    finally:
        path.unlink()


def flush(vm: VM, number: int, rounds: int) -> None:
    """Flushes, marks the return in the write log, and copies the device under root to the second disk."""
    values = f"number={number} rounds={rounds}\n"
    vm.run(values + FLUSH, timeout=120).ok()
    read_out(vm, number)


def read_out(vm: VM, number: int) -> None:
    """Copies the device under root, byte for byte, to the second disk's place `number`."""
    vm.run(f"number={number}\n{READ_OUT}", timeout=120).ok()
