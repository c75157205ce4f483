"""Recognizes the blocks of `guest-tools flood`.

Block n stands at place n modulo the number of places. A block is written by one system call, and a
freeze of the filesystem waits for the calls under way; so every state that a flush seals is the
state after some block: the last blocks up to one, with no hole, and none of them torn.
"""

from __future__ import annotations

from harness.machine import VM

SECTOR = 512
BLOCK = 64 << 10
FILE = "/root/flood"
NOTE = "/run/flood"
# The writer ends at once when this file exists
STOP = "/run/flood.stop"


def written(vm: VM) -> int:
    """How many blocks the writer has written."""
    return int(vm.run(f"cat {NOTE} 2>/dev/null || echo 0").ok().text or 0)


def check(content: bytes, places: int, at_least: int) -> int:
    """Checks that the file is as after some block, `at_least` that one; returns how many those are."""
    assert len(content) % BLOCK == 0, f"the file ends inside of a block: {len(content)} bytes"
    numbers = [_number(content[at : at + BLOCK], at) for at in range(0, len(content), BLOCK)]
    assert numbers, "the file is empty"
    count = max(numbers) + 1
    first = max(0, count - places)
    expected = {number % places: number for number in range(first, count)}
    assert dict(enumerate(numbers)) == expected, f"not the state after block {count - 1}: {numbers}"
    assert count >= at_least, f"{at_least} blocks were flushed, the card has {count}"
    return count


def _number(block: bytes, at: int) -> int:
    number = int.from_bytes(block[:8], "little")
    for place in range(BLOCK // SECTOR):
        sector = block[place * SECTOR : (place + 1) * SECTOR]
        fill = bytes([(number * 31 + place * 7 + 1) & 255])
        expected = number.to_bytes(8, "little") + place.to_bytes(8, "little") + fill * (SECTOR - 16)
        assert sector == expected, (
            f"sector {place} of the block at {at} is not of block {number}: {sector[:24]!r}"
        )
    return number
