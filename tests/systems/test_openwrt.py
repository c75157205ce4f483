"""cowflush in systems laid out as OpenWrt's, from their boot loader to their shutdown.

They have the kernel "openwrt-geode", which has the geode target's options and is built only for
`make test-systems`, or the tests' own. The scripts around the package's own
(tests/systems/files/openwrt) stand in for OpenWrt's: no image of OpenWrt was at hand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import artefacts, writelog
from harness.card import Card
from harness.drive import Drive, Throttle
from harness.lab import Lab
from harness.machine import VM
from harness.writelog import Entry
from product import daemon, flushlog
from product.router import status, wait_status
from systems import bases, images
from systems.bases import Laid

OURS, GEODE = "6.1", "openwrt-geode"
BOTH = pytest.mark.parametrize(
    "board",
    [
        pytest.param(OURS, marks=pytest.mark.thorough),
        pytest.param(GEODE, marks=pytest.mark.systems),
    ],
)


def boot_mode(vm: VM) -> str:
    return str(json.loads(vm.run("cowflush status --json").output)["boot"]["mode"])


def ext4(lab: Lab, board: str = GEODE, name: str = "one") -> Laid:
    """An image with an ext4 root, cowflush added by `make image`."""
    work = lab.directory / name
    work.mkdir()
    base = bases.openwrt(work, artefacts.board_kernel(board), name=name)
    out = lab.directory / f"{name}.img"
    images.done("add", base.path, "--out", out)
    return Laid(out, 2, 3)


def ready(vm: VM) -> None:
    """Waits until the boot's scripts have ended, and so have written everything."""
    vm.wait_console("^rcS: done")


def written(vm: VM, card: Laid) -> int:
    """Bytes that reached root's partition and the log's; the boot partition gets some, too."""
    names = " ".join(f"/sys/class/block/sda{number}/stat" for number in card.numbers)
    return 512 * int(vm.run(f"awk '{{ sum += $7 }} END {{ print sum }}' {names}").ok().text)


@BOTH
def test_an_ext4_root_keeps_what_was_flushed(boot: Lab, board: str) -> None:
    card = ext4(boot, board)
    config = boot.directory / "config"
    config.write_text(
        "config cowflush 'daemon'\n\toption interval '7m'\n\toption high 'nonsense'\n\toption full_wait '81%'\n\toption urgent 'none'\n"
    )
    card.edit(["cd /etc/config", "rm cowflush", f"write {config} cowflush"])
    vm = images.boot(boot, card)
    ready(vm)
    assert boot_mode(vm) == "deferring"
    # UCI's settings have reached the daemon, through a file in RAM.
    settings = b"interval = 7m\nhigh = nonsense\nfull-wait = 81%\nurgent = none\n"
    assert vm.get("/etc/cowflush.conf") == settings
    vm.until(f"[ -e {daemon.NOTE} ]")
    # procd throws away what a service says; a person looks into the system's log.
    vm.until("logread | grep -q 'ignoring line 2 of /etc/cowflush.conf, `high = nonsense`'")
    seen = status(vm)["daemon"]
    assert 6 * 60 < seen["next_flush"]["seconds"] <= 7 * 60, seen
    # A log made in an image learns at its first boot where root is, in both copies of its header.
    # And init counts the boot.
    assert written(vm, card) <= 2 * 4096 + 512

    vm.run("echo kept >/etc/kept").ok()
    daemon.flush(vm)
    vm.run("echo lost >/etc/lost; sync").ok()
    vm.kill()
    root = flushlog.recovered(card)
    root.fsck()
    assert root.read("/etc/kept") == b"kept\n" and "/etc/lost" not in root.hashes("/etc")
    again = images.boot(boot, card)
    ready(again)
    assert again.get("/etc/kept") == b"kept\n" and boot_mode(again) == "deferring"


def slow(vm: VM, megabytes: int, kilobytes: int) -> None:
    """Writes this much to RAM, and then slows the card down to this speed."""
    vm.run(f"dd if=/dev/urandom of=/root/big bs=1M count={megabytes} 2>/dev/null; sync").ok()
    vm.throttle(Throttle(bytes_per_second=kilobytes << 10))


@pytest.mark.thorough
def test_a_reboot_waits_for_a_slow_card_though_procd_does_not(boot: Lab) -> None:
    """procd gives a K script 15 seconds; the flush takes twice that."""
    card = ext4(boot, OURS)
    vm = boot(card, root="/dev/sda2", throttle=Throttle())
    ready(vm)
    slow(vm, 6, 200)
    sums = vm.run("md5sum </root/big").ok().text
    assert vm.run_last("reboot", timeout=300) == "guest-reset"
    assert "all data are on the card." in vm.console
    assert "stopped" in card.read("/etc/log").decode()
    assert hashlib.md5(card.read("/root/big")).hexdigest() in sums
    card.fsck()


