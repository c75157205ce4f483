"""The cards that flushes are measured on, and their speeds."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

from harness import Throttle, ext
from harness.card import Card
from harness.lab import Lab

BASE_MIB = 48
FOLDER = "/root/bench"


@dataclass(frozen=True)
class Speed:
    """How fast a card is; without a throttle it is as fast as the host."""

    name: str
    throttle: Throttle | None = None


FAST = Speed("fast")
# About what a CompactFlash card of a router's age does. QEMU does not throttle FLUSHes, which cost
# a real card time, too: so the slow card flatters a program that sends many.
SLOW = Speed("slow", Throttle(iops=150, bytes_per_second=4_000_000))


def prepare(lab: Lab) -> Card:
    """A card with a file of BASE_MIB in one contiguous piece, for `load scattered`."""
    card = lab.card()
    vm = lab(card, direct=True)
    base = f"mkdir {FOLDER} && dd if=/dev/zero of={FOLDER}/base bs=1M count={BASE_MIB} 2>/dev/null"
    vm.run(f"{base} && sync && mount -o remount,ro /", timeout=60).ok()
    vm.poweroff()
    card.fsck()
    return card


def journal_blocks(card: Card) -> set[int]:
    """The journal's blocks; a block is as large as a chunk, so these are chunk numbers, too."""
    image = card.fs().path
    environment = {**os.environ, **ext.PATH}
    command = ["debugfs", "-R", "blocks <8>", str(image)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    blocks = {int(word) for word in done.stdout.split()}
    if not blocks:
        raise RuntimeError(f"debugfs names no block of the journal of {image}: {done.stderr}")
    return blocks
