"""Measures how much each way to spare a card wears it, for the same day of a router.

See docs/wear.md.

Every contender gets the same events on a copy of the same card, and is flushed at the same times.
What its card receives is recorded outside the guest, and models of a card count the erases. It
reports and judges nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from bench import output
from bench.output import RESULTS
from harness import CommandFailed, Lost, artefacts
from harness.lab import Lab
from wear import day, figures, plot, run, table
from wear.contenders import CONTENDERS
from wear.run import Plan

# What changed from flush to flush, and the figures of the reference
Reference = Future[tuple[list[Set[int]], dict[str, Any]]]
# The contender whose record also tells what changed from flush to flush, and so the bounds
REFERENCE = "cowflush-log"
# The contenders for the part of the day that a RAM disk on /var/log covers
LOGS = (REFERENCE, "ext4", "log2ram", "classic", "cowflush")
INTERVAL = 1800
PARTS = ("day", "logs", "week")
SHORT_SECONDS = 2 * 3600
WEEK = 7


class Bench:
    """One run; saves each day's figures as soon as they are there."""

    def __init__(self, lab: Lab, about: dict[str, Any], jobs: int, keep: bool) -> None:
        self._lab, self._about, self._jobs, self._keep = lab, about, jobs, keep
        self._blank = run.blank(lab)

    def day(self, name: str, plan: Plan, keys: Sequence[str]) -> dict[str, Any]:
        """Runs all contenders through one plan, side by side. The first one must have a flush log:
        its record tells the bounds."""
        with ThreadPoolExecutor(self._jobs) as pool:
            reference = pool.submit(self._reference, name, plan, keys[0])
            # Each waits at its end for the changes that the reference finds.
            found = list(pool.map(lambda key: self._through(name, plan, key, reference), keys[1:]))
            intervals, first = reference.result()
        result = {
            "plan": {
                "seconds": plan.seconds,
                "interval": plan.interval,
                "events": len(plan.events),
            },
            "bounds": figures.of_bounds(intervals),
            "contenders": dict(zip(keys, [first, *found], strict=True)),
        }
        return output.save(f"wear-{name}", self._about, result)

    def _reference(self, name: str, plan: Plan, key: str) -> tuple[list[Set[int]], dict[str, Any]]:
        done, seconds = self._run(name, plan, key)
        intervals = figures.changed(done, self._blank)
        return intervals, self._figures(name, done, seconds, intervals)

    def _through(self, name: str, plan: Plan, key: str, reference: Reference) -> dict[str, Any]:
        done, seconds = self._run(name, plan, key)
        return self._figures(name, done, seconds, reference.result()[0])

    def _run(self, name: str, plan: Plan, key: str) -> tuple[run.Run, float]:
        begin = time.monotonic()
        done = run.run(self._lab, self._blank, CONTENDERS[key], plan, f"{name}-{key}")
        return done, time.monotonic() - begin

    def _figures(
        self, name: str, done: run.Run, seconds: float, intervals: Sequence[Set[int]]
    ) -> dict[str, Any]:
        one = figures.of_run(done, seconds, intervals)
        self._tell(name, done.contender.key, one)
        self._clean(done)
        return one

    @staticmethod
    def _tell(name: str, key: str, one: dict[str, Any]) -> None:
        erases = "; ".join(
            f"{kind}: {values['erases']:,.0f}" for kind, values in one["kinds"].items()
        )
        late = f"events late by {one['late_ms'] / 1000:.1f} s on the average"
        print(f"{name}, {key} ({one['host_seconds']:.0f} s): erases {erases}; {late}", flush=True)

    def _clean(self, done: run.Run) -> None:
        """Removes a day's record, which is large."""
        if not self._keep:
            done.log.unlink()
            done.card.path.unlink()


def report(name: str, result: dict[str, Any]) -> None:
    print(f"\n## {name}\n\n{table.main(result)}\n\n{table.logs(result)}")
    for other in ("ext4", "log2ram", "classic"):
        for one in ("cowflush", "cowflush-log", "cowflush-quiet"):
            if {one, other} <= result["contenders"].keys():
                print(table.fewer(result, one, other))
    print(flush=True)


def measure(bench: Bench, arguments: argparse.Namespace) -> None:
    definition, seed = day.definition(), arguments.seed
    seconds = SHORT_SECONDS if arguments.short else day.DAY_SECONDS
    if "day" in arguments.parts:
        result = bench.day(
            "day",
            Plan(day.events(definition, seed, 0, seconds), seconds, INTERVAL),
            arguments.contenders,
        )
        report("The day", result)
        print(table.losses(result), flush=True)
        when = result["run"]["started"][:10]
        caption = f"{when}; {result['run']['qemu']}, -cpu pentium, kernel {result['run']['kernel']}; {seconds // 3600} h, a flush every {INTERVAL // 60} min, seed {seed}"
        plot.save(result, RESULTS / "wear.svg", caption)
    if "logs" in arguments.parts:
        logs = Plan(day.events(day.logs_only(definition), seed, 0, seconds), seconds, INTERVAL)
        report("Logs only", bench.day("logs", logs, LOGS))
    if "week" in arguments.parts and not arguments.short:
        events = [event for number in range(WEEK) for event in day.events(definition, seed, number)]
        week = Plan(events, WEEK * day.DAY_SECONDS, INTERVAL)
        report("A week", bench.day("week", week, arguments.week))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "contenders",
        nargs="*",
        metavar="CONTENDER",
        help=f"of {', '.join(CONTENDERS)}; all without one",
    )
    parser.add_argument(
        "--short", action="store_true", help="two hours instead of a day, and no week"
    )
    parser.add_argument(
        "--week",
        nargs="*",
        default=[REFERENCE],
        help="who goes through a week, first one with a flush log",
    )
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="what to measure")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kernel", default=artefacts.KERNELS[0], choices=artefacts.KERNELS)
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        help="guests side by side; they count, so it makes no difference",
    )
    parser.add_argument("--keep", action="store_true", help="keep the records, some gigabytes")
    arguments = parser.parse_args()
    if unknown := {*arguments.contenders, *arguments.week} - CONTENDERS.keys():
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}")
    arguments.contenders = [*dict.fromkeys([REFERENCE, *(arguments.contenders or CONTENDERS)])]
    lab = Lab(RESULTS / "logs" / "wear", arguments.kernel)
    try:
        plot.check()
        artefacts.needed(artefacts.programs("i586") / "rsync")
        for part in arguments.parts:
            output.forget(f"wear-{part}")
        if "day" in arguments.parts:
            (RESULTS / "wear.svg").unlink(missing_ok=True)
        measure(
            Bench(lab, output.describe_run(arguments.kernel), arguments.jobs, arguments.keep),
            arguments,
        )
    except (CommandFailed, Lost, AssertionError, RuntimeError, artefacts.MissingArtefact) as error:
        print(
            f"\nThe bench ended early: {error}\nThe logs are in {lab.directory}.", file=sys.stderr
        )
        return 1
    finally:
        lab.end(keep_images=arguments.keep)
    print(
        f"\nAll figures: {RESULTS}/wear-*.json, {RESULTS}/wear.svg; docs/wear.md says what they mean."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
