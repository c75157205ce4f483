"""Images are read and written whole.

Packed ones are verified, short reads and writes noticed, sizes compared.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import artefacts, ext
from harness.ext import Filesystem
from systems import bases

sys.path.insert(0, str(artefacts.TOP))

from image import __main__ as program
from image import output, regions, table, whole
from image.errors import Refused
from image.table import Partition, Table

CONTENT = os.urandom(3 << 20) + bytes(2 << 20) + b"end" + bytes(5000)


def fwtool(content: bytes) -> bytes:
    """The content with OpenWrt's fwtool data after it: magic, checksum, type, both sizes."""
    return content + struct.pack(">4sIB3xI", b"FWx0", 0, 1, len(content) + 16)


def unpacked(tmp_path: Path, content: bytes) -> bytes:
    (tmp_path / "packed").write_bytes(content)
    regions.duplicate(tmp_path / "packed", tmp_path / "plain")
    return (tmp_path / "plain").read_bytes()


HALVES = gzip.compress(CONTENT[:1000000]) + gzip.compress(CONTENT[1000000:])


@pytest.mark.parametrize(
    "content",
    [
        CONTENT,
        gzip.compress(CONTENT),
        HALVES,
        gzip.compress(b"") + HALVES + gzip.compress(b""),
        HALVES + bytes(70000),
        HALVES + fwtool(b"{}"),
        HALVES + fwtool(b"{}") + fwtool(b"signature"),
    ],
    ids=["plain", "one", "two", "empty ones", "zeros", "metadata", "metadata and signature"],
)
def test_all_of_a_packed_file_is_unpacked(tmp_path: Path, content: bytes) -> None:
    assert unpacked(tmp_path, content) == CONTENT


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a byte less": (lambda packed: packed[:-1], "is cut short"),
    "without its sums": (lambda packed: packed[:-8], "is cut short"),
    "half": (lambda packed: packed[: len(packed) // 2], "is cut short"),
    "a header alone": (lambda packed: packed[:5], "is cut short"),
    "another checksum": (lambda packed: packed[:-8] + b"crc!" + packed[-4:], "is damaged"),
    "another length": (lambda packed: packed[:-4] + b"size", "is damaged"),
    "other bytes": (lambda packed: packed[:5000] + bytes(100) + packed[5100:], "is damaged"),
    "half a second member": (lambda packed: packed + packed[: len(packed) // 2], "is cut short"),
    "a broken second member": (lambda packed: packed + b"\x1f\x8brubbish", "is damaged"),
    "rubbish": (lambda packed: packed + b"rubbish", "is not understood"),
    "rubbish and metadata": (lambda packed: packed + b"?" + fwtool(b"{}"), "is not understood"),
    "torn metadata": (lambda packed: packed + fwtool(b"{}")[:-1], "is not understood"),
    "metadata of more": (
        lambda packed: packed + struct.pack(">4sIB3xI", b"FWx0", 0, 1, 1 << 30),
        "is not understood",
    ),
    "xz": (lambda packed: lzma.compress(CONTENT), "is packed with xz"),
    "bzip2": (lambda packed: bz2.compress(CONTENT), "is packed with bzip2"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_not_whole_is_refused(tmp_path: Path, damage: str) -> None:
    change, why = DAMAGE[damage]
    with pytest.raises(Refused, match=why):
        unpacked(tmp_path, change(gzip.compress(CONTENT)))


def test_a_call_that_writes_or_reads_less_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, read = os.pwrite, os.pread
    monkeypatch.setattr(os, "pwrite", lambda fd, part, at: write(fd, part[:1000], at))
    monkeypatch.setattr(os, "pread", lambda fd, size, at: read(fd, min(size, 70001), at))
    assert unpacked(tmp_path, CONTENT) == CONTENT
    assert unpacked(tmp_path, HALVES) == CONTENT


def test_a_file_that_ends_early_is_no_shorter_copy(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 5000)
    with open(tmp_path / "file", "rb") as file, pytest.raises(Refused, match="ends at 5000 bytes"):
        regions.read_all(file.fileno(), 6000, 0)


def test_what_is_cleared_is_zero_and_the_rest_is_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    regions.clear(tmp_path / "file", 1000, 2_500_000)
    content = (tmp_path / "file").read_bytes()
    assert content == b"x" * 1000 + bytes(2_500_000) + b"x" * 499_000


@pytest.mark.parametrize("kind", ["ext2", "ext4", "vfat", "squashfs"])
def test_a_filesystem_s_own_size_is_known(tmp_path: Path, kind: str) -> None:
    path, size = tmp_path / "fs.img", 9 << 20
    (tmp_path / "tree/dev").mkdir(parents=True)
    (tmp_path / "tree/file").write_bytes(os.urandom(100_000))
    if kind == "vfat":
        path.write_bytes(bytes(size))
        bases.tool("mformat", "-i", path, "-T", str(size // 512), "-h", "16", "-s", "63", "::")
    elif kind == "squashfs":
        bases.tool("mksquashfs", tmp_path / "tree", path, "-quiet", "-no-progress")
        size = path.stat().st_size
        # Its padding is not part of it.
        size -= size - whole_bytes(path)
    else:
        ext.make(path, Filesystem(kind=kind), tmp_path / "tree", size)
    assert whole_bytes(path) == size
    disk = Table("", (Partition(1, 0, -(-size // 512)),))
    whole.check(path, disk, path)
    os.truncate(path, size - 1)
    with pytest.raises(Refused, match="is cut short"):
        whole.check(path, disk, path)


def whole_bytes(path: Path) -> int:
    found = whole.filesystem_bytes(path.read_bytes()[:2048])
    assert found is not None
    return found


def test_what_is_in_no_known_filesystem_must_all_be_there(tmp_path: Path) -> None:
    path = tmp_path / "card.img"
    bases.disk(path, "label: dos\n2048,4096,82\n8192,4096,da\n", 7)
    os.truncate(path, 6_291_455)
    with pytest.raises(Refused, match="partition 2 goes on to 6,291,456"):
        whole.check(path, table.read(path), path)
    os.truncate(path, 6_291_456)
    whole.check(path, table.read(path), path)


def test_a_result_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a power cut would leave the name with nothing in it."""
    order = []
    sync, rename = os.fsync, Path.rename

    def synced(fd: int) -> None:
        order.append(f"sync {Path(os.readlink(f'/proc/self/fd/{fd}')).name}")
        sync(fd)

    def renamed(path: Path, out: Path) -> Path:
        order.append(f"rename {path.name}")
        return rename(path, out)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    out = tmp_path / "out.img"
    with output.workplace(out) as folder:
        (folder / output.NAME).write_bytes(b"x")
        output.finish(folder / output.NAME, out)
    assert order == ["sync card.img", "rename card.img", f"sync {tmp_path.name}"]
    assert os.listdir(tmp_path) == ["out.img"]


def test_nobody_sees_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever unforeseen error an input causes."""

    def surprise(_: object) -> str:
        raise ValueError("a surprise")

    monkeypatch.setattr(program, "run", surprise)
    monkeypatch.setattr(sys, "argv", ["image", "flash", "x", "y"])
    monkeypatch.setattr(output, "stop_cleanly", lambda: None)
    assert program.main() == 1
    assert capsys.readouterr().err == "image: a fault of this tool: ValueError: a surprise\n"
