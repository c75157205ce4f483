"""Recovers a card that lost its power and says what it holds."""

from __future__ import annotations

import copy
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path

from harness import sparse
from harness.ext import ExtImage
from harness.writelog import Entry
from powercut import tree
from powercut.medium import Medium
from powercut.recording import Mark, Recording, marks
from powercut.states import Cuts, State
from powercut.ways import LOG_SECTORS, LOG_START, ROOT_START, Recover, Refused

# A chunk, in sectors
CHUNK = 8
# Writes that represent an epoch
FEW = 6
SHARED_MEMORY = "/dev/shm"


class Outcome(Enum):
    """What root is after the recovery; N is the last flush that had returned before the cut."""

    REPORTED = "the state of flush N"
    NEXT = "the state of flush N+1"
    OLDER = "an older state"
    NEWER = "a newer state"
    TORN = "no flush's state"
    REFUSED = "not recovered"


@dataclass(frozen=True)
class Verdict:
    """The judgement of a state: `reported` is N; `complaint` is e2fsck's or the recovery's."""

    state: State
    reported: int
    outcome: Outcome
    complaint: str = ""

    @property
    def good(self) -> bool:
        return self.outcome in (Outcome.REPORTED, Outcome.NEXT) and not self.complaint

    def __str__(self) -> str:
        return f"{self.state}\n    N is {self.reported}; root is {self.outcome.value}. {self.complaint}".rstrip()


class Judge:
    """Judges the states of one recording. `recover` gets the files of the partitions, root first.

    It recognizes a root by its content; then root's files must be those that the guest's own
    programs found before that flush, so that a file which a flush leaves out is noticed. With
    `mounted` the guest wrote to the card directly at the end: then a journal is replayed first, as
    a mount would, and only the files identify a root.
    """

    def __init__(self, recording: Recording, recover: Recover, mounted: bool = False) -> None:
        self.recording = recording
        self._receive(recording.entries())
        self.truths = recording.truths()
        self._recover = recover
        self._mounted = mounted
        # By content: all that e2fsprogs don't call free or the journal's.
        states = [] if mounted else recording.digests()
        self.flush_of = {digest: number for number, digest in enumerate(states)}
        assert len(self.flush_of) == len(states), (
            "two flushes left the same state: nothing tells them apart"
        )
        assert len(self.truths) == 1 + max((mark.number for mark in self.marks), default=0), (
            f"of {len(self.truths)} states it is known what the guest had: {self.marks}"
        )
        self._seen: dict[str, tuple[int | None, str]] = {}

    def _receive(self, entries: list[Entry]) -> None:
        self.entries = entries
        self.marks = marks(entries)
        self.cuts = Cuts(entries, unrelated=[mark.entry for mark in self.marks])

    def without(self, request: int) -> tuple[Judge, list[State]]:
        """The judge of the same record without this FLUSH, and states possible only then."""
        other = copy.copy(self)
        other._receive([*self.entries[:request], *self.entries[request + 1 :]])
        log = range(LOG_START, LOG_START + LOG_SECTORS)
        states = [*other.cuts.directed(FEW), *other.cuts.garbled(log)]
        return other, [s for s in states if s.start < request < other.cuts.epochs[s.epoch].stop]

    def window(self, name: str) -> range:
        """The cuts (by requests received) during the command whose mark has this name."""
        begin = next(mark.entry for mark in self.marks if mark.begun and mark.name == name)
        ends = (
            mark.entry
            for mark in self.marks
            if not mark.begun and mark.name == name and mark.entry > begin
        )
        return range(begin + 1, next(ends, len(self.entries)) + 1)

    def verdicts(self, states: Iterable[State]) -> Iterator[Verdict]:
        # In RAM if possible: the tool syncs what it writes, thousands of times.
        with tempfile.TemporaryDirectory(
            dir=SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
        ) as work:
            medium = Medium(Path(work), self.recording.blank, self.entries)
            for state in sorted(states, key=lambda state: state.start):
                with medium.after(state):
                    yield self._judge(state, medium.files)

    def _judge(self, state: State, files: Sequence[Path]) -> Verdict:
        number = reported(self.marks, state)
        try:
            root = self._recover(files)
        except Refused as refused:
            return Verdict(state, number, Outcome.REFUSED, str(refused))
        # Most states are alike, and one look at each is enough.
        digest = hashlib.sha256(root.read_bytes()).hexdigest()
        if digest not in self._seen:
            look = self._look_mounted if self._mounted else self._look
            self._seen[digest] = look(root)
        found, complaint = self._seen[digest]
        return Verdict(state, number, outcome(found, number), complaint)

    def _look(self, root: Path) -> tuple[int | None, str]:
        """The flush whose state this is, and what is wrong: e2fsck's output, or other files."""
        image = ExtImage(root)
        found = self.flush_of.get(image.content())
        try:
            image.fsck()
            if found is not None:
                differ = tree.complaint(tree.on_card(image), self.truths[found])
                assert not differ, f"the files are not those of flush {found}: {differ}"
        except AssertionError as error:
            return found, str(error)
        return found, ""

    def _look_mounted(self, root: Path) -> tuple[int | None, str]:
        """The flush of a mounted card's root: judged on a copy, since its journal is replayed."""
        image = ExtImage(_copy(root))
        try:
            image.replay_journal()
            files = tree.on_card(image, direct=True)
            differ = {n: tree.complaint(files, truth) for n, truth in enumerate(self.truths)}
            # The youngest: a flush before which nothing had changed is as good as the one before.
            found = max((number for number in differ if not differ[number]), default=None)
        except AssertionError as error:
            return None, str(error)
        try:
            image.fsck()
        except AssertionError as error:
            return found, str(error)
        return found, "" if found is not None else str(differ)


def _copy(root: Path) -> Path:
    mounted = root.with_name("mounted.img")
    mounted.unlink(missing_ok=True)
    sparse.copy(root, mounted)
    return mounted


@dataclass(frozen=True)
class Traffic:
    """How much the card received for root and for the log, and how often the log restarted."""

    root: int
    log: int
    wraps: int


def traffic(entries: Sequence[Entry]) -> Traffic:
    writes = [entry.sector for entry in entries if entry.data]
    root = sum(ROOT_START <= sector < LOG_START for sector in writes)
    # Between the two copies of the header, which are a chunk each.
    ring = range(LOG_START + CHUNK, LOG_START + LOG_SECTORS - CHUNK)
    log = [sector for sector in writes if sector in ring]
    return Traffic(root, len(log), sum(later < earlier for earlier, later in pairwise(log)))


def reported(marks: Sequence[Mark], state: State) -> int:
    """The number of the last flush that had returned before the cut."""
    done = (mark.number for mark in marks if not mark.begun and mark.entry < state.seen)
    return max(done, default=0)


def outcome(found: int | None, number: int) -> Outcome:
    """The outcome: `found` is the flush that root is as, `number` the last one that had returned."""
    if found is None:
        return Outcome.TORN
    if found in (number, number + 1):
        return Outcome.REPORTED if found == number else Outcome.NEXT
    return Outcome.OLDER if found < number else Outcome.NEWER
