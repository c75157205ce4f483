"""Reads of the flush log: intact, damaged or unreadable, compared with what root reads.

A card that can't be read now may be readable a second later, and one that was read well may be
damaged since. Neither may lead to a write that overwrites what root reads, or forgets what it
doesn't.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from harness import Card
from harness.lab import Lab
from harness.machine import VM
from product import flushlog, logged
from product.flushlog import FlushLog
from product.router import LOG, LOGGED, check_settled, status

FAILED, CARD = 1, 5
# Seconds for a command that reads unreadable chunks: the kernel tries each several times, and so
# does the program
PATIENCE = 180
FLUSHES = 4
BIG = "dd if=/dev/urandom of=/root/big bs=64k count=8 2>/dev/null; sync"


def sectors(card: Card, chunk: int, count: int = 1) -> range:
    start = card.log.start + chunk * 8
    return range(start, start + count * 8)


def log_digest(vm: VM) -> str:
    """The digest of the log's whole partition."""
    vm.pause()
    found = logged.digest(flushlog.log_image(vm.card, vm.card.path.with_suffix(".digest.img")))
    vm.cont()
    return found


def outside(vm: VM, change: Callable[[], None]) -> None:
    """Changes the card while the guest is paused."""
    vm.pause()
    change()
    vm.cont()


def check_root(vm: VM, number: int) -> None:
    vm.run("echo 3 >/proc/sys/vm/drop_caches").ok()
    logged.check_state(vm, number)


def check_refused(vm: VM, number: int, word: str, commands: tuple[str, ...] = ("flush",)) -> None:
    """Checks that nothing is written, root is as it is, and the message names the reason."""
    before = log_digest(vm)
    for command in commands:
        said = vm.run(f"cowflush {command}", timeout=PATIENCE).exits(CARD).text
        assert (
            word in said
            and "othing was written" in said
            and "format" not in said.lower().replace("don't format", "")
        ), said
        check_root(vm, number)
    assert log_digest(vm) == before
    assert status(vm)["mode"] == "deferring" and status(vm)["pending"] > 0


def write(vm: VM, number: int) -> None:
    """Writes what `logged.flush` flushes."""
    vm.run(f"echo {number} >{logged.STATE} && seq {number} 3000 >/root/f{number} && sync").ok()


def test_nothing_is_appended_to_a_log_that_lacks_what_root_reads(boot: Lab) -> None:
    vm = logged.start(boot)
    for number in range(1, FLUSHES + 1):
        logged.flush(vm, number)
    vm.pause()
    head = FlushLog(vm.card).segments[1].head
    vm.cont()
    # It can't be read for a moment.
    vm.fail_reads(sectors(vm.card, head))
    write(vm, 5)
    check_refused(vm, 5, f"its chunk {head} on /dev/sda2 can't be read any more")
    vm.heal()
    assert "to the log on sda2" in vm.run("cowflush flush", timeout=PATIENCE).ok().text
    # One bit of it rots.
    outside(vm, lambda: flushlog.flip(vm.card, head, 100))
    write(vm, 6)
    check_refused(
        vm, 6, "/dev/sda2 does not hold any more what root reads through it", ("flush", "flush")
    )
    assert json.loads(vm.run("cowflush status --json").ok().output)["log"]["state"] == "behind"
    assert (
        "IT LACKS WHAT ROOT READS: `cowflush flush` says what to do"
        in vm.run("cowflush status").ok().text
    )
    # The way out
    assert "merged the flush log into sda1" in vm.run("cowflush merge", timeout=PATIENCE).ok().text
    check_root(vm, 6)
    check_settled(vm, log=LOG)
    logged.flush(vm, 7)
    vm.kill()
    logged.check_card(vm.card, 7)
    again = boot(vm.card)
    logged.check_state(again, 7)
    assert "damaged" not in logged.said(again)


@pytest.mark.thorough
def test_a_stop_saves_what_the_log_lacks(boot: Lab) -> None:
    vm = logged.start(boot)
    for number in range(1, FLUSHES + 1):
        logged.flush(vm, number)
    vm.pause()
    flushlog.flip(vm.card, FlushLog(vm.card).segments[1].head, 100)
    vm.cont()
    write(vm, 5)
    # By another way than the log, and the command says so.
    said = vm.run("cowflush stop", timeout=PATIENCE).exits(CARD).text
    assert "The card had failed before: cannot append to the flush log" in said
    vm.kill()
    root = vm.card.fs(replay=True)
    logged.check_root(root, 5)


