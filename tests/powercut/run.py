"""Records, enumerates, judges and boots, for `make power-cut` and the tests."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from harness import Lost
from harness.lab import Lab
from powercut import boots
from powercut.judge import Judge, Outcome, Verdict, traffic
from powercut.medium import rebuild
from powercut.recording import Recording, record
from powercut.states import State
from powercut.ways import LOG_SECTORS, LOG_START, Way

PROGRESS_SECONDS = 10
FAILURES_SHOWN = 10

Say = Callable[[str], None]


def recorded(lab: Lab, way: Way, flushes: int) -> Judge:
    return Judge(record(lab, way, flushes), way.recover)


def reopened(directory: Path, way: Way) -> Judge:
    """The judge of an earlier run, whose folder must have been kept."""
    return Judge(Recording.open(directory), way.recover)


def cut_again(lab: Lab, way: Way, judge: Judge, state: State, flushes: int) -> Judge:
    """Boots the card that a cut left and records that, too, to be cut at any point of it."""
    name = "after-" + re.sub(r"\W", "-", state.name)
    card = rebuild(lab.directory / f"{name}.img", judge.recording.blank, judge.entries, state)
    return Judge(record(lab, way, flushes, card, name), way.recover)


def describe(judge: Judge) -> str:
    epochs = judge.cuts.epochs
    writes = sum(bool(entry.data) for entry in judge.entries) - len(judge.marks)
    sizes = sorted(epoch.stop - epoch.start for epoch in epochs)
    return f"{len(judge.truths) - 1} flushes; the card received {writes} writes in {len(epochs)} epochs, {sizes[-1]} requests the longest"


def states(judge: Judge, drawn: int, seed: int, directed: int = 16) -> list[State]:
    """All kinds of cuts; `directed` is how many writes per epoch are lost or arrive alone."""
    return [
        *judge.cuts.boundaries(),
        *judge.cuts.directed(directed),
        *judge.cuts.garbled(range(LOG_START, LOG_START + LOG_SECTORS)),
        *judge.cuts.drawn(drawn, seed),
    ]


def idle_complaint(judge: Judge) -> str:
    """What a record with a log lacks, or "": all kinds of writes must be cut, not just some."""
    seen = traffic(judge.entries)
    missing = [
        what
        for what, count in (("merge", seen.root), ("append", seen.log), ("wrap", seen.wraps))
        if not count
    ]
    return f"the record has no {' and no '.join(missing)} of the log: {seen}" if missing else ""


def judged(judge: Judge, states: Sequence[State], say: Say) -> list[Verdict]:
    """The verdicts, with a line of progress now and then."""
    found: list[Verdict] = []
    begin = said = time.monotonic()
    for verdict in judge.verdicts(states):
        found.append(verdict)
        if time.monotonic() - said > PROGRESS_SECONDS:
            said = time.monotonic()
            bad = sum(not verdict.good for verdict in found)
            say(f"  {len(found)} of {len(states)} cuts in {said - begin:.0f} s, {bad} bad")
    return found


def control_complaint(verdicts: Sequence[Verdict]) -> str:
    """What is wrong with a log-less run, or "": flushes are whole, but cuts between tear them."""
    torn = [verdict for verdict in verdicts if verdict.outcome is Outcome.TORN]
    if not any(verdict.complaint for verdict in torn):
        return "no cut has torn the control so that e2fsck sees it"
    if all(verdict.complaint for verdict in torn):
        return "no cut has torn the control so that only the comparison sees it"
    # What a flush has reported is on the card, whatever is cut later.
    others = [verdict for verdict in verdicts if verdict.outcome is not Outcome.TORN]
    boundaries = [verdict for verdict in verdicts if verdict.state.at_boundary]
    wrong = [verdict for verdict in (*others, *boundaries) if not verdict.good]
    return f"with all that it had confirmed the card was not whole: {wrong[0]}" if wrong else ""


def booted(
    lab: Lab, way: Way, judge: Judge, states: Sequence[State], say: Say = print
) -> dict[str, str]:
    """Boots each state for real; returns what went wrong, by the state's name."""
    failures: dict[str, str] = {}
    said = time.monotonic()
    for number, state in enumerate(states):
        if time.monotonic() - said > PROGRESS_SECONDS:
            said = time.monotonic()
            say(f"  {number} of {len(states)} booted, {len(failures)} wrong")
        try:
            boots.check(lab, way, judge, state)
        except (AssertionError, Lost) as error:
            failures[state.name] = f"{state}\n    {error}"
    return failures


def sample(verdicts: Sequence[Verdict], count: int, seed: int) -> list[State]:
    """A seeded sample of the states to boot."""
    return [verdict.state for verdict in Random(f"{seed}/boots").sample(verdicts, count)]


def table(verdicts: Sequence[Verdict]) -> str:
    """Counts by outcome, and how many of each e2fsck -fn refused."""
    counts = Counter(verdict.outcome for verdict in verdicts)
    refused: Counter[Outcome] = Counter(
        v.outcome for v in verdicts if v.complaint and v.outcome is not Outcome.REFUSED
    )
    rows = [f"  {'root after the cut is':<26}{'cuts':>8}{'e2fsck refused':>18}"]
    rows += [f"  {kind.value:<26}{counts[kind]:>8}{refused[kind]:>18}" for kind in Outcome]
    return "\n".join([*rows, f"  {'all':<26}{len(verdicts):>8}{refused.total():>18}"])


def failures(verdicts: Sequence[Verdict]) -> str:
    """The first bad verdicts in full, and the names of all."""
    bad = [verdict for verdict in verdicts if not verdict.good]
    shown = "\n".join(str(verdict) for verdict in bad[:FAILURES_SHOWN])
    return f"{shown}\nall of them: {', '.join(verdict.state.name for verdict in bad)}"


def replay(judge: Judge, name: str, path: Path) -> tuple[Verdict, Path]:
    """One state again, by its name: its verdict, and its whole card in a file."""
    state = judge.cuts.named(name, range(LOG_START, LOG_START + LOG_SECTORS))
    [verdict] = judge.verdicts([state])
    rebuild(path, judge.recording.blank, judge.entries, state)
    return verdict, path
