"""A card that fails in the flush log or during its merge: nothing is lost, and flushes go on."""

from __future__ import annotations

import json
import re

import pytest

from harness import Card, Filesystem
from harness.lab import Lab
from harness.machine import VM
from product import flushlog, logged, workload
from product.flushlog import FlushLog
from product.router import LOG, LOGGED, check_settled, status

CARD, LOST = 5, 7
BOTH = pytest.mark.kernels("6.1", "6.12")
WHAT_TO_DO = r"Look for the card's errors in the kernel log \(dmesg\), then run `cowflush flush`"


def chunk_sectors(card: Card, first: int, count: int = 1) -> range:
    """The card's sectors that chunks of the log occupy."""
    start = card.log.start + first * 8
    return range(start, start + count * 8)


def next_chunk(vm: VM) -> int:
    """The chunk at which the next segment will begin."""
    return int(logged.report(vm)["wear_position"]) // flushlog.CHUNK


def check_cut(boot: Lab, vm: VM, number: int) -> None:
    """Checks that a power cut now would leave the state of that flush."""
    vm.pause()
    card = vm.card.copy(boot.directory / "cut.img")
    vm.cont()
    logged.check_card(card, number)
    again = boot(card)
    logged.check_state(again, number)
    again.kill()


def fail_a_flush(vm: VM, number: int) -> str:
    vm.run(f"echo {number} >{logged.STATE} && seq {number} 3000 >/root/f{number} && sync").ok()
    said = vm.run("cowflush flush", timeout=60).exits(CARD).text
    vm.run("echo 3 >/proc/sys/vm/drop_caches").ok()
    logged.check_state(vm, number)
    return said


def check_named(said: str, card: Card, bad: range) -> None:
    named = re.search(r"write sectors (\d+) to (\d+) of /dev/sda2: ", said)
    assert named and re.search(WHAT_TO_DO, said) and "--direct" in said, said
    first, last = (card.log.start + int(sector) for sector in named.groups())
    assert set(range(first, last + 1)) & set(bad), said


# An append is cowflush's own work, a merge the kernel's: only the merge is tried on both kernels.
def test_writes_that_fail_in_the_log(boot: Lab) -> None:
    """Writes fail in the data; and then, with those on the card, in the commit record."""
    # The commit record's place follows from what is sealed, all of which is appended without
    # pruning.
    vm = logged.start(boot, append="cowflush.prune=off")
    logged.flush(vm, 1)
    begin = next_chunk(vm)
    bad = chunk_sectors(vm.card, begin + 3)
    vm.fail_writes(bad)
    for _ in range(2):
        check_named(fail_a_flush(vm, 2), vm.card, bad)
        assert status(vm)["mode"] == "deferring" and status(vm)["sealed"] > 0
    check_cut(boot, vm, 1)
    vm.heal()

    chunks = status(vm)["sealed"] // flushlog.CHUNK
    bad = chunk_sectors(vm.card, begin + 1 + chunks)
    vm.fail_writes(bad)
    check_named(fail_a_flush(vm, 2), vm.card, bad)
    # A segment that lacks only its commit record counts; that can't be written, so the next try
    # goes after it.
    check_cut(boot, vm, 2)
    assert "to the log on sda2" in logged.flush(vm, 3)
    check_settled(vm, log=LOGGED)
    vm.kill()
    logged.check_card(vm.card, 3)
    assert not FlushLog(vm.card).segments[1].committed


@pytest.mark.thorough
def test_writes_that_fail_everywhere_in_the_log(boot: Lab) -> None:
    vm = logged.start(boot)
    # The log's first flush, then a later one: the second has a layer under it that reads the log.
    for number in (1, 2):
        vm.fail_writes(vm.card.log.sectors)
        fail_a_flush(vm, number)
        vm.heal()
        vm.run("cowflush flush", timeout=60).ok()
        check_settled(vm, log=LOGGED)
    vm.kill()
    logged.check_card(vm.card, 2)


