"""An ext2, ext3 or ext4 in an image, by means of debugfs and e2fsck."""

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
        # Times that this writes are never older than those already there, and otherwise as early as
        # possible: the same base gives the same image.
        self._now = version.epoch()

    def read(self, path: str) -> bytes | None:
        """A file's content; None if there is no such file."""
        if self._type(path) != "regular":
            return None
        return self._debugfs([f"cat {_quoted(path)}"], write=False)

    def is_directory(self, path: str) -> bool:
        """Whether it is a folder, or a link to one."""
        kind = self._type(path)
        if kind == "symlink":
            kind = self._type(f"{path}/.")
        return kind == "directory"

    def is_link(self, path: str) -> bool:
        return self._type(path) == "symlink"

    def exists(self, path: str) -> bool:
        """Whether the name exists, whatever it is."""
        return self._type(path) != ""

    def _type(self, path: str) -> str:
        """What a path is in debugfs's words; empty if it does not exist."""
        done = self._run(["debugfs", "-R", f"stat {_quoted(path)}", self._name])
        found = re.search(r"^Inode: .*\bType: (\w+)", tools.words(done.stdout), re.MULTILINE)
        if found:
            return found[1]
        # What can't be read is not absent.
        if ABSENT not in tools.words(done.stderr):
            raise Refused(f"debugfs can't look at {path}: {_complaints(done.stderr)}")
        return ""

    def names(self, folder: str) -> list[str]:
        """What is in a folder; nothing where there is none."""
        if not self.is_directory(folder):
            return []
        lines = self._debugfs([f"ls -p {_quoted(_inside(PurePosixPath(folder)))}"], write=False)
        # /inode/mode/uid/gid/name/size/
        rows = [line.split("/") for line in tools.words(lines).splitlines()]
        return sorted(row[5] for row in rows if len(row) > 6 and row[5] not in (".", ".."))

    def write(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Writes a file in one go, also over an old one; makes missing folders."""
        script = [f"mkdir {_new(folder)}" for folder in self._missing(path)]
        if self._type(path) in ("regular", "symlink"):
            script.append(f"rm {_quoted(path)}")
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix="file-") as file:
            file.write(content)
            file.flush()
            # `write` takes only a name, and uses the host's owner
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
        """Makes a symbolic link."""
        folders = [f"mkdir {_new(folder)}" for folder in self._missing(path)]
        if self._type(path) != "symlink":
            command = f"symlink {_new(PurePosixPath(path))} {_quoted(target)}"
            self._debugfs([*folders, command], write=True)

    def make_directory(self, path: str) -> None:
        """Makes a folder, with those above it."""
        folders = [*self._missing(path), PurePosixPath(path)]
        self._debugfs([f"mkdir {_new(folder)}" for folder in folders], write=True)

    def edit(self, script: list[str]) -> None:
        """Runs debugfs's own commands, whose files are in the image's folder."""
        self._debugfs(script, write=True)

    def _missing(self, path: str) -> list[PurePosixPath]:
        """The folders above `path` that must be made. Refuses a path through something else."""
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
        """dumpe2fs' report on the filesystem, by its own names."""
        # debugfs prints the same as dumpe2fs, which takes no offset in 1.47.2.
        text = self._debugfs(["stats -h"], write=False).decode(errors="replace")
        pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
        return {key.strip(): value.strip() for key, value in pairs}

    def prepare(self, what: str) -> str:
        """Makes sure that debugfs may write to it. Returns a note if it had to be repaired first.

        debugfs trusts the bitmaps. If a filesystem was not shut down, they may be old, and writes
        would then overwrite existing files; and a waiting journal would be replayed over them. So
        e2fsck first checks such a filesystem in the copy, as its next boot would.
        """
        said = self.superblock()
        # Not before its last write: e2fsck would take that for a wrong clock.
        self._now = max(version.epoch(), _seconds(said.get("Last write time", "")))
        clean = said.get("Filesystem state") == "clean"
        if clean and "needs_recovery" not in said.get("Filesystem features", ""):
            if self._e2fsck("-fn").returncode == 0:
                return ""
            why = f"{what} was damaged"
        else:
            why = f"{what} was not unmounted"
        done = self._e2fsck("-fp")
        # 1: it was repaired
        if done.returncode not in (0, 1):
            raise Refused(
                f"{why}, and e2fsck can't mend it by itself ({_last_line(done.stdout)}): boot it once and shut "
                "it down, or run e2fsck -f on a copy"
            )
        return f"{why}: e2fsck has mended it in the copy"

    def verify(self, what: str) -> None:
        """Runs e2fsck on the result."""
        done = self._e2fsck("-fn")
        if done.returncode:
            raise Refused(f"{what} is not in order after the change: {_last_line(done.stdout)}")

    def _e2fsck(self, option: str) -> tools.Done:
        # A filesystem whose clock was ahead has times in the future, which is no fault. What e2fsck
        # writes has the time of all that is written.
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
        # debugfs repeats each command before its output.
        return done.stdout.partition(b"\n")[2]


def _quoted(path: str) -> str:
    """A word of debugfs's scripts, which have one command per line."""
    if re.search(r"[\n\r\0]", path):
        raise Refused(f"a file has a name of several lines: {path!r}")
    return '"' + path.replace('"', '""') + '"'


def _new(path: PurePosixPath) -> str:
    """Quotes a new name. debugfs follows a link to its folder only if the path goes on."""
    return _quoted(f"{_inside(path.parent).rstrip('/')}/{path.name}")


def _inside(folder: PurePosixPath) -> str:
    """A folder, even if its name is a link's."""
    return str(folder) if folder == folder.parent else f"{folder}/."


def _complaints(stderr: bytes) -> str:
    """What debugfs complains of: all output but its version, since it exits with 0 even then."""
    lines = tools.words(stderr).splitlines()
    return " ".join(line for line in lines if line.strip() and not re.match(r"debugfs \d", line))


def _last_line(output: bytes) -> str:
    lines = [line.strip() for line in tools.words(output).splitlines() if line.strip()]
    return lines[-1] if lines else "it does not say why"


def _seconds(text: str) -> int:
    """A time as debugfs prints it in UTC, in seconds since 1970; 0 if there is none."""
    try:
        return calendar.timegm(time.strptime(text, "%a %b %d %H:%M:%S %Y"))
    except ValueError:
        return 0
