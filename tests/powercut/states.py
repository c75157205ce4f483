"""The states that a power cut can leave a card in, from the requests it received. Pure.

A card has a write cache that it may empty in any order. Only two things are
promised: a FLUSH that completed has put all writes before it on the medium, and
a FUA write that completed is there itself. So the requests fall into *epochs*
between FLUSHes, and of an epoch's writes any part may have arrived, down to
single sectors of a write. A sector that is written twice in an epoch may hold
either content; leaving out the later write covers the reversed order, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from random import Random

from harness.writelog import DISCARD, FLUSH, FUA, Entry

SECTOR = 512
# How many draws there are for a wanted state: epochs of one write have only a few states.
TRIES = 20
# What a read returns where a write was cut off: not even one byte is right.
GARBLED = bytes(255 - byte for byte in range(256))


@dataclass(frozen=True)
class Epoch:
    """Requests `start` to `stop` (exclusive). Those before `start` are on the medium for good."""

    start: int
    stop: int


@dataclass(frozen=True)
class Arrived:
    """A write that reached the medium; `sectors` counts within it, None is all of it.

    A `garbled` one was cut off while the medium took it: these sectors hold neither the old content
    nor the new.
    """

    entry: int
    sectors: tuple[int, ...] | None = None
    garbled: bool = False

    def __str__(self) -> str:
        which = "" if self.sectors is None else f"[{_ranges(self.sectors)}]"
        return f"{self.entry}{which}{' garbled' * self.garbled}"


@dataclass(frozen=True)
class State:
    """A card after a power cut.

    It had received the requests before `seen`, the last of which may not have
    completed. Those before the epoch are on the medium, and of the epoch's what
    `arrived` lists, in the order in which it takes effect.
    """

    name: str
    epoch: int
    start: int
    seen: int
    arrived: tuple[Arrived, ...] = ()
    at_boundary: bool = False

    def __str__(self) -> str:
        listed = ", ".join(map(str, self.arrived)) or "none"
        return f"{self.name}: epoch {self.epoch}, {self.seen} requests received, of {self.start} and later arrived: {listed}"

    def pieces(self, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes]]:
        """What to write where (a sector) on a card that holds everything before the epoch."""
        for write in self.arrived:
            entry = entries[write.entry]
            for first, count in _runs(write.sectors, len(entry.data) // SECTOR):
                data = entry.data[first * SECTOR : (first + count) * SECTOR]
                yield entry.sector + first, data.translate(GARBLED) if write.garbled else data


def epochs(entries: Sequence[Entry]) -> list[Epoch]:
    """The epochs between the FLUSHes; a FLUSH that carries data comes before its own data."""
    starts, stops = [0], []
    for index, entry in enumerate(entries):
        if entry.flags & FLUSH:
            stops.append(index)
            starts.append(index if entry.data else index + 1)
    return [Epoch(start, stop) for start, stop in zip(starts, [*stops, len(entries)], strict=True)]


class Cuts:
    """Draws states.

    `unrelated` are requests that no state has to lose, such as the recorder's own.
    """

    def __init__(self, entries: Sequence[Entry], unrelated: Collection[int] = ()) -> None:
        self._entries = entries
        self._unrelated = frozenset(unrelated)
        self.epochs = epochs(entries)
        self._writes = [self._writes_of(epoch) for epoch in self.epochs]
        self._busy = [index for index, writes in enumerate(self._writes) if writes]

    def _writes_of(self, epoch: Epoch) -> list[int]:
        found = range(epoch.start, epoch.stop)
        return [
            n
            for n in found
            if self._entries[n].data
            and not self._entries[n].flags & DISCARD
            and n not in self._unrelated
        ]

    def boundaries(self) -> list[State]:
        """After each FLUSH, with nothing of what came later; and the end, with everything."""
        found = [self._boundary(index, epoch) for index, epoch in enumerate(self.epochs)]
        last = len(self.epochs) - 1
        everything = tuple(map(Arrived, self._writes[last]))
        return [
            *found,
            State("end", last, self.epochs[last].start, self.epochs[last].stop, everything, True),
        ]

    @staticmethod
    def _boundary(index: int, epoch: Epoch) -> State:
        return State(f"boundary {index}", index, epoch.start, epoch.start, at_boundary=True)

    def directed(self, most: int = 16) -> list[State]:
        """For each epoch: one write has arrived and all others are lost, and the reverse.

        The first shows a FLUSH missing before a write which others must precede, the second one
        missing before a command returns. Of a long epoch it takes `most` writes, the first and the
        last among them.
        """
        found = []
        for index in self._busy:
            writes = self._writes[index]
            start, stop = self.epochs[index].start, self.epochs[index].stop
            for place in _spread(len(writes), most):
                chosen = writes[place]
                done = [n for n in writes if self._entries[n].flags & FUA and n < stop - 1]
                alone = sorted({chosen, *done})
                without = sorted({*writes} - {chosen} | {*done})
                for name, arrived in (("only", alone), ("without", without)):
                    states = tuple(map(Arrived, arrived))
                    found.append(State(f"{name} {chosen}", index, start, stop, states))
        return found

    def garbled(self, sectors: range) -> list[State]:
        """For each epoch: all writes that touch `sectors` cut off halfway, all others complete."""
        found = []
        for index in self._busy:
            epoch, writes = self.epochs[index], self._writes[index]
            arrived = tuple(Arrived(n, None, self._entries[n].sector in sectors) for n in writes)
            if any(write.garbled for write in arrived):
                # Later requests were not received: the power is gone.
                found.append(State(f"garbled {index}", index, epoch.start, writes[-1] + 1, arrived))
        return found

    def named(self, name: str, sectors: range) -> State:
        """One of all these states, by its name."""
        known = [*self.boundaries(), *self.directed(len(self._entries)), *self.garbled(sectors)]
        return next((state for state in known if state.name == name), None) or self.draw(name)

    def drawn(self, count: int, seed: int) -> list[State]:
        """So many different states inside epochs; fewer if a small record seems to have no more."""
        found: dict[tuple[int, tuple[Arrived, ...]], State] = {}
        for number in range(TRIES * count):
            state = self.draw(f"{seed}/{number}")
            found.setdefault((state.seen, state.arrived), state)
            if len(found) == count:
                break
        return list(found.values())

    def draw(self, name: str) -> State:
        """A state inside an epoch. The same record and name give the same state."""
        random = Random(name)
        # A merge has most of the writes; half of the draws treat all epochs alike.
        if random.random() < 0.5:
            epoch = random.choice(self._busy)
        else:
            epoch = random.choices(self._busy, [len(self._writes[index]) for index in self._busy])[
                0
            ]
        writes = self._writes[epoch]
        count = len(writes) if random.random() < 0.25 else random.randint(1, len(writes))
        # The recorder's requests between this write and the next count as received, too.
        seen = writes[count] if count < len(writes) else self.epochs[epoch].stop
        arrived = tuple(self._arrive(random, writes[:count], seen))
        return State(name, epoch, self.epochs[epoch].start, seen, arrived)

    def _arrive(self, random: Random, writes: list[int], seen: int) -> Iterator[Arrived]:
        lost = _lost(random, len(writes))
        tear = random.choice((0.0, 0.0, 0.1, 0.5, 1.0))
        for place, number in enumerate(writes):
            whole = Arrived(number)
            if self._entries[number].flags & FUA and number < seen - 1:
                yield whole  # it has completed
            elif random.random() < tear:
                torn = _torn(random, whole, len(self._entries[number].data) // SECTOR)
                if torn.sectors:
                    yield torn
            elif place not in lost:
                yield whole


def _spread(count: int, most: int) -> list[int]:
    """At most `most` places out of `count`, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(n * (count - 1) / (most - 1)) for n in range(most)})


