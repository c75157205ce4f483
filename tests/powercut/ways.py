"""With a flush log or without: the card to use, and how it is recovered after a cut."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vm import artefacts
from vm.sparse import SECTOR

# From the files of a card's partitions, root first, to a file with root as the next boot would see
# it. Raises `Refused` when there is none.
Recover = Callable[[Sequence[Path]], Path]

# Small, so that thousands of them can be rebuilt and judged.
ROOT_SECTORS = (20 << 20) // SECTOR
LOG_SECTORS = (8 << 20) // SECTOR
ROOT_START = 8192
LOG_START = ROOT_START + ROOT_SECTORS
ROOT_ONLY = f"label: dos\nlabel-id: 0xc0f1a586\nunit: sectors\n\nstart={ROOT_START}, size={ROOT_SECTORS}, type=83\n"
ROOT_AND_LOG = f"{ROOT_ONLY}start={LOG_START}, size={LOG_SECTORS}, type=da\n"


class Refused(Exception):
    """The tool found a card that it can't recover."""


@dataclass(frozen=True)
class Way:
    """`partitions` is sfdisk's script, `append` more of the kernel's command line.

    `setup` is what a guest runs once on a fresh card.
    """

    name: str
    partitions: str
    recover: Recover
    append: str = ""
    setup: str = ""


def as_it_is(partitions: Sequence[Path]) -> Path:
    """Without a log nothing can be recovered: root is what the card holds."""
    return partitions[0]


def with_the_tool(partitions: Sequence[Path]) -> Path:
    """What `cowflush recover` makes of root and the log; both stay as they are."""
    root, log = partitions
    out = root.with_name("recovered.img")
    out.unlink(missing_ok=True)
    command = [str(artefacts.host_cowflush()), "recover", str(root), str(log), "--export", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Refused(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    return out


# The control: cuts during a merge tear it, and an enumeration that does not see that sees nothing.
NO_LOG = Way("no-log", ROOT_ONLY, as_it_is)
LOG = Way("log", ROOT_AND_LOG, with_the_tool, setup="cowflush log format /dev/sda2")
# Merges write what root holds already, too, so that each erase block is written from its start.
FILLED = Way(
    "log-fill", ROOT_AND_LOG, with_the_tool, setup="cowflush log format --fill 128K /dev/sda2"
)
