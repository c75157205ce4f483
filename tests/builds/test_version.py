"""Each build's version is newer than the last build's; builds of one commit share theirs."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness import artefacts, local

SCRIPT = artefacts.TOP / "image" / "version.py"
BEGAN = 1_790_000_000


class Tree:
    """A clone of the sources, with only the files that the version depends on."""

    def __init__(self, top: Path) -> None:
        self.top = top
        (top / "image").mkdir(parents=True)
        (top / "src").mkdir()
        shutil.copy(SCRIPT, top / "image")
        self.cargo("0.1.0")
        self.write("src/main.rs", "1")
        self.clock = BEGAN

    def cargo(self, version: str) -> None:
        self.write(
            "Cargo.toml", f'[workspace]\n[package]\nname = "cowflush"\nversion = "{version}"\n'
        )

    def write(self, name: str, text: str, at: int = BEGAN) -> None:
        path = self.top / name
        path.write_text(text)
        os.utime(path, (at, at))

    def git(self, *words: str) -> None:
        self.clock += 60
        date = f"{self.clock} +0200"
        environment = {
            **os.environ, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date, "GIT_CONFIG_GLOBAL": "/dev/null",
        }  # fmt: skip
        who = ("-c", "user.name=x", "-c", "user.email=x", "-c", "init.defaultBranch=main")
        local.run(
            ["git", "-C", self.top, *who, *words], check=True, capture_output=True, env=environment
        )

    def commit(self, name: str, text: str) -> None:
        # Git does not read a file again whose size and time are unchanged.
        self.write(name, text, self.clock)
        self.git("add", "--all")
        self.git("commit", "-m", "x")

    def version(self, kind: str = "debian", **more: str) -> str:
        environment = {
            key: value for key, value in os.environ.items() if key != "SOURCE_DATE_EPOCH"
        }
        return local.run(
            [sys.executable, "-B", self.top / "image" / "version.py", kind],
            check=True, capture_output=True, text=True, env={**environment, **more},
        ).stdout.strip()  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path / "tree")
    made.git("init")
    made.commit("src/main.rs", "2")
    return made


def newer(one: str, other: str) -> bool:
    return local.run(["dpkg", "--compare-versions", one, "lt", other]).returncode == 0


def test_later_builds_are_newer(tree: Tree) -> None:
    """Over commits, an uncommitted change, a release, what comes after it, and the next version."""
    seen = ["0.0.9-1", "0.1.0~dev-1", tree.version()]
    assert re.fullmatch(r"0\.1\.0~dev\d{8}\.\d{6}\.g[0-9a-f]{10}-1", seen[-1])
    tree.commit("src/main.rs", "3")
    seen.append(tree.version())
    tree.write("src/main.rs", "4", tree.clock + 10)
    seen.append(tree.version())
    assert "+changed" in seen[-1]
    tree.write("src/main.rs", "5", tree.clock + 20)
    seen.append(tree.version())
    tree.write("src/new.rs", "6", tree.clock + 30)
    seen.append(tree.version())
    tree.commit("src/main.rs", "7")
    seen.append(tree.version())
    tree.git("tag", "v0.1.0")
    seen.append(tree.version())
    assert seen[-1] == "0.1.0-1"
    tree.commit("src/main.rs", "8")
    seen.append(tree.version())
    assert seen[-1].startswith("0.1.0+dev")
    tree.cargo("0.2.0")
    tree.commit("src/main.rs", "9")
    seen.append(tree.version())
    assert seen[-1].startswith("0.2.0~dev")
    for before, after in itertools.pairwise(seen):
        assert newer(before, after), f"{after} must be newer than {before}"


def test_what_no_package_is_made_of_changes_no_version(tree: Tree) -> None:
    before = tree.version()
    tree.commit("README.md", "other words")
    tree.write("NOTES", "not in git")
    assert tree.version() == before
    tree.git("tag", "v0.1.0")
    tree.commit("README.md", "more words")
    assert tree.version() == "0.1.0-1"


def test_two_clones_agree_and_a_shallow_one_too(tree: Tree, tmp_path: Path) -> None:
    tree.commit("src/main.rs", "3")
    for name, words in (("one", ()), ("other", ("--depth", "1"))):
        local.run(
            ["git", "clone", *words, f"file://{tree.top}", tmp_path / name],
            check=True,
            capture_output=True,
        )
        clone = Tree.__new__(Tree)
        clone.top = tmp_path / name
        assert [clone.version(kind) for kind in ("debian", "openwrt-build", "epoch")] == [
            tree.version(kind) for kind in ("debian", "openwrt-build", "epoch")
        ]


def test_without_git_the_newest_file_tells(tree: Tree) -> None:
    """Files' times also count in a tree inside a foreign repository, and where git is missing."""
    epoch = int(tree.version("epoch"))
    assert epoch > BEGAN
    nowhere = tree.top.parent / "empty"
    nowhere.mkdir()
    for name in ("env", "python3"):
        (nowhere / name).symlink_to(f"/usr/bin/{name}")
    tree.write("src/main.rs", "3", 1_800_000_000)
    for path in tree.top.rglob("*"):
        if path.is_file() and ".git" not in path.parts and path.name != "main.rs":
            os.utime(path, (BEGAN, BEGAN))
    plain = tree.version(PATH=str(nowhere))
    assert plain == "0.1.0~dev20270115.080000.nogit-1" and newer(
        "0.1.0~dev20260101.000000.gabc-1", plain
    )
    assert tree.version("epoch", PATH=str(nowhere)) == "1800000000"
    assert tree.version("epoch", PATH=str(nowhere), SOURCE_DATE_EPOCH="1700000000") == "1700000000"
    shutil.rmtree(tree.top / ".git")
    assert tree.version() == plain
    local.run(["git", "init", tree.top.parent], check=True, capture_output=True)
    assert tree.version() == plain


