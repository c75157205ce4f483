"""Debian systems of the router class: they boot by BIOS and GRUB, with Debian's own kernel and initramfs.

A system goes by the name of its `init`: systemd and sysvinit are i386; amd64 and dracut are amd64
with systemd, and dracut has an initramfs by that instead of initramfs-tools.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vm import artefacts, launch, local, sparse
from vm.card import Card
from vm.drive import Drive, Throttle
from vm.lab import Lab
from vm.launch import Machine
from vm.machine import VM
from vm.router import when_free

UUID = "c0f1a5b0-5eed-4c0f-8a5b-00000000deb1"
# Debian's kernel for i386 needs what a Geode LX has: CMOV, but no SSE. PAE is for its other flavour.
GEODE = (
    "pentium,vendor=AuthenticAMD,family=5,model=10,stepping=2,"
    "+sep,+cmov,+mmx,+mmxext,+3dnow,+3dnowext,+pge,+clflush,+pae,+cx8"
)
NEWER = "999-1"
AMD64 = ("amd64", "dracut")
QEMU = {"i386": launch.QEMU["i586"], "amd64": launch.QEMU["x86_64"]}
PACKAGES = "/var/local/packages"
# An initramfs takes a minute to make on an emulated machine, and prints nothing meanwhile.
SLOW = 400.0
TOTAL = 4800.0
STACK = "/dev/mapper/cowflush-root"
CARD = "/dev/sda1"


def boot(lab: Lab, card: Card, **options: Any) -> VM:
    """Boots the card as a machine with nothing but the card would."""
    wait = options.pop("wait", True)
    machine = _machine(card, **options)
    return lab.add(lambda directory: VM(machine, card, directory, total=TOTAL), wait)


def _machine(
    card: Card, arch: str = "i386", throttle: Throttle | None = None, saved: Path | None = None
) -> Machine:
    drives = (Drive(card.path, throttle=throttle),)
    cpu, memory = (launch.CPU["x86_64"], 512) if arch == "amd64" else (GEODE, 256)
    return Machine(None, None, "", drives, qemu=QEMU[arch], cpu=cpu, memory=memory, saved=saved)


def arch(init: str) -> str:
    return "amd64" if init in AMD64 else "i386"


def _disk(init: str) -> Path:
    return artefacts.debian_disk("amd64" if init in AMD64 else init)


def fresh(lab: Lab, init: str) -> Card:
    """A system without cowflush; its package lies ready."""
    path = lab.directory / f"{init}.img"
    sparse.copy(_disk(init), path)
    card = Card(path)
    package, newer = artefacts.debian_package(arch(init)), _newer_package(lab.directory, arch(init))
    card.edit(
        [f"cd {PACKAGES}", f"write {package} cowflush.deb", f"write {newer} cowflush-newer.deb"]
    )
    return card


def _newer_package(directory: Path, arch: str) -> Path:
    """The package as its next version would be: the program works the same, but is not the same file."""
    tree, package = directory / "newer", directory / "newer.deb"
    local.run(["dpkg-deb", "--raw-extract", artefacts.debian_package(arch), tree], check=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(
        re.sub(r"^Version: .*$", f"Version: {NEWER}", control.read_text(), flags=re.MULTILINE)
    )
    program = tree / "usr/sbin/cowflush"
    program.write_bytes(program.read_bytes() + NEWER.encode())
    local.run(
        ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", tree, package],
        check=True,
        capture_output=True,
    )
    shutil.rmtree(tree)
    return package


def installed(lab: Lab, init: str) -> Card:
    """A system with the package installed, ready for its first boot on the stack."""
    return Card(_template(lab, init) / "installed.img").copy(
        lab.directory / f"{init}-installed.img"
    )


def installation(lab: Lab, init: str) -> Installation:
    """What was seen when that system was made."""
    seen = json.loads((_template(lab, init) / "installation.json").read_text())
    return Installation(**seen)


def running(lab: Lab, init: str, **options: Any) -> VM:
    """The same, booted on the stack and at rest: a machine that was saved then, on a card of its own."""
    template = _template(lab, init)
    card = Card(template / "running.img").copy(lab.directory / f"{init}-running.img")
    machine = _machine(card, arch(init), saved=template / "memory", **options)
    vm = lab.add(lambda directory: VM(machine, card, directory, total=TOTAL), wait=False)
    vm.go_on()
    return vm


@dataclass(frozen=True)
class Installation:
    """What the plain system complained of by itself, what the installation printed, what root was
    then, what the console showed of the shutdown after it, and of the first boot on the stack."""

    before: list[str]
    said: str
    root: str
    shutdown: str
    boot: str


def _template(lab: Lab, init: str) -> Path:
    """A folder with such a system before its first boot on the stack and after it. Made once."""
    artefacts.CACHE.mkdir(parents=True, exist_ok=True)
    folder = artefacts.CACHE / f"debian-{init}-{_key(init)}"
    with open(artefacts.CACHE / f"debian-{init}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            for stale in artefacts.CACHE.glob(f"debian-{init}-*"):
                shutil.rmtree(stale)
            new = artefacts.CACHE / f"debian-{init}-new"
            new.mkdir()
            _make(lab, init, new)
            new.rename(folder)
    return folder


def _make(lab: Lab, init: str, folder: Path) -> None:
    card = fresh(lab, init)
    vm = boot(lab, card, arch=arch(init))
    settled(vm, init)
    if init == "dracut":
        vm = _with_dracut(lab, vm)
    # What the kernel says of its own modules is none of cowflush's.
    vm.run("modprobe -a loop dm-snapshot").ok()
    before = complaints(vm, init)
    # The image was made without GRUB's own tools.
    vm.run("update-grub", timeout=SLOW).ok()
    said = vm.run(f"apt-get install --yes {PACKAGES}/cowflush.deb", timeout=SLOW).ok().text
    vm.run("cowflush log format /dev/sda2").ok()
    root = root_device(vm)
    begin = len(vm.console)
    shut_down(vm, init)
    shutdown = vm.console[begin:]
    card.copy(folder / "installed.img")
    vm = boot(lab, card, arch=arch(init))
    settled(vm, init)
    vm.save(folder / "memory")
    card.copy(folder / "running.img")
    seen = Installation(before, said, root, shutdown, vm.console)
    (folder / "installation.json").write_text(json.dumps(asdict(seen)))


def _with_dracut(lab: Lab, vm: VM) -> VM:
    """Changes over from initramfs-tools, and boots by that."""
    # Packed quickly: on an emulated machine all else takes minutes.
    vm.run(
        "mkdir -p /etc/dracut.conf.d && echo 'compress=\"gzip -1\"' >/etc/dracut.conf.d/quick.conf"
    ).ok()
    vm.run(
        "apt-get update && apt-get install --yes dracut && ! command -v update-initramfs",
        timeout=2 * SLOW,
    ).ok()
    shut_down(vm, "dracut")
    vm = boot(lab, vm.card, arch="amd64")
    settled(vm, "dracut")
    return vm


def _key(init: str) -> str:
    digest = hashlib.sha256(str(_disk(init).resolve()).encode())
    digest.update(
        local.run([QEMU[arch(init)], "--version"], capture_output=True, check=True).stdout
    )
    for source in (artefacts.debian_package(arch(init)), Path(launch.__file__)):
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    for function in (
        fresh,
        _newer_package,
        _machine,
        _make,
        _with_dracut,
        settled,
        complaints,
        shut_down,
    ):
        digest.update(inspect.getsource(function).encode())
    return digest.hexdigest()[:16]


def complaints(vm: VM, init: str) -> list[str]:
    """What the kernel, cowflush and the services complained of since this boot; no times, no numbers."""
    said = vm.run("dmesg --level=emerg,alert,crit,err,warn").ok().text.splitlines()
    if init != "sysvinit":
        said += (
            vm.run("journalctl --quiet --boot --priority=warning --output=cat")
            .ok()
            .text.splitlines()
        )
    return sorted({re.sub(r"\d+", "N", re.sub(r"^\[.*?\] ", "", line)) for line in said})


def shut_down(vm: VM, init: str, verb: str = "poweroff") -> None:
    """Shuts the system down in order; the agent must not keep anybody waiting."""
    expected = {"poweroff": "guest-shutdown", "reboot": "guest-reset"}[verb]
    command = f"systemctl --no-block {verb}" if init != "sysvinit" else verb
    assert vm.run_last(command, timeout=SLOW) == expected


def settled(vm: VM, init: str) -> None:
    """Waits until the boot is over; nothing may have failed in it."""
    if init != "sysvinit":
        state = vm.run("systemctl is-system-running --wait", timeout=SLOW).text.strip()
        assert state == "running", vm.run("systemctl --failed; journalctl -b -p warning").text


def flush(vm: VM, merge: bool = False) -> None:
    """Flushes, and merges the log as well."""
    for command in ["flush", "merge"] if merge else ["flush"]:
        when_free(vm, command).ok()


def root_device(vm: VM) -> str:
    return vm.run("findmnt -no SOURCE /").ok().text.strip()
