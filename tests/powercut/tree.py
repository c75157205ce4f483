"""Root's files as the guest's own programs see them, and as e2fsprogs find them on a card.

Nothing here asks cowflush. Two writers are at work during a flush, so nobody can know beforehand at
which of their steps it seals root. What they write proves itself instead: numbered files and
numbered lines, each of which can be computed. All other files stay unchanged from the moment they
are read until the flush has returned, and must be the same to the last byte.
"""

from __future__ import annotations

import hashlib
import json
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path

from harness.ext import ExtImage
from harness.machine import VM
from product import workload

APPENDED = "/root/appended"
# One line of `guest-tools writer`
LINE_BYTES = 100
# Where the guest has other filesystems, and what the writers change
ELSEWHERE = ("/dev", "/proc", "/sys", "/run")
MOVING = (workload.FOLDER, APPENDED)
SHOWN = 5

# Busybox alone lists the files. A file is its type and mode, the time of its last change, and its
# content; for a link the target counts. MD5 guards only against chance, and is three times as fast
# in an emulated guest.
_PRUNE = " -o ".join(f"-path .{path}" for path in (*ELSEWHERE, *MOVING))
LOOK = f"""
cd / && find . -xdev \\( {_PRUNE} \\) -prune -o -exec stat -c '%f %Y %N' {{}} + &&
echo contents && find . -xdev \\( {_PRUNE} \\) -prune -o -type f -exec md5sum {{}} + &&
echo writers && ls .{workload.FOLDER} 2>/dev/null | grep -vc new
cat {APPENDED} 2>/dev/null | wc -l
"""


@dataclass(frozen=True)
class Truth:
    """What root must hold: exactly `files`, and at least so many rounds and lines of the writers."""

    files: Mapping[str, str]
    rounds: int = 0
    lines: int = 0

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Truth:
        return cls(**json.loads(path.read_text()))


def in_guest(vm: VM) -> Truth:
    """What the guest's find, stat and md5sum print now."""
    text = vm.run(LOOK, timeout=120).ok().text
    listed, _, rest = text.partition("contents\n")
    sums, _, writers = rest.partition("writers\n")
    digests = dict(_digest(line) for line in sums.splitlines())
    files = dict(_listed(line, digests) for line in listed.splitlines())
    rounds, lines = map(int, writers.split())
    assert len(files) > 100 and digests.keys() <= files.keys(), f"the guest listed {files}"
    return Truth(files, rounds, lines)


def _digest(line: str) -> tuple[str, str]:
    digest, name = line.split("  ", 1)
    return _path(name), digest


def _listed(line: str, digests: Mapping[str, str]) -> tuple[str, str]:
    mode, changed, name = line.split(" ", 2)
    name, _, target = name.partition(" -> ")
    path = _path(name.strip("'"))
    return path, entry(int(mode, 16), int(changed), digests.get(path, ""), target.strip("'"))


def _path(name: str) -> str:
    return "/" + name.removeprefix(".").removeprefix("/")


def entry(mode: int, changed: int, digest: str, target: str) -> str:
    if stat.S_ISLNK(mode):
        return f"link to {target}"
    # debugfs gives its copies only these bits.
    access = f"{mode & 0o777:o}"
    if stat.S_ISREG(mode):
        return f"file {access} {changed} {digest}"
    assert stat.S_ISDIR(mode), f"{mode:o} is neither a file, a folder nor a link"
    return f"folder {access} {changed}"


def on_card(image: ExtImage, direct: bool = False) -> Truth:
    """Root's files, as debugfs finds them in an image. The writers' files must be whole.

    With `direct` root was written to directly at the end: of what the writers had not synced by
    then only the name may be there, and only what comes before it counts.
    """
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        image.dump("/", base)
        files = {"/": "folder"}
        for path in base.rglob("*"):
            name = f"/{path.relative_to(base)}"
            if not any(name == left or name.startswith(f"{left}/") for left in ELSEWHERE + MOVING):
                files[name] = _dumped(path)
        rounds = _rounds(base / workload.FOLDER.lstrip("/"), direct)
        return Truth(files, rounds, _lines(base / APPENDED.lstrip("/"), direct))


def _dumped(path: Path) -> str:
    about = path.lstat()
    link = stat.S_ISLNK(about.st_mode)
    regular = stat.S_ISREG(about.st_mode)
    digest = hashlib.md5(path.read_bytes()).hexdigest() if regular else ""
    target = str(path.readlink()) if link else ""
    return entry(about.st_mode, int(about.st_mtime), digest, target)


def _rounds(folder: Path, direct: bool) -> int:
    """How many rounds there are, from 1 on; the last may still have its other name."""
    found = {
        f"{workload.FOLDER}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder.iterdir() if folder.exists() else ())
        if not path.name.endswith(".new")
    }
    expected = workload.hashes(len(found))
    if direct:
        return len(list(takewhile(lambda name: found.get(name) == expected[name], expected)))
    wrong = sorted(name for name in found if found[name] != expected.get(name))
    assert not wrong, f"{len(found)} rounds are on the card, and these are not as written: {wrong}"
    return len(found)


def _lines(path: Path, direct: bool) -> int:
    """How many lines there are. Each boot's writer counts from 0 again."""
    text = path.read_bytes() if path.exists() else b""
    number, lines = -1, text.splitlines(keepends=True)
    for place, line in enumerate(lines):
        number = 0 if line == _line(0) else number + 1
        if direct and line != _line(number):
            return place
        assert line == _line(number), f"{path.name} goes on with {line!r} where line {number} was"
    return len(lines)


def _line(number: int) -> bytes:
    return f"line {number} ".encode().ljust(LINE_BYTES - 1, b".") + b"\n"


def complaint(found: Truth, wanted: Truth) -> str:
    """In what root differs from `wanted`, or ""."""
    # A dump of "/" goes into a folder of its own.
    mine, theirs = ({k: v for k, v in t.files.items() if k != "/"} for t in (found, wanted))
    wrong = [f"missing: {name}" for name in sorted(theirs.keys() - mine.keys())]
    wrong += [f"not known to the guest: {name}" for name in sorted(mine.keys() - theirs.keys())]
    wrong += [
        f"{name} is {mine[name]} and was {theirs[name]}"
        for name in sorted(mine.keys() & theirs.keys())
        if mine[name] != theirs[name]
    ]
    if found.rounds < wanted.rounds:
        wrong.append(f"{wanted.rounds} rounds were written, {found.rounds} are there")
    if found.lines < wanted.lines:
        wrong.append(f"{wanted.lines} lines were written, {found.lines} are there")
    more = f", and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    return "; ".join(wrong[:SHOWN]) + more
