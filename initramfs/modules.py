"""Which modules an initramfs must have, and in what order they load.

A module's dependencies come from modules.dep, or, if depmod has not run, as in a kernel package
that was only unpacked, from the module itself. Soft dependencies ("softdep pre") count, too: ext4
loads without crc32c and then mounts nothing.
"""

from __future__ import annotations

import gzip
import lzma
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
    ".zst": lambda data: unzstd(data),
}


class Unusable(Exception):
    """The tree can't supply what is wanted; the text says why."""


def unzstd(data: bytes) -> bytes:
    """Unpacks zstd, for which Python 3.11 has no module."""
    try:
        run = subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=False)
    except FileNotFoundError:
        raise Unusable("the modules are packed with zstd: install the program zstd") from None
    if run.returncode != 0:
        raise OSError(run.stderr.decode(errors="replace").strip())
    return run.stdout


def normal(name: str) -> str:
    """A module's name: its file's may have dashes, and each stands for the other."""
    return name.replace("-", "_")


def name_of(path: str) -> str | None:
    """The module that a file holds, or None."""
    stem, dot, packed = path.rpartition("/")[2].rpartition(".ko")
    return normal(stem) if dot and packed in PACKED else None


def unpacked(path: str) -> tuple[str, str]:
    """The path without the suffix that says how the module is packed, and that suffix."""
    stem, dot, packed = path.rpartition(".ko")
    return stem + dot, packed


class Tree:
    """A kernel's lib/modules/VERSION."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, str] = {}
        found = [str(path.relative_to(folder)) for path in folder.rglob("*.ko*")]
        # Added modules are in updates/ and win, as with depmod.
        for path in sorted(found, key=lambda path: (not path.startswith("updates/"), path)):
            if name := name_of(path):
                self.files.setdefault(name, path)
        self.dependencies = dict(self._modules_dep())
        for path in self.dependencies:
            self.files[name_of(path) or path] = path
        self.built_in = {name_of(line) for line in self._lines("modules.builtin")}
        if not self.files and not self.built_in:
            raise Unusable(
                f"{folder} holds no modules: name a kernel package's lib/modules/VERSION"
            )
        self._contents: dict[str, bytes] = {}
        self._aliases: dict[str, list[str]] | None = None

    def _lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def _modules_dep(self) -> Iterator[tuple[str, list[str]]]:
        for line in self._lines("modules.dep"):
            path, colon, needed = line.partition(":")
            if colon:
                yield path, needed.split()

    def content(self, name: str) -> bytes:
        """A module as the kernel takes it, unpacked: few kernels can unpack it themselves."""
        if name not in self._contents:
            path = self.files[name]
            try:
                data = (self.folder / path).read_bytes()
                self._contents[name] = PACKED[unpacked(path)[1]](data)
            except FileNotFoundError:
                raise Unusable(f"{path} is in modules.dep, but not in {self.folder}") from None
            except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
                raise Unusable(f"{path} is damaged: {error}") from None
        return self._contents[name]

    def info(self, name: str, key: str) -> list[str]:
        """A module's own words for a key."""
        try:
            said = modinfo(self.content(name)).split(b"\0")
        except (struct.error, IndexError, ValueError):
            raise Unusable(f"{self.files[name]} is damaged, or no module") from None
        wanted = f"{key}=".encode()
        return [line[len(wanted) :].decode() for line in said if line.startswith(wanted)]

    def hard(self, name: str) -> list[str]:
        """What a module can't be loaded without, except what is built in."""
        path = self.files[name]
        if path in self.dependencies:
            needed = [name_of(other) or other for other in self.dependencies[path]]
        else:
            needed = [normal(other) for line in self.info(name, "depends") for other in line.split(",") if other]  # fmt: skip
        for other in needed:
            if other not in self.files and other not in self.built_in:
                raise Unusable(f"{name} needs {other}, which {self.folder} does not have")
        return [other for other in needed if other in self.files]

    def soft(self, name: str) -> list[str]:
        """What should be loaded before it, if it exists."""
        found = []
        for line in self.info(name, "softdep"):
            before = False
            for word in line.split():
                if word.endswith(":"):
                    before = word == "pre:"
                elif before:
                    found += self.named(word) or []
        return found

    def named(self, name: str) -> list[str] | None:
        """The modules of that name, or that provide it. None: nothing of the kind exists."""
        if normal(name) in self.files:
            return [normal(name)]
        if normal(name) in self.built_in:
            return []
        return self.aliases().get(normal(name))

    def aliases(self) -> dict[str, list[str]]:
        """Which modules provide a name; none if that is built in."""
        if self._aliases is None:
            self._aliases = {}
            for alias, name in self._pairs():
                self._aliases.setdefault(normal(alias), []).append(normal(name))
            for line in self._builtin_info():
                name, _, rest = line.partition(".")
                if rest.startswith("alias="):
                    self._aliases.setdefault(normal(rest.removeprefix("alias=")), [])
        return self._aliases

    def _builtin_info(self) -> list[str]:
        path = self.folder / "modules.builtin.modinfo"
        return path.read_bytes().decode(errors="replace").split("\0") if path.exists() else []

    def _pairs(self) -> Iterator[tuple[str, str]]:
        """Each alias with its module."""
        if lines := self._lines("modules.alias"):
            for words in map(str.split, lines):
                if len(words) == 3 and words[0] == "alias" and normal(words[2]) in self.files:
                    yield words[1], words[2]
            return
        for name in sorted(self.files):
            for alias in self.info(name, "alias"):
                yield alias, name