def head_of_third(log: FlushLog) -> tuple[int, int]:
    return log.segments[2].head, 1


def data_of_last(log: FlushLog) -> tuple[int, int]:
    own = set(log.segments[-1].places) & set(log.live().values())
    return min(own), 1


def start_of_last(log: FlushLog) -> tuple[int, int]:
    """After the head: an empty segment in its place would have to know what follows it."""
    return log.segments[-1].head + 2, 3


def all_of_it(log: FlushLog) -> tuple[int, int]:
    return 0, log.card.log.size // 8


@pytest.mark.parametrize(
    ("where", "counts", "append"),
    [
        (head_of_third, 2, ""),
        pytest.param(data_of_last, 3, "", marks=pytest.mark.thorough),
        pytest.param(start_of_last, 3, "", marks=pytest.mark.thorough),
        (all_of_it, 0, "cowflush.log=/dev/sda2"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_what_one_boot_can_not_read_the_next_one_has(
    boot: Lab, where: Callable[[FlushLog], tuple[int, int]], counts: int, append: str
) -> None:
    card = logged.made(boot.card(), FLUSHES)
    first, count = where(FlushLog(card))
    vm = boot(card, wait=False, append=append)
    vm.fail_reads(sectors(card, first, count))
    vm.wait_boot()
    said = logged.said(vm)
    assert "FLUSHES ARE REFUSED: the flush log on sda2 can't be read." in said, said
    what = r"(cannot use /dev/sda2 as the flush log: its chunk \d+ can't be read\.)"
    if counts:
        what = r"chunk \d+ of the flush log on /dev/sda2 can't be read: .*, and what root has is .*\. FLUSHES ARE REFUSED until it can\."
    assert re.search(what, said) and "LOST" not in said, said
    if counts:
        check_root(vm, counts)
    else:
        vm.run(f"[ ! -e {logged.STATE} ]").ok()
    vm.run("echo x >/root/x; sync").ok()
    before = log_digest(vm)
    # Each takes its time. What `merge` may do, `stop` may.
    for command in ("flush", "stop"):
        text = vm.run(f"cowflush {command}", timeout=PATIENCE).exits(CARD).text
        assert "can't be read" in text and "othing was written" in text, text
    # Where root lacks something, cowflush reads all of the data, so that it can say why.
    assert json.loads(vm.run("cowflush status --json").ok().output)["log"]["state"] == "unreadable"
    word = "IT CAN'T BE READ TO ITS END, and flushes are refused until it can: `cowflush log` says more"
    assert word in vm.run("cowflush status").ok().text
    vm.run("cowflush log").exits(CARD)
    if counts:
        assert json.loads(vm.run("cowflush log --json").exits(CARD).output)["end"] == "unreadable"
        recovered = vm.run("cowflush recover /dev/sda1 /dev/sda2").exits(CARD).text
        assert "UNREADABLE: chunk" in recovered and "LOST" not in recovered, recovered
    else:
        vm.run("cowflush recover /dev/sda1 /dev/sda2").exits(CARD)
    # It can be read again: root still is not what the log holds.
    vm.heal()
    for command in ("flush", "merge", "stop"):
        text = vm.run(f"cowflush {command}", timeout=PATIENCE).exits(CARD).text
        assert f"holds flushes up to {FLUSHES} that root does not have" in text, text
    assert json.loads(vm.run("cowflush status --json").ok().output)["log"]["state"] == "ahead"
    assert "IT HOLDS MORE THAN ROOT READS" in vm.run("cowflush log").exits(CARD).text
    assert log_digest(vm) == before
    vm.kill()
    logged.check_card(card, FLUSHES)
    again = boot(card)
    logged.check_state(again, FLUSHES)
    again.run("[ ! -e /root/x ]").ok()
    assert "to the log on sda2" in logged.flush(again, FLUSHES + 1)
    again.kill()
    logged.check_card(card, FLUSHES + 1)


@pytest.mark.thorough
@pytest.mark.parametrize("healed", [False, True])
def test_the_owner_may_go_on_without_what_can_not_be_read(boot: Lab, healed: bool) -> None:
    card = logged.made(boot.card(), FLUSHES)
    head = FlushLog(card).segments[2].head
    vm = boot(card, wait=False)
    vm.fail_reads(sectors(card, head))
    vm.wait_boot()
    if healed:
        vm.heal()
    write(vm, 3)
    vm.run("cowflush flush", timeout=PATIENCE).exits(CARD)
    assert "flushed to sda1" in vm.run("cowflush flush --direct", timeout=PATIENCE).ok().text
    check_root(vm, 3)
    if not healed:
        vm.heal()
    # What is dropped stays so.
    assert "to the log on sda2" in logged.flush(vm, 4)
    vm.kill()
    logged.check_card(card, 4)
    again = boot(card)
    logged.check_state(again, 4)
    assert "is damaged" not in logged.said(again) and "can't be read" not in logged.said(again)


def test_a_card_that_takes_no_writes_does_not_cost_the_intact_flushes(boot: Lab) -> None:
    card = logged.made(boot.card(), FLUSHES)
    log = FlushLog(card)
    flushlog.flip(card, data_of_last(log)[0], 77)
    vm = boot(card, wait=False)
    vm.fail_writes(card.log.sectors)
    vm.wait_boot()
    said = logged.said(vm)
    assert f"flushes up to {FLUSHES} are lost, and what counts is flush {FLUSHES - 1}" in said, said
    assert "what is lost could not be cut off" in said and "Nothing is lost" not in said, said
    assert "this boot is not counted: cannot write sectors " in said, said
    logged.check_state(vm, FLUSHES - 1)
    vm.heal()
    # Now the card takes writes, and what is lost is overwritten.
    assert "to the log on sda2" in logged.flush(vm, FLUSHES)
    vm.run("cowflush merge", timeout=PATIENCE).ok()
    check_settled(vm, log=LOG)
    vm.kill()
    card.fsck()
    assert card.read(logged.STATE) == f"{FLUSHES}\n".encode()


def test_what_can_not_be_read_for_a_moment_holds_up_nothing_for_good(boot: Lab) -> None:
    vm = logged.start(boot)
    logged.flush(vm, 1)
    card = vm.card
    # Two empty chunks, where the next flush will be and after it: a power cut leaves such.
    free = int(logged.report(vm)["wear_position"]) // flushlog.CHUNK
    for at in (free, free + 7, free + 60):
        vm.fail_reads(sectors(card, at))
        number = len(logged.report(vm)["segments"]) + 1
        assert "to the log on sda2" in logged.flush(vm, number)
        vm.heal()
    check_settled(vm, log=LOGGED)
    flushes = len(logged.report(vm)["segments"])

    # The view of what was just appended can't be made: it is not appended again.
    write(vm, flushes + 1)
    vm.run(
        "guest-tools inject --rule 'write:cowflush-table#1=ENOSPC' cowflush flush", timeout=PATIENCE
    ).exits(FAILED)
    # Until then root reads it from RAM.
    used = logged.report(vm, CARD)["used"]
    for _ in range(2):
        vm.run(
            "guest-tools inject --rule 'write:cowflush-table#1=ENOSPC' cowflush flush",
            timeout=PATIENCE,
        ).exits(FAILED)
    assert logged.report(vm, CARD)["used"] == used
    assert len(logged.report(vm, CARD)["segments"]) == flushes + 1
    vm.run("cowflush flush", timeout=PATIENCE).ok()
    check_settled(vm, log=LOGGED)
    flushes += 1
    check_root(vm, flushes)

    # A merge meets a read error: nothing was written, and the next one merges everything.
    vm.pause()
    place = FlushLog(card).segments[0].places[-1]
    live = set(FlushLog(card).live().values())
    vm.cont()
    place = place if place in live else min(live)
    vm.fail_reads(sectors(card, place))
    for _ in range(2):
        said = vm.run("cowflush merge", timeout=PATIENCE).exits(CARD).text
        assert (
            f"cannot merge the flush log: its chunk {place} can't be read." in said
            and "lost" not in said.replace("to be lost", "")
        ), said
    # An unreadable chunk where the next generation begins doesn't block it either.
    vm.heal()
    vm.fail_reads(sectors(card, int(logged.report(vm)["wear_position"]) // flushlog.CHUNK))
    vm.run("cowflush merge", timeout=PATIENCE).ok()
    vm.heal()
    check_settled(vm, log=LOG)
    logged.flush(vm, flushes + 1)
    vm.kill()
    logged.check_card(card, flushes + 1)
