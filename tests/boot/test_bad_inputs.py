"""A boot's input may be wrong or missing: init says what is wrong, then boots or asks."""

from __future__ import annotations

import gzip
import re
import shutil
import signal
from pathlib import Path

import pytest

from harness import VM, Card, Drive, Filesystem, artefacts, ext, local
from harness.boot import HURRIED, NO_LONG_JUMP
from harness.lab import Lab
from harness.sparse import SECTOR
from product.logged import said
from product.router import status
from systems import bases

PROMPT = r"^cowflush rescue> "


def has_no(initcall: str) -> str:
    """The kernel argument that disables a built-in driver, as if it had not been built."""
    return f"initcall_blacklist={initcall}"


# --- the card -------------------------------------------------------------------


def ask_again(vm: VM, words: str, *answers: str) -> None:
    """Types `words` at the prompt; init prints the messages `answers` and prompts again."""
    begin = len(vm.console)
    vm.type(f"{words}\n")
    vm.wait_console(rf"(?ms)\A.{{{begin},}}^{PROMPT[1:]}", timeout=30)
    new = vm.console[begin:]
    for answer in answers:
        assert answer in new, new


def foreign(path: Path) -> Drive:
    """A disk without a usable root.

    It has an empty partition, and the superblocks of three filesystems that this kernel has no
    driver for, where their own tools put them.
    """
    card = bases.disk(path, "label: dos\nlabel-id: 0xf0e1\n" + "size=4MiB, type=83\n" * 4, 64)
    uuid = bytes(range(16))
    heads: tuple[dict[int, bytes], ...] = (
        {0: b"XFSB", 32: uuid, 108: b"on-xfs\0"},
        {0x10040: b"_BHRfS_M", 0x10020: uuid, 0x1012B: b"on-btrfs\0"},
        {1024: b"\x10\x20\xf5\xf2", 1024 + 108: uuid},
        {},
    )
    with open(path, "r+b") as image:
        for partition, head in zip(card.partitions, heads, strict=True):
            for at, data in head.items():
                image.seek(partition.start * SECTOR + at)
                image.write(data)
    return Drive(path)


def cut_short(card: Card) -> tuple[int, int]:
    """Ends root's partition 1 MiB before its filesystem ends, as in a cut image.

    Returns both sizes.
    """
    sectors = card.root.size - 2048
    with open(card.path, "r+b") as image:
        image.seek(446 + 12)
        assert int.from_bytes(image.read(4), "little") == card.root.size
        image.seek(446 + 12)
        image.write(sectors.to_bytes(4, "little"))
    return card.root.size, sectors


def test_a_card_that_never_appears(boot: Lab) -> None:
    vm = boot(root="UUID=0bad", append=f"panic=0 {NO_LONG_JUMP}", wait=False, **HURRIED)
    vm.wait_console("root cannot be mounted; this is the rescue prompt.", timeout=60)
    assert "still waiting for root=UUID=0bad; there are: /dev/sda (256.0 MiB)" in said(vm)
    assert re.search(
        r"cannot find root=UUID=0bad: no such device appeared in 3\d s; there are: .*/dev/sda1",
        said(vm),
    )
    assert "Is the card in its slot, and its driver in the kernel?" in said(vm)