def _lost(random: Random, count: int) -> Collection[int]:
    """Which of `count` writes did not arrive."""
    everything = range(count)
    one = random.randrange(count)
    ways: list[Collection[int]] = [
        {one},
        set(everything) - {one},
        range(one),  # the late ones came first
        range(one, count),  # in order
        [n for n in everything if random.random() < 0.5],
        [n for n in everything if random.random() < 0.9],
        [n for n in everything if random.random() < 0.1],
    ]
    return frozenset(random.choice(ways))


def _torn(random: Random, write: Arrived, sectors: int) -> Arrived:
    """Some sectors of a write, at least one less than all."""
    cut = random.randrange(sectors)
    ways = [
        range(cut),
        range(cut + 1, sectors),
        [n for n in range(sectors) if n != cut and random.random() < 0.5],
    ]
    return Arrived(write.entry, tuple(random.choice(ways)))


def _runs(sectors: tuple[int, ...] | None, count: int) -> Iterator[tuple[int, int]]:
    """Groups neighbouring sectors: where each group begins, and its length."""
    if sectors is None:
        yield 0, count
        return
    for _, group in groupby(enumerate(sectors), lambda pair: pair[1] - pair[0]):
        run = [sector for _, sector in group]
        yield run[0], len(run)


def _ranges(sectors: tuple[int, ...]) -> str:
    return " ".join(
        str(first) if count == 1 else f"{first}-{first + count - 1}"
        for first, count in _runs(sectors, 0)
    )
