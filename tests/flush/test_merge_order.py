"""What a flush writes to the card, request by request, as recorded outside the guest."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from daemon.test_pressure import WITH_SWAP
from harness import Card, Throttle, writelog
from harness.lab import Lab
from harness.machine import VM
from harness.writelog import Entry
from product import logged
from product.router import MERGING, status, wait_status

BOTH = pytest.mark.kernels("6.1", "6.12")
FILE = "/root/scattered"
# Rewrites 200 blocks of a 4 MiB file in random order, and between them appends lines to a log:
# neighbours on the card are then far apart on the COW.
REWRITE = f"""
awk 'BEGIN {{ srand(SEED); for (i = 0; i < 200; i++) print int(rand() * 1024) }}' |
while read block; do
    dd if=/dev/urandom of={FILE} bs=4k count=1 seek=$block conv=notrunc 2>/dev/null
    echo "a line about block $block" >>/root/log
done
sync
"""


def prepare(vm: VM) -> None:
    vm.run(
        f"dd if=/dev/urandom of={FILE} bs=64k count=64 2>/dev/null && cowflush flush", timeout=60
    ).ok()


def rewrite(vm: VM, seed: int) -> str:
    """Rewrites blocks and returns the file's hash."""
    vm.run(REWRITE.replace("SEED", str(seed)), timeout=60).ok()
    return vm.run(f"sha256sum {FILE}").ok().text.split()[0]


def write_cache(vm: VM) -> str:
    return vm.run("cat /sys/block/sda/queue/write_cache").ok().text.strip()


# Of cowflush's own two devices, which a merge declares to have no write cache
OWN_CACHES = """for dm in /sys/block/dm-*; do
    case $(cat $dm/dm/name) in cowflush-origin | cowflush-log) cat $dm/queue/write_cache;; esac
done"""


OTHER_MOUNTED = (
    "swapoff /dev/sda3 && mkfs.ext2 /dev/sda3 >/dev/null && mkdir -p /run/other && "
    "mount /dev/sda3 /run/other && echo x >/run/other/x && sync"
)


def own_caches(vm: VM) -> list[str]:
    return vm.run(OWN_CACHES).ok().text.splitlines()


def assert_ascending(requests: list[Entry]) -> None:
    end = 0
    for entry in (entry for entry in requests if entry.data):
        assert entry.sector >= end, f"sector {entry.sector} is written after {end}"
        end = entry.sector + len(entry.data) // 512


