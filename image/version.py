#!/usr/bin/python3
"""The version of what is built here, from git: each build's is newer than the last one's.

    image/version.py debian|openwrt-build|epoch

A release, tagged vVERSION, is VERSION-1. Before it comes VERSION~devDATE.TIME.gCOMMIT-1, for the
last commit that changed what packages are made of; after it VERSION+dev… . If such a file was
changed since, +changedDATE.TIME follows, with the time of that. A shallow clone knows only its last
commit, and takes that. Without git (a tarball, or a machine that lacks it) the newest file's time
replaces the commit's: it is newer than older builds, but two machines need not agree.
SOURCE_DATE_EPOCH overrides the time.

`epoch` is the same time in seconds since 1970, for archives: the same commit gives the same bytes.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
# What packages and images are made of; commits to other files change no version
SOURCES = ("Cargo.toml", "Cargo.lock", "src", "package", "cross", "initramfs", "image", "board", "CHANGELOG.md",
           "LICENSE-MIT", "LICENSE-APACHE")  # fmt: skip


@dataclass(frozen=True)
class Build:
    """A build: Cargo's version, and its place in time. Times are in seconds since 1970."""

    number: str
    at: int
    # The commit's name; empty without git
    commit: str = ""
    # When a file not in the commit was last changed; 0: none was
    changed: int = 0
    # Whether VERSION is this release, or is already out
    release: bool = False
    after: bool = False

    def debian(self) -> str:
        """The version for dpkg and opkg, which compare it."""
        if self.release:
            return f"{self.number}-1"
        mark = "+" if self.after else "~"
        commit = f"g{self.commit[:10]}" if self.commit else "nogit"
        changed = f"+changed{_stamp(self.changed)}" if self.changed else ""
        return f"{self.number}{mark}dev{_stamp(self.at)}.{commit}{changed}-1"

    def openwrt_build(self) -> str:
        """The version for OpenWrt's build system: apk and opkg both take it, and order it alike."""
        if self.release:
            return self.number
        day, clock = _stamp(self.changed or self.at).split(".")
        return f"{self.number}_{'p' if self.after else 'pre'}{day}_p{clock}"

    def epoch(self) -> int:
        return self.changed or self.at


def _stamp(seconds: int) -> str:
    return time.strftime("%Y%m%d.%H%M%S", time.gmtime(seconds))


def look(top: Path = TOP) -> Build:
    """The build that the sources in `top` give."""
    found = re.search(r'^version = "(.*)"', (top / "Cargo.toml").read_text(), re.MULTILINE)
    if not found:
        raise SystemExit("Cargo.toml has no version")
    number = found[1]
    said = os.environ.get("SOURCE_DATE_EPOCH", "")
    last = _git(top, "log", "-1", "--format=%ct %H", "--", *SOURCES).split()
    if not last or Path(_git(top, "rev-parse", "--show-toplevel").strip()).resolve() != top:
        return Build(number, int(said) if said.isdigit() else _newest(_all(top)))
    tag = f"v{number}"
    after = _git(top, "tag", "--merged", "HEAD", "--list", tag).strip() == tag
    changed = [top / name for name in _changed(top) if name]
    release = (
        after and not changed and not _git(top, "diff", "--name-only", tag, "HEAD", "--", *SOURCES)
    )
    return Build(number, int(last[0]), last[1], _newest(changed), release, after)


def _git(top: Path, *words: str) -> str:
    """git's output; empty without git. The folder's owner does not matter: it is only read."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = [
        "git",
        "-c",
        f"safe.directory={top}",
        "-c",
        "core.fsmonitor=false",
        "-C",
        str(top),
        *words,
    ]
    try:
        done = subprocess.run(command, capture_output=True, env=environment)
    except OSError:
        return ""
    return done.stdout.decode(errors="surrogateescape") if done.returncode == 0 else ""


def _changed(top: Path) -> list[str]:
    """The files that differ from the commit, or are in none."""
    return [
        *_git(top, "diff", "--name-only", "-z", "HEAD", "--", *SOURCES).split("\0"),
        *_git(top, "ls-files", "--others", "--exclude-standard", "-z", "--", *SOURCES).split("\0"),
    ]


def _all(top: Path) -> list[Path]:
    return [path for name in SOURCES for path in [top / name, *(top / name).rglob("*")]
            if path.is_file() and "__pycache__" not in path.parts]  # fmt: skip


def _newest(paths: list[Path]) -> int:
    """When the youngest of them was changed; for a removed one, its folder. 0 for none."""
    times = []
    for path in paths:
        while not path.exists():
            path = path.parent
        times.append(int(path.lstat().st_mtime))
    return max(times, default=0)


@functools.cache
def epoch() -> int:
    """The time of everything that is made, in seconds since 1970: the same each time."""
    said = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(said) if said.isdigit() else look().epoch()


def main(words: list[str]) -> int:
    match words:
        case ["debian"]:
            print(look().debian())
        case ["openwrt-build"]:
            print(look().openwrt_build())
        case ["epoch"]:
            print(epoch())
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