def modinfo(data: bytes) -> bytes:
    """The section .modinfo of an ELF file. Raises ValueError and the like for anything else."""
    if data[:4] != b"\x7fELF":
        raise ValueError("no ELF file")
    order = "<" if data[5] == 1 else ">"
    # Where the section headers are, their size, their number, and which has the sections' names
    wide = data[4] == 2
    (table,) = struct.unpack_from(f"{order}Q" if wide else f"{order}I", data, 40 if wide else 32)
    size, count, names = struct.unpack_from(f"{order}HHH", data, 58 if wide else 46)
    header, offset = ("IIQQQQ", 4) if wide else ("IIIIII", 4)
    if table + size * count > len(data):
        raise ValueError("cut short")
    sections = [
        struct.unpack_from(order + header, data, table + size * number) for number in range(count)
    ]
    for section in sections:
        start = sections[names][offset] + section[0]
        if data[start : start + 9] == b".modinfo\0":
            begin, length = section[offset], section[offset + 1]
            if begin + length > len(data):
                raise ValueError("cut short")
            return data[begin : begin + length]
    raise ValueError("no .modinfo")


def resolve(tree: Tree, wanted: list[str]) -> list[str]:
    """The modules for these names, each after what it needs."""
    order: list[str] = []
    opened: list[str] = []
    needs: dict[str, set[str]] = {}

    def closure(name: str) -> set[str]:
        """A module and everything that it can't be loaded without."""
        if name not in needs:
            needs[name] = {name}
            needs[name] |= {name}.union(*(closure(other) for other in tree.hard(name)))
        return needs[name]

    def add(name: str) -> None:
        if name in order:
            return
        if name in opened:
            circle = " needs ".join([*opened[opened.index(name) :], name])
            raise Unusable(f"{circle}: none of them can be loaded first")
        opened.append(name)
        for other in tree.soft(name):
            # A module that needs one which is just being added comes too late in any case.
            if other not in opened and not closure(other).intersection(opened):
                add(other)
        for other in tree.hard(name):
            add(other)
        opened.pop()
        order.append(name)

    for name in wanted:
        found = tree.named(name)
        if found is None:
            raise Unusable(f"{tree.folder} has no module {name}, nor is it built in")
        for module in found:
            add(module)
    return order


def load_list(tree: Tree, wanted: list[str]) -> dict[str, bytes]:
    """The modules for these names by their paths below lib/modules, in loading order."""
    version = tree.folder.resolve().name
    return {
        f"{version}/{unpacked(tree.files[name])[0]}": tree.content(name)
        for name in resolve(tree, wanted)
    }
