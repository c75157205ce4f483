"""A card that fails: nothing in RAM is lost, root goes on, and a card that works again gets all."""

from __future__ import annotations

import re

import pytest

from harness import Card, Filesystem, Throttle
from harness.lab import Lab
from harness.machine import VM
from product import workload
from product.router import MERGING, check_settled, status, wait_status

CARD = 5
KILLED = 137
DM_DEV_SUSPEND = "C138FD06"
BOTH = pytest.mark.kernels("6.1", "6.12")
SECTORS_PER_BLOCK = 8
VICTIM = "/root/victim"
CONTENT = b"old " * 4096
REWRITTEN = CONTENT.replace(b"o", b"n")
REWRITE = f"tr o n <{VICTIM} >/run/new; dd if=/run/new of={VICTIM} conv=notrunc 2>&1; sync"
HOLDS_VICTIM = Filesystem(files=((VICTIM, CONTENT),))


def victim_sectors(card: Card) -> range:
    """The victim's sectors on the card: a rewritten file keeps its blocks."""
    blocks = card.fs().blocks(VICTIM)
    assert blocks == list(range(blocks[0], blocks[0] + len(CONTENT) // 4096))
    return range(blocks[0] * SECTORS_PER_BLOCK, (blocks[-1] + 1) * SECTORS_PER_BLOCK)


def check_lives(vm: VM, writer: workload.Writer) -> None:
    """Checks that everything written can be read, and that more can be written."""
    rounds = writer.rounds()
    vm.run("echo 3 >/proc/sys/vm/drop_caches").ok()
    lines = (
        vm.run(f"sha256sum $(seq {rounds} | sed s:^:{workload.FOLDER}/:)").ok().text.splitlines()
    )
    assert {name: digest for digest, name in (line.split() for line in lines)} == workload.hashes(
        rounds
    )
    writer.wait_rounds(2)


@BOTH
@pytest.mark.parametrize("command", ["flush", pytest.param("stop", marks=pytest.mark.thorough)])
def test_a_card_that_takes_no_writes(boot: Lab, command: str) -> None:
    vm = boot()
    writer = workload.Writer(vm)
    before = writer.wait_rounds(10)
    vm.fail_writes(vm.card.root.sectors)
    for _ in range(2):
        said = vm.run(f"cowflush {command}", timeout=60).exits(CARD).text
        assert re.search(
            r"cannot merge into sda1: writing sectors \d+ to \d+ of sda1 failed\. .*dmesg", said
        ), said
        assert status(vm)["mode"] == "deferring" and status(vm)["pending"] > 0
        check_lives(vm, writer)
    vm.heal()
    vm.run(f"cowflush {command}", timeout=60).ok()
    check_settled(vm, "deferring" if command == "flush" else "write-through")
    if command == "flush":
        writer.stop()
        vm.kill()
        workload.check(vm.card, before)


@BOTH
def test_one_bad_place_is_named(boot: Lab) -> None:
    card = boot.card(HOLDS_VICTIM)
    place = victim_sectors(card)
    first, last = place.start, place.stop - 1
    vm = boot(card)
    vm.fail_writes(range(card.root.start + first, card.root.start + first + 1))
    vm.run(f"echo other >/root/other; {REWRITE}").ok()
    for _ in range(2):
        said = vm.run("cowflush flush", timeout=60).exits(CARD).text
        named = re.search(r"writing sectors (\d+) to (\d+) of sda1 failed", said)
        assert named, said
        assert int(named[1]) <= first <= int(named[2]) and int(named[2]) <= last, said
        assert status(vm)["phase"] == "merge-failed" and status(vm)["sealed"] > 0
        assert (
            "the card refused a write; all data are in RAM" in vm.run("cowflush status").ok().text
        )
        assert vm.get(VICTIM) == REWRITTEN
    vm.heal()
    vm.run("echo later >/root/later; cowflush flush", timeout=60).ok()
    check_settled(vm)
    vm.kill()
    card.fsck()
    assert card.read(VICTIM) == REWRITTEN
    assert (card.read("/root/other"), card.read("/root/later")) == (b"other\n", b"later\n")


def fail_the_tail(boot: Lab) -> VM:
    """A stop that has merged its first seal, but not the tail, which holds the victim."""
    card = boot.card(HOLDS_VICTIM)
    place = victim_sectors(card)
    vm = boot(card, throttle=Throttle())
    vm.run("dd if=/dev/urandom of=/root/big bs=64k count=32 2>&1; sync").ok()
    vm.throttle(Throttle(iops=8))  # the merge is still under way when everything is in place
    stop = vm.start("cowflush stop")
    wait_status(vm, MERGING)
    vm.run(REWRITE).ok()
    vm.fail_writes(range(card.root.start + place.start, card.root.start + place.stop))
    vm.throttle(Throttle())
    assert stop.wait(60).code == CARD
    assert re.search(r"cannot merge into sda1: a write to sda1 failed\. ", stop.wait().text), (
        stop.wait().text
    )
    assert (status(vm)["mode"], status(vm)["phase"]) == ("write-through", "merge-failed")
    return vm


def check_tail(vm: VM) -> None:
    vm.heal()
    vm.run("cowflush stop", timeout=60).ok()
    check_settled(vm, "write-through")
    vm.run("echo later >/root/later; sync").ok()
    vm.kill()
    files = vm.card.fs(replay=True)
    files.fsck()
    assert (files.read(VICTIM), files.read("/root/later")) == (REWRITTEN, b"later\n")
    assert len(files.read("/root/big")) == 32 << 16


@pytest.mark.thorough
@BOTH
def test_a_card_that_fails_at_the_tail_of_a_stop(boot: Lab) -> None:
    vm = fail_the_tail(boot)
    for command in ("stop", "flush"):
        assert vm.get(VICTIM) == REWRITTEN
        vm.run(
            f"echo {command} >/root/{command}; sync; echo 3 >/proc/sys/vm/drop_caches; cat /root/{command}"
        ).ok()
        vm.run(f"cowflush {command}", timeout=60).exits(CARD)
    check_tail(vm)


# A restarted merge suspends root, goes through a plain snapshot to a new merge, and resumes root.
@pytest.mark.thorough
def test_a_retry_that_is_killed_anywhere(boot: Lab) -> None:
    """Each kill leaves root to the guard, which finishes the step: the merge fails anew."""
    vm = fail_the_tail(boot)
    for stop in range(2, 9):
        vm.run(f"guest-tools killat --ioctl {DM_DEV_SUSPEND} {stop} cowflush stop").exits(KILLED)
        vm.until(f"echo {stop} >/root/probe && sync")
        wait_status(vm, '"phase":"merge-failed"')
        vm.run("echo 3 >/proc/sys/vm/drop_caches").ok()
        assert vm.get(VICTIM) == REWRITTEN, stop
        assert vm.get("/root/probe") == f"{stop}\n".encode()
    check_tail(vm)


@BOTH
def test_a_card_that_can_not_be_flushed(boot: Lab) -> None:
    vm = boot()
    writer = workload.Writer(vm)
    before = writer.wait_rounds(5)
    vm.fail_flush()
    vm.run("cowflush flush", timeout=60).exits(CARD)
    check_lives(vm, writer)
    vm.heal()
    vm.run("cowflush flush", timeout=60).ok()
    writer.stop()
    vm.kill()
    workload.check(vm.card, before)


@pytest.mark.thorough
@BOTH
def test_a_card_that_can_not_be_read(boot: Lab) -> None:
    """What RAM holds needs nothing from the card; the rest returns with the card."""
    vm = boot(filesystem=HOLDS_VICTIM)
    writer = workload.Writer(vm)
    before = writer.wait_rounds(5)
    vm.run("cp /usr/sbin/cowflush /run/rescue").ok()
    vm.fail_reads()
    vm.run("/run/rescue flush", timeout=60).ok()
    writer.wait_rounds(2)
    assert "I/O error" in vm.run(f"cat {VICTIM}").exits(1).text
    vm.heal()
    assert vm.get(VICTIM) == CONTENT
    writer.stop()
    vm.kill()
    workload.check(vm.card, before)
