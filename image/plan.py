"""What `make image BASE=` changes in an image: it is first found out, then shown, then done."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from image import files, grub, kernel, modules, notices, openwrt, syslinux, table, tools, whole
from image.entry import INITRAMFS, KERNEL, Addition, Entry, beside
from image.errors import Refused
from image.ext import Ext
from image.files import Files
from image.regions import SECTOR
from image.root import partition_of
from image.table import Partition, Table

ROOM = 64 << 10
PROGRAM = "/usr/sbin/cowflush"
CONFIGURATION = "/etc/cowflush.conf"
# Boot loaders that are not understood: if one of them is there, too, nothing tells which one boots.
NOT_UNDERSTOOD = (
    "/boot/grub/menu.lst",
    "/grub/menu.lst",
    "/boot/grub/grub.conf",
    "/grub/grub.conf",
    "/etc/lilo.conf",
)
# Where dpkg records that the package is installed
PACKAGED = "/var/lib/dpkg/info/cowflush.list"


@dataclass(frozen=True)
class New:
    """What is put into the image."""

    initramfs: bytes
    program: bytes
    configuration: bytes
    # What the licences of the program's parts require, packed
    notices: Callable[[], bytes]
    # An added kernel; else the image's own is used.
    kernel: bytes | None = None
    log_bytes: int = 64 << 20


@dataclass(frozen=True)
class Loader:
    """A boot loader's configuration: its place, and how it is read and changed."""

    name: str
    partition: Partition
    files: Files
    path: str
    text: str
    entry: Entry
    add: Callable[[Addition], str]


