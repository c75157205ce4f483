"""The files that cowflush's OpenWrt package puts into a root, as after opkg's installation."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "package" / "openwrt"
SERVICE = "/etc/init.d/cowflush"
# Files that opkg keeps as the owner has them
CONFIGURATION = ("/etc/config/cowflush",)


@dataclass
class Package:
    """Files with their modes, links and folders."""

    files: list[tuple[str, bytes, int]] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)


def package(program: bytes, notices: bytes) -> Package:
    """The content by the package's own list, with the service enabled."""
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
    result.links |= enabled(FOLDER / "files" / "cowflush.init")
    return result


def enabled(script: Path) -> dict[str, str]:
    """The links by which procd finds the service: its own script makes them, as in an image
    builder.
    """
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "etc/rc.d")
        folder.mkdir(parents=True)
        environment = {**os.environ, "IPKG_INSTROOT": root}
        subprocess.run(["sh", "-ec", '. "$0"; enable', script], env=environment, check=True)
        return {f"/etc/rc.d/{link.name}": os.readlink(link) for link in sorted(folder.iterdir())}
