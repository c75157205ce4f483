"""The options that a kernel has built in, judged by its image."""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from typing import Protocol

from image import tools
from image.errors import Refused

HEADER_AT, HEADER = 0x202, b"HdrS"
# From version 2.08 of the boot protocol on, the header says where the packed kernel is.
VERSION_AT, VERSION = 0x206, 0x0208
# The place of the release's text, less 512
RELEASE_AT = 0x20E
SECTORS_AT, PAYLOAD_AT = 0x1F1, 0x248
# Not needed if root's own init mounts another /dev, as OpenWrt's does: cowflush makes the nodes it needs
DEVTMPFS = "CONFIG_DEVTMPFS"
# A sentence or a name that is in the kernel only together with the option
NEEDS = {
    "CONFIG_BLK_DEV_INITRD": b"Initramfs unpacking failed",
    "CONFIG_BLK_DEV_DM": b"dm-devel@",
    "CONFIG_DM_SNAPSHOT": b"snapshot-merge",
    "CONFIG_BLK_DEV_LOOP": b"loop: module loaded",
    DEVTMPFS: b"devtmpfs",
}
# Those that an initramfs needs even if it only leads to the plain card
PLAIN = ("CONFIG_BLK_DEV_INITRD", DEVTMPFS, "CONFIG_IA32_EMULATION")
# Needed besides by a 64-bit kernel, to run a program of 32 bits: without it /init can't start, and
# the kernel panics at each boot. The trace is the name of an option that exists only for such
# programs.
NEEDS_64 = {"CONFIG_IA32_EMULATION": b"vdso32="}
# The boot protocol's `xloadflags`: bit 0 marks a 64-bit kernel. From version 2.12 on (Linux 3.8).
FLAGS_AT, FLAGS_VERSION, HAS_64_BITS = 0x236, 0x020C, 1


def missing(image: bytes, *, own_dev: bool = False) -> list[str]:
    """The options that cowflush needs and this kernel lacks. A module counts as missing.

    `own_dev`: root needs no devtmpfs.
    """
    content = unpack(image)
    needs = {**NEEDS, **(NEEDS_64 if has_64_bits(image) else {})}
    if own_dev:
        del needs[DEVTMPFS]
    return [option for option, trace in needs.items() if trace not in content]


def starts_initramfs(image: bytes, *, own_dev: bool = False) -> bool:
    """Whether a kernel can start our initramfs, if only to lead to the plain card.

    `own_dev`: root needs no devtmpfs.
    """
    try:
        return not set(missing(image, own_dev=own_dev)) & set(PLAIN)
    except Refused:
        return False


def has_64_bits(image: bytes) -> bool:
    """Whether a bzImage is a 64-bit kernel."""
    if _version(image) < FLAGS_VERSION:
        raise Refused("the kernel is older than Linux 3.8, and does not say whether it has 64 bits")
    flags: int = struct.unpack_from("<H", image, FLAGS_AT)[0]
    return bool(flags & HAS_64_BITS)


def _version(image: bytes) -> int:
    """The boot protocol's version."""
    if len(image) < 0x260 or image[HEADER_AT : HEADER_AT + 4] != HEADER:
        raise Refused("the kernel is no bzImage for x86")
    found: int = struct.unpack_from("<H", image, VERSION_AT)[0]
    return found


def release(image: bytes) -> str:
    """What `uname -r` prints under a bzImage."""
    (place,) = struct.unpack_from("<H", image, RELEASE_AT) if _version(image) else (0,)
    words = image[place + 512 : place + 512 + 128].split(b"\0")[0].split()
    return (
        words[0].decode(errors="replace")
        if place and words
        else "of a version that it does not say"
    )


def unpack(image: bytes) -> bytes:
    """The kernel in a bzImage."""
    if _version(image) < VERSION:
        raise Refused("the kernel is older than Linux 2.6.24")
    start = (image[SECTORS_AT] or 4) * 512 + 512
    offset, length = struct.unpack_from("<II", image, PAYLOAD_AT)
    return _unpacked(image[start + offset : start + offset + length])


def _unpacked(payload: bytes) -> bytes:
    """The whole kernel; refuses one that is cut short."""
    try:
        match payload[:2]:
            case b"\x1f\x8b":
                return _whole(zlib.decompressobj(31), payload)
            case b"\xfd7":
                return _whole(lzma.LZMADecompressor(lzma.FORMAT_XZ), payload)
            case b"\x5d\x00":
                return _whole(lzma.LZMADecompressor(lzma.FORMAT_ALONE), payload)
            case b"BZ":
                return _whole(bz2.BZ2Decompressor(), payload)
            case b"\x28\xb5":
                return _by_program("zstd", payload)
            case b"\x02\x21" | b"\x04\x22":
                return _by_program("lz4", payload)
    except (zlib.error, lzma.LZMAError, OSError) as error:
        raise Refused(f"the kernel can't be unpacked: {error}") from error
    raise Refused(
        "the kernel is packed in a way that is not known, so it can't be seen what it has built in"
    )


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _whole(unpacker: _Unpacker, payload: bytes) -> bytes:
    content = unpacker.decompress(payload)
    if not unpacker.eof:
        raise Refused("the kernel can't be unpacked: it is cut short")
    return content


def _by_program(name: str, payload: bytes) -> bytes:
    # The size that the kernel appends is not part of the packed data: the program complains at the
    # end.
    done = tools.run([name, "-dcq"], payload)
    if not done.stdout:
        raise Refused(f"{name} can't unpack the kernel: {tools.words(done.stderr)}")
    if struct.pack("<I", len(done.stdout) & 0xFFFFFFFF) != payload[-4:]:
        raise Refused("the kernel can't be unpacked: it is cut short")
    return done.stdout
