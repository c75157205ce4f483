"""Debian systems of the router class, with BIOS, GRUB, and Debian's kernel and initramfs.

A system is named by its `init`: systemd and sysvinit are i386; amd64 and dracut are amd64 with
systemd, and dracut makes its initramfs with that instead of initramfs-tools.

`make debian-systems` installs the package in each and saves the running machine; tests begin with
that.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import re
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import artefacts, drive, launch, local, sparse
from harness.card import Card
from harness.drive import Drive, Throttle
from harness.lab import Lab
from harness.launch import Machine
from harness.machine import VM
from product.router import when_free

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
# An emulated machine takes a minute to make an initramfs, and prints nothing meanwhile.
SLOW = 400.0
TOTAL = 4800.0
STACK = "/dev/mapper/cowflush-root"
CARD = "/dev/sda1"


def boot(lab: Lab, card: Card, **options: Any) -> VM:
    """Boots the card in a machine that has nothing but the card."""
    wait = options.pop("wait", True)
    new = machine(card, **options)
    return lab.add(lambda directory: VM(new, card, directory, total=TOTAL), wait)


def machine(
    card: Card, arch: str = "i386", throttle: Throttle | None = None, saved: Path | None = None
) -> Machine:
    drives = (Drive(card.path, throttle=throttle),)
    cpu, memory = (launch.CPU["x86_64"], 512) if arch == "amd64" else (GEODE, 256)
    return Machine(None, None, "", drives, qemu=QEMU[arch], cpu=cpu, memory=memory, saved=saved)


def arch(init: str) -> str:
    return "amd64" if init in AMD64 else "i386"


def disk(init: str) -> Path:
    return artefacts.debian_disk("amd64" if init in AMD64 else init)


def fresh(lab: Lab, init: str) -> Card:
    """A system without cowflush that has the package's file."""
    path = lab.directory / f"{init}.img"
    sparse.copy(disk(init), path)
    card = Card(path)
    package, newer = artefacts.debian_package(arch(init)), _newer_package(lab.directory, arch(init))
    card.edit(
        [f"cd {PACKAGES}", f"write {package} cowflush.deb", f"write {newer} cowflush-newer.deb"]
    )
    return card


def _newer_package(directory: Path, arch: str) -> Path:
    """The package as its next version: the program works the same, but is another file."""
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


@dataclass(frozen=True)
class Installation:
    """What was seen at an installation.

    What the plain system itself complained of, what the installation printed, what root was then,
    and what the console showed of the shutdown after it and of the first boot on the stack.
    """

    before: list[str]
    said: str
    root: str
    shutdown: str
    boot: str


# The files that systems.debian_make leaves in a template
INSTALLED, RUNNING, MEMORY, SEEN = "installed.img", "running.img", "memory", "installation.json"


def installed(lab: Lab, init: str) -> Card:
    """A system with the package installed, ready for its first boot on the stack."""
    return Card(template(init) / INSTALLED).copy(lab.directory / f"{init}-installed.img")


def installation(init: str) -> Installation:
    """What was seen when that system was made."""
    return Installation(**json.loads((template(init) / SEEN).read_text()))


def running(lab: Lab, init: str, **options: Any) -> VM:
    """The installed system, idle on the stack: a machine saved then, on a card of its own."""
    made = template(init)
    card = Card(made / RUNNING).copy(lab.directory / f"{init}-running.img")
    saved = machine(card, arch(init), saved=made / MEMORY, **options)
    vm = lab.add(lambda directory: VM(saved, card, directory, total=TOTAL), wait=False)
    vm.go_on()
    return vm


# --- what was made of a system before the tests ------------------------------------------


def template(init: str) -> Path:
    """The folder with such a system before and after its first boot on the stack; it must exist."""
    target = "debian-systems-amd64" if init in AMD64 else "debian-systems"
    try:
        folder = place(init)
    except artefacts.MissingArtefact:
        raise artefacts.MissingArtefact(
            f"the Debian system {init} is not made, nor is all that it is made of: run `make {target}`"
        ) from None
    if folder.is_dir():
        return folder
    if (why := broken(folder)).exists():
        raise artefacts.MissingArtefact(why.read_text().strip())
    raise artefacts.MissingArtefact(
        f"the Debian system {init} is not made, or of other parts than now: run `make {target}`"
    )


def place(init: str) -> Path:
    """Where the template is, or goes. Its name depends on everything that it is made of and by."""
    digest = hashlib.sha256(str(disk(init).resolve()).encode())
    digest.update(
        local.run([QEMU[arch(init)], "--version"], capture_output=True, check=True).stdout
    )
    here = Path(__file__)
    sources = (here, here.with_name("debian_make.py"), Path(launch.__file__), Path(drive.__file__))
    for source in sources:
        digest.update(hashlib.sha256(_code(source.read_text()).encode()).digest())
    digest.update(_contents(artefacts.debian_package(arch(init))))
    return artefacts.CACHE / f"debian-{init}-{digest.hexdigest()[:16]}"


def _code(source: str) -> str:
    """What a module does, without its docstrings and comments, and its imports' places.

    A module may move, and a comment may change, without a new system.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [line for line in body if not _is_silent(line)]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_silent(line: ast.stmt) -> bool:
    if isinstance(line, ast.Expr):
        return isinstance(line.value, ast.Constant)
    return isinstance(line, ast.Import | ast.ImportFrom)


def _contents(package: Path) -> bytes:
    """A hash of what the package installs and runs, without its documents and version.

    Those have the commit's date, for which no new system is made.
    """
    digest = hashlib.sha256()
    for part, but in (("--ctrl-tarfile", "./md5sums"), ("--fsys-tarfile", "./usr/share/doc/")):
        packed = local.run(["dpkg-deb", part, package], capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            for member in sorted(tar.getmembers(), key=lambda member: member.name):
                if member.name.startswith(but):
                    continue
                digest.update(f"{member.name} {member.mode:o} {member.linkname}\n".encode())
                if file := tar.extractfile(member) if member.isfile() else None:
                    content = file.read()
                    if member.name == "./control":
                        content = re.sub(
                            rb"^(Version|Installed-Size): .*\n", b"", content, flags=re.M
                        )
                    digest.update(hashlib.sha256(content).digest())
    return digest.digest()


def broken(folder: Path) -> Path:
    """The file that says why a template could not be made."""
    return folder.with_suffix(".broken")


# --- what tests do with a system ---------------------------------------------------------


def complaints(vm: VM, init: str) -> list[str]:
    """What the kernel, cowflush and the services complained of in this boot, without numbers."""
    said = vm.run("dmesg --level=emerg,alert,crit,err,warn").ok().text.splitlines()
    if init != "sysvinit":
        said += (
            vm.run("journalctl --quiet --boot --priority=warning --output=cat")
            .ok()
            .text.splitlines()
        )
    return sorted({re.sub(r"\d+", "N", re.sub(r"^\[.*?\] ", "", line)) for line in said})


def shut_down(vm: VM, init: str, verb: str = "poweroff") -> None:
    """Shuts the system down in order; the agent must not hold it up."""
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
