"""Where the build leaves what the tests need.

A missing artefact is an error, never a skipped test: a suite that runs without the thing it is
meant to test says nothing.
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
# Kernels that a few tests use besides: Debian's newest, and all of them with 64 bits.
X86_64 = "-x86_64"
NEWEST = "newest"
ELSEWHERE = (NEWEST, *(f"{version}{X86_64}" for version in (*KERNELS, NEWEST)))
EVERYWHERE = (*KERNELS, *ELSEWHERE)


class MissingArtefact(Exception):
    """Something that `make build` makes is missing."""


def needed(path: Path) -> Path:
    if not path.exists():
        raise MissingArtefact(
            f"{path} is missing and the tests can't do without it: run `make build`"
        )
    return path


def kernel(version: str) -> Path:
    return needed(BUILD / f"kernel-{version}" / "bzImage")


def target(version: str) -> str:
    """The architecture that a kernel runs on."""
    return "x86_64" if version.endswith(X86_64) else "i586"


def programs(target: str) -> Path:
    """The folder with the programs that run in a guest."""
    return BUILD / target


def initramfs(version: str = "6.1") -> Path:
    """The initramfs for a kernel: with 64 bits it includes the kernel's modules."""
    if target(version) == "i586":
        return needed(BUILD / "initramfs.cpio.gz")
    return needed(BUILD / f"initramfs-{version}.cpio.gz")


def busybox(target: str = "i586") -> Path:
    return needed(programs(target) / "busybox")


def cowflush(target: str = "i586") -> Path:
    return needed(programs(target) / "cowflush")


def host_cowflush() -> Path:
    """The same program built for the host, for work on images."""
    return needed(BUILD / "host" / "release" / "cowflush")


def newer() -> Path:
    """The folder with a program that writes a newer format of the flush log, and its initramfs."""
    return needed(BUILD / "newer" / "initramfs.cpio.gz").parent


def debian_package(arch: str = "i386") -> Path:
    """Debian's package."""
    found = sorted(BUILD.glob(f"cowflush_*_{arch}.deb"))
    return needed(found[-1] if found else BUILD / f"cowflush_VERSION_{arch}.deb")


def board_kernel(board: str) -> Path:
    """The kernel in a board's image."""
    return needed(BUILD / f"kernel-{board}" / "bzImage")


def ipk() -> Path:
    """OpenWrt's package."""
    found = sorted(BUILD.glob("cowflush_*.ipk"))
    return needed(found[-1] if found else BUILD / "cowflush_VERSION_ARCHITECTURE.ipk")


def debian_disk(init: str) -> Path:
    """A disk with a Debian system without cowflush; `init`: systemd, sysvinit or amd64 (systemd)."""
    return needed(BUILD / ("debian-amd64" if init == "amd64" else "debian") / f"{init}.img")


def debian_kernels() -> list[str]:
    """The kernel packages of those disks: the installed one, and a newer one to upgrade to."""
    return needed(BUILD / "debian" / "kernels").read_text().split()


def promtool() -> Path:
    """promtool, Prometheus' checker of metrics, as Debian packages it."""
    return needed(BUILD / "promtool" / "promtool")
