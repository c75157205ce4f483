"""The daemon on a card that fails, and killed: nothing is lost, and root goes on."""

from __future__ import annotations

from random import Random

import pytest
from vm import daemon, workload
from vm.lab import Lab
from vm.machine import VM

# By then it is tried again rarely, so that a card which comes back is not found at once.
FAILING_SECONDS = 60
STEP_SECONDS = 6
# The longest pause between two tries by then, and some.
COMEBACK_SECONDS = 90
KILLS = 20


@pytest.mark.parametrize("log", [True, False], ids=["log", "no-log"])
def test_a_card_that_fails_for_a_minute(boot: Lab, log: bool) -> None:
    """Every write to it fails. Programs go on meanwhile, and what they write is flushed when it works again."""
    vm = boot()
    daemon.start(vm, daemon.QUIET.replace("interval=off", "interval=2s"), log)
    vm.fail_writes(vm.card.log.sectors if log else None)
    writes = FAILING_SECONDS // STEP_SECONDS
    for number in range(writes):
        vm.run(
            f"dd if=/dev/urandom of=/root/f{number} bs=64k count=4 2>/dev/null; sync; sha256sum /root/f{number} >>/run/sums"
        ).ok()
        # Read from the COW, not from the page cache.
        vm.run(
            f"echo 3 >/proc/sys/vm/drop_caches; sha256sum -c /run/sums; sleep {STEP_SECONDS - 1}"
        ).ok()
    said = daemon.wait_for(vm, "failed", times=3)
    assert "FULL" not in said and said.count(") failed:") < writes, said
    vm.heal()
    daemon.wait_for(vm, "flushed (interval)", timeout=COMEBACK_SECONDS)
    wanted = dict(reversed(line.split()) for line in vm.get("/run/sums").decode().splitlines())
    # One flush has it all, and a cut may come right behind it.
    image = daemon.root_of(vm.cut_copy(boot.directory / "cut.img"), log)
    assert image.hashes("/root") == wanted
    vm.kill()


@pytest.mark.kernels("6.1", "6.12")
def test_killed_at_any_moment_it_leaves_root_awake(boot: Lab) -> None:
    vm = boot(memory=128)
    daemon.start(vm, daemon.QUIET + "size=24M\nhigh=20%\n", log=True)
    writer = workload.Writer(vm)
    random, before = Random(1), 0
    for _ in range(KILLS):
        # Enough for a flush, which is then cut short somewhere. What was sealed by the killed one holds
        # memory until the next one appends it.
        kill(
            vm,
            f"dd if=/dev/urandom of=/root/big bs=64k count=90 2>/dev/null; usleep {random.randint(0, 300_000)}",
        )
        before = writer.wait_rounds(1)
    daemon.flush(vm)
    daemon.flush(vm)
    writer.stop()
    vm.kill()
    vm.card.fsck()
    again = boot(vm.card)
    again.run("cowflush merge", timeout=60).ok()
    again.kill()
    workload.check(again.card, before)


def test_without_the_process_at_its_valve(boot: Lab) -> None:
    """Somebody kills it: the next flush starts another, which keeps none of the daemon's other files, such as a watchdog."""
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
    # No folder on root: the kernel looks for files there.
    assert [
        vm.run(f"readlink /proc/{process}/cwd").ok().text.strip()
        for process in (pid, child(vm, pid))
    ] == ["/proc", "/proc"]
    # The last one has none of the daemon's files but the one it needs.
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
    """The process at its valve; the daemon has no other while no flush goes on."""
    found = vm.run(f"pgrep -P {pid}").ok().text.split()
    assert len(found) == 1, found
    return found[0]


def kill(vm: VM, first: str) -> None:
    vm.run(f"{first}; killall -9 cowflush 2>/dev/null; true", timeout=120).ok()
    vm.run(f"cowflush daemon >>{daemon.SAID} 2>&1 &").ok()
