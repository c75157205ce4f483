"""Refusals of making and flashing images that need no whole image, word by word."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import artefacts, local
from systems import images

sys.path.insert(0, str(artefacts.TOP))

from image import __main__ as program
from image import add, board, bootloader, flash, flushlog, table, tools
from image.disk import Kernel
from image.errors import Refused
from image.ext import Ext
from image.fat import Fat
from image.plan import New

MIB = 1 << 20


def said(work: Callable[[], object]) -> str:
    """The words of a refusal."""
    with pytest.raises(Refused) as refused:
        work()
    return str(refused.value)


def test_programs_that_are_missing_or_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(lambda: tools.ok(["sfdisk", "--json", tmp_path / "none"])).startswith(
        "sfdisk failed (1): "
    )
    assert (
        said(lambda: tools.run([tmp_path / "cowflush"]))
        == "cowflush is missing: run `make host` first"
    )
    monkeypatch.setitem(tools.ENVIRONMENT, "PATH", str(tmp_path))
    assert said(lambda: tools.run(["zstd"])) == "zstd is missing: install Debian's package zstd"
    monkeypatch.setattr(flushlog, "PROGRAM", tmp_path / "cowflush")
    part = table.Partition(1, 0, 8)
    assert (
        said(lambda: flushlog.make(tmp_path / "image", part, part))
        == f"{tmp_path / 'cowflush'} is missing: run `make host`"
    )


def test_filesystems_that_can_not_be_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(MIB))
    assert said(lambda: Ext(image, 512).superblock()).startswith(
        f"debugfs failed at {image}?offset=512: "
    )
    monkeypatch.setattr(tools, "ok", lambda command, **_: b"no free space is told")
    assert said(lambda: Fat(image, 0).free()) == f"mdir does not say how much is free in {image}@@0"


def test_images_that_are_none(tmp_path: Path) -> None:
    new = New(b"", b"", b"", notices=lambda: b"")
    nothing = said(lambda: add.run(tmp_path, tmp_path / "out", new, dry_run=True))
    assert nothing == f"{tmp_path} is no file"
    image = tmp_path / "image"
    image.write_bytes(bytes(MIB))
    tools.ok(["sfdisk", "--quiet", image], b"label: dos\n")
    assert said(lambda: table.read(image)) == f"{image} has no partitions"


def test_a_boot_loader_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(MIB))
    monkeypatch.setattr(bootloader, "MODULES_AT", tmp_path)
    (tmp_path / "boot.img").write_bytes(bytes(512))
    assert (
        said(lambda: bootloader.install(image, 2048, 1))
        == f"{tmp_path}/boot.img is not as GRUB 2's have been so far"
    )
    code = bytearray(512)
    code[bootloader.CHECK_AT : bootloader.CHECK_AT + 2] = bootloader.JUMP
    (tmp_path / "boot.img").write_bytes(code)
    monkeypatch.setattr(bootloader, "_core", lambda partition, image: bytes(9000))
    assert (
        said(lambda: bootloader.install(image, 17, 1))
        == "GRUB takes 9000 bytes, and there are 8192 before the first partition"
    )
    monkeypatch.undo()
    monkeypatch.setattr(bootloader, "MODULES_AT", tmp_path / "none")
    assert (
        said(lambda: bootloader._core(1, image))
        == f"{tmp_path / 'none'} is missing: install Debian's package grub-pc-bin"
    )
    assert (
        said(lambda: bootloader.menu("root=/dev/sda1 console=tty0", "x"))
        == "the board's command line names no serial console with its rate, as console=ttyS0,38400n8"
    )


def test_boards_that_are_not_as_they_must_be(tmp_path: Path) -> None:
    kernel, out = tmp_path / "kernel", tmp_path / "out"
    assert said(lambda: board.run("none", kernel, out, 256 * MIB)) == (
        "no board 'none': there are alix2, openwrt-geode, qemu-i586"
    )
    assert said(lambda: board.run("alix2", kernel, out, 159 * MIB)) == (
        "159 MiB are too few: an image takes 160 MiB or more"
    )
    disk = table.Table("c0f1a5b0", (table.Partition(1, 8192, 8192),))
    assert said(lambda: board._wanted(disk, "root=PARTUUID=c0f1a5b0-01")) == (
        "the board's command line, or its partitions, are not root first and then the flush log"
    )
    odd = "label: dos\nstart=8193, size=8192\n"
    assert said(lambda: board._partitions(tmp_path / "image", 64 * MIB, odd)) == (
        "the board's partition 1 does not begin at a multiple of 4 MiB"
    )
    made = local.run(
        ["make", "-o", "deps", "kernel-board-none"],
        cwd=artefacts.TOP, capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 2
    assert 'no board "none": those in board/ are there' in made.stderr


def test_a_size_that_is_none() -> None:
    done = images.tool("add", "x", "--log-size", "much")
    assert "'much' is no size: 512M, for example" in done.stderr


def test_a_card_that_somebody_took_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    def refuse(*_: object) -> int:
        raise taken

    monkeypatch.setattr(os, "open", refuse)
    nothing = flash.Target("a card", 0, 0)
    with (
        pytest.raises(Refused) as refused,
        flash._exclusive(tmp_path, nothing, Kernel()),
    ):
        pass
    assert str(refused.value) == f"{tmp_path} is in use"


def test_whoever_does_not_agree_or_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image, card = tmp_path / "image", tmp_path / "card"
    image.write_bytes(b"new")
    card.write_bytes(b"old")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "no")
    assert said(lambda: flash.run(image, card, yes=False)) == "nothing was written"

    def interrupt(_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupt)
    monkeypatch.setattr(sys, "argv", ["image", "flash", str(image), str(card)])
    assert program.main() == 130
    assert capsys.readouterr().err == "image: stopped\n"
    assert card.read_bytes() == b"old"
