"""Debian's systems are made once, by a command of their own; a test without one says why."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from harness import artefacts, local
from harness.lab import Lab
from harness.outcome import Lost
from systems import debian, debian_make


class Maker:
    """Replaces what installs a system: it counts, and can take long or fail."""

    def __init__(self) -> None:
        self.calls = 0
        self.fails: Exception | None = None
        self.seconds = 0.0

    def __call__(self, lab: Lab, init: str, folder: Path) -> None:
        self.calls += 1
        (lab.directory / "disk.img").touch()
        time.sleep(self.seconds)
        if self.fails:
            raise self.fails
        (folder / debian.SEEN).write_text("{}")


def package(folder: Path, program: str, date: str = "a day") -> None:
    """Makes folder/cowflush.deb, with a program and a document."""
    tree = folder / "tree"
    files = {
        "DEBIAN/control": "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@localhost>\nDescription: x\n",
        "usr/sbin/cowflush": program,
        "usr/share/doc/cowflush/changelog": date,
    }
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    command: list[str | Path] = [
        "dpkg-deb",
        "--root-owner-group",
        "--build",
        tree,
        folder / "cowflush.deb",
    ]
    local.run(command, capture_output=True, check=True)


@pytest.fixture
def maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """An empty cache for this test; the parts of the systems are made up."""
    (tmp_path / "disk.img").touch()
    package(tmp_path, "the program")
    monkeypatch.setattr(artefacts, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(artefacts, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(artefacts, "debian_disk", lambda init: tmp_path / "disk.img")
    monkeypatch.setattr(artefacts, "debian_package", lambda arch: tmp_path / "cowflush.deb")
    maker = Maker()
    monkeypatch.setattr(debian_make, "install", maker)
    return maker


def missing(init: str) -> str:
    with pytest.raises(artefacts.MissingArtefact) as error:
        debian.template(init)
    said = str(error.value)
    assert "\n" not in said
    return said


def test_one_that_is_not_made_is_not_made_by_a_test(maker: Maker) -> None:
    assert "systemd" in missing("systemd") and "run `make debian-systems`" in missing("systemd")
    assert "run `make debian-systems-amd64`" in missing("dracut")
    assert maker.calls == 0 and not artefacts.CACHE.exists()


def test_the_targets_that_are_named_are_there() -> None:
    for target in ("debian-systems", "debian-systems-amd64"):
        run = local.run(["make", "-n", target], cwd=artefacts.TOP, capture_output=True)
        assert run.stdout.count(b"-m systems.debian_make") == 2, run.stderr


def test_what_it_is_made_of_is_missing(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = artefacts.BUILD / "no-such.deb"
    monkeypatch.setattr(artefacts, "debian_package", lambda arch: artefacts.needed(gone))
    assert "run `make debian-systems`" in missing("sysvinit")
    assert debian_make.main(["sysvinit"]) == 1 and maker.calls == 0


def test_it_is_made_once_and_anew_for_another_package(maker: Maker, tmp_path: Path) -> None:
    assert debian_make.main(["systemd"]) == debian_make.main(["systemd"]) == 0
    first = debian.template("systemd")
    assert maker.calls == 1 and (first / debian.SEEN).exists()
    package(tmp_path, "the program", date="the next day")
    assert debian.template("systemd") == first, "its documents are of no account"
    package(tmp_path, "another program")
    assert "run `make debian-systems`" in missing("systemd")
    assert debian_make.main(["systemd"]) == 0
    assert maker.calls == 2 and debian.template("systemd") != first and not first.exists()
    # The other systems are not concerned.
    assert debian_make.main(["sysvinit"]) == 0 and debian.template("systemd").exists()


def test_only_what_the_makers_do_makes_it_another_system() -> None:
    """Neither docstrings and comments nor their folders count."""
    source = '"""Doc."""\nimport os\nfrom vm import x\n\ndef f() -> int:\n    """Doc."""\n    return x.y(1)  # why\n'
    code = debian._code(source)
    assert "x.y(1)" in code
    assert (
        debian._code(source.replace("vm", "harness").replace("Doc", "New").replace("why", "so"))
        == code
    )
    assert debian._code(source.replace("y(1)", "y(2)")) != code


def test_one_that_can_not_be_made_says_why_until_somebody_tries_again(
    maker: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    maker.fails = Lost("the guest was silent for 240 s", "much that it said\nbefore")
    assert debian_make.main(["systemd"]) == 1
    said = missing("systemd")
    assert "the Debian system systemd could not be made: the guest was silent for 240 s" in said
    assert said in capsys.readouterr().err
    log = Path(said.rsplit(" ", 1)[1])
    assert "much that it said\nbefore" in log.read_text()
    # Its disks stay for inspection; a test finds no half of a system.
    assert (log.parent / "disk.img").exists()
    assert maker.calls == 1 and [*artefacts.CACHE.glob("*.new")] == []
    maker.fails = None
    assert debian_make.main(["systemd"]) == 0 and maker.calls == 2
    assert debian.template("systemd").exists() and [*artefacts.CACHE.glob("*.broken")] == []
    assert [*log.parent.glob("*.img")] == []


def test_two_commands_make_one(maker: Maker) -> None:
    maker.seconds = 0.5
    both = [threading.Thread(target=debian_make.make, args=("systemd",)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert maker.calls == 1 and debian.template("systemd").exists()


def test_one_that_was_interrupted_is_made_anew(maker: Maker) -> None:
    half = debian.place("systemd").with_suffix(".new")
    half.mkdir(parents=True)
    (half / debian.RUNNING).touch()
    assert "run `make debian-systems`" in missing("systemd")
    assert debian_make.main(["systemd"]) == 0
    assert not half.exists() and not (debian.template("systemd") / debian.RUNNING).exists()


def test_a_test_s_report_of_it_is_a_line(tmp_path: Path) -> None:
    """A missing system is a failure and no reason to skip a test."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["harness.pytest_plugin"]\n')
    (tmp_path / "test_it.py").write_text(
        "from harness import artefacts\ndef test_it():\n    artefacts.needed(artefacts.TOP / 'no-such')\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={tmp_path}"]
    run = local.run(
        [*command, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(artefacts.TOP / "tests")},
    )
    assert run.returncode == 1 and "1 failed" in run.stdout, run.stdout
    shown = run.stdout.split("FAILURES")[1].splitlines()
    assert len([line for line in shown if "no-such is missing" in line]) == 1, run.stdout
    assert "Traceback" not in run.stdout and "def needed" not in run.stdout
