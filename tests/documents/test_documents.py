"""Commands and links in the documents exist, and the documents have their agreed form."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from documents.markdown import wrapped
from harness import artefacts

TOP = artefacts.TOP
DOCUMENTS = sorted(
    path.relative_to(TOP)
    for pattern in ("*.md", "docs/**/*.md", "board/*/*.md", "package/*/*.md")
    for path in TOP.glob(pattern)
)


def code(path: Path) -> Iterator[str]:
    """The code of a document, piece by piece: indented lines, and text in backticks."""
    text = (TOP / path).read_text()
    for line in text.splitlines():
        if line.startswith("    "):
            yield line.strip()
    yield from (" ".join(found.split()) for found in re.findall(r"`([^`]+)`", text))


def commands(path: Path, program: str) -> Iterator[list[str]]:
    """The words after a program's name, for each piece of code that begins with it."""
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
    """Make itself is asked, so that patterns such as deb-% count."""
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
    """Make's targets run the project's programs with Debian's Python.

    Another `python3`, first on a person's PATH, may lack what they need.
    """
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


def test_the_document_of_commands_has_each_command_once(helps: dict[str, str]) -> None:
    table = (TOP / "docs" / "use" / "commands.md").read_text().split("\n\n## ", 1)[0]
    rows = re.findall(r"^\| (`.*?) \| ", table, re.MULTILINE)
    named = [word for row in rows for word in re.findall(r"`(?:cowflush )?([a-z]+)`", row)]
    assert sorted(named) == sorted(name for name in helps if name and " " not in name)


# --- links ---------------------------------------------------------------------------


def links(text: str) -> list[str]:
    """The targets of a document's links and pictures, without those in its code."""
    prose = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    prose = re.sub(r"``.+?``|`[^`]*`", "code", prose, flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", prose)


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as the forges make them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+)$", text, re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        number, first = 0, anchor
        while anchor in found:
            number += 1
            anchor = f"{first}-{number}"
        found.add(anchor)
    return found


def broken(document: Path) -> list[str]:
    """The relative links of a document that lead nowhere, or to a missing heading."""
    text = document.read_text()
    lost = []
    for link in links(text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        there = document.parent / name if name else document
        if not there.exists() or (anchor and anchor not in anchors(there.read_text())):
            lost.append(link)
    return lost


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# What `it` is, and why\n\n## Twice\n\n## Twice\n")
    document = tmp_path / "document.md"
    document.write_text(
        "# Here\n[a](other.md#what-it-is-and-why) [b](#here) [c](other.md#twice-1) ![d](other.md) "
        "`[e](gone.md)` [f](https://example.org/gone)\n\n    [g](gone.md)\n"
    )
    assert broken(document) == []
    gone = ["other.md#what", "#there", "gone.md", "other.md#twice-2"]
    document.write_text("# Here\n" + " ".join(f"[a\nlink]({link})" for link in gone))
    assert broken(document) == gone


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_every_link_of_a_document_leads_to_something(path: Path) -> None:
    assert broken(TOP / path) == []


def test_the_documents_link_to_each_other() -> None:
    """Without links the test above would test nothing."""
    assert sum(len(links((TOP / path).read_text())) for path in DOCUMENTS) > 150


def test_the_index_leads_to_every_document() -> None:
    """docs/README.md, to which README.md links, links to each document."""
    index = TOP / "docs" / "README.md"
    led = {(index.parent / link.partition("#")[0]).resolve() for link in links(index.read_text())}
    missing = [str(path) for path in DOCUMENTS if (TOP / path).resolve() not in led | {index}]
    assert missing == []
    assert "docs/README.md" in links((TOP / "README.md").read_text())


def test_sources_name_documents_that_exist() -> None:
    """Comments and messages name documents, too, by a path from the project's top."""
    listed = subprocess.run(
        ["git", "ls-files", "src", "tests", "image", "package", "initramfs", "cross", "fuzz"],
        cwd=TOP, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    named: set[str] = set()
    for name in listed:
        path = TOP / name
        if path.suffix in (".rs", ".py", ".sh", ".toml") and path.is_file():
            named |= set(re.findall(r"\b(?:docs/[\w/-]+|[A-Z]{5,})\.md\b", path.read_text()))
    assert len(named) > 8
    assert sorted(name for name in named if not (TOP / name).exists()) == []


# --- form ----------------------------------------------------------------------------


def test_what_a_newcomer_reads_first_is_short() -> None:
    for name, most in (("README.md", 150), ("ARCHITECTURE.md", 200)):
        assert len((TOP / name).read_text().splitlines()) <= most, name


def test_prose_is_wrapped_and_nothing_else() -> None:
    long = "word " * 30
    text = (
        f"# {long}\n\n{long}\n- {long}\n  more\n\n| {long} |\n\n    {long}\n\n"
        f"- `{long}`\\\n  `{long}`\\\n  **When** it\n  happens.\n  {long}\n"
    )
    done = wrapped(text)
    assert " ".join(done.split()) == " ".join(text.split()) and wrapped(done) == done
    lines = done.splitlines()
    kept = (f"# {long}", f"| {long} |", f"    {long}", f"- `{long}`\\", f"  `{long}`\\")
    assert [line for line in lines if len(line) > 100] == [*kept]
    assert "  **When** it happens." in lines
    # Not as an item: "1." at the beginning of a line would be one.
    assert wrapped("x" * 96 + " y 1. z").splitlines() == ["x" * 96, "y 1. z"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_a_document_is_wrapped_once(path: Path) -> None:
    text = (TOP / path).read_text()
    assert wrapped(text) == text, (
        f"`make fmt`, or: /usr/bin/python3 tests/documents/markdown.py {path}"
    )
