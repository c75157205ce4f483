"""Puts GRUB into an image that boots by BIOS, and writes its menu.

grub-install needs a device and root rights; its work on a DOS disk is small: boot.img is the first
sector except the partition table, core.img follows in the gap before the first partition.
"""

from __future__ import annotations

import re
from pathlib import Path

from image import output, tools
from image.errors import Refused
from image.regions import SECTOR

MODULES_AT = Path("/usr/lib/grub/i386-pc")
# Everything is in core.img: the menu works without a folder of modules.
MODULES = (
    "biosdisk",
    "part_msdos",
    "ext2",
    "normal",
    "linux",
    "serial",
    "terminal",
    "echo",
    "test",
    "ls",
    "cat",
    "reboot",
    "halt",
)
CODE_BYTES = 440
# Some BIOSes start a card with a wrong drive number. boot.img has a check that jumps over its
# remedy; grub-bios-setup overwrites that jump with two NOPs for a hard disk, and so does this.
CHECK_AT, JUMP, NOPS = 0x66, b"\xeb\x05", b"\x90\x90"
OFF = "cowflush=off"


def install(image: Path, gap: int, partition: int) -> None:
    """Installs GRUB: `gap` sectors are before the first partition, `partition` has /boot/grub."""
    code = bytearray((MODULES_AT / "boot.img").read_bytes()[:CODE_BYTES])
    if code[CHECK_AT : CHECK_AT + 2] != JUMP:
        raise Refused(f"{MODULES_AT}/boot.img is not as GRUB 2's have been so far")
    code[CHECK_AT : CHECK_AT + 2] = NOPS
    core = _core(partition, image)
    if len(core) > (gap - 1) * SECTOR:
        raise Refused(
            f"GRUB takes {len(core)} bytes, and there are {(gap - 1) * SECTOR} before the first partition"
        )
    with open(image, "r+b") as file:
        file.write(code)
        file.seek(SECTOR)
        file.write(core)


def _core(partition: int, image: Path) -> bytes:
    if not MODULES_AT.is_dir():
        raise Refused(f"{MODULES_AT} is missing: install Debian's package grub-pc-bin")
    with output.workplace(image) as folder:
        out = folder / "core.img"
        command = ["grub-mkimage", "-d", str(MODULES_AT), "-O", "i386-pc", "-o", out.name]
        tools.ok([*command, "-p", f"(hd0,msdos{partition})/boot/grub", *MODULES], cwd=folder)
        return out.read_bytes()


def menu(cmdline: str, title: str) -> str:
    """grub.cfg: cowflush, then the same with it disabled.

    The console is the kernel's, at its rate.
    """
    console = re.search(r"\bconsole=ttyS(\d),(\d+)", cmdline)
    if not console:
        raise Refused(
            "the board's command line names no serial console with its rate, as console=ttyS0,38400n8"
        )
    unit, speed = console[1], console[2]
    # Only the serial port: a BIOS that copies its screen to the port would show everything twice.
    lines = [
        f"serial --unit={unit} --speed={speed} --word=8 --parity=no --stop=1",
        "terminal_input serial",
        "terminal_output serial",
    ]
    lines += ["set default=0", "set fallback=1", "set timeout=3"]
    for name, words in ((title, ""), (f"{title}, {OFF}: the plain card", f" {OFF}")):
        linux = f"\tlinux /boot/vmlinuz {cmdline}{words}"
        lines += [f'menuentry "{name}" {{', linux, "\tinitrd /boot/cowflush.gz", "}"]
    return "\n".join([*lines, ""])
