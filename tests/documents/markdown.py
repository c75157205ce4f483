#!/usr/bin/python3
"""Wraps the prose of Markdown files at 100 columns, in place.

    /usr/bin/python3 tests/documents/markdown.py FILE…

`make fmt` calls it, and tests/documents/test_documents.py checks that it was called. It wraps only
prose. Headings, tables, code, pictures and lines that end in a hard break stay as they are. In
docs/messages.md the text after an entry's **When** begins on a new line.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

WIDTH = 100
MARK = re.compile(r"( *)([-*]|\d+\.) +(?=\S)")
# A list's mark, a heading or a quotation at the beginning of a line
NOT_FIRST = re.compile(r"([-+*>]|#+|\d+[.)])( |$)")


def wrapped(text: str) -> str:
    """Returns the document with its prose wrapped."""
    out: list[str] = []
    prose = _Prose(out)
    fence = False
    for line in text.split("\n"):
        if line.startswith("```") or fence:
            prose.end()
            out.append(line)
            fence ^= line.startswith("```")
        elif not line.strip() or re.match(r"[|#]|!\[", line):
            prose.end()
            out.append(line)
        elif line.startswith("    ") and not prose.lines:
            out.append(line)
        elif mark := MARK.match(line):
            prose.end()
            prose.begin(mark[0], line[mark.end() :])
        elif not prose.lines:
            prose.begin(re.match(" *", line)[0], line.strip())  # type: ignore[index]
        else:
            prose.go_on(line.strip())
    prose.end()
    return "\n".join(out)


class _Prose:
    """A paragraph or a list's item while it is read."""

    def __init__(self, out: list[str]) -> None:
        self.out = out
        self.lines: list[str] = []
        self.first = self.rest = ""

    def begin(self, lead: str, line: str) -> None:
        self.first, self.rest = lead, " " * len(lead)
        self.lines = [line]

    def go_on(self, line: str) -> None:
        event = self.lines[0].startswith("**When**")
        if self.lines[-1].endswith("\\") or (event and self.lines[-1].endswith(".")):
            self.end()
            self.begin(self.rest, line)
        else:
            self.lines.append(line)

    def end(self) -> None:
        if self.lines and self.lines[-1].endswith("\\"):
            self.out += [self.first + self.lines[0], *(self.rest + line for line in self.lines[1:])]
        elif self.lines:
            self.out += _broken(" ".join(self.lines), self.first, self.rest)
        self.lines = []


def _broken(text: str, first: str, rest: str) -> list[str]:
    """Lines no longer than WIDTH, none of which begins with what Markdown takes for a mark."""
    lines = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for number in range(1, len(lines)):
        if NOT_FIRST.match(lines[number].strip()):
            before, _, word = lines[number - 1].rpartition(" ")
            lines[number - 1] = before
            lines[number] = f"{rest}{word} {lines[number].strip()}"
    return lines


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        old = path.read_text()
        # The second pass wraps the texts that the first has put on lines of their own.
        new = wrapped(wrapped(old))
        if new != old:
            path.write_text(new)
            print(f"wrapped {path}")
