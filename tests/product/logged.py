"""What the flush log's tests share: a guest with a log, its reports, its card from outside."""

from __future__ import annotations

import filecmp
import functools
import hashlib
import re
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import artefacts, ext, local, rootfs, sparse
from harness.card import Card, Partition
from harness.ext import ExtImage
from harness.machine import VM
from harness.sparse import SECTOR
from product import flushlog, jsondoc
from product.flushlog import CHUNK
from product.logwriter import LogWriter

if TYPE_CHECKING:
    from harness.lab import Lab

STATE = "/root/state"
# Files that some tests write besides; those tests judge their content
WORKLOADS = ("/root/big", "/root/sum", "/root/victim")
# Where the programs of the tests' root are
PROGRAMS = ("/bin", "/sbin", "/usr")


def start(boot: Lab, **options: Any) -> VM:
    """A guest whose card has a log, in use."""
    vm = boot(**options)
    vm.run("cowflush log format /dev/sda2").ok()
    return vm


def report(vm: VM, code: int = 0) -> dict[str, Any]:
    """`cowflush log --json`, as docs/json.md describes it."""
    return jsondoc.parse("log", vm.run("cowflush log --json").exits(code).output)


# --- states that are known again ----------------------------------------------------


def flush(vm: VM, number: int) -> str:
    """One flush of a state that `check_state` recognizes: a number, and a file for each flush."""
    vm.run(f"echo {number} >{STATE} && seq {number} 3000 >/root/f{number} && sync").ok()
    return vm.run("cowflush flush", timeout=60).ok().text


