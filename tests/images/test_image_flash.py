"""An image is written to a card and read back; what must not be overwritten is refused.

The kernel's view of the disks is made up in a folder: a test can't mount its host's disks.
"""

from __future__ import annotations

import gzip
import lzma
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import artefacts, local
from systems import bases, images

sys.path.insert(0, str(artefacts.TOP))

from image import disk, flash
from image.disk import Kernel
from image.errors import Refused

CARD = "8:16"
MIB = 1 << 20


class Machine:
    """A machine: system disk sda, card sdb with two partitions, a device-mapper device on sda2."""

    def __init__(self, top: Path) -> None:
        self.kernel = Kernel(top / "sys", top / "proc")
        self._disk("sda", "8:0", 4096, {"sda1": "8:1", "sda2": "8:2"}, "SYSTEM")
        self._disk("sdb", CARD, 512, {"sdb1": "8:17", "sdb2": "8:18"}, "CF CARD")
        self.mapper("dm-0", "253:0", "vg-root", "sda2")
        self.mounts(
            "253:0 / / rw - ext4 /dev/mapper/vg-root rw", "8:1 / /boot rw - ext4 /dev/sda1 rw"
        )
        self.swaps()

    def _disk(
        self, name: str, number: str, megabytes: int, parts: dict[str, str], model: str
    ) -> None:
        folder = self.kernel.sys / "devices" / "pci0" / name
        self._device(folder, number, megabytes * 2048)
        for place, (part, part_number) in enumerate(parts.items(), start=1):
            self._device(folder / part, part_number, 2048)
            (folder / part / "partition").write_text(f"{place}\n")
        (folder / "device").mkdir()
        (folder / "device" / "model").write_text(f"{model}\n")

    def _device(self, folder: Path, number: str, sectors: int) -> None:
        (folder / "holders").mkdir(parents=True)
        for name, content in (("dev", number), ("size", str(sectors)), ("ro", "0")):
            (folder / name).write_text(f"{content}\n")
        link = self.kernel.sys / "dev" / "block" / number
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder)

    def mapper(self, name: str, number: str, label: str, below: str) -> None:
        folder = self.kernel.sys / "devices" / "virtual" / name
        self._device(folder, number, 2048)
        (folder / "dm").mkdir()
        (folder / "dm" / "name").write_text(f"{label}\n")
        holder = (
            next(path for path in self.kernel.sys.glob(f"devices/*/*/{below}"))
            if below[-1].isdigit()
            else None
        )
        holder = holder or self.kernel.sys / "devices" / "pci0" / below
        (holder / "holders" / name).symlink_to(folder)

    def set(self, name: str, file: str, content: str) -> None:
        (self.kernel.sys / "devices" / "pci0" / name / file).write_text(f"{content}\n")

    def mounts(self, *lines: str) -> None:
        (self.kernel.proc / "self").mkdir(parents=True, exist_ok=True)
        text = "".join(f"{20 + place} 1 {line}\n" for place, line in enumerate(lines))
        (self.kernel.proc / "self" / "mountinfo").write_text(text)

    def swaps(self, *names: str) -> None:
        lines = [
            "Filename Type Size Used Priority",
            *(f"{name} partition 1 0 -2" for name in names),
        ]
        (self.kernel.proc / "swaps").write_text("\n".join(lines) + "\n")

    def check(self, number: str = CARD) -> disk.Disk:
        found = disk.look(number, self.kernel)
        disk.check_unused(found, self.kernel)
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_card_that_nobody_uses_may_be_overwritten(machine: Machine) -> None:
    found = machine.check()
    assert (found.name, found.size, found.model) == ("sdb", 512 * MIB, "CF CARD")


def lvm_mounted(machine: Machine) -> None:
    machine.mapper("dm-7", "253:7", "vg2-data", "sdb1")
    machine.mounts("253:7 / /srv rw - ext4 /dev/mapper/vg2-data rw")


