"""Makes the list of a day's events from day.toml and a seed.

An event is a line: milliseconds since the day began, a verb, its arguments (see
tests/guest/src/day.rs, which carries them out). The guest makes the contents from the seed in the
event.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

DEFINITION = Path(__file__).with_name("day.toml")
DAY_SECONDS = 86400
# The parts of a day that only write below var/log
LOG_PARTS = ("syslog", "append", "rotate")


@dataclass(frozen=True, order=True)
class Event:
    """`at` in milliseconds since the first day began."""

    at: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.at} {' '.join(self.words)}"


def definition(path: Path = DEFINITION) -> dict[str, Any]:
    with open(path, "rb") as file:
        return tomllib.load(file)


def events(
    day: dict[str, Any], seed: int, number: int = 0, seconds: int = DAY_SECONDS
) -> list[Event]:
    """Day `number`'s events of its first `seconds`, in order."""
    found: list[Event] = []
    for part, make in PARTS.items():
        if part in day:
            # Each part has its own random numbers, so that leaving one out changes no other.
            random = Random(f"{seed} {number} {part}")
            found += [
                Event(round(at * 1000), tuple(map(str, words)))
                for at, *words in make(day[part], random)
            ]
    start = number * DAY_SECONDS * 1000
    return sorted(
        Event(start + event.at, event.words) for event in found if event.at < seconds * 1000
    )


def logs_only(day: dict[str, Any]) -> dict[str, Any]:
    """The part of a day that a RAM disk on /var/log covers."""
    return {part: day[part] for part in LOG_PARTS}


def prepared(day: dict[str, Any]) -> list[str]:
    """The events that make the files that exist before the first day."""
    rrd, upgrade, random = day["rrd"], day["upgrade"], Random("before the first day")
    lines = [
        f"0 rrd-create {rrd['folder']}/{n}.rrd {_rrd_bytes(rrd)} {n}" for n in range(rrd["files"])
    ]
    for n in range(upgrade["files"]):
        lines.append(f"0 create usr/lib/pkg/{n} {random.randint(*upgrade['file_bytes'])} {n}")
    lines.append(f"0 create {upgrade['status']} {upgrade['status_bytes']} 1")
    lines += [f"0 create {name} 4000 {n}" for n, name in enumerate(day["config"]["files"])]
    lines += [f"0 sql {day['sqlite']['file']} {_schema(day['sqlite'])}"]
    return lines


def _poisson(random: Random, per_hour: float) -> Iterator[float]:
    at = random.expovariate(per_hour / 3600)
    while at < DAY_SECONDS:
        yield at
        at += random.expovariate(per_hour / 3600)


def _every(seconds: int, begin: float = 0) -> Iterator[float]:
    at = begin
    while at < DAY_SECONDS:
        yield at
        at += seconds


def _clock(text: str) -> int:
    hours, minutes = map(int, text.split(":"))
    return hours * 3600 + minutes * 60


def _syslog(parts: list[dict[str, Any]], random: Random) -> Iterator[tuple[Any, ...]]:
    for part in parts:
        for at in _poisson(random, part["per_hour"]):
            yield at, "syslog", part["tag"], random.randint(*part["bytes"]), random.getrandbits(30)


def _append(parts: list[dict[str, Any]], random: Random) -> Iterator[tuple[Any, ...]]:
    for part in parts:
        for at in _poisson(random, part["per_hour"]):
            yield at, "append", part["file"], random.randint(*part["bytes"]), random.getrandbits(30)


def _rotate(part: dict[str, Any], random: Random) -> Iterator[tuple[Any, ...]]:
    for n, file in enumerate(part["files"]):
        yield _clock(part["at"]) + n, "rotate", file, part["keep"]


