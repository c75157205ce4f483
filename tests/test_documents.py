"""What the documents tell people to type exists."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from vm import artefacts

TOP = artefacts.TOP
DOCUMENTS = sorted(
    path.relative_to(TOP)
    for pattern in ("*.md", "docs/*.md", "board/*/*.md", "package/*/*.md")
    for path in TOP.glob(pattern)
)


def code(path: Path) -> Iterator[str]:
    """The code of a document, piece by piece: lines that are set in, and what stands in backticks."""
    text = (TOP / path).read_text()
    for line in text.splitlines():
        if line.startswith("    "):
            yield line.strip()
    yield from (" ".join(found.split()) for found in re.findall(r"`([^`]+)`", text))


def commands(path: Path, program: str) -> Iterator[list[str]]:
    """The words behind a program's name, for each piece of code that begins with it."""
    for piece in code(path):
        words = _words(piece.partition("  #")[0].removeprefix("# ").removeprefix("sudo "))
        if words[:1] == [program]:
            yield words[1:]


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # it isn't a command
        return []


def test_there_are_documents() -> None:
    assert len(DOCUMENTS) > 8
    assert sum(1 for path in DOCUMENTS for _ in commands(path, "make")) > 20
    assert sum(1 for path in DOCUMENTS for _ in commands(path, "cowflush")) > 50


def test_make_has_every_target_that_a_document_names() -> None:
    """Makefile's own words are asked, so that patterns such as deb-% count."""
    named = {
        word
        for path in DOCUMENTS
        for words in commands(path, "make")
        for word in words
        if re.fullmatch(r"[a-z][a-z0-9.-]*", word)
    }
    assert "test" in named
    for target in sorted(named):
        done = subprocess.run(
            ["make", "--dry-run", target, "DEV=/dev/null", "IMAGE=/dev/null"],
            cwd=TOP,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"make {target}: {done.stderr}"
        assert "Nothing to be done" not in done.stdout, done.stdout


def test_a_document_names_one_interpreter() -> None:
    """Make's targets run the project's programs with Debian's Python; another `python3` may be first
    on a person's PATH, and lacks what they need."""
    found = [
        f"{path}: {piece}"
        for path in DOCUMENTS
        for piece in code(path)
        if re.search(r"(^|[^/\w])python3? +(-m |tests/|image)", piece)
    ]
    assert found == []


def test_variables_of_make_are_ones_that_it_reads() -> None:
    makefile = (TOP / "Makefile").read_text()
    for path in DOCUMENTS:
        for words in commands(path, "make"):
            for name in re.findall(r"\b([A-Z_]+)=", " ".join(words)):
                assert re.search(rf"\$\({name}\)|\$\(if \$\({name}\)|{name}\b", makefile), (
                    f"{path}: {name}="
                )


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """`cowflush COMMAND --help`, by the command; "" is the program's own."""
    program = artefacts.host_cowflush()

    def text(*words: str) -> str:
        done = subprocess.run(
            [program, *words, "--help"], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    whole = text()
    names = re.findall(r"^  ([a-z]+)  ", whole.partition("Commands:")[2], re.MULTILINE)
    assert "flush" in names
    return {"": whole, **{name: text(name) for name in names}, "log format": text("log", "format")}


def test_cowflush_has_every_command_and_option_that_a_document_names(helps: dict[str, str]) -> None:
    for path in DOCUMENTS:
        for words in commands(path, "cowflush"):
            if not words or not re.fullmatch(r"[a-z]+", words[0]) or words[0] == "init":
                continue
            command = "log format" if words[:2] == ["log", "format"] else words[0]
            assert command in helps, f"{path}: cowflush {' '.join(words)}"
            for option in re.findall(r"--[a-z-]+", " ".join(words)):
                assert option in helps[command] or option == "--help", (
                    f"{path}: cowflush {' '.join(words)}"
                )
