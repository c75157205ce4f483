"""Lists a folder on the host, to compare it with another."""

from __future__ import annotations

from pathlib import Path

Listed = dict[str, tuple[int, bytes]]


def listed(folder: Path) -> Listed:
    """The kind and mode of everything in a folder, and its content, or a link's target."""
    found = {}
    for path in folder.rglob("*"):
        content = (
            str(path.readlink()).encode()
            if path.is_symlink()
            else path.read_bytes()
            if path.is_file()
            else b""
        )
        found[str(path.relative_to(folder))] = (path.lstat().st_mode, content)
    return found
