"""The power fails at each step of dpkg's work on the package, in a real Debian with two kernels.

It has GRUB's own boot image. The tests cut everything that the card received at every FLUSH and at
points between, and judge each cut from outside; of those that differ they boot the riskiest, on the
stack and plainly.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.card import Card
from harness.lab import Lab
from packagecut import again, judge, story
from packagecut.judge import Judge, Look
from packagecut.kept import told
from packagecut.story import OPERATIONS, TOLD
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
