"""The built programs and the initramfs: small, static, for an i586 or 64 bits, and reproducible."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness import artefacts, local

MOST_BYTES = 521 << 10


def check_i586(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(artefacts.TOP / "cross" / "check-i586"), *map(str, arguments)]
    return local.run(command, capture_output=True, text=True)


def test_the_check_sees_what_an_i586_lacks() -> None:
    done = check_i586("--self-check")
    assert done.returncode == 0 and "WRONG" not in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("ok: ") > 10


@pytest.mark.parametrize("program", ["cowflush", "guest-tools"])
def test_programs_are_static_and_for_an_i586(program: str) -> None:
    done = check_i586(artefacts.needed(artefacts.BUILD / "i586" / program))
    assert done.returncode == 0, done.stderr
    assert "i586 only" in done.stdout


@pytest.mark.thorough
@pytest.mark.parametrize("program", ["cowflush", "guest-tools", "busybox"])
def test_programs_are_static_and_for_64_bits(program: str) -> None:
    path = artefacts.needed(artefacts.programs("x86_64") / program)
    shown = local.run(
        ["readelf", "--wide", "--file-header", "--segments", path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (
        "Advanced Micro Devices X86-64" in shown.stdout and "EXEC (Executable file)" in shown.stdout
    )
    assert (
        " LOAD " in shown.stdout and "INTERP" not in shown.stdout and "DYNAMIC" not in shown.stdout
    )


def test_the_binary_is_small() -> None:
    size = artefacts.cowflush().stat().st_size
    assert 50_000 < size <= MOST_BYTES, f"cowflush has {size} bytes, {MOST_BYTES} are the limit"


def test_the_initramfs_is_reproducible(tmp_path: Path) -> None:
    built = artefacts.initramfs().read_bytes()
    for name in ("one", "two"):
        out = tmp_path / name / "initramfs.cpio.gz"
        local.run([artefacts.TOP / "initramfs" / "build", out, artefacts.cowflush()], check=True)
        assert out.read_bytes() == built


def test_the_initramfs_holds_the_binary_and_nothing_else(tmp_path: Path) -> None:
    archive = local.run(
        ["gzip", "-dc", artefacts.initramfs()], check=True, capture_output=True
    ).stdout
    command = ["cpio", "-i", "--quiet", "--no-absolute-filenames", "init"]
    local.run(command, input=archive, cwd=tmp_path, check=True)
    assert (tmp_path / "init").read_bytes() == artefacts.cowflush().read_bytes()
    listing = local.run(
        ["cpio", "-t", "--quiet"], input=archive, check=True, capture_output=True
    ).stdout
    assert sorted(listing.decode().split()) == [
        "dev",
        "dev/console",
        "init",
        "proc",
        "root",
        "run",
        "sys",
        "sysroot",
    ]
