"""The harness on the host: its outcomes reach pytest, and no QEMU outlives its runner."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness import Card, CommandFailed, Filesystem, Result, artefacts, card, console, local, room
from harness.ext import ExtImage
from harness.lab import Lab
from harness.outcome import impossible_flags
from harness.patience import Patience
from harness.pytest_plugin import TIERS

TESTS = Path(__file__).parents[1]

THREE_OUTCOMES = """
from harness import Lost

def test_pass(): pass
def test_fail(): assert False
def test_lost(): raise Lost("the guest said no more", "its last words")
"""

BOOT_AND_WAIT = """
import sys, time
from pathlib import Path
from harness.lab import Lab

vm = Lab(Path(sys.argv[1]))(direct=True, wait=False)
print(vm.process.popen.pid, flush=True)
time.sleep(60)
"""

MAKE_FILESYSTEM = """
import sys
from pathlib import Path
from harness import ext

Path("d").mkdir()
Path("d/dev").mkdir()
Path("d/file").write_text("x")
ext.make(Path("fs.img"), ext.Filesystem(), Path("d"), 8 << 20)
"""


def inner_pytest(directory: Path, test: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs pytest by itself, with our plugin, on one file of tests, and with nothing built."""
    (directory / "test_inner.py").write_text(test)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "harness.pytest_plugin",
        "-p",
        "no:cacheprovider",
        *options,
        str(directory),
    ]
    # Its logs are kept apart.
    build = str(directory / "nothing")
    # It is nobody's worker.
    own = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    variables = {**own, "PYTHONPATH": f"{TESTS}:{directory}", "COWFLUSH_BUILD": build}
    return local.run(command, cwd=directory, env=variables, capture_output=True, text=True)


def shared(room: str) -> list[Path]:
    """The modules that tests share, of one folder or of all three."""
    rooms = ("harness", "product", "systems") if room == "*" else (room,)
    found = [path for room in rooms for path in (TESTS / room).glob("*.py")]
    return [path for path in found if not path.name.startswith("test_")]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def ends(pid: int) -> bool:
    """Whether a killed process goes: it exists until the kernel gets to it."""
    deadline = time.monotonic() + 30
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def test_lost_is_loud_and_no_pass(tmp_path: Path) -> None:
    done = inner_pytest(tmp_path, THREE_OUTCOMES)
    assert done.returncode == 1
    assert "2 failed, 1 passed" in done.stdout
    assert "LOST: the guest said no more" in done.stdout
    assert "its last words" in done.stdout
    lost_section = done.stdout.split("these say nothing about their case", 1)[1]
    assert "test_lost" in lost_section
    assert "::test_fail" not in lost_section.split("short test summary")[0]


ONCE = """
from pathlib import Path
from harness.outcome import {kind}
def test_it():
    first = Path("{mark}")
    if not first.exists():
        first.touch()
        raise {kind}("QEMU made a mistake (EFLAGS: c3304606): it panicked", "its last words")
    assert {holds}
"""


@pytest.mark.parametrize(
    ("kind", "holds", "code", "twice"),
    [
        ("EmulatorFault", "True", 0, True),
        ("EmulatorFault", "False", 1, True),
        ("Lost", "True", 1, False),
    ],
)
def test_a_test_runs_once_more_after_the_emulators_own_mistake_alone(
    tmp_path: Path, kind: str, holds: str, code: int, twice: bool
) -> None:
    mark = tmp_path / "mark"
    done = inner_pytest(tmp_path, ONCE.format(kind=kind, holds=holds, mark=mark))
    assert done.returncode == code
    assert ("these ran twice" in done.stdout) == twice
    if twice:
        assert "test_it: " in done.stdout and "EFLAGS: c3304606" in done.stdout


def test_flags_that_no_processor_has_are_told_from_a_kernels_own_crash() -> None:
    # As the emulator once left them: with the direction flag and some bits of a pointer.
    broken = "[    7.33] DS: 007b ES: 007b FS: 00d8 GS: 0033 SS: 0068 EFLAGS: c3304606"
    assert impossible_flags(f"before\n{broken}\nafter") == broken
    assert (
        impossible_flags("RSP: 0018:ffffc9 EFLAGS: 00010044") == "RSP: 0018:ffffc9 EFLAGS: 00010044"
    )
    for flags in ("00200246", "00010002", "003f7fd7"):
        assert impossible_flags(f"SS: 0068 EFLAGS: {flags}") is None
    assert impossible_flags("Kernel panic - not syncing: Fatal exception") is None


@pytest.mark.parametrize("tier", TIERS)
def test_a_run_begins_only_where_its_disks_have_room(
    tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def free(size: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, size))

    free(room.NEEDED[tier])
    assert room.lacking(tier) is None
    free(room.NEEDED[tier] - 1)
    assert f"need {room.NEEDED[tier] >> 20}: make room" in (room.lacking(tier) or "")
    # Single tests need little.
    assert room.lacking(None) is None


