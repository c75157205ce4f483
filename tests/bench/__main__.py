"""Measures cowflush in emulated routers: it reports figures and judges nothing; see docs/bench.md.

The machine is emulated and shares its host, so figures are good as ratios within one run; every run
therefore measures everything anew.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from bench import boots, cards, daemon, flushes, memory, output, segments, sizes
from bench.output import RESULTS
from harness import CommandFailed, Lost, artefacts
from harness.lab import Lab

GROUPS = ("sizes", "memory", "daemon", "boots", "segments", "flushes")


class Bench:
    """One run: shows and saves each group of figures as soon as it is measured."""

    def __init__(self, arguments: argparse.Namespace, run: dict[str, Any]) -> None:
        self._arguments = arguments
        self._run = run

    def measure(self, group: str) -> None:
        output.forget(group)
        getattr(self, f"_{group}")()

    def _sizes(self) -> None:
        figures = sizes.measure()
        self._report("sizes", figures, sizes.rows(figures))

    def _memory(self) -> None:
        figures = self._in_lab("memory", memory.measure)
        self._report("memory", figures, memory.rows(figures))

    def _daemon(self) -> None:
        figures = self._in_lab("daemon", lambda lab: daemon.measure(lab, self._arguments.seconds))
        self._report("daemon", figures, daemon.rows(figures))

    def _boots(self) -> None:
        figures = self._in_lab("boots", lambda lab: boots.measure(lab, self._arguments.boots))
        self._report("boots", figures, boots.rows(figures))

    def _segments(self) -> None:
        figures = self._in_lab("segments", segments.measure)
        self._report("segments", figures, segments.rows(figures))

    def _flushes(self) -> None:
        self._in_lab("flushes", self._flushes_in)

    def _flushes_in(self, lab: Lab) -> dict[str, Any]:
        card = cards.prepare(lab)
        for speed, rounds in (
            (cards.FAST, self._arguments.rounds),
            (cards.SLOW, self._arguments.slow_rounds),
        ):
            figures = flushes.measure(lab, card, speed, rounds)
            self._report(f"flushes-{speed.name}", figures, flushes.rows(speed.name, figures))
        return {}

    def _in_lab(self, name: str, work: Callable[[Lab], dict[str, Any]]) -> dict[str, Any]:
        lab = Lab(RESULTS / "logs" / name, self._arguments.kernel)
        try:
            return work(lab)
        finally:
            lab.end(keep_images=False)

    def _report(self, name: str, figures: dict[str, Any], rows: list[output.Row]) -> None:
        output.save(name, self._run, figures)
        output.show(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all without one"
    )
    parser.add_argument("--kernel", default=artefacts.KERNELS[0], choices=artefacts.KERNELS)
    parser.add_argument(
        "--seconds", type=int, default=60, help="how long the daemon is watched in each state"
    )
    parser.add_argument("--boots", type=int, default=7, help="boots of each kind")
    parser.add_argument(
        "--rounds", type=int, default=5, help="flushes of each kind on the fast card"
    )
    parser.add_argument("--slow-rounds", type=int, default=3, help="the same on the slow card")
    arguments = parser.parse_args()
    if unknown := set(arguments.groups) - set(GROUPS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    bench = Bench(arguments, output.describe_run(arguments.kernel))
    try:
        for group in arguments.groups or GROUPS:
            bench.measure(group)
    except (CommandFailed, Lost, AssertionError, RuntimeError, artefacts.MissingArtefact) as error:
        print(
            f"\nThe bench ended early: {error}\nThe logs are in {RESULTS / 'logs'}.",
            file=sys.stderr,
        )
        return 1
    print(f"\nAll figures, with their units in the keys: {RESULTS}/*.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
