"""What changed in root between two flushes, read from the record of a card with a flush log.

A segment of the log holds all that was written since the last one, in a filesystem that was frozen
meanwhile. So the segments tell the state of root at each flush exactly, whatever the card's root
held then.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Set

from harness import ext
from harness.card import Card
from harness.ext import ExtImage
from harness.sparse import SECTOR
from harness.writelog import Entry
from product.flushlog import CHUNK, ENTRY, HEAD, PREFIX, RECORD
from wear.trace import mark

SECTORS = CHUNK // SECTOR
MAGIC = b"cowflSEG"
# HEAD's fields
COUNT = 6


def changes(card: Card, entries: Iterable[Entry]) -> Iterator[Set[int]]:
    """For each flush the card's pages that changed, except unused ones and the journal.

    `card` is what the guest began with.
    """
    root = card.fs()
    journal = set(root.blocks("<8>"))
    first = card.root.start // SECTORS
    with open(root.path, "r+b") as image:
        for segment in segments(card, entries):
            changed = apply(image.fileno(), segment)
            yield {first + block for block in used(root, changed - journal)}


def segments(card: Card, entries: Iterable[Entry]) -> Iterator[dict[int, bytes]]:
    """Each flush's chunks of root. A flush that wrote no segment changed nothing."""
    partition = card.log.sectors
    for name, number, part in _flushes(entries):
        written = b"".join(entry.data for entry in part if entry.sector in partition)
        segment = _segment(written)
        if segment is None and written:
            raise ValueError(f"{name} {number} wrote to the log what does not begin with a segment")
        yield segment or {}


def _flushes(entries: Iterable[Entry]) -> Iterator[tuple[str, int, list[Entry]]]:
    name, number, part = "boot", 0, list[Entry]()
    for entry in entries:
        found = mark(entry)
        if found:
            if name == "flush":
                yield name, number, part
            (name, number), part = found, []
        elif name == "flush":
            part.append(entry)


def _segment(written: bytes) -> dict[int, bytes] | None:
    """The first segment in what was written to the log in order: head, table, data."""
    if written[: len(MAGIC)] != MAGIC:
        return None
    count = HEAD.unpack_from(written, PREFIX.size)[COUNT]
    table = written[RECORD : RECORD + count * ENTRY.size]
    data = -(-(RECORD + count * ENTRY.size) // CHUNK) * CHUNK
    chunks = [written[at : at + CHUNK] for at in range(data, data + count * CHUNK, CHUNK)]
    if len(table) != count * ENTRY.size or any(len(chunk) != CHUNK for chunk in chunks):
        raise ValueError(f"a segment of {count} chunks is cut off after {len(written)} bytes")
    return {old: chunk for (old, _), chunk in zip(ENTRY.iter_unpack(table), chunks, strict=True)}


def apply(image: int, segment: dict[int, bytes]) -> set[int]:
    """Writes a segment to an image of root; returns the blocks that it changed."""
    changed = set()
    for block, content in segment.items():
        if os.pread(image, CHUNK, block * CHUNK) != content:
            os.pwrite(image, content, block * CHUNK)
            changed.add(block)
    return changed


def used(root: ExtImage, blocks: Set[int]) -> set[int]:
    """Those of the blocks that the filesystem uses."""
    environment = {**os.environ, **ext.PATH}
    done = subprocess.run(["dumpe2fs", root.path], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"dumpe2fs can't read {root.path}: {done.stderr}")
    free = set[int]()
    for line in re.findall(r"^  Free blocks: (.*)$", done.stdout, re.MULTILINE):
        for begin, end in re.findall(r"(\d+)(?:-(\d+))?", line):
            free.update(range(int(begin), int(end or begin) + 1))
    return set(blocks) - free