@pytest.mark.thorough
def test_a_flush_that_fails_in_the_log(boot: Lab) -> None:
    vm = logged.start(boot)
    writer = workload.Writer(vm)
    before = writer.wait_rounds(5)
    vm.fail_flush()
    said = vm.run("cowflush flush", timeout=60).exits(CARD).text
    assert re.search(r"flush the write cache of /dev/sda2: .*" + WHAT_TO_DO, said), said
    writer.wait_rounds(2)
    vm.heal()
    vm.run("cowflush flush", timeout=60).ok()
    writer.stop()
    check_settled(vm, log=LOGGED)
    vm.kill()
    workload.check(flushlog.recovered(vm.card), before)


@pytest.mark.parametrize(
    "healed", [pytest.param(False, marks=pytest.mark.thorough), True], ids=["broken", "healed"]
)
def test_a_broken_log_is_passed_by(boot: Lab, healed: bool) -> None:
    """The log takes no more writes: --direct gets everything to the card, nothing old returns."""
    vm = logged.start(boot)
    logged.flush(vm, 1)
    vm.fail_writes(vm.card.log.sectors)
    fail_a_flush(vm, 2)
    assert "flushed to sda1" in vm.run("cowflush flush --direct", timeout=60).ok().text
    logged.check_state(vm, 2)
    vm.pause()
    cut = vm.card.copy(boot.directory / "cut.img")
    vm.cont()
    cut.fsck()
    assert cut.read(logged.STATE) == b"2\n"
    if healed:
        # The log still holds flush 1. A flush after it must not bring it back.
        vm.heal()
        assert "to the log on sda2" in logged.flush(vm, 3)
        vm.kill()
        logged.check_card(vm.card, 3)
        again = boot(vm.card)
        logged.check_state(again, 3)
    else:
        vm.kill()
        again = boot(cut)
        logged.check_state(again, 2)


@pytest.mark.thorough
def test_a_direct_flush_leaves_nothing_in_the_log_of_an_append_that_failed(boot: Lab) -> None:
    """A segment that lacks only its commit record counts.

    The next boot would find flushes of a root that was written past them since.
    """
    vm = logged.start(boot)
    logged.flush(vm, 1)
    vm.run("cowflush merge", timeout=60).ok()
    vm.fail_flush()
    fail_a_flush(vm, 2)
    vm.heal()
    assert "flushed to sda1" in vm.run("cowflush flush --direct", timeout=60).ok().text
    vm.kill()
    assert FlushLog(vm.card).segments == []
    again = boot(vm.card)
    logged.check_state(again, 2)
    assert "is not as its last flush left it" not in logged.said(again)


@pytest.mark.thorough
def test_a_stop_saves_everything_without_the_log(boot: Lab) -> None:
    vm = logged.start(boot)
    logged.flush(vm, 1)
    vm.fail_writes(vm.card.log.sectors)
    fail_a_flush(vm, 2)
    said = vm.run("cowflush stop", timeout=60).exits(CARD).text
    assert re.search("The card had failed before: cannot write sectors .* of /dev/sda2", said)
    assert json.loads(vm.run("cowflush status --json").ok().output)["mode"] == "write-through"
    vm.kill()
    vm.card.fs(replay=True).fsck()
    assert vm.card.fs(replay=True).read(logged.STATE) == b"2\n"


