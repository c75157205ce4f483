"""The load of the demonstration's router, and what must be true of its files after a cut.

A round adds a row to a database and lines to a log, and rewrites a graph's data and the leases;
each is synced before the next, as such programs do. So at any one moment all files on a card know
of the same number of rounds, or the first ones of one more: anything else mixes two moments.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from product.workload import Writer

if TYPE_CHECKING:
    from harness.ext import ExtImage
    from harness.machine import VM

FOLDER = "/var/router"
LINES, LEASES = 50, 40
POINTS, INTERFACES = 12 << 10, 5
SYNCS = 5  # a round: two of the database, and one a file
SCRIPT = f"""
mkdir -p {FOLDER} && cd {FOLDER} || exit
[ -e hosts.db ] || sqlite3 hosts.db 'CREATE TABLE seen (round INTEGER PRIMARY KEY, bytes INTEGER)'
round=$(sqlite3 hosts.db 'SELECT count(*) FROM seen')
while :; do
    round=$((round + 1))
    sqlite3 hosts.db "INSERT INTO seen VALUES ($round, $round * 1500)" || exit
    for line in $(seq {LINES}); do echo "round $round, packet $line dropped"; done >/run/lines
    cat /run/lines >>messages && fsync messages || exit
    awk "BEGIN {{ while (n++ < {POINTS}) printf \\"%7d\\n\\", $round }}" >/run/graph
    for interface in $(seq {INTERFACES}); do cat /run/graph; done >graph.new
    fsync graph.new && mv graph.new graph || exit
    for host in $(seq {LEASES}); do echo "$round 192.168.1.$host"; done >leases.new
    fsync leases.new && mv leases.new leases && echo $round >/run/round.new && mv /run/round.new /run/round || exit
done
"""


@dataclass(frozen=True)
class Files:
    """How many rounds each file knows of."""

    rows: int
    lines: int
    graph: int
    leases: int

    def whole(self) -> bool:
        """Whether all four files are of one moment."""
        in_order = self.leases <= self.graph <= self.lines <= self.rows
        return in_order and self.rows - self.leases <= 1

    def __str__(self) -> str:
        return (
            f"rounds in the database: {self.rows}, in the log: {self.lines}, in the graph: {self.graph}, "
            f"in the leases: {self.leases}"
        )


def start(vm: VM) -> Writer:
    """Runs the load in a guest until it is stopped or a write fails."""
    return Writer(vm, SCRIPT)


def judge(image: ExtImage, folder: Path) -> Files:
    """Reads a card's root from outside, with the host's programs.

    Raises `AssertionError` when a file has not exactly the content of its rounds.
    """
    lines = _rounds(image.read(f"{FOLDER}/messages"), r"round (\d+), packet (\d+) dropped")
    wanted = [(1 + n // LINES, 1 + n % LINES) for n in range(len(lines))]
    assert lines == wanted and len(lines) % LINES == 0, f"the log ends with {lines[-3:]}"
    leases = _rounds(image.read(f"{FOLDER}/leases"), r"(\d+) 192\.168\.1\.(\d+)")
    assert [host for _, host in leases] == list(range(1, LEASES + 1)), leases
    assert len({number for number, _ in leases}) == 1, leases
    return Files(_database(image, folder), len(lines) // LINES, _graph(image), leases[0][0])


def _rounds(content: bytes, pattern: str) -> list[tuple[int, int]]:
    """The numbers in a text, which must have no other lines."""
    found = [re.fullmatch(pattern, line) for line in content.decode().splitlines()]
    assert all(found), content[-200:]
    return [(int(match[1]), int(match[2])) for match in found if match]


def _graph(image: ExtImage) -> int:
    content = image.read(f"{FOLDER}/graph")
    number = int(content[:8])
    assert content == b"%7d\n" % number * POINTS * INTERFACES, (
        f"the graph is a mix, it begins with {number}"
    )
    return number


def _database(image: ExtImage, folder: Path) -> int:
    """Opens a copy as a program would after the cut, with the journal beside it."""
    copy = folder / "hosts.db"
    for name in ("hosts.db", "hosts.db-journal"):
        (folder / name).unlink(missing_ok=True)
        if f"{FOLDER}/{name}" in image.hashes(FOLDER):
            (folder / name).write_bytes(image.read(f"{FOLDER}/{name}"))
    script = "PRAGMA integrity_check; SELECT count(*), max(round), sum(bytes) FROM seen"
    done = subprocess.run(
        ["/usr/bin/python3", "-c", READER, str(copy), script],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    state, count, last, total = done.stdout.split()
    rows = int(count)
    assert state == "ok", f"the database is damaged: {done.stdout}"
    assert (int(last), int(total)) == (rows, 750 * rows * (rows + 1)), done.stdout
    return rows


READER = """
import sqlite3, sys
for statement in sys.argv[2].split(";"):
    for row in sqlite3.connect(sys.argv[1]).execute(statement):
        print(*row)
"""