def test_a_full_disk_ends_a_run_before_it_begins(tmp_path: Path) -> None:
    full = "import shutil\nshutil.disk_usage = lambda _: shutil._ntuple_diskusage(0, 0, 0)\n"
    (tmp_path / "sitecustomize.py").write_text(full)
    done = inner_pytest(tmp_path, "def test_it(): pass", "--tier", "test")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "has 0 MiB free" in done.stderr and "passed" not in done.stdout


def test_a_missing_artefact_is_an_error(tmp_path: Path) -> None:
    done = inner_pytest(tmp_path, "def test_it(boot): boot(direct=True)")
    assert done.returncode == 1
    assert "run `make build`" in done.stdout
    assert "1 failed" in done.stdout and "skipped" not in done.stdout


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_qemu_ends_with_its_runner(tmp_path: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-c", BOOT_AND_WAIT, str(tmp_path / "lab")]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    runner = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert runner.stdout
    pid = int(runner.stdout.readline())
    assert alive(pid)
    runner.send_signal(how)
    runner.wait()
    assert ends(pid)


def test_the_kernel_breaks_into_no_line() -> None:
    said = "Booting from ROM..[    0.000000] Linux\n[    1.100000] one\nalix login: [    1.200000] two\n[    1.300000] three\nroot\n[  OK  ] Star[    2.000000] four\nted it.\n# "
    assert console.whole_lines(said).splitlines() == [
        "Booting from ROM..[    0.000000] Linux",
        "[    1.100000] one",
        "[    1.200000] two",
        "[    1.300000] three",
        "alix login: root",
        "[    2.000000] four",
        "[  OK  ] Started it.",
        "# ",
    ]


def test_a_program_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    # The inner process holds the output open.
    hangs = f"sleep 60 & echo $! >{pid}; echo begun; wait"
    begin = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired) as raised:
        local.run(["sh", "-c", hangs], capture_output=True, text=True, timeout=2)
    assert str(raised.value.stdout) == "begun\n"
    assert time.monotonic() - begin < 50 and ends(int(pid.read_text()))


def test_what_a_program_said_is_kept(tmp_path: Path) -> None:
    record = local.Record(tmp_path / "record")
    record.add("one\ntwo", "it exited 3", b"words\n")
    record.add("long", "it exited 0", b"<" + bytes(1 << 20) + b">")
    kept = (tmp_path / "record").read_bytes()
    assert kept.startswith(b"$ one\n$ two\nwords\n[it exited 3]\n$ long\n<")
    assert kept.endswith(b">\n[it exited 0]\n") and len(kept) < 3 * local.KEPT_BYTES


def test_the_harness_starts_no_program_without_a_limit() -> None:
    alone = {"local.py", "launch.py"}  # the limit itself, and QEMU, which has its own
    starts = re.compile(r"subprocess\.(run|Popen|call|check_\w+|getoutput)\(|os\.(system|popen)\(")
    found = {path.name for path in shared("*") if starts.search(path.read_text())}
    assert found == alone


def test_no_room_of_the_tests_uses_one_above_it() -> None:
    """harness/ uses nothing of product/, product/ nothing of systems/, and none of them a test."""
    above = {"harness": ("product", "systems"), "product": ("systems",), "systems": ()}
    for folder, others in above.items():
        names = "|".join((*others, r"(\w+\.)?test_"))
        uses = re.compile(rf"^\s*(from|import) ({names})", re.MULTILINE)
        found = [path.name for path in shared(folder) if uses.search(path.read_text())]
        assert found == [], f"{folder} uses {names}"


def test_no_two_files_of_tests_have_one_name() -> None:
    """A test's logs and the documents name it by its file's name alone."""
    names = [path.name for path in TESTS.rglob("test_*.py")]
    assert len(names) > 80 and sorted(names) == sorted(set(names))
    astray = [path.name for path in TESTS.glob("*.py") if path.name != "conftest.py"]
    assert astray == [], "these go to the folder of their subject"


def test_only_a_program_that_ran_and_ended_by_itself_has_refused() -> None:
    for code in (1, 2, 125):
        assert Result("a command", code, b"").fails().code == code
    for code, why in (
        (0, "should have failed: a command"),
        (126, "could not be run"),
        (127, "no such program"),
        (128 + signal.SIGKILL, "a signal ended it"),
    ):
        with pytest.raises(CommandFailed, match=why):
            Result("a command", code, b"").fails()


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_guest_is_waited_for_while_it_says_something() -> None:
    clock = Clock()
    patience = Patience(None, 5, clock)
    for clock.now in range(0, 60, 4):
        patience.heard()
        assert not patience.over()
    clock.now = 61
    assert not patience.over()
    clock.now = 62
    assert patience.over() == "the guest was silent for 5 s"


