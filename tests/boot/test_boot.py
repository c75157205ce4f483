"""cowflush as /init: root boots from the COW, and flushes reach the card."""

from __future__ import annotations

import re
import signal

import pytest

from harness import Filesystem, artefacts
from harness.boot import HURRIED, NO_LONG_JUMP
from harness.lab import Lab
from product import flushlog, logged, workload
from product.logged import said
from product.router import LOG, LOGGED, check_settled, status

BOTH = pytest.mark.kernels("6.1", "6.12")


@pytest.mark.kernels(*artefacts.EVERYWHERE)
def test_a_flush_under_load_persists_and_what_is_younger_goes(boot: Lab) -> None:
    vm = boot()
    assert status(vm)["mode"] == "deferring"
    vm.run("echo hello >/root/x").ok()
    writer = workload.Writer(vm)
    before = writer.wait_rounds(20)
    vm.run("cowflush flush", timeout=60).ok()
    # Root is as usable as before.
    assert writer.wait_rounds(5) > before
    writer.stop()
    vm.run("echo later >/root/y; sync").ok()
    vm.kill()
    workload.check(vm.card, before)
    assert vm.card.read("/root/x") == b"hello\n"
    again = boot(vm.card)
    assert again.run("cat /root/x; ls /root/y").exits(1).text.startswith("hello\n")


@BOTH
def test_the_card_rests_until_a_flush(boot: Lab) -> None:
    card = boot.card()
    before = card.copy(boot.directory / "before.img")
    vm = boot(card)
    vm.run(
        "head -c 5000000 /dev/urandom >/root/big; sync; rm /root/big; echo 3 >/proc/sys/vm/drop_caches"
    ).ok()
    vm.run("dd if=/dev/zero of=/root/synced bs=4k count=100 conv=fsync 2>&1").ok()
    stats = vm.card_stats()
    assert (stats.wr_operations, stats.flush_operations) == (0, 0)
    vm.kill()
    assert card.differing_sectors(before) == []


@pytest.mark.thorough
@BOTH
def test_ten_flushes_in_a_row(boot: Lab) -> None:
    vm = boot()
    writer = workload.Writer(vm)
    for _ in range(10):
        before = writer.wait_rounds(3)
        vm.run("cowflush flush", timeout=60).ok()
    writer.stop()
    vm.kill()
    workload.check(vm.card, before)


@BOTH
def test_stop_and_start(boot: Lab) -> None:
    vm = boot()
    vm.run("echo before >/root/before").ok()
    vm.run("cowflush stop", timeout=60).ok()
    assert status(vm)["mode"] == "write-through"
    at_stop = vm.card_stats()
    vm.run("echo through >/root/through; sync").ok()
    assert (vm.card_stats() - at_stop).wr_operations > 0
    vm.run("cowflush start", timeout=60).ok()
    assert status(vm)["mode"] == "deferring"
    at_start = vm.card_stats()
    vm.run("echo after >/root/after; sync").ok()
    assert (vm.card_stats() - at_start).wr_operations == 0
    vm.kill()
    files = vm.card.fs(replay=True)
    files.fsck()
    assert sorted(files.hashes("/root")) == ["/root/before", "/root/through"]


def test_stop_then_power_off_leaves_a_clean_card(boot: Lab) -> None:
    vm = boot()
    vm.run("echo kept >/root/kept; cowflush stop && mount -o remount,ro /", timeout=60).ok()
    vm.poweroff()
    vm.card.fsck()
    assert vm.card.read("/root/kept") == b"kept\n"
    assert "needs_recovery" not in vm.card.fs().superblock()["Filesystem features"]


@pytest.mark.thorough
def test_a_read_only_boot_is_remounted_by_init(boot: Lab) -> None:
    vm = boot(rw=False)
    vm.run("echo x >/root/x").exits(1)
    vm.run("mount -o remount,rw / && echo x >/root/x && cowflush flush", timeout=60).ok()
    vm.kill()
    vm.card.fsck()
    assert vm.card.read("/root/x") == b"x\n"


# Some image tools begin root at a sector that is not on a 4 KiB block. Both partitions are named by
# their numbers.
MISALIGNED = """
label: dos
label-id: 0xc0f1a563
unit: sectors

start=63, size=245760, type=83, bootable
start=253952, size=131072, type=da
"""
GUIDS = ("c0f1a586-0000-4000-8000-00000000000a", "c0f1a586-0000-4000-8000-00000000000b")
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
GPT = f"""
label: gpt
label-id: c0f1a586-0000-4000-8000-000000000000
unit: sectors

start=8192, size=245760, type={LINUX}, uuid={GUIDS[0]}, name="router-root"
start=253952, size=131072, type={LINUX}, uuid={GUIDS[1]}, name="router-log"
"""


