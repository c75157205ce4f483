"""The build checks its host before it installs or builds anything, and isolates each build.

What it builds does not depend on the caller's environment, and is kept whole or not at all.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from harness import artefacts


def deps(release: Path) -> subprocess.CompletedProcess[str]:
    """`cross/deps` on a machine with this os-release, which lacks nothing."""
    return subprocess.run(
        [artefacts.TOP / "cross" / "deps"],
        env={**os.environ, "OS_RELEASE": str(release)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "text",
    [
        'PRETTY_NAME="Debian GNU/Linux 11 (bullseye)"\nVERSION_CODENAME=bullseye\n',
        'PRETTY_NAME="Ubuntu 24.04 LTS"\nVERSION_CODENAME=noble\n',
        'PRETTY_NAME="Alpine Linux v3.20"\n',
        "",
    ],
    ids=["older", "ubuntu", "alpine", "nameless"],
)
def test_another_system_is_told_what_it_lacks(tmp_path: Path, text: str) -> None:
    file = tmp_path / "os-release"
    file.write_text(text)
    done = deps(file)
    assert done.returncode == 1
    assert "Debian 12 or 13 on x86-64" in done.stderr and "qemu-system-x86" in done.stderr
    assert text.partition('"')[2].partition('"')[0] in done.stderr


def test_a_system_without_a_name_is_told_too(tmp_path: Path) -> None:
    done = deps(tmp_path / "none")
    assert done.returncode == 1 and "this is an unknown system on" in done.stderr


@pytest.mark.parametrize("codename", ["bookworm", "trixie"])
def test_both_releases_of_debian_are_taken(tmp_path: Path, codename: str) -> None:
    file = tmp_path / "os-release"
    file.write_text(f'PRETTY_NAME="Debian"\nVERSION_CODENAME={codename}\n')
    done = deps(file)
    assert (done.returncode, done.stderr) == (0, "")


# --- who isn't root ------------------------------------------------------------------------


def stub(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def as_user(tmp_path: Path, subids: str, userns: str = "1") -> subprocess.CompletedProcess[str]:
    """`cross/deps debian` as a user, on a machine that lacks only uidmap."""
    stub(tmp_path / "bin", "id", '[ "$1" = -un ] && echo somebody || echo 1000')
    stub(tmp_path / "bin", "dpkg-query", 'case "$*" in *uidmap) exit 1 ;; esac; echo installed')
    stub(tmp_path / "bin", "sudo", f'echo "$*" >>"{tmp_path}/asked"')
    for name, text in (
        ("release", "VERSION_CODENAME=bookworm\n"),
        ("subids", subids),
        ("userns", userns),
    ):
        (tmp_path / name).write_text(text)
    environment = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "OS_RELEASE": f"{tmp_path}/release",
        "COWFLUSH_CACHE": f"{tmp_path}/cache",
        "COWFLUSH_SUBIDS": f"{tmp_path}/subids",
        "COWFLUSH_USERNS": f"{tmp_path}/userns",
    }
    return subprocess.run(
        [artefacts.TOP / "cross" / "deps", "debian"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_who_is_not_root_gets_what_mmdebstrap_needs_then(tmp_path: Path) -> None:
    done = as_user(tmp_path, "somebody:100000:65536\n")
    assert done.returncode == 0, done.stderr
    assert "install --yes --no-install-recommends uidmap\n" in (tmp_path / "asked").read_text()


def test_who_is_not_root_is_told_what_is_missing_first(tmp_path: Path) -> None:
    for subids, userns, why in (
        ("other:100000:65536\n", "1", "has no range in /etc/subuid"),
        ("somebody:100000:65536\n", "0", "lets no user make user namespaces"),
    ):
        done = as_user(tmp_path, subids, userns)
        assert done.returncode == 1 and why in done.stderr
        assert not (tmp_path / "asked").exists()


# --- the cache ------------------------------------------------------------------------------


class Cache:
    """Builds by a script of the test's own that sources cross/lib/common.sh."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.script = folder / "cache", folder / "build"
        self.stubs = folder / "bin"
        self.stubs.mkdir()

    def build(
        self, name: str, key: str, body: str, **more: str
    ) -> subprocess.CompletedProcess[str]:
        self.script.write_text(
            f"#!/usr/bin/env bash\nsource {artefacts.TOP}/cross/lib/common.sh\n"
            f"make_it() {{\n{body}\n}}\n"
            f'key={key}\ncached {name} "$key" "making it" make_it\n'
        )
        environment = {
            **os.environ,
            "COWFLUSH_CACHE": str(self.folder),
            "PATH": f"{self.stubs}:{os.environ['PATH']}",
            **more,
        }
        command = ["bash", str(self.script)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir() if path.is_dir()}

    def age(self, name: str, days: int) -> None:
        at = time.time() - days * 86400
        os.utime(self.folder / name, (at, at))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


