"""What is in a folder of this machine, to be compared with another."""

from __future__ import annotations

from pathlib import Path

Listed = dict[str, tuple[int, bytes]]


def listed(folder: Path) -> Listed:
    """Kind and mode of all that is in a folder, and its content, or where a link leads to."""
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