def made(
    card: Card,
    count: int,
    label: bytes = b"",
    log: Partition | None = None,
    last: Callable[[Path], object] = lambda _image: None,
) -> Card:
    """Gives a fresh card this many such flushes, only in its log.

    No guest boots for them, and the program never saw them: debugfs changes root, and the second
    writer appends the change. `last` also changes root, in the last flush. `log` is where the log
    is, if not in the card's usual place.
    """
    root = card.fs()
    writer = _writer(card, root, log or card.log, label)
    first = _chunks(root.path, [0])[0]
    with tempfile.TemporaryDirectory(dir=card.path.parent) as temporary:
        now, before = Path(temporary, "now.img"), Path(temporary, "before.img")
        sparse.copy(root.path, now)
        for number in range(1, count + 1):
            now.replace(before)
            sparse.copy(before, now)
            _put_state(now, number)
            if number == count:
                last(now)
            changed = {at * SECTOR // CHUNK for at in sparse.differing_sectors(before, now)}
            writer.append(_chunks(now, sorted(changed)), card=first)
    return card


def long(card: Card, count: int, chunks: int = 6, live: int = 0) -> Card:
    """Gives a fresh card this many segments, as small flushes leave them.

    They repeat what some chunks of root hold anyway: with `live` this many chunks over and over,
    else each segment has its own.
    """
    root = card.fs()
    writer = _writer(card, root, card.log)
    last = live or root.path.stat().st_size // CHUNK - 1
    olds = [sorted({1 + (n * chunks + i) % last for i in range(chunks)}) for n in range(count)]
    content = _chunks(root.path, {0}.union(*olds))
    for some in olds:
        writer.append({old: content[old] for old in some}, card=content[0])
    return card


def _writer(card: Card, root: ExtImage, where: Partition, label: bytes = b"") -> LogWriter:
    return LogWriter(
        card.path,
        start=where.start * SECTOR,
        chunks=where.size * SECTOR // CHUNK,
        seed=where.start,
        root_sectors=card.root.size,
        root_uuid=uuid.UUID(root.superblock()["Filesystem UUID"]).bytes,
        root_start=card.root.start,
        label=label,
    )


def _put_state(image: Path, number: int) -> None:
    """Does what `flush` makes a guest write."""
    script = ["cd /root"] + ["rm state"] * (number > 1)
    for name, content in ((f"f{number}", _content(number)), ("state", f"{number}\n".encode())):
        file = image.with_name(name)
        file.write_bytes(content)
        script += [f"write {file} {name}", f"sif {name} uid 0", f"sif {name} gid 0"]
    ext.edit(str(image), script)


def _chunks(image: Path, numbers: Collection[int]) -> dict[int, bytes]:
    with open(image, "rb") as file:
        found = {}
        for number in numbers:
            file.seek(number * CHUNK)
            found[number] = file.read(CHUNK)
        return found


def _content(number: int) -> bytes:
    return "".join(f"{line}\n" for line in range(number, 3001)).encode()


def check_state(vm: VM, number: int) -> None:
    """Checks in a guest that root is as flush `number` left it."""
    vm.run(f"[ $(ls /root | grep -c '^f[0-9]') = {number} ] && [ $(cat {STATE}) = {number} ]").ok()
    vm.run(f"cd /root && for n in $(seq {number}); do seq $n 3000 | cmp - f$n || exit; done").ok()


def check_card(card: Card, number: int, besides: Collection[str] | None = None) -> None:
    """Checks the same from outside, with the log applied by the second reader.

    Each file has its content, there is no other one, and the programs are unchanged. `besides` is
    the files that must be there in addition (else some of `WORKLOADS` may be).
    """
    check_root(flushlog.recovered(card), number, besides)


def check_root(root: ExtImage, number: int, besides: Collection[str] | None = None) -> None:
    """Checks the same of an image of root."""
    root.fsck()
    wanted = {f"/root/f{n}": _content(n) for n in range(1, number + 1)}
    wanted[STATE] = f"{number}\n".encode()
    found = root.hashes("/root")
    for name in WORKLOADS if besides is None else besides:
        assert found.pop(name, None) or besides is None, f"{name} isn't there"
    expected = {name: hashlib.sha256(content).hexdigest() for name, content in wanted.items()}
    assert found == expected, sorted(set(found.items()) ^ set(expected.items()))
    check_programs(root)


def check_programs(root: ExtImage) -> None:
    """Checks that the programs, which no test changes, are as the card was made."""
    found = {name: sha for folder in PROGRAMS for name, sha in root.hashes(folder).items()}
    targets = [
        target for target in ("i586", "x86_64") if (artefacts.programs(target) / "busybox").exists()
    ]
    assert found in [_programs(target) for target in targets], sorted(found)


@functools.cache
def _programs(target: str) -> dict[str, str]:
    """SHA-256 of each of a card's programs, by path."""
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        rootfs.fill(top, {}, target)
        return {
            f"/{path.relative_to(top)}": hashlib.sha256(path.read_bytes()).hexdigest()
            for folder in PROGRAMS
            for path in top.joinpath(folder[1:]).rglob("*")
            if path.is_file() and not path.is_symlink()
        }


# --- who says what --------------------------------------------------------------------


def said(vm: VM) -> str:
    """What cowflush has printed on the console, without the kernel's times."""
    return "\n".join(re.findall(r"^(?:\[.*?\] )?cowflush: (.*)", vm.console, re.MULTILINE))


def host(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs cowflush on the host, as a person with the card in a reader would."""
    return local.run(
        [artefacts.host_cowflush(), *map(str, arguments)], capture_output=True, text=True
    )


def images(card: Card) -> tuple[Path, Path]:
    """The card's root and log as files."""
    return card.fs().path, flushlog.log_image(card, card.path.with_suffix(".log.img"))


def found_by_host(card: Card, code: int = 0) -> dict[str, Any]:
    """What `cowflush recover` finds on a card on the host.

    Its export equals what the second reader makes of the card byte for byte, and it changes neither
    root nor log.
    """
    root, log = images(card)
    before = digest(root), digest(log)
    export = card.path.with_suffix(".export.img")
    export.unlink(missing_ok=True)
    done = host("recover", root, log, "--export", export, "--json")
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert (digest(root), digest(log)) == before
    assert filecmp.cmp(export, flushlog.recovered(card).path, shallow=False)
    export.unlink()
    found = jsondoc.parse("recover", done.stdout)
    reader = flushlog.FlushLog(card)
    assert [segment["sequence"] for segment in found["segments"]] == reader.sequences
    assert found["to_merge"] == len(reader.live()) * CHUNK
    return found


def digest(path: Path) -> str:
    """SHA-256 of a file's data and their places, since most of an image is a hole."""
    found = hashlib.sha256(f"{path.stat().st_size}".encode())
    with open(path, "rb") as file:
        for begin, end in sparse.extents(file.fileno(), 0, path.stat().st_size):
            found.update(f"{begin}-{end}".encode())
            file.seek(begin)
            found.update(file.read(end - begin))
    return found.hexdigest()


def content_digest(path: Path) -> str:
    """SHA-256 of all of a file's bytes, as `sha256sum` prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
