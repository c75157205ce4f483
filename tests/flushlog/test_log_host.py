"""The flush log on the host: `recover` and `log format` on images, without a guest.

A second writer (product/logwriter.py) makes the logs and a second reader (product/flushlog.py)
judges them, both from the description alone. What root must be is known before: the writer's own
data.
"""

from __future__ import annotations

import filecmp
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from harness import Card, artefacts, ext, local
from harness.ext import ExtImage
from harness.sparse import SECTOR
from product import flushlog, jsondoc, logged
from product.flushlog import CHUNK, FlushLog, LogImage
from product.logwriter import LogWriter, Written

DONE, FAILED, USAGE, LOST = 0, 1, 2, 7
ROOT_CHUNKS = 64
RING = 257  # chunks: hardly more than the smallest ring


@dataclass
class Rig:
    """A small root, a log for it, and root's state after each flush in the log."""

    directory: Path
    seed: int
    align: int = 1
    chunks: int = RING + 1
    states: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.root, self.log = self.directory / "root.img", self.directory / "log.img"
        self.states = [self.random.randbytes(ROOT_CHUNKS * CHUNK)]
        self.root.write_bytes(self.states[0])
        # A card is never blank.
        self.log.write_bytes(self.random.randbytes(self.chunks * CHUNK))
        self.writer = LogWriter(
            self.log, self.chunks, self.root_sectors, align=self.align, seed=self.seed
        )

    @property
    def root_sectors(self) -> int:
        return ROOT_CHUNKS * CHUNK // SECTOR

    def flush(self, count: int) -> Written:
        """Appends new content for this many chunks of root."""
        data = {
            old: self.random.randbytes(CHUNK)
            for old in self.random.sample(range(ROOT_CHUNKS), count)
        }
        state = bytearray(self.states[-1])
        for old, content in data.items():
            state[old * CHUNK : (old + 1) * CHUNK] = content
        self.states.append(bytes(state))
        return self.writer.append(data, card=self.states[0][:CHUNK])

    def merge(self) -> None:
        """Records that root has everything in the log now."""
        self.states = [self.states[-1]]
        self.root.write_bytes(self.states[0])
        self.writer.merged()

    def check(self, counts: int, end: str, code: int = DONE, bad: int = 0) -> None:
        """Checks that this many flushes count, by the program, the second reader, and the writer."""
        before = self.log.read_bytes()
        export = self.directory / "export.img"
        done = logged.host("recover", self.root, self.log, "--export", export, "--json")
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        found = jsondoc.parse("recover", done.stdout)
        assert export.read_bytes() == self.states[counts]
        export.unlink()
        reader = FlushLog(LogImage(self.log))
        again = bytearray(self.states[0])
        for old, place in reader.live().items():
            again[old * CHUNK : (old + 1) * CHUNK] = reader.chunk(place)
        assert bytes(again) == self.states[counts]
        segments = self.writer.segments[:counts]
        live = {old for segment in segments for old in segment.data}
        assert (found["version"], found["fit"], found["end"]) == (1, "fits", end)
        assert (found["to_merge"], found["damaged_chunks"]) == (len(live) * CHUNK, bad)
        assert reader.sequences == [segment.sequence for segment in segments]
        assert [
            (segment["sequence"], segment["when"], segment["chunks"], segment["bytes"])
            for segment in found["segments"]
        ] == [
            (segment.sequence, 1_700_000_000, len(segment.data), len(segment.data) * CHUNK)
            for segment in segments
        ]
        # A look writes nothing.
        assert self.root.read_bytes() == self.states[0] and self.log.read_bytes() == before


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path, seed=586)


# --- whatever was flushed and merged ------------------------------------------------