@dataclass
class Plan:
    """Everything that will be done. `notes` are for the person who reads it."""

    image: Path
    loader: Loader
    disk: Table
    root: Partition
    log: Partition
    # Root's files: the same object as the loader's if both are one partition, so that room is
    # counted once.
    target: Ext
    writes: list[tuple[Files, str, bytes, int]] = field(default_factory=list)
    # In root, by path: their targets
    links: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """The image's size at the end."""
        return max(self.image.stat().st_size, self.log.end * SECTOR)

    def describe(self) -> str:
        start, size = self.log.offset >> 20, self.log.bytes >> 20
        grown = self.size - self.image.stat().st_size
        lines = [
            f"partition {self.log.number}: the flush log, {size} MiB, {start} MiB from the start of the card"
        ]
        lines += [f"the image grows by {grown >> 20} MiB to {self.size >> 20} MiB"] if grown else []
        for target, path, content, _ in self.writes:
            place = (
                "root"
                if target is not self.loader.files
                else f"partition {self.loader.partition.number}"
            )
            verb = "changed" if path == self.loader.path else "written"
            lines.append(f"{path} ({place}): {verb}, {len(content):,} bytes")
        lines += [f"{path} (root): a link to {target}" for path, target in self.links.items()]
        lines += [f"{path} (root): a folder" for path in self.folders]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def make(image: Path, new: New, called: Path) -> Plan:
    """Examines an image, and decides. `called` is what the person calls the image.

    It is a copy: a filesystem that was not shut down is checked and repaired in it; nothing else is
    written.
    """
    disk = table.read(image, called)
    whole.check(image, disk, called)
    for partition in disk.partitions:
        if whole.is_log(image, partition):
            raise Refused(
                f"partition {partition.number} is a flush log already, and a card has one: begin with the image as "
                "it was before, or flash it as it is"
            )
    opened = {found.number: files.open_partition(image, found) for found in disk.partitions}
    # Before anything in them is read: a damaged one would be misread.
    notes = [_prepared(found, number) for number, found in opened.items() if isinstance(found, Ext)]
    loader = find_loader(disk, opened)
    root = partition_of(image, disk, loader.entry.root)
    if files.kind(image, root) == "squashfs":
        raise Refused(
            "its root is a squashfs, which nothing can be added to. Build the image with cowflush's package in it "
            "(docs/install/openwrt.md), which covers the writable partition"
        )
    target = opened[root.number]
    if not isinstance(target, Ext):
        raise Refused(f"partition {root.number}, which is its root, holds no ext2, ext3 or ext4")
    if not isinstance(loader.files, Ext):
        notes.append(_prepared(loader.files, loader.partition.number))
    log = table.place(disk, new.log_bytes // SECTOR)
    plan = Plan(image, loader, disk, root, log, target)
    plan.notes += [note for note in notes if note]
    _boot(plan, new)
    _root(plan, new)
    _check_room(plan)
    return plan


def find_loader(disk: Table, files_of: Mapping[int, Files | None]) -> Loader:
    """The only boot loader's configuration in the image. `files_of` is by a partition's number."""
    found = []
    for partition in disk.partitions:
        opened = files_of[partition.number]
        if opened:
            paths = [(path, _read_grub) for path in grub.PATHS] + [
                (path, _read_syslinux) for path in syslinux.PATHS
            ]
            found += [
                (read, partition, opened, path)
                for path, read in paths
                if opened.read(path) is not None
            ]
    if not found:
        raise Refused(
            "no grub.cfg, extlinux.conf or syslinux.cfg is in its ext and FAT partitions: which boot loader is it?"
        )
    places = [(partition, path) for _, partition, _, path in found]
    places += [
        (partition, path)
        for partition in disk.partitions
        for path in NOT_UNDERSTOOD
        if (opened := files_of[partition.number]) and opened.read(path) is not None
    ]
    if len(places) > 1:
        names = ", ".join(f"{path} in partition {partition.number}" for partition, path in places)
        raise Refused(
            f"several boot loader configurations are there, and it is not clear which counts: {names}"
        )
    read, partition, opened, path = found[0]
    return read(partition, opened, path)


def _text(opened: Files, path: str) -> str:
    return (opened.read(path) or b"").decode(errors="surrogateescape")


def _read_grub(partition: Partition, opened: Files, path: str) -> Loader:
    text = _text(opened, path)
    own = beside(path, grub.OWN_NAME)
    if grub.OWN_NAME in text and opened.read(own) is not None:
        raise Refused(f"grub.cfg continues in another file ({own})")
    entry = grub.parse(text, partition.number)
    return Loader(
        "GRUB",
        partition,
        opened,
        path,
        text,
        entry,
        lambda addition: grub.add(text, addition, partition.number),
    )


def _read_syslinux(partition: Partition, opened: Files, path: str) -> Loader:
    text = _text(opened, path)
    folder = path.rpartition("/")[0]
    entry = syslinux.parse(text, folder)
    return Loader(
        "SYSLINUX",
        partition,
        opened,
        path,
        text,
        entry,
        lambda addition: syslinux.add(text, entry, addition, folder),
    )


def _boot(plan: Plan, new: New) -> None:
    """Plans the kernel, the initramfs and the entries."""
    loader, entry = plan.loader, plan.loader.entry
    own = loader.files.read(entry.kernel)
    if own is None:
        raise Refused(
            f"{loader.path} starts {entry.kernel}, which is not in partition {loader.partition.number}"
        )
    if entry.initrds and new.kernel is None:
        raise Refused(
            f"it boots with an initramfs of its own ({entry.initrds[0]}), so the card's driver may be a module, which "
            "cowflush's does not load. On Debian install the package instead (`make deb`), or add a kernel "
            "that has all built in with BOARD="
        )
    own_dev = _is_openwrt(plan.target)
    lacking = kernel.missing(new.kernel if new.kernel is not None else own, own_dev=own_dev)
    initramfs = new.initramfs
    # What else there is for modules, the system's own initramfs or none at all, is not known elsewhere.
    if lacking and own_dev and new.kernel is None and set(lacking) <= set(modules.NAMES):
        release = kernel.release(own)
        initramfs = modules.initramfs(plan.target, release, lacking, new.program)
        plan.notes.append(
            f"the initramfs has modules of {release}, as the image: it goes with this kernel alone"
        )
    elif lacking:
        raise Refused(
            f"the kernel lacks {', '.join(lacking)} (or has it as a module): add a kernel that has all built in with "
            "BOARD=, or build one (package/openwrt/kernel.config)"
        )
    name = beside(entry.kernel, KERNEL) if new.kernel is not None else entry.kernel
    # The driver that gave a card this name is gone since Linux 5.14; any kernel finds this one.
    portable = (
        f"PARTUUID={plan.disk.id}-{plan.root.number:02x}"
        if entry.root.startswith("/dev/hd")
        else ""
    )
    addition = Addition(
        name, beside(entry.kernel, INITRAMFS), portable, vouched=not _is_openwrt(plan.target)
    )
    addition = replace(addition, for_old=lambda old: _for_old(plan, addition, old))
    plan.writes.append((loader.files, addition.initramfs, initramfs, 0o644))
    if new.kernel is not None:
        plan.writes.append((loader.files, addition.kernel, new.kernel, 0o644))
        plan.notes.append(
            "the kernel is another one than the image's: modules of its own don't fit"
        )
    changed = loader.add(addition).encode(errors="surrogateescape")
    if loader.name == "GRUB":
        tools.ok(["grub-script-check"], changed)
    plan.writes.append((loader.files, loader.path, changed, 0o644))


def _for_old(plan: Plan, addition: Addition, old: Entry) -> Addition | None:
    """What an old entry starts: its own kernel, if that can use our initramfs.

    None if the entry does not start root.
    """
    # Such as a test of the memory
    if not old.root or re.fullmatch(r"/dev/(nfs|ram\d*)", old.root):
        return None
    try:
        number = partition_of(plan.image, plan.disk, old.root).number
    except Refused:
        # It may be root, in words that only the kernel understands.
        number = 0
    if number not in (0, plan.root.number):
        return None
    own = plan.loader.files.read(old.kernel) if old.kernel and not old.initrds else None
    own_dev = _is_openwrt(plan.target)
    usable = own is not None and kernel.starts_initramfs(own, own_dev=own_dev)
    if not usable and old.kernel != addition.kernel:
        plan.notes.append(
            f'the entry "{old.title}" starts {addition.kernel}: its own kernel can\'t be started by way of the flush log'
        )
    return replace(
        addition,
        kernel=old.kernel if usable else addition.kernel,
        root=addition.root if number else "",
    )


def _root(plan: Plan, new: New) -> None:
    """Plans the program, and on OpenWrt its whole package.

    Elsewhere the system itself must call it.
    """
    root = plan.target
    if _is_openwrt(root):
        package = openwrt.package(new.program, new.notices())
        for path, content, mode in package.files:
            _place(plan, path, content, mode, owners=path in openwrt.CONFIGURATION)
        for path, goal in package.links.items():
            if root.exists(path) and not root.is_link(path):
                plan.notes.append(f"the image's own {path} stays")
            else:
                plan.links[path] = goal
        # A link to a folder will do: /run is one on a router that has run once.
        plan.folders += [path for path in package.folders if not root.exists(path)]
        return
    if root.exists(PACKAGED):
        raise Refused(
            "cowflush's package is installed in it, and dpkg looks after its files: begin with the image as it was "
            "before, or make a log in it as docs/use/flush-log.md says, and flash it as it is"
        )
    _place(plan, PROGRAM, new.program, 0o755)
    _place(plan, notices.PLACE, new.notices(), 0o644)
    _place(plan, CONFIGURATION, new.configuration, 0o644, owners=True)
    if root.read("/etc/debian_version") is not None:
        plan.notes.append(
            "Debian: the next update-grub drops the entries; the package (`make deb`) stays"
        )
    plan.notes.append(
        "let the system run `cowflush daemon`, and `cowflush stop --shutdown` as its last step: the new entry says by "
        "cowflush=on that it does"
    )


def _is_openwrt(root: Files) -> bool:
    return root.read("/etc/openwrt_release") is not None


def _prepared(opened: Files, number: int) -> str:
    """Makes sure that a filesystem is in order; returns a note if it was not."""
    return opened.prepare(f"partition {number}")


def _place(plan: Plan, path: str, content: bytes, mode: int, *, owners: bool = False) -> None:
    """Plans a file in root. A file for the owner to change stays as the base has it."""
    if owners and plan.target.exists(path):
        plan.notes.append(f"the image's own {path} stays")
    else:
        plan.writes.append((plan.target, path, content, mode))


def _check_room(plan: Plan) -> None:
    for target in {id(write[0]): write[0] for write in plan.writes}.values():
        needed = sum(len(content) for files, _, content, _ in plan.writes if files is target)
        if target.free() < needed + ROOM:
            raise Refused(
                f"partition {plan.loader.partition.number if target is plan.loader.files else plan.root.number} has "
                f"{target.free() >> 10} KiB free, and {(needed + ROOM) >> 10} KiB are needed"
            )
