"""Cuts the power of a flushing router at thousands of points, and judges each card.

One guest is recorded; then the host rebuilds its card as each cut may have left it, recovers it and
compares it with the flushes' states. A sample is booted for real. Ends with 1 if no cut of the
log-less control tears a flush, or if any other check fails.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness import CommandFailed, Lost, artefacts
from harness.lab import Lab
from powercut import run
from powercut.judge import Judge, Verdict
from powercut.ways import FILLED, LOG, NO_LOG, Way

RESULTS = artefacts.BUILD / "power-cut"
WAYS = {way.name: way for way in (NO_LOG, LOG, FILLED)}


def say(text: str) -> None:
    print(text, flush=True)


def enumerate_cuts(way: Way, lab: Lab, arguments: argparse.Namespace) -> bool:
    say(f"== {way.name}, kernel {lab.kernel}, seed {arguments.seed}")
    judge = run.recorded(lab, way, arguments.flushes)
    say(f"  {run.describe(judge)}")
    states = run.states(judge, arguments.states, arguments.seed)
    verdicts = run.judged(judge, states, say)
    say(run.table(verdicts))
    if way is NO_LOG:
        complaint = run.control_complaint(verdicts)
        say(
            f"  FAILED: {complaint}"
            if complaint
            else "  as it must be without a log: cuts tear the merge, and the check sees it"
        )
        return not complaint
    return all_good(way, lab, judge, verdicts, arguments)


def all_good(
    way: Way, lab: Lab, judge: Judge, verdicts: list[Verdict], arguments: argparse.Namespace
) -> bool:
    good = report(verdicts, way, judge)
    if complaint := run.idle_complaint(judge):
        say(f"  FAILED: {complaint}")
        good = False
    for state in run.sample(verdicts, arguments.again, arguments.seed):
        second = run.cut_again(lab, way, judge, state, flushes=2)
        say(f"  booted from {state.name} and cut again: {run.describe(second)}")
        states = run.states(second, arguments.states // 10, arguments.seed)
        again = run.judged(second, states, say)
        say(run.table(again))
        good = report(again, way, second) and good
    wrong = run.booted(lab, way, judge, run.sample(verdicts, arguments.boots, arguments.seed), say)
    say(f"  booted {arguments.boots} of them for real, {len(wrong)} wrong")
    say("".join(f"FAILED: {text}\n" for text in wrong.values()).rstrip())
    return good and not wrong


def report(verdicts: list[Verdict], way: Way, judge: Judge) -> bool:
    """Prints which verdicts are bad, if any, and how to see one again."""
    if all(verdict.good for verdict in verdicts):
        return True
    say(f"FAILED:\n{run.failures(verdicts)}")
    say(
        f"To see one again: make power-cut ARGS='--way {way.name} --folder {judge.recording.directory} --replay NAME'"
    )
    return False


def replay(way: Way, directory: Path, name: str) -> None:
    """Rebuilds one state of an earlier run, judges it and leaves its card."""
    judge = run.reopened(directory, way)
    verdict, card = run.replay(judge, name, directory / "replayed.img")
    say(f"{verdict}\nThe card is {card}.")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--way", choices=WAYS, help="only one; all without")
    parser.add_argument("--kernel", default=artefacts.KERNELS[0], choices=artefacts.KERNELS)
    parser.add_argument("--flushes", type=int, default=12)
    parser.add_argument(
        "--states",
        type=int,
        default=2500,
        help="cuts that are drawn; all boundaries come in addition, and cuts at which one write arrives or is lost alone",
    )
    parser.add_argument("--boots", type=int, default=20, help="how many of the cards to boot")
    parser.add_argument(
        "--again",
        type=int,
        default=3,
        help="how many of them to boot, record and cut a second time",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--replay",
        metavar="NAME",
        help="one cut of the last run with --way, such as 1/42 or 'boundary 3'",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="with --replay: another recording, such as one that a failed test has left",
    )
    arguments = parser.parse_args()
    ways = [WAYS[arguments.way]] if arguments.way else list(WAYS.values())
    good = True
    for way in ways:
        directory = RESULTS / way.name
        if arguments.replay:
            replay(way, arguments.folder or directory / "recording", arguments.replay)
            continue
        lab = Lab(directory, arguments.kernel)
        try:
            good &= enumerate_cuts(way, lab, arguments)
        except (CommandFailed, Lost, AssertionError, artefacts.MissingArtefact) as error:
            say(f"FAILED: {error}\nThe logs are in {directory}.")
            good = False
        finally:
            lab.end(keep_images=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
