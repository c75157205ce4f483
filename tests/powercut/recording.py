"""Records what a card receives during a guest's commands, and what root holds after each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import Drive, sparse, writelog
from harness.card import Card
from harness.ext import ExtImage
from harness.lab import Lab
from harness.machine import VM
from harness.sparse import SECTOR
from harness.writelog import Entry
from powercut import tree
from powercut.medium import Medium
from powercut.tree import Truth
from powercut.ways import ROOT_SECTORS, Way
from product import workload

# Marks go between the partition table and the first partition, each to a sector of its own.
MARK_SECTOR = 4096
MARK = re.compile(rb"mark (\d+) (begin|returned) (\d+) (.*)\n")

BLANK = "blank.img"
CARD = "card.img"
# States begin after this many sectors: a disk that begins with a copy of root would be root itself,
# by its UUID.
STATES_SECTOR = 8192
LOAD_FOLDER = "/root/load"
LOAD_MIB = 2
LOAD_BYTES = 768 << 10
COUNTER = "/root/counter"

# Kernel names, since only udev makes links in /dev/mapper. With O_DIRECT, since a device's page
# cache does not show what another device above the same card writes.
READ_OUT = f"""
for name in cowflush-origin cowflush-logged; do
    for dm in /sys/block/dm-*; do
        [ "$(cat $dm/dm/name)" != $name ] || below=/dev/${{dm##*/}}
    done
done
guest-tools direct $below /dev/sdb --seek $(({STATES_SECTOR} + number * {ROOT_SECTORS}))
"""
# The second mark comes right after the return, so that the write log itself tells when that was.
MARKED = f"""
mark() {{
    echo "mark $1 $2 $number $name" >/run/mark && truncate -s {SECTOR} /run/mark &&
    guest-tools direct /run/mark $disk --seek $(({MARK_SECTOR} + $1)) || exit 99
}}
mark $serial begin
( eval "$command" )
code=$?
[ $code != 0 ] || mark $((serial + 1)) returned
exit $code
"""


@dataclass(frozen=True)
class Recording:
    """A record; `states` holds root after flush 0 (before the guest), 1, 2, ..., in order."""

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
        """The SHA-256 of each flush's content."""
        return list(digests(self.states))

    @contextmanager
    def state(self, number: int) -> Iterator[ExtImage]:
        """Root as flush `number` left it, in a file until the end of the block."""
        with extracted(self.states, number) as image:
            yield image

    def truth_at(self, number: int) -> Path:
        return self.directory / f"truth-{number}.json"

    def truths(self) -> list[Truth]:
        """What the guest's own programs found before each flush; the first is the card's."""
        found: list[Truth] = []
        while (path := self.truth_at(len(found))).exists():
            found.append(Truth.load(path))
        return found


@dataclass(frozen=True)
class Mark:
    """The request `entry` came as a command began (`begun`) or returned, with state `number`."""

    entry: int
    number: int
    name: str
    begun: bool = False


def marks(entries: list[Entry]) -> list[Mark]:
    """The recorder's own requests, oldest first."""
    found = []
    for index, entry in enumerate(entries):
        text = MARK.match(entry.data)
        if text and entry.sector == MARK_SECTOR + int(text[1]):
            found.append(Mark(index, int(text[3]), text[4].decode(), text[2] == b"begin"))
    return found


class Recorder:
    """Runs commands in a guest between marks on the recorded disk."""

    def __init__(self, vm: VM, recording: Recording, disk: str = "/dev/sda") -> None:
        self.vm = vm
        self.recording = recording
        self.number = 0
        self._disk = disk
        self._serial = 0

    def flush(self, command: str = "cowflush flush", read: bool = True) -> None:
        """Makes the next state with this command, and keeps what root holds then.

        The guest's own programs say before what must be there; afterwards the device under root is
        copied to the second disk, unless programs go on writing.
        """
        self.look()
        self.run(command, self.number + 1)
        self.number += 1
        if read:
            read_out(self.vm, self.number)

    def look(self) -> None:
        """Asks the guest for its files, which must be there in the next state."""
        tree.in_guest(self.vm).save(self.recording.truth_at(self.number + 1))

    def run(self, command: str, number: int | None = None, code: int = 0) -> str:
        """Runs a command after which state `number` holds, or else the old one.

        One that fails has no return mark.
        """
        values = {
            "number": self.number if number is None else number,
            "serial": self._serial,
            "disk": self._disk,
            "name": f"'{command}'",
            "command": f"'{command}'",
        }
        self._serial += 2
        script = "".join(f"{key}={value}\n" for key, value in values.items()) + MARKED
        return self.vm.run(script, timeout=120).exits(code).text

    def change(self) -> None:
        """Writes something that distinguishes the next state from this one."""
        number = self.number + 1
        self.vm.run(f"seq {number} 9000 >/root/f{number} && echo {number} >{COUNTER}").ok()

    def end(self) -> Recording:
        """Cuts the guest's power."""
        self.vm.kill()
        found = [mark.number for mark in marks(self.recording.entries()) if not mark.begun]
        assert found == sorted(found) and max(found, default=0) == self.number, (
            f"the write log's marks are {found}"
        )
        return self.recording


def recorder(
    lab: Lab,
    way: Way,
    room: int,
    start: Card | None = None,
    name: str = "recording",
    truth: Truth | None = None,
    **options: Any,
) -> Recorder:
    """Boots a guest from a fresh card or `start`; `room` is for states besides the first."""
    recording = prepare(lab.directory / name, way, start or fresh(lab, way), room, truth)
    card = recording.blank.copy(recording.directory / CARD)
    drives = [Drive(recording.states)]
    options = {"write_log": recording.log, "drives": drives, "append": way.append, **options}
    return Recorder(lab(card, **options), recording)


class Load:
    """Two writers that never pause, and blocks of a file that are written before each flush."""

    def __init__(self, made: Recorder) -> None:
        self._made, vm = made, made.vm
        vm.run(
            f"mkdir -p {LOAD_FOLDER} && head -c {LOAD_MIB << 20} /dev/urandom >{LOAD_FOLDER}/base"
        ).ok()
        self._writer = workload.Writer(vm)
        self._appender = vm.start(f"guest-tools writer {tree.APPENDED} --seconds 600 --pause 50000")
        self._writer.wait_rounds(1)
        vm.until(f"[ -s {tree.APPENDED} ]")

    def scatter(self) -> None:
        """Writes here and there; afterwards only the writers' files change."""
        words = f"scattered {LOAD_FOLDER} --bytes {LOAD_BYTES} --seed {self._made.number + 1}"
        self._made.vm.run(f"guest-tools load {words}", timeout=120).ok()

    def stop(self) -> None:
        assert self._appender.running(), (
            f"the appending writer ended by itself: {self._appender.wait().text}"
        )
        self._writer.stop()


def record(
    lab: Lab, way: Way, flushes: int, start: Card | None = None, name: str = "recording"
) -> Recording:
    """Boots a guest from a fresh card or `start`, lets it write all the time, and flushes."""
    made = recorder(lab, way, flushes, start, name)
    load = Load(made)
    for _ in range(flushes):
        load.scatter()
        made.flush()
    load.stop()
    return made.end()


def fresh(lab: Lab, way: Way) -> Card:
    """A card that is ready to flush to."""
    card = lab.card(partitions=way.partitions)
    if way.setup:
        with lab(card) as vm:
            vm.run(way.setup).ok()
    return card


def prepare(
    directory: Path, way: Way, card: Card, flushes: int, truth: Truth | None = None
) -> Recording:
    """The card before the guest boots, and room for this many flushes' states after state 0.

    `truth` is what root must hold then; if it is unknown, e2fsprogs find it out.
    """
    directory.mkdir()
    card.copy(directory / BLANK)
    recording = Recording.open(directory)
    make_states(recording.states, flushes + 1)
    root = way.recover(Medium(directory, recording.blank, []).files)
    put_state(recording, 0, root)
    (truth or tree.on_card(ExtImage(root))).save(recording.truth_at(0))
    return recording


def put_state(recording: Recording, number: int, root: Path) -> None:
    """Makes a file's root the state of flush `number`."""
    at = (STATES_SECTOR + number * ROOT_SECTORS) * SECTOR
    sparse.copy_range(root, recording.states, 0, at, ROOT_SECTORS * SECTOR)


def make_states(path: Path, count: int) -> None:
    """Makes an empty second disk."""
    path.unlink(missing_ok=True)
    with open(path, "wb") as file:
        file.truncate((STATES_SECTOR + count * ROOT_SECTORS) * SECTOR)


def digests(states: Path) -> Iterator[str]:
    """The SHA-256 of each state on the second disk: of all but what is free or in the journal."""
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


def read_out(vm: VM, number: int) -> None:
    """Copies the device under root, byte for byte, to the second disk's place `number`."""
    vm.run(f"number={number}\n{READ_OUT}", timeout=120).ok()