def test_a_limit_in_all_ends_a_wait_whatever_is_said() -> None:
    clock = Clock()
    patience = Patience(20, 5, clock)
    for clock.now in range(21):
        assert not patience.over()
    clock.now = 21
    patience.heard()
    assert patience.over() == "the guest took longer than 20 s"


def test_fsck_sees_damage(tmp_path: Path) -> None:
    card = Card.create(tmp_path / "card.img")
    card.fsck()
    image = card.fs()
    local.run(
        ["debugfs", "-w", "-R", "clri /etc/passwd", str(image.path)],
        check=True,
        capture_output=True,
    )
    with pytest.raises(AssertionError, match=r"e2fsck -fn .* ended with 4"):
        image.fsck()


def test_absent_files_are_not_read_as_empty(tmp_path: Path) -> None:
    card = Card.create(tmp_path / "card.img")
    with pytest.raises(AssertionError, match="can't read /none"):
        card.read("/none")
    with pytest.raises(AssertionError):
        card.hashes("/none")


def test_differing_sectors_are_found(tmp_path: Path) -> None:
    one = Card.create(tmp_path / "one.img")
    other = one.copy(tmp_path / "other.img")
    assert one.differing_sectors(other) == []
    with open(other.path, "r+b") as image:
        for sector in (0, 5000, 400_000):
            image.seek(sector * 512 + 511)
            image.write(b"\xa5")
    assert one.differing_sectors(other) == [0, 5000, 400_000]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates for this test alone."""
    monkeypatch.setattr(artefacts, "CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("own_cache")
def test_a_template_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    Card.create(tmp_path / "one.img")
    (template,) = artefacts.CACHE.glob("card-*.img")
    os.truncate(template, 0)
    Card.create(tmp_path / "other.img").fsck()
    assert (tmp_path / "other.img").stat().st_size == card.CARD_BYTES == template.stat().st_size


@pytest.mark.usefixtures("own_cache")
def test_a_template_is_made_once_though_many_want_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made, begin = card._make, list[str](), threading.Barrier(4)

    def counted(work: Path, table: bytes, filesystem: Filesystem, target: str) -> Path:
        made.append(filesystem.kind)
        return make(work, table, filesystem, target)

    monkeypatch.setattr(card, "_make", counted)

    def create(number: int) -> list[int]:
        begin.wait(30)
        return Card.create(tmp_path / f"{number}.img", Filesystem("ext2")).differing_sectors(
            Card.create(tmp_path / f"{number}-again.img", Filesystem("ext2"))
        )

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(create, range(4))) == [[]] * 4
    assert made == ["ext2"]


@pytest.mark.usefixtures("own_cache")
def test_old_templates_go_and_those_in_use_stay(tmp_path: Path) -> None:
    Card.create(tmp_path / "one.img")
    (used,) = artefacts.CACHE.glob("card-*.img")
    stale = artefacts.CACHE / "card-stale.img"
    stale.touch()
    for template in (used, stale):
        os.utime(template, (0, 0))
    Card.create(tmp_path / "two.img")
    Card.create(tmp_path / "three.img", Filesystem("ext3"))
    assert used.exists() and not stale.exists()


def test_the_card_has_two_aligned_partitions(tmp_path: Path) -> None:
    card = Card.create(tmp_path / "card.img")
    assert len(card.partitions) == 2
    assert card.root.start * 512 % (4 << 20) == 0
    assert card.log.size * 512 == 64 << 20
    assert card.root.sectors.stop <= card.log.start


def test_files_belong_to_root_whoever_makes_them() -> None:
    user = 65534 if os.getuid() == 0 else os.getuid()
    with tempfile.TemporaryDirectory() as temporary:
        os.chown(temporary, user, -1)
        # That user may not be allowed to read this clone.
        shutil.copytree(TESTS / "harness", Path(temporary) / "harness")
        command = [sys.executable, "-c", MAKE_FILESYSTEM]
        local.run(command, cwd=temporary, user=user, check=True)
        image = Path(temporary) / "fs.img"
        assert image.stat().st_uid == user
        for name in ("/", "/file", "/dev", "/dev/console"):
            listed = local.run(
                ["debugfs", "-R", f"stat {name}", image], capture_output=True, text=True
            ).stdout
            assert "User:     0   Group:     0" in listed, listed
        ExtImage(image).fsck()


def test_the_lab_ends_its_guests(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab")
    vm = lab(direct=True, wait=False)
    lab.end(keep_images=False)
    assert not vm.process.alive()
    assert not list(tmp_path.rglob("*.img"))
    assert (vm.process.directory / "console.log").exists()
