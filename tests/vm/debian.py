"""Debian systems of the router class: they boot by BIOS and GRUB, with Debian's own kernel and initramfs."""

from __future__ import annotations

import fcntl
import hashlib
from pathlib import Path
from typing import Any

from vm import artefacts, sparse
from vm.card import Card
from vm.lab import Lab
from vm.launch import Machine
from vm.drive import Drive
from vm.machine import VM

UUID = "c0f1a5b0-5eed-4c0f-8a5b-00000000deb1"
# Debian's kernel for i386 needs what a Geode LX has: CMOV, but no SSE. PAE is for its other flavour.
GEODE = (
    "pentium,vendor=AuthenticAMD,family=5,model=10,stepping=2,"
    "+sep,+cmov,+mmx,+mmxext,+3dnow,+3dnowext,+pge,+clflush,+pae,+cx8"
)
PACKAGES = "/var/local/packages"
# An initramfs takes a minute to make on an emulated machine, and prints nothing meanwhile.
SLOW = 400.0
STACK = "/dev/mapper/cowflush-root"
CARD = "/dev/sda1"


def boot(lab: Lab, card: Card, **options: Any) -> VM:
    """Boots the card as a machine with nothing but the card would."""
    wait = options.pop("wait", True)
    machine = Machine(
        kernel=None,
        initramfs=None,
        append="",
        drives=(Drive(card.path, throttle=options.pop("throttle", None)),),
        cpu=GEODE,
        memory=options.pop("memory", 256),
    )
    return lab.add(lambda directory: VM(machine, card, directory, total=1200, **options), wait)


def fresh(lab: Lab, init: str) -> Card:
    """A system without cowflush; its package lies ready."""
    path = lab.directory / f"{init}.img"
    sparse.copy(artefacts.debian_disk(init), path)
    card = Card(path)
    card.edit([f"cd {PACKAGES}", f"write {artefacts.debian_package()} cowflush.deb"])
    return card


def install(vm: VM) -> str:
    """Installs the package as its README says; returns what was printed. The log is in use from then on."""
    vm.run("update-grub", timeout=SLOW).ok()
    said = vm.run(f"apt-get install --yes {PACKAGES}/cowflush.deb", timeout=SLOW).ok().text
    vm.run("cowflush log format /dev/sda2").ok()
    return said


def installed(lab: Lab, init: str) -> Card:
    """The same with the package installed, ready for its first boot on the stack. Made once."""
    template = artefacts.CACHE / f"debian-{init}-{_key(init)}.img"
    artefacts.CACHE.mkdir(parents=True, exist_ok=True)
    with open(template.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not template.exists():
            card = fresh(lab, init)
            vm = boot(lab, card)
            install(vm)
            shut_down(vm, init)
            sparse.copy(card.path, template.with_suffix(".new"))
            template.with_suffix(".new").rename(template)
    path = lab.directory / f"{init}-installed.img"
    sparse.copy(template, path)
    return Card(path)


def _key(init: str) -> str:
    digest = hashlib.sha256(str(artefacts.debian_disk(init).resolve()).encode())
    for source in (artefacts.debian_package(), Path(__file__)):
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()[:16]


def shut_down(vm: VM, init: str, verb: str = "poweroff") -> None:
    """Shuts the system down in order; the agent must not keep anybody waiting."""
    expected = {"poweroff": "guest-shutdown", "reboot": "guest-reset"}[verb]
    command = f"systemctl --no-block {verb}" if init == "systemd" else verb
    assert vm.run_last(command, timeout=SLOW) == expected


def settled(vm: VM, init: str) -> None:
    """Waits until the boot is over; nothing may have failed in it."""
    if init == "systemd":
        state = vm.run("systemctl is-system-running --wait", timeout=SLOW).text.strip()
        assert state == "running", vm.run("systemctl --failed; journalctl -b -p warning").text


def root_device(vm: VM) -> str:
    return vm.run("findmnt -no SOURCE /").ok().text.strip()
