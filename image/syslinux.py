"""The configuration of SYSLINUX and EXTLINUX: finds the label that is started by itself, and adds two of ours."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from image.entry import Addition, Entry, arguments
from image.errors import Refused

FOLDERS = ("/boot/extlinux", "/extlinux", "/boot/syslinux", "/syslinux", "/boot", "")
PATHS = tuple(
    f"{folder}/{name}" for folder in FOLDERS for name in ("extlinux.conf", "syslinux.cfg")
)
MARK = "# cowflush: added by its `make image`"
LABEL = "cowflush"


@dataclass
class _Label:
    name: str
    values: dict[str, str] = field(default_factory=dict)
    default: bool = False


def _directives(text: str) -> list[tuple[str, str]]:
    """Each line's directive, in capitals, and its value. MENU's directives have two words."""
    found = []
    for line in text.splitlines():
        word, _, value = line.strip().partition(" ")
        word, value = word.upper(), value.strip()
        if word == "MENU":
            second, _, value = value.partition(" ")
            word, value = f"MENU {second.upper()}", value.strip()
        if word and not word.startswith("#"):
            found.append((word, value))
    return found


def _labels(text: str) -> tuple[dict[str, str], list[_Label]]:
    """What stands before the first label, and the labels."""
    common: dict[str, str] = {}
    labels: list[_Label] = []
    for word, value in _directives(text):
        if word in ("INCLUDE", "CONFIG", "MENU INCLUDE"):
            raise Refused(
                f"the boot loader's configuration continues in another file ({word} {value})"
            )
        if word == "LABEL":
            labels.append(_Label(value))
        elif word == "MENU DEFAULT" and labels:
            labels[-1].default = True
        elif word in ("DEFAULT", "ONTIMEOUT", "TIMEOUT", "PROMPT", "UI"):
            common[word] = value
        else:
            (labels[-1].values if labels else common)[word] = value
    if not labels:
        raise Refused("the boot loader's configuration has no LABEL")
    return common, labels


def _default(common: dict[str, str], labels: list[_Label]) -> _Label:
    marked = next((label for label in labels if label.default), None)
    if marked:
        return marked
    name = common.get("DEFAULT", "")
    if not name or name.lower().endswith(".c32"):
        return labels[0]
    named = next((label for label in labels if label.name.lower() == name.lower()), None)
    if not named:
        raise Refused(
            f"the boot loader's configuration starts {name!r} by itself, and no such label is there"
        )
    return named


def parse(text: str, folder: str) -> Entry:
    """The label that is started by itself. `folder` is where the configuration lies."""
    if MARK in text:
        raise Refused(
            "the boot loader has cowflush's entries already: begin with the image as it was before"
        )
    common, labels = _labels(text)
    label = _default(common, labels)
    kernel = label.values.get("LINUX") or label.values.get("KERNEL", "")
    if not kernel or kernel.lower().endswith((".c32", ".bin", ".0")):
        raise Refused(f"the label {label.name!r} starts no Linux kernel")
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
    if not re.fullmatch(r"[\w./+-]+", path):
        raise Refused(
            f"the boot loader's configuration names a file that is not said plainly: {path}"
        )
    return path if path.startswith("/") else f"{folder}/{path}"


def add(text: str, entry: Entry, addition: Addition) -> str:
    """The file with our two labels, and the first of them started by itself."""
    common, _ = _labels(text)
    menu = common.get("DEFAULT", "").lower().endswith(".c32")
    lines = []
    for line in text.splitlines():
        word = " ".join(line.split()[:2]).upper()
        first = word.split(" ")[0]
        if word == "MENU DEFAULT" or first == "ONTIMEOUT" or (first == "DEFAULT" and not menu):
            continue
        lines.append(line)
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
            f"  LINUX {addition.kernel}",
            f"  INITRD {addition.initramfs}",
            f"  APPEND {' '.join(arguments(entry.arguments, off, addition.root))}",
        ]
    return "\n".join([*top, *lines, *ours, ""])
