"""Two guests in which the package comes, is upgraded, and goes; all that their cards receive is recorded.

Both have two kernels, each with an initramfs of its own, and GRUB by its own grub-install. In the first guest root is
the plain card, so that each step of dpkg reaches it by itself. In the second it is on the stack, and the card changes
by flushes and merges alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import artefacts, writelog
from harness.card import Card
from harness.lab import Lab
from harness.machine import VM
from harness.writelog import Entry
from systems import debian
from systems.debian import PACKAGES, SLOW

# Both kernels' images are made by one command, each in a minute.
LONG = 3 * SLOW
OPERATIONS = {
    "install": f"dpkg --install {PACKAGES}/cowflush.deb",
    "upgrade": f"dpkg --install {PACKAGES}/cowflush-newer.deb",
    "initramfs": "update-initramfs -u",
    "purge": "dpkg --purge cowflush",
}
PLAIN = ("install", "upgrade", "initramfs", "purge")
STACK = ("initramfs", "upgrade", "purge")
# Written, and brought to the card, before an operation begins.
KEPT = "/root/kept-before-{}"
PLAIN_CARD, STACK_CARD = "plain.img", "stack.img"


@dataclass(frozen=True)
class Operation:
    """The requests from `begin` on, but for `stop`, reached the card while it was at work."""

    root: str
    name: str
    begin: int
    stop: int

    @property
    def kept(self) -> str:
        return KEPT.format(self.name)


@dataclass(frozen=True)
class Story:
    """A folder with each guest's card as it was before, what that received then, and when which operation was at work."""

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
        """The card at the operation's begin."""
        blank = Card(self.directory / f"{operation.root}.img").copy(path)
        entries = list(writelog.entries(self.directory / f"{operation.root}.writes"))
        writelog.replay(iter(entries[: operation.begin]), path)
        return blank


class Teller:
    """Runs the operations of one guest one after the other, and notes which requests are of which."""

    def __init__(self, lab: Lab, card: Card, story: Story, root: str) -> None:
        self._log = story.directory / f"{root}.writes"
        self._root = root
        self._noted = story.directory / f"{root}.json"
        self.operations: list[Operation] = []
        running = card.copy(lab.directory / f"{root}-running.img")
        machine = debian.machine(running)
        machine = dataclasses.replace(
            machine, drives=(dataclasses.replace(machine.drives[0], write_log=self._log),)
        )
        self.vm = lab.add(lambda directory: VM(machine, running, directory, total=debian.TOTAL))
        debian.settled(self.vm, story.init)

    def run(self, name: str, bring: Callable[[], None]) -> None:
        """`bring` brings to the card what was written."""
        self.vm.run(f"echo {name} >{KEPT.format(name)}").ok()
        bring()
        begin = self._received()
        self.vm.run(OPERATIONS[name], timeout=LONG).ok()
        bring()
        self.operations.append(Operation(self._root, name, begin, self._received()))
        self._noted.write_text(json.dumps([asdict(each) for each in self.operations]))

    def _received(self) -> int:
        return sum(1 for _ in writelog.entries(self._log))


def two_kernels(lab: Lab, init: str, path: Path) -> None:
    """A system without cowflush, with two kernels, and GRUB as its own installer installs it."""
    card = Card(debian.disk(init)).copy(lab.directory / "two-kernels.img")
    vm = debian.boot(lab, card)
    debian.settled(vm, init)
    newer = artefacts.debian_kernels()[1]
    vm.run("apt-get update").ok()
    vm.run(f"apt-get install --yes {newer}", timeout=LONG).ok()
    vm.run("update-grub", timeout=SLOW).ok()
    said = vm.run("grub-install /dev/sda", timeout=LONG).ok().text
    assert "Installation finished. No error reported." in said, said
    assert len(vm.run("ls /boot/initrd.img-*").ok().text.split()) == 2
    debian.shut_down(vm, init)
    card.copy(path)


def tell(lab: Lab, init: str, start: Path, directory: Path) -> Story:
    """Runs both guests, from a system with two kernels on."""
    story = Story(directory, init)
    plain = Card(start).copy(directory / PLAIN_CARD)
    old, newer = artefacts.debian_package(), debian._newer_package(lab.directory, "i386")
    plain.edit([f"cd {PACKAGES}", f"write {old} cowflush.deb", f"write {newer} cowflush-newer.deb"])
    on_the_plain_card(lab, story)
    on_the_stack(lab, story)
    return story


def on_the_plain_card(lab: Lab, story: Story) -> None:
    teller = Teller(lab, Card(story.directory / PLAIN_CARD), story, "plain")
    vm = teller.vm

    def bring() -> None:
        vm.run("sync").ok()

    teller.run("install", bring)
    vm.run("cowflush log format /dev/sda2 && sync").ok()
    vm.cut_copy(lab.directory / "installed.img").path.rename(story.directory / STACK_CARD)
    for name in PLAIN[1:]:
        teller.run(name, bring)
    vm.kill()


def on_the_stack(lab: Lab, story: Story) -> None:
    teller = Teller(lab, Card(story.directory / STACK_CARD), story, "stack")
    vm = teller.vm
    assert debian.root_device(vm) == debian.STACK, vm.console

    def bring() -> None:
        # After the purge all is on the card, and writes go straight there.
        if vm.run("test -x /usr/sbin/cowflush").code:
            vm.run("sync").ok()
        else:
            debian.flush(vm, merge=True)

    for name in STACK:
        teller.run(name, bring)
    vm.kill()
