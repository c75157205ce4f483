"""What a boot entry says, whatever boot loader it is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# Short enough for a FAT without long names.
INITRAMFS = "cowflush.gz"
KERNEL = "cowflush.krn"
# `noinitrd` is on OpenWrt's line; it is of no use beside an initramfs.
DROPPED = ("noinitrd", "initrd=")


@dataclass(frozen=True)
class Entry:
    """The entry that the boot loader starts by itself."""

    title: str
    kernel: str
    initrds: tuple[str, ...]
    arguments: tuple[str, ...]

    @property
    def root(self) -> str:
        """What `root=` says; empty without one. The last one counts, as for the kernel."""
        return next((word[5:] for word in reversed(self.arguments) if word.startswith("root=")), "")


@dataclass(frozen=True)
class Addition:
    """What the new entries start: a kernel of ours or the old one, and our initramfs.

    `root` takes the place of what `root=` says, where that is another driver's name for the card. `vouched`: the owner
    sees to it that something calls cowflush, since no service is put into root. `for_old` says what
    an entry that was there starts from now on; None where it does not start what is in root. Else
    it would start root as it is without the log's flushes, and change it, and no later boot could
    use them.
    """

    kernel: str
    initramfs: str
    root: str = ""
    vouched: bool = False
    for_old: Callable[[Entry], Addition | None] = lambda entry: None


def arguments(
    words: tuple[str, ...], off: bool, addition: Addition = Addition("", "")
) -> list[str]:
    """An entry's kernel command line with cowflush, or with it switched off."""
    kept = [word for word in words if not word.startswith(DROPPED)]
    if addition.root:
        kept = [f"root={addition.root}" if word.startswith("root=") else word for word in kept]
    if off:
        return [*kept, "cowflush=off"]
    return [*kept, "cowflush=on"] if addition.vouched else kept


def lines(text: str) -> list[str]:
    """A configuration's lines, as boot loaders see them: they know none of Unicode's other ends of a line."""
    return text.removesuffix("\n").split("\n")


def beside(path: str, name: str) -> str:
    """A file in the same folder as `path`."""
    return path.rpartition("/")[0] + "/" + name
