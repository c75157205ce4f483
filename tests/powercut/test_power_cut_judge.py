"""The judge of power cuts on records made by hand, on the host: it tells all outcomes apart."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest

from harness import Card, Filesystem, artefacts, sparse, writelog
from harness.ext import ExtImage
from harness.sparse import SECTOR
from harness.writelog import ENTRY, FLUSH, MAGIC, SUPERBLOCK, Entry
from powercut import order, run, tree
from powercut.judge import CHUNK, Judge, Outcome, Traffic, Verdict, outcome, reported, traffic
from powercut.medium import Medium, rebuild
from powercut.recording import MARK_SECTOR, Mark, Recording, make_states, marks, put_state
from powercut.states import Arrived, Cuts, State
from powercut.tree import APPENDED, LINE_BYTES, Truth
from powercut.ways import (
    LOG_SECTORS,
    LOG_START,
    NO_LOG,
    ROOT_ONLY,
    ROOT_SECTORS,
    ROOT_START,
    Refused,
    Way,
    by_both,
    second_reader,
    with_the_tool,
)
from product import workload

BARRIER = Entry(0, FLUSH, b"")
SUPER = 8192 + 2
# Root has a file to write to: content that no file uses does not count.
FILE = "/root/file"
FILESYSTEM = Filesystem(files=((FILE, b"-" * (64 << 10)),))

Make = Callable[..., Judge]


@cache
def look() -> tuple[int, tuple[range, ...], int]:
    """The sector where the file begins, root's unused bytes, and the journal's first sector."""
    with tempfile.TemporaryDirectory() as directory:
        image = Card.create(Path(directory) / "look.img", FILESYSTEM, ROOT_ONLY).fs()
        [first, *rest] = image.blocks(FILE)
        assert rest == list(range(first + 1, first + 16)), "the file is in pieces"
        journal = image.blocks("<8>")[0]
        return ROOT_START + first * CHUNK, tuple(image.unused()), ROOT_START + journal * CHUNK


def file_sector() -> int:
    return look()[0]


def write(sector: int, text: str) -> Entry:
    return Entry(sector, 0, b"".join(letter.encode() * SECTOR for letter in text))


def mark(number: int, what: str = "returned", serial: int = 0) -> Entry:
    text = f"mark {serial} {what} {number} flush\n"
    return Entry(MARK_SECTOR + serial, 0, text.encode().ljust(SECTOR, b"\0"))


def save(entries: list[Entry], log: Path) -> None:
    """Writes a log as QEMU does."""
    with open(log, "wb") as file:
        file.write(SUPERBLOCK.pack(MAGIC, 1, len(entries), SECTOR).ljust(SECTOR, b"\0"))
        for entry in entries:
            header = ENTRY.pack(entry.sector, len(entry.data) // SECTOR, entry.flags, 0)
            file.write(header.ljust(SECTOR, b"\0") + entry.data)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A judge of entries without losses: each mark's state is all that came before it."""

    def judge(entries: list[Entry], way: Way = NO_LOG) -> Judge:
        card = Card.create(tmp_path / "blank.img", FILESYSTEM, way.partitions)
        recording = Recording.open(tmp_path)
        save(entries, recording.log)
        then = card.copy(tmp_path / "then.img")
        cuts = [0, *(mark.entry for mark in marks(entries))]
        make_states(recording.states, len(cuts))
        for number, count in enumerate(cuts):
            writelog.replay(iter(entries[:count]), then.path)
            root = way.recover(Medium(tmp_path, then, []).files)
            put_state(recording, number, root)
            truth_of(root).save(recording.truth_at(number))
        return Judge(recording, way.recover)

    return judge


def truth_of(root: Path) -> Truth:
    """The files of a root; one that a test destroys has none."""
    try:
        return tree.on_card(ExtImage(root))
    except AssertionError:
        return Truth({})


def judged(judge: Judge, *states: State) -> list[Verdict]:
    return list(judge.verdicts(states))


def two_flushes() -> list[Entry]:
    at = file_sector()
    first = [write(at, "ab"), write(at + 8, "c"), BARRIER, mark(1)]
    return [*first, write(at, "de"), write(at + 4, "f"), BARRIER, mark(2)]


