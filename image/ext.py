"""An ext2, ext3 or ext4 in an image, by way of debugfs."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path, PurePosixPath

from image import tools
from image.errors import Refused

REGULAR = 0o100000


class Ext:
    """The filesystem that begins at `offset` of the file `image`."""

    kind = "ext"

    def __init__(self, image: Path, offset: int) -> None:
        self.name = f"{image}?offset={offset}"

    def read(self, path: str) -> bytes | None:
        """A file's content; None when there is no such file."""
        if self._stat(path, "regular") is None:
            return None
        return self._debugfs([f'cat "{path}"'], write=False)

    def is_directory(self, path: str) -> bool:
        return self._stat(path, "directory") is not None

    def _stat(self, path: str, kind: str) -> str | None:
        done = tools.run(["debugfs", "-R", f'stat "{path}"', self.name])
        text = done.stdout.decode(errors="replace")
        return text if re.search(rf"^Inode: .*\bType: {kind}\b", text, re.MULTILINE) else None

    def write(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Writes a file in one go, also over an old one; folders that are missing are made."""
        script = [f'mkdir "{folder}"' for folder in self._missing(path)]
        if self._stat(path, "regular") or self._stat(path, "symlink"):
            script.append(f'rm "{path}"')
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            # `write` takes no path but a name, and has the host's owner
            parent, name = PurePosixPath(path).parent, PurePosixPath(path).name
            script += [f'cd "{parent}"', f'write {file.name} "{name}"', "cd /"]
            script += [
                f'sif "{path}" mode 0{REGULAR | mode:o}',
                f'sif "{path}" uid 0',
                f'sif "{path}" gid 0',
            ]
            self._debugfs(script, write=True)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        folders = [f'mkdir "{folder}"' for folder in self._missing(path)]
        if self._stat(path, "symlink") is None:
            self._debugfs([*folders, f'symlink "{path}" "{target}"'], write=True)

    def make_directory(self, path: str) -> None:
        """A folder, with those above it."""
        self._debugfs([f'mkdir "{folder}"' for folder in [*self._missing(path), path]], write=True)

    def _missing(self, path: str) -> list[PurePosixPath]:
        return [
            folder
            for folder in reversed(PurePosixPath(path).parents)
            if not self.is_directory(str(folder))
        ]

    def free(self) -> int:
        """Bytes that a file could still take."""
        text = self._stats()
        blocks = re.search(r"^Free blocks: +(\d+)$", text, re.MULTILINE)
        size = re.search(r"^Block size: +(\d+)$", text, re.MULTILINE)
        assert blocks and size, text
        return int(blocks[1]) * int(size[1])

    def superblock(self) -> dict[str, str]:
        """What dumpe2fs says of the filesystem as a whole, by its own names."""
        pairs = (line.split(":", 1) for line in self._stats().splitlines() if ":" in line)
        return {key.strip(): value.strip() for key, value in pairs}

    def _stats(self) -> str:
        # debugfs prints the same as dumpe2fs, whose 1.47.2 takes no offset.
        return self._debugfs(["stats -h"], write=False).decode(errors="replace")

    def check_writable(self, what: str) -> None:
        """debugfs must not write to a filesystem that the next mount would still replay a journal over."""
        if "needs_recovery" in self.superblock().get("Filesystem features", ""):
            raise Refused(
                f"{what} was not unmounted: its journal is still to be replayed. Boot it once and shut it down, "
                "or run e2fsck on a copy"
            )

    def _debugfs(self, script: list[str], write: bool) -> bytes:
        done = tools.run(
            ["debugfs", *(["-w"] if write else []), "-f", "-", self.name],
            "\n".join(script).encode(),
        )
        said = done.stderr.decode(errors="replace").splitlines()
        complaints = [line for line in said if line.strip() and not re.match(r"debugfs \d", line)]
        if done.returncode or complaints:
            raise Refused(f"debugfs failed at {self.name}: {' '.join(complaints)}")
        if write:
            return done.stdout
        # It repeats each command before its output.
        return done.stdout.split(b"\n", 1)[1]
