"""The states that the power-cut enumeration draws: all that a card may do, and no more."""

from __future__ import annotations

import pytest

from harness.writelog import DISCARD, FLUSH, FUA, Entry
from powercut.states import SECTOR, Arrived, Cuts, Epoch, State, epochs


def write(sector: int, text: str, flags: int = 0) -> Entry:
    """A write of one sector for each letter."""
    return Entry(sector, flags, b"".join(letter.encode() * SECTOR for letter in text))


BARRIER = Entry(0, FLUSH, b"")
ENTRIES = [
    write(0, "ab"),
    write(4, "c"),
    BARRIER,
    write(1, "de"),
    write(2, "f"),
    write(8, "g", FUA),
    write(0, "h"),
    BARRIER,
]


def contents(state: State, entries: list[Entry], sectors: int = 10) -> str:
    """A card of dots after the cut, one letter per sector."""
    card = bytearray(b"." * SECTOR * sectors)
    before = [(entry.sector, entry.data) for entry in entries[: state.start]]
    for sector, data in [*before, *state.pieces(entries)]:
        card[sector * SECTOR : sector * SECTOR + len(data)] = data
    letters = [card[n * SECTOR : (n + 1) * SECTOR].decode() for n in range(sectors)]
    assert all(letter == letter[0] * SECTOR for letter in letters), "a sector was torn"
    return "".join(letter[0] for letter in letters)


def drawn(entries: list[Entry], count: int = 3000) -> list[State]:
    return Cuts(entries).drawn(count, seed=1)


def test_epochs_lie_between_flushes() -> None:
    assert epochs(ENTRIES) == [Epoch(0, 2), Epoch(3, 7), Epoch(8, 8)]
    assert epochs([]) == [Epoch(0, 0)]


def test_a_flush_with_data_comes_before_its_data() -> None:
    entries = [write(0, "a"), write(1, "b", FLUSH | FUA), write(2, "c")]
    assert epochs(entries) == [Epoch(0, 1), Epoch(1, 3)]
    assert {contents(state, entries, 3)[0] for state in drawn(entries) if state.epoch == 1} == {"a"}


def test_boundaries_are_exact() -> None:
    states = Cuts(ENTRIES).boundaries()
    assert [contents(state, ENTRIES) for state in states] == [
        "..........",
        "ab..c.....",
        "hdf.c...g.",
        "hdf.c...g.",
    ]
    assert [state.seen for state in states] == [0, 3, 8, 8]


def test_every_outcome_is_drawn_and_no_impossible_one() -> None:
    first = {contents(state, ENTRIES) for state in drawn(ENTRIES) if state.epoch == 0}
    assert first == {a + b + ".." + c + "....." for a in ".a" for b in ".b" for c in ".c"}
    second = {contents(state, ENTRIES)[:4] for state in drawn(ENTRIES) if state.epoch == 1}
    assert second == {a + b + c + "." for a in "ah" for b in "bd" for c in ".ef"}


def test_what_a_flush_covered_stays() -> None:
    for state in drawn(ENTRIES):
        if state.epoch == 1:
            assert contents(state, ENTRIES)[4] == "c"


def test_a_completed_fua_write_stays_and_one_in_flight_may_be_lost() -> None:
    at_the_cut = {state.seen: set[str]() for state in drawn(ENTRIES)}
    for state in drawn(ENTRIES):
        at_the_cut[state.seen].add(contents(state, ENTRIES)[8])
    assert at_the_cut[7] == {"g"}
    assert at_the_cut[6] == {"g", "."}
    assert at_the_cut[5] == {"."}


def test_a_fua_write_covers_no_other() -> None:
    entries = [write(0, "a"), write(1, "b", FUA), write(2, "c")]
    assert {contents(state, entries, 3) for state in drawn(entries) if state.seen == 3} == {
        "ab.",
        "abc",
        ".b.",
        ".bc",
    }


def test_nothing_arrives_that_was_not_received() -> None:
    for state in drawn(ENTRIES):
        assert all(state.start <= write.entry < state.seen for write in state.arrived)


def test_of_each_epoch_one_write_arrives_alone_and_one_is_lost_alone() -> None:
    found = {state.name: contents(state, ENTRIES) for state in Cuts(ENTRIES).directed()}
    assert {name: found[name] for name in ("only 0", "without 0", "only 1", "without 1")} == {
        "only 0": "ab........",
        "without 0": "....c.....",
        "only 1": "....c.....",
        "without 1": "ab........",
    }
    # A completed FUA write stays.
    assert (found["only 4"], found["without 4"]) == ("abf.c...g.", "hde.c...g.")
    assert found["without 5"] == "hdf.c...g."
    assert len(found) == 2 * 6


def test_of_a_long_epoch_some_writes_are_taken_and_the_ends_among_them() -> None:
    cuts = Cuts([write(n, "a") for n in range(100)])
    chosen = [int(state.name.split()[1]) for state in cuts.directed(4)]
    assert chosen == [0, 0, 33, 33, 66, 66, 99, 99]


def test_writes_that_were_cut_off_are_garbage_in_one_part_of_the_card() -> None:
    first, second = Cuts(ENTRIES).garbled(range(4, 9))
    pieces = dict(first.pieces(ENTRIES))
    assert pieces[0] == b"a" * SECTOR + b"b" * SECTOR
    assert not set(pieces[4]) & set(b"c.") and len(pieces[4]) == SECTOR
    assert "1 garbled" in str(first) and (first.seen, second.seen) == (2, 7)
    assert [write.entry for write in second.arrived if write.garbled] == [5]
    assert Cuts(ENTRIES).garbled(range(100, 101)) == []


def test_every_kind_of_state_is_found_by_its_name() -> None:
    cuts = Cuts(ENTRIES)
    known = [*cuts.boundaries(), *cuts.directed(2), *cuts.garbled(range(9)), *cuts.drawn(5, 1)]
    assert all(cuts.named(state.name, range(9)) == state for state in known)


def test_a_name_draws_its_state_again() -> None:
    cuts = Cuts(ENTRIES)
    assert all(cuts.draw(state.name) == state for state in cuts.drawn(20, seed=7))
    assert cuts.drawn(20, seed=7) != cuts.drawn(20, seed=8)


def test_drawn_states_differ() -> None:
    found = Cuts(ENTRIES).drawn(30, seed=1)
    assert len({(state.seen, state.arrived) for state in found}) == len(found) == 30
    assert len(Cuts([write(0, "a")]).drawn(50, seed=1)) == 2


def test_discards_and_unrelated_requests_are_never_chosen() -> None:
    entries = [write(0, "a"), Entry(0, DISCARD, b""), write(1, "b"), write(2, "c")]
    chosen = {
        write.entry
        for state in Cuts(entries, unrelated={2}).drawn(200, seed=1)
        for write in state.arrived
    }
    assert chosen == {0, 3}


def test_an_unrelated_request_counts_as_received_before_the_next_write() -> None:
    entries = [write(0, "a"), write(1, "m"), write(2, "c")]
    assert {state.seen for state in Cuts(entries, unrelated={1}).drawn(200, seed=1)} == {2, 3}


@pytest.mark.parametrize(
    ("arrived", "said"),
    [(Arrived(7), "7"), (Arrived(7, (0, 1, 2, 5)), "7[0-2 5]"), (Arrived(7, ()), "7[]")],
)
def test_a_state_can_be_read(arrived: Arrived, said: str) -> None:
    assert str(arrived) == said
    assert said in str(State("1/2", 3, 4, 9, (arrived,)))
