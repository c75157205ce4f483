"""Boots a card as a cut left it, and runs the operation again there, as its owner would."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from powercut.medium import rebuild
from powercut.states import State
from vm import debian
from vm.debian import PACKAGES, SLOW
from vm.lab import Lab
from vm.machine import VM

from packagecut.judge import Found, Judge, Look, recovered_card, repair
from packagecut.story import LONG

AFTER = "/root/after-the-cut"
# What dpkg says to do after it was interrupted, and then once more what was being done.
FINISH = "dpkg --configure -a"
AGAIN = {
    "install": f"dpkg --install {PACKAGES}/cowflush.deb",
    "upgrade": f"dpkg --install {PACKAGES}/cowflush-newer.deb",
    "initramfs": "update-initramfs -u",
    "purge": "if dpkg-query --show cowflush; then dpkg --purge cowflush; fi",
}


@dataclass(frozen=True)
class Ended:
    """What root was at the boot after the cut, what was said there, and what the card holds in the end."""

    root: str
    said: str
    found: Found


def ended(lab: Lab, judge: Judge, look: Look, state: State, init: str) -> Ended:
    """Boots, looks that what was flushed is there, runs it again, and shuts down in order."""
    operation = judge.operation
    card = rebuild(lab.directory / "cut.img", judge.blank, judge.entries, state)
    vm = debian.boot(lab, card)
    failed = vm.run("systemctl is-system-running --wait; systemctl --failed", timeout=SLOW).text if init != "sysvinit" else ""  # fmt: skip
    root = debian.root_device(vm)
    assert vm.run(f"cat {operation.kept}").ok().text.strip() == operation.name
    said = f"{failed}\n{vm.run('cat /run/cowflush/boot; dmesg | grep cowflush').text}"
    said += vm.run(FINISH, timeout=LONG).text
    done = vm.run(AGAIN[operation.name], timeout=LONG)
    said += done.ok().text
    assert not vm.run("dpkg --audit").ok().text.strip()
    vm.run(f"echo {state.name} >{AFTER}").ok()
    _down(vm, init)
    found = _found(lab.directory, look, vm, {operation.kept: f"{operation.name}\n", AFTER: f"{state.name}\n"})  # fmt: skip
    return Ended(root, said, found)


def _down(vm: VM, init: str) -> None:
    debian.shut_down(vm, init)


def _found(directory: Path, look: Look, vm: VM, kept: dict[str, str]) -> Found:
    root, log = recovered_card(vm.card)
    complaint = repair(root)
    assert not complaint, complaint
    found = look.at(root, kept)
    return Found({**found.outcome, "log": log}, found.wrong)
