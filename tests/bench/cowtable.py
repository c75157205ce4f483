"""How scattered a COW is, from its own table (see src/pure/cow/exception_store.rs for its layout)."""

from __future__ import annotations

import itertools
import struct
from typing import Any

from harness.machine import VM

CHUNK = 4096
PER_AREA = CHUNK // 16
# A card's erase block, to tell how many of them a flush touches.
ERASE_BLOCK = 128 << 10
FIND = "grep -l '^cowflush-root$' /sys/block/dm-*/dm/name"


def measure(vm: VM, journal: set[int]) -> dict[str, Any]:
    """Root's COW at this moment; nothing may write meanwhile.

    `journal` is the filesystem's journal blocks.
    """
    table = sorted(_read(vm))
    olds = [old for old, _ in table]
    return {
        "chunks": len(table),
        "runs": _pieces(table, lambda a, b: b[0] == a[0] + 1 and b[1] == a[1] + 1),
        "ranges": _pieces(table, lambda a, b: b[0] == a[0] + 1),
        "erase_blocks": len({old * CHUNK // ERASE_BLOCK for old in olds}),
        "journal_chunks": len(journal.intersection(olds)),
    }


def _pieces(table: list[tuple[int, int]], joined: Any) -> int:
    pairs = itertools.pairwise(table)
    return bool(table) + sum(not joined(a, b) for a, b in pairs)


def _read(vm: VM) -> list[tuple[int, int]]:
    root = vm.run(FIND).ok().text.strip().removesuffix("/dm/name")
    cow = vm.run(f"ls {root}/slaves | grep loop").ok().text.strip()
    table: list[tuple[int, int]] = []
    while True:
        at = 1 + len(table) // PER_AREA * (PER_AREA + 1)
        # With O_DIRECT, since the page cache may hold older content.
        area = (
            vm.run(f"dd if=/dev/{cow} bs={CHUNK} skip={at} count=1 iflag=direct 2>/dev/null")
            .ok()
            .output
        )
        found = list(struct.iter_unpack("<QQ", area))
        end = next((n for n, (_, new) in enumerate(found) if not new), PER_AREA)
        table += found[:end]
        if end < PER_AREA:
            return table
