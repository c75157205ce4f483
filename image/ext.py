"""An ext2, ext3 or ext4 in an image, by way of debugfs and e2fsck."""

from __future__ import annotations

import calendar
import re
import tempfile
import time
from pathlib import Path, PurePosixPath

from image import tools, version
from image.errors import Refused

REGULAR = 0o100000
ABSENT = "File not found by ext2_lookup"


class Ext:
    """The filesystem that begins at `offset` of the file `image`."""

    kind = "ext"

    def __init__(self, image: Path, offset: int) -> None:
        self._folder, self._name = image.parent, f"{image.name}?offset={offset}"
        # Times in what is written are never older than those that are there, and no later than need be: the
        # same base gives the same image.
        self._now = version.epoch()

    def read(self, path: str) -> bytes | None:
        """A file's content; None when there is no such file."""
        if self._type(path) != "regular":
            return None
        return self._debugfs([f"cat {_quoted(path)}"], write=False)

    def is_directory(self, path: str) -> bool:
        """Whether it is a folder, or a link that leads to one."""
        kind = self._type(path)
        if kind == "symlink":
            kind = self._type(f"{path}/.")
        return kind == "directory"

    def is_link(self, path: str) -> bool:
        return self._type(path) == "symlink"

    def exists(self, path: str) -> bool:
        """Whether the name is there, whatever it is."""
        return self._type(path) != ""

    def _type(self, path: str) -> str:
        """What a path is in debugfs's words; empty when it is not there."""
        done = self._run(["debugfs", "-R", f"stat {_quoted(path)}", self._name])
        found = re.search(r"^Inode: .*\bType: (\w+)", tools.words(done.stdout), re.MULTILINE)
        if found:
            return found[1]
        # What can't be read is not absent.
        if ABSENT not in tools.words(done.stderr):
            raise Refused(f"debugfs can't look at {path}: {_complaints(done.stderr)}")
        return ""

    def write(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Writes a file in one go, also over an old one; folders that are missing are made."""
        script = [f"mkdir {_new(folder)}" for folder in self._missing(path)]
        if self._type(path) in ("regular", "symlink"):
            script.append(f"rm {_quoted(path)}")
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix="file-") as file:
            file.write(content)
            file.flush()
            # `write` takes no path but a name, and has the host's owner
            parent, name = PurePosixPath(path).parent, PurePosixPath(path).name
            script += [
                f"cd {_quoted(_inside(parent))}",
                f"write {Path(file.name).name} {_quoted(name)}",
                "cd /",
            ]
            script += [
                f"sif {_quoted(path)} mode 0{REGULAR | mode:o}",
                f"sif {_quoted(path)} uid 0",
                f"sif {_quoted(path)} gid 0",
            ]
            self._debugfs(script, write=True)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        folders = [f"mkdir {_new(folder)}" for folder in self._missing(path)]
        if self._type(path) != "symlink":
            command = f"symlink {_new(PurePosixPath(path))} {_quoted(target)}"
            self._debugfs([*folders, command], write=True)

    def make_directory(self, path: str) -> None:
        """A folder, with those above it."""
        folders = [*self._missing(path), PurePosixPath(path)]
        self._debugfs([f"mkdir {_new(folder)}" for folder in folders], write=True)

    def edit(self, script: list[str]) -> None:
        """Runs debugfs's own commands, whose files are in the image's folder."""
        self._debugfs(script, write=True)

    def _missing(self, path: str) -> list[PurePosixPath]:
        """The folders above `path` that are to be made. What stands in their place is no folder's."""
        parents = [*reversed(PurePosixPath(path).parents)]
        while parents and self.is_directory(str(parents[0])):
            parents.pop(0)
        if parents and self.exists(str(parents[0])):
            raise Refused(
                f"{path} can't be put into the image: {parents[0]} is no folder in it, nor leads to one"
            )
        return parents

    def free(self) -> int:
        """Bytes that a file could still take."""
        said = self.superblock()
        try:
            return int(said["Free blocks"]) * int(said["Block size"])
        except (KeyError, ValueError) as error:
            raise Refused(f"debugfs does not say how much is free in {self._name}") from error

    def superblock(self) -> dict[str, str]:
        """What dumpe2fs says of the filesystem as a whole, by its own names."""
        # debugfs prints the same as dumpe2fs, whose 1.47.2 takes no offset.
        text = self._debugfs(["stats -h"], write=False).decode(errors="replace")
        pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
        return {key.strip(): value.strip() for key, value in pairs}

    def prepare(self, what: str) -> str:
        """Makes sure that debugfs may write to it. Returns a note where it had to be mended first.

        debugfs believes the bitmaps. Those of a filesystem that was not shut down may be old, and what is
        written then goes over files that are there; a journal that waits would be replayed over it.
        So such a one is checked first, as its next boot would, on the copy.
        """
        said = self.superblock()
        # No earlier than its last write: e2fsck takes that for a clock that is wrong.
        self._now = max(version.epoch(), _seconds(said.get("Last write time", "")))
        clean = said.get("Filesystem state") == "clean"
        if clean and "needs_recovery" not in said.get("Filesystem features", ""):
            if self._e2fsck("-fn").returncode == 0:
                return ""
            why = f"{what} was damaged"
        else:
            why = f"{what} was not unmounted"
        done = self._e2fsck("-fp")
        # 1: it was mended
        if done.returncode not in (0, 1):
            raise Refused(
                f"{why}, and e2fsck can't mend it by itself ({_last_line(done.stdout)}): boot it once and shut "
                "it down, or run e2fsck -f on a copy"
            )
        return f"{why}: e2fsck has mended it in the copy"

    def verify(self, what: str) -> None:
        """e2fsck on what was made."""
        done = self._e2fsck("-fn")
        if done.returncode:
            raise Refused(f"{what} is not in order after the change: {_last_line(done.stdout)}")

    def _e2fsck(self, option: str) -> tools.Done:
        # Whose clock was ahead has times of the future: no fault. What it writes has the time of all that is written.
        now = self._now if option == "-fp" else max(self._now, int(time.time()))
        more = {"E2FSCK_TIME": str(now)}
        return tools.run(["e2fsck", option, self._name], cwd=self._folder, more=more)

    def _run(self, command: list[str], stdin: bytes = b"") -> tools.Done:
        more = {"E2FSPROGS_FAKE_TIME": str(self._now)}
        return tools.run(command, stdin, cwd=self._folder, more=more)

    def _debugfs(self, script: list[str], write: bool) -> bytes:
        command = ["debugfs", *(["-w"] if write else []), "-f", "-", self._name]
        done = self._run(command, "\n".join(script).encode(errors="surrogateescape"))
        complaints = _complaints(done.stderr)
        if done.returncode or complaints:
            raise Refused(f"debugfs failed at {self._folder / self._name}: {complaints}")
        if write:
            return done.stdout
        # It repeats each command before its output.
        return done.stdout.partition(b"\n")[2]


def _quoted(path: str) -> str:
    """A word of debugfs's scripts, which have one command a line."""
    if re.search(r"[\n\r\0]", path):
        raise Refused(f"a file has a name of several lines: {path!r}")
    return '"' + path.replace('"', '""') + '"'


def _new(path: PurePosixPath) -> str:
    """The same of what is to be made. debugfs follows a link to its folder only with more behind it."""
    return _quoted(f"{_inside(path.parent).rstrip('/')}/{path.name}")


def _inside(folder: PurePosixPath) -> str:
    """A folder, where its name is a link's, too."""
    return str(folder) if folder == folder.parent else f"{folder}/."


def _complaints(stderr: bytes) -> str:
    """debugfs exits 0 after an error; what it says besides its version is one."""
    lines = tools.words(stderr).splitlines()
    return " ".join(line for line in lines if line.strip() and not re.match(r"debugfs \d", line))


def _last_line(output: bytes) -> str:
    lines = [line.strip() for line in tools.words(output).splitlines() if line.strip()]
    return lines[-1] if lines else "it does not say why"


def _seconds(text: str) -> int:
    """A time as debugfs prints it in UTC, in seconds since 1970; 0 where there is none."""
    try:
        return calendar.timegm(time.strptime(text, "%a %b %d %H:%M:%S %Y"))
    except ValueError:
        return 0
