"""What a boot is given may be wrong, or missing: it says what, and boots or asks."""

from __future__ import annotations

import gzip
import re
import shutil
import signal
import subprocess
import time

import pytest
from vm import Card, Drive, Filesystem, artefacts, ext
from vm.lab import Lab
from vm.logged import said
from vm.router import status

PROMPT = r"^cowflush rescue> "


def has_no(initcall: str) -> str:
    """The kernel argument that leaves a built-in driver out, as if it had not been built."""
    return f"initcall_blacklist={initcall}"


# --- the card -------------------------------------------------------------------


def test_a_card_that_never_appears(boot: Lab) -> None:
    vm = boot(root="UUID=0bad", append="panic=0", wait=False)
    begin = time.monotonic()
    vm.wait_console(PROMPT, timeout=60)
    assert time.monotonic() - begin > 29
    assert "still waiting for root=UUID=0bad; there are: /dev/sda (256.0 MiB)" in said(vm)
    assert re.search(
        r"cannot find root=UUID=0bad: no such device appeared in 30 s; there are: .*/dev/sda1",
        said(vm),
    )
    assert "Is the card in its slot, and its driver in the kernel?" in said(vm)
    vm.type("list\n")
    listed = vm.wait_console(
        r"^/dev/sda1 \((.*)\) ext4 UUID=(\S+) LABEL=root PARTUUID=(\S+)$", timeout=10
    )
    assert listed[2] == ext.UUID and listed[3] == f"{vm.card.disk_id}-01"
    vm.type("root=/dev/sda1\n")
    vm.wait_boot()
    assert status(vm)["mode"] == "deferring"


def test_an_unattended_prompt_reboots(boot: Lab) -> None:
    vm = boot(remove(boot.card(), ["/sbin/init", "/bin/sh"], []), append="panic=2", wait=False)
    vm.wait_console("Rebooting in 2 s if nobody types.", timeout=30)
    assert vm.wait_stopped(timeout=10) == "guest-reset"


def test_a_card_that_is_waited_for(boot: Lab) -> None:
    vm = boot(root="LABEL=later", append="rootwait", wait=False)
    vm.wait_console("still waiting for root=LABEL=later; there are: /dev/sda", timeout=30)
    vm.wait_console(r"(?s)still waiting.*still waiting", timeout=30)
    assert not re.search(PROMPT, vm.console, re.MULTILINE)


def test_a_partition_smaller_than_its_filesystem(boot: Lab) -> None:
    """As when an image is cut short: the partition ends 1 MiB before its filesystem does."""
    card = boot.card()
    sectors = card.root.size - 2048
    with open(card.path, "r+b") as image:
        image.seek(446 + 12)
        assert int.from_bytes(image.read(4), "little") == card.root.size
        image.seek(446 + 12)
        image.write(sectors.to_bytes(4, "little"))
    vm = boot(card, append="panic=0", wait=False)
    vm.wait_console(PROMPT, timeout=30)
    whole, short = (f"{size // 2048}.0 MiB" for size in (card.root.size, sectors))
    assert (
        f"cannot use /dev/sda1: its filesystem says it is {whole}, but the partition is {short}."
        in said(vm)
    )


def test_two_roots_with_one_uuid(boot: Lab) -> None:
    """A second drive that is a copy of the card: the first is taken, and stays the one that is flushed."""
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


def test_an_unformatted_root(boot: Lab) -> None:
    card = boot.card()
    with open(card.path, "r+b") as image:
        image.seek(card.root.start * 512)
        image.write(bytes(1 << 20))
    vm = boot(card, root="/dev/sda1", append="panic=0", wait=False)
    vm.wait_console(PROMPT, timeout=30)
    assert re.search(r"cannot mount /dev/sda1: as ext\d: Invalid argument", said(vm)), said(vm)


# --- what is on the card ----------------------------------------------------------


def remove(card: Card, files: list[str], folders: list[str]) -> Card:
    """Takes things away from the card's root."""
    card.edit([*(f'rm "{name}"' for name in files), *(f'rmdir "{name}"' for name in folders)])
    return card


def test_an_init_that_is_missing(boot: Lab) -> None:
    vm = boot(append="init=/sbin/nothing")
    assert "init=/sbin/nothing is no program on root; trying the usual ones." in said(vm)
    assert status(vm)["mode"] == "deferring"


def test_no_init_at_all(boot: Lab) -> None:
    vm = boot(remove(boot.card(), ["/sbin/init", "/bin/sh"], []), append="panic=0", wait=False)
    vm.wait_console(PROMPT, timeout=30)
    assert (
        "cannot find an init on root: there is none of /sbin/init, /etc/init, /bin/init, /bin/sh."
        in said(vm)
    )


def test_a_shell_at_the_prompt(boot: Lab) -> None:
    """It is a login shell, no signal is held back from it or ignored, and afterwards the prompt is back."""
    tree = boot.directory / "more"
    (tree / "bin").mkdir(parents=True)
    shutil.copy(artefacts.programs("i586") / "busybox", tree / "bin" / "sh")
    packed = subprocess.run(
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
    # An interactive shell itself ignores SIGQUIT, SIGTERM and what a terminal sends to stop it.
    assert int(seen[1], 16) == 0 and not int(seen[2], 16) & 1 << signal.SIGPIPE - 1, seen[0]
    vm.type("exit 3\n")
    vm.wait_console(rf"(?ms){PROMPT}.*{PROMPT}", timeout=10)


def test_no_folder_for_run(boot: Lab) -> None:
    vm = boot(remove(boot.card(), [], ["/run"]))
    assert "cannot move /run to the new root: No such file or directory." in said(vm)
    assert status(vm)["mode"] == "deferring"
    vm.run("echo x >/root/x; cowflush flush", timeout=60).ok()
    vm.kill()
    assert vm.card.read("/root/x") == b"x\n"


def test_no_folder_for_dev(boot: Lab) -> None:
    """Our init can't do without one either; but it is started, and says so."""
    vm = boot(remove(boot.card(), ["/dev/console", "/dev/null"], ["/dev"]), wait=False)
    vm.wait_console("/sbin/init: .*/dev/console", timeout=30)
    assert "cannot move /dev to the new root: No such file or directory." in said(vm)


# --- the kernel --------------------------------------------------------------------


@pytest.mark.kernels("6.1", "6.12")
@pytest.mark.parametrize(
    ("initcall", "missing"),
    [
        ("dm_snapshot_init", ["snapshot", "snapshot-merge"]),
        ("loop_init", ["loop devices"]),
        ("dm_init", ["device-mapper"]),
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
    assert "CONFIG_" in report
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


def test_off(boot: Lab) -> None:
    vm = boot(append="cowflush=off")
    assert "root is the plain card sda1 (rw), as cowflush=off says: writes go to it." in said(vm)
    assert "mode=off" in vm.get("/run/cowflush/boot").decode()
    vm.run("cowflush status").exits(3)
    vm.run("cowflush flush").exits(3)
    vm.run("echo x >/root/x; sync").ok()
    assert vm.card_stats().wr_operations > 0


def test_a_filesystem_type_that_does_not_fit(boot: Lab) -> None:
    vm = boot(filesystem=Filesystem("ext4"), append="rootfstype=nonsense panic=0", wait=False)
    vm.wait_console(PROMPT, timeout=30)
    assert "the kernel has no filesystem type for it" in said(vm)