def test_the_boundaries_of_an_honest_record_are_good(make: Make) -> None:
    judge = make(two_flushes())
    verdicts = judged(judge, *judge.cuts.boundaries())
    assert [verdict.outcome for verdict in verdicts] == [
        Outcome.REPORTED,
        Outcome.NEXT,
        Outcome.NEXT,
        Outcome.REPORTED,
    ]
    assert all(verdict.good for verdict in verdicts)
    assert [verdict.reported for verdict in verdicts] == [0, 0, 1, 2]


def test_a_torn_flush_is_seen(make: Make) -> None:
    [verdict] = judged(make(two_flushes()), State("x", 1, 3, 6, (Arrived(4),)))
    assert verdict.outcome is Outcome.TORN and not verdict.good
    assert verdict.complaint == "", (
        "e2fsck can't see this damage, which is why the states are compared"
    )


def test_a_torn_sector_is_seen(make: Make) -> None:
    all_but_one = (Arrived(4, (0,)), Arrived(5))
    [verdict] = judged(make(two_flushes()), State("x", 1, 3, 6, all_but_one))
    assert verdict.outcome is Outcome.TORN


def test_a_flush_that_returned_too_early_is_seen(make: Make) -> None:
    judge = make([write(file_sector(), "a"), mark(1), BARRIER])
    lost, kept = judged(judge, State("x", 0, 0, 2), State("y", 0, 0, 2, (Arrived(0),)))
    assert lost.outcome is Outcome.OLDER and not lost.good
    assert kept.outcome is Outcome.REPORTED and kept.good


def test_damage_that_e2fsck_sees_is_never_good(make: Make) -> None:
    judge = make([write(SUPER, "ab"), BARRIER, mark(1)])
    [verdict] = judged(judge, judge.cuts.boundaries()[-1])
    assert verdict.outcome is Outcome.REPORTED
    assert "e2fsck -fn" in verdict.complaint and not verdict.good


def test_what_no_file_uses_may_be_anything(make: Make) -> None:
    """A flush need not write free blocks or the journal's, so they may differ from the guest's."""
    _, unused, journal = look()
    free = ROOT_START + unused[0].start // SECTOR
    later = [write(free, "ab"), write(journal + CHUNK, "c"), BARRIER]
    judge = make([*two_flushes()[:4], *later])
    verdicts = judged(judge, *judge.cuts.boundaries(), *judge.cuts.drawn(20, seed=1))
    assert {verdict.outcome for verdict in verdicts if verdict.reported} == {Outcome.REPORTED}
    assert all(verdict.good for verdict in verdicts if verdict.state.at_boundary)
    assert sum(len(part) for part in unused) > 10 << 20


def test_what_tells_what_is_used_must_be_right(make: Make) -> None:
    _, _, journal = look()
    for sector in (journal, SUPER, SUPER + 6):
        judge = make([*two_flushes()[:4], write(sector, "a"), BARRIER])
        verdict = judged(judge, *judge.cuts.boundaries())[-1]
        assert verdict.outcome is Outcome.TORN and not verdict.good, sector


def test_other_files_than_the_guest_had_are_never_good(make: Make) -> None:
    """A flush left out a chunk, as it were, and cowflush then showed root without it."""
    judge = make(two_flushes())
    files = dict(judge.truths[1].files)
    content = (
        b"a" * SECTOR
        + b"b" * SECTOR
        + b"-" * (6 * SECTOR)
        + b"c" * SECTOR
        + b"-" * ((64 << 10) - 9 * SECTOR)
    )
    assert files[FILE].endswith(f" {hashlib.md5(content).hexdigest()}")
    for wrong in (
        files | {FILE: "another"},
        files | {"/root/more": "file"},
        {name: files[name] for name in files if name != FILE},
    ):
        judge = Judge(judge.recording, NO_LOG.recover)
        judge.truths[1] = Truth(wrong)
        verdicts = judged(judge, *judge.cuts.boundaries())
        assert [verdict.good for verdict in verdicts] == [True, False, True, True]
        assert "the files are not those of flush 1" in verdicts[1].complaint


