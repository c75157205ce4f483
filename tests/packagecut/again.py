"""Boots a card as a cut left it, and runs the operation again there, as its owner would."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import ext, local
from harness.ext import ExtImage
from harness.lab import Lab
from harness.machine import VM
from packagecut.judge import Found, Judge, Look, recovered_card, repair, room
from packagecut.story import LONG
from powercut.medium import rebuild
from powercut.states import State
from systems import debian
from systems.debian import PACKAGES, SLOW

AFTER = "/root/after-the-cut"
# dpkg's own advice after an interruption, and then the interrupted operation once more. The first
# does not configure a package whose files were half in place; the second repairs that.
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
    """The boot after the cut: what root was, what was printed, and what the card finally holds."""

    root: str
    said: str
    found: Found


def booted(lab: Lab, judge: Judge, look: Look, state: State, init: str, again: bool) -> Ended:
    """Boots, checks what was flushed, runs the operation `again` if wanted, and shuts down."""
    operation = judge.operation
    card = rebuild(lab.directory / "cut.img", judge.blank, judge.entries, state)
    vm = debian.boot(lab, card)
    failed = vm.run("systemctl is-system-running --wait; systemctl --failed", timeout=SLOW).text if init != "sysvinit" else ""  # fmt: skip
    root = debian.root_device(vm)
    assert vm.run(f"cat {operation.kept}").ok().text.strip() == operation.name
    said = f"{failed}\n{vm.run('cat /run/cowflush/boot; dmesg | grep cowflush').text}"
    if again:
        said += vm.run(FINISH, timeout=LONG).text
        said += vm.run(AGAIN[operation.name], timeout=LONG).ok().text
        assert not vm.run("dpkg --audit").ok().text.strip()
    # Where root is on the stack, only the shutdown brings what is written now to the card.
    vm.run(f"echo {state.name} >{AFTER}").ok()
    debian.shut_down(vm, init)
    found = _found(lab.directory, look, vm, {operation.kept: f"{operation.name}\n", AFTER: f"{state.name}\n"})  # fmt: skip
    return Ended(root, said, found)


def _found(directory: Path, look: Look, vm: VM, kept: dict[str, str]) -> Found:
    root, log = recovered_card(vm.card)
    complaint = repair(root)
    assert not complaint, complaint
    found = look.at(root, kept)
    return Found({**found.outcome, "log": log}, found.wrong)


# In a chroot on the host, with Debian's own programs: the initramfs must not be for the host's
# root.
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
echo MODULES=list >{root}/etc/initramfs-tools/conf.d/zz-list
exec chroot {root} /usr/bin/env -i PATH=/usr/sbin:/usr/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 sh -c "$1"
"""
# Replaces a program: its call with this number fails, as if the program had died.
FAILING = """#!/bin/sh
number=$(($(cat /calls/{name} 2>/dev/null || echo 0) + 1))
echo $number >/calls/{name}
if [ $number = "$(cat /calls/fails-{name} 2>/dev/null)" ]; then echo "{name} $* fails" >&2; exit 2; fi
exec {path}.real "$@"
"""


@dataclass(frozen=True)
class Chroot:
    """A folder with all of a root."""

    path: Path

    @classmethod
    def of(cls, root: ExtImage, path: Path) -> Chroot:
        path.mkdir()
        local.run(["debugfs", "-R", f"rdump / {path}", root.path], capture_output=True, env={**os.environ, **ext.PATH})  # fmt: skip
        return cls(path)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        script = CHROOT.format(root=self.path)
        return local.run([*SPACES, "sh", "-c", script, "sh", command], capture_output=True, text=True)  # fmt: skip

    def let_fail(self, program: str, call: int) -> None:
        """Makes this call of a program fail, counted from now on; 0 is none."""
        calls = self.path / "calls"
        calls.mkdir(exist_ok=True)
        (calls / program).unlink(missing_ok=True)
        (calls / f"fails-{program}").write_text(str(call))
        places = [self.path / folder / program for folder in ("usr/sbin", "usr/bin")]
        place = next(place for place in places if os.path.lexists(place))
        real = place.with_name(f"{program}.real")
        if not os.path.lexists(real):
            place.rename(real)
            place.write_text(FAILING.format(name=program, path=f"/{place.relative_to(self.path)}"))
            place.chmod(0o755)

    def calls(self, program: str) -> int:
        count = self.path / "calls" / program
        return int(count.read_text()) if count.exists() else 0


class Chroots:
    """Chroots in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = 0

    def _next(self) -> Path:
        self._made += 1
        return self._folder / str(self._made)

    def of(self, root: ExtImage) -> Chroot:
        return Chroot.of(root, self._next())

    def copy(self, chroot: Chroot) -> Chroot:
        path = self._next()
        local.run(["cp", "--archive", chroot.path, path], check=True)
        return Chroot(path)

    def drop(self, chroot: Chroot) -> None:
        shutil.rmtree(chroot.path)


@contextmanager
def chroots() -> Iterator[Chroots]:
    """The chroots; they are removed at the block's end."""
    with tempfile.TemporaryDirectory(dir=room()) as temporary:
        yield Chroots(Path(temporary))


def finished(judge: Judge, look: Look, states: Sequence[State]) -> Iterator[tuple[State, str, Found]]:  # fmt: skip
    """Runs the operation again after each of these cuts, in a chroot; yields output and result."""
    for state, root in judge.copies(states):
        with chroots() as some:
            chroot = some.of(root)
            name = judge.operation.name
            done = chroot.run(f'{FINISH}; {{ {AGAIN[name]}; }} && test -z "$(dpkg --audit)"')
            said = done.stdout + done.stderr
            assert done.returncode == 0, f"{state}: {said}"
            yield state, said, look.of(chroot.path, {judge.operation.kept: f"{name}\n"})
