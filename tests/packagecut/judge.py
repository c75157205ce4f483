"""A card as a power cut left it while dpkg was at work, seen from outside.

What a boot does to the filesystem is done to a copy first: the flush log is applied, the journal is
replayed, and e2fsck repairs what it repairs without asking. debugfs reads everything else.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import subprocess
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness import artefacts, ext, local, sparse
from harness.card import Card
from harness.ext import ExtImage
from harness.sparse import SECTOR
from packagecut.story import Operation, Story
from powercut.medium import Medium
from powercut.states import Cuts, State
from powercut.ways import Refused, with_the_tool
from systems import debian

SHARED_MEMORY = "/dev/shm"
OLD, NEWER = "older", "newer"
PROGRAM = "/usr/sbin/cowflush"
STATUS = "/var/lib/dpkg/status"
MENU = "/boot/grub/grub.cfg"
FOLDERS = (
    "/boot", "/etc/grub.d", "/etc/default/grub.d", "/etc/systemd/system", "/etc/rcS.d", "/etc/rc0.d", "/etc/rc6.d", "/etc/init.d",
    "/var/lib/dpkg/updates", "/var/lib/dpkg/triggers",
)  # fmt: skip
# The images of each kernel
IMAGE = re.compile(r"initrd\.img-(.*-686)$")
WANT = "sysinit.target.wants"
LAST = "/usr/lib/systemd/system-shutdown/cowflush"
UNITS = ("cowflush.service", "cowflush-shutdown.service", "cowflush-card.service")


def read_cpio(archive: bytes) -> dict[str, bytes]:
    """The files of an archive in the format newc, by name.

    One that ends before its trailer is torn.
    """
    found: dict[str, bytes] = {}
    at = 0
    while True:
        header = archive[at : at + 110]
        if len(header) < 110 or header[:6] != b"070701":
            raise ValueError(f"no header at byte {at} of {len(archive)}")
        fields = [int(header[6 + 8 * n : 14 + 8 * n], 16) for n in range(13)]
        size, length = fields[6], fields[11]
        name = archive[at + 110 : at + 110 + length - 1].decode()
        if name == "TRAILER!!!":
            return found
        begin = at + (110 + length + 3) // 4 * 4
        content = archive[begin : begin + size]
        if len(content) < size:
            raise ValueError(f"{name} ends too early")
        found[name.removeprefix("./")] = content
        at = begin + (size + 3) // 4 * 4


@dataclass(frozen=True)
class Packages:
    """Each file's SHA-256 in each version of the package; `programs`: versions by program's hash."""

    files: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(cls, old: Path, newer: Path) -> Packages:
        return cls({OLD: _files(old), NEWER: _files(newer)})

    def version(self, path: str, content: bytes | None) -> str:
        """Which version's file this is: older, newer, both, none where it is missing, or torn."""
        if content is None:
            return "none"
        digest = hashlib.sha256(content).hexdigest()
        found = [name for name, files in self.files.items() if files.get(path) == digest]
        return "both" if len(found) == 2 else found[0] if found else "torn"


def _files(package: Path) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as temporary:
        local.run(["dpkg-deb", "--extract", package, temporary], check=True)
        base = Path(temporary)
        return {
            f"/{path.relative_to(base)}": hashlib.sha256(path.read_bytes()).hexdigest()
            for path in base.rglob("*")
            if path.is_file() and not path.is_relative_to(base / "usr/share/doc")
        }


@dataclass(frozen=True)
class Found:
    """A card's content: `outcome` tells outcomes apart, `wrong` is what no cut may leave."""

    outcome: Mapping[str, str]
    wrong: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join(f"{key}: {value}" for key, value in self.outcome.items())


@dataclass(frozen=True)
class Verdict:
    state: State
    found: Found