def test_the_rescue_prompt_names_what_is_wrong_until_it_can_boot(boot: Lab) -> None:
    """A person at the prompt makes one mistake after the other."""
    short = boot.card(Filesystem(label="short", uuid="c0f1a5b0-5eed-4c0f-8a5b-000000000003"))
    whole, less = (f"{size // 2048}.0 MiB" for size in cut_short(short))
    broken = put(boot.card(), "/sbin/broken", mode="0100644")
    no_driver = "cannot mount /dev/{}: the kernel has no filesystem type for it."
    vm = boot(
        broken,
        root="LABEL=on-xfs",
        append="panic=0",
        drives=[foreign(boot.directory / "foreign.img"), Drive(short.path)],
        wait=False,
    )
    vm.wait_console(PROMPT, timeout=60)
    assert no_driver.format("sdb1") in said(vm)
    assert "root cannot be mounted; this is the rescue prompt." in said(vm)
    assert "Type words of the kernel command line to try again with them" in vm.console

    ask_again(
        vm,
        "list",
        f"/dev/sda1 (120.0 MiB) ext4 UUID={ext.UUID} LABEL=root PARTUUID={vm.card.disk_id}-01\n",
        "/dev/sdb1 (4.0 MiB) xfs UUID=00010203-0405-0607-0809-0a0b0c0d0e0f LABEL=on-xfs PARTUUID=0000f0e1-01\n",
        "/dev/sdb2 (4.0 MiB) btrfs UUID=00010203-0405-0607-0809-0a0b0c0d0e0f LABEL=on-btrfs PARTUUID=0000f0e1-02\n",
        "/dev/sdb3 (4.0 MiB) f2fs UUID=00010203-0405-0607-0809-0a0b0c0d0e0f PARTUUID=0000f0e1-03\n",
        "/dev/sdb4 (4.0 MiB) PARTUUID=0000f0e1-04\n",
    )
    ask_again(vm, "help", "Type words of the kernel command line to try again with them")
    ask_again(vm, "sh", "This initramfs has no /bin/sh.")
    ask_again(vm, "root=LABEL=on-btrfs", no_driver.format("sdb2"))
    ask_again(vm, "root=PARTUUID=0000f0e1-03", no_driver.format("sdb3"))
    # Where init doesn't recognize the filesystem, it tries all that the kernel has.
    ask_again(vm, "root=8:20", "cannot mount /dev/sdb4: as ext", "Invalid argument")
    ask_again(vm, "root=LABEL=short", f"cannot use /dev/sdc1: its filesystem says it is {whole}, but the partition is {less}.")  # fmt: skip
    ask_again(vm, "root=/dev/sda1 cowflush=off rootfstype=nonsense", no_driver.format("sda1"))
    ask_again(vm, "root=nowhere", "ignoring `root=nowhere` on the kernel command line: it names no block device.")  # fmt: skip
    ask_again(vm, "rootfstype=auto rootflags=nonsense", "cannot mount /dev/sda1: as ext4: Invalid argument")  # fmt: skip
    vm.type("rootflags=noatime cowflush=on init=/sbin/broken\n")
    vm.wait_boot()
    # It is not a program, so init started the usual one.
    assert "cannot start /sbin/broken: Permission denied. Is it a program" in said(vm)
    assert status(vm)["mode"] == "deferring"
    assert "noatime" in vm.run("grep ' / ' /proc/mounts").ok().text


NO_INIT = (
    "cannot find an init on root: none of /sbin/init, /etc/init, /bin/init, /bin/sh can be started."
)


@pytest.mark.thorough
def test_an_unattended_prompt_reboots(boot: Lab) -> None:
    """The prompt appears since there is no init; that typing keeps it there, other tests show."""
    vm = boot(remove(boot.card(), ["/sbin/init", "/bin/sh"], []), append="panic=2", wait=False)
    vm.wait_console("Rebooting in 2 s if nobody types.", timeout=30)
    assert NO_INIT in said(vm) and "cannot start" not in said(vm)
    assert vm.wait_stopped(timeout=10) == "guest-reset"


def test_a_card_that_is_waited_for(boot: Lab) -> None:
    """With rootwait, init waits far longer; when the card appears, it boots."""
    late = boot.card(Filesystem(label="early"))
    vm = boot(
        root="LABEL=late",
        append=f"rootwait {NO_LONG_JUMP}",
        drives=[Drive(late.path)],
        wait=False,
        **HURRIED,
    )
    vm.wait_console("still waiting for root=LABEL=late; there are: /dev/sda", timeout=60)
    # Init reports every ten seconds; without rootwait it gives up before the third report.
    vm.wait_console(r"(?s)(still waiting.*){4}", timeout=120)
    assert "cannot" not in said(vm)
    ext.tune(f"{late.path}?offset={late.root.start * SECTOR}", ["-L", "late"])
    vm.wait_boot()
    assert status(vm)["card"] == "sdb1"


def test_two_roots_with_one_uuid(boot: Lab) -> None:
    """A second drive is a copy of the card: init takes the first, and flushes go to that one."""
    card = boot.card()
    twin = card.copy(boot.directory / "twin.img")
    untouched = card.copy(boot.directory / "untouched.img")
    vm = boot(card, drives=[Drive(twin.path)])
    assert f"root=UUID={ext.UUID} fits sda1 and sdb1: taking the first." in said(vm)
    vm.run("echo x >/root/x; cowflush flush", timeout=60).ok()
    assert status(vm)["card"] == "sda1"
    vm.run("echo y >/root/y; cowflush stop; sync", timeout=60).ok()
    vm.kill()
    assert card.fs(replay=True).read("/root/y") == b"y\n"
    assert twin.differing_sectors(untouched) == []


# --- what is on the card ----------------------------------------------------------


