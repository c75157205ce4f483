"""With a flush log or without: the card to use, and how it is recovered after a cut."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from harness import artefacts
from harness.card import Partition
from harness.sparse import SECTOR
from product import flushlog

# From the files of a card's partitions, root first, to a file with root as the next boot would see
# it. Raises `Refused` if there is none.
Recover = Callable[[Sequence[Path]], Path]

# Small, so that thousands of them can be rebuilt and judged
ROOT_SECTORS = (20 << 20) // SECTOR
LOG_SECTORS = (8 << 20) // SECTOR
ROOT_START = 8192
LOG_START = ROOT_START + ROOT_SECTORS
ROOT_ONLY = f"label: dos\nlabel-id: 0xc0f1a586\nunit: sectors\n\nstart={ROOT_START}, size={ROOT_SECTORS}, type=83\n"
ROOT_AND_LOG = f"{ROOT_ONLY}start={LOG_START}, size={LOG_SECTORS}, type=da\n"
TOOL_SECONDS = 120
# The exit codes of `cowflush recover`: done, and done with a part of the log lost
DONE, LOST = 0, 7


class Refused(Exception):
    """The tool can't recover this card, or others recover it otherwise."""


@dataclass(frozen=True)
class Way:
    """One way: `partitions` is sfdisk's script, `append` more of the kernel's command line.

    `setup` is what a guest runs once on a fresh card.
    """

    name: str
    partitions: str
    recover: Recover
    append: str = ""
    setup: str = ""


class LogFile(NamedTuple):
    """A log's partition in a file of its own, for the second reader."""

    path: Path
    log: Partition

    @classmethod
    def of(cls, path: Path) -> LogFile:
        return cls(path, Partition(0, path.stat().st_size // SECTOR))


def as_it_is(partitions: Sequence[Path]) -> Path:
    """Root without a log: it is what the card holds."""
    return partitions[0]


def with_the_tool(partitions: Sequence[Path], codes: Collection[int] = (DONE,)) -> Path:
    """What `cowflush recover` makes of root and the log; both stay unchanged."""
    root, log = partitions
    out = root.with_name("recovered.img")
    out.unlink(missing_ok=True)
    command = [str(artefacts.host_cowflush()), "recover", str(root), str(log), "--export", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_SECONDS)
    if done.returncode not in codes:
        raise Refused(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    return out


def second_reader(partitions: Sequence[Path]) -> bytes:
    """Root by the second reader, which was made from the format's description alone."""
    root, log = partitions
    try:
        found = flushlog.FlushLog(LogFile.of(log))
    except AssertionError as error:
        raise Refused(str(error)) from error
    content = bytearray(root.read_bytes())
    for old, place in found.live().items():
        content[old * flushlog.CHUNK : (old + 1) * flushlog.CHUNK] = found.chunk(place)
    return bytes(content)


def by_both(partitions: Sequence[Path], codes: Collection[int] = (DONE,)) -> Path:
    """What the tool makes of it, which must equal the second reader's result to the last byte."""
    out = with_the_tool(partitions, codes)
    wanted, found = second_reader(partitions), out.read_bytes()
    if wanted != found:
        differ = [
            at
            for at in range(0, max(len(wanted), len(found)), flushlog.CHUNK)
            if wanted[at : at + flushlog.CHUNK] != found[at : at + flushlog.CHUNK]
        ]
        raise Refused(
            f"the second reader recovers another root, in {len(differ)} chunks from byte {differ[0]} on"
        )
    return out


def of_a_damaged_log(partitions: Sequence[Path]) -> Path:
    """What both make of a log that is known to have lost something."""
    return by_both(partitions, (DONE, LOST))


# The control: cuts during a merge tear it, and an enumeration that misses that sees nothing.
NO_LOG = Way("no-log", ROOT_ONLY, as_it_is)
LOG = Way("log", ROOT_AND_LOG, by_both, setup="cowflush log format /dev/sda2")
# Merges also write what root holds already, so that each erase block is written from its start.
FILLED = Way("log-fill", ROOT_AND_LOG, by_both, setup="cowflush log format --fill 128K /dev/sda2")
DAMAGED = Way("log-damaged", ROOT_AND_LOG, of_a_damaged_log)
