"""The power fails at each step of what dpkg does with the package, in a real Debian with two kernels and GRUB's own boot image.

Everything that the card received is cut at every FLUSH and at points between, and each cut is judged from outside; of
what differs the riskiest are booted, and the operation is run again there. In its init nothing of this differs; systemd's
system stands for both.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import artefacts
from harness.card import Card
from harness.lab import Lab
from packagecut import again, judge, story
from packagecut.judge import Judge, Look
from packagecut.story import OPERATIONS, PLAIN, STACK, Story
from systems import debian

INIT = "systemd"
# Between the FLUSHes
DRAWN = 40
# Of each operation; a boot with the operation run again takes minutes.
BOOTED = 2
ALL = [*(("plain", name) for name in PLAIN), *(("stack", name) for name in STACK)]


@pytest.fixture(scope="module")
def told() -> Iterator[Story]:
    """Both guests' story. It takes a quarter of an hour, so it is kept for as long as it is of the same parts."""
    digest = hashlib.sha256(debian.place(INIT).name.encode())
    digest.update(Path(story.__file__).read_bytes())
    folder = artefacts.CACHE / f"packagecut-{INIT}-{digest.hexdigest()[:16]}"
    artefacts.CACHE.mkdir(parents=True, exist_ok=True)
    with open(artefacts.CACHE / f"packagecut-{INIT}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            for stale in artefacts.CACHE.glob(f"packagecut-{INIT}-*"):
                shutil.rmtree(stale)
            new = folder.with_suffix(".new")
            new.mkdir()
            lab = Lab(artefacts.LOGS / f"packagecut-{INIT}")
            story.two_kernels(lab, INIT, lab.directory / "two.img")
            story.tell(lab, INIT, lab.directory / "two.img", new)
            lab.end(keep_images=False)
            new.rename(folder)
        yield Story(folder, INIT)


# What the maintainer scripts, the hook and initramfs-tools call; none of them may be missed without a word.
PROGRAMS = (
    "cmp", "cp", "cpio", "deb-systemd-helper", "find", "gzip", "ischroot", "linux-version", "ln", "mkinitramfs", "mv",
    "readlink", "sync", "update-grub", "update-initramfs", "update-rc.d",
)  # fmt: skip


@pytest.fixture(scope="module")
def look() -> Look:
    return judge.look()


@pytest.mark.systems
@pytest.mark.parametrize(("root", "name"), ALL)
def test_a_cut_leaves_a_system_that_boots_and_in_which_the_operation_ends_well(
    boot: Lab, told: Story, look: Look, root: str, name: str
) -> None:
    cuts = Judge(told, told.operation(root, name), look, boot.directory)
    verdicts = list(cuts.verdicts(cuts.states(DRAWN)))
    wrong = [f"{each.state}: {each.found.wrong}" for each in verdicts if each.found.wrong]
    assert not wrong, wrong
    last = next(each for each in verdicts if each.state.name == "end").found
    assert judge.loadable(last), last
    # All of them here, with Debian's own dpkg, scripts and initramfs-tools in a chroot, and those that say most in a guest.
    different = [each.state for each in judge.distinct(verdicts)]
    for state, said, found in again.finished(cuts, look, different):
        assert not found.wrong and not judge.differing(found, last, but=["menu"]), (state, said)
    for number, verdict in enumerate(judge.riskiest(verdicts, BOOTED)):
        lab = Lab(boot.directory / f"outcome-{number}")
        end = again.ended(lab, cuts, look, verdict.state, INIT)
        lab.end(keep_images=False)
        assert not end.found.wrong and not judge.differing(end.found, last), (verdict, end)


@pytest.mark.systems
@pytest.mark.parametrize("name", ["install", "upgrade", "purge"])
def test_a_command_that_fails_leaves_no_broken_initramfs_and_the_operation_ends_well_when_it_is_run_again(
    told: Story, look: Look, tmp_path: Path, name: str
) -> None:
    """Debian's own dpkg and initramfs-tools in a chroot here: each program's first and last call dies, one at a time."""
    root, _ = judge.recovered_card(Card(told.directory / "plain.img").copy(tmp_path / "card.img"))
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
