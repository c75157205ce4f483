"""Images to add cowflush to, laid out as known systems lay theirs out. The root in them is the tests' own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vm import artefacts, ext, rootfs, sparse
from vm.card import Card, Partition
from vm.ext import Filesystem
from vm.sparse import SECTOR

sys.path.insert(0, str(artefacts.TOP))

from image import bootloader  # noqa: E402
from image.ext import Ext  # noqa: E402

SYSLINUX = Path("/usr/lib/SYSLINUX/mbr.bin")
SERIAL = "serial --unit=0 --speed=38400 --word=8 --parity=no --stop=1\nterminal_input serial\nterminal_output serial\n"
CONSOLE = "console=ttyS0,38400n8 panic=-1"
BOOT_SECTORS = 32768


class Laid(Card):
    """A card with its root and its log at other places in the table than the first and the second."""

    def __init__(self, path: Path, root: int, log: int = 0) -> None:
        super().__init__(path)
        self._root, self._log = root, log

    @property
    def root(self) -> Partition:
        return self.partitions[self._root - 1]

    @property
    def log(self) -> Partition:
        return self.partitions[self._log - 1]


@dataclass(frozen=True)
class Base:
    """An image, and which of its partitions is the root."""

    path: Path
    root: int

    def card(self) -> Laid:
        return Laid(self.path, self.root)


def free(base: Base) -> int:
    """Bytes that are left in its root."""
    return Ext(base.path, base.card().root.start * SECTOR).free()


def tool(*command: str | Path, stdin: bytes = b"") -> None:
    environment = ext.PATH
    done = subprocess.run([*map(str, command)], input=stdin, capture_output=True, env=environment)
    assert done.returncode == 0, f"{command}: {done.stderr.decode()}"


def disk(path: Path, script: str, megabytes: int) -> Card:
    """An image with a partition table, and nothing else in it."""
    with open(path, "wb") as file:
        file.truncate(megabytes << 20)
    tool("sfdisk", "--quiet", path, stdin=script.encode())
    return Card(path)


def put_ext(card: Card, number: int, folder: Path, filesystem: Filesystem) -> None:
    """A filesystem filled from `folder`, which has a /dev, into a partition."""
    place, image = card.partitions[number - 1], card.path.with_suffix(".part")
    ext.make(image, filesystem, folder, place.size * SECTOR)
    sparse.copy_range(image, card.path, 0, place.start * SECTOR, place.size * SECTOR)
    image.unlink()


def put_kernel(folder: Path, files: Mapping[str, bytes], kernel: Path) -> Path:
    """A folder with a /boot of its own: a kernel, and `files`."""
    for name in ("boot/grub", "dev"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "boot/vmlinuz").write_bytes(kernel.read_bytes())
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def voyage(work: Path, kernel: Path, *, initrd: bool = False) -> Base:
    """One ext2 with all in it, and GRUB: as Voyage Linux installs itself. Its label is ROOT_FS there,
    which only an initramfs can look for."""
    root = "LABEL=ROOT_FS" if initrd else "/dev/sda1"
    tree = work / "tree"
    rootfs.fill(tree, {"/etc/debian_version": b"12\n"})
    menu = f"""{SERIAL}set timeout=1
set default=0
menuentry "voyage-linux" {{
  set root=(hd0,1)
  linux /boot/vmlinuz root={root} rw {CONSOLE}
{"  initrd /boot/initrd.img" if initrd else ""}
}}
"""
    put_kernel(tree, {"boot/grub/grub.cfg": menu.encode(), "boot/initrd.img": b"its own"}, kernel)
    card = disk(work / "voyage.img", "label: dos\n1: start=2048, size=131072, type=83, bootable\n", 80)
    put_ext(card, 1, tree, Filesystem(kind="ext2", label="ROOT_FS"))
    bootloader.install(card.path, card.partitions[0].start, 1)
    return Base(card.path, 1)


def syslinux(work: Path, kernel: Path) -> Base:
    """A FAT with SYSLINUX and the kernel, then an ext4 root."""
    tree = work / "tree"
    rootfs.fill(tree, {})
    config = f"SERIAL 0 38400\nDEFAULT old\nPROMPT 1\nTIMEOUT 20\nLABEL old\n  KERNEL vmlinuz\n  APPEND root=/dev/sda2 rw {CONSOLE}\n"
    script = f"label: dos\n1: start=2048, size={BOOT_SECTORS}, type=0c, bootable\n2: start=36864, size=131072, type=83\n"
    card = disk(work / "syslinux.img", script, 100)
    boot = card.partitions[0]
    tool("mformat", "-i", f"{card.path}@@{boot.start * SECTOR}", "-T", str(boot.size), "-h", "16", "-s", "63", "-H", str(boot.start), "::")
    for name, content in (("vmlinuz", kernel.read_bytes()), ("syslinux.cfg", config.encode())):
        tool("mcopy", "-i", f"{card.path}@@{boot.start * SECTOR}", "-", f"::/{name}", stdin=content)
    tool("syslinux", "--install", "--offset", str(boot.start * SECTOR), card.path)
    with open(card.path, "r+b") as file:
        file.write(SYSLINUX.read_bytes()[:440])
    put_ext(card, 2, tree, Filesystem())
    return Base(card.path, 2)
