"""Boots a card as a cut left it, and runs the operation again there, as its owner would."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from powercut.medium import rebuild
from powercut.states import State
from vm import debian, ext, local
from vm.debian import PACKAGES, SLOW
from vm.lab import Lab
from vm.machine import VM

from packagecut.judge import Found, Judge, Look, recovered_card, repair, room
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


SPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child")


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


# In a chroot on this machine, with Debian's own programs: an initramfs can't be made for the machine's root there.
CHROOT = """
set -e
mount -t tmpfs none {root}/dev
for device in null zero urandom random full tty; do
    touch {root}/dev/$device
    mount --bind /dev/$device {root}/dev/$device
done
ln -s /proc/self/fd {root}/dev/fd
mount -t proc none {root}/proc
mount -t tmpfs none {root}/run
echo MODULES=most >{root}/etc/initramfs-tools/conf.d/zz-most
exec chroot {root} /usr/bin/env -i PATH=/usr/sbin:/usr/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 sh -c "$1"
"""


def finished(
    judge: Judge, look: Look, states: Sequence[State]
) -> Iterator[tuple[State, str, Found]]:
    """Runs the operation again after each of these cuts, in a chroot here; yields what was said, and what there is then."""
    for state, root in judge.copies(states):
        with tempfile.TemporaryDirectory(dir=room()) as temporary:
            tree = Path(temporary) / "root"
            tree.mkdir()
            local.run(["debugfs", "-R", f"rdump / {tree}", root.path], capture_output=True, env={**os.environ, **ext.PATH})  # fmt: skip
            command = f"{FINISH} && {{ {AGAIN[judge.operation.name]}; }} && dpkg --audit"
            done = local.run(
                [*SPACES, "sh", "-c", CHROOT.format(root=tree), "sh", command],
                capture_output=True,
                text=True,
            )
            said = done.stdout + done.stderr
            assert done.returncode == 0, f"{state}: {said}"
            yield state, said, look.of(tree, {judge.operation.kept: f"{judge.operation.name}\n"})
