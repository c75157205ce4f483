"""The daemon on a card that fails, and killed: nothing is lost, and root goes on."""

from __future__ import annotations

from random import Random

import pytest

from harness import Throttle
from harness.lab import Lab
from harness.machine import VM
from product import daemon, workload

# After this many tries the pauses between them have grown, so the daemon does not find a recovered
# card at once.
TRIES = 3
# The longest pause between two tries by then, with a margin
COMEBACK_SECONDS = 60
KILLS = 8
# A flush of some MiB takes so long that a kill half a second after its seal hits it.
SLOW = Throttle(bytes_per_second=6_000_000)
FLUSHING = """cowflush status --json | grep -q '"busy_pid":[0-9]'"""
SEALED = "grep -qx cowflush-sealed /sys/block/dm-*/dm/name 2>/dev/null"


@pytest.mark.thorough
@pytest.mark.parametrize("log", [True, False], ids=["log", "no-log"])
def test_a_card_that_fails_for_a_while(boot: Lab, log: bool) -> None:
    """Every write to the card fails.

    Programs go on, and what they write is flushed when the card works again.
    """
    vm = boot()
    daemon.start(vm, daemon.QUIET.replace("interval=off", "interval=2s"), log)
    vm.fail_writes(vm.card.log.sectors if log else None)
    failures = []
    for number in range(1, TRIES + 1):
        vm.run(
            f"dd if=/dev/urandom of=/root/f{number} bs=64k count=4 2>/dev/null && sync && sha256sum /root/f{number} >>/run/sums"
        ).ok()
        daemon.wait_for(vm, ") failed:", times=number, timeout=COMEBACK_SECONDS)
        failures.append(float(vm.run("cut -d ' ' -f 1 /proc/uptime").ok().text))
        # From the COW, not from the page cache
        vm.run("echo 3 >/proc/sys/vm/drop_caches; sha256sum -c /run/sums").ok()
    # 2 s, then 4 s, and what each try takes
    first, second, third = failures
    assert third - second > second - first + 1, failures
    said = daemon.said(vm)
    assert "FULL" not in said and "flushed (" not in said, said
    vm.heal()
    daemon.wait_for(vm, "flushed (interval)", timeout=COMEBACK_SECONDS)
    sums = (line.split() for line in vm.get("/run/sums").decode().splitlines())
    wanted = {name: digest for digest, name in sums}
    assert len(wanted) == TRIES
    # One flush has it all, and a cut may come right after it.
    image = daemon.root_of(vm.cut_copy(boot.directory / "cut.img"), log)
    assert image.hashes("/root") == wanted
    vm.kill()


@pytest.mark.thorough
def test_killed_at_any_moment_it_leaves_root_awake(boot: Lab) -> None:
    vm = boot(memory=128, throttle=SLOW)
    daemon.start(vm, daemon.QUIET + "size=24M\nhigh=20%\nmerge=100%\n", log=True)
    writer = workload.Writer(vm)
    random, before, cut_short = Random(1), 0, 0
    for number in range(KILLS):
        # Enough for a flush. Every other round waits until it begins; the others kill at any
        # moment.
        vm.run("dd if=/dev/urandom of=/root/big bs=64k count=90 >/dev/null 2>&1 &").ok()
        if number % 2 == 0:
            vm.until(SEALED)
        vm.run(f"usleep {random.randint(0, 300_000)}").ok()
        pid = daemon.field(vm, "Pid")
        flushing = vm.run(FLUSHING).code == 0
        # Kills the daemon and its throttle worker; the worker may be gone before it is hit.
        vm.run(f"kill -0 {pid} && {{ killall -9 cowflush 2>/dev/null; true; }}").ok()
        vm.until(f"! kill -0 {pid} 2>/dev/null")
        # What the killed daemon had sealed holds memory until the next one appends it.
        cut_short += flushing and vm.run(SEALED).code == 0
        daemon.begin(vm)
        vm.until("! pidof dd", timeout=60)
        before = writer.wait_rounds(1)
    assert cut_short >= KILLS // 3, cut_short
    vm.throttle(Throttle())
    daemon.flush(vm)
    daemon.flush(vm)
    writer.stop()
    vm.kill()
    vm.card.fsck()
    again = boot(vm.card)
    again.run("cowflush merge", timeout=60).ok()
    again.kill()
    workload.check(again.card, before)


@pytest.mark.thorough
def test_without_its_throttle_worker(boot: Lab) -> None:
    """The next flush starts another worker, which has no other file of the daemon's."""
    vm = boot(memory=128)
    daemon.start(vm, daemon.QUIET + "size=16M\n", log=True)
    pid = daemon.field(vm, "Pid")
    for _ in range(3):
        vm.run(f"kill -9 {child(vm, pid)}").ok()
        before = daemon.said(vm).count("flushed")
        vm.run("dd if=/dev/urandom of=/root/big bs=64k count=160 2>/dev/null; sync").ok()
        daemon.wait_for(vm, "flushed (high)", before + 1)
    assert daemon.field(vm, "Pid") == pid
    daemon.no_trouble(vm)
    # No folder on root: the kernel would look for files there.
    assert [
        vm.run(f"readlink /proc/{process}/cwd").ok().text.strip()
        for process in (pid, child(vm, pid))
    ] == ["/proc", "/proc"]
    # The last worker has none of the daemon's files but the one that it needs.
    links = (
        vm.run(f"cd /proc/{child(vm, pid)}/fd; for fd in *; do [ $fd -le 2 ] || readlink $fd; done")
        .ok()
        .text
    )
    assert sorted(link.split(":")[0] for link in links.split()) == [
        "/dev/mapper/control",
        "socket",
    ], links
    vm.kill()


def child(vm: VM, pid: str) -> str:
    """The daemon's throttle worker; it has no other child while no flush is under way."""
    found = vm.run(f"pgrep -P {pid}").ok().text.split()
    assert len(found) == 1, found
    return found[0]
