"""The judges of the soak and of the flood can fail: they report each kind of loss."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from product import flood
from soak import judge
from soak.load import FILE_LINES, FOLDER, MODES, SLOTS
from soak.watch import Figures, check_flat

STEPS = 55
PLACES = 4


class Folder:
    """A guest's files, in place of a card's image."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fsck(self) -> None:
        pass

    def dump(self, _directory: str, target: Path) -> None:
        self.path.rename(target / Path(FOLDER).name)


@pytest.fixture
def left(tmp_path: Path) -> Path:
    folder = tmp_path / "left"
    (folder / "files").mkdir(parents=True)
    (folder / "db").mkdir()
    for number in range(STEPS - SLOTS + 1, STEPS + 1):
        lines = "".join(f"{line}\n" for line in range(number, number + FILE_LINES + 1))
        (folder / "files" / str(number % SLOTS)).write_text(lines)
    (folder / "lines").write_text("".join(f"line {n} of the log\n" for n in range(1, STEPS + 1)))
    for mode in MODES:
        with connected(folder, mode) as db:
            db.execute("create table t(n integer primary key, content text)")
            db.execute("create table busy(place integer primary key, n, filler)")
            db.executemany(
                "insert into t values(?, ?)", [(n, f"{n:0200d}") for n in range(1, STEPS + 1)]
            )
            db.execute("insert into busy values(0, ?, 'x')", (STEPS,))
    return folder


def connected(folder: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(folder / "db" / f"{mode}.db")


def verdict(folder: Path, **durable: int) -> dict[str, int]:
    return judge.judge(Folder(folder), durable)  # type: ignore[arg-type]


def test_what_is_whole_passes(left: Path) -> None:
    assert verdict(left, files=STEPS, wal=STEPS) == dict.fromkeys(("files", "lines", *MODES), STEPS)


def torn_file(folder: Path) -> None:
    (folder / "files" / "7").write_text("47\n48\n")


def old_file(folder: Path) -> None:
    lines = "".join(f"{line}\n" for line in range(7, 7 + FILE_LINES + 1))
    (folder / "files" / "7").write_text(lines)


def lost_line(folder: Path) -> None:
    (folder / "lines").write_text("line 1 of the log\nline 3 of the log\n")


def torn_line(folder: Path) -> None:
    (folder / "lines").write_text("line 1 of the log\nline 2 of t")


def lost_row(folder: Path) -> None:
    with connected(folder, "wal") as db:
        db.execute("delete from t where n = 20")


def half_transaction(folder: Path) -> None:
    with connected(folder, "delete") as db:
        db.execute("update busy set n = n + 1")


def broken_page(folder: Path) -> None:
    path = folder / "db" / "delete.db"
    content = bytearray(path.read_bytes())
    content[4096 : 4096 + 512] = bytes(512)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [torn_file, old_file, lost_line, torn_line, lost_row, half_transaction, broken_page]
)
def test_what_is_not_fails(left: Path, damage: Callable[[Path], None]) -> None:
    damage(left)
    with pytest.raises((AssertionError, sqlite3.DatabaseError)):
        verdict(left)


@pytest.mark.parametrize("kind", ["files", "lines", *MODES])
def test_a_step_that_was_flushed_is_missed(left: Path, kind: str) -> None:
    with pytest.raises(AssertionError, match="were flushed"):
        verdict(left, **{kind: STEPS + 1})


def test_memory_that_grows_is_seen() -> None:
    first = Figures(daemon_rss=500, shmem=1000, slab=3000, loops=2, devices=5)
    check_flat([first, first])
    for grown in ({"daemon_rss": 700}, {"shmem": 9000}, {"slab": 9000}):
        with pytest.raises(AssertionError, match="grows"):
            check_flat([first, Figures(**{**vars(first), **grown})])


# --- the flood -------------------------------------------------------------------------


def block(number: int) -> bytes:
    sectors = (
        number.to_bytes(8, "little")
        + place.to_bytes(8, "little")
        + bytes([(number * 31 + place * 7 + 1) & 255]) * 496
        for place in range(flood.BLOCK // flood.SECTOR)
    )
    return b"".join(sectors)


def test_a_flood_is_known_again() -> None:
    assert flood.check(b"".join(map(block, [0, 1])), PLACES, 2) == 2
    assert flood.check(b"".join(map(block, [8, 9, 6, 7])), PLACES, 10) == 10


@pytest.mark.parametrize(
    ("numbers", "at_least"),
    [([8, 9, 2, 7], 0), ([8, 9, 6], 0), ([9, 8, 6, 7], 0), ([8, 9, 6, 7], 11), ([], 0)],
    ids=["an old block", "too short", "another place", "too old", "empty"],
)
def test_a_flood_with_a_hole_is_told(numbers: list[int], at_least: int) -> None:
    with pytest.raises(AssertionError):
        flood.check(b"".join(map(block, numbers)), PLACES, at_least)


def test_a_torn_block_of_a_flood_is_told() -> None:
    torn = block(0)[: flood.BLOCK // 2] + block(4)[flood.BLOCK // 2 :]
    with pytest.raises(AssertionError, match="sector 64"):
        flood.check(torn, PLACES, 0)
