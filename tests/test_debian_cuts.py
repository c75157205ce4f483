"""The power fails at each step of what dpkg does with the package, in a real Debian with two kernels and GRUB's own boot image.

Everything that the card received is cut at every FLUSH and at points between, and each cut is judged from outside; of
what differs the riskiest are booted, and the operation is run again there. In its init nothing of this differs; systemd's
system stands for both.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from pathlib import Path

import packagecut
import pytest
from packagecut import again, judge, story
from packagecut.judge import Judge, Look, Verdict
from packagecut.story import PLAIN, STACK, Story
from vm import artefacts, debian
from vm.lab import Lab

INIT = "systemd"
# Between the FLUSHes
DRAWN = 100
OPERATIONS = [*(("plain", name) for name in PLAIN), *(("stack", name) for name in STACK)]


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
            packagecut.drop(artefacts.CACHE.glob(f"packagecut-{INIT}-*"))
            new = folder.with_suffix(".new")
            new.mkdir()
            lab = Lab(artefacts.LOGS / f"packagecut-{INIT}")
            story.two_kernels(lab, INIT, lab.directory / "two.img")
            story.tell(lab, INIT, lab.directory / "two.img", new)
            lab.end(keep_images=False)
            new.rename(folder)
        yield Story(folder, INIT)


@pytest.fixture(scope="module")
def look() -> Look:
    return judge.look()


@pytest.mark.systems
@pytest.mark.parametrize(("root", "name"), OPERATIONS)
def test_a_cut_leaves_a_system_that_boots_and_in_which_the_operation_ends_well(
    boot: Lab, told: Story, look: Look, root: str, name: str
) -> None:
    cuts = Judge(told, told.operation(root, name), look, boot.directory)
    verdicts = list(cuts.verdicts(cuts.states(DRAWN)))
    wrong = [f"{each.state}: {each.found.wrong}" for each in verdicts if each.found.wrong]
    assert not wrong, wrong
    last = cuts.last(verdicts)
    for number, verdict in enumerate(judge.riskiest(verdicts)):
        lab = Lab(boot.directory / f"outcome-{number}")
        end = again.ended(lab, cuts, look, verdict.state, INIT)
        lab.end(keep_images=False)
        assert not end.found.wrong, (str(verdict.found), end)
        assert judge.same(end.found, last), (str(verdict.found), end)


def outcomes(verdicts: list[Verdict]) -> set[str]:
    return {str(each.found) for each in verdicts}
