"""The daemon's last resort over a log with flushes: root goes on, and no flush is ever lost."""

from __future__ import annotations

import pytest

from harness import Throttle
from harness.job import Job
from harness.lab import Lab
from harness.machine import VM
from powercut import tree
from powercut.tree import Truth
from product import daemon, flushlog, workload
from product.router import status, when_free

FLUSHES = 3
# The writer fills this folder; everything else stays unchanged.
BIG = workload.FOLDER
WRITER = (
    f"n=0; while :; do n=$(((n + 1) % 40)); head -c 1048576 /dev/urandom >{BIG}/$n || exit; done"
)
# Nothing throttles it once the daemon has ended.
SLOW_WRITER = WRITER.replace("1048576", "65536").replace("|| exit", "|| exit; usleep 20000")


def flushed(boot: Lab, throttle: Throttle | None = None) -> tuple[VM, Truth]:
    """A router with a small COW and flushes in its log, and all files that the writer leaves alone."""
    vm = boot(memory=128, throttle=throttle)
    vm.put("/etc/cowflush.conf", b"size=16M\n")
    vm.run(f"cowflush log format /dev/sda2 && mkdir {BIG}").ok()
    for number in range(FLUSHES):
        files = f"for i in $(seq 40); do seq $i $((i * 20)) >/root/d{number}/$i; done"
        vm.run(f"mkdir /root/d{number} && {files} && cowflush flush", timeout=60).ok()
    daemon.begin(vm)
    return vm, tree.in_guest(vm)


def check(boot: Lab, vm: VM, truth: Truth) -> None:
    """Checks with the guest's programs, and with e2fsprogs on the card as after a power cut now."""
    cut = vm.cut_copy(boot.directory / "cut.img")
    vm.run("echo 3 >/proc/sys/vm/drop_caches").ok()
    assert tree.complaint(tree.in_guest(vm), truth) == ""
    image = flushlog.recovered(cut)
    image.replay_journal()
    image.fsck()
    assert tree.complaint(tree.on_card(image, direct=True), truth) == ""


def check_to_the_end(boot: Lab, vm: VM, writer: Job, truth: Truth) -> None:
    """Checks at once, with the writer at work; and again after a stop and another boot."""
    check(boot, vm, truth)
    writer.kill()
    when_free(vm, "stop").ok()
    assert status(vm)["mode"] == "write-through"
    check(boot, vm, truth)
    vm.kill()
    again = boot(vm.card)
    assert tree.complaint(tree.in_guest(again), truth) == ""


@pytest.mark.thorough
def test_a_card_that_works_again_between_two_last_resorts_keeps_all_that_was_flushed(
    boot: Lab,
) -> None:
    """The card refuses writes until the last resort has failed; it recovers after the next failure."""
    vm, truth = flushed(boot)
    vm.fail_writes()
    writer = vm.start(WRITER)
    vm.wait_console(r"the last resort failed(?s:.*?)flush \(high\) failed", timeout=180)
    vm.heal()
    vm.until(f"grep -qE 'straight to the card|flushed \\(' {daemon.SAID}", timeout=180)
    check_to_the_end(boot, vm, writer, truth)


@pytest.mark.thorough
def test_a_daemon_that_is_ended_in_a_flush_for_room_keeps_all_that_was_flushed(boot: Lab) -> None:
    """The card is healthy and slow, and a writer is at work."""
    vm, truth = flushed(boot, Throttle())
    vm.throttle(Throttle(bytes_per_second=2_000_000))
    writer = vm.start(SLOW_WRITER)
    vm.until("grep -qx cowflush-sealed /sys/block/dm-*/dm/name 2>/dev/null", timeout=60)
    pid = daemon.field(vm, "Pid")
    daemon.signal(vm, "TERM")
    vm.until(f"! kill -0 {pid} 2>/dev/null", timeout=120)
    check_to_the_end(boot, vm, writer, truth)
