"""What cowflush's package for OpenWrt puts into a root, as it is after opkg has installed it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "package" / "openwrt"
SERVICE = "/etc/init.d/cowflush"
# What opkg keeps as the owner has it.
CONFIGURATION = ("/etc/config/cowflush",)


@dataclass
class Package:
    """Files with their modes, links and folders."""

    files: list[tuple[str, bytes, int]] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)


def package(program: bytes, notices: bytes) -> Package:
    """By the same list as the package itself, and with the service enabled."""
    result = Package()
    for line in (FOLDER / "files.list").read_text().splitlines():
        kind, place, *what = line.split() if line and not line.startswith("#") else ("", "")
        if kind == "dir":
            result.folders.append(place)
        elif kind == "link":
            result.links[place] = what[0]
        elif kind:
            made = {"PROGRAM": program, "NOTICES": notices}
            content = made[what[0]] if what[0] in made else (FOLDER / what[0]).read_bytes()
            result.files.append((place, content, int(kind, 8)))
    script = (FOLDER / "files" / "cowflush.init").read_text()
    for letter, name in (("S", "START"), ("K", "STOP")):
        number = re.search(rf"^{name}=(\d+)$", script, re.MULTILINE)
        assert number, f"cowflush.init has no {name}"
        result.links[f"/etc/rc.d/{letter}{number[1]}cowflush"] = "../init.d/cowflush"
    return result
