"""The judgement of a card after a power cut: every step that a flush reported is there, whole."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

from harness.ext import ExtImage
from soak.load import FILE_LINES, FOLDER, MODES, SLOTS


def judge(image: ExtImage, durable: dict[str, int]) -> dict[str, int]:
    """Reads the recovered root; returns the last step of each kind that it holds."""
    image.fsck()
    with tempfile.TemporaryDirectory() as temporary:
        image.dump(FOLDER, Path(temporary))
        folder = Path(temporary) / Path(FOLDER).name
        found = {"files": _files(folder / "files"), "lines": _lines(folder / "lines")}
        found |= {mode: _database(folder / "db" / f"{mode}.db") for mode in MODES}
    for kind, count in durable.items():
        assert found[kind] >= count, f"{kind}: {count} were flushed, the card has {found[kind]}"
    return found


def _files(folder: Path) -> int:
    """The last SLOTS files that were written, each with all its lines."""
    numbers = {}
    for path in folder.iterdir():
        content = path.read_text()
        number = int(content.partition("\n")[0] or 0)
        expected = "".join(f"{line}\n" for line in range(number, number + FILE_LINES + 1))
        assert content == expected, f"the file {path.name} is torn: {content[:40]!r}..."
        numbers[int(path.name)] = number
    last = max(numbers.values(), default=0)
    expected_numbers = {
        number % SLOTS: number for number in range(max(1, last - SLOTS + 1), last + 1)
    }
    assert numbers == expected_numbers, f"not the files after step {last}: {numbers}"
    return last


def _lines(path: Path) -> int:
    lines = path.read_text().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        assert line == f"line {number} of the log\n", f"line {number} of the log is {line!r}"
    return len(lines)


def _database(path: Path) -> int:
    """The last row: SQLite opens the file as after a crash, and finds nothing wrong."""
    if not path.exists():
        return 0
    connection = sqlite3.connect(path)
    try:
        verdict = connection.execute("pragma integrity_check").fetchall()
        assert verdict == [("ok",)], f"{path.name}: {verdict}"
        if not connection.execute("select 1 from sqlite_master where name = 'busy'").fetchone():
            return 0
        rows = connection.execute("select n, content from t order by n").fetchall()
        (touched,) = connection.execute("select coalesce(max(n), 0) from busy").fetchone()
    finally:
        connection.close()
    assert rows == [(n, f"{n:0200d}") for n in range(1, len(rows) + 1)], (
        f"{path.name} has a hole or a wrong row"
    )
    assert touched == len(rows), (
        f"{path.name}: a transaction is there in part: {touched} of {len(rows)}"
    )
    return len(rows)
