"""Images to add cowflush to, partitioned as known systems are, with the tests' own root.

They are made with other projects' programs only: a mistake in ours would be in both, and not be
seen.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness import artefacts, ext, local, rootfs, sparse
from harness.card import Card, Partition
from harness.ext import Filesystem
from harness.sparse import SECTOR

GRUB = Path("/usr/lib/grub/i386-pc")
# In core.img, where there is no folder of modules
MODULES = ("normal", "linux", "serial", "terminal", "test", "ls")
SYSLINUX = Path("/usr/lib/SYSLINUX/mbr.bin")
SERIAL = "serial --unit=0 --speed=38400 --word=8 --parity=no --stop=1\nterminal_input serial\nterminal_output serial\n"
CONSOLE = "console=ttyS0,38400n8 panic=-1"
BOOT_SECTORS = 32768
OPENWRT = Path(__file__).parent / "files" / "openwrt" / "root"
OPENWRT_ID = "c0f1a0de"


class Laid(Card):
    """A card with its root and its log in other partitions than the first and the second."""

    def __init__(self, path: Path, root: int, log: int = 0) -> None:
        super().__init__(path)
        self._root, self._log = root, log

    @property
    def numbers(self) -> list[int]:
        """The numbers of both."""
        return [number for number in (self._root, self._log) if number]

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
    """How many bytes its root has left."""
    superblock = base.card().fs().superblock()
    return int(superblock["Free blocks"]) * int(superblock["Block size"])


def tool(*command: str | Path, stdin: bytes = b"", **more: str) -> None:
    environment = {**os.environ, **ext.PATH, **more}
    done = local.run([*map(str, command)], input=stdin, capture_output=True, env=environment)
    assert done.returncode == 0, f"{command}: {done.stderr.decode()}"


def disk(path: Path, script: str, megabytes: int) -> Card:
    """An image with a partition table, and nothing else in it."""
    with open(path, "wb") as file:
        file.truncate(megabytes << 20)
    tool("sfdisk", "--quiet", path, stdin=script.encode())
    return Card(path)


def put_ext(card: Card, number: int, folder: Path, filesystem: Filesystem) -> None:
    """Fills a partition with a filesystem made from `folder`, which has a /dev."""
    place, image = card.partitions[number - 1], card.path.with_suffix(".part")
    ext.make(image, filesystem, folder, place.size * SECTOR)
    sparse.copy_range(image, card.path, 0, place.start * SECTOR, place.size * SECTOR)
    image.unlink()


def put_grub(card: Card, *modules: str) -> None:
    """Writes GRUB's two halves as its own installer does: the first sector's code, and the gap.

    Modules that are not in `modules` come from the first partition's /boot/grub.
    """
    core, prefix = card.path.with_suffix(".core"), "(hd0,msdos1)/boot/grub"
    command = ("grub-mkimage", "--directory", GRUB, "--format", "i386-pc", "--output", core)
    tool(*command, "--prefix", prefix, "biosdisk", "part_msdos", "ext2", *modules)
    assert core.stat().st_size <= (card.partitions[0].start - 1) * SECTOR
    with open(card.path, "r+b") as file:
        file.write((GRUB / "boot.img").read_bytes()[:440])
        file.seek(SECTOR)
        file.write(core.read_bytes())


def put_kernel(folder: Path, files: Mapping[str, bytes], kernel: Path) -> Path:
    """A folder with a /boot of its own: a kernel, and `files`."""
    for name in ("boot/grub", "dev"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "boot/vmlinuz").write_bytes(kernel.read_bytes())
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def voyage(work: Path, kernel: Path, *, initrd: bool = False, start: int = 2048) -> Base:
    """One ext2 with everything in it, and GRUB: as Voyage Linux installs itself.

    With an initramfs of its own the card is named in the old way: only ours must find it.
    """
    root = "/dev/hda1" if initrd else "/dev/sda1"
    tree = work / "tree"
    rootfs.fill(tree, {"/etc/debian_version": b"12\n"})
    menu = f"""{SERIAL}set timeout=2
