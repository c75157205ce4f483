"""A router under mixed load for many flushes, with kills and power cuts in between.

Each round boots the same card, and lets the daemon and a person flush while files are replaced, a
log grows by numbered lines and two SQLite databases (one with a WAL, one with a rollback journal)
commit numbered rows; it kills cowflush here and there, and cuts the power. Then the card is
recovered on the host and must hold everything that a flush had reported, whole. Every few flushes
everything pauses for a moment: no loop or device-mapper device may be left over, and memory must
not have grown.

Ends with 1 and the reason on any loss, torn file, SQLite complaint, error, leak or growth of
memory, or if the time was over before there were enough flushes. Figures: build/soak-KERNEL.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from harness import CommandFailed, Lost, artefacts
from harness.lab import Lab
from soak.rounds import Soak, Totals


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--flushes", type=int, default=200, help="at least so many")
    parser.add_argument("--minutes", type=float, default=30, help="but not longer")
    parser.add_argument("--kernel", default=artefacts.KERNELS[0], choices=artefacts.KERNELS)
    parser.add_argument(
        "--seed", type=int, default=1, help="of the order of flushes, kills and cuts"
    )
    arguments = parser.parse_args()
    begin = time.monotonic()

    def spent() -> float:
        return (time.monotonic() - begin) / 60

    def enough(totals: Totals) -> bool:
        return bool(totals.flushes >= arguments.flushes or spent() >= arguments.minutes)

    def say(text: str) -> None:
        print(f"{spent():5.1f} min  {text}", flush=True)

    results = artefacts.BUILD / f"soak-{arguments.kernel}"
    print(
        f"soak: kernel {arguments.kernel}, seed {arguments.seed}, {arguments.flushes} flushes in {arguments.minutes:g} minutes at most"
    )
    lab = Lab(results, arguments.kernel)
    soak, reason = Soak(lab, arguments.seed, enough, say), ""
    try:
        while not enough(soak.totals):
            soak.round()
    except (CommandFailed, Lost, AssertionError, artefacts.MissingArtefact) as error:
        reason = f"in round {len(soak.totals.boots)}: {error}"
    if not reason and soak.totals.flushes < arguments.flushes:
        reason = f"only {soak.totals.flushes} flushes in {arguments.minutes:g} minutes: this machine is too slow, or a flush is"
    lab.end(keep_images=bool(reason))
    figures = {
        "kernel": arguments.kernel,
        "seed": arguments.seed,
        "minutes": spent(),
        "failed": reason,
        **soak.totals.report(),
    }
    (artefacts.BUILD / f"{results.name}.json").write_text(json.dumps(figures, indent=2) + "\n")
    if reason:
        print(
            f"FAILED {reason}\nThe logs are in {results}; --seed {arguments.seed} repeats the order of events."
        )
        return 1
    say(
        f"good: {soak.totals.flushes} flushes, {soak.totals.kills} kills, {soak.totals.cuts} power cuts"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