@pytest.mark.thorough
def test_what_is_repaired_in_failsafe_mode_is_on_the_card(boot: Lab) -> None:
    card = ext4(boot, OURS)
    vm = boot(card, root="/dev/sda2", append="failsafe=true")
    assert vm.run("cowflush status").ok().text.startswith("mode       write-through")
    assert (
        "cowflush: failsafe: everything goes to the card now, and from then on at once"
        in vm.console
    )
    vm.run("mount -o remount,rw / && echo repaired >/etc/repaired; sync").ok()
    vm.kill()
    card.fsck()
    assert card.read("/etc/repaired") == b"repaired\n"


@BOTH
def test_a_reboot_in_procd_s_order_leaves_all_on_the_card(boot: Lab, board: str) -> None:
    vm = images.boot(boot, ext4(boot, board))
    ready(vm)
    vm.run("echo here >/etc/here").ok()
    assert vm.run_last("reboot", timeout=120) == "guest-reset"
    assert "all data are on the card" in vm.console
    vm.card.fsck()
    assert vm.card.read("/etc/here") == b"here\n"
    assert vm.card.read("/etc/log") == b"started\nstopped\n"
    again = images.boot(boot, vm.card)
    assert "the flush log on sda3 holds 0 flushes" in again.console


@BOTH
def test_a_router_without_the_package_or_its_service_writes_to_the_card(
    boot: Lab, board: str
) -> None:
    """Its initramfs and the entry are there still, and nobody would flush."""
    card = ext4(boot, board)
    vm = images.boot(boot, card)
    ready(vm)
    vm.run("echo kept >/etc/kept; /etc/init.d/cowflush stop; rm -f /etc/rc.d/*cowflush*; sync").ok()
    vm.kill()
    vm = images.boot(boot, card)
    ready(vm)
    assert boot_mode(vm) == "plain"
    assert "no service on it is switched on that would flush it" in vm.console
    # As opkg removes it.
    vm.run(
        "rm -r /usr/sbin/cowflush /etc/init.d/cowflush /lib/preinit/*cowflush /lib/functions/cowflush.sh /lib/upgrade/cowflush.sh /etc/cowflush.conf; "
        "echo direct >/etc/direct; sync"
    ).ok()
    vm.kill()
    vm = images.boot(boot, card)
    ready(vm)
    assert "there is no program cowflush on it that can be started" in vm.console
    vm.run("[ $(cat /etc/kept /etc/direct | tr -d '\\n') = keptdirect ]").ok()
    vm.run("echo later >/etc/later; sync").ok()
    vm.kill()
    root = card.fs(replay=True)
    assert root.read("/etc/later") == b"later\n"


def slow_flush(vm: VM) -> None:
    """Starts a flush that goes on until the test lifts the throttle: it would take a minute."""
    vm.run("dd if=/dev/urandom of=/root/big bs=64k count=64 2>/dev/null; sync").ok()
    vm.throttle(Throttle(bytes_per_second=64 << 10))
    vm.start("cowflush flush")
    wait_status(vm, '"busy_pid":[0-9]')


@pytest.mark.systems
def test_the_service_can_be_stopped_started_and_reloaded(boot: Lab) -> None:
    vm = images.boot(boot, ext4(boot), throttle=Throttle())
    ready(vm)
    slow_flush(vm)
    stop = vm.start("/etc/init.d/cowflush stop")
    stop.wait_output("is at work")
    vm.throttle(Throttle())
    stop.wait(60).ok()
    assert vm.run("cowflush status").ok().text.startswith("mode       write-through")
    vm.until("! pidof cowflush")  # start-stop-daemon does not wait for its end
    vm.run("/etc/init.d/cowflush start").ok()
    assert vm.run("cowflush status").ok().text.startswith("mode       deferring")
    vm.until(f"[ -e {daemon.NOTE} ]")  # nor for its start; before it a signal ends the daemon
    vm.run(
        "sed -i \"s/# option interval.*/option interval '9m'/\" /etc/config/cowflush; /etc/init.d/cowflush reload"
    ).ok()
    vm.run("pidof cowflush && grep -x 'interval = 9m' /etc/cowflush.conf").ok()