USES: dict[str, tuple[Callable[[Machine], None], str]] = {
    "mounted": (
        lambda m: m.mounts("8:17 / /media/card rw - vfat /dev/sdb1 rw"),
        "sdb1 is mounted at /media/card: unmount it first",
    ),
    "mounted whole": (
        lambda m: m.mounts("8:16 / /media/a\\040b rw - vfat /dev/sdb rw"),
        "sdb is mounted at /media/a b",
    ),
    "by its name": (
        lambda m: m.mounts("0:42 / /mnt rw - btrfs /dev/sdb2 rw"),
        "sdb2 is mounted at /mnt",
    ),
    "as root": (
        lambda m: m.mounts("8:17 / / rw - ext4 /dev/root rw"),
        "sdb1 is mounted at /: the system runs on it",
    ),
    "swap": (lambda m: m.swaps("/dev/sdb2"), "sdb2 is swapped to: swapoff it first"),
    "LVM": (
        lambda m: m.mapper("dm-7", "253:7", "vg2-data", "sdb1"),
        "sdb1 is in use by the device vg2-data",
    ),
    "LVM, mounted": (
        lvm_mounted,
        "sdb1 is in use by the device vg2-data, which is mounted at /srv",
    ),
    "read-only": (
        lambda m: m.set("sdb", "ro", "1"),
        'sdb is read-only: is the card.s switch on "lock"?',
    ),
    "no card": (
        lambda m: m.set("sdb", "size", "0"),
        "sdb is empty: is there a card in the reader?",
    ),
}


@pytest.mark.parametrize("case", USES)
def test_a_card_in_use_is_refused(machine: Machine, case: str) -> None:
    use, why = USES[case]
    use(machine)
    with pytest.raises(Refused, match=why):
        machine.check()


def test_the_disk_that_the_system_runs_on_is_refused(machine: Machine) -> None:
    with pytest.raises(Refused, match="sda1 is mounted at /boot: the system runs on it"):
        machine.check("8:0")
    machine.mounts("253:0 / / rw - ext4 /dev/mapper/vg-root rw")
    with pytest.raises(
        Refused, match="in use by the device vg-root, which is mounted at /: the system runs on it"
    ):
        machine.check("8:0")


