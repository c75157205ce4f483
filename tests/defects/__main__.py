"""Puts defects that were mended back into a copy of the tree: the simulator must find each.

Each patch beside this file says what it puts back, and where it had been. All are applied to one copy, and each is
asleep until a run names it. The table tells in which history the simulator found each, and after how many seconds. A
patch that no longer applies, or does not compile, is an error: it tests nothing.

    make defects [DEFECT=name]
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
WORK = ROOT / "build" / "defects"
# From the shortest to the longest. The last one is asked only about what the others do not find.
TESTS = {
    "whatever_the_card_has_lost": "a damaged log",
    "histories_from_seeds": "a seed",
    "each_single_fault": "a single fault",
}
HISTORIES = "12000"
# What a failing simulation says first.
FOUND = re.compile(r"^history (\d+), ([\d.]+)(ms|s|µs)", re.MULTILINE)
TO_SECONDS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}
# What the patches ask.
SWITCH = """
/// Whether this run is to have that defect.
pub fn defect(name: &str) -> bool {
    static DEFECT: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    DEFECT.get_or_init(|| std::env::var("DEFECT").ok()).as_deref() == Some(name)
}
"""


@dataclass(frozen=True)
class Defect:
    """A patch, and what its first lines say."""

    name: str
    path: Path
    what: str
    where: str

    @classmethod
    def read(cls, path: Path) -> Defect:
        head = path.read_text().split("\ndiff ", 1)[0]
        said = dict(re.findall(r"^(What|Was): (.*)$", head, re.MULTILINE))
        return cls(path.stem, path, said["What"], said["Was"])


def defects() -> list[Defect]:
    """All of them, by name."""
    return [Defect.read(path) for path in sorted(HERE.glob("*.patch"))]


def tree(into: Path, root: Path = ROOT) -> None:
    """A copy of what is in the repository, as it is in the work tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, stdout=subprocess.PIPE, check=True, text=True
    )
    names = {name for name in listed.stdout.split("\0") if name and (root / name).is_file()}
    for old in [path for path in into.rglob("*") if path.is_file()]:
        if str(old.relative_to(into)) not in names:
            old.unlink()
    for name in sorted(names):
        source, copy = root / name, into / name
        # The times stay, so that cargo compiles what has changed alone.
        if not copy.exists() or copy.read_bytes() != source.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)


def apply(defect: Defect, at: Path, dry: bool = False) -> None:
    """Puts a defect back, without any guess where."""
    command = ["patch", "--strip=1", "--fuzz=0", "--force", "--no-backup-if-mismatch"]
    command += ["--dry-run"] if dry else []
    with defect.path.open() as patch:
        done = subprocess.run(command, cwd=at, stdin=patch, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{defect.name} no longer applies:\n{done.stdout}{done.stderr}")


def build(at: Path) -> Path:
    """Compiles the copy with its defects; each is asleep until it is named."""
    # What the tree is built of was built with the tree.
    target = os.environ.get("CARGO_TARGET_DIR", str(ROOT / "build" / "host"))
    environment = {**os.environ, "CARGO_TARGET_DIR": target, "MAKEFLAGS": ""}
    command = ["/usr/bin/cargo", "test", "--profile", "simulate", "--locked", "--lib", "--no-run"]
    done = subprocess.run(
        [*command, "--message-format=json"],
        cwd=at,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise SystemExit("the tree with its defects does not compile")
    said = [json.loads(line) for line in done.stdout.splitlines()]
    programs = [one["executable"] for one in said if one.get("executable")]
    return Path(programs[-1])


def judged(program: Path, name: str) -> tuple[str, str, str] | None:
    """Runs the simulator with a defect; says what has found it, in which history, after how many seconds."""
    environment = {**os.environ, "DEFECT": name, "HISTORIES": HISTORIES, "SEED": "1"}
    for test, kind in TESTS.items():
        command = [str(program), f"simulate::{test}", "--ignored", "--nocapture"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if not done.returncode:
            continue
        said = done.stdout + done.stderr
        found = FOUND.search(said)
        if not found:
            raise SystemExit(f"{test} failed by itself:\n{said}")
        return kind, found[1], f"{float(found[2]) * TO_SECONDS[found[3]]:.1f}"
    return None


def prepared() -> Path:
    """The simulator of a copy that has all defects."""
    at = WORK / "tree"
    tree(at)
    for one in defects():
        apply(one, at)
    with (at / "src/simulate/mod.rs").open("a") as simulator:
        simulator.write(SWITCH)
    return build(at)


def main(wanted: list[str]) -> int:
    chosen = [one for one in defects() if not wanted or one.name in wanted]
    if not chosen or len(chosen) < len(wanted):
        raise SystemExit(f"no such defect; there are: {', '.join(one.name for one in defects())}")
    program, missed = prepared(), []
    print("| defect | what it was | found by | history | seconds |")
    print("| --- | --- | --- | ---: | ---: |")
    for one in chosen:
        found = judged(program, one.name)
        if not found:
            missed.append(one.name)
        print(
            f"| {one.what} | {one.where} | {' | '.join(found or ('nothing', '', ''))} |", flush=True
        )
    if missed:
        print(f"not found: {', '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