def logged_boots(boot: Lab, table: str, first: str, *later: tuple[str, str]) -> None:
    """Boots one card with different references; each boot finds the last one's flush in the log."""
    card = boot.card(partitions=table)
    vm = boot(card, root=first)
    check_settled(vm)
    vm.run("cowflush log format /dev/sda2").ok()
    logged.flush(vm, 1)
    for number, (root, log) in enumerate(later, 1):
        vm.kill()
        logged.check_card(card, number)
        vm = boot(card, root=root, append=f"cowflush.log={log}")
        assert "ignoring" not in said(vm) and "cannot" not in said(vm)
        check_settled(vm, log=LOGGED)
        logged.check_state(vm, number)
        logged.flush(vm, number + 1)
    # The card itself can be written to there, too.
    vm.run("cowflush stop", timeout=60).ok()
    check_settled(vm, "write-through", log=LOG)
    vm.run("echo through >/root/through; mount -o remount,ro /").ok()
    vm.poweroff()
    card.fsck()
    assert card.read("/root/through") == b"through\n"
    assert card.read(logged.STATE) == f"{len(later) + 1}\n".encode()
    assert flushlog.FlushLog(card).segments == []


@pytest.mark.thorough
def test_a_root_that_begins_at_sector_63_and_is_named_by_numbers(boot: Lab) -> None:
    """Partitions began at sector 63 before 2010; `801` is the kernel's old way to write 8:1."""
    logged_boots(boot, MISALIGNED, "8:1", ("PARTUUID=c0f1a563-01", "8:2"), ("801", "auto"))


@pytest.mark.thorough
def test_partitions_of_a_gpt_by_their_names_and_guids(boot: Lab) -> None:
    logged_boots(
        boot,
        GPT,
        "PARTLABEL=router-root",
        (f"PARTUUID={GUIDS[0].upper()}", "PARTLABEL=router-log"),
        ("LABEL=root", f"PARTUUID={GUIDS[1]}"),
        # The names of udev's links; this guest has no udev.
        ("/dev/disk/by-label/root", f"/dev/disk/by-partuuid/{GUIDS[1]}"),
    )


def test_a_boot_does_as_the_command_line_says(boot: Lab) -> None:
    """The command line says how and when root is mounted, and which init starts."""
    card = boot.card()
    card.edit(["symlink /sbin/other-init /sbin/init"])
    words = "rootdelay=20 rootflags=noatime,commit=77,errors=remount-ro init=/sbin/other-init first second"
    vm = boot(card, root="8:1", append=f"{NO_LONG_JUMP} {words}", **HURRIED)
    assert "ignoring" not in said(vm) and "cannot" not in said(vm)
    check_settled(vm)
    mounted = vm.run("grep ' / ' /proc/mounts").ok().text.split()
    assert mounted[:3] == ["/dev/mapper/cowflush-root", "/", "ext4"]
    options = mounted[3].split(",")
    assert {"rw", "noatime", "commit=77", "errors=remount-ro"} <= {*options}, mounted
    started = vm.run("tr '\\0' ' ' </proc/1/cmdline").ok().text.split()
    assert started[-3:] == ["/sbin/other-init", "first", "second"]
    # The real init inherits no signal dispositions from cowflush: every process would inherit them.
    signals = dict(
        re.findall(r"^(Sig\w+):\t(\w+)$", vm.get("/proc/1/status").decode(), re.MULTILINE)
    )
    assert int(signals["SigBlk"], 16) == 0
    assert int(signals["SigIgn"], 16) & 1 << signal.SIGPIPE - 1 == 0
    begin, end = (
        float(re.search(rf"^\[ *([\d.]+)\] {words}", vm.console, re.MULTILINE)[1])  # type: ignore[index]
        for words in ("Run /init as init process", "cowflush: root is cowflush-root over sda1")
    )
    assert end - begin > 20


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["ext2", "ext3"])
def test_filesystems_flush_clean(boot: Lab, kind: str) -> None:
    vm = boot(filesystem=Filesystem(kind))
    writer = workload.Writer(vm)
    before = writer.wait_rounds(10)
    vm.run("cowflush flush", timeout=60).ok()
    writer.stop()
    vm.kill()
    workload.check(vm.card, before)


def test_off_boots_from_the_card(boot: Lab) -> None:
    vm = boot(append="cowflush=off")
    assert "root is the plain card sda1 (rw), as cowflush=off says: writes go to it." in said(vm)
    assert "mode=off" in vm.get("/run/cowflush/boot").decode()
    vm.run("cowflush status").exits(3)
    vm.run("cowflush flush").exits(3)
    vm.run("echo x >/root/x; sync").ok()
    assert vm.card_stats().wr_operations > 0