@pytest.mark.parametrize(
    ("number", "why"),
    [
        ("8:17", "sdb1 is a partition: name the whole disk, sdb"),
        ("253:0", "dm-0 is no disk of its own, but made of other devices"),
        ("9:9", "the kernel knows no block device 9:9"),
    ],
)
def test_what_is_no_whole_disk_is_refused(machine: Machine, number: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        machine.check(number)


# --- writing, to a file ----------------------------------------------------------------


def image(tmp_path: Path, size: int = 9 * MIB + 512) -> Path:
    path = tmp_path / "image.img"
    path.write_bytes(os.urandom(size))
    return path


def card(tmp_path: Path, size: int = 16 * MIB) -> Path:
    path = tmp_path / "card"
    path.write_bytes(b"old" * (size // 3 + 1))
    os.truncate(path, size)
    return path


def test_it_writes_and_verifies(tmp_path: Path) -> None:
    source, target = image(tmp_path), card(tmp_path)
    before = target.read_bytes()
    run = images.tool("flash", source, target, "--yes")
    assert run.returncode == 0 and "9 MiB written and verified" in run.stdout, run.stderr
    assert target.read_bytes() == source.read_bytes() + before[source.stat().st_size :]
    assert "written 100 %" in run.stderr and "verified 100 %" in run.stderr


def test_it_asks_first(tmp_path: Path) -> None:
    source, target = image(tmp_path), card(tmp_path)
    before = target.read_bytes()
    run = local.run(
        [sys.executable, "-m", "image", "flash", source, target],
        cwd=artefacts.TOP,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    assert (
        run.returncode == 1
        and b"would be lost, and nobody is there to agree: say --yes (YES=1)" in run.stderr
    )
    assert target.read_bytes() == before


def test_what_can_t_be_is_refused(tmp_path: Path) -> None:
    source, small = image(tmp_path), card(tmp_path, 4 * MIB)
    empty = tmp_path / "empty"
    empty.touch()
    for arguments, why in (
        ((source, small), "has 4 MiB, and the image takes 10 MiB"),
        ((source, tmp_path / "none"), f"{tmp_path / 'none'} does not exist"),
        ((source, source), "is the image itself"),
        ((source, "/dev/null"), "/dev/null is neither a block device nor a file"),
        ((empty, small), f"{empty} is no image: `make image` makes one"),
    ):
        assert why in images.refused("flash", *arguments, "--yes")


def test_a_packed_image_is_written_unpacked(tmp_path: Path) -> None:
    """The image is checked before the first byte is written."""
    source, target = image(tmp_path), card(tmp_path)
    before = target.read_bytes()
    packed = tmp_path / "image.img.gz"
    packed.write_bytes(gzip.compress(source.read_bytes(), 1))
    assert "9 MiB written" in images.done("flash", packed, target, "--yes")
    assert target.read_bytes() == source.read_bytes() + before[source.stat().st_size :]
    target.write_bytes(before)
    packed.write_bytes(packed.read_bytes()[:-1])
    assert "is cut short" in images.refused("flash", packed, target, "--yes")
    packed.write_bytes(lzma.compress(b"x"))
    assert "is packed with xz" in images.refused("flash", packed, target, "--yes")
    assert target.read_bytes() == before
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("packed", [False, True])
def test_an_image_may_lie_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    (tmp_path / "medium").mkdir()
    source, target = image(tmp_path / "medium"), card(tmp_path)
    content = source.read_bytes()
    if packed:
        source.write_bytes(gzip.compress(content, 1))
    make, access = tempfile.mkdtemp, os.access

    def read_only(prefix: str, dir: Path) -> str:
        assert dir != source.parent, "nothing can be written there"
        return make(prefix=prefix, dir=dir)

    monkeypatch.setattr(tempfile, "mkdtemp", read_only)
    monkeypatch.setattr(os, "access", lambda path, how: path != source.parent and access(path, how))
    flash.run(source, target, yes=True)
    assert target.read_bytes()[: len(content)] == content


def test_an_image_that_ends_before_its_partitions_is_refused(tmp_path: Path) -> None:
    source, target = tmp_path / "a b?.img", card(tmp_path)
    bases.disk(tmp_path / "image.img", "label: dos\n2048,8192,83\n", 5).path.rename(source)
    before = target.read_bytes()
    images.done("flash", source, target, "--yes")
    target.write_bytes(before)
    os.truncate(source, 4 << 20)
    assert "is cut short" in images.refused("flash", source, target, "--yes")
    assert target.read_bytes() == before


def test_a_card_that_takes_less_at_a_time_gets_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = image(tmp_path), card(tmp_path)
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, part, at: write(fd, part[: 1 << 19], at))
    flash.run(source, target, yes=True)
    assert target.read_bytes()[: source.stat().st_size] == source.read_bytes()


def test_nothing_behind_the_image_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad sector after the image is not the image's."""
    source, target = image(tmp_path), card(tmp_path)
    size, read = source.stat().st_size, os.preadv
    ends = []

    def seen(fd: int, buffers: list[memoryview], at: int) -> int:
        ends.append(at + len(buffers[0]))
        return read(fd, buffers, at)

    monkeypatch.setattr(os, "preadv", seen)
    flash.run(source, target, yes=True)
    assert max(ends) == -(-size // 4096) * 4096


def test_the_claim_lasts_until_the_card_was_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A desktop that mounts the card in between would change what is compared."""
    source, target = image(tmp_path), card(tmp_path)
    inode = target.stat().st_ino
    held = []

    def read(device: Path, descriptor: int, size: int) -> str:
        held.append(os.fstat(descriptor).st_ino)
        return flash_read(device, descriptor, size)

    flash_read = flash._read_back
    monkeypatch.setattr(flash, "_read_back", read)
    flash.run(source, target, yes=True)
    assert held == [inode]


def test_another_card_than_the_one_asked_about_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = image(tmp_path), card(tmp_path)

    def agree(*_: object) -> bool:
        target.unlink()
        card(tmp_path, 12 * MIB)
        return True

    monkeypatch.setattr(flash, "_agreed", agree)
    before = target.read_bytes()[: 12 * MIB]
    with pytest.raises(Refused, match="is not the same any more: nothing was written"):
        flash.run(source, target, yes=False)
    assert target.read_bytes() == before


def test_the_question_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    source, target = image(tmp_path), card(tmp_path)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: "no")
    before = target.read_bytes()
    with pytest.raises(Refused, match="nothing was written"):
        flash.run(source, target, yes=False)
    said = capsys.readouterr().out
    assert f"{source} (9 MiB, of 20" in said and f"goes to the file {target}" in said
    assert target.read_bytes() == before


def test_names_in_no_encoding_are_compared_and_shown(machine: Machine) -> None:
    """A mount point in Latin-1, on another disk and on the card."""
    place = machine.kernel.proc / "self" / "mountinfo"
    place.write_bytes(b"20 1 8:1 / /media/K\xfche\\040x rw - ext4 /dev/sda1 rw\n")
    machine.check()
    place.write_bytes(
        b"20 1 8:1 / /mnt/\xc2\x85a rw - ext4 /dev/sda1 rw\n21 1 8:17 / /media/K\xfche\\040x rw - vfat /dev/sdb1 rw\n"
    )
    with pytest.raises(Refused) as refused:
        machine.check()
    assert "sdb1 is mounted at /media/K\udcfche x" in str(refused.value)


@pytest.mark.parametrize("text", ["", "20 1 8:1\n"])
def test_mounts_that_can_t_be_read_are_not_none(machine: Machine, text: str) -> None:
    (machine.kernel.proc / "self" / "mountinfo").write_text(text)
    with pytest.raises(Refused, match="mountinfo"):
        machine.check()


def test_a_card_that_gives_back_other_data_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = image(tmp_path), card(tmp_path)

    def decay(fd: int, size: int) -> None:
        [byte] = os.pread(fd, 1, size - 1000)
        os.pwrite(fd, bytes([byte ^ 1]), size - 1000)

    monkeypatch.setattr(flash, "_forget", decay)
    with pytest.raises(
        Refused,
        match="does not give back what was written to it: the card, or its reader, is broken",
    ):
        flash.run(source, target, yes=True)


def make(*words: str, **exported: str) -> str:
    """The messages of a refused `make flash` without a person; `exported` is in the environment."""
    run = local.run(
        ["make", "flash", *words],
        cwd=artefacts.TOP,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **exported},
    )
    assert run.returncode == 2, run.stdout
    return run.stderr


def test_make_flash_needs_a_card_and_an_image() -> None:
    assert "name the card: make flash DEV=/dev/sdX" in make()
    # build/ may hold an image of another day.
    assert "name the image: make flash IMAGE=FILE" in make("DEV=/dev/null")


def test_make_flash_asks_unless_it_is_told_not_to(tmp_path: Path) -> None:
    source, target = image(tmp_path), card(tmp_path)
    source = source.rename(tmp_path / "an image's; name.img")
    before = target.read_bytes()
    for answer in ("", "YES=0", "YES=no"):
        said = make(f"DEV={target}", f"IMAGE={source}", *([answer] if answer else []))
        assert "nobody is there to agree" in said and target.read_bytes() == before
    # Exported variables don't count here.
    assert "name the card" in make(f"IMAGE={source}", YES="1", DEV=str(target))
    assert target.read_bytes() == before
    assert "name the image" in make(f"DEV={target}", YES="1", IMAGE=str(source))
    assert target.read_bytes() == before
    assert "YES= is 1 or 0" in make(f"DEV={target}", f"IMAGE={source}", "YES=maybe")
    command = ["make", "flash", f"DEV={target}", f"IMAGE={source}", "YES=1"]
    local.run(command, cwd=artefacts.TOP, capture_output=True, check=True)
    assert target.read_bytes()[: 9 * MIB] == source.read_bytes()[: 9 * MIB]