@dataclass
class Look:
    """Judges cards of a story."""

    packages: Packages
    _images: dict[str, str] = field(default_factory=dict)

    def at(self, root: ExtImage, kept: Mapping[str, str]) -> Found:
        """Root as a boot finds it, after e2fsck. `kept` is what must be there, by path."""
        with tempfile.TemporaryDirectory(dir=room()) as temporary:
            base = Path(temporary)
            _dump(root, base, FOLDERS, [STATUS, *self._names(), *kept])
            return self.of(base, kept)

    def of(self, base: Path, kept: Mapping[str, str]) -> Found:
        """A card's content in a folder with all its files."""
        names = self._names()
        tree = dict(_files_of(base, FOLDERS, [STATUS, *names, *kept]))
        wrong = []
        for name, text in kept.items():
            if tree.get(name) != text.encode():
                wrong.append(f"{name} is lost: {tree.get(name)!r}")
        versions = {name: self.packages.version(name, tree.get(name)) for name in names}
        wrong += [f"{name} is torn" for name, version in versions.items() if version == "torn"]
        images = self._kernels(tree)
        wrong += [
            f"initrd.img-{kernel} is {what}"
            for kernel, what in images.items()
            if what.startswith(("torn", "part", "missing"))
        ]
        menu, complaints = _menu(tree)
        outcome = {
            "dpkg": _status(tree),
            "program": versions[PROGRAM],
            "files": "+".join(sorted(set(versions.values()) - {"both"})) or "both",
            **images,
            "menu": menu,
            "units": _enabled(tree),
            "runlevels": str(
                sum(bool(re.match(r"/etc/rcS.d/S\d+cowflush", name)) for name in tree)
            ),
            "flushed": "by somebody" if _is_served(tree) else "by nobody",
            "GRUB's settings": "yes" if "/etc/default/grub.d/cowflush.cfg" in tree else "no",
            "half written": "+".join(sorted(set(_half(tree)))) or "none",
        }
        return Found(outcome, (*wrong, *complaints))

    def loader(self, root: ExtImage) -> dict[str, str]:
        """What GRUB's own code finds, without the journal, any check, or the flush log.

        By kernel, the version of its initramfs, or why that can't be loaded; a missing menu is
        under `menu`.
        """
        menu = _by_grub(root, MENU).decode(errors="replace")
        kernels = sorted(set(re.findall(r"^\s*linux\s+\S*vmlinuz-(\S+)", menu, re.M)))
        if not kernels or "### END /etc/grub.d/41_custom" not in menu:
            return {"menu": "torn" if menu else "missing"}
        return {
            kernel: self.initramfs(_by_grub(root, f"/boot/initrd.img-{kernel}") or None)
            for kernel in kernels
        }

    def _names(self) -> list[str]:
        return sorted({*self.packages.files[OLD], *self.packages.files[NEWER]})

    def _kernels(self, tree: Mapping[str, bytes]) -> dict[str, str]:
        kernels = [
            name.removeprefix("/boot/vmlinuz-")
            for name in tree
            if name.startswith("/boot/vmlinuz-")
        ]
        return {
            kernel: self.initramfs(tree.get(f"/boot/initrd.img-{kernel}"))
            for kernel in sorted(kernels)
        }

    def initramfs(self, content: bytes | None) -> str:
        if content is None:
            return "missing"
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self._images:
            self._images[digest] = self._unpacked(content)
        return self._images[digest]

    def _unpacked(self, content: bytes) -> str:
        """What an initramfs has of cowflush: nothing, a part, or all with one version's program."""
        try:
            files = files_of_initramfs(content)
        except (ValueError, EOFError, OSError, zlib.error) as error:
            return f"torn ({error})"
        if not {"init", "scripts/local", "scripts/functions"} <= files.keys():
            return "torn (it has no init)"
        ours = {name for name in files if "cowflush" in name}
        if not ours:
            return "plain"
        needed = {
            "usr/sbin/cowflush",
            "scripts/local-premount/cowflush",
            "scripts/local-block/cowflush",
            "scripts/cowflush-in-doubt",
            "usr/lib/udev/rules.d/56-cowflush.rules",
            "etc/cowflush.words",
        }
        modules = {
            name.rsplit("/", 1)[1].split(".")[0] for name in files if name.endswith((".ko", ".xz"))
        }
        lacking = sorted(needed - ours) + sorted({"loop", "dm-mod", "dm-snapshot"} - modules)
        if lacking:
            return f"part (it lacks {', '.join(lacking)})"
        return self.packages.version(PROGRAM, files["usr/sbin/cowflush"])


def files_of_initramfs(content: bytes) -> dict[str, bytes]:
    """The files of a whole one, by name."""
    return read_cpio(_unzipped(content))


def _unzipped(content: bytes) -> bytes:
    """An initramfs without its compression: gzip's, or zstd's where the system was made so."""
    if not content.startswith(b"\x28\xb5\x2f\xfd"):
        return gzip.decompress(content)
    done = local.run(["zstd", "-dc"], input=content, capture_output=True)
    if done.returncode:
        raise ValueError(done.stderr.decode().strip())
    return done.stdout


