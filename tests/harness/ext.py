"""Makes ext filesystems and looks into them with e2fsprogs, without root rights."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import local

UUID = "c0f1a5b0-5eed-4c0f-8a5b-000000000001"
# A user's PATH in Debian lacks sbin.
PATH = {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}


@dataclass(frozen=True)
class Filesystem:
    """How to make a root filesystem.

    `options` are more arguments for mke2fs; `files` is path and content.
    """

    kind: str = "ext4"
    options: tuple[str, ...] = ()
    label: str = "root"
    uuid: str = UUID
    files: tuple[tuple[str, bytes], ...] = ()


def make(image: Path, filesystem: Filesystem, directory: Path, size: int) -> None:
    """Makes a filesystem of `size` bytes in the file `image`, filled from `directory`."""
    # Not lazily, or the kernel would write to the card long after the boot.
    extended = "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0"
    command = [
        "mke2fs",
        "-q",
        "-F",
        "-t",
        filesystem.kind,
        "-b",
        "4096",
        "-L",
        filesystem.label,
        "-U",
        filesystem.uuid,
    ]
    command += [
        "-E",
        extended,
        *filesystem.options,
        "-d",
        str(directory),
        str(image),
        f"{size // 1024}k",
    ]
    done = _tool(command)
    if done.returncode:
        raise RuntimeError(
            f"mke2fs could not make {image}: {done.stderr.decode().strip()}\n{' '.join(command)}"
        )
    _finish(image, directory)


def make_journal(image: Path, uuid: str, size: int) -> None:
    """Makes an external journal, for a filesystem on another device."""
    image.write_bytes(bytes(size))
    command = ["mke2fs", "-q", "-F", "-O", "journal_dev", "-b", "4096", "-U", uuid, str(image)]
    done = _tool(command)
    if done.returncode:
        raise RuntimeError(f"mke2fs could not make {image}: {done.stderr.decode().strip()}")


def _finish(image: Path, directory: Path) -> None:
    """Adds what only root could create in `directory`: device nodes, and root as the owner."""
    # The kernel opens /dev/console before init can mount anything.
    script = ["cd /dev", "mknod console c 5 1", "mknod null c 1 3", "cd /"]
    if os.getuid() != 0:
        for path in directory.rglob("*"):
            name = "/" + str(path.relative_to(directory))
            script += [f'sif "{name}" uid 0', f'sif "{name}" gid 0']
    edit(str(image), script)


def edit(image: str, script: list[str]) -> None:
    """Runs debugfs' commands on a filesystem; `?offset=` after the image's name is its place."""
    done = _tool(["debugfs", "-w", "-f", "-", image], "\n".join(script).encode())
    complaints = _complaints(done.stderr)
    if done.returncode or complaints:
        raise RuntimeError(f"debugfs could not change {image}: {complaints}")


def tune(image: str, options: Sequence[str]) -> None:
    """Runs tune2fs on a filesystem; `?offset=` after the image's name says where in it."""
    done = _tool(["tune2fs", *options, image])
    if done.returncode:
        raise RuntimeError(f"tune2fs could not change {image}: {done.stderr.decode().strip()}")


