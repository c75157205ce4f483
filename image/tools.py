"""Runs other programs, and says which package has one that is missing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from image.errors import Refused

PACKAGES = {
    "debugfs": "e2fsprogs", "dumpe2fs": "e2fsprogs", "mke2fs": "e2fsprogs", "e2fsck": "e2fsprogs",
    "sfdisk": "fdisk", "mtype": "mtools", "mcopy": "mtools", "minfo": "mtools", "mdir": "mtools",
    "grub-mkimage": "grub-common", "grub-script-check": "grub-common", "fakeroot": "fakeroot", "zstd": "zstd", "lz4": "lz4",
}  # fmt: skip
# A user's PATH in Debian has no sbin. The same time gives the same filesystems.
ENVIRONMENT = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin", "LC_ALL": "C"}


def run(command: Sequence[str | Path], stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Runs a program to its end, whatever it returns."""
    try:
        return subprocess.run(
            [*map(str, command)], input=stdin, capture_output=True, env=ENVIRONMENT
        )
    except FileNotFoundError as error:
        name = Path(command[0]).name
        advice = (
            f"install Debian's package {PACKAGES[name]}"
            if name in PACKAGES
            else "run `make host` first"
        )
        raise Refused(f"{name} is missing: {advice}") from error


def ok(command: Sequence[str | Path], stdin: bytes = b"") -> bytes:
    """Its output; a failure is an error with its words."""
    done = run(command, stdin)
    if done.returncode:
        said = (
            done.stderr.decode(errors="replace").strip()
            or done.stdout.decode(errors="replace").strip()
        )
        raise Refused(f"{Path(command[0]).name} failed ({done.returncode}): {said}")
    return done.stdout
