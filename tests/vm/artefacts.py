"""Where the build leaves what the tests need.

A missing artefact is an error, never a skipped test: a suite that runs
without the thing it is meant to test says nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("COWFLUSH_BUILD", TOP / "build"))
LOGS = BUILD / "test-logs"
CACHE = BUILD / "test-cache"
PARTITIONS = TOP / "board" / "qemu-i586" / "partitions.sfdisk"

KERNELS = ("6.1", "6.12")


class MissingArtefact(Exception):
    """Something that `make build` makes isn't there."""


def needed(path: Path) -> Path:
    if not path.exists():
        raise MissingArtefact(f"{path} is missing and the tests can't do without it: run `make build`")
    return path


def kernel(version: str) -> Path:
    return needed(BUILD / f"kernel-{version}" / "bzImage")


def initramfs() -> Path:
    return needed(BUILD / "initramfs.cpio.gz")


def busybox() -> Path:
    return needed(BUILD / "i586" / "busybox")


def cowflush() -> Path:
    return needed(BUILD / "i586" / "cowflush")


def host_cowflush() -> Path:
    """The same program built for this machine, for work on images."""
    return needed(BUILD / "host" / "release" / "cowflush")


def debian_package() -> Path:
    """Debian's package for i386."""
    found = sorted(BUILD.glob("cowflush_*_i386.deb"))
    return needed(found[-1] if found else BUILD / "cowflush_VERSION_i386.deb")


def board_kernel(board: str) -> Path:
    """The kernel that a board's image has."""
    return needed(BUILD / f"kernel-{board}" / "bzImage")


def ipk() -> Path:
    """OpenWrt's package."""
    found = sorted(BUILD.glob("cowflush_*.ipk"))
    return needed(found[-1] if found else BUILD / "cowflush_VERSION_ARCHITECTURE.ipk")


def debian_disk(init: str) -> Path:
    """A disk with a Debian system that has no cowflush yet; `init` is systemd or sysvinit."""
    return needed(BUILD / "debian" / f"{init}.img")


def debian_kernels() -> list[str]:
    """The kernel packages of those disks: the one they have, and a newer one to upgrade to."""
    return needed(BUILD / "debian" / "kernels").read_text().split()


def promtool() -> Path:
    """Debian's judge of figures for Prometheus."""
    return needed(BUILD / "promtool" / "promtool")


def guest_tools() -> Path | None:
    """Helpers that only some tests want, so they may be absent."""
    path = BUILD / "i586" / "guest-tools"
    return path if path.exists() else None