def _rrd(part: dict[str, Any], random: Random) -> Iterator[tuple[Any, ...]]:
    for n in range(part["files"]):
        begin = random.uniform(0, part["every"])
        for at in _every(part["every"], begin):
            # The archives follow the head, each a ring of rows.
            offset, writes = part["head_bytes"], []
            for step, rows in part["archives"]:
                if int(at) // step != int(at - part["every"]) // step:
                    writes.append(offset + int(at) // step % rows * part["row_bytes"])
                offset += rows * part["row_bytes"]
            places = ",".join(map(str, writes)) or "-"
            yield (
                at,
                "rrd",
                f"{part['folder']}/{n}.rrd",
                part["head_bytes"],
                part["row_bytes"],
                places,
                random.getrandbits(30),
            )


def _rrd_bytes(part: dict[str, Any]) -> int:
    rows = sum(rows for _, rows in part["archives"])
    return int(part["head_bytes"] + rows * part["row_bytes"])


def _schema(part: dict[str, Any]) -> str:
    values = ",".join(f"({n},'{name}',0,0)" for n, name in enumerate(part["interfaces"]))
    tables = "".join(
        f"CREATE TABLE {table}(id INTEGER PRIMARY KEY,interface,date,rx,tx,UNIQUE(interface,date));"
        for table in ("fiveminute", "hour", "day")
    )
    return f"{tables}CREATE TABLE interface(id INTEGER PRIMARY KEY,name,rx,tx);INSERT INTO interface VALUES{values};"


def _sqlite(part: dict[str, Any], random: Random) -> Iterator[tuple[Any, ...]]:
    for at in _every(part["every"], 17):
        statements = ["BEGIN;"]
        for n, _ in enumerate(part["interfaces"]):
            rx, tx = random.randrange(10**8), random.randrange(10**7)
            statements.append(f"UPDATE interface SET rx=rx+{rx},tx=tx+{tx} WHERE id={n};")
            for table, step in (("fiveminute", 300), ("hour", 3600), ("day", 86400)):
                # NOW is the event's own time in seconds since the first day, which the guest fills
                # in.
                statements.append(
                    f"INSERT INTO {table}(interface,date,rx,tx)VALUES({n},NOW/{step},{rx},{tx})"
                    "ON CONFLICT DO UPDATE SET rx=rx+excluded.rx,tx=tx+excluded.tx;"
                )
        yield at, "sql", part["file"], " ".join(statements) + "COMMIT;"


def _leases(part: dict[str, Any], random: Random) -> Iterator[tuple[Any, ...]]:
    for at in _poisson(random, part["per_hour"]):
        yield at, "rewrite", part["file"], part["clients"] * 72, random.getrandbits(30)


def _cron(part: dict[str, Any], random: Random) -> Iterator[tuple[Any, ...]]:
    for job in part["jobs"]:
        for at in _every(job["every"], 1):
            yield at, "append", part["log"], random.randint(60, 90), random.getrandbits(30)
            yield at + 1.5, "replace", job["state"], job["bytes"], 0, random.getrandbits(30)


def _config(part: dict[str, Any], random: Random) -> Iterator[tuple[Any, ...]]:
    for at in part["at"]:
        yield (
            _clock(at),
            "replace",
            random.choice(part["files"]),
            random.randint(*part["bytes"]),
            1,
            random.getrandbits(30),
        )


def _upgrade(part: dict[str, Any], random: Random) -> Iterator[tuple[Any, ...]]:
    at, archive = float(_clock(part["at"])), "var/cache/apt/archives/pkg.deb"
    yield at, "create", archive, part["archive_bytes"], random.getrandbits(30)

    at += 5.0
    yield at, "replace", part["status"], part["status_bytes"], 1, random.getrandbits(30)
    # All are unpacked before the first is renamed.
    for verb in ("unpack", "rename"):
        for n in range(part["files"]):
            at += 0.02
            words = (
                (random.randint(*part["file_bytes"]), random.getrandbits(30))
                if verb == "unpack"
                else ()
            )
            yield at, verb, f"usr/lib/pkg/{n}", *words
    # Files of the old version that the new one lacks; the day after they return.
    for n in random.sample(range(part["files"]), part["dropped"]):
        at += 0.02
        yield at, "remove", f"usr/lib/pkg/{n}"
    for _ in range(part["status_writes"] - 1):
        at += 2
        yield at, "replace", part["status"], part["status_bytes"], 1, random.getrandbits(30)
    yield at + 1, "remove", archive


def _reads(part: dict[str, Any], random: Random) -> Iterator[tuple[Any, ...]]:
    for at in _poisson(random, part["per_hour"]):
        yield at, "read", f"{part['folder']}/{random.randrange(260)}"


PARTS: dict[str, Callable[..., Iterator[tuple[Any, ...]]]] = {
    "syslog": _syslog,
    "append": _append,
    "rotate": _rotate,
    "rrd": _rrd,
    "sqlite": _sqlite,
    "leases": _leases,
    "cron": _cron,
    "config": _config,
    "upgrade": _upgrade,
    "reads": _reads,
}
