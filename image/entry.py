"""What a boot entry says, for any boot loader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# Short enough for a FAT without long names
INITRAMFS = "cowflush.gz"
KERNEL = "cowflush.krn"
# `noinitrd` is on OpenWrt's line; beside an initramfs it is useless.
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
        """The value of `root=`; empty without one. The last one counts, as for the kernel."""
        return next((word[5:] for word in reversed(self.arguments) if word.startswith("root=")), "")


@dataclass(frozen=True)
class Addition:
    """What the new entries start: a kernel of ours or the old one, and our initramfs.

    `root` replaces the value of `root=`, if that is another driver's name for the card. `vouched`:
    the owner makes sure that a service calls cowflush, since none is put into root. `for_old` says
    what an old entry starts from now on; None if it does not start root. Otherwise that entry would
    start root without the log's flushes, and change it, and no later boot could use them.
    """

    kernel: str
    initramfs: str
    root: str = ""
    vouched: bool = False
    for_old: Callable[[Entry], Addition | None] = lambda entry: None


def arguments(
    words: tuple[str, ...], off: bool, addition: Addition = Addition("", "")
) -> list[str]:
    """An entry's kernel command line with cowflush, or with it disabled."""
    kept = [word for word in words if not word.startswith(DROPPED)]
    if addition.root:
        kept = [f"root={addition.root}" if word.startswith("root=") else word for word in kept]
    if off:
        return [*kept, "cowflush=off"]
    return [*kept, "cowflush=on"] if addition.vouched else kept


def lines(text: str) -> list[str]:
    """A configuration's lines as boot loaders see them: Unicode's other line ends are none."""
    return text.removesuffix("\n").split("\n")


def beside(path: str, name: str) -> str:
    """A file in the same folder as `path`."""
    return path.rpartition("/")[0] + "/" + name
