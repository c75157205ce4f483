"""What a flush does to the card, write by write: in the card's order, and whole when it returns."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from vm import Card, workload, writelog
from vm.lab import Lab
from vm.writelog import Entry

FLUSHES = 4
# Rewrites blocks of a file here and there, in an order that is not the card's.
SCATTER = """
at=$SEED
for i in $(seq 40); do
    at=$(((at * 7 + 3) % 509))
    dd if=/dev/urandom of=/root/scattered bs=4k count=1 seek=$at conv=notrunc 2>/dev/null || exit
done
rm -f /root/gone$((SEED - 1)); seq $SEED 2000 >/root/gone$SEED; seq $SEED 3000 >/root/kept$SEED; sync
"""


@dataclass
class Flush:
    """Where in the log a flush began and ended, and what the card had to hold then."""

    begin: int
    end: int
    hashes: dict[str, str]


def runs(writes: list[Entry]) -> list[Entry]:
    """The writes alone, without the FLUSHes between them."""
    return [entry for entry in writes if entry.data]


@pytest.mark.kernels("6.1", "6.12")
def test_the_card_is_written_in_order_and_whole_after_each_flush(boot: Lab) -> None:
    card = boot.card()
    replayed = card.copy(boot.directory / "replayed.img")
    log = boot.directory / "writes.log"
    vm = boot(card, write_log=log)
    vm.run("dd if=/dev/urandom of=/root/scattered bs=4k count=512 2>&1; cowflush flush", timeout=60).ok()
    flushes = []
    for seed in range(1, FLUSHES + 1):
        vm.run(f"SEED={seed}\n{SCATTER}").ok()
        begin = len(list(writelog.entries(log)))
        vm.run("cowflush flush", timeout=60).ok()
        end = len(list(writelog.entries(log)))
        lines = vm.run("cd /root && sha256sum /root/scattered /root/kept* /root/gone*").ok().text.splitlines()
        flushes.append(Flush(begin, end, {name: digest for digest, name in (line.split() for line in lines)}))
    vm.run("sync; sleep 1").ok()
    vm.kill()

    entries = list(writelog.entries(log))
    assert len(entries) == flushes[-1].end, "the card was written after the last flush"
    for before, after in zip(flushes, flushes[1:]):
        assert before.end == after.begin, "the card was written between two flushes"
    done = 0
    for flush in flushes:
        check_order(runs(entries[flush.begin : flush.end]), at_least=30)
        assert entries[flush.end - 1].is_flush, "the last word to the card is no FLUSH"
        writelog.replay(iter(entries[done : flush.end]), replayed.path)
        done = flush.end
        replayed.fsck()
        assert replayed.hashes("/root") == flush.hashes
    assert card.differing_sectors(replayed) == []


def check_order(writes: list[Entry], at_least: int) -> None:
    assert len(writes) >= at_least, "so few writes have no order"
    for one, next_ in zip(writes, writes[1:]):
        end = one.sector + len(one.data) // 512
        assert next_.sector >= end, f"a write at {next_.sector} came after one that ended at {end}"


@pytest.mark.kernels("6.1", "6.12")
def test_a_merge_under_load_writes_in_order_what_was_sealed(boot: Lab) -> None:
    card = boot.card()
    start = card.copy(boot.directory / "start.img")
    log = boot.directory / "writes.log"
    vm = boot(card, write_log=log)
    writer = workload.Writer(vm)
    flushed = writer.wait_rounds(20)
    vm.run("cowflush flush", timeout=60).ok()
    end = len(list(writelog.entries(log)))
    writer.wait_rounds(10)
    writer.stop()
    vm.kill()
    entries = list(writelog.entries(log))
    assert len(entries) == end
    check_order(runs(entries), at_least=10)
    writelog.replay(iter(entries), start.path)
    workload.check(Card(start.path), flushed)
