"""The small system that a board's image holds: busybox, cowflush, and the scripts in image/rootfs."""

from __future__ import annotations

import shutil
from pathlib import Path

from image import tools

SCRIPTS = Path(__file__).parent / "rootfs"
FOLDERS = (
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
    "var/log",
    "root",
    "home",
    "boot/grub",
)
OWN = {"usr/sbin/flusher"}


def fill(tree: Path, build: Path, boot: dict[str, bytes], configuration: Path) -> None:
    """Lays the system out in the folder `tree`. `build` is where the programs are, `boot` what goes to /boot."""
    for folder in FOLDERS:
        (tree / folder).mkdir(parents=True)
    shutil.copytree(SCRIPTS, tree, dirs_exist_ok=True)
    _busybox(tree, build / "busybox")
    shutil.copyfile(build / "cowflush", tree / "usr/sbin/cowflush")
    shutil.copyfile(configuration, tree / "etc/cowflush.conf")
    (tree / "etc/resolv.conf").symlink_to("/run/resolv.conf")
    (tree / "etc/mtab").symlink_to("/proc/mounts")
    for name, content in boot.items():
        (tree / "boot" / name).write_bytes(content)
    _modes(tree)


def _busybox(tree: Path, program: Path) -> None:
    shutil.copyfile(program, tree / "bin/busybox")
    for applet in tools.ok([program, "--list-full"]).decode().split():
        link = tree / applet
        if link.parent.is_dir() and not link.exists():
            link.symlink_to("/bin/busybox")


def _modes(tree: Path) -> None:
    """Whatever umask the person has who builds it."""
    programs = [tree / "bin/busybox", tree / "usr/sbin/cowflush"]
    programs += [
        path for folder in ("etc/init.d", "usr/share/udhcpc") for path in (tree / folder).iterdir()
    ]
    programs += [tree / name for name in OWN]
    for path in [tree, *tree.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path in programs else 0o644)
    (tree / "tmp").chmod(0o1777)
    (tree / "root").chmod(0o700)
