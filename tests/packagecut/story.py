"""The package is installed, upgraded and purged in a system with two kernels, its card recorded.

First root is the plain card, mounted on the host (see `native`), so that each step of dpkg reaches
it by itself. Then it is on the stack, in a guest, and only flushes and merges change the card.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import artefacts, ext, local, sparse, writelog
from harness.card import Card
from harness.lab import Lab
from harness.machine import VM
from harness.sparse import SECTOR
from harness.writelog import Entry
from packagecut import native
from systems import debian
from systems.debian import PACKAGES, SLOW

# One command makes both kernels' images, each in a minute.
LONG = 3 * SLOW
OPERATIONS = {
    "install": f"dpkg --install {PACKAGES}/cowflush.deb",
    "upgrade": f"dpkg --install {PACKAGES}/cowflush-newer.deb",
    "initramfs": "update-initramfs -u",
    "purge": "dpkg --purge cowflush",
}
# By init, and by root's place. On the stack sysvinit's scripts differ when the package is removed.
TOLD = {
    "systemd": {
        "plain": ("install", "upgrade", "initramfs", "purge"),
        "stack": ("initramfs", "upgrade", "purge"),
    },
    "sysvinit": {"plain": ("install", "upgrade", "initramfs", "purge"), "stack": ("purge",)},
}
# Written and synced before an operation begins
KEPT = "/root/kept-before-{}"
PLAIN_CARD, STACK_CARD = "plain.img", "stack.img"


@dataclass(frozen=True)
class Operation:
    """One operation: the requests `begin` to `stop` (exclusive) reached the card during it."""

    root: str
    name: str
    begin: int
    stop: int

    @property
    def kept(self) -> str:
        return KEPT.format(self.name)


@dataclass(frozen=True)
class Story:
    """A folder with each guest's first card, its later writes, and each operation's time."""

    directory: Path
    init: str

    def operations(self, root: str) -> list[Operation]:
        listed = json.loads((self.directory / f"{root}.json").read_text())
        return [Operation(**each) for each in listed]

    def operation(self, root: str, name: str) -> Operation:
        return next(each for each in self.operations(root) if each.name == name)

    def entries(self, operation: Operation) -> list[Entry]:
        log = self.directory / f"{operation.root}.writes"
        return list(writelog.entries(log))[operation.begin : operation.stop]

    def before(self, operation: Operation, path: Path) -> Card:
        """The card when the operation began."""
        blank = Card(self.directory / f"{operation.root}.img").copy(path)
        entries = list(writelog.entries(self.directory / f"{operation.root}.writes"))
        writelog.replay(iter(entries[: operation.begin]), path)
        return blank


class Teller:
    """Runs the operations on one card in turn, and notes which requests belong to which.

    `run` runs a command on the system, and raises if that fails.
    """

    def __init__(self, story: Story, root: str, run: Callable[[str], object]) -> None:
        self._log = story.directory / f"{root}.writes"
        self._root = root
        self._noted = story.directory / f"{root}.json"
        self._run = run
        self._operations: list[Operation] = []

    def tell(self, name: str, bring: Callable[[], None]) -> None:
        """Runs an operation; `bring` brings its writes to the card."""
        self._run(f"echo {name} >{KEPT.format(name)}")
        bring()
        begin = self._received()
        self._run(OPERATIONS[name])
        bring()
        self._operations.append(Operation(self._root, name, begin, self._received()))
        self._noted.write_text(json.dumps([asdict(each) for each in self._operations]))

    def _received(self) -> int:
        return sum(1 for _ in writelog.entries(self._log))


def on_the_plain_card(directory: Path, story: Story) -> None:
    """Records on the plain card; also leaves a card with the package, for a boot on the stack."""
    card = debian_with_two_kernels(directory, story)
    running = card.copy(directory / "running.img")
    with native.mounted(running, directory, story.directory / "plain.writes") as root:
        teller = Teller(story, "plain", root.run)
        first, *others = TOLD[story.init]["plain"]
        teller.tell(first, root.sync)
        with_a_log(running.copy(story.directory / STACK_CARD), directory)
        for name in others:
            teller.tell(name, root.sync)


def debian_with_two_kernels(directory: Path, story: Story) -> Card:
    """A system without cowflush that has the packages' files."""
    card = Card(debian.disk(story.init)).copy(story.directory / PLAIN_CARD)
    old, newer = artefacts.debian_package(), debian._newer_package(directory, "i386")
    card.edit([f"cd {PACKAGES}", f"write {old} cowflush.deb", f"write {newer} cowflush-newer.deb"])
    with native.mounted(card, directory, directory / "of-no-account.writes") as root:
        root.run("echo MODULES=list >/etc/initramfs-tools/conf.d/zz-list")
        root.run(f"printf '%s\\n' {' '.join(native.DRIVERS)} >>/etc/initramfs-tools/modules")
        root.run(f"apt-get update; apt-get install --yes {artefacts.debian_kernels()[1]}")
        root.run("update-initramfs -u -k all && update-grub")
        assert len(root.run("ls /boot/initrd.img-*").split()) == 2
    return card


def with_a_log(card: Card, directory: Path) -> None:
    """Puts a flush log on the card's second partition.

    Its root was in use when it was copied, as after a power cut.
    """
    files = (directory / "root.img", directory / "log.img")
    for file, part in zip(files, card.partitions, strict=False):
        sparse.copy_range(card.path, file, part.start * SECTOR, 0, part.size * SECTOR)
    local.run(["e2fsck", "-p", files[0]], capture_output=True, env={**os.environ, **ext.PATH})
    tool = artefacts.host_cowflush()
    local.run([tool, "log", "format", files[1], "--root", files[0]], capture_output=True, check=True)  # fmt: skip
    for file, part in zip(files, card.partitions, strict=False):
        sparse.copy_range(file, card.path, 0, part.start * SECTOR, part.size * SECTOR)


def on_the_stack(lab: Lab, story: Story, installed: Path) -> None:
    card = Card(installed).copy(story.directory / STACK_CARD)
    running = card.copy(lab.directory / "running.img")
    machine = debian.machine(running)
    drive = dataclasses.replace(machine.drives[0], write_log=story.directory / "stack.writes")
    machine = dataclasses.replace(machine, drives=(drive,))
    vm = lab.add(lambda directory: VM(machine, running, directory, total=debian.TOTAL))
    debian.settled(vm, story.init)
    assert debian.root_device(vm) == debian.STACK, vm.console
    teller = Teller(story, "stack", lambda command: vm.run(command, timeout=LONG).ok())

    def bring() -> None:
        # After the purge everything is on the card, and writes go straight there.
        if vm.run("test -x /usr/sbin/cowflush").code:
            vm.run("sync").ok()
        else:
            debian.flush(vm, merge=True)

    for name in TOLD[story.init]["stack"]:
        teller.tell(name, bring)
    vm.kill()
