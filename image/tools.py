"""Runs other programs, and says which package has a missing one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from image.errors import Refused

PACKAGES = {
    "debugfs": "e2fsprogs", "dumpe2fs": "e2fsprogs", "mke2fs": "e2fsprogs", "e2fsck": "e2fsprogs",
    "sfdisk": "fdisk", "mtype": "mtools", "mcopy": "mtools", "minfo": "mtools", "mdir": "mtools",
    "grub-mkimage": "grub-common", "grub-script-check": "grub-common", "zstd": "zstd", "lz4": "lz4",
}  # fmt: skip
# What `run` returns.
Done = subprocess.CompletedProcess[bytes]
# Without the person's settings: an mke2fs.conf, a .mtoolsrc or an option in a variable would change
# the result. A user's PATH in Debian lacks sbin.
ENVIRONMENT = {
    "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
    "LC_ALL": "C",
    "TZ": "UTC",
    "HOME": "/nonexistent",
    "MKE2FS_CONFIG": str(Path(__file__).with_name("mke2fs.conf")),
    "MTOOLSRC": "/dev/null",
    "MTOOLS_SKIP_CHECK": "1",
}


def run(
    command: Sequence[str | Path],
    stdin: bytes = b"",
    *,
    cwd: Path | None = None,
    more: Mapping[str, str] | None = None,
) -> Done:
    """Runs a program to its end, whatever it returns; `more` goes to its environment.

    Programs see more in a name than a file's (debugfs a `?`, mtools an `@@`, debugfs's script a
    quote), so they get plain names only, in a folder of ours, `cwd`.
    """
    try:
        return subprocess.run(
            [*map(str, command)],
            input=stdin,
            capture_output=True,
            env={**ENVIRONMENT, **(more or {})},
            cwd=cwd,
        )
    except FileNotFoundError as error:
        name = Path(command[0]).name
        advice = (
            f"install Debian's package {PACKAGES[name]}"
            if name in PACKAGES
            else "run `make host` first"
        )
        raise Refused(f"{name} is missing: {advice}") from error


def ok(
    command: Sequence[str | Path],
    stdin: bytes = b"",
    *,
    cwd: Path | None = None,
    more: Mapping[str, str] | None = None,
) -> bytes:
    """Its output; a failure is an error with the program's words."""
    done = run(command, stdin, cwd=cwd, more=more)
    if done.returncode:
        said = words(done.stderr) or words(done.stdout)
        raise Refused(f"{Path(command[0]).name} failed ({done.returncode}): {said}")
    return done.stdout


def words(output: bytes) -> str:
    """A program's output, as text."""
    return output.decode(errors="replace").strip()