set default=0
menuentry "voyage-linux" {{
  set root=(hd0,1)
  linux /boot/vmlinuz root={root} rw {CONSOLE}
{"  initrd /boot/initrd.img" if initrd else ""}
}}
"""
    modules = [path for kind in ("*.mod", "*.lst") for path in GRUB.glob(kind)]
    files = {f"boot/grub/i386-pc/{path.name}": path.read_bytes() for path in modules}
    files |= {"boot/grub/grub.cfg": menu.encode(), "boot/initrd.img": b"its own"}
    put_kernel(tree, files, kernel)
    card = disk(
        work / "voyage.img", f"label: dos\n1: start={start}, size=131072, type=83, bootable\n", 80
    )
    put_ext(card, 1, tree, Filesystem(kind="ext2", label="ROOT_FS"))
    put_grub(card)
    return Base(card.path, 1)


def old_voyage(work: Path, kernel: Path) -> Base:
    """Such an image as fdisk made it for twenty years: the first partition begins at sector 63."""
    return voyage(work, kernel, start=63)


def syslinux(work: Path, kernel: Path) -> Base:
    """A FAT with SYSLINUX and the kernel, then an ext4 root."""
    tree = work / "tree"
    rootfs.fill(tree, {})
    config = f"SERIAL 0 38400\nDEFAULT old\nPROMPT 1\nTIMEOUT 20\nLABEL old\n  KERNEL vmlinuz\n  APPEND root=/dev/sda2 rw {CONSOLE}\n"
    script = f"label: dos\n1: start=2048, size={BOOT_SECTORS}, type=0c, bootable\n2: start=36864, size=131072, type=83\n"
    card = disk(work / "syslinux.img", script, 100)
    boot = card.partitions[0]
    tool(
        "mformat",
        "-i",
        f"{card.path}@@{boot.start * SECTOR}",
        "-T",
        str(boot.size),
        "-h",
        "16",
        "-s",
        "63",
        "-H",
        str(boot.start),
        "::",
    )
    for name, content in (("vmlinuz", kernel.read_bytes()), ("syslinux.cfg", config.encode())):
        tool("mcopy", "-i", f"{card.path}@@{boot.start * SECTOR}", "-", f"::/{name}", stdin=content)
    tool("syslinux", "--install", "--offset", str(boot.start * SECTOR), card.path)
    with open(card.path, "r+b") as file:
        file.write(SYSLINUX.read_bytes()[:440])
    put_ext(card, 2, tree, Filesystem())
    return Base(card.path, 2)


def openwrt_tree(tree: Path) -> None:
    """Makes a root with OpenWrt's layout and stand-ins for its scripts; without cowflush."""
    rootfs.fill(tree, {})
    for name in ("sbin/init", "usr/sbin/cowflush", "usr/sbin/flusher"):
        (tree / name).unlink()
    for name in ("run", "var", "home"):
        (tree / name).rmdir()
    (tree / "var").symlink_to("/tmp")
    for name in ("overlay", "rom", "mnt", "usr/libexec"):
        (tree / name).mkdir()
    shutil.copytree(OPENWRT, tree, dirs_exist_ok=True, symlinks=True)
    (tree / "usr/libexec/init").symlink_to("/bin/busybox")


def openwrt_menu(root: str, *entries: str) -> str:
    """grub.cfg as on OpenWrt; each entry is what is added to the kernel's line."""
    lines = ["serial --unit=0 --speed=38400 --word=8 --parity=no --stop=1 --rtscts=off"]
    lines += [
        "terminal_input serial; terminal_output serial",
        'set default="0"',
        'set timeout="2"',
        "set root='(hd0,msdos1)'",
    ]
    for place, words in enumerate(entries):
        title = "OpenWrt" if place == 0 else f"OpenWrt ({place})"
        lines += [f'menuentry "{title}" {{', f"\tlinux /boot/vmlinuz {root} {CONSOLE} {words}", "}"]
    return "\n".join([*lines, ""])


def _openwrt_disk(work: Path, kernel: Path, menu: str, script: str, megabytes: int) -> Card:
    """Makes the first partition: the kernel and GRUB's menu, in an ext4."""
    card = disk(work / "openwrt.img", f"label: dos\nlabel-id: 0x{OPENWRT_ID}\n{script}", megabytes)
    boot = put_kernel(work / "boot", {"boot/grub/grub.cfg": menu.encode()}, kernel)
    put_ext(card, 1, boot, Filesystem(label="kernel", uuid="c0f1a0de-0000-4000-8000-000000000001"))
    put_grub(card, *MODULES)
    return card


