"""SYSLINUX's and EXTLINUX's configuration: finds the default label, adds ours, changes the others.

Those then start through our initramfs. Only plain statements are understood. Everything else is
refused: a guess here is a router that doesn't boot.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from image.entry import Addition, Entry, arguments
from image.entry import lines as lines_of
from image.errors import Refused

FOLDERS = ("/boot/extlinux", "/extlinux", "/boot/syslinux", "/syslinux", "/boot", "")
PATHS = tuple(
    f"{folder}/{name}" for folder in FOLDERS for name in ("extlinux.conf", "syslinux.cfg")
)
MARK = "# cowflush: added by its `make image`"
LABEL = "cowflush"
# For the whole file
COMMON = {"DEFAULT", "ONTIMEOUT", "UI"}
# For a label, or, before all labels, for each that has none of its own
OF_LABEL = {"APPEND", "INITRD", "KERNEL", "LINUX"}
# These start something else than Linux.
OTHER_KERNELS = {"BOOT", "BSS", "PXE", "FDIMAGE", "COMBOOT", "COM32", "LOCALBOOT"}
# These don't change what is started.
IGNORED = {
    "ALLOWOPTIONS", "CONSOLE", "DISPLAY", "FDT", "FDTDIR", "FONT", "IMPLICIT", "IPAPPEND", "KBDMAP", "NOCOMPLETE",
    "NOESCAPE", "NOHALT", "ONERROR", "PATH", "PROMPT", "SAY", "SENDCOOKIES", "SERIAL", "SYSAPPEND", "TIMEOUT",
    "TOTALTIMEOUT", *(f"F{number}" for number in range(13)),
}  # fmt: skip
CONTINUES = {"INCLUDE", "CONFIG", "MENU INCLUDE"}


@dataclass
class _Label:
    name: str
    values: dict[str, str] = field(default_factory=dict)
    default: bool = False


@dataclass(frozen=True)
class _Line:
    """A line: its directive in capitals (two words for MENU's), and what follows.

    Comments, empty lines and the text of a TEXT are left out.
    """

    text: str
    word: str = ""
    value: str = ""


def _lines(text: str) -> Iterator[_Line]:
    ends = ""
    for line in lines_of(text):
        word, value = _cut(line)
        if ends:
            ends = "" if word == ends else ends
            yield _Line(line)
            continue
        if word == "MENU":
            second, value = _cut(value)
            word = f"MENU {second}"
        if word == "TEXT":
            ends = "ENDTEXT"
        yield _Line(line) if not word or word.startswith("#") else _Line(line, word, value)


def _cut(text: str) -> tuple[str, str]:
    """The first word in capitals, and the rest. SYSLINUX takes any blank between them."""
    word, *rest = text.split(maxsplit=1) or [""]
    return word.upper(), rest[0].strip() if rest else ""


def _labels(text: str) -> tuple[dict[str, str], list[_Label]]:
    """The settings before the first label or for the whole file, and the labels."""
    common: dict[str, str] = {}
    labels: list[_Label] = []
    for line in _lines(text):
        word, value = line.word, line.value
        if word in CONTINUES:
            raise Refused(
                f"the boot loader's configuration continues in another file ({word} {value})"
            )
        if word == "MENU BEGIN":
            raise Refused("the boot loader's configuration has a menu in its menu (MENU BEGIN)")
        if word == "LABEL":
            labels.append(_Label(value))
        elif word == "MENU DEFAULT" and labels:
            labels[-1].default = True
        elif word in COMMON:
            if common.get(word, value) != value:
                raise Refused(
                    f"the boot loader's configuration says {word} twice, and not the same"
                )
            common[word] = value
        elif word in OF_LABEL | OTHER_KERNELS | {"MENU LABEL"}:
            (labels[-1].values if labels else common)[word] = value
        elif word and word not in IGNORED | {"TEXT"} and not word.startswith("MENU "):
            raise Refused(
                f"the boot loader's configuration has a line that is not understood: {line.text.strip()}"
            )
    if not labels:
        raise Refused("the boot loader's configuration has no LABEL")
    names = [label.name.lower() for label in labels]
    if len(set(names)) < len(names):
        raise Refused("the boot loader's configuration has two labels of one name")
    return common, labels


def _is_menu(common: dict[str, str]) -> bool:
    """Whether a menu's program reads the file again, and has rules of its own."""
    return _program(common.get("UI", "")) or _program(common.get("DEFAULT", ""))


def _program(value: str) -> bool:
    return value.lower().partition(" ")[0].endswith(".c32")


def _default(common: dict[str, str], labels: list[_Label]) -> _Label:
    """The label that is started when nothing is typed."""
    menu = _is_menu(common)
    marked = [label for label in labels if label.default] if menu else []
    if len(marked) > 1:
        raise Refused("the boot loader's configuration has several labels with MENU DEFAULT")
    name = common.get("DEFAULT", "")
    if marked:
        found = marked[0]
    elif name and not _program(name):
        found = _named(name, labels)
    elif menu:
        found = labels[0]
    else:
        raise Refused("the boot loader's configuration starts nothing by itself: it has no DEFAULT")
    late = common.get("ONTIMEOUT", "")
    if late and _named(late, labels) is not found:
        raise Refused(
            f"the boot loader's configuration starts {late!r} after a while, and {found.name!r} before"
        )
    return found


def _named(name: str, labels: list[_Label]) -> _Label:
    named = next((label for label in labels if label.name.lower() == name.lower()), None)
    if not named:
        raise Refused(
            f"the boot loader's configuration starts {name!r} by itself, and no such label is there"
        )
    return named


def parse(text: str, folder: str) -> Entry:
    """The label that is started by itself. The configuration is in `folder`."""
    if MARK in text:
        raise Refused(
            "the boot loader has cowflush's entries already: begin with the image as it was before"
        )
    common, labels = _labels(text)
    label = _default(common, labels)
    entry = _entry(common, label, folder)
    if not entry:
        raise Refused(f"the label {label.name!r} starts no Linux kernel")
    return entry


def _entry(common: dict[str, str], label: _Label, folder: str) -> Entry | None:
    """What a label starts; None if that is no Linux kernel."""
    kernel = label.values.get("LINUX") or label.values.get("KERNEL", "")
    other = OTHER_KERNELS & set(label.values)
    if (
        other
        or not kernel
        or kernel.lower().endswith((".c32", ".bin", ".0", ".bs", ".bss", ".com", ".cbt", ".img"))
    ):
        return None
    words = tuple(label.values.get("APPEND", common.get("APPEND", "")).split())
    words = () if words == ("-",) else words
    named = label.values.get("INITRD", common.get("INITRD", ""))
    initrds = [named, *(word[7:] for word in words if word.startswith("initrd="))]
    files = tuple(
        _absolute(name, folder) for initrd in initrds for name in initrd.split(",") if name
    )
    return Entry(
        label.values.get("MENU LABEL", label.name), _absolute(kernel, folder), files, words
    )


def _absolute(path: str, folder: str) -> str:
    if not re.fullmatch(r"[\w./+-]+", path, re.ASCII):
        raise Refused(
            f"the boot loader's configuration names a file that is not said plainly: {path}"
        )
    return path if path.startswith("/") else f"{folder}/{path}"


def add(text: str, entry: Entry, addition: Addition, folder: str = "") -> str:
    """The file with our two labels, and the first of them as the default.

    The others start what they did, through our initramfs: they write to the plain card, but it
    first gets what the flush log holds. The configuration is in `folder`.
    """
    common, labels = _labels(text)
    menu = _program(common.get("DEFAULT", ""))
    lines: list[str] = []
    others, changed = iter(labels), False
    for line in _lines(text):
        if line.word in ("MENU DEFAULT", "ONTIMEOUT") or (line.word == "DEFAULT" and not menu):
            continue
        if line.word == "LABEL":
            old = _entry(common, next(others), folder)
            wanted = addition.for_old(old) if old else None
            changed = wanted is not None
            lines.append(line.text)
            if old and wanted:
                lines += _started(old, wanted, True)
        elif not (changed and line.word in OF_LABEL):
            lines.append(line.text)
    top = [] if menu else [f"DEFAULT {LABEL}"]
    ours = [MARK]
    for name, suffix, off in (
        (LABEL, "cowflush", False),
        (f"{LABEL}-off", "cowflush=off: the plain card", True),
    ):
        ours += [
            f"LABEL {name}",
            f"  MENU LABEL {entry.title}, {suffix}",
            *(["  MENU DEFAULT"] if not off else []),
            *_started(entry, addition, off),
        ]
    return "\n".join([*top, *lines, *ours, ""])


def _started(entry: Entry, addition: Addition, off: bool) -> list[str]:
    """A label's lines that name what is started."""
    return [
        f"  LINUX {addition.kernel}",
        f"  INITRD {addition.initramfs}",
        f"  APPEND {' '.join(arguments(entry.arguments, off, addition))}",
    ]
