"""The list of changes that make no difference fits the sources, and judges a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from harness import artefacts, local
from mutants import alive
from mutants.alive import Change

SOURCE = """pub fn fits(a: u64, b: u64) -> bool {
    a < b
}

#[cfg(test)]
mod tests {
    fn other() {
        one < other
    }
}
"""
KNOWN = Change("x.rs", "a < b", "replace < with <= in fits")
WHOLE = Change("x.rs", "pub fn fits(a: u64, b: u64) -> bool {", "replace fits -> bool with true")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "x.rs").write_text(SOURCE)
    return tmp_path


def test_every_change_of_the_list_is_one_of_the_source_and_has_its_reason() -> None:
    listed = alive.listed(alive.LIST.read_text())
    assert [change for change, reason in listed.items() if len(reason) < 20] == []
    gone = alive.gone(listed)
    assert gone == [], "these lines are no longer there, or twice: look at them anew"
    outside = [
        change.file for change in listed if not change.file.startswith(("src/pure/", "src/flush/"))
    ]
    assert outside == []


def test_a_change_that_the_source_no_longer_has_is_seen(top: Path) -> None:
    assert alive.gone([KNOWN, WHOLE], top) == []
    for stale in (
        Change("y.rs", KNOWN.line, KNOWN.change),
        Change("x.rs", "a <= b", KNOWN.change),
        Change("x.rs", "one < other", KNOWN.change),
        Change("x.rs", KNOWN.line, "replace < with <= in fitted"),
    ):
        assert alive.gone([stale], top) == [stale]
    (top / "x.rs").write_text(SOURCE.replace("a < b", "a < b\na < b"))
    assert alive.gone([KNOWN], top) == [KNOWN]


def test_nothing_is_listed_twice() -> None:
    entry = '[[alive]]\nfile = "x.rs"\nline = "a < b"\nchange = "replace < with <= in fits"\nreason = "r"\n'
    assert alive.listed(entry) == {KNOWN: "r"}
    with pytest.raises(ValueError, match=r"listed twice: x\.rs"):
        alive.listed(entry * 2)


def outcomes(*ended: tuple[str, int, str]) -> dict[str, Any]:
    """Outcomes in cargo-mutants' format: how each change ended, its line, and what it was."""
    found: list[dict[str, Any]] = [{"scenario": "Baseline", "summary": "Success"}]
    for summary, line, said in ended:
        mutant = {
            "file": "x.rs",
            "name": f"x.rs:{line}:7: {said}",
            "span": {"start": {"line": line, "column": 7}},
        }
        found.append({"scenario": {"Mutant": mutant}, "summary": summary})
    return {"outcomes": found}


def test_a_run_is_good_if_each_change_is_noticed_or_argued(top: Path) -> None:
    noticed = ("CaughtMutant", 1, WHOLE.change)
    run = outcomes(noticed, ("MissedMutant", 2, KNOWN.change), ("Unviable", 2, "replace < with +"))
    verdict = alive.judge(run, [KNOWN], top)
    assert (
        verdict.good and verdict.argued == [KNOWN] and (verdict.caught, verdict.unviable) == (1, 1)
    )
    assert str(verdict).startswith(
        "2 changes: 1 noticed, 0 never end, 1 make no difference, 0 nobody"
    )
    verdict = alive.judge(run, [], top)
    assert not verdict.good and f"nobody notices: {KNOWN}" in str(verdict)


def test_a_listed_change_that_is_noticed_is_to_go_from_the_list(top: Path) -> None:
    for summary in ("CaughtMutant", "Timeout"):
        verdict = alive.judge(outcomes((summary, 2, KNOWN.change)), [KNOWN], top)
        assert not verdict.good and f"listed, but noticed: {KNOWN}" in str(verdict)
    # It says nothing of changes that it did not try.
    assert alive.judge(outcomes(), [KNOWN], top).good


def test_without_the_tool_it_says_how_to_get_it(tmp_path: Path) -> None:
    empty = {"PATH": str(tmp_path), "CARGO_HOME": str(tmp_path)}
    done = local.run(
        ["/usr/bin/python3", "-m", "mutants", "--shard", "1/40"],
        env={**os.environ, **empty, "PYTHONPATH": str(artefacts.TOP / "tests")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "cargo install cargo-mutants --version" in done.stderr
