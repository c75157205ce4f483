"""The power fails at each step of dpkg's work on the package, in a real Debian with two kernels.

It has GRUB's own boot image. The tests cut everything that the card received at every FLUSH and at
points between, and judge each cut from outside; of those that differ they boot the riskiest, on the
stack and plainly.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from harness.card import Card
from harness.ext import ExtImage
from harness.lab import Lab
from packagecut import again, judge, story
from packagecut.judge import Judge, Look, files_of_initramfs
from packagecut.kept import told
from packagecut.story import OPERATIONS, TOLD, Story
from systems import debian

# Cuts between the FLUSHes
DRAWN = 40
# Booted for each operation: of the cuts that boot on the stack, and of those that boot plainly. In
# the riskiest the operation is run again, which takes minutes more.
BOOTED = 2
ALL = [
    (init, root, name)
    for init, roots in TOLD.items()
    for root, names in roots.items()
    for name in names
]


# What the maintainer scripts, the hook and initramfs-tools call; none of them may fail silently.
PROGRAMS = (
    "cmp", "cp", "cpio", "deb-systemd-helper", "find", "gzip", "ischroot", "linux-version", "ln", "mkinitramfs", "mv",
    "readlink", "sync", "update-grub", "update-initramfs", "update-rc.d",
)  # fmt: skip


@pytest.fixture(scope="module")
def look() -> Look:
    return judge.look()


@pytest.mark.systems
@pytest.mark.parametrize(("init", "root", "name"), ALL)
def test_a_cut_leaves_a_system_that_boots_and_in_which_the_operation_ends_well(
    boot: Lab, look: Look, init: str, root: str, name: str
) -> None:
    tale = told(init, root)
    cuts = Judge(tale, tale.operation(root, name), look, boot.directory)
    verdicts = list(cuts.verdicts(cuts.states(DRAWN)))
    wrong = [f"{each.state}: {each.found.wrong}" for each in verdicts if each.found.wrong]
    assert not wrong, wrong
    last = next(each for each in verdicts if each.state.name == "end").found
    assert judge.loadable(last), last
    # All of them here, with Debian's own dpkg, scripts and initramfs-tools in a chroot, and the
    # most telling ones in a guest.
    different = [each.state for each in judge.distinct(verdicts)]
    for state, said, found in again.finished(cuts, look, different):
        assert not found.wrong and not judge.differing(found, last, but=["menu"]), (state, said)
    chosen = judge.to_boot(verdicts, BOOTED)
    riskiest = sorted(chosen, key=lambda each: -judge.risk(each.found))[:1]
    for number, verdict in enumerate(chosen):
        lab = Lab(boot.directory / f"outcome-{number}")
        end = again.booted(lab, cuts, look, verdict.state, init, again=verdict in riskiest)
        lab.end(keep_images=False)
        assert (end.root == debian.STACK) == judge.boots_on_the_stack(verdict.found), (verdict, end)
        assert not end.found.wrong, (verdict, end)
        if verdict in riskiest:
            assert not judge.differing(end.found, last), (verdict, end)


@pytest.mark.systems
@pytest.mark.parametrize("name", ["install", "upgrade", "purge"])
def test_a_command_that_fails_leaves_no_broken_initramfs_and_the_operation_ends_well_when_it_is_run_again(
    look: Look, tmp_path: Path, name: str
) -> None:
    """Debian's dpkg and initramfs-tools in a chroot: each program's first and last call fails."""
    root, _ = judge.recovered_card(
        Card(told("systemd", "plain").directory / story.PLAIN_CARD).copy(tmp_path / "card.img")
    )
    assert not judge.repair(root)
    with again.chroots() as chroots:
        before = chroots.of(root)
        if name != "install":
            before.run(OPERATIONS["install"]).check_returncode()
        counted = chroots.copy(before)
        for program in PROGRAMS:
            counted.let_fail(program, 0)
        counted.run(OPERATIONS[name]).check_returncode()
        wanted = look.of(counted.path, {})
        for program in PROGRAMS:
            for call in {1, counted.calls(program)} if counted.calls(program) else ():
                once = chroots.copy(before)
                once.let_fail(program, call)
                done = once.run(OPERATIONS[name])
                what = (program, call, done)
                found = look.of(once.path, {})
                assert not [each for each in found.wrong if "menu" not in each], (*what, found)
                if not done.returncode:
                    assert not judge.differing(found, wanted, but=["menu"]), what
                once.run(f"{again.FINISH}; {again.AGAIN[name]}").check_returncode()
                assert not once.run("dpkg --audit").stdout, what
                found = look.of(once.path, {})
                assert not judge.differing(found, wanted, but=["menu"]), (*what, found)
                chroots.drop(once)


# What dpkg and initramfs-tools note of each run, of whatever package
NOTED = (
    "var/cache/", "var/lib/dpkg/status", "var/lib/dpkg/lock", "var/lib/initramfs-tools/", "var/log/", "etc/ld.so.cache",
    "root/kept-before-",
)  # fmt: skip


# A folder that is empty without us. systemd's package knows it by its name under /lib, so dpkg takes it along: any package's
# that has something there, and systemd does without it.
TAKEN_ALONG = {"usr/lib/systemd/system-shutdown"}


def ended(tale: Story, name: str, directory: Path) -> dict[str, str]:
    """Returns the tree after an operation."""
    cuts = Judge(tale, tale.operation("plain", name), judge.look(), directory)
    end = next(state for state in cuts.states(0) if state.name == "end")
    return next(tree(root) for _, root in cuts.copies([end]))


def tree(root: ExtImage) -> dict[str, str]:
    with again.chroots() as chroots:
        return all_of(chroots.of(root).path)


def all_of(root: Path) -> dict[str, str]:
    """Returns the mode and the content of every file, folder and link.

    What is only there while a command runs is left out. Of an initramfs the files in it count.
    """
    found = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if name.startswith((*NOTED, "dev/", "proc/", "sys/", "run/")):
            continue
        mode = f"{path.lstat().st_mode:o}"
        if path.is_symlink():
            found[name] = f"{mode} to {os.readlink(path)}"
        elif name.startswith("etc/init.d/.depend."):
            # insserv puts what may come at the same time in any order.
            lines = [sorted(line.split()) for line in path.read_text().splitlines()]
            found[name] = str(sorted(lines))
        elif name.startswith("boot/initrd.img-"):
            files = files_of_initramfs(path.read_bytes())
            found |= {f"{name}: {file}": _hash(content) for file, content in files.items()}
        else:
            found[name] = f"{mode} {_hash(path.read_bytes()) if path.is_file() else ''}"
    return found


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.systems
@pytest.mark.parametrize("init", ["systemd", "sysvinit"])
def test_a_purge_leaves_every_file_menu_entry_and_initramfs_as_they_were_before_the_install(
    tmp_path: Path, init: str
) -> None:
    """Compares the story's card: installed, upgraded, with `update-initramfs` run by hand, and purged."""
    tale = told(init, "plain")
    root, _ = judge.recovered_card(Card(tale.directory / story.PLAIN_CARD).copy(tmp_path / "card.img"))  # fmt: skip
    assert not judge.repair(root)
    before, installed, after = tree(root), *(ended(tale, name, tmp_path) for name in ("install", "purge"))  # fmt: skip
    kernels = [name for name in before if name.startswith("boot/vmlinuz-")]
    for kernel in kernels:
        image = kernel.replace("vmlinuz", "initrd.img")
        assert f"{image}: init" in before and f"{image}: usr/sbin/cowflush" in installed
    assert len(kernels) == 2 and installed["boot/grub/grub.cfg"] != before["boot/grub/grub.cfg"]
    differs = {name for name in before | after if before.get(name) != after.get(name)}
    differs -= TAKEN_ALONG
    assert not differs, {name: (before.get(name), after.get(name)) for name in sorted(differs)}