@pytest.mark.thorough
@pytest.mark.parametrize("copies", ["first", "second", "both"])
def test_a_header_that_can_not_be_written(boot: Lab, copies: str) -> None:
    vm = logged.start(boot)
    logged.flush(vm, 1)
    card = vm.card
    first, second = chunk_sectors(card, 0), chunk_sectors(card, card.log.size // 8 - 1)
    # Only one fault can be set at a time; both means the whole log.
    vm.fail_writes({"first": first, "second": second, "both": card.log.sectors}[copies])
    merged = vm.run("cowflush merge", timeout=60)
    logged.check_state(vm, 1)
    if copies == "both":
        assert "write sectors" in merged.exits(CARD).text and "dmesg" in merged.text
        check_cut(boot, vm, 1)
        vm.heal()
        vm.run("cowflush merge", timeout=60).ok()
    else:
        merged.ok()
        assert logged.report(vm)["header_whole"] is False
        vm.heal()
    check_settled(vm, log=LOG)
    logged.flush(vm, 2)
    vm.kill()
    logged.check_card(card, 2)
    again = boot(card)
    logged.check_state(again, 2)
    assert len(logged.report(again)["segments"]) == 1


# --- root -----------------------------------------------------------------------------------

VICTIM = "/root/victim"
OLD = b"old " * 4096
NEW = OLD.replace(b"o", b"n")
REWRITE = f"tr o n <{VICTIM} >/run/new; dd if=/run/new of={VICTIM} conv=notrunc 2>&1; sync"


def victim(card: Card) -> range:
    blocks = card.fs().blocks(VICTIM)
    return range(card.root.start + blocks[0] * 8, card.root.start + blocks[-1] * 8 + 8)


@BOTH
@pytest.mark.parametrize("command", ["merge", pytest.param("stop", marks=pytest.mark.thorough)])
def test_writes_that_fail_in_root_during_a_merge(boot: Lab, command: str) -> None:
    card = boot.card(Filesystem(files=((VICTIM, OLD),)))
    bad = victim(card)
    vm = logged.start(boot, card=card)
    vm.run(REWRITE).ok()
    logged.flush(vm, 1)
    vm.fail_writes(bad)
    for _ in range(2):
        said = vm.run(f"cowflush {command}", timeout=60).exits(CARD).text
        named = re.search(
            r"cannot merge into sda1: writing sectors (\d+) to (\d+) of sda1 failed\. .*dmesg", said
        )
        assert named, said
        first, last = (card.root.start + int(sector) for sector in named.groups())
        assert set(range(first, last + 1)) & set(bad), said
        vm.run("echo 3 >/proc/sys/vm/drop_caches").ok()
        assert vm.get(VICTIM) == NEW
        logged.check_state(vm, 1)
    check_cut(boot, vm, 1)
    # Flushes go on: they don't need root.
    assert "to the log on sda2" in logged.flush(vm, 2)
    check_cut(boot, vm, 2)
    vm.heal()
    vm.run(f"cowflush {command}", timeout=60).ok()
    check_settled(vm, "deferring" if command == "merge" else "write-through", log=LOG)
    vm.kill()
    files = card.fs(replay=True)
    files.fsck()
    assert files.read(VICTIM) == NEW and files.read(logged.STATE) == b"2\n"


@pytest.mark.thorough
def test_reads_that_fail_in_the_log_during_a_merge(boot: Lab) -> None:
    vm = logged.start(boot)
    logged.flush(vm, 1)
    vm.pause()
    log = FlushLog(vm.card)
    vm.cont()
    place = log.segments[0].places[-1]
    vm.fail_reads(chunk_sectors(vm.card, place))
    said = vm.run("cowflush merge", timeout=60).exits(CARD).text
    assert (
        f"cannot merge the flush log: its chunk {place} can't be read." in said
        and "nothing was written" in said
    ), said
    vm.heal()
    # A bit that rots is another matter.
    vm.pause()
    flushlog.flip(vm.card, place, 9)
    vm.cont()
    said = vm.run("cowflush merge", timeout=60).exits(LOST).text
    assert (
        f"(a segment's data at chunk {place})" in said and "Nothing was written to the card" in said
    ), said
    vm.pause()
    flushlog.flip(vm.card, place, 9)
    vm.cont()
    logged.check_state(vm, 1)
    check_cut(boot, vm, 1)
    logged.flush(vm, 2)
    vm.run("cowflush merge", timeout=60).ok()
    check_settled(vm, log=LOG)
    vm.kill()
    vm.card.fsck()
    assert vm.card.read(logged.STATE) == b"2\n"


# --- a full log -----------------------------------------------------------------------------

SMALL = "dd if=/dev/urandom of=/root/big bs=64k count={count} 2>/dev/null; sync"


def shrink_log(card: Card, sectors: int) -> Card:
    """Shrinks the log's partition."""
    with open(card.path, "r+b") as image:
        image.seek(446 + 16 + 12)
        image.write(sectors.to_bytes(4, "little"))
    return Card(card.path)


@pytest.mark.thorough
def test_a_log_that_wraps(boot: Lab) -> None:
    """2 MiB: when nearly full it is merged, and goes on behind, several times around the ring."""
    vm = logged.start(boot, card=shrink_log(boot.card(), 4096))
    merges = 0
    for number in range(1, 31):
        vm.run(SMALL.format(count=number % 9)).ok()
        merges += "; merged " in logged.flush(vm, number)
        if number % 10 == 0:
            check_cut(boot, vm, number)
    found = logged.report(vm)
    assert merges == found["life"]["merges"] >= 3 and found["wear_rounds"] >= 2
    check_settled(vm, log=LOGGED if found["segments"] else LOG)
    vm.kill()
    logged.check_card(vm.card, 30)


@pytest.mark.thorough
def test_a_flush_without_room_merges_first(boot: Lab) -> None:
    vm = logged.start(boot, card=shrink_log(boot.card(), 4096), append="cowflush.merge=100%")
    merges, before = 0, logged.report(vm)
    for number in range(1, 9):
        vm.run(SMALL.format(count=10)).ok()
        merged = "; merged " in logged.flush(vm, number)
        merges += merged
        after = logged.report(vm)
        if merged:
            # The merge came first: both would not have fitted.
            assert len(after["segments"]) == 1
            assert before["used"] + after["used"] > after["size"]
        else:
            assert len(after["segments"]) == len(before["segments"]) + 1
            assert before["used"] < after["used"] <= after["size"]
        before = after
    assert before["life"]["merges"] == merges >= 2
    vm.kill()
    logged.check_card(vm.card, 8)


@pytest.mark.thorough
def test_a_full_log_and_a_merge_that_fails(boot: Lab) -> None:
    card = shrink_log(boot.card(Filesystem(files=((VICTIM, OLD),))), 4096)
    bad = victim(card)
    vm = logged.start(boot, card=card, append="cowflush.merge=100%")
    vm.run(REWRITE).ok()
    vm.run(SMALL.format(count=20)).ok()
    logged.flush(vm, 1)
    vm.fail_writes(bad)
    vm.run(SMALL.format(count=20)).ok()
    for _ in range(2):
        said = fail_a_flush(vm, 2)
        assert re.search(
            r"cannot merge into sda1: writing sectors \d+ to \d+ of sda1 failed", said
        ), said
        assert vm.get(VICTIM) == NEW
    check_cut(boot, vm, 1)
    vm.heal()
    vm.run("cowflush flush", timeout=60).ok()
    check_settled(vm, log=LOGGED)
    logged.flush(vm, 3)
    vm.kill()
    logged.check_card(card, 3)
    assert flushlog.recovered(card).read(VICTIM) == NEW


@pytest.mark.thorough
def test_the_cow_is_no_larger_than_the_log(boot: Lab) -> None:
    """The COW's limit is the log's size, so what a flush seals always fits."""
    card = shrink_log(boot.card(), 8192)
    vm = logged.start(boot, card=card, append="cowflush.size=32M")
    vm.run("cowflush flush").ok()
    assert status(vm)["cow_size"] <= 4 << 20
    vm.kill()
    again = boot(card, append="cowflush.size=32M")
    limit = status(again)["cow_size"]
    assert 3 << 20 < limit <= 4 << 20
    again.run("dd if=/dev/urandom of=/root/big bs=4k count=700 2>/dev/null; sync").ok()
    assert "to the log on sda2" in logged.flush(again, 1)
    again.kill()
    logged.check_card(card, 1)


@pytest.mark.thorough
def test_what_was_written_before_the_log_was_made_may_be_larger(boot: Lab) -> None:
    """Such data go to the card itself, and the next flush to the log."""
    vm = boot(shrink_log(boot.card(), 4096))
    vm.run(
        "dd if=/dev/urandom of=/root/big bs=64k count=64 2>/dev/null; sync; sha256sum /root/big >/root/sum"
    ).ok()
    vm.run("cowflush log format /dev/sda2").ok()
    first = vm.run("cowflush flush", timeout=60).ok().text
    assert "flushed to sda1" in first, first
    assert "to the log on sda2" in logged.flush(vm, 1)
    vm.run("sha256sum -c /root/sum").ok()
    vm.kill()
    logged.check_card(vm.card, 1)
