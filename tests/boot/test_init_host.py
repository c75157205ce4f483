"""As process 1 of a container cowflush is not init: it runs the given command, touching nothing.

These tests run the routers' program on the host: a container needs no guest. One with its root in
RAM looks most like an initramfs. Every boot test shows that cowflush is init when the kernel starts
it.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from harness import artefacts, local

# A container's namespaces, for a user who may create them without being root.
MOUNTS = "unshare --user --map-root-user --mount"
PROCESSES = "unshare --pid --kill-child"


def container(folder: Path, setup: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs `words` as process 1 on a root in RAM, then lists what is mounted there."""
    root, program = shlex.quote(str(folder)), shlex.quote(str(artefacts.cowflush()))
    script = f"""
    mount -t tmpfs container {root} && cp {program} {root}/init && cp {program} {root}/cowflush || exit 99
    cd {root} && {setup} || exit 98
    {PROCESSES} chroot {root} {shlex.join(words)}
    code=$?
    grep -c " {folder}/" /proc/self/mountinfo
    exit $code
    """
    return local.run(
        [*MOUNTS.split(), "sh", "-c", script], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("setup", "mounts"),
    [("true", 0), ("mkdir proc && mount --rbind /proc proc", 1)],
    ids=["without /proc", "with /proc"],
)
def test_process_1_of_a_container_runs_the_command_that_it_was_given(
    tmp_path: Path, setup: str, mounts: int
) -> None:
    if not shutil.which("unshare"):
        raise AssertionError("this test needs unshare, of util-linux")
    refused = "cowflush: cannot run init: this is not the init of an initramfs."
    for words, code, said, complaint in (
        (("/init", "version"), 0, "cowflush ", ""),
        (("/cowflush", "version"), 0, "cowflush ", ""),
        (("/cowflush", "init"), 2, "", refused),
        (("/init", "init"), 2, "", refused),
        (("/init", "stop", "nonsense"), 2, "", "Unrecognized argument: nonsense"),
    ):
        done = container(tmp_path, setup, *words)
        assert done.returncode == code and complaint in done.stderr, (words, done)
        *lines, left = done.stdout.splitlines()
        assert "\n".join(lines).startswith(said) and (said or not lines), (words, done)
        assert (int(left) > 0) == (mounts > 0), (words, done)