def test_whoever_owns_the_folder_git_is_asked(tree: Tree) -> None:
    """Under sudo, git refuses to read another user's clone; that must not change the version."""
    before = tree.version()
    git = tree.top.parent / "bin" / "git"
    git.parent.mkdir()
    git.write_text(
        f'#!/bin/sh\nGIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec "{shutil.which("git")}" "$@"\n'
    )
    git.chmod(0o755)
    path = f"{git.parent}:{os.environ['PATH']}"
    assert tree.version(PATH=path, GIT_CONFIG_GLOBAL="/dev/null", GIT_DIR="/nonexistent") == before
    # Git itself does refuse here.
    done = local.run(
        [git, "-C", tree.top, "log"],
        capture_output=True,
        env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"},
    )
    assert b"dubious ownership" in done.stderr


def test_openwrt_s_build_system_gets_a_version_that_apk_takes(tree: Tree) -> None:
    """apk's grammar: digits, then suffixes it knows; opkg compares as dpkg does."""
    one = tree.version("openwrt-build")
    tree.commit("src/main.rs", "3")
    other = tree.version("openwrt-build")
    for version in (one, other):
        assert re.fullmatch(r"\d+(\.\d+)*(_(alpha|beta|pre|rc|cvs|svn|git|hg|p)\d{0,9})*", version)
    assert newer(f"{one}-r1", f"{other}-r1")
    tree.git("tag", "v0.1.0")
    assert tree.version("openwrt-build") == "0.1.0"


def test_apt_installs_the_next_build(tree: Tree, tmp_path: Path) -> None:
    """While all builds had one version, apt called a fix "already the newest version"."""
    before = tree.version()
    tree.commit("src/main.rs", "3")
    after = tree.version()
    control = f"Package: cowflush\nArchitecture: all\nMaintainer: x <x@localhost>\nDescription: x\nVersion: {after}\n"
    (tmp_path / "deb/DEBIAN").mkdir(parents=True)
    (tmp_path / "deb/DEBIAN/control").write_text(control)
    package = tmp_path / "cowflush.deb"
    local.run(["dpkg-deb", "--build", tmp_path / "deb", package], check=True, capture_output=True)
    for installed, expected in (
        (before, f"Inst cowflush [{before}] ({after}"),
        (after, "already the newest"),
    ):
        status = control.replace(after, installed) + "Status: install ok installed\n"
        (tmp_path / "status").write_text(status)
        options = (
            f"Dir::State::status={tmp_path}/status",
            f"Dir::State={tmp_path}/apt",
            f"Dir::Cache={tmp_path}/apt",
        )
        for folder in ("apt/lists/partial", "apt/archives/partial"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        command = [
            "apt-get",
            "--simulate",
            *(f"-o{option}" for option in options),
            "install",
            str(package),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env={**os.environ, "LC_ALL": "C"}
        )
        assert expected in done.stdout, done.stdout + done.stderr