class ExtImage:
    """A file that holds an ext filesystem."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fsck(self) -> str:
        """Fails with e2fsck's output if that finds anything to repair."""
        done = _tool(["e2fsck", "-fn", str(self.path)])
        words = (done.stdout + done.stderr).decode(errors="replace")
        assert done.returncode == 0, (
            f"e2fsck -fn {self.path} ended with {done.returncode}:\n{words}"
        )
        return words

    def replay_journal(self) -> None:
        """Replays the journal as a mount does; for images that were cut off while mounted."""
        done = _tool(["e2fsck", "-y", "-E", "journal_only", str(self.path)])
        # e2fsck counts a replay as a repair, and exits with 1.
        assert done.returncode in (0, 1), (
            f"e2fsck could not replay {self.path}: {done.stdout.decode()}"
        )

    def read(self, name: str) -> bytes:
        done = _tool(["debugfs", "-R", f'cat "{name}"', str(self.path)])
        complaints = _complaints(done.stderr)
        assert not complaints, f"can't read {name} in {self.path}: {complaints}"
        return done.stdout

    def has(self, name: str) -> bool:
        """Whether there is a file or folder of that name."""
        done = _tool(["debugfs", "-R", f'stat "{name}"', str(self.path)])
        complaints = _complaints(done.stderr)
        if "File not found by ext2_lookup" in complaints:
            return False
        assert not complaints, f"can't look for {name} in {self.path}: {complaints}"
        return True

    def dump(self, directory: str, target: Path) -> None:
        """Copies all below `directory` into `target`, a folder of this machine."""
        done = _tool(["debugfs", "-R", f'rdump "{directory}" "{target}"', str(self.path)])
        # Only root may give the copies their owners; only their content matters here.
        complaints = [
            line
            for line in _complaints(done.stderr).splitlines()
            if "changing ownership" not in line
        ]
        assert not complaints, f"can't read {directory} in {self.path}: {complaints}"
        assert any(target.iterdir()), f"{directory} isn't in {self.path}"

    def hashes(self, directory: str) -> dict[str, str]:
        """SHA-256 of every regular file below `directory`, by path."""
        with tempfile.TemporaryDirectory() as temporary:
            base = Path(temporary)
            self.dump(directory, base)
            parent = Path(directory).parent
            files = [path for path in base.rglob("*") if path.is_file() and not path.is_symlink()]
            names = [str(parent / path.relative_to(base)) for path in files]
            return {
                name: hashlib.sha256(path.read_bytes()).hexdigest()
                for name, path in zip(names, files, strict=True)
            }

    def blocks(self, name: str) -> list[int]:
        """The numbers of a file's blocks, in the file's order."""
        done = _tool(["debugfs", "-R", f'blocks "{name}"', str(self.path)])
        complaints = _complaints(done.stderr)
        assert not complaints, f"can't find {name} in {self.path}: {complaints}"
        return [int(number) for number in done.stdout.split()]

    def bitmap(self, group: int) -> int:
        """The block that holds a group's block bitmap."""
        done = _tool(["dumpe2fs", str(self.path)])
        found = re.search(
            rf"^Group {group}:.*?Block bitmap at (\d+)",
            done.stdout.decode(errors="replace"),
            re.MULTILINE | re.DOTALL,
        )
        assert found, (
            f"dumpe2fs knows no bitmap of group {group} in {self.path}: {done.stderr.decode()}"
        )
        return int(found[1])

    def unused(self) -> list[range]:
        """The bytes that no file or metadata uses: free blocks, and the journal but its superblock."""
        done = _tool(["dumpe2fs", str(self.path)])
        text = done.stdout.decode(errors="replace")
        assert done.returncode == 0, f"dumpe2fs can't read {self.path}: {done.stderr.decode()}"
        size = int(re.search(r"^Block size: +(\d+)$", text, re.MULTILINE)[1])  # type: ignore[index]
        lists = re.findall(r"^  Free blocks: (.+)$", text, re.MULTILINE)
        unused = [part for line in lists for part in line.split(", ")]
        journal = re.search(r"^Journal inode: +(\d+)$", text, re.MULTILINE)
        if journal:
            unused += self._journal(int(journal[1]))
        return [range(first * size, (last + 1) * size) for first, last in map(_numbers, unused)]

    def _journal(self, inode: int) -> list[str]:
        """The journal's blocks without the first."""
        done = _tool(["debugfs", "-R", f"stat <{inode}>", str(self.path)])
        listed = re.search(
            r"^(?:BLOCKS|EXTENTS):\n(.+)$", done.stdout.decode(errors="replace"), re.MULTILINE
        )
        assert listed, f"debugfs finds no journal in {self.path}: {done.stderr.decode()}"
        # For blocks of the map itself debugfs prints a name instead of an offset.
        [first, *rest] = re.findall(r"\([\d-]+\):([\d-]+)", listed[1])
        start, end = _numbers(first)
        return [f"{start + 1}-{end}", *rest] if end > start else rest

    def content(self) -> str:
        """SHA-256 of all bytes in use and their places; of the whole image if the kind is unknown."""
        data = memoryview(self.path.read_bytes())
        try:
            unused = sorted(self.unused(), key=lambda part: part.start)
        except AssertionError:
            unused = []
        digest, at = hashlib.sha256(), 0
        for part in unused:
            digest.update(data[at : part.start])
            digest.update(f"{part.start}-{part.stop}".encode())
            at = part.stop
        digest.update(data[at:])
        return digest.hexdigest()

    def superblock(self) -> dict[str, str]:
        """The output of `dumpe2fs -h`, by dumpe2fs' own names."""
        done = _tool(["dumpe2fs", "-h", str(self.path)])
        assert done.returncode == 0, f"dumpe2fs can't read {self.path}: {done.stderr.decode()}"
        pairs = (
            line.split(":", 1)
            for line in done.stdout.decode(errors="replace").splitlines()
            if ":" in line
        )
        return {key.strip(): value.strip() for key, value in pairs}


def _numbers(text: str) -> tuple[int, int]:
    """Parses `5` or `5-9`."""
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def _complaints(stderr: bytes) -> str:
    """What debugfs complains of: all output but its version, since it exits with 0 even then."""
    lines = stderr.decode(errors="replace").splitlines()
    return "\n".join(line for line in lines if line.strip() and not re.match(r"debugfs \d", line))


def _tool(command: list[str], stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return local.run(command, input=stdin, capture_output=True, env={**os.environ, **PATH})