def cuts(blank: Card, log: Path) -> Iterator[tuple[list[Entry], Laid]]:
    """The card as a power cut at each FLUSH would leave it, and what it received since the one before."""
    card = Laid(blank.copy(blank.path.with_suffix(".cut.img")).path, 2, 3)
    since: list[Entry] = []
    for entry in writelog.entries(log):
        since.append(entry)
        if entry.is_flush:
            writelog.replay(iter(since), card.path)
            yield since, card
            since = []


@pytest.mark.thorough
def test_a_power_cut_at_any_flush_of_an_upgrade_leaves_the_old_system_or_the_settings(
    boot: Lab,
) -> None:
    """Until the image is written the old system is whole, and once it has all it never has less; behind that the
    settings are on the boot partition or on root. What is in between is OpenWrt's own affair."""
    card, new = ext4(boot, OURS), ext4(boot, OURS, "two")
    vm = images.boot(boot, card)
    ready(vm)
    vm.run("echo kept >/etc/kept").ok()
    assert vm.run_last("reboot", timeout=120) == "guest-reset"
    blank, log = (
        Laid(card.copy(boot.directory / "old.img").path, 2, 3),
        boot.directory / "upgrade.log",
    )
    vm = images.boot(boot, card, drives=(Drive(new.path),), write_log=log)
    ready(vm)
    vm.run("echo here >/etc/here").ok()
    upgrade = "/sbin/sysupgrade /dev/sdb >/dev/console 2>&1 </dev/null"
    assert vm.run_last(upgrade, timeout=240) == "guest-reset"
    there: list[bool] = []
    for received, cut in cuts(blank, log):
        # The image's first write.
        if any(entry.sector == 0 and entry.data for entry in received):
            break
        root = flushlog.recovered(cut)
        # At the end it is written through.
        root.replay_journal()
        root.fsck()
        assert root.read("/etc/kept") == b"kept\n"
        there.append(root.has("/etc/here"))
    assert there == sorted(there) and there[-1] and len(there) > 3, there

    blank, log = (
        Laid(card.copy(boot.directory / "new.img").path, 2, 3),
        boot.directory / "first.log",
    )
    vm = images.boot(boot, card, write_log=log)
    ready(vm)
    vm.run("cowflush flush").ok()
    vm.kill()
    places = []
    for _, cut in cuts(blank, log):
        saved = Laid(cut.path, 1).fs(replay=True)
        on_boot = saved.has("/sysupgrade.tgz")
        root = flushlog.recovered(cut)
        root.fsck()
        on_root = root.has("/sysupgrade.tgz") or root.has("/etc/kept")
        places.append((on_boot, on_root))
    assert all(on_boot or on_root for on_boot, on_root in places), places
    assert places[-1] == (False, True), places


# Something is written behind stage 1, when nothing can be given up any more.
LATER = """#!/bin/sh
[ "${0##*/}" != stage2 ] || echo later >/etc/later
"""


@pytest.mark.thorough
def test_an_upgrade_that_fails_is_refused_while_all_is_alive_and_later_loses_nothing(
    boot: Lab,
) -> None:
    """The card takes nothing for the flush log; and then nothing for root, so that it can't be written through."""
    card = ext4(boot, OURS)
    later = boot.directory / "later"
    later.write_text(LATER)
    card.edit(["cd /lib/upgrade", f"write {later} a_later.sh"])
    vm = boot(card, root="/dev/sda2")
    ready(vm)
    vm.run("head -c 4096 /dev/zero >/tmp/new.img; echo here >/etc/here; pidof cowflush").ok()
    vm.fail_writes(card.log.sectors)
    said = vm.run("/sbin/sysupgrade /tmp/new.img 2>&1", timeout=120).exits(1).text
    assert "the upgrade is refused: the card could not be brought up to date" in said
    vm.run("pidof cowflush && cat /etc/here").ok()
    assert status(vm)["mode"] == "deferring"
    vm.heal()

    vm.fail_writes(card.root.sectors)
    upgrade = "/sbin/sysupgrade /tmp/new.img >/dev/console 2>&1 </dev/null"
    assert vm.run_last(upgrade, timeout=300) == "guest-reset"
    assert "Nothing is lost: all was flushed" in vm.console
    assert "sysupgrade aborted with return code: 256" in vm.console
    root = flushlog.recovered(card)
    root.fsck()
    assert (root.read("/etc/here"), root.read("/etc/later")) == (b"here\n", b"later\n")


# --- a squashfs root, and its writable partition --------------------------------------------


def squashfs(lab: Lab, board: str = GEODE) -> Laid:
    work = lab.directory / "squashfs"
    work.mkdir()
    return bases.openwrt_squashfs(work, artefacts.board_kernel(board))


