"""With a flush log or without: the card to use, and how it is recovered after a cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vm.sparse import SECTOR

# From the files of a card's partitions, root first, to a file with root as the next boot would see
# it. Raises `Refused` when there is none.
Recover = Callable[[Sequence[Path]], Path]

# Small, so that thousands of them can be rebuilt and judged.
ROOT_SECTORS = (20 << 20) // SECTOR
ROOT_ONLY = f"label: dos\nlabel-id: 0xc0f1a586\nunit: sectors\n\nstart=8192, size={ROOT_SECTORS}, type=83\n"


class Refused(Exception):
    """The tool found a card that it can't recover."""


@dataclass(frozen=True)
class Way:
    """`partitions` is sfdisk's script, `append` more of the kernel's command line."""

    name: str
    partitions: str
    recover: Recover
    append: str = ""


def as_it_is(partitions: Sequence[Path]) -> Path:
    """Without a log nothing can be recovered: root is what the card holds."""
    return partitions[0]


# The control: cuts during a merge tear it, and an enumeration that does not see that sees nothing.
NO_LOG = Way("no-log", ROOT_ONLY, as_it_is)