KEYS = [f"{number:016x}" for number in range(9)]
FOREIGN = {
    "CC": "false", "V": "1", "KBUILD_OUTPUT": "/nonexistent", "KCFLAGS": "-DX", "LLVM": "1", "MAKEFLAGS": "-n", "MAKELEVEL": "3",
    "ARCH": "arm", "CROSS_COMPILE": "x-", "TAR_OPTIONS": "--sort=none", "CFLAGS": "-O0", "RUSTFLAGS": "-Cx", "LANG": "de_DE",
    "BASH_FUNC_make%%": "() { echo hijacked; }", "BASH_ENV": "/dev/null", "XZ_OPT": "-0", "CONFIG_SHELL": "false",
}  # fmt: skip


def test_a_build_sees_nothing_of_its_caller_s_environment(cache: Cache) -> None:
    """A foreign makefile would take its compiler or output folder from there."""
    body = 'env >"$1/env"\nprintf "all:\\n\\t@echo made with \\$(CC)\\n" >"$work/Makefile"\nmake -C "$work" >"$1/said"'
    done = cache.build("thing", KEYS[0], body, **FOREIGN, http_proxy="http://proxy:1")
    assert done.returncode == 0, done.stderr
    place = Path(done.stdout.strip())
    names = {line.partition("=")[0] for line in (place / "env").read_text().splitlines()}
    assert names & set(FOREIGN) == set() and {"PATH", "http_proxy", "LC_ALL"} <= names
    assert "made with cc" in (place / "said").read_text()


def test_the_kernel_s_build_goes_where_it_should(cache: Cache) -> None:
    """KBUILD_OUTPUT once made the build overwrite the caller's own .config."""
    theirs = cache.folder.parent / "theirs"
    theirs.mkdir()
    (theirs / ".config").write_text("precious")
    makefile = "O := $(or $(KBUILD_OUTPUT),.)\nall:\n\t@echo new >$(O)/.config\n"
    body = (
        f'cat >"$work/Makefile" <<"END"\n{makefile}END\nmake -C "$work"\ncp "$work/.config" "$1/"'
    )
    done = cache.build("kernel", KEYS[0], body, KBUILD_OUTPUT=str(theirs))
    assert done.returncode == 0, done.stderr
    assert (theirs / ".config").read_text() == "precious"
    assert (Path(done.stdout.strip()) / ".config").read_text() == "new\n"


def test_what_is_kept_is_on_the_disk_before_it_has_its_name(cache: Cache) -> None:
    order = cache.folder.parent / "order"
    for name in ("sync", "mv"):
        stub(cache.stubs, name, f'echo {name} "$@" >>"{order}"\nexec /usr/bin/{name} "$@"')
    cache.build("thing", KEYS[0], 'mkdir "$1/a"\necho x >"$1/a/file"\necho y >"$1/b c"')
    lines = order.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["sync", "mv", "sync"]
    assert "/a/file" in lines[0] and "/b c" in lines[0] and lines[2] == f"sync {cache.folder}"


def test_what_nobody_asked_for_in_two_months_goes(cache: Cache) -> None:
    for key in KEYS[:4]:
        cache.build("thing", key, 'echo x >"$1/x"')
    cache.build("thing-more", KEYS[0], 'echo x >"$1/x"')
    for name, days in (
        (f"thing-{KEYS[0]}", 61),
        (f"thing-{KEYS[1]}", 59),
        (f"thing-{KEYS[2]}", 99),
        (f"thing-more-{KEYS[0]}", 99),
    ):
        cache.age(name, days)
    # A build that is used counts as new again.
    cache.build("thing", KEYS[2], "false")
    assert cache.build("thing", KEYS[5], 'echo x >"$1/x"').returncode == 0
    left = {f"thing-{KEYS[number]}" for number in (1, 2, 3, 5)} | {f"thing-more-{KEYS[0]}"}
    assert cache.names() == left
    assert not (cache.folder / f"thing-{KEYS[0]}.log").exists()


def test_a_month_s_first_build_does_without_a_network(cache: Cache) -> None:
    """For what is only downloaded, last month's copy will do.

    What is built is never an older one.
    """
    for name, works in (
        ("linux-source-6.1", True),
        ("debian-kernel-newest", True),
        ("kernel-6.1", False),
    ):
        first = cache.build(name, KEYS[0], 'echo old >"$1/x"').stdout.strip()
        cache.build(f"{name}-other", KEYS[0], 'echo other >"$1/x"')
        done = cache.build(name, KEYS[1], "echo no network >&2\nfalse")
        if works:
            assert done.returncode == 0 and done.stdout.strip() == first
            assert "no network" in done.stderr and "going on with the one of 20" in done.stderr
        else:
            assert done.returncode == 1 and done.stdout == ""
    alone = cache.build("linux-source-6.12", KEYS[0], "false")
    assert alone.returncode == 1 and alone.stdout == ""


def test_a_file_that_is_not_there_is_in_no_key(cache: Cache, tmp_path: Path) -> None:
    """A key with just the file's name would stay the same whatever the file later holds."""
    there = tmp_path / "there"
    there.write_text("something")
    keys = []
    for argument in (there, "there", tmp_path / "moved"):
        done = cache.build("thing", f"$(key_of {argument})", "true")
        keys.append(done.stdout.strip())
    assert keys[0] != keys[1] and keys[0] and keys[1] and not keys[2]
    assert done.returncode == 1 and f"{argument} goes into a key, and is not there" in done.stderr