@pytest.mark.systems
def test_the_writable_partition_of_a_squashfs_root_is_covered(boot: Lab) -> None:
    card = squashfs(boot)
    vm = images.boot(boot, card)
    ready(vm)
    assert boot_mode(vm) == "deferring"
    mounts = vm.get("/proc/mounts").decode()
    assert (
        "overlayfs:/overlay / overlay rw" in mounts and "/dev/dm-overlay /overlay ext4 rw" in mounts
    )
    # A log made in an image learns at its first boot where root is, in both copies of its header.
    # And init counts the boot.
    assert written(vm, card) <= 2 * 4096 + 512
    vm.run("echo kept >/etc/kept").ok()
    daemon.flush(vm)
    vm.run("echo lost >/root/lost; sync").ok()
    vm.kill()
    data = flushlog.recovered(card)
    data.fsck()
    assert data.read("/upper/etc/kept") == b"kept\n" and "/upper/root/lost" not in data.hashes(
        "/upper"
    )

    again = images.boot(boot, card)
    ready(again)
    assert again.get("/etc/kept") == b"kept\n"
    again.run("echo more >/etc/more").ok()
    assert again.run_last("reboot", timeout=120) == "guest-reset"
    assert "all data are on the card" in again.console
    card.fsck()
    assert card.read("/upper/etc/more") == b"more\n"


@pytest.mark.systems
def test_the_same_partition_without_cowflush(boot: Lab) -> None:
    card = squashfs(boot)
    vm = images.boot(boot, card, wait=False)
    vm.wait_console(r"OpenWrt \(1\)")
    vm.type(images.DOWN + "\r")
    vm.wait_boot()
    ready(vm)
    assert boot_mode(vm) == "off"
    vm.run("echo direct >/etc/direct; sync").ok()
    vm.kill()
    assert card.fs(replay=True).read("/upper/etc/direct") == b"direct\n"


@pytest.mark.thorough
def test_a_squashfs_root_can_t_be_added_to(boot: Lab) -> None:
    card = squashfs(boot, OURS)
    out = boot.directory / "out.img"
    # It is prepared already, as docs/use/flush-log.md describes.
    assert "partition 4 is a flush log already" in images.refused("add", card.path, "--out", out)
    with open(card.path, "r+b") as file:
        file.seek(card.log.start * 512)
        file.write(bytes(card.log.size * 512))
    said = images.refused("add", card.path, "--out", out)
    assert "its root is a squashfs" in said and "docs/install/openwrt.md" in said


# --- sysupgrade -------------------------------------------------------------------------


KEY = "head -c 16 /dev/urandom | md5sum >/etc/key\n"


@BOTH
def test_an_upgrade_finds_no_live_stack_and_leaves_the_new_image(boot: Lab, board: str) -> None:
    """A power cut neither loses nor repeats what the upgrade saved or the first boot makes."""
    card, new = ext4(boot, board), ext4(boot, board, "two")
    key = boot.directory / "key"
    key.write_text(KEY)
    new.edit(["mkdir /etc/uci-defaults", "cd /etc/uci-defaults", f"write {key} 10_key"])
    vm = images.boot(boot, card, drives=(Drive(new.path),))
    ready(vm)
    vm.run("echo old >/etc/old; echo kept >/etc/kept").ok()
    daemon.flush(vm)
    vm.run("echo later >/etc/later").ok()
    assert (
        vm.run_last("/sbin/sysupgrade /dev/sdb >/dev/console 2>&1 </dev/null", timeout=120)
        == "guest-reset"
    )
    assert "cowflush: everything until now goes to the card before the upgrade" in vm.console
    assert "cowflush: all goes to the card before the upgrade" in vm.console
    assert "stage2: mode       write-through" in vm.console
    # The boot partition has got the saved settings.
    boots = range(card.partitions[0].start, card.partitions[1].start)
    assert [sector for sector in card.differing_sectors(new) if sector not in boots] == []

    moment = images.boot(boot, Laid(card.path, 2, 3), wait=False)
    moment.wait_console("preinit: the settings are unpacked")
    moment.kill()
    first = images.boot(boot, Laid(card.path, 2, 3))
    ready(first)
    assert first.get("/etc/version") == b"two\n" and boot_mode(first) == "deferring"
    assert first.get("/etc/kept") == b"kept\n"
    first.run("[ ! -e /etc/old ] && [ ! -e /etc/uci-defaults/10_key ]").ok()
    made = first.get("/etc/key")
    first.kill()
    again = images.boot(boot, Laid(card.path, 2, 3))
    ready(again)
    assert (again.get("/etc/kept"), again.get("/etc/key")) == (b"kept\n", made)
