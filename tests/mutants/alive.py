"""The changes that no test can notice, since they make no difference; a run's judgement."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("alive.toml")


@dataclass(frozen=True, order=True)
class Change:
    """One change, identified by its text and not by a line's number, which moves."""

    file: str
    # As in the source, without its indent
    line: str
    # In cargo-mutants' words: "replace < with <= in fits"
    change: str

    def __str__(self) -> str:
        return f"{self.file}: {self.change}\n    {self.line}"


def listed(text: str) -> dict[Change, str]:
    """The changes known to make no difference, each with its reason."""
    found: dict[Change, str] = {}
    for entry in tomllib.loads(text).get("alive", []):
        change = Change(entry["file"], entry["line"], entry["change"])
        if change in found:
            raise ValueError(f"listed twice: {change}")
        found[change] = entry["reason"].strip()
    return found


def gone(changes: Iterable[Change], top: Path = TOP) -> list[Change]:
    """Those whose line, or whose function, is no longer exactly once in the source."""

    def is_there(change: Change) -> bool:
        path = top / change.file
        if not path.is_file():
            return False
        # Not the tests at a file's end
        code = path.read_text().split("\n#[cfg(test)]\nmod ", 1)[0]
        same = [line for line in code.splitlines() if line.strip() == change.line]
        name = re.search(r" in (?:.*::)?(\w+)$", change.change) or re.match(
            r"replace (?:[^ ]*::)?(\w+)(?: -> .*)? with ", change.change
        )
        is_function = name and re.search(rf"\bfn {name[1]}\b", code)
        return len(same) == 1 and bool(is_function)

    return [change for change in changes if not is_there(change)]


def changes(outcomes: dict[str, Any], summary: str, top: Path = TOP) -> list[Change]:
    """A run's changes (`outcomes.json`) with this outcome, such as "MissedMutant"."""
    found = []
    for outcome in outcomes["outcomes"]:
        if outcome["summary"] != summary or not isinstance(outcome["scenario"], dict):
            continue
        mutant = outcome["scenario"]["Mutant"]
        line = (top / mutant["file"]).read_text().splitlines()[mutant["span"]["start"]["line"] - 1]
        said = re.sub(r"^[^:]*:\d+(:\d+)?: ", "", mutant["name"])
        found.append(Change(mutant["file"], line.strip(), said))
    return found


@dataclass
class Verdict:
    """What a run found."""

    caught: int
    unviable: int
    timeouts: int
    argued: list[Change]
    # No test notices them, and no reason is listed.
    unknown: list[Change]
    # Listed, but a test notices them
    stale: list[Change]

    @property
    def good(self) -> bool:
        return not self.unknown and not self.stale

    def __str__(self) -> str:
        tried = self.caught + self.timeouts + len(self.argued) + len(self.unknown)
        text = f"{tried} changes: {self.caught} noticed, {self.timeouts} never end, "
        text += f"{len(self.argued)} make no difference, {len(self.unknown)} nobody notices"
        text += f" ({self.unviable} more do not compile)"
        for what, those in (
            ("nobody notices", self.unknown),
            ("listed, but noticed", self.stale),
        ):
            text += "".join(f"\n{what}: {change}" for change in sorted(those))
        return text


def judge(outcomes: dict[str, Any], known: Iterable[Change], top: Path = TOP) -> Verdict:
    known = set(known)
    noticed = changes(outcomes, "CaughtMutant", top) + changes(outcomes, "Timeout", top)
    missed = changes(outcomes, "MissedMutant", top)
    return Verdict(
        caught=len(changes(outcomes, "CaughtMutant", top)),
        unviable=len(changes(outcomes, "Unviable", top)),
        timeouts=len(changes(outcomes, "Timeout", top)),
        argued=[change for change in missed if change in known],
        unknown=[change for change in missed if change not in known],
        stale=[change for change in noticed if change in known and change not in missed],
    )