@BOTH
def test_a_flush_writes_upwards_once_and_flushes_once(boot: Lab) -> None:
    log = boot.directory / "writes.log"
    card = boot.card()
    blank = card.copy(boot.directory / "blank.img")
    vm = boot(card, write_log=log)
    prepare(vm)
    flushed: list[tuple[int, str]] = []
    for seed in range(3):
        before = len(list(writelog.entries(log)))
        expected = rewrite(vm, seed)
        assert len(list(writelog.entries(log))) == before, "the card was written to between flushes"
        vm.run("cowflush flush", timeout=60).ok()
        requests = list(writelog.entries(log))[before:]
        assert_ascending(requests)
        sectors = [
            entry.sector + n for entry in requests for n in range(0, len(entry.data) // 512, 8)
        ]
        assert len(sectors) > 100
        assert len(sectors) == len(set(sectors)), "a chunk was written twice in one flush"
        assert [entry.is_flush for entry in requests].count(True) == 1
        assert requests[-1].is_flush and not requests[-1].data
        assert write_cache(vm) == "write back"
        flushed.append((before + len(requests), expected))
    vm.kill()

    # The card as it was when each flush returned, rebuilt
    for count, expected in flushed:
        then = blank.copy(boot.directory / f"then-{count}.img")
        writelog.replay(iter(list(writelog.entries(log))[:count]), then.path)
        then.fsck()
        assert hashlib.sha256(then.read(FILE)).hexdigest() == expected


@BOTH
def test_a_merge_flushes_behind_its_parts_alone_whatever_else_of_the_card_is_in_use(
    boot: Lab,
) -> None:
    """A swap area; and a /boot that is always mounted writable, as on OpenWrt."""
    vm = boot(boot.card(partitions=WITH_SWAP))
    vm.run("cowflush log format /dev/sda2 && mkswap /dev/sda3 && swapon /dev/sda3").ok()
    prepare(vm)
    vm.run("cowflush merge", timeout=60).ok()
    for seed, then in enumerate(("true", OTHER_MOUNTED)):
        vm.run(then).ok()
        expected = rewrite(vm, seed)
        vm.run("cowflush flush", timeout=60).ok()
        before = vm.card_stats()
        vm.run("cowflush merge", timeout=60).ok()
        got = vm.card_stats() - before
        assert got.wr_operations > 100
        # One FLUSH for each part of root, and for each copy of the log's header
        assert got.flush_operations == 4, then
        assert own_caches(vm) == ["write back"] * 2
    vm.kill()
    vm.card.fsck()
    assert hashlib.sha256(vm.card.read(FILE)).hexdigest() == expected


def test_a_neighbours_flushes_reach_the_card_during_a_merge(boot: Lab) -> None:
    vm = boot(boot.card(partitions=WITH_SWAP), throttle=Throttle())
    prepare(vm)
    vm.run(
        "mkfs.ext2 /dev/sda3 >/dev/null && mkdir -p /run/other && mount /dev/sda3 /run/other"
    ).ok()
    expected = rewrite(vm, 1)
    vm.run("cowflush status").ok()
    # So slow that the merge outlasts the test's look at it. Without a log, which would be read
    # first.
    vm.throttle(Throttle(bytes_per_second=30_000))
    merge = vm.start("cowflush flush")
    wait_status(vm, MERGING)
    assert own_caches(vm) == ["write through"]
    assert write_cache(vm) == "write back"
    for number in range(5):
        before = vm.card_stats()
        vm.run(f"echo {number} | dd of=/run/other/{number} conv=fsync 2>/dev/null", timeout=60).ok()
        assert (vm.card_stats() - before).flush_operations >= 1, number
    assert status(vm)["phase"] == "merging" and merge.running()
    vm.throttle(Throttle())
    merge.wait(60).ok()
    assert own_caches(vm) == ["write back"]
    vm.kill()
    vm.card.fsck()
    assert hashlib.sha256(vm.card.read(FILE)).hexdigest() == expected


@pytest.mark.thorough
@pytest.mark.parametrize("after", ["flush", "stop"])
def test_what_a_killed_command_left_of_the_write_cache_is_put_back(boot: Lab, after: str) -> None:
    vm = boot()
    prepare(vm)
    expected = rewrite(vm, 3)
    # Killed while the kernel believes that there is no write cache: before or after it swaps a
    # table in
    script = f"""
    n=5
    while :; do
        guest-tools killat --ioctl C138FD06 $n cowflush flush >/run/out 2>&1
        [ "$({OWN_CACHES})" = "write through" ] && exit 0
        grep -q finished /run/out && exit 1
        cowflush flush >/dev/null; sh /run/again; n=$((n + 1))
    done
    """
    vm.run(f"echo 'echo x >>{FILE}.more' >/run/again")
    vm.run(script, timeout=300).ok()
    before = vm.card_stats()
    vm.run(f"cowflush {after}", timeout=60).ok()
    assert (vm.card_stats() - before).flush_operations >= 1
    assert own_caches(vm) == ["write back"]
    if after == "stop":
        # Root's own FLUSHes go through the device that had the setting.
        before = vm.card_stats()
        vm.run(f"echo x | dd of={FILE}.more conv=fsync 2>/dev/null").ok()
        assert (vm.card_stats() - before).flush_operations >= 1
    vm.kill()
    card = vm.card.fs(replay=True) if after == "stop" else vm.card
    card.fsck()
    assert hashlib.sha256(card.read(FILE)).hexdigest() == expected


@pytest.mark.thorough
def test_what_a_killed_merge_of_the_log_left_of_it_is_put_back_by_the_next_flush(boot: Lab) -> None:
    """This flush merges nothing, and cowflush-log outlives every merge."""
    vm = logged.start(boot)
    prepare(vm)
    script = f"""
    n=1
    while :; do
        echo x >>{FILE}.more; cowflush flush >/dev/null
        guest-tools killat --ioctl C138FD06 $n cowflush merge >/run/out 2>&1
        [ "$({OWN_CACHES})" = "$(printf 'write through\nwrite through')" ] && exit 0
        grep -q finished /run/out && exit 1
        n=$((n + 1))
    done
    """
    vm.run(script, timeout=300).ok()
    vm.run(f"echo y >>{FILE}.more; cowflush flush", timeout=60).ok()
    assert own_caches(vm) == ["write back"] * 2


def chunks(requests: list[Entry], card: Card) -> list[int]:
    return [
        (entry.sector - card.root.start) // 8 + n
        for entry in requests
        for n in range(len(entry.data) // 4096)
    ]


def in_parts(received: list[Entry], card: Card) -> tuple[list[Entry], list[Entry]]:
    """What root received before the first FLUSH that follows a write, and after it."""
    requests = [entry for entry in received if entry.is_flush or entry.sector in card.root.sectors]
    # FLUSHes before any write don't matter.
    start = next(n for n, entry in enumerate(requests) if entry.data)
    border = next(n for n in range(start, len(requests)) if requests[n].is_flush)
    assert not requests[border].data
    return requests[start:border], requests[border:]


def assert_free_first(received: list[Entry], card: Card, before: Card) -> None:
    """Checks that root's chunks come in two ascending parts, the free ones first, a FLUSH between."""
    files = before.fs()
    free = {n for part in files.unused() for n in range(-(-part.start // 4096), part.stop // 4096)}
    free -= set(files.blocks("<8>"))
    parts = in_parts(received, card)
    for part in parts:
        assert_ascending(part)
    first, rest = (chunks(part, card) for part in parts)
    assert len(first) > 200 and len(rest) > 100
    assert set(first) <= free
    assert not set(rest) & free
    assert len(first + rest) == len(set(first + rest)), "a chunk was written twice"


@BOTH
def test_what_is_free_on_the_card_is_written_before_the_rest_with_a_flush_between(
    boot: Lab,
) -> None:
    """A boot loader that reads the card without the log sees the old state until the FLUSH."""
    log = boot.directory / "writes.log"
    card = boot.card()
    vm = boot(card, write_log=log)
    vm.run("cowflush log format /dev/sda2").ok()
    prepare(vm)
    vm.run("cowflush merge", timeout=60).ok()
    for name in ("merged", "applied"):
        expected = rewrite(vm, 1 if name == "merged" else 2)
        vm.run(
            f"dd if=/dev/urandom of=/root/{name} bs=64k count=16 2>/dev/null; cowflush flush",
            timeout=60,
        ).ok()
        before = vm.cut_copy(boot.directory / f"{name}.img")
        if name == "merged":
            received = len(list(writelog.entries(log)))
            vm.run("cowflush merge", timeout=60).ok()
            assert_free_first(list(writelog.entries(log))[received:], card, before)
    vm.kill()

    # A boot without the stack copies the log's content by itself.
    log = boot.directory / "applied.log"
    vm = boot(card, append="cowflush=off", write_log=log)
    vm.kill()
    entries = list(writelog.entries(log))
    emptied = next(n for n, entry in enumerate(entries) if entry.sector in card.log.sectors)
    assert_free_first(entries[:emptied], card, before)
    files = card.fs(replay=True)
    files.fsck()
    assert hashlib.sha256(files.read(FILE)).hexdigest() == expected


ERASE_SECTORS = (128 << 10) // 512


def filling(boot: Lab, card: Card, log: Path) -> VM:
    """A router whose merges fill erase blocks, with the file on its card."""
    vm = boot(card, write_log=log)
    vm.run("cowflush log format --fill 128K /dev/sda2").ok()
    prepare(vm)
    vm.run("cowflush merge", timeout=60).ok()
    return vm


@pytest.mark.thorough
@BOTH
def test_with_fill_a_merge_writes_each_from_its_start(boot: Lab) -> None:
    log = boot.directory / "writes.log"
    card = boot.card()
    vm = filling(boot, card, log)
    expected = rewrite(vm, 1)
    vm.run("cowflush flush", timeout=60).ok()
    before = len(list(writelog.entries(log)))
    vm.run("cowflush merge", timeout=60).ok()
    count = 0
    for requests in in_parts(list(writelog.entries(log))[before:], card):
        assert_ascending(requests)
        sectors = [entry.sector + n for entry in requests for n in range(len(entry.data) // 512)]
        blocks = {sector // ERASE_SECTORS for sector in sectors}
        for block in blocks:
            mine = [sector for sector in sectors if sector // ERASE_SECTORS == block]
            assert mine == list(range(block * ERASE_SECTORS, mine[-1] + 1)), (
                f"erase block {block} has a gap"
            )
        count += len(blocks)
    assert count > 20
    vm.kill()
    card.fsck()
    assert hashlib.sha256(card.read(FILE)).hexdigest() == expected


@pytest.mark.thorough
def test_a_gap_that_can_not_be_read_is_left_out_of_a_merge_and_nothing_else_is(boot: Lab) -> None:
    """A bad sector in a gap: the merge writes all of the log, and fills the rest of the gap."""
    log = boot.directory / "writes.log"
    card = boot.card()
    vm = filling(boot, card, log)
    blocks = vm.cut_copy(boot.directory / "before.img").fs().blocks(FILE)
    sectors = [card.root.start + 8 * block for block in blocks]
    # An erase block that begins within the file; its first and ninth block are written.
    first = next(
        n
        for n in range(len(sectors) - 8)
        if sectors[n] % ERASE_SECTORS == 0 and sectors[n + 8] == sectors[n] + 64
    )
    write = "dd if=/dev/urandom of={} bs=4k count=1 seek={} conv=notrunc 2>/dev/null"
    vm.run(";".join(write.format(FILE, n) for n in (first, first + 8)) + ";sync").ok()
    expected = vm.run(f"sha256sum {FILE}").ok().text.split()[0]
    vm.run("cowflush flush", timeout=60).ok()
    before = len(list(writelog.entries(log)))
    bad = sectors[first + 3]
    vm.fail_reads(range(bad, bad + 1))
    vm.run("cowflush merge", timeout=60).ok()
    vm.heal()
    received = list(writelog.entries(log))[before:]
    written = {entry.sector + n for entry in received for n in range(len(entry.data) // 512)}
    assert [sector in written for sector in sectors[first : first + 9]] == [
        n != 3 for n in range(9)
    ]
    vm.kill()
    card.fsck()
    assert hashlib.sha256(card.read(FILE)).hexdigest() == expected