def test_fewer_rounds_or_lines_than_the_guest_had_are_never_good(make: Make) -> None:
    recording = make(two_flushes()).recording
    for fewer in (Truth({}, rounds=1), Truth({}, lines=1)):
        judge = Judge(recording, NO_LOG.recover)
        judge.truths[1] = Truth(judge.truths[1].files, fewer.rounds, fewer.lines)
        verdicts = judged(judge, *judge.cuts.boundaries())
        assert [verdict.good for verdict in verdicts] == [True, False, True, True]


def test_what_the_writers_wrote_proves_itself(tmp_path: Path) -> None:
    """Rounds and lines from a guest's programs; a missing byte, line or round is noticed."""
    card = Card.create(tmp_path / "card.img", Filesystem(), ROOT_ONLY)
    line = "line {} ".format
    lines = [line(n).ljust(LINE_BYTES - 1, ".") + "\n" for n in (*range(60), 0, 1)]
    rounds = {n: "".join(f"{m}\n" for m in range(n, n + workload.LINES + 1)) for n in range(1, 4)}

    def found(text: str, numbered: dict[int, str]) -> Truth:
        copy = card.copy(tmp_path / "copy.img")
        script = [f"mkdir {workload.FOLDER}"]
        for name, content in {
            "appended": text,
            **{f"rounds/{n}": numbered[n] for n in numbered},
        }.items():
            source = tmp_path / name.replace("/", "-")
            source.write_text(content)
            script.append(f"write {source} /root/{name}")
        copy.edit(script)
        return tree.on_card(copy.fs())

    whole = found("".join(lines), rounds)
    assert (whole.rounds, whole.lines) == (3, 62)
    assert APPENDED not in whole.files
    for broken in (lines[:3] + lines[4:], [*lines[:40], "." * LINE_BYTES, *lines[41:]]):
        with pytest.raises(AssertionError, match="goes on with"):
            found("".join(broken), rounds)
    with pytest.raises(AssertionError, match="not as written"):
        found("", {**rounds, 2: rounds[3]})
    with pytest.raises(AssertionError, match="not as written"):
        found("", {1: rounds[1], 3: rounds[3]})


def test_a_journal_is_replayed_where_the_card_was_mounted_and_the_files_alone_count(
    make: Make,
) -> None:
    """Damage that a mount's replay repairs does not count, a wrong file does."""
    judge = make(two_flushes())
    mounted = Judge(judge.recording, NO_LOG.recover, mounted=True)
    verdicts = judged(mounted, *mounted.cuts.boundaries(), State("x", 1, 3, 6, (Arrived(4),)))
    found = {verdict.state.name: verdict for verdict in verdicts}
    assert found.pop("x").outcome is Outcome.TORN
    assert all(verdict.good for verdict in found.values()), found


def test_a_refused_recovery_is_never_good(make: Make) -> None:
    def refuse(_files: object) -> Path:
        raise Refused("no")

    recording = make(two_flushes()).recording
    judge = Judge(recording, refuse)
    verdicts = judged(judge, *judge.cuts.boundaries())
    assert {(verdict.outcome, verdict.complaint, verdict.good) for verdict in verdicts} == {
        (Outcome.REFUSED, "no", False)
    }


def test_flushes_that_can_not_be_told_apart_are_an_error(make: Make) -> None:
    with pytest.raises(AssertionError, match="the same state"):
        make([write(file_sector(), "a"), BARRIER, mark(1), BARRIER, mark(2)])


@pytest.mark.parametrize(
    ("found", "number", "expected"),
    [
        (3, 3, Outcome.REPORTED),
        (4, 3, Outcome.NEXT),
        (2, 3, Outcome.OLDER),
        (0, 3, Outcome.OLDER),
        (5, 3, Outcome.NEWER),
        (None, 3, Outcome.TORN),
    ],
)
def test_outcomes(found: int | None, number: int, expected: Outcome) -> None:
    assert outcome(found, number) is expected


@pytest.mark.parametrize(("seen", "expected"), [(0, 0), (5, 0), (6, 1), (9, 1), (10, 2)])
def test_a_flush_is_reported_once_its_mark_was_received(seen: int, expected: int) -> None:
    begun = [Mark(2, 1, "flush", True), Mark(6, 2, "flush", True)]
    found = [*begun, Mark(5, 1, "flush"), Mark(9, 2, "flush")]
    assert reported(found, State("x", 0, 0, seen)) == expected