@pytest.mark.parametrize("align", [1, 3, 32])
@pytest.mark.parametrize("seed", range(3))
def test_any_history_of_a_log_is_read_alike(tmp_path: Path, seed: int, align: int) -> None:
    """Random flushes and merges, several times around the ring."""
    smallest = -(-256 // align) * align
    rig = Rig(tmp_path, seed, align, chunks=align + smallest + 1 + seed % align)
    rig.check(0, "clean")
    merges = 0
    for _ in range(20):
        count = rig.random.choice([1, 2, 5, 9, 40, ROOT_CHUNKS])
        if not rig.writer.fits(count) or rig.random.random() < 0.1:
            rig.check(len(rig.writer.segments), "clean")
            rig.merge()
            merges += 1
        rig.flush(count)
    rig.check(len(rig.writer.segments), "clean")
    reader = FlushLog(LogImage(rig.log))
    # Unless it has been around the ring, this tests nothing.
    assert merges >= 2 and reader.segments[-1].next_position > reader.length


def test_a_segment_that_goes_over_the_rings_end(rig: Rig) -> None:
    places: list[int] = []
    while not (places and max(places) > RING - 30 and min(places) < 30):
        if not rig.writer.fits(29):
            rig.merge()
        places = list(rig.flush(29).data.values())
    rig.check(len(rig.writer.segments), "clean")


def test_a_flush_of_nothing_and_one_with_a_table_of_two_chunks(tmp_path: Path) -> None:
    rig = Rig(tmp_path, seed=1, chunks=1200)
    rig.flush(0)
    rig.flush(3)
    # More than 298 entries of 12 bytes don't fit beside the head.
    wide = LogWriter(rig.log, 1200, 400 * 8, seed=2)
    data = {old: rig.random.randbytes(CHUNK) for old in range(400)}
    assert len(wide.append(data).head) == 2
    rig.root.write_bytes(bytes(400 * CHUNK))
    export = tmp_path / "export.img"
    assert logged.host("recover", rig.root, rig.log, "--export", export).returncode == DONE
    assert export.read_bytes() == b"".join(data[old] for old in range(400))


# --- damage --------------------------------------------------------------------------


def flipped(rig: Rig, chunk: int, byte: int) -> None:
    flushlog.flip(LogImage(rig.log), chunk, byte, rig.random.randrange(8))


def in_head(rig: Rig, at: int) -> tuple[int, int]:
    return rig.writer.segments[at].head[0], rig.random.randrange(496)


def in_table(rig: Rig, at: int) -> tuple[int, int]:
    segment = rig.writer.segments[at]
    return segment.head[0], 512 + rig.random.randrange(segment.table_bytes)


def in_live_data(rig: Rig, at: int) -> tuple[int, int]:
    later = {old for segment in rig.writer.segments[at + 1 :] for old in segment.data}
    own = [place for old, place in rig.writer.segments[at].data.items() if old not in later]
    return rig.random.choice(own), rig.random.randrange(CHUNK)


def in_replaced_data(rig: Rig, at: int) -> tuple[int, int]:
    later = {old for segment in rig.writer.segments[at + 1 :] for old in segment.data}
    own = [place for old, place in rig.writer.segments[at].data.items() if old in later]
    return rig.random.choice(own), rig.random.randrange(CHUNK)


def in_commit(rig: Rig, at: int) -> tuple[int, int]:
    return rig.writer.segments[at].commit, rig.random.randrange(512)


Place = Callable[[Rig, int], tuple[int, int]]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("at", [0, 2, 3], ids=["oldest", "middle", "youngest"])
@pytest.mark.parametrize(
    "place", [in_head, in_table, in_live_data], ids=lambda place: place.__name__
)
def test_damage_ends_the_log_before_it(tmp_path: Path, place: Place, at: int, seed: int) -> None:
    rig = Rig(tmp_path, seed)
    for _ in range(4):
        rig.flush(20)
    flipped(rig, *place(rig, at))
    rig.check(at, "damaged", LOST, bad=int(place is in_live_data))


@pytest.mark.parametrize(
    ("place", "at", "end"),
    [
        (in_replaced_data, 0, "clean"),
        (in_replaced_data, 2, "clean"),
        (in_commit, 0, "clean"),
        (in_commit, 2, "clean"),
        (in_commit, 3, "torn"),
    ],
)
def test_damage_that_costs_nothing(tmp_path: Path, place: Place, at: int, end: str) -> None:
    rig = Rig(tmp_path, seed=7)
    for _ in range(4):
        rig.flush(20)
    flipped(rig, *place(rig, at))
    rig.check(4, end, bad=int(place is in_replaced_data))


def test_a_flush_that_was_cut_short_does_not_count(rig: Rig) -> None:
    for _ in range(3):
        rig.flush(9)
    last = rig.writer.segments[-1]
    for chunk in (max(last.data.values()), last.commit):
        flushlog.write(LogImage(rig.log), chunk, rig.random.randbytes(CHUNK))
    rig.check(2, "torn")


@pytest.mark.parametrize("copy", [0, -1], ids=["first", "last"])
def test_one_copy_of_the_header_is_enough(rig: Rig, copy: int) -> None:
    rig.flush(5)
    rig.merge()
    rig.flush(6)
    flipped(rig, copy % rig.chunks, rig.random.randrange(512))
    rig.check(1, "clean")


def test_of_two_headers_the_younger_holds(rig: Rig) -> None:
    """A power cut may come between the two: the last chunk is written first."""
    rig.flush(5)
    old = FlushLog(LogImage(rig.log)).chunk(0)
    rig.merge()
    flushlog.write(LogImage(rig.log), 0, old)
    rig.check(0, "clean")


# --- recover ---------------------------------------------------------------------------


def test_recover_writes_nothing_unless_told(rig: Rig) -> None:
    rig.flush(9)
    rig.flush(9)
    before = rig.root.read_bytes(), rig.log.read_bytes()
    export = rig.directory / "export.img"
    for words in ([], ["--json"], ["--merge", "--dry-run"], ["--export", export, "--dry-run"]):
        done = logged.host("recover", rig.root, rig.log, *words)
        assert done.returncode == DONE, (words, done)
        assert (rig.root.read_bytes(), rig.log.read_bytes()) == before and not export.exists()
        assert ("would write" in done.stdout) == ("--dry-run" in words), (words, done.stdout)
    both = logged.host("recover", rig.root, rig.log, "--merge", "--export", export)
    assert both.returncode == USAGE and "exclude each other" in both.stderr
    export.write_bytes(b"mine")
    assert logged.host("recover", rig.root, rig.log, "--export", export).returncode == FAILED
    assert export.read_bytes() == b"mine"
    assert (rig.root.read_bytes(), rig.log.read_bytes()) == before


def test_recover_merges_and_empties_the_log(rig: Rig) -> None:
    for _ in range(3):
        rig.flush(20)
    live = {old for segment in rig.writer.segments for old in segment.data}
    done = logged.host("recover", rig.root, rig.log, "--merge")
    assert done.returncode == DONE and "merged " in done.stdout
    assert rig.root.read_bytes() == rig.states[-1]
    reader = FlushLog(LogImage(rig.log))
    assert reader.segments == [] and reader.whole and reader.header.sequence == 3
    emptied = jsondoc.parse("recover", logged.host("recover", rig.root, rig.log, "--json").stdout)
    assert (emptied["segments"], emptied["to_merge"], emptied["end"]) == ([], 0, "clean")
    assert live
    # A second run changes nothing: there is nothing left to do.
    assert logged.host("recover", rig.root, rig.log, "--merge").returncode == DONE
    assert rig.root.read_bytes() == rig.states[-1]


def test_recover_merges_what_is_left_of_a_damaged_log(rig: Rig) -> None:
    for _ in range(3):
        rig.flush(20)
    flipped(rig, *in_live_data(rig, 2))
    done = logged.host("recover", rig.root, rig.log, "--merge")
    assert done.returncode == LOST and "LOST: " in done.stdout
    assert re.search(r"^damaged: chunk \d+ of the log$", done.stdout, re.MULTILINE), done
    assert "flushes up to 3 are lost, and what counts is flush 2" in done.stdout
    assert rig.root.read_bytes() == rig.states[2]
    # What was cut off never counts again, even if it can be read again.
    assert FlushLog(LogImage(rig.log)).segments == []


def test_a_recovery_that_fails_halfway_says_what_state_root_is_in(rig: Rig) -> None:
    """A limit on the file's size plays a card that takes no more writes."""
    rig.flush(ROOT_CHUNKS)
    limit = ROOT_CHUNKS * CHUNK // 2
    limited = ["env", "--ignore-signal=XFSZ", "prlimit", f"--fsize={limit}"]
    failed = local.run(
        [*limited, artefacts.host_cowflush(), "recover", rig.root, rig.log, "--merge"],
        capture_output=True,
        text=True,
    )
    assert failed.returncode == FAILED, failed
    assert "Root may be half merged, so don't mount it." in failed.stderr, failed
    assert rig.root.read_bytes() not in rig.states
    # The message is true: a second run is all it takes.
    assert logged.host("recover", rig.root, rig.log, "--merge").returncode == DONE
    assert rig.root.read_bytes() == rig.states[1]


def test_recover_knows_a_root_that_has_grown_or_has_another_uuid(
    tmp_path: Path, root: Path
) -> None:
    first = root.read_bytes()[:CHUNK]
    # The UUID is 104 bytes into the superblock.
    renamed = first[: 1024 + 104] + uuid.uuid4().bytes + first[1024 + 120 :]
    log = tmp_path / "log.img"
    log.write_bytes(bytes(4 << 20))
    writer = LogWriter(log, 1024, (8 << 20) // SECTOR, root_uuid=uuid.UUID(ext.UUID).bytes)
    writer.append({0: renamed, 9: bytes(CHUNK)}, card=first)

    def fit() -> str:
        looked = logged.host("recover", root, log, "--json")
        return str(jsondoc.parse("recover", looked.stdout)["fit"])

    assert fit() == "fits"
    # Half merged
    with open(root, "r+b") as file:
        file.write(renamed)
    assert fit() == "fits"
    with open(root, "r+b") as file:
        file.write(first)
        file.truncate(9 << 20)
    assert fit() == "fits"
    # Too small for what the log has
    with open(root, "r+b") as file:
        file.truncate(9 * CHUNK)
    assert fit() == "changed"


def written_elsewhere(rig: Rig) -> str:
    """Changes root as another system's mount does: the superblock's chunk shows it."""
    with open(rig.root, "r+b") as root:
        root.seek(1024)
        root.write(b"mounted elsewhere")
    return "changed"


def of_another_size(rig: Rig) -> str:
    with open(rig.root, "r+b") as root:
        root.truncate(ROOT_CHUNKS * CHUNK - 8 * SECTOR)
    return "foreign"


def of_another_uuid(rig: Rig) -> str:
    """A filesystem of the same size whose UUID is not the log's."""
    rig.root.unlink()
    folder = rig.directory / "folder"
    (folder / "dev").mkdir(parents=True)
    other = ext.Filesystem(kind="ext2", uuid="c0f1a5b0-5eed-4c0f-8a5b-000000000002")
    ext.make(rig.root, other, folder, ROOT_CHUNKS * CHUNK)
    header = FlushLog(LogImage(rig.log)).header
    assert header.root_uuid != uuid.UUID(other.uuid).bytes
    return "foreign"


@pytest.mark.parametrize("change", [written_elsewhere, of_another_size, of_another_uuid])
def test_a_log_that_does_not_fit_is_applied_by_force_alone(
    tmp_path: Path, change: Callable[[Rig], str]
) -> None:
    rig = Rig(tmp_path, seed=3)
    rig.writer = LogWriter(
        rig.log, rig.chunks, rig.root_sectors, root_uuid=uuid.UUID(ext.UUID).bytes, seed=3
    )
    # The superblock's chunk is not among what is flushed: the log has only its checksum.
    data = {old: rig.random.randbytes(CHUNK) for old in (3, 9, 62)}
    rig.writer.append(data, card=rig.states[0][:CHUNK])
    fit = change(rig)
    before = rig.root.read_bytes(), rig.log.read_bytes()
    looked = logged.host("recover", rig.root, rig.log, "--json")
    assert looked.returncode == FAILED
    assert jsondoc.parse("recover", looked.stdout)["fit"] == fit
    export = tmp_path / "export.img"
    for words in (["--merge"], ["--export", export], ["--merge", "--dry-run"]):
        done = logged.host("recover", rig.root, rig.log, *words)
        assert done.returncode == FAILED and "Nothing was written." in done.stderr, (words, done)
        assert (rig.root.read_bytes(), rig.log.read_bytes()) == before and not export.exists()
    assert logged.host("recover", rig.root, rig.log, "--merge", "--force").returncode == DONE
    after = bytearray(before[0])
    for old, content in data.items():
        after[old * CHUNK : (old + 1) * CHUNK] = content
    assert rig.root.read_bytes() == after[: len(before[0])]


def test_what_is_no_log_or_not_there_is_named(rig: Rig) -> None:
    blank = rig.directory / "blank.img"
    blank.write_bytes(bytes(CHUNK * 300))
    done = logged.host("recover", rig.root, blank)
    # It loses nothing.
    assert done.returncode == FAILED and f"cannot use {blank} as the flush log" in done.stderr
    assert "it holds no flush log" in done.stderr
    for missing in ((rig.directory / "no", rig.log), (rig.root, rig.directory / "no")):
        done = logged.host("recover", *missing)
        assert done.returncode == FAILED and f"cannot open {rig.directory / 'no'}" in done.stderr


# --- a card whose flushes the program never saw -------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Card:
    """A card with two flushes in its log, made without the program."""
    return logged.made(Card.create(tmp_path_factory.mktemp("made") / "card.img"), 2, b"thelog")


def test_a_card_by_the_second_writer_is_read_and_merged(made: Card, tmp_path: Path) -> None:
    card = made.copy(tmp_path / "card.img")
    logged.check_card(card, 2)
    found = logged.found_by_host(card)
    assert (found["fit"], found["end"], found["damaged_chunks"]) == ("fits", "clean", 0)
    looked = logged.host("recover", *logged.images(card)).stdout
    assert looked.startswith("2 flushes in the log, "), looked
    assert " to merge; the log belongs to this root, which is as the log expects it\n" in looked
    expected = flushlog.recovered(card).path
    root, log = logged.images(card)
    assert logged.host("recover", root, log, "--merge").returncode == DONE
    assert filecmp.cmp(root, expected, shallow=False)
    logged.check_root(ExtImage(root), 2)


@pytest.mark.parametrize(
    "fault",
    [
        ["cd /root", "rm f1"],
        ["cd /root", "rm f2", "ln state f2"],
        ["cd /root", "ln state f3"],
        ["cd /root", "ln state other"],
        ["cd /usr/bin", "rm guest-tools"],
    ],
    ids=lambda fault: fault[-1],
)
def test_the_judge_of_cards_sees_what_is_not_as_it_was(
    made: Card, tmp_path: Path, fault: list[str]
) -> None:
    root = flushlog.recovered(made.copy(tmp_path / "card.img"))
    logged.check_root(root, 2)
    ext.edit(str(root.path), fault)
    # `e2fsck` would see some of it, too; this test is about the files.
    root.fsck = lambda: ""  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match=r"/root/|/usr/"):
        logged.check_root(root, 2)


def test_a_root_that_was_changed_elsewhere_is_told_and_the_log_may_win(
    made: Card, tmp_path: Path
) -> None:
    card = made.copy(tmp_path / "card.img")
    file = tmp_path / "elsewhere"
    file.write_bytes(b"elsewhere\n")
    card.edit(["cd /root", f"write {file} elsewhere"])
    root, log = logged.images(card)
    before = logged.digest(root), logged.digest(log)
    refused = logged.host("recover", root, log, "--merge")
    why = f"cannot apply {log} to {root}: root is not as its last flush left it."
    assert refused.returncode == FAILED and why in refused.stderr, refused
    assert (logged.digest(root), logged.digest(log)) == before
    looked = logged.host("recover", root, log, "--json")
    assert jsondoc.parse("recover", looked.stdout)["fit"] == "changed"
    looked = logged.host("recover", root, log)
    assert "2 flushes in the log, " in looked.stdout, looked
    assert " to merge; root is not as its last flush left it\n" in looked.stdout, looked
    expected = flushlog.recovered(card).path
    assert logged.host("recover", root, log, "--merge", "--force").returncode == DONE
    assert filecmp.cmp(root, expected, shallow=False)


# --- log format ---------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder, image = tmp_path / "folder", tmp_path / "root.img"
    (folder / "dev").mkdir(parents=True)
    ext.make(image, ext.Filesystem(), folder, 8 << 20)
    return image


def blank(directory: Path, size: int = 4 << 20) -> Path:
    path = directory / "log.img"
    path.write_bytes(bytes(size))
    return path


@pytest.mark.parametrize(
    ("words", "label", "align", "fill"),
    [
        ("", b"", 1, 0),
        ("--label sixteen-bytes-16", b"sixteen-bytes-16", 1, 0),
        ("--erase-block 128K", b"", 32, 0),
        ("--fill 64K", b"", 1, 16),
        ("--erase-block 12K --fill 2M --label x", b"x", 3, 512),
    ],
)
def test_format_makes_what_it_was_asked_for(
    tmp_path: Path, root: Path, words: str, label: bytes, align: int, fill: int
) -> None:
    log = blank(tmp_path)
    before = logged.digest(root), logged.digest(log)
    command: list[str | Path] = ["log", "format", log, "--root", root, *words.split()]
    dry = logged.host(*command, "--dry-run")
    assert dry.returncode == DONE
    assert dry.stdout == f"would make a flush log of {log} (4.0 MiB) for {root}\n"
    assert (logged.digest(root), logged.digest(log)) == before
    done = logged.host(*command)
    assert done.returncode == DONE and logged.digest(root) == before[0]
    reader = FlushLog(LogImage(log))
    header = reader.header
    assert (header.label, header.align, header.fill, header.chunks) == (label, align, fill, 1024)
    assert header.root_uuid == uuid.UUID(ext.UUID).bytes
    assert header.root_sectors == (8 << 20) // SECTOR
    assert reader.whole and reader.segments == []
    made = uuid.UUID(bytes=header.uuid)
    assert (made.version, made.variant) == (4, uuid.RFC_4122)
    assert f"made a flush log of {log} (4.0 MiB) for {root}, UUID={made}\n" == done.stdout
    # Another log has another UUID.
    assert logged.host(*command, "--over", "cowflush-log").returncode == DONE
    assert FlushLog(LogImage(log)).header.uuid != header.uuid
    looked = logged.host("recover", root, log, "--json")
    assert jsondoc.parse("recover", looked.stdout)["fit"] == "fits"


# Where each format keeps its magic number, by its own specification
MAGICS = {
    "xfs": (0, b"XFSB"),
    "squashfs": (0, b"hsqs"),
    "vfat": (82, b"FAT32   "),
    "exfat": (3, b"EXFAT   "),
    "ntfs": (3, b"NTFS    "),
    "swap": (4086, b"SWAPSPACE2"),
    "LVM": (512, b"LABELONE"),
    "LUKS": (0, b"LUKS\xba\xbe"),
    "f2fs": (1024, (0xF2F52010).to_bytes(4, "little")),
    "btrfs": (0x10040, b"_BHRfS_M"),
}


def spared(log: Path, root: Path, kind: str) -> None:
    """Checks that cowflush overwrites the content only if it is named."""
    before = logged.digest(log)
    for over in ([], ["--over", "cowflush-log"], ["--over", "nonsense"]):
        done = logged.host("log", "format", log, "--root", root, *over)
        assert done.returncode == USAGE, (kind, over, done)
        assert f"cannot make a flush log of {log}: it holds {kind}." in done.stderr, done.stderr
        assert over or f"`--over {kind}`" in done.stderr
        assert logged.digest(log) == before
    named: list[str | Path] = ["log", "format", log, "--root", root, "--over", kind]
    assert logged.host(*named, "--dry-run").returncode == DONE
    assert logged.digest(log) == before
    assert logged.host(*named).returncode == DONE
    assert FlushLog(LogImage(log)).segments == []


@pytest.mark.parametrize("kind", MAGICS)
def test_format_spares_what_is_there(tmp_path: Path, root: Path, kind: str) -> None:
    log = blank(tmp_path)
    at, magic = MAGICS[kind]
    with open(log, "r+b") as file:
        file.seek(at)
        file.write(magic)
    spared(log, root, kind)


@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4"])
def test_format_spares_a_filesystem_that_was_made_by_its_own_tool(
    tmp_path: Path, root: Path, kind: str
) -> None:
    folder = tmp_path / "other"
    (folder / "dev").mkdir(parents=True)
    log = tmp_path / "log.img"
    ext.make(log, ext.Filesystem(kind=kind), folder, 8 << 20)
    spared(log, root, kind)


# What cowflush must not take for an empty partition, though no known magic number is there: place
# and content
STRANGE = {
    "MBR": (
        446,
        b"\x80\0\0\0\x83\0\0\0\0\x08\0\0\0\x10\0\0\x55\xaa".replace(
            b"\x55\xaa", bytes(48) + b"\x55\xaa"
        ),
    ),
    "GPT": (512, b"EFI PART"),
    "GPT of 4K": (4096, b"EFI PART"),
    "backup GPT": (-512, b"EFI PART"),
    "MBR without partitions": (510, b"\x55\xaa"),
    "md": (4096, (0xA92B4EFC).to_bytes(4, "little")),
    "something at the end": (-4096, b"x"),
    "text": (0, b"my notes"),
}


@pytest.mark.parametrize("what", STRANGE)
def test_format_spares_what_it_does_not_know(tmp_path: Path, root: Path, what: str) -> None:
    log = blank(tmp_path)
    at, content = STRANGE[what]
    with open(log, "r+b") as file:
        file.seek(at, 0 if at >= 0 else 2)
        file.write(content)
    before = logged.digest(log)
    table = "PT" in what or what == "MBR"
    why = "it begins or ends with a partition table." if table else "it is not known what."
    for over in ([], ["--over", "ext4"], ["--over", "cowflush-log"]):
        done = logged.host("log", "format", log, "--root", root, *over)
        assert done.returncode == USAGE and why in done.stderr, (what, over, done)
        assert f"`dd if=/dev/zero of={log} bs=1M`" in done.stderr
        assert logged.digest(log) == before
    # The message's advice.
    log.write_bytes(bytes(log.stat().st_size))
    assert logged.host("log", "format", log, "--root", root).returncode == DONE


def test_format_takes_erased_flash_for_blank(tmp_path: Path, root: Path) -> None:
    log = tmp_path / "log.img"
    log.write_bytes(b"\xff" * (4 << 20))
    assert logged.host("log", "format", log, "--root", root).returncode == DONE


def test_format_spares_a_log_whose_first_header_is_gone(rig: Rig) -> None:
    """The second header is enough for a boot, so the log's flushes are there."""
    rig.flush(9)
    flushlog.write(LogImage(rig.log), 0, bytes(CHUNK))
    rig.check(1, "clean")
    done = logged.host("log", "format", rig.log, "--root", rig.root)
    assert done.returncode == USAGE and "it holds cowflush-log" in done.stderr
    rig.check(1, "clean")


def test_format_spares_a_log_with_flushes_in_it(rig: Rig) -> None:
    rig.flush(9)
    done = logged.host("log", "format", rig.log, "--root", rig.root)
    assert done.returncode == USAGE and "it holds cowflush-log" in done.stderr
    rig.check(1, "clean")
    over: list[str | Path] = [
        "log",
        "format",
        rig.log,
        "--root",
        rig.root,
        "--over",
        "cowflush-log",
    ]
    assert logged.host(*over).returncode == DONE
    reader = FlushLog(LogImage(rig.log))
    assert reader.segments == [] and reader.header.uuid != rig.writer.uuid
    # The old log's content belongs to no log now.
    done = logged.host("recover", rig.root, rig.log, "--json")
    assert done.returncode == DONE and jsondoc.parse("recover", done.stdout)["segments"] == []


def test_format_refuses_what_makes_no_log(tmp_path: Path, root: Path) -> None:
    small = tmp_path / "small.img"
    small.write_bytes(bytes(512 << 10))
    log = blank(tmp_path)
    refusals = {
        f"{small} --root {root}": (
            FAILED,
            "it has 512.0 KiB, and a log with this erase block takes",
        ),
        f"{log} --root {root} --erase-block 4M": (
            FAILED,
            "a log with this erase block takes 5.0 MiB",
        ),
        f"{log} --root {root} --over ext4": (USAGE, "it does not hold what --over says"),
        f"{log} --root {root} --label 12345678901234567": (USAGE, "a label has at most 16 bytes"),
        f"{log} --root {root} --erase-block 3K": (USAGE, "not a multiple of 4K"),
        f"{log} --root {tmp_path}/no": (FAILED, "No such file"),
        f"{tmp_path}/no --root {root}": (FAILED, "No such file"),
        f"{tmp_path} --root {root}": (FAILED, "directory"),
    }
    before = logged.digest(root), logged.digest(log), logged.digest(small)
    for words, (code, why) in refusals.items():
        done = logged.host("log", "format", *words.split())
        assert done.returncode == code and why in done.stderr, (words, done)
        assert done.stderr.startswith("cowflush: ") and done.stdout == "", done
    assert (logged.digest(root), logged.digest(log), logged.digest(small)) == before
