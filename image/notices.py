"""What the parts' licences require: each program's parts, their owners, and the texts.

    python3 -m image.notices TARGET [--debian|--packed]     e.g. i586-unknown-linux-musl

It covers the program itself for both packages and for images, and the other programs of an image. A
part without a text is an error, so that a person looks at each new one.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from image import tools
from image.errors import Refused

TOP = Path(__file__).resolve().parent.parent
PLACE = "/usr/share/doc/cowflush/third-party.gz"
I586 = "i586-unknown-linux-musl"
# Debian's rust-web-src has std's source here; and the vendored parts with which std is linked.
STD = Path("/usr/src")
IN_STD = (
    "addr2line",
    "adler2",
    "cfg-if",
    "gimli",
    "hashbrown",
    "libc",
    "memchr",
    "miniz_oxide",
    "object",
    "rustc-demangle",
)
COMMON = Path("/usr/share/common-licenses")
# Of two licences to choose from, MIT is taken.
NAMES = re.compile(r"(licen[cs]e[-_.]mit|licen[cs]e|copying|unlicense)(\.(md|txt))?", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """Another's work: its name with its version, its licence's short name and its text."""

    name: str
    licence: str
    text: str


def text_of(folder: Path) -> str:
    """The licence's text in a source's folder."""
    found = sorted(
        (path for path in folder.iterdir() if path.is_file() and NAMES.fullmatch(path.name)),
        key=lambda path: (not re.search("mit", path.name, re.IGNORECASE), path.name.lower()),
    )
    if not found:
        raise Refused(f"no licence's text is in {folder}: it can't be passed on without")
    return found[0].read_text(errors="replace").strip()


@functools.cache
def linked(target: str) -> tuple[Part, ...]:
    """Everything that the program for a target holds besides cowflush."""
    return (*_crates(target), *_std(), _musl())


def _crates(target: str) -> list[Part]:
    cargo = ["/usr/bin/cargo"]
    # cargo's own settings count here: a proxy, or the place of its registry.
    environment = {**os.environ, "RUSTC": "/usr/bin/rustc", "RUSTC_BOOTSTRAP": "1"}
    common = ["--locked", "--manifest-path", str(TOP / "Cargo.toml")]
    tree = [*cargo, "tree", *common, "--package", "cowflush", "--edges", "normal,no-proc-macro"]
    tree += ["--prefix", "none", "--target", target, "--format", "{p}"]
    words = [line.split()[:2] for line in tools.ok(tree, more=environment).decode().splitlines()]
    wanted = {(word[0], word[1].removeprefix("v")) for word in words if len(word) == 2}
    metadata = [*cargo, "metadata", *common, "--format-version", "1", "--filter-platform", target]
    packages = json.loads(tools.ok(metadata, more=environment))["packages"]
    return [
        Part(
            f"{package['name']} {package['version']}",
            package["license"] or "see below",
            text_of(Path(package["manifest_path"]).parent),
        )
        for package in sorted(packages, key=lambda package: (package["name"], package["version"]))
        if (package["name"], package["version"]) in wanted and package["name"] != "cowflush"
    ]


def _std() -> list[Part]:
    sources = sorted(STD.glob("rustc-*/library"))
    if not sources:
        raise Refused(f"{STD}/rustc-* is missing: install Debian's package rust-web-src")
    library = sources[-1]
    release = library.parent.name.removeprefix("rustc-")
    own = _mit("The Rust Project Contributors")
    parts = [Part(f"Rust's standard library {release}", "MIT OR Apache-2.0", own)]
    builtins = library / "compiler-builtins" / "LICENSE.txt"
    if builtins.exists():
        text = builtins.read_text(errors="replace").strip()
        licence = "MIT AND Apache-2.0 WITH LLVM-exception AND (MIT OR Apache-2.0)"
        parts.append(Part(f"compiler_builtins of Rust {release}", licence, text))
    for folder in sorted((library / "vendor").iterdir()):
        name, _, number = folder.name.rpartition("-")
        if name in IN_STD:
            parts.append(_vendored(f"{name} {number}", folder))
    return parts


def _vendored(name: str, folder: Path) -> Part:
    """A part of std: Debian leaves out most licence files, so Cargo.toml says which text it is."""
    package = tomllib.loads((folder / "Cargo.toml").read_text())["package"]
    if "MIT" not in package["license"]:
        return Part(name, package["license"], text_of(folder))
    authors = ", ".join(package.get("authors", [])) or f"The {package['name']} developers"
    return Part(name, package["license"], _mit(f"{authors} ({package['repository']})"))


def _mit(whose: str) -> str:
    text = (TOP / "LICENSE-MIT").read_text()
    return f"Copyright (c) {whose}\n\n{text[text.index('Permission') :].strip()}"


def _musl() -> Part:
    return Part("musl", "MIT", (TOP / "package" / "licenses" / "musl").read_text().strip())


def gpl(name: str, number: int, source: str) -> Part:
    """A program under the GPL, and where its source is."""
    text = COMMON / f"GPL-{number}"
    if not text.exists():
        raise Refused(f"{text} is missing: install Debian's package base-files")
    return Part(f"{name}. {source}", f"GPL-{number}", text.read_text().strip())


OFFER = """Whoever passes an image on that holds programs under the GPL passes these programs on, too: with it goes their source, or
a written offer of it (GPL-2 section 3, GPL-3 section 6). The source is that of the Debian packages that are named; Debian keeps
each version in its snapshot archive. The scripts in cross/ of cowflush's source fetch them and build from them."""


