"""Changes src/pure and src/flush in one small way at a time; a test on the host must notice each.

All of it takes hours, so it goes by parts: SHARD=1/40 is the first of forty. A change that no test
notices gets a test, or, if it makes no difference, its line of reason in tests/mutants/alive.toml.
Ends with 1 if there is a change that has neither, or if a test noticed one that is listed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from harness import artefacts
from mutants import alive

VERSION = "27.1.0"
OUT = artefacts.BUILD / "mutants"
MISSING = f"""cargo-mutants is missing. To get it, in some ten minutes:

    RUSTC=/usr/bin/rustc /usr/bin/cargo install cargo-mutants --version {VERSION} --locked

and put the folder that it names on PATH."""


def tool() -> str | None:
    """The program, on PATH or where cargo puts it."""
    home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    return shutil.which("cargo-mutants") or shutil.which(home / "bin" / "cargo-mutants")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shard", metavar="K/N", help="the Kth of N parts, from 1; all without")
    parser.add_argument(
        "--file", action="append", default=[], help="only in these files, such as 'src/pure/cow/*'"
    )
    parser.add_argument(
        "--judge", type=Path, metavar="JSON", help="judge an earlier run's outcomes"
    )
    arguments = parser.parse_args()
    known = alive.listed(alive.LIST.read_text())
    if arguments.judge:
        verdict = alive.judge(json.loads(arguments.judge.read_text()), known)
        print(verdict)
        return 0 if verdict.good else 1
    if not (program := tool()):
        print(MISSING, file=sys.stderr)
        return 2
    command = [program, "mutants", "--no-shuffle", "--colors=never", "--output", str(OUT)]
    for file in arguments.file:
        command += ["--file", file]
    if arguments.shard:
        part, of = map(int, arguments.shard.split("/"))
        if not 1 <= part <= of:
            parser.error("--shard is such as 1/40: the first of forty parts")
        command += ["--shard", f"{part - 1}/{of}"]
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    done = subprocess.run(command, cwd=artefacts.TOP, stdin=subprocess.DEVNULL)
    outcomes = OUT / "mutants.out" / "outcomes.json"
    # 2 and 3: changes were missed or took too long; any other code is a run that says nothing.
    if done.returncode not in (0, 2, 3) or not outcomes.exists():
        print(f"cargo-mutants ended with {done.returncode}: its logs are in {OUT}", file=sys.stderr)
        return 1
    verdict = alive.judge(json.loads(outcomes.read_text()), known)
    print(verdict)
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
