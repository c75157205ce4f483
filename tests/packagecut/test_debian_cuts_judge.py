"""The judge of a Debian system after a power cut: the tests show it each part torn or lost."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness import ext
from harness.ext import ExtImage, Filesystem
from packagecut import judge
from packagecut.judge import NEWER as NEW
from packagecut.judge import OLD, PROGRAM, Found, Look, Packages, Verdict, read_cpio, repair
from powercut.states import State
from systems import debian

KERNEL = "6.1.0-47-686"
KEPT = {"/root/kept": "kept\n"}
LEADER = "/usr/lib/cowflush/card-for-grub"
PACKAGES = Packages(
    {
        version: {
            PROGRAM: hashlib.sha256(version.encode()).hexdigest(),
            LEADER: hashlib.sha256(b"the same").hexdigest(),
        }
        for version in (OLD, NEW)
    }
)
MENU = f"""menuentry 'Debian' {{
    linux /boot/vmlinuz-{KERNEL} root=UUID={debian.UUID} ro
    initrd /boot/initrd.img-{KERNEL}
}}
### END /etc/grub.d/42_cowflush ###
"""
OF_ANY = ("init", "scripts/local", "scripts/functions")
OURS = (
    "usr/sbin/cowflush", "scripts/local-premount/cowflush", "scripts/local-block/cowflush", "scripts/cowflush-in-doubt",
    "usr/lib/udev/rules.d/56-cowflush.rules", "etc/cowflush.words",
    *(f"usr/lib/modules/{KERNEL}/{name}.ko" for name in ("loop", "dm-mod", "dm-snapshot")),
)  # fmt: skip


def archive(files: Mapping[str, bytes]) -> bytes:
    """An archive as `cpio -o -H newc` makes it."""
    made = b""
    for name, content in {**files, "TRAILER!!!": b""}.items():
        fields = [0, 0o100644, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        made += b"070701" + b"".join(b"%08X" % value for value in fields) + name.encode() + b"\0"
        made += bytes(-len(made) % 4) + content
        made += bytes(-len(made) % 4)
    return made


def initramfs(program: str = "", without: str = "") -> bytes:
    files = {name: name.encode() for name in OF_ANY}
    if program:
        files |= {name: program.encode() for name in OURS if name != without}
    return gzip.compress(archive(files), mtime=0)


def system(tmp_path: Path, files: Mapping[str, str | bytes]) -> ExtImage:
    """A root with the older version installed, changed by `files`; an empty one is missing."""
    wanted: dict[str, str | bytes] = {
        PROGRAM: OLD,
        LEADER: "the same",
        f"/boot/vmlinuz-{KERNEL}": "kernel",
        f"/boot/initrd.img-{KERNEL}": initramfs(OLD),
        "/boot/grub/grub.cfg": MENU,
        "/var/lib/dpkg/status": "Package: cowflush\nStatus: install ok installed\nVersion: 0.1\n\n",
        "/root/kept": "kept\n",
        "/dev/nothing": " ",
        **files,
    }
    tree = tmp_path / "tree"
    for name, content in wanted.items():
        if content:
            path = tree / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    image = tmp_path / "root.img"
    ext.make(image, Filesystem(), tree, 16 << 20)
    return ExtImage(image)


def found(tmp_path: Path, **files: str | bytes) -> Found:
    names = {
        "initrd": f"/boot/initrd.img-{KERNEL}",
        "menu": "/boot/grub/grub.cfg",
        "program": PROGRAM,
        "leader": LEADER,
        "update": "/var/lib/dpkg/updates/0001",
        "kept": "/root/kept",
    }
    root = system(tmp_path, {names[name]: content for name, content in files.items()})
    assert repair(root) == ""
    return Look(PACKAGES).at(root, KEPT)


def test_a_system_as_it_should_be_has_nothing_wrong(tmp_path: Path) -> None:
    seen = found(tmp_path)
    assert seen.wrong == ()
    wanted = {"dpkg": "install ok installed older", "program": OLD, KERNEL: OLD, "menu": "1 kernels"}  # fmt: skip
    assert {key: seen.outcome[key] for key in wanted} == wanted


def test_an_initramfs_that_ends_anywhere_before_its_end_is_torn(tmp_path: Path) -> None:
    whole = initramfs(OLD)
    look = Look(PACKAGES)
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        assert look.initramfs(whole[:length]).startswith("torn"), length
    packed = archive(dict.fromkeys(OF_ANY, b""))
    for length in range(0, len(packed) - 4, 5):
        with pytest.raises(ValueError, match=r"no header|too early"):
            read_cpio(packed[:length])


def test_what_an_initramfs_has_of_cowflush_is_told() -> None:
    look = Look(PACKAGES)
    assert look.initramfs(None) == "missing"
    assert look.initramfs(initramfs()) == "plain"
    assert look.initramfs(initramfs(OLD)) == OLD
    assert look.initramfs(initramfs(NEW)) == NEW
    assert look.initramfs(initramfs("half of a program")) == "torn"
    for name in OURS:
        assert look.initramfs(initramfs(OLD, without=name)).startswith("part"), name


def test_what_no_cut_may_leave_is_wrong(tmp_path: Path) -> None:
    cases: dict[str, dict[str, str | bytes]] = {
        "initrd.img-6.1.0-47-686 is torn": {"initrd": initramfs(OLD)[:-30]},
        "initrd.img-6.1.0-47-686 is part": {"initrd": initramfs(OLD, without=OURS[0])},
        "initrd.img-6.1.0-47-686 is missing": {"initrd": b""},
        "/usr/sbin/cowflush is torn": {"program": "half"},
        f"{LEADER} is torn": {"leader": "half"},
        "GRUB's menu is torn": {"menu": MENU[:100]},
        "GRUB's menu names /boot/vmlinuz-6.1.0-50-686": {"menu": MENU.replace("47", "50")},
        "GRUB's menu has root as": {"menu": MENU.replace("UUID=", "/dev/mapper/cowflush-root")},
        "/root/kept is lost": {"kept": b""},
    }
    for number, (words, files) in enumerate(cases.items()):
        wrong = found(tmp_path / str(number), **files).wrong
        assert any(each.startswith(words) for each in wrong), (words, wrong)


def test_what_dpkg_had_begun_to_note_counts(tmp_path: Path) -> None:
    update = "Package: cowflush\nStatus: install ok half-configured\nVersion: 999-1\n"
    seen = found(tmp_path, update=update, program=NEW)
    assert seen.outcome["dpkg"] == "install ok half-configured newer"
    assert seen.outcome["program"] == NEW and seen.wrong == ()


def test_the_riskiest_are_those_in_which_the_parts_do_not_fit_but_grub_finds_all() -> None:
    def verdict(name: str, **outcome: str) -> Verdict:
        whole = {"dpkg": "install ok installed newer", "program": NEW, KERNEL: NEW, "6.1.0-50-686": NEW, "units": "3", "menu": "2 kernels", "GRUB reads": NEW}  # fmt: skip
        state = State(name, 0, 0, 0)
        return Verdict(state, Found({**whole, **outcome}))

    gone = verdict("gone", program="none", dpkg="purge ok half-installed newer")
    mixed = verdict("mixed", **{KERNEL: OLD})
    torn = verdict("torn", program="none", **{KERNEL: OLD, "GRUB reads": f"{KERNEL} torn"})
    all_of_them = [verdict("whole"), mixed, torn, gone, verdict("again")]
    assert [each.state.name for each in judge.distinct(all_of_them)] == ["whole", "mixed", "torn", "gone"]  # fmt: skip
    assert {each.state.name for each in judge.riskiest(all_of_them, 2)} == {"gone", "mixed"}
    assert judge.differing(mixed.found, all_of_them[0].found) == [f"{KERNEL} is older, not newer"]


def test_whether_a_boot_is_on_the_stack_is_told_by_what_grub_loads_and_who_is_there_to_flush() -> (
    None
):
    def outcome(number: int, **changed: str) -> Verdict:
        read = f"{KERNEL} plain and 6.1.0-150-686 newer"
        whole = {"program": NEW, "flushed": "by somebody", "GRUB reads": read}
        return Verdict(State(str(number), 0, 0, 0), Found({**whole, **changed}))

    stack = [outcome(0), outcome(1, program=OLD)]
    plain = [
        outcome(2, program="none"),
        outcome(3, flushed="by nobody"),
        # The newest kernel's name does not sort last.
        outcome(4, **{"GRUB reads": f"{KERNEL} newer and 6.1.0-150-686 plain"}),
    ]
    for verdicts, wanted in ((stack, True), (plain, False)):
        for each in verdicts:
            assert judge.boots_on_the_stack(each.found) == wanted, each
    chosen = judge.to_boot([*plain, *stack], 1)
    assert [judge.boots_on_the_stack(each.found) for each in chosen] == [True, False]
    assert judge.to_boot(plain, 9) == judge.riskiest(plain, 9)


def test_a_torn_initramfs_is_debian_s_own_only_where_grub_still_reads_the_one_before() -> None:
    other = "6.1.0-50-686"
    seen = Found({KERNEL: "torn (it ends)", other: NEW})
    for reads, wanted in (
        (OLD, [KERNEL]),
        ("plain", [KERNEL]),
        ("torn (x)", []),
        ("missing", []),
        ("part (x)", []),
    ):
        assert judge.renamed_early(seen, {KERNEL: reads, other: OLD}) == wanted, reads
    assert judge.renamed_early(Found({KERNEL: "part (it lacks x)"}), {KERNEL: OLD}) == []
    assert judge.renamed_early(Found({KERNEL: "missing"}), {KERNEL: OLD}) == []


def test_who_would_flush_root_is_found(tmp_path: Path) -> None:
    systemd = "Package: systemd\nStatus: install ok installed\n\n"
    cases: tuple[tuple[dict[str, str | bytes], str], ...] = (
        ({}, "by nobody"),
        ({"/etc/rc0.d/K01cowflush": "x"}, "by somebody"),
        ({"/etc/rc6.d/K01other": "x"}, "by nobody"),
        ({f"/etc/systemd/system/{judge.WANT}/cowflush.service": "x"}, "by somebody"),
        # Without systemd nothing calls it.
        ({judge.LAST: "x"}, "by nobody"),
        ({judge.LAST: "x", judge.STATUS: systemd}, "by somebody"),
        ({judge.STATUS: systemd}, "by nobody"),
    )
    for number, (files, wanted) in enumerate(cases):
        packages = Packages({version: {**names, judge.LAST: "?"} for version, names in PACKAGES.files.items()})  # fmt: skip
        seen = Look(packages).at(system(tmp_path / str(number), files), KEPT)
        assert seen.outcome["flushed"] == wanted, files


def test_grub_s_own_code_reads_what_a_boot_would_load(tmp_path: Path) -> None:
    """GRUB does not read the journal: a name without its content is no initramfs."""
    look = Look(PACKAGES)
    menu = MENU.replace("42_cowflush", "41_custom")
    for number, (files, wanted) in enumerate((
        ({}, {KERNEL: OLD}),
        ({"initrd.img-" + KERNEL: initramfs(NEW)[:-9]}, {KERNEL: "torn (Compressed file ended before the end-of-stream marker was reached)"}),
        ({"initrd.img-" + KERNEL: b""}, {KERNEL: "missing"}),
        ({"grub/grub.cfg": menu[:60].encode()}, {"menu": "torn"}),
        ({"grub/grub.cfg": b""}, {"menu": "missing"}),
    )):  # fmt: skip
        given: dict[str, bytes] = {"grub/grub.cfg": menu.encode(), **files}
        root = system(
            tmp_path / str(number), {f"/boot/{name}": content for name, content in given.items()}
        )
        assert look.loader(root) == wanted


def test_a_filesystem_that_a_boot_would_not_repair_is_said(tmp_path: Path) -> None:
    root = system(tmp_path, {})
    with open(root.path, "r+b") as file:
        file.seek(root.bitmap(0) * 4096)
        file.write(bytes(4096))
    assert repair(root).startswith("e2fsck")