def remove(card: Card, files: list[str], folders: list[str]) -> Card:
    """Removes files and folders from the card's root."""
    card.edit([*(f'rm "{name}"' for name in files), *(f'rmdir "{name}"' for name in folders)])
    return card


def put(card: Card, name: str, source: Path = Path(__file__), mode: str = "0100755") -> Card:
    """Puts a file on root: by default an executable one that can't run, as for another processor."""
    folder, last = name.rsplit("/", 1)
    card.edit([f"cd {folder}", f"write {source} {last}", f"sif {last} mode {mode}"])
    return card


def test_an_init_that_can_not_be_started_leaves_every_way_open(boot: Lab) -> None:
    """Init notices before it moves anything: it starts another program, or gives root back."""
    card = remove(boot.card(), ["/sbin/init", "/bin/sh"], [])
    for name in ("/sbin/init", "/bin/sh"):
        put(card, name)
    # A script whose interpreter is missing: the kernel's message is the one for a missing program.
    put(card, "/etc/init", script(boot, "#!/no/such/shell"))
    whole = boot.card(Filesystem(label="whole", uuid="c0f1a5b0-5eed-4c0f-8a5b-000000000004"))
    put(whole, "/sbin/broken")
    before = card.copy(boot.directory / "before.img")
    vm = boot(
        card, append="panic=0 init=/sbin/none", drives=[Drive(whole.path)], rw=False, wait=False
    )
    vm.wait_console(PROMPT, timeout=30)
    why = "Is it a program for this processor, and are its libraries there?"
    for init, reason in (
        ("/sbin/none", "No such file or directory"),
        ("/sbin/init", "Exec format error"),
        ("/etc/init", "No such file or directory"),
        ("/bin/sh", "Exec format error"),
    ):
        assert f"cannot start {init}: {reason}. {why}" in said(vm), init
    assert "cannot start /bin/init" not in said(vm), "there is none, and nobody asked for it"
    assert NO_INIT in said(vm)
    ask_again(vm, "list", "/dev/sda1 (120.0 MiB) ext4", "/dev/sdb1 (120.0 MiB) ext4")
    ask_again(vm, "sh", "This initramfs has no /bin/sh.")
    ask_again(vm, "cowflush=off", "root is the plain card sda1 (ro)", NO_INIT)
    assert "busy" not in said(vm), "root and its stack were given back each time"
    vm.type("root=LABEL=whole cowflush=on init=/sbin/broken rw\n")
    vm.wait_boot()
    assert "cannot start /sbin/broken: Exec format error." in said(vm)
    assert status(vm)["card"] == "sdb1" and status(vm)["mode"] == "deferring"
    assert "/sbin/init" in vm.get("/proc/1/cmdline").decode()
    vm.run("echo x >/root/x; cowflush flush", timeout=60).ok()
    vm.kill()
    assert whole.read("/root/x") == b"x\n"
    assert card.differing_sectors(before) == []


def script(lab: Lab, *lines: str) -> Path:
    """A file on the host with these lines."""
    path = lab.directory / "script"
    path.write_text("\n".join([*lines, ""]))
    return path


@pytest.mark.thorough
def test_where_root_is_the_root_already_only_a_reboot_is_left(boot: Lab) -> None:
    """The init is hidden by what init mounts over it right before it starts it."""
    card = put(boot.card(), "/run/start", script(boot, "#!/bin/sh"))
    vm = boot(card, append="panic=0 init=/run/start", wait=False)
    vm.wait_console(PROMPT, timeout=30)
    in_use = "root is in use, so no words can be tried any more"
    assert "cannot start /run/start: No such file or directory." in said(vm)
    assert said(vm).count(in_use) == 1
    for words in ("root=/dev/sda1", "cowflush=off", "init=/sbin/init"):
        ask_again(vm, words, in_use)
    ask_again(vm, "list", "/dev/sda1 (120.0 MiB) ext4")
    # Root's own shell, with root mounted as in any system.
    vm.type("sh\n")
    vm.wait_console("# $", timeout=10)
    vm.type("echo x >/root/x; cowflush flush && exit\n")
    vm.wait_console(r"flushed to sda1: [^\n]*\n(?s:.*)^cowflush rescue> ", timeout=60)
    vm.type("reboot\n")
    assert vm.wait_stopped(timeout=10) == "guest-reset"
    card.fsck()
    assert card.read("/root/x") == b"x\n"