def test_a_quick_rebuild_is_the_same_as_a_whole_one(make: Make, tmp_path: Path) -> None:
    judge = make(two_flushes())
    cuts = Cuts(judge.entries)
    states = sorted(cuts.drawn(30, seed=1), key=lambda state: state.start)
    medium = Medium(tmp_path, judge.recording.blank, judge.entries)
    for state in states:
        whole = rebuild(tmp_path / "whole.img", judge.recording.blank, judge.entries, state)
        with medium.after(state):
            assert sparse.differing_sectors(whole.fs().path, medium.files[0]) == []


def test_states_out_of_order_are_refused(make: Make, tmp_path: Path) -> None:
    judge = make(two_flushes())
    medium = Medium(tmp_path, judge.recording.blank, judge.entries)
    states = judge.cuts.boundaries()
    with medium.after(states[2]):
        before = hashlib.sha256(medium.files[0].read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="sort them"), medium.after(states[0]):
        pass
    assert hashlib.sha256(medium.files[0].read_bytes()).hexdigest() == before


def test_a_control_without_damage_is_no_control(make: Make) -> None:
    judge = make(two_flushes())
    whole = judged(judge, *judge.cuts.boundaries())
    unseen = judged(judge, State("x", 1, 3, 6, (Arrived(4),)))
    seen = [Verdict(unseen[0].state, 1, Outcome.TORN, "e2fsck's words")]
    older = [Verdict(unseen[0].state, 1, Outcome.OLDER)]
    assert "no cut has torn" in run.control_complaint(whole)
    assert "e2fsck sees it" in run.control_complaint([*whole, *unseen])
    assert "only the comparison" in run.control_complaint([*whole, *seen])
    assert "had confirmed" in run.control_complaint([*whole, *seen, *unseen, *older])
    assert run.control_complaint([*whole, *seen, *unseen]) == ""


def test_traffic_tells_merges_appends_and_wraps() -> None:
    header, first, late = LOG_START, LOG_START + CHUNK, LOG_START + LOG_SECTORS - 2 * CHUNK
    entries = [
        write(sector, "a")
        for sector in (header, late, BARRIER.sector, ROOT_START, first, first + 1, header)
    ]
    assert traffic(entries) == Traffic(root=1, log=3, wraps=1)
    assert traffic([]) == Traffic(0, 0, 0)


def test_the_order_of_what_was_received_is_told_in_letters() -> None:
    def at(sector: int, text: bytes = b"") -> Entry:
        return Entry(sector, 0, text.ljust(SECTOR, b"\0"))

    ring, last = LOG_START + CHUNK, LOG_START + LOG_SECTORS - CHUNK
    begin, end = mark(1, "begin"), mark(1, serial=1)
    append = [at(ring, b"cowflSEG"), at(ring + 8), BARRIER, at(ring + 16, b"cowflEND"), BARRIER]
    merge = [at(ROOT_START), at(ROOT_START + 8), BARRIER, at(last), BARRIER, at(LOG_START), BARRIER]
    entries = [begin, *append, *merge, end]
    found = order.word(entries, range(1, len(entries)))
    assert found == "sdFcFrrFHFhF"
    assert order.complaint(order.APPEND + order.MERGE, found) == ""
    assert order.word(entries, range(1, 3)) == "s"


@pytest.mark.parametrize(
    ("pattern", "right"),
    [
        (order.APPEND, "sddFcF"),
        (order.MERGE, "rrFHFhF"),
        (order.HEADER, "HFhF"),
        (order.DIRECT, "rrF"),
        (order.APPEND + order.MERGE, "sdFcFrFHFhF"),
    ],
)
def test_an_order_without_one_of_its_flushes_is_wrong(pattern: str, right: str) -> None:
    assert (
        order.complaint(pattern, right) == order.complaint(pattern, right.replace("F", "FF")) == ""
    )
    for at in range(len(right)):
        if right[at] == "F":
            less = right[:at] + right[at + 1 :]
            assert order.complaint(pattern, less).startswith(f"the card received {less}, which is")


