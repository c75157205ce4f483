"""The tests' root directory: busybox, an init, and the built test programs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from harness import artefacts, local

HERE = Path(__file__).parent
DIRECTORIES = (
    "bin",
    "sbin",
    "usr/bin",
    "usr/sbin",
    "dev",
    "proc",
    "sys",
    "run",
    "tmp",
    "etc",
    "var",
    "root",
    "home",
)
PASSWD = "root::0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
# Where the files of build/TARGET go in the root.
PROGRAMS = {
    "cowflush": "usr/sbin",
    "guest-tools": "usr/bin",
    "sqlite3": "usr/bin",
    "rsync": "usr/bin",
}
GROUP = "root:x:0:\nnogroup:x:65534:\n"


def sources(target: str) -> list[Path]:
    """Every file that goes into the root; a template made of other files is stale."""
    scripts = [HERE / "init.sh", HERE / "agent.sh", Path(__file__)]
    return [artefacts.busybox(target), *scripts, *_built(target)]


def fill(root: Path, files: Mapping[str, bytes], target: str = "i586") -> None:
    """Lays out the root directory in `root`, with `files` (path to content) added."""
    for directory in DIRECTORIES:
        (root / directory).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    busybox = artefacts.busybox(target)
    _install(busybox, root / "bin" / "busybox")
    for applet in _applets(busybox):
        link = root / applet
        if link.parent.is_dir() and not link.exists():
            link.symlink_to("/bin/busybox")
    (root / "sbin" / "init").unlink(missing_ok=True)
    _install(HERE / "init.sh", root / "sbin" / "init")
    _install(HERE / "agent.sh", root / "sbin" / "vm-agent")
    # Stands for a board's own service, which a boot looks for; tests flush by hand.
    (root / "usr" / "sbin" / "flusher").touch()
    for built in _built(target):
        _install(built, root / PROGRAMS[built.name] / built.name)
    (root / "etc" / "passwd").write_text(PASSWD)
    (root / "etc" / "group").write_text(GROUP)
    for name, content in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _built(target: str) -> list[Path]:
    paths = (artefacts.programs(target) / program for program in PROGRAMS)
    return [path for path in paths if path.exists()]


def _applets(busybox: Path) -> list[str]:
    """The paths of busybox's applets, which the program itself lists: an x86 host can run it."""
    try:
        listing = local.run([busybox, "--list-full"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(
            f"{busybox} --list-full does not run on this host ({error}): use an x86 host"
        ) from error
    return listing.stdout.split()


def _install(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    target.chmod(0o755)