@pytest.mark.thorough
def test_a_shell_at_the_prompt(boot: Lab) -> None:
    """A login shell that blocks or ignores no signal; when it ends the prompt is back."""
    tree = boot.directory / "more"
    (tree / "bin").mkdir(parents=True)
    shutil.copy(artefacts.programs("i586") / "busybox", tree / "bin" / "sh")
    packed = local.run(
        ["cpio", "--quiet", "-o", "-H", "newc"],
        cwd=tree,
        input=b"bin\nbin/sh\n",
        capture_output=True,
        check=True,
    )
    initramfs = boot.directory / "with-shell.cpio.gz"
    initramfs.write_bytes(artefacts.initramfs().read_bytes() + gzip.compress(packed.stdout))
    card = remove(boot.card(), ["/sbin/init", "/bin/sh"], [])
    vm = boot(card, append="panic=0", initramfs=initramfs, wait=False)
    vm.wait_console(PROMPT, timeout=30)
    vm.type("sh\n")
    vm.wait_console("# $", timeout=10)
    vm.type(
        'while read a b; do case $a in SigBlk: | SigIgn:) echo "$0 has $a $b";; esac; done </proc/self/status\n'
    )
    seen = vm.wait_console(r"(?s)^-sh has SigBlk:\s+(\w+)\r?\n-sh has SigIgn:\s+(\w+)", timeout=10)
    # An interactive shell itself ignores SIGQUIT, SIGTERM and the signals with which a terminal
    # stops it.
    assert int(seen[1], 16) == 0 and not int(seen[2], 16) & 1 << signal.SIGPIPE - 1, seen[0]
    vm.type("exit 3\n")
    vm.wait_console(rf"(?ms){PROMPT}.*{PROMPT}", timeout=10)


@pytest.mark.thorough
def test_no_folder_for_run(boot: Lab) -> None:
    vm = boot(remove(boot.card(), [], ["/run"]))
    assert (
        "cannot move /run to the new root: No such file or directory. Root needs a folder /run."
        in said(vm)
    )
    assert status(vm)["mode"] == "deferring"
    vm.run("echo x >/root/x; cowflush flush", timeout=60).ok()
    vm.kill()
    assert vm.card.read("/root/x") == b"x\n"


@pytest.mark.thorough
def test_no_folder_for_dev(boot: Lab) -> None:
    """Our own init can't do without /dev either; but init starts it, and says so."""
    vm = boot(remove(boot.card(), ["/dev/console", "/dev/null"], ["/dev"]), wait=False)
    vm.wait_console("/sbin/init: .*/dev/console", timeout=30)
    assert "cannot move /dev to the new root: No such file or directory." in said(vm)


# --- the kernel --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("initcall", "missing"),
    [
        ("dm_snapshot_init", ["snapshot", "snapshot-merge"]),
        pytest.param("loop_init", ["loop devices"], marks=pytest.mark.thorough),
        pytest.param("dm_init", ["device-mapper"], marks=pytest.mark.thorough),
    ],
)
def test_a_kernel_that_lacks_something(boot: Lab, initcall: str, missing: list[str]) -> None:
    vm = boot(append=has_no(initcall))
    assert "root is the plain card sda1 (rw), since it has no stack: writes go to it." in said(vm)
    note = vm.get("/run/cowflush/boot").decode()
    assert "mode=plain" in note and re.search(r"^reason=cannot .+\.", note, re.MULTILINE), note
    text = vm.run("cowflush status").exits(3).text
    assert "inactive: root is not on a cowflush stack" in text and "boot       plain cannot" in text
    vm.run("cowflush flush").exits(1 if initcall == "dm_init" else 3)
    report = vm.run("cowflush check").exits(6).text
    named = re.findall(r"^missing  (.{16}) ", report, re.MULTILINE)
    assert [name.strip() for name in named] == missing, report
    assert "CONFIG_" in report and "cowflush cannot work here yet." in report
    vm.run("echo x >/root/x; sync").ok()
    vm.kill()
    assert vm.card.fs(replay=True).read("/root/x") == b"x\n"


# --- the command line --------------------------------------------------------------


def test_a_garbled_command_line(boot: Lab) -> None:
    words = [
        "cowflush=perhaps",
        "cowflush.size=99999999999999999999G",
        "cowflush.sise=4M",
        "rootdelay=soon",
        "root=nowhere",
    ]
    vm = boot(append=" ".join([*words, "root=/dev/sda1", "=", "cowflush.size=", "rootflags=,,,"]))
    for word in words:
        assert f"ignoring `{word}` on the kernel command line: " in said(vm), word
    assert "ignoring `cowflush.size=` " in said(vm)
    assert status(vm)["mode"] == "deferring"