def test_the_tool_is_asked_and_its_refusal_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, log, tool = (
        tmp_path / "root.img",
        tmp_path / "log.img",
        tmp_path / "host" / "release" / "cowflush",
    )
    root.write_text("root")
    log.write_text("log")
    tool.parent.mkdir(parents=True)
    tool.write_text(
        '#!/bin/sh\n[ "$1 $4" = "recover --export" ] && cat "$2" "$3" >"$5" && ! grep -q bad "$3"\n'
    )
    tool.chmod(0o755)
    monkeypatch.setattr(artefacts, "BUILD", tmp_path)
    assert with_the_tool([root, log]).read_text() == "rootlog"
    log.write_text("bad")
    with pytest.raises(Refused, match="ended with 1"):
        with_the_tool([root, log])
    assert with_the_tool([root, log], (0, 1)).read_text() == "rootbad"


def test_what_the_second_reader_finds_counts_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real log, made and read by the tool on the host; the other tool changes one byte."""
    root, log = tmp_path / "root.img", tmp_path / "log.img"
    shutil.copyfile(Card.create(tmp_path / "card.img", FILESYSTEM, ROOT_ONLY).fs().path, root)
    with open(log, "wb") as file:
        file.truncate(LOG_SECTORS * SECTOR)
    tool = artefacts.host_cowflush()
    subprocess.run([tool, "log", "format", log, "--root", root], check=True, capture_output=True)
    assert by_both([root, log]).read_bytes() == root.read_bytes()

    liar = tmp_path / "host" / "release" / "cowflush"
    liar.parent.mkdir(parents=True)
    liar.write_text(
        f'#!/bin/sh\n{tool} "$@" && printf x | dd of="$5" bs=1 seek=9000 conv=notrunc\n'
    )
    liar.chmod(0o755)
    monkeypatch.setattr(artefacts, "BUILD", tmp_path)
    with pytest.raises(Refused, match="another root, in 1 chunks from byte 8192"):
        by_both([root, log])
    log.write_bytes(bytes(LOG_SECTORS * SECTOR))
    with pytest.raises(Refused, match="no intact header"):
        second_reader([root, log])


# The smallest log there is: sector 0 is "v" while sectors 1 and 2 are to be copied to the file's 0
# and 8.
LOG = 8192 + ROOT_SECTORS
LOG_PARTITION = f"start={LOG}, size=2048, type=da\n"


def recover_from_tiny_log(partitions: Sequence[Path]) -> Path:
    root, log = partitions
    out = root.with_name("out.img")
    shutil.copyfile(root, out)
    record = log.read_bytes()
    if record[0:1] == b"v":
        with open(out, "r+b") as file:
            for number, sector in ((1, file_sector()), (2, file_sector() + 8)):
                file.seek((sector - 8192) * SECTOR)
                file.write(record[number * SECTOR : (number + 1) * SECTOR])
    return out


TINY_LOG = Way("tiny", ROOT_ONLY + LOG_PARTITION, recover_from_tiny_log)


def logged_flush(number: int, letters: str, ordered: bool) -> list[Entry]:
    """Appended, committed, reported, merged, the commit undone; FLUSHes after each if `ordered`."""
    barrier = [BARRIER] if ordered else []
    append, commit, free = [write(LOG + 1, letters)], write(LOG, "v"), write(LOG, "-")
    merge = [write(file_sector(), letters[0]), write(file_sector() + 8, letters[1])]
    return [*append, *barrier, commit, BARRIER, mark(number), *merge, *barrier, free, BARRIER]


def test_a_right_log_survives_every_cut_and_a_wrong_one_does_not(make: Make) -> None:
    right = make([*logged_flush(1, "ab", True), *logged_flush(2, "cd", True)], TINY_LOG)
    verdicts = judged(right, *right.cuts.boundaries(), *right.cuts.drawn(100, seed=1))
    assert [str(verdict) for verdict in verdicts if not verdict.good] == []
    assert {verdict.reported for verdict in verdicts} == {0, 1, 2}

    wrong = make([*logged_flush(1, "ab", False), *logged_flush(2, "cd", False)], TINY_LOG)
    outcomes = {verdict.outcome for verdict in judged(wrong, *wrong.cuts.drawn(100, seed=1))}
    assert Outcome.TORN in outcomes
