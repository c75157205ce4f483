"""Refusals of making and flashing images that the parts alone show, word by word."""

from __future__ import annotations

import dataclasses
import gzip
import os
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import artefacts, ext
from harness.ext import Filesystem
from product.flushlog import FlushLog, LogImage
from systems import bases

sys.path.insert(0, str(artefacts.TOP))

from image import (
    disk,
    flash,
    flushlog,
    grub,
    notices,
    output,
    regions,
    syslinux,
    table,
    tools,
    version,
)
from image import kernel as kernels
from image.disk import Kernel
from image.errors import Refused
from image.ext import Ext
from image.table import Partition
from image.whole import filesystem_bytes


def said(work: Callable[[], object]) -> str:
    """The words of a refusal."""
    with pytest.raises(Refused) as refused:
        work()
    return str(refused.value)


def test_packed_files(tmp_path: Path) -> None:
    path, out = tmp_path / "x.gz", tmp_path / "x"
    packed = gzip.compress(b"x" * 1000)
    path.write_bytes(packed[:-8] + bytes(4) + packed[-4:])
    assert said(lambda: regions.duplicate(path, out)) == (
        f"{path} is damaged: Error -3 while decompressing data: incorrect data check: get it again"
    )
    path.write_bytes(packed + b"x")
    assert said(lambda: regions.duplicate(path, out)) == (
        f"{path}: what follows its packed data is not understood: get it again, or unpack it with gunzip"
    )


def test_filesystems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = bytearray(2048)
    head[1080:1082] = b"\x53\xef"
    struct.pack_into("<I", head, 1024 + 24, 7)
    assert said(lambda: filesystem_bytes(bytes(head))) == (
        "an ext filesystem in it has blocks of 2^17 bytes"
    )
    (tmp_path / "tree/dev").mkdir(parents=True)
    path = tmp_path / "fs.img"
    ext.make(path, Filesystem(kind="ext2"), tmp_path / "tree", 4 << 20)
    found = Ext(path, 0)
    assert said(lambda: found.exists("/a\nb")) == "a file has a name of several lines: '/a\\nb'"
    ext.edit(str(path), ["clri <2>"])
    assert re.match(r"debugfs can't look at /x: .*", said(lambda: found.exists("/x")))
    assert re.match(
        r"root is not in order after the change: .+", said(lambda: found.verify("root"))
    )
    assert re.fullmatch(
        r"partition 1 was damaged, and e2fsck can't mend it by itself \(.+\): boot it once and shut it down, or run e2fsck -f on a copy",
        said(lambda: found.prepare("partition 1")),
    )
    monkeypatch.setattr(Ext, "superblock", lambda self: {})
    assert said(found.free) == "debugfs does not say how much is free in fs.img?offset=0"


def test_tables_and_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "card.img"
    bases.disk(path, "label: dos\n2048,4096,83\n", 8)
    monkeypatch.setattr(tools, "ok", lambda *_, **__: b"")
    assert said(lambda: table.add(path, Partition(2, 8192, 4096))) == (
        "sfdisk did not make partition 2 where it belongs"
    )


def test_an_image_s_log_has_what_root_tells_in_both_copies_of_its_header(tmp_path: Path) -> None:
    """Written by the program's own code, and read by a second reader."""
    root, log = tmp_path / "root.img", tmp_path / "log.img"
    for path in (root, log):
        regions.create(path, 8 << 20)
    tools.ok(["mke2fs", "-q", "-F", "-t", "ext4", root.name], cwd=tmp_path)
    tools.ok([flushlog.PROGRAM, "log", "format", log.name, "--root", root.name], cwd=tmp_path)
    before = FlushLog(LogImage(log)).header
    digest = bytes(range(0xD0, 0xF0))
    tools.ok([flushlog.HEADER, log.name, *flushlog._told_by(digest)], cwd=tmp_path)
    after = FlushLog(LogImage(log)).header
    uuid = bytes.fromhex("d0d1d2d3d4d546d798d9dadbdcdddedf")
    number = int.from_bytes(digest[16:24], "little")
    assert after == dataclasses.replace(before, uuid=uuid, generation=number)
    content = log.read_bytes()
    assert content[:512] == content[-4096 : -4096 + 512]
    assert struct.unpack_from("<Q", content, 128)[0] == version.epoch()
    tools.ok([flushlog.PROGRAM, "recover", root.name, log.name], cwd=tmp_path)
    done = tools.run([flushlog.HEADER, root.name, *flushlog._told_by(digest)], cwd=tmp_path)
    assert done.returncode == 1 and b"root.img: no header of a flush log" in done.stderr


def test_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(lambda: disk._mounts(Kernel(proc=tmp_path))) == (
        f"{tmp_path}/self/mountinfo does not say what is mounted: is /proc mounted?"
    )
    assert said(lambda: disk._mount("20 1")) == "a line of mountinfo is not understood: 20 1"
    source, target = tmp_path / "image", tmp_path / "card"
    for path in (source, target):
        path.write_bytes(bytes(2 << 20))
    with open(target, "rb") as file:
        assert said(lambda: flash._read_back(Path("/dev/null"), file.fileno(), 512)) == (
            "/dev/null is not the same any more: it was not read back"
        )
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: "no")
    os.utime(source, (1_800_000_000, 1_800_000_000))
    with pytest.raises(Refused):
        flash.run(source, target, yes=False)
    assert re.search(
        rf"{source} \(2 MiB, of 2027-01-1.*\) goes to the file {target}, and all on that is lost\.",
        capsys.readouterr().out,
    )


def test_results(tmp_path: Path) -> None:
    assert said(lambda: output.check(tmp_path, True)) == (
        f"{tmp_path} is no file, and would be replaced by one: name another"
    )
    (tmp_path / "out.img").touch()
    assert re.fullmatch(r"the out\.img of .+ is replaced", output.check(tmp_path / "out.img", True))


def test_licences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(lambda: notices.text_of(tmp_path)) == (
        f"no licence's text is in {tmp_path}: it can't be passed on without"
    )
    monkeypatch.setattr(notices, "COMMON", tmp_path)
    assert said(lambda: notices.gpl("x", 2, "y")) == (
        f"{tmp_path}/GPL-2 is missing: install Debian's package base-files"
    )
    monkeypatch.setattr(notices, "STD", tmp_path)
    assert said(notices._std) == (
        f"{tmp_path}/rustc-* is missing: install Debian's package rust-web-src"
    )


def test_kernels_and_boot_loaders() -> None:
    assert said(lambda: kernels._unpacked(gzip.compress(bytes(5000))[:-1])) == (
        "the kernel can't be unpacked: it is cut short"
    )
    entry = 'menuentry "x" {\n  linux /k root=/dev/sda1\n}\n'
    assert said(lambda: grub.parse(f"set default=$x\n{entry}", 1)) == (
        "grub.cfg: its default is not said plainly (set default=$x)"
    )
    label = "LABEL a\n MENU DEFAULT\n KERNEL k\n"
    for text, words in (
        (f"X y\n{label}", "the boot loader's configuration has a line that is not understood: X y"),
        (
            f"UI menu.c32\n{label}LABEL b\n MENU DEFAULT\n KERNEL k\n",
            "the boot loader's configuration has several labels with MENU DEFAULT",
        ),
        (
            f"DEFAULT a\nDEFAULT b\n{label}",
            "the boot loader's configuration says DEFAULT twice, and not the same",
        ),
    ):
        assert said(lambda text=text: syslinux.parse(text, "")) == words  # type: ignore[misc]
