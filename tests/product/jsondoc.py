"""Checks what the commands print as JSON against docs/json.md, which other programs rely on.

The document's tables are the only description: an undocumented key, a missing one, another type, or
an undocumented word fails.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from typing import Any

from harness import artefacts

DOCUMENT = artefacts.TOP / "docs" / "json.md"
TYPES: dict[str, type] = {"number": int, "string": str, "word": str, "boolean": bool}
LINK = re.compile(r"(list of )?\[[^\]]+\]\(#([a-z-]+)\)")
# A command that has no table of its own for that case.
NO_LOG = "without-a-log"


class NotAsDocumented(AssertionError):
    """What a command printed is not what docs/json.md says."""


@dataclass(frozen=True)
class Value:
    """What a table's line says of a key: a plain type, or the table that describes it."""

    plain: type | None
    table: str
    is_list: bool
    words: tuple[str, ...]
    may_be_empty: bool
    may_be_null: bool


Table = dict[str, Value]


@functools.cache
def tables() -> dict[str, Table]:
    """All tables, by their heading's anchor; a command's by its name, such as `log`."""
    found: dict[str, Table] = {}
    names: list[str] = []
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("#"):
            names = re.findall(r"`cowflush ([a-z]+) --json`", line) or [_anchor(line)]
        elif line.startswith("| `"):
            key, kind, text = _cells(line)
            for name in names:
                table = found.setdefault(name, {})
                if key in table:
                    raise ValueError(f"{DOCUMENT}: {name} has {key} twice")
                table[key] = _value(kind, text)
    return found


def _anchor(heading: str) -> str:
    return heading.strip("# ").lower().replace(" ", "-")


def _cells(line: str) -> tuple[str, str, str]:
    key, kind, text = (cell.strip() for cell in line.strip("|").split(" | "))
    return key.strip("`"), kind, text


def _value(kind: str, text: str) -> Value:
    may_be_null = kind.endswith(" or null")
    kind = kind.removesuffix(" or null")
    linked = LINK.fullmatch(kind)
    if not linked and kind not in TYPES:
        raise ValueError(f"{DOCUMENT}: no such type: {kind}")
    words: tuple[str, ...] = ()
    if kind == "word":
        # Text in parentheses or after a semicolon only explains.
        words = tuple(re.findall(r"`([^`]+)`", re.sub(r"\([^)]*\)", "", text).split(";")[0]))
        if not words:
            raise ValueError(f"{DOCUMENT}: a word of which none is named: {text}")
    return Value(
        plain=None if linked else TYPES[kind],
        table=linked[2] if linked else "",
        is_list=bool(linked and linked[1]),
        words=words,
        may_be_empty="; empty " in text,
        may_be_null=may_be_null,
    )


def check(name: str, found: Any) -> Any:
    """Fails unless `found` matches the document's table of this name; returns it."""
    table = tables()[name]
    if not isinstance(found, dict) or set(found) != set(table):
        raise NotAsDocumented(f"{name} has the keys {sorted(table)} by {DOCUMENT}: {found}")
    for key, value in table.items():
        _check_value(f"{name}.{key}", value, found[key])
    return found


def _check_value(where: str, value: Value, found: Any) -> None:
    if found is None and value.may_be_null:
        return
    if value.table:
        if value.is_list and not isinstance(found, list):
            raise NotAsDocumented(f"{where} is a list by {DOCUMENT}: {found!r}")
        for each in found if value.is_list else [found]:
            check(value.table, each)
        return
    # In Python, True is a number.
    if type(found) is not value.plain:
        raise NotAsDocumented(f"{where} is another type by {DOCUMENT}: {found!r}")
    named = not value.words or (found == "" and value.may_be_empty)
    if not named and not any(_fits(word, str(found)) for word in value.words):
        raise NotAsDocumented(f"{where} is one of {value.words} by {DOCUMENT}: {found!r}")


def _fits(word: str, found: str) -> bool:
    pattern = re.escape(word).replace("HH:MM", r"([01]\d|2[0-3]):[0-5]\d")
    return re.fullmatch(pattern, found) is not None


def parse(name: str, text: str | bytes) -> dict[str, Any]:
    """Parses what a command printed: one object on one line, as documented."""
    if (text.decode() if isinstance(text, bytes) else text).count("\n") != 1:
        raise NotAsDocumented(f"{name} prints one line: {text!r}")
    found: dict[str, Any] = check(name, json.loads(text))
    return found
