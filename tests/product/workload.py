"""A writer in the guest whose files prove themselves."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.card import Card
    from harness.ext import ExtImage
    from harness.machine import VM

FOLDER = "/root/rounds"
LINES = 500
# Each file is written under another name first, so a file with its final name is complete, for a
# reader now as on the card.
SCRIPT = f"""
mkdir -p {FOLDER}
round=$(ls {FOLDER} | grep -vc new)
while :; do
    round=$((round + 1))
    seq $round $((round + {LINES})) >{FOLDER}/$round.new &&
    mv {FOLDER}/$round.new {FOLDER}/$round &&
    echo $round >/run/round.new &&
    mv /run/round.new /run/round || exit
done
"""


class Writer:
    """Writes one small file per round, until it is stopped or a write fails.

    Another `script` may write something else, and must leave the round in /run/round as this one
    does.
    """

    def __init__(self, vm: VM, script: str = SCRIPT) -> None:
        self._vm = vm
        self._job = vm.start(script)

    def rounds(self) -> int:
        """How many rounds are complete."""
        return int(self._vm.run("cat /run/round 2>/dev/null || echo 0").ok().text)

    def wait_rounds(self, count: int) -> int:
        """Waits until that many more rounds are complete.

        It does not wait for a writer that has ended.
        """
        goal = self.rounds() + count
        reached = f"[ $(cat /run/round 2>/dev/null || echo 0) -ge {goal} ]"
        waited = self._vm.run(f"until {reached}; do {self._job.alive} || exit; sleep 0.05; done")
        assert waited.code == 0, f"the writer ended by itself: {self._job.wait().text}"
        return self.rounds()

    def stop(self) -> None:
        assert self._job.running(), f"the writer ended by itself: {self._job.wait().text}"
        self._job.kill()
        self._job.wait()


def hashes(rounds: int) -> dict[str, str]:
    """What the files of the first rounds must be, by path."""
    return {f"{FOLDER}/{number}": _hash(number) for number in range(1, rounds + 1)}


def _hash(number: int) -> str:
    lines = "".join(f"{line}\n" for line in range(number, number + LINES + 1))
    return hashlib.sha256(lines.encode()).hexdigest()


def check(card: Card | ExtImage, at_least: int) -> int:
    """Checks the card: complete rounds from 1 on, `at_least` so many, each with its content."""
    card.fsck()
    found = {
        name: digest for name, digest in card.hashes(FOLDER).items() if not name.endswith(".new")
    }
    assert len(found) >= at_least, f"{at_least} rounds were flushed, the card has {len(found)}"
    assert found == hashes(len(found))
    return len(found)


def check_in_guest(vm: VM, at_least: int) -> int:
    """Checks the same in a guest booted from the card, without checking the filesystem."""
    listing = (
        vm.run(
            f"mkdir -p {FOLDER} && cd {FOLDER} && ls | grep -v new | xargs -r sha256sum", timeout=60
        )
        .ok()
        .text
    )
    pairs = (line.split() for line in listing.splitlines())
    found = {f"{FOLDER}/{name}": digest for digest, name in pairs}
    assert len(found) >= at_least, f"{at_least} rounds were flushed, the guest has {len(found)}"
    assert found == hashes(len(found))
    return len(found)
