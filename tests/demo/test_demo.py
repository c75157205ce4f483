"""The demonstration succeeds, and README shows what it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from harness import artefacts


def shape(text: str) -> str:
    """A line of the demonstration without what differs between runs: figures, and the map's cells."""
    text = re.sub(r"[\d.,:-]*\d( [KMG]i?B)?", "0", text.strip())
    return re.sub(r"[·░▒▓█]+", "▒", text)


def transcript() -> list[str]:
    """The lines that README shows."""
    text = (artefacts.TOP / "README.md").read_text()
    block = text.partition("    make run\n")[2].partition("    == ")[2]
    lines = []
    for line in f"    == {block}".splitlines():
        if line and not line.startswith("    "):
            break
        lines.append(line.strip())
    return [line for line in lines if line not in ("", "…")]


def test_readme_has_a_transcript() -> None:
    assert len(transcript()) > 12


@pytest.mark.thorough
def test_the_demonstration_holds_and_prints_what_readme_shows() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo"],
        cwd=artefacts.TOP,
        env={**os.environ, "PYTHONPATH": "tests"},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed = {shape(line) for line in done.stdout.splitlines()}
    missing = [line for line in transcript() if shape(line) not in printed]
    assert missing == [], done.stdout