def openwrt(work: Path, kernel: Path, *, name: str = "one") -> Base:
    """OpenWrt's image with an ext4 root. `name` is in /etc/version, to tell images apart."""
    menu = openwrt_menu(
        f"root=PARTUUID={OPENWRT_ID}-02 rootfstype=ext4 rootwait",
        "noinitrd",
        "failsafe=true noinitrd",
    )
    script = "1: start=512, size=32768, type=83, bootable\n2: start=33792, size=98304, type=83\n"
    card = _openwrt_disk(work, kernel, menu, script, 65)
    tree = work / "tree"
    openwrt_tree(tree)
    (tree / "etc/version").write_text(f"{name}\n")
    number = sum(name.encode())
    put_ext(
        card, 2, tree, Filesystem(label="rootfs", uuid=f"c0f1a0de-0000-4000-8000-{number:012d}")
    )
    return Base(card.path, 2)


def openwrt_squashfs(work: Path, kernel: Path) -> Laid:
    """An image with the package in a squashfs root, the writable partition, and the flush log."""
    overlay = "rootfstype=squashfs rootwait cowflush_overlay=LABEL=rootfs_data noinitrd"
    menu = openwrt_menu(f"root=PARTUUID={OPENWRT_ID}-02", overlay, f"{overlay} cowflush=off")
    script = "1: start=512, size=32768, type=83, bootable\n2: start=33792, size=30720, type=83\n"
    script += "3: start=65536, size=65536, type=83\n4: start=131072, size=65536, type=da\n"
    card = _openwrt_disk(work, kernel, menu, script, 96)
    tree = work / "tree"
    openwrt_tree(tree)
    install_ipk(tree)
    fstab = "config mount\n\toption target '/overlay'\n\toption device '/dev/dm-overlay'\n\toption enabled '1'\n"
    (tree / "etc/config/fstab").write_text(fstab)
    squashfs = work / "root.squashfs"
    tool(
        "mksquashfs",
        tree,
        squashfs,
        "-comp",
        "xz",
        "-all-root",
        "-quiet",
        "-no-progress",
        "-p",
        "dev/console c 600 0 0 5 1",
    )
    place = card.partitions[1]
    assert squashfs.stat().st_size < place.size * SECTOR
    sparse.copy_range(squashfs, card.path, 0, place.start * SECTOR, squashfs.stat().st_size)
    (work / "data/dev").mkdir(parents=True)
    put_ext(card, 3, work / "data", Filesystem(label="rootfs_data"))
    card = Laid(card.path, 3, 4)
    # As docs/use/flush-log.md tells the owner
    log_file, root_file = work / "log.img", work / "data.img"
    for part, file in ((card.log, log_file), (card.root, root_file)):
        sparse.copy_range(card.path, file, part.start * SECTOR, 0, part.size * SECTOR)
    tool(artefacts.host_cowflush(), "log", "format", log_file, "--root", root_file)
    sparse.copy_range(log_file, card.path, 0, card.log.start * SECTOR, card.log.size * SECTOR)
    return card


def install_ipk(tree: Path) -> None:
    """Does what opkg does in an image builder: unpacks the data, and runs the package's script."""
    info = tree / "usr/lib/opkg/info"
    info.mkdir(parents=True)
    with tarfile.open(artefacts.ipk()) as package:
        for name, folder in (("data", tree), ("control", info / "cowflush")):
            inner = package.extractfile(f"./{name}.tar.gz")
            assert inner
            with tarfile.open(fileobj=inner) as files:
                files.extractall(folder)
                if name == "data":
                    listed = [f"/{Path(file.name)}\n" for file in files if not file.isdir()]
    (info / "cowflush.list").write_text("".join(listed))
    script = (info / "cowflush/postinst").rename(info / "cowflush.postinst")
    tool("sh", script, "configure", IPKG_INSTROOT=str(tree))
