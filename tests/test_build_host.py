"""What a machine must be to build on is said before anything is installed or built."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from vm import artefacts


def deps(release: Path) -> subprocess.CompletedProcess[str]:
    """`cross/deps.sh` on a machine whose os-release is this file; nothing is missing on it."""
    return subprocess.run(
        [artefacts.TOP / "cross" / "deps.sh"],
        env={**os.environ, "OS_RELEASE": str(release)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "text",
    [
        'PRETTY_NAME="Debian GNU/Linux 11 (bullseye)"\nVERSION_CODENAME=bullseye\n',
        'PRETTY_NAME="Ubuntu 24.04 LTS"\nVERSION_CODENAME=noble\n',
        'PRETTY_NAME="Alpine Linux v3.20"\n',
        "",
    ],
    ids=["older", "ubuntu", "alpine", "nameless"],
)
def test_another_system_is_told_what_it_lacks(tmp_path: Path, text: str) -> None:
    file = tmp_path / "os-release"
    file.write_text(text)
    done = deps(file)
    assert done.returncode == 1
    assert "Debian 12 or 13 on x86-64" in done.stderr and "qemu-system-x86" in done.stderr
    assert text.partition('"')[2].partition('"')[0] in done.stderr


def test_a_system_without_a_name_is_told_too(tmp_path: Path) -> None:
    done = deps(tmp_path / "none")
    assert done.returncode == 1 and "this is an unknown system on" in done.stderr


@pytest.mark.parametrize("codename", ["bookworm", "trixie"])
def test_both_releases_of_debian_are_taken(tmp_path: Path, codename: str) -> None:
    file = tmp_path / "os-release"
    file.write_text(f'PRETTY_NAME="Debian"\nVERSION_CODENAME={codename}\n')
    done = deps(file)
    assert (done.returncode, done.stderr) == (0, "")
