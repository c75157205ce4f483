"""Models of a card: they take writes and count the blocks that these erase.

Both have pages of 4 KiB, numbered from the card's start, and erase blocks of `pages_per_block`.
Both begin as a card that was written everywhere before and was never told what is free (no TRIM).
Neither has a write cache. What a controller writes for itself (mapping tables, wear levelling) is
not in them.

`LogBlocks` is the log-block scheme published for CompactFlash (Kim, Kim, Noh, Min, Cho: A
Space-Efficient Flash Translation Layer for CompactFlash Systems, 2002). `PageMapped` is a card that
can put any page anywhere and collects garbage greedily.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

PAGE = 4096


class CardModel(Protocol):
    """A model; `erases` is the cost of the writes so far, in parts of a block if page-mapped."""

    @property
    def erases(self) -> float: ...

    def write(self, page: int) -> None: ...

    def settle(self) -> None:
        """Closes what is still open, so that no cost is left for later."""
        ...


@dataclass
class _LogBlock:
    """A log block's pages in the order of their writes; a page may come more than once."""

    pages: list[int] = field(default_factory=list)
    in_order: bool = True


class LogBlocks:
    """Maps whole blocks; a write goes to a log block, and each log block belongs to one block.

    A log block is merged when it is full or when another block needs it, the least recently written
    first:

    - It holds all pages in order: it becomes the block (a switch). The old one is erased: 1.
    - It holds the first pages in order: the rest is copied into it, then the same (a partial
    merge): 1.
    - Else everything is copied to a third block, and both are erased (a full merge): 2.
    """

    def __init__(self, pages_per_block: int, log_blocks: int) -> None:
        self._size = pages_per_block
        self._most = log_blocks
        self._open: OrderedDict[int, _LogBlock] = OrderedDict()
        self.erases = 0.0
        self.copied = 0

    def write(self, page: int) -> None:
        block, offset = divmod(page, self._size)
        log = self._open.get(block)
        if log is None:
            if len(self._open) == self._most:
                self._merge(next(iter(self._open)))
            log = self._open[block] = _LogBlock()
        else:
            self._open.move_to_end(block)
        log.in_order = log.in_order and offset == len(log.pages)
        log.pages.append(offset)
        if len(log.pages) == self._size:
            self._merge(block)

    def settle(self) -> None:
        while self._open:
            self._merge(next(iter(self._open)))

    def _merge(self, block: int) -> None:
        log = self._open.pop(block)
        if log.in_order:
            self.copied += self._size - len(log.pages)
            self.erases += 1
        else:
            self.copied += self._size
            self.erases += 2


class PageMapped:
    """Puts each page after the last one; the block with the fewest valid pages is emptied first.

    `logical_pages` is what the card shows, `spare` the share of blocks that it has besides. An
    erase is counted in parts: each page that is written, by the host or by the garbage collection,
    uses up a part of an erased block.
    """

    def __init__(self, pages_per_block: int, logical_pages: int, spare: float) -> None:
        self._size = pages_per_block
        shown = -(-logical_pages // pages_per_block)
        # At least one block to write to and one to collect into
        blocks = shown + max(2, round(shown * spare))
        self._place = [page // pages_per_block for page in range(shown * pages_per_block)]
        self._pages: list[set[int]] = [set() for _ in range(blocks)]
        for page, block in enumerate(self._place):
            self._pages[block].add(page)
        self._free = list(range(shown, blocks))
        self._at, self._used = self._free.pop(), 0
        self._full = set(range(shown))
        self.programmed = 0
        self.copied = 0

    @property
    def erases(self) -> float:
        return self.programmed / self._size

    def write(self, page: int) -> None:
        self._program(page)
        # The last free block is kept for collecting.
        while len(self._free) < 1:
            self._collect()

    def settle(self) -> None:
        """Does nothing: parts of a block are counted as they are used."""

    def _program(self, page: int) -> None:
        self._pages[self._place[page]].discard(page)
        self._place[page] = self._at
        self._pages[self._at].add(page)
        self.programmed += 1
        self._used += 1
        if self._used == self._size:
            self._full.add(self._at)
            self._at, self._used = self._free.pop(), 0

    def _collect(self) -> None:
        victim = min(self._full, key=lambda block: (len(self._pages[block]), block))
        self._full.discard(victim)
        moved = sorted(self._pages[victim])
        for page in moved:
            self._program(page)
        self.copied += len(moved)
        self._free.append(victim)


@dataclass(frozen=True)
class Kind:
    """One sort of card; `LOG_BLOCKS` and `SPARE` are the assumptions about its controller."""

    name: str
    block_bytes: int
    page_mapped: bool

    @property
    def pages_per_block(self) -> int:
        return self.block_bytes // PAGE

    def model(self, card_bytes: int) -> CardModel:
        if self.page_mapped:
            return PageMapped(self.pages_per_block, card_bytes // PAGE, SPARE)
        return LogBlocks(self.pages_per_block, LOG_BLOCKS)


LOG_BLOCKS = 8
SPARE = 0.07
KINDS = (
    Kind("log blocks, 128 KiB", 128 << 10, page_mapped=False),
    Kind("log blocks, 4 MiB", 4 << 20, page_mapped=False),
    Kind("page-mapped, 128 KiB", 128 << 10, page_mapped=True),
    Kind("page-mapped, 4 MiB", 4 << 20, page_mapped=True),
)


def erases(kind: Kind, card_bytes: int, pages: Iterable[int]) -> float:
    """The cost of all these page writes, to the end."""
    model = kind.model(card_bytes)
    for page in pages:
        model.write(page)
    model.settle()
    return model.erases
