"""The small system in a board's image: busybox, cowflush, and the scripts in image/rootfs."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

from image import notices, tools

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


def fill(
    tree: Path, build: Path, boot: dict[str, bytes], configuration: Path, notice: bytes
) -> None:
    """Lays the system out in the folder `tree`.

    The programs are in `build`; `boot` goes to /boot; `notice` is what the licences require.
    """
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
    place = tree / notices.PLACE.lstrip("/")
    place.parent.mkdir(parents=True)
    place.write_bytes(notice)
    _modes(tree)


def script(tree: Path, name: str) -> list[str]:
    """debugfs's commands that put the tree into an empty filesystem, in the order of names.

    Everything belongs to root. `name` is the folder's path for debugfs.
    """
    lines = []
    for path in sorted(tree.rglob("*")):
        inside = f"/{path.relative_to(tree)}"
        if path.is_symlink():
            lines.append(f'symlink "{inside}" "{path.readlink()}"')
            continue
        kind = stat.S_IFDIR if path.is_dir() else stat.S_IFREG
        if path.is_dir():
            lines.append(f'mkdir "{inside}"')
        else:
            lines += [
                f'cd "{Path(inside).parent}"',
                f'write "{name}{inside}" "{path.name}"',
                "cd /",
            ]
        mode = stat.S_IMODE(path.stat().st_mode) | kind
        lines += [f'sif "{inside}" {field}' for field in (f"mode 0{mode:o}", "uid 0", "gid 0")]
    nodes = ["cd /dev", "mknod console c 5 1", "mknod null c 1 3", "cd /"]
    return [*lines, *nodes]


def _busybox(tree: Path, program: Path) -> None:
    shutil.copyfile(program, tree / "bin/busybox")
    for applet in tools.ok([program, "--list-full"]).decode().split():
        link = tree / applet
        if link.parent.is_dir() and not link.exists():
            link.symlink_to("/bin/busybox")


def _modes(tree: Path) -> None:
    """Sets the modes, whatever the umask of the person who builds."""
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