def room() -> str | None:
    """A folder in RAM if possible: everything is written and read again, hundreds of times."""
    return SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None


def _dump(root: ExtImage, base: Path, folders: Sequence[str], files: Sequence[str]) -> None:
    script = []
    for folder in folders:
        (base / folder.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        script.append(f'rdump "{folder}" "{base}{Path(folder).parent}"')
    for file in files:
        (base / file.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        script.append(f'dump "{file}" "{base}{file}"')
    local.run(
        ["debugfs", "-f", "-", root.path], input="\n".join(script).encode(), capture_output=True, env={**os.environ, **ext.PATH}
    )  # fmt: skip


def _files_of(
    base: Path, folders: Sequence[str], files: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    """The files by path; for a link its target counts."""
    below = [path for folder in folders for path in (base / folder.lstrip("/")).rglob("*")]
    for path in [*below, *(base / file.lstrip("/") for file in files)]:
        name = f"/{path.relative_to(base)}"
        if path.is_symlink():
            yield name, os.readlink(path).encode()
        elif path.is_file():
            yield name, path.read_bytes()


def _by_grub(root: ExtImage, name: str) -> bytes:
    """A file as GRUB reads it; empty where it can't."""
    with tempfile.TemporaryDirectory(dir=room()) as temporary:
        out = Path(temporary) / "out"
        local.run(["grub-fstest", root.path, "cp", name, out], capture_output=True)
        return out.read_bytes() if out.exists() else b""


def _status(tree: Mapping[str, bytes]) -> str:
    """The package's state according to dpkg, with dpkg's journal applied."""
    parts = [tree.get(STATUS, b"").decode()]
    parts += [
        tree[name].decode() for name in sorted(tree) if name.startswith("/var/lib/dpkg/updates/")
    ]
    state = "unknown"
    for part in parts:
        for paragraph in part.split("\n\n"):
            if re.search(r"^Package: cowflush$", paragraph, re.M):
                status = re.search(r"^Status: (.*)$", paragraph, re.M)
                version = re.search(r"^Version: (.*)$", paragraph, re.M)
                waits = " and triggers" if re.search(r"^Triggers-", paragraph, re.M) else ""
                which = "" if not version else " " + (NEWER if version[1] == debian.NEWER else OLD)
                state = f"{status[1] if status else '?'}{which}{waits}"
    return state


def _menu(tree: Mapping[str, bytes]) -> tuple[str, list[str]]:
    """Which kernels GRUB offers, whether one entry is without cowflush, and what is wrong."""
    text = tree.get(MENU, b"").decode(errors="replace")
    wrong = []
    # As grub-mkconfig ends it
    if not text.rstrip().endswith("### END /etc/grub.d/41_custom ###") and not re.search(
        r"### END /etc/grub\.d/42_cowflush ###\s*$", text
    ):
        wrong.append(f"GRUB's menu is torn: it has {len(text)} bytes")
    for line in re.findall(r"^\s*(?:linux|initrd)\s+(\S+)", text, re.M):
        if line not in tree:
            wrong.append(f"GRUB's menu names {line}, which is not there")
    kernels = sorted(set(re.findall(r"^\s*linux\s+\S*vmlinuz-(\S+)", text, re.M)))
    roots = set(re.findall(r"^\s*linux\s.*?\broot=(\S+)", text, re.M))
    if roots != {f"UUID={debian.UUID}"}:
        wrong.append(f"GRUB's menu has root as {roots}")
    initrds = re.findall(r"^\s*initrd\s+\S*initrd\.img-(\S+)", text, re.M)
    if set(initrds) != set(kernels):
        wrong.append(f"GRUB's menu has kernels {kernels} and initramfs images {set(initrds)}")
    off = " and without cowflush" if "cowflush=off" in text else ""
    return f"{len(kernels)} kernels{off}", wrong


def _enabled(tree: Mapping[str, bytes]) -> str:
    """How many of the units a boot starts."""
    return str(sum(f"/etc/systemd/system/{WANT}/{unit}" in tree for unit in UNITS))


def _is_served(tree: Mapping[str, bytes]) -> bool:
    """Whether root has what would flush it: an enabled service, or systemd's last script."""
    links = (f"/etc/systemd/system/{WANT}/", "/etc/rc0.d/", "/etc/rc6.d/")
    if any(name.startswith(links) and "cowflush" in name.rsplit("/", 1)[1] for name in tree):
        return True
    systemd = r"^Package: systemd\nStatus: install ok installed$"
    return LAST in tree and bool(re.search(systemd, tree.get(STATUS, b"").decode(), re.M))


def _half(tree: Mapping[str, bytes]) -> Iterator[str]:
    """Files that were left behind and that nothing reads."""
    for name in tree:
        if name.endswith((".dpkg-new", ".dpkg-tmp", ".new", ".bak", ".dpkg-bak")):
            yield re.sub(r"-\d.*?(?=\.new|\.bak|\.dpkg)", "", name.rsplit("/", 1)[1])


class Judge:
    """Judges the states of one operation, each on a copy in RAM."""

    def __init__(self, story: Story, operation: Operation, look: Look, directory: Path) -> None:
        self.operation = operation
        self.entries = story.entries(operation)
        self.blank = story.before(operation, directory / f"{operation.root}-{operation.name}.img")
        self.cuts = Cuts(self.entries)
        self._look = look
        # While root is the plain card nothing writes to the log, and reading it takes long.
        log = self.blank.log.sectors
        self._log_used = any(entry.data and entry.sector in log for entry in self.entries)
        assert self._log_used == (operation.root == "stack"), (
            "the flush log was written to beside it"
        )

    def states(self, drawn: int, seed: int = 0) -> list[State]:
        """The states at each FLUSH, and `drawn` ones between them."""
        return [*self.cuts.boundaries(), *self.cuts.drawn(drawn, seed)]

    def copies(self, states: Sequence[State]) -> Iterator[tuple[State, ExtImage]]:
        """Root as a boot finds it after each of these cuts, in a file until the next one."""
        for state, files in self._after(states):
            root, _ = recovered(files, self._log_used)
            assert not repair(root), state
            yield state, root

    def _after(self, states: Sequence[State]) -> Iterator[tuple[State, Sequence[Path]]]:
        with tempfile.TemporaryDirectory(dir=room()) as work:
            medium = Medium(Path(work), self.blank, self.entries)
            for state in sorted(states, key=lambda state: state.start):
                with medium.after(state):
                    yield state, medium.files

    def verdicts(self, states: Sequence[State]) -> Iterator[Verdict]:
        for state, files in self._after(states):
            yield Verdict(state, self._found(files))

    def _found(self, files: Sequence[Path]) -> Found:
        kept = {self.operation.kept: f"{self.operation.name}\n"}
        try:
            root, log = recovered(files, self._log_used)
        except Refused as refused:
            return Found({"log": str(refused)}, (f"the log is refused: {refused}",))
        complaint = repair(root)
        if complaint:
            return Found({"filesystem": complaint}, (complaint,))
        found = self._look.at(root, kept)
        read = self._look.loader(ExtImage(files[0]))
        loader = " and ".join(f"{kernel} {what.partition(' ')[0]}" for kernel, what in read.items())
        early = {
            f"initrd.img-{kernel} is {found.outcome[kernel]}"
            for kernel in renamed_early(found, read)
        }
        wrong = tuple(each for each in found.wrong if each not in early)
        return Found({**found.outcome, "log": log, "GRUB reads": loader}, wrong)


def renamed_early(found: Found, read: Mapping[str, str]) -> list[str]:
    """Kernels whose new initramfs has its name, but not yet all of its content.

    On any Debian update-initramfs renames it before it syncs it, and ext4 may keep the name before
    the content. GRUB, which replays no journal, still `read` the old one, so a boot goes on, and
    the operation is run again there; what GRUB can't read counts.
    """
    whole = (OLD, NEWER, "plain")
    return [
        kernel
        for kernel, what in read.items()
        if what in whole and found.outcome.get(kernel, "").startswith("torn")
    ]


def recovered(partitions: Sequence[Path], used: bool = True) -> tuple[ExtImage, str]:
    """Root in a file of its own, with the log applied if that is `used`; and whether there is one."""
    root, log = partitions
    copy = root.with_name("root-recovered.img")
    copy.unlink(missing_ok=True)
    with open(log, "rb") as file:
        there = file.read(8) == b"cowflLOG"
    if not there or not used:
        sparse.copy(root, copy)
        return ExtImage(copy), "empty" if there else "none"
    return ExtImage(with_the_tool(partitions)), "whole"


def recovered_card(card: Card) -> tuple[ExtImage, str]:
    """Root of a whole card in a file of its own, with the log applied."""
    files = []
    for number, part in enumerate(card.partitions[:2], start=1):
        path = card.path.with_suffix(f".part-{number}.img")
        path.unlink(missing_ok=True)
        sparse.copy_range(card.path, path, part.start * SECTOR, 0, part.size * SECTOR)
        files.append(path)
    return recovered(files)


def repair(root: ExtImage) -> str:
    """Does a boot's e2fsck. Returns why a boot would not go on, or what is wrong even then."""
    done = _e2fsck("-p", root)
    if done.returncode not in (0, 1):
        return f"e2fsck -p ends with {done.returncode}: {done.stdout.decode()}"
    done = _e2fsck("-fn", root)
    return f"e2fsck -fn: {done.stdout.decode()}" if done.returncode else ""


def _e2fsck(option: str, root: ExtImage) -> subprocess.CompletedProcess[bytes]:
    return local.run(
        ["e2fsck", option, root.path], capture_output=True, env={**os.environ, **ext.PATH}
    )


def look() -> Look:
    """Judges by the packages of this build."""
    with tempfile.TemporaryDirectory() as temporary:
        newer = debian._newer_package(Path(temporary), "i386")
        return Look(Packages.of(artefacts.debian_package(), newer))


# The state with which an operation must end, however often it was cut
ENDS = ("dpkg", "program", "files", "units", "runlevels", "GRUB's settings")


def differing(found: Found, wanted: Found, but: Sequence[str] = ()) -> list[str]:
    """In which parts a card is not as the operation leaves it."""
    keys = [key for key in wanted.outcome if key in ENDS or IMAGE.match(f"initrd.img-{key}")]
    keys += [key for key in ("menu",) if key not in but]
    return [
        f"{key} is {found.outcome.get(key)}, not {wanted.outcome[key]}"
        for key in keys
        if found.outcome.get(key) != wanted.outcome[key]
    ]


def distinct(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The first verdict of each outcome, in order of appearance."""
    first: dict[str, Verdict] = {}
    for verdict in verdicts:
        first.setdefault(str(verdict.found), verdict)
    return list(first.values())


def riskiest(verdicts: Sequence[Verdict], most: int) -> list[Verdict]:
    """The outcomes whose parts fit together least: a kernel's boot, root's files, and dpkg's state.

    Those that GRUB itself can't load are left out: no order of writes alone prevents them.
    """
    loaded = [each for each in distinct(verdicts) if loadable(each.found)]
    return sorted(loaded, key=lambda each: -risk(each.found))[:most]


def loadable(found: Found) -> bool:
    """Whether GRUB finds its menu, and with each kernel a whole initramfs."""
    return not re.search(r"torn|missing|part", found.outcome.get("GRUB reads", "missing"))


def boots_on_the_stack(found: Found) -> bool:
    """Whether the next boot keeps root in RAM.

    That depends on what GRUB loads for its newest kernel, and on what would flush root.
    """
    read = dict(pair.split(" ", 1) for pair in found.outcome["GRUB reads"].split(" and "))
    newest = max(read, key=lambda kernel: [int(number) for number in re.findall(r"\d+", kernel)])
    there = found.outcome["program"] != "none" and found.outcome["flushed"] == "by somebody"
    return read[newest] in (OLD, NEWER) and there


def to_boot(verdicts: Sequence[Verdict], most: int) -> list[Verdict]:
    """The riskiest that boot on the stack, and as many that boot plainly.

    All images in them are whole, since the operation is not run again in each of them.
    """
    chosen: dict[bool, list[Verdict]] = {True: [], False: []}
    whole = [
        each
        for each in verdicts
        if not any(what.startswith("torn") for what in each.found.outcome.values())
    ]
    for each in riskiest(whole, len(whole)):
        chosen[boots_on_the_stack(each.found)].append(each)
    return [*chosen[True][:most], *chosen[False][:most]]


def risk(found: Found) -> int:
    images = {what for key, what in found.outcome.items() if IMAGE.match(f"initrd.img-{key}")}
    program = found.outcome.get("program", "none")
    odd = [
        len(images) > 1,
        bool(images - {program, "plain"}),
        bool(images - {"plain"}) and found.outcome.get("units") != "3",
        "ok installed" not in found.outcome.get("dpkg", "unknown"),
        "+" in found.outcome.get("files", ""),
        found.outcome.get("half written", "none") != "none",
    ]
    return sum(odd)
