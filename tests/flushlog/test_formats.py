"""A newer program's log is kept, nothing is written past it, and every command says why.

An upgrade takes the log along, and there is a way back.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import Card, artefacts
from harness.lab import Lab
from harness.machine import VM
from product import flushlog, jsondoc, logged

NEWER = 9
KNOWN = "its log has format 2, and this program knows none above 1"
WRITERS = ("flush", "merge", "stop")


def check_refused(vm: VM) -> None:
    """Checks that nothing is written to the log or past it, and that every command explains it."""
    before = vm.card_stats().wr_operations
    vm.run("echo x >/root/x; sync").ok()
    for command in WRITERS:
        said = vm.run(f"cowflush {command}", timeout=60).exits(NEWER).text
        assert KNOWN in said and "`cowflush merge` with the newer one empties the log" in said, said
    text = vm.run("cowflush status").ok().text
    assert (
        "IT IS OF A NEWER COWFLUSH, and flushes are refused: `cowflush log` says what to do" in text
    )
    report = jsondoc.parse("status", vm.run("cowflush status --json").ok().output)
    assert report["log"]["state"] == "newer" and report["mode"] == "deferring"
    said = vm.run("cowflush log").exits(NEWER).text
    assert f"cannot use /dev/sda2 as the flush log: {KNOWN}" in said
    assert KNOWN in vm.run("cowflush check").ok().text
    vm.run("cowflush log format /dev/sda2 --over cowflush-log").fails()
    vm.run("cat /root/x").ok()
    assert vm.card_stats().wr_operations == before


def test_a_log_of_a_newer_program_is_kept_and_nothing_is_written_past_it(boot: Lab) -> None:
    card = logged.made(boot.card(), 2)
    flushlog.set_format(card, 2)
    before = card.copy(boot.directory / "before.img")
    vm = boot(card)
    said = logged.said(vm)
    assert f"cannot use /dev/sda2 as the flush log: {KNOWN}. A newer cowflush wrote it" in said
    assert (
        "FLUSHES ARE REFUSED: the flush log on sda2 is of a newer cowflush, and root is without what it holds."
    ) in said
    assert KNOWN in vm.run("dmesg").ok().text
    check_refused(vm)
    vm.kill()
    # Without a stack root is read-only.
    vm = boot(card, append="cowflush=off")
    said = logged.said(vm)
    assert "root is the plain card sda1 (ro), as cowflush=off says: writes are refused." in said
    vm.run("mount -o remount,rw /; ! touch /root/x").ok()
    vm.kill()
    assert not list(card.differing_sectors(before))
    # One copy of the header is enough to tell; the newer program may have failed to write the
    # other.
    flushlog.set_format(card, 1)
    vm = boot(card)
    logged.check_state(vm, 2)
    vm.kill()


@pytest.mark.thorough
def test_an_upgrade_takes_the_log_along_and_there_is_a_way_back(boot: Lab) -> None:
    """A build of this program plays one that writes a newer format."""
    newer = artefacts.newer()
    card = boot.card()
    put(card, newer / "cowflush")
    vm = boot(card)
    vm.run("cowflush log format /dev/sda2").ok()
    logged.flush(vm, 1)
    vm.kill()
    assert flushlog.formats(card) == [1, 1]

    # The newer program reads the log, and appends in its own format.
    vm = boot(card, initramfs=newer / "initramfs.cpio.gz")
    logged.check_state(vm, 1)
    assert flushlog.formats(vm.cut_copy(boot.directory / "upgraded.img")) == [1, 1]
    flush(vm, 2)
    vm.kill()
    assert flushlog.formats(card) == [2, 2]

    # An older kernel's initramfs has the older program.
    before = card.copy(boot.directory / "before.img")
    vm = boot(card)
    assert KNOWN in logged.said(vm)
    check_refused(vm)
    vm.kill()
    assert not list(card.differing_sectors(before))

    # The documented way back: the newer program merges, and leaves a log that every program reads.
    vm = boot(card, initramfs=newer / "initramfs.cpio.gz")
    logged.check_state(vm, 2)
    vm.run("/newer merge", timeout=60).ok()
    vm.kill()
    assert flushlog.formats(card) == [1, 1]
    vm = boot(card)
    assert "the flush log on sda2 holds 0 flushes" in logged.said(vm)
    logged.check_state(vm, 2)
    logged.flush(vm, 3)

    # An upgrade without a reboot: this boot's older program leaves alone what it can't read.
    flush(vm, 4)
    before_writes = vm.card_stats().wr_operations
    for command in WRITERS:
        assert KNOWN in vm.run(f"cowflush {command}", timeout=60).exits(NEWER).text
    assert vm.card_stats().wr_operations == before_writes
    logged.check_state(vm, 4)
    cut = vm.cut_copy(boot.directory / "cut.img")
    vm.run("/newer stop", timeout=60).ok()
    vm.kill()
    logged.check_root(card.fs(replay=True), 4, ())
    vm = boot(cut, initramfs=newer / "initramfs.cpio.gz")
    logged.check_state(vm, 4)
    vm.kill()


def put(card: Card, program: Path) -> None:
    """Installs the newer program, as an upgraded package would."""
    card.edit([f"write {program} /newer", "sif /newer mode 0100755"])


def flush(vm: VM, number: int) -> None:
    """Flushes a state as `logged.flush` does, by the newer program."""
    vm.run(f"echo {number} >{logged.STATE} && seq {number} 3000 >/root/f{number} && sync").ok()
    vm.run("/newer flush", timeout=60).ok()