def render(parts: tuple[Part, ...]) -> str:
    """The text, with each licence once."""
    # Most differ only in the copyright line.
    groups: dict[str, list[tuple[Part, str]]] = {}
    for part in parts:
        whose, text = _split(part.text)
        groups.setdefault(text, []).append((part, whose))
    lines = [
        "cowflush is made with the work of others. What, under which licence, and the licences:",
        "",
    ]
    if any(part.licence.startswith("GPL") for part in parts):
        lines += [*OFFER.splitlines(), ""]
    for text, those in groups.items():
        lines.append("-" * 76)
        for part, whose in those:
            lines += [
                f"{part.name} ({part.licence})",
                *(f"    {line}" for line in whose.splitlines()),
            ]
        lines += ["", text, ""]
    return "\n".join(lines)


def _split(text: str) -> tuple[str, str]:
    """Splits a plain MIT licence: the copyright lines, and the rest, which all have in common."""
    head, found, rest = text.partition("Permission is hereby granted")
    lines = [line.strip() for line in head.splitlines() if line.strip()]
    known = all(
        re.match(r"(The )?MIT License|\(MIT\)|Copyright|\(c\)|All rights", line, re.IGNORECASE)
        for line in lines
    )
    if not found or not lines or not known:
        return "", text
    whose = [line for line in lines if not re.fullmatch(r"(The )?MIT License( \(MIT\))?", line)]
    return "\n".join(whose), " ".join((found + rest).split())


def packed(parts: tuple[Part, ...]) -> bytes:
    """The notices packed for a card, which has little room."""
    return gzip.compress(render(parts).encode(), 9, mtime=0)


def debian(parts: tuple[Part, ...]) -> str:
    """The notices as a paragraph of Debian's copyright file."""
    comment = [f" {line}" if line.strip() else " ." for line in render(parts).splitlines()]
    return "\n".join(
        [
            "Files: usr/sbin/cowflush",
            "Copyright: 2026 The cowflush authors, and those of the libraries that it is linked with",
            "License: MIT or Apache-2.0",
            "Comment:",
            *comment,
            "",
        ]
    )


def main(words: list[str]) -> int:
    if not words or len(words) > 2 or words[1:] not in ([], ["--debian"], ["--packed"]):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        parts = linked(words[0])
    except (Refused, OSError) as error:
        print(f"notices: {error}", file=sys.stderr)
        return 1
    match words[1:]:
        case ["--debian"]:
            sys.stdout.write(debian(parts))
        case ["--packed"]:
            sys.stdout.buffer.write(packed(parts))
        case _:
            sys.stdout.write(render(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
