"""The demonstration's scenes, each with what it checks."""

from __future__ import annotations

import time
from typing import Any

from demo import load, picture
from demo.load import SYNCS, judge
from harness import Card, Throttle, writelog
from harness.lab import Lab
from harness.machine import VM
from harness.outcome import Result
from product import flushlog
from product.workload import Writer

INTERVAL = "8s"
LOG = "/dev/sda2"
# Slower than a worn card, so that the cut can be aimed: a flush of this load takes seconds.
SLOW = Throttle(bytes_per_second=200_000)
CUT_AFTER_BYTES = 64 << 10
# Rounds between one scene and the next
ROUNDS = 15


class DemoFailed(Exception):
    """Something that the demonstration shows is not true."""


def say(text: str = "") -> None:
    """Prints one line for the person who watches."""
    print(text, flush=True)


def check(holds: bool, what: str) -> None:
    """Prints that something holds, or ends the demonstration."""
    if not holds:
        raise DemoFailed(f"this should hold, but doesn't: {what}")
    say(f"  ok: {what}")


def show(vm: VM, command: str) -> Result:
    """Runs a command in the guest, and prints it and its output."""
    say(f"router# {command}")
    result = vm.run(command, timeout=120)
    for line in result.ok().text.splitlines():
        say(f"  {line}")
    return result


def received(vm: VM) -> str:
    """What the card has received since this boot, by QEMU's count."""
    got = vm.card_stats()
    return f"{got.wr_operations:,} writes, {got.wr_bytes / 1e6:.2f} MB, {got.flush_operations:,} FLUSHes"


class Demo:
    """Two cards with the same work: one with cowflush and a power cut, one without."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._card = lab.card()
        self._writes = lab.directory / "writes.log"
        self._plain_writes = lab.directory / "plain.log"

    def run(self) -> None:
        """Runs all scenes in order. Raises `DemoFailed`, and the harness's errors."""
        vm = self._first_boot()
        writer = load.start(vm)
        self._work(vm, writer)
        flushed = self._flush(vm, writer)
        self._let_the_daemon_flush(vm)
        rounds, got = self._cut_in_a_flush(vm, writer)
        found = self._look_from_outside(flushed, rounds)
        self._next_boot(found)
        straight = self._without(rounds)
        self._picture(rounds, got, straight)

    def _boot(self, card: Card, **options: Any) -> VM:
        begin = time.monotonic()
        vm = self._lab(card, throttle=Throttle(), **options)
        for line in vm.console.splitlines():
            if "cowflush: " in line:
                say(f"  {line.partition('cowflush: ')[2]}")
        place = vm.process.directory / "qemu.sh"
        say(f"  (up after {time.monotonic() - begin:.1f} s; {place} repeats it)")
        return vm

    def _first_boot(self) -> VM:
        say(
            f"== A router boots from a fresh card (kernel {self._lab.kernel}); cowflush is its /init"
        )
        vm = self._boot(self._card, write_log=self._writes)
        show(vm, f"cowflush log format {LOG}")
        return vm

    def _work(self, vm: VM, writer: Writer) -> None:
        say("\n== It works: a database, a log, graphs, leases, each write synced. The card rests")
        vm.run("cowflush flush").ok()
        begin, rounds = vm.card_stats(), writer.rounds()
        done = writer.wait_rounds(ROUNDS) - rounds
        got = vm.card_stats() - begin
        say(f"  {done} rounds, {done * SYNCS} syncs; the card received {got.wr_operations} writes")
        check(got.wr_operations == 0, "not one write has reached the card")
        show(vm, "cowflush status")

    def _flush(self, vm: VM, writer: Writer) -> int:
        say("\n== cowflush flush, and the work goes on")
        before = writer.wait_rounds(ROUNDS)
        show(vm, "cowflush flush")
        after = writer.wait_rounds(1)
        check(after > before, f"the work went on, from round {before} to {after}")
        return before

    def _let_the_daemon_flush(self, vm: VM) -> None:
        say(f"\n== The daemon flushes by itself every {INTERVAL}")
        vm.run(f"echo interval = {INTERVAL} >/etc/cowflush.conf").ok()
        show(vm, "cat /etc/cowflush.conf  # half an hour on a real router")
        show(vm, "cowflush daemon >/run/daemon.log 2>&1 &")
        vm.until("cowflush history | grep -q interval", timeout=60)
        show(vm, "cowflush history")

    def _cut_in_a_flush(self, vm: VM, writer: Writer) -> tuple[int, str]:
        say("\n== The power is cut in the middle of a flush")
        writer.wait_rounds(ROUNDS)
        vm.throttle(SLOW)
        begin = vm.card_stats().wr_bytes
        say("router# cowflush flush  # on a slow card, so that the cut can be aimed")
        job = vm.start("cowflush flush")
        while vm.card_stats().wr_bytes < begin + CUT_AFTER_BYTES:
            time.sleep(0.01)
        rounds = writer.rounds()
        check(
            job.running(),
            f"the flush has written {(vm.card_stats().wr_bytes - begin) >> 10} KiB, and goes on",
        )
        got = received(vm)
        vm.kill()
        say(f"  CUT: QEMU is killed, at round {rounds}. The card had received {got}")
        return rounds, got

    def _look_from_outside(self, flushed: int, rounds: int) -> int:
        say("\n== What is on the card, seen from outside: root, and the flush log applied to it")
        root = flushlog.recovered(self._card)
        root.fsck()
        check(True, "e2fsck -fn finds nothing to repair")
        files = judge(root, self._lab.directory)
        say(f"  {files}")
        check(files.whole(), "all four are of one and the same moment, the database is sound")
        check(
            files.leases >= flushed,
            f"all that was flushed is there: round {flushed} and what the daemon flushed later",
        )
        say(
            f"  the cut took the {rounds - files.leases} rounds since the last complete flush, and tore nothing"
        )
        return files.leases

    def _next_boot(self, leases: int) -> None:
        say("\n== The same card boots again, by itself")
        vm = self._boot(self._card, write_log=self._lab.directory / "again.log")
        show(
            vm,
            "cd /var/router && sqlite3 hosts.db 'PRAGMA integrity_check; SELECT count(*) FROM seen' && tail -n 1 messages leases",
        )
        check(
            vm.run("tail -n 1 /var/router/leases").ok().text.startswith(f"{leases} "),
            f"root is as it was flushed, at round {leases}",
        )
        vm.kill()

    def _without(self, rounds: int) -> str:
        say(f"\n== The same {rounds} rounds straight on such a card (cowflush=off)")
        vm = self._boot(self._lab.card(), append="cowflush=off", write_log=self._plain_writes)
        writer = load.start(vm)
        writer.wait_rounds(rounds - writer.rounds())
        got = received(vm)
        vm.kill()
        say(f"  the card received {got}")
        return got

    def _picture(self, rounds: int, got: str, straight: str) -> None:
        say(f"\n== What {rounds} rounds of this work wrote to a card, the first boot included\n")
        parts = [("root", self._card.root), ("log", self._card.log)]
        for title, log in (
            (f"without cowflush: {straight}", self._plain_writes),
            (f"with cowflush: {got}", self._writes),
        ):
            say(f"  {title}")
            for line in picture.card(writelog.entries(log), parts):
                say(f"  {line}")
            say()
        say(f"  {picture.legend()}")
