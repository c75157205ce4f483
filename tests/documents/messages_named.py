"""Lists which messages of docs/messages.md a test looks for, by the strings in the tests' sources.

A string names a message if it could be a part of it, or the message a part of the string, with
anything in the place of the words in capitals; if it has three words of the message, or all of
them; and if no other message fits it better. So a string with which several messages begin names
none of them. The strings are those in tests/ and in src/'s tests.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
# Words in capitals that are printed as they are
SAID_SO = {
    "CONFIG", "COW", "FLUSH", "FULL", "GRUB", "IS", "JSON", "LABEL", "LOST", "MT", "NO", "NOT", "OFF", "ON", "POWER", "RAM",
    "THE", "T", "UUID", "PARTUUID", "PARTLABEL", "DON", "MS", "TYPE_", "MiB", "HOLDS", "LACKS",
    "MORE", "READS", "THAN",
}  # fmt: skip
CAPITALS = re.compile(r"\b[A-Z]{2,}\b|\bN\b|…")
# These read the document and don't test messages.
READERS = {"test_messages.py", "messages_met.py", "messages_named.py"}
# Stands for anything.
HOLE = "\0"
WORD = re.compile(rf"\w[\w%/+-]*|{HOLE}")
# The parts of a string that stand for anything, in a format string, an f-string or a regular
# expression
ANYTHING = re.compile(r"\{[^{}]*\}|\(?(?:\.|\\[dSw]|\[[^\]]*\])[*+]\??\)?")
LEAST = 3
# How many words a word in capitals, or anything in a string, can stand for
MOST = 12

Words = tuple[str, ...]


def of_message(message: str) -> Words:
    return words(CAPITALS.sub(lambda word: word[0] if word[0] in SAID_SO else f" {HOLE} ", message))


def of_string(text: str) -> Words:
    return words(re.sub(r"\\(.)", r"\1", ANYTHING.sub(f" {HOLE} ", text)))


def words(text: str) -> Words:
    return tuple(WORD.findall(text))


def said(string: Words, message: Words) -> int:
    """How many words of a message a string has; 0 if neither can be a part of the other."""

    @cache
    def behind(i: int, j: int) -> int:
        if i == len(string) or j == len(message):
            return 0
        best = -1
        if string[i] == message[j] != HOLE:
            best = _plus(1, behind(i + 1, j + 1))
        if message[j] == HOLE:
            steps = range(1, min(MOST, len(string) - i) + 1)
            best = max(best, *(behind(i + step, j + 1) for step in steps))
        if string[i] == HOLE:
            steps = range(min(MOST, len(message) - j) + 1)
            best = max(best, *(behind(i + 1, j + step) for step in steps))
        return best

    return max(
        0,
        *(behind(i, 0) for i in range(len(string))),
        *(behind(0, j) for j in range(len(message))),
    )


def _plus(one: int, rest: int) -> int:
    return one + rest if rest >= 0 else -1


def named(messages: Iterable[str], strings: Iterable[str]) -> set[str]:
    """The messages that one of these strings names."""
    split = {message: of_message(message) for message in messages}
    having = defaultdict(set)
    for message, parts in split.items():
        for pair in _pairs(parts):
            having[pair].add(message)
    found: set[str] = set()
    for string in dict.fromkeys(map(of_string, strings)):
        likely = set().union(*(having[pair] for pair in _pairs(string) if pair in having))
        counts = {message: said(string, split[message]) for message in likely}
        best = max(counts.values(), default=0)
        alone = list(counts.values()).count(best) == 1
        for message, count in counts.items():
            whole = sum(word != HOLE for word in split[message])
            if count == whole > 0 or (count == best >= LEAST and alone):
                found.add(message)
    return found


def _pairs(parts: Words) -> set[Words]:
    """Pairs of neighbours; for a message of one word, that word."""
    return {pair for pair in pairwise(parts) if HOLE not in pair} or set(zip(parts))


def strings() -> Iterator[str]:
    """Every line of every string of the tests."""
    for path in sorted((TOP / "tests").rglob("*.py")):
        if path.name not in READERS:
            yield from of_python(path.read_text())
    for path in [*sorted((TOP / "src").rglob("*.rs")), *sorted((TOP / "tests").glob("*.rs"))]:
        yield from of_rust(path.read_text(), whole="tests" in path.relative_to(TOP).parts)


def of_python(source: str) -> Iterator[str]:
    tree = ast.parse(source)
    left_out = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            left_out |= {id(part) for part in node.values}
        # A failing assertion's text is not looked for.
        if isinstance(node, ast.Assert) and node.msg:
            left_out |= {id(part) for part in ast.walk(node.msg)}
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            yield from "".join(map(str, parts)).split("\n")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from node.value.split("\n")
        elif isinstance(node, ast.Constant) and isinstance(node.value, bytes):
            yield from node.value.decode(errors="replace").split("\n")


def of_rust(source: str, whole: bool) -> Iterator[str]:
    # Not the code after one item that only the tests have.
    begin = r"^#\[cfg\(test\)\]\nmod "
    tests = source if whole else "".join(re.split(begin, source, flags=re.MULTILINE)[1:])
    tests = re.sub(r"^\s*//[^\n]*", "", tests, flags=re.MULTILINE)
    for found in re.finditer(r'"((?:\\.|[^"\\])*)"', tests, re.DOTALL):
        text = re.sub(r"\\\n\s*", "", found[1]).replace('\\"', '"')
        yield from text.replace("\\n", "\n").split("\n")
