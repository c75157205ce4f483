"""What the commands, the daemon and the LED report is true.

No word of success for a part of the work, and none of damage while another command is at work.
"""

from __future__ import annotations

import json
import re

import pytest

from harness import Throttle
from harness.lab import Lab
from harness.light import make_light, shows
from harness.machine import VM
from product import daemon, logged
from product.daemon import QUIET, SAID, wait_for
from product.flushlog import CHUNK, FlushLog
from product.router import LOG, check_settled, status
from product.sweep import TO_RAM

FAILED, BUSY, CARD, LOST = 1, 4, 5, 7
MIB = 1 << 20
UP_TO_DATE = "up to date"
ALL = "all data are on the card"
FREEZE, THAW = "fsfreeze --freeze /", "fsfreeze --unfreeze /"
# Root's table with one letter changed: when the COW overflows it is now lost, as when its memory
# runs out.
WITHOUT_OVERFLOW = """
for dm in /sys/block/dm-*; do [ "$(cat $dm/dm/name)" = cowflush-root ] && break; done
for under in $dm/slaves/*; do
    case $(cat $under/dm/name 2>/dev/null) in cowflush-origin) origin=$(cat $under/dev) ;; *) cow=$(cat $under/dev) ;; esac
done
guest-tools dm table cowflush-root $(cat $dm/size) snapshot $origin $cow P 8
"""


def test_nothing_is_up_to_date_on_a_card_that_takes_no_writes(boot: Lab) -> None:
    """Only the page cache can be flushed in write-through mode."""
    vm = boot()
    vm.run(TO_RAM).ok()
    vm.run("cowflush stop", timeout=60).ok()
    assert UP_TO_DATE in vm.run("cowflush flush", timeout=60).ok().text
    vm.fail_writes()
    vm.run("head -c 1000000 /dev/urandom >/root/lost").ok()
    # The kernel reports it once or twice; what it gave up is still not on the card.
    for command in ("flush", "flush", "stop", "stop --shutdown"):
        said = vm.run(f"cowflush {command}", timeout=60).exits(FAILED).text
        assert UP_TO_DATE not in said and "stopped already" not in said, said
        assert ALL not in vm.console, command
        assert "The filesystem could not write everything out" in said + vm.console, said
    done = json.loads(vm.run("cowflush flush --json", timeout=60).exits(FAILED).output)
    assert done["complete"] is False and done["flush"] is None


def test_a_lost_cow_is_told_by_everybody(boot: Lab) -> None:
    vm = boot(append="cowflush.size=8M")
    make_light(vm)
    daemon.start(vm, QUIET + "led=test:light\n")
    vm.run(TO_RAM).ok()
    vm.run(WITHOUT_OVERFLOW).ok()
    # The write gets past the throttle: the daemon is stopped.
    daemon.signal(vm, "STOP")
    vm.run("dd if=/dev/zero of=/root/fill bs=64k count=600 conv=fsync 2>&1", timeout=120)
    vm.until("cowflush status --json | grep -q '\"lost\"'")
    daemon.signal(vm, "CONT")
    said = wait_for(vm, "its COW was lost")
    report = status(vm)
    assert (report["phase"], report["pending"]) == ("lost", None)
    text = vm.run("cowflush status").ok().text
    assert "lost already: what was written since" in text and "0 B written" not in text, text
    shows(vm, "timer", "delay_on", 100)
    assert UP_TO_DATE not in vm.run("cowflush flush", timeout=60).exits(LOST).text
    vm.run("cowflush stop --shutdown", timeout=60).exits(LOST)
    assert "NOT CERTAIN TO BE ON THE CARD" in vm.console and ALL not in vm.console
    # The daemon says it once, and does not try again and again.
    assert vm.get(SAID).decode().count("its COW was lost") == said.count("its COW was lost") == 1


def pending(vm: VM) -> int:
    return int(status(vm)["pending"])


def test_a_stop_tells_that_the_log_refused_a_write_and_counts_what_went_past_it(boot: Lab) -> None:
    vm = logged.start(boot)
    logged.flush(vm, 1)
    vm.run("head -c 262144 /dev/urandom >/root/big; sync").ok()
    vm.fail_writes(vm.card.log.sectors)
    done = json.loads(vm.run("cowflush stop --json", timeout=60).exits(CARD).output)
    assert re.match("cannot write sectors .* of /dev/sda2: ", done["refused"]) and done["complete"]
    assert done["flush"]["bytes"] >= 262144 and done["flush"]["bytes"] == sum(
        flush["bytes"] for flush in history(vm)[1:]
    )
    assert "stopped already" in vm.run("cowflush stop", timeout=60).ok().text
    vm.kill()
    vm.card.fs(replay=True).fsck()
    assert len(vm.card.fs(replay=True).read("/root/big")) == 262144


def history(vm: VM) -> list[dict[str, int]]:
    flushes: list[dict[str, int]] = json.loads(vm.run("cowflush history --json").ok().output)[
        "flushes"
    ]
    return flushes


def test_who_looks_beside_a_flush_sees_no_damage_and_no_interruption(boot: Lab) -> None:
    vm = logged.start(boot, throttle=Throttle())
    logged.flush(vm, 1)
    vm.run("head -c 12000000 /dev/urandom >/root/big; sync").ok()
    vm.throttle(Throttle(bytes_per_second=3_000_000))
    # All of it in one guest command: each look counts.
    looks = """
    cowflush flush >/run/flushed 2>&1 &
    until grep -qx cowflush-sealed /sys/block/dm-*/dm/name 2>/dev/null; do :; done
    while kill -0 $! 2>/dev/null; do
        cowflush log >/run/log 2>&1; echo log $?
        grep -hE 'DAMAGED|cut short' /run/log
        cowflush status | grep -E 'interrupted|DAMAGED|LACKS|MORE'
        cowflush status --json
    done
    cat /run/flushed
    """
    said = vm.run(looks, timeout=120).ok().text
    codes = {int(code) for code in re.findall(r"^log (\d)$", said, re.MULTILINE)}
    assert codes and codes <= {0, BUSY}, said
    assert not re.search("interrupted|DAMAGED|cut short|LACKS|MORE", said), said
    seen = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert any(report["phase"] == "sealed" and report["busy_pid"] for report in seen), said
    assert {report["log"]["state"] for report in seen} <= {"clean", ""}, said
    assert "flushed to the log on sda2" in said
    vm.throttle(Throttle())
    # A merge's time includes the check of the checksums, and all of the command but its start.
    merge = json.loads(vm.run("cowflush merge --json", timeout=60).ok().output)
    assert merge["merge_ms"] > 0 and merge["merged"] >= 12_000_000
    check_settled(vm, log=LOG)


def still_frozen(vm: VM) -> None:
    """The program that froze it thaws it: a second thaw would fail."""
    vm.run(THAW).ok()


def test_what_another_program_froze_is_neither_damaged_nor_thawed(boot: Lab) -> None:
    vm = boot()
    vm.run(TO_RAM).ok()
    # The second COW is so small that root is frozen before its tables are made.
    for config in ("", "size=8M\n"):
        vm.put("/etc/cowflush.conf", config.encode())
        vm.run("echo x >>/root/x; sync").ok()
        waiting = pending(vm)
        vm.run(FREEZE).ok()
        said = vm.run("cowflush flush", timeout=60).exits(BUSY).text
        assert "it is frozen by another program" in said and "could not be frozen" not in said, said
        assert pending(vm) == waiting > 0 and status(vm)["phase"] == "idle"
        vm.run("[ ! -e /run/cowflush/frozen ]").ok()
        still_frozen(vm)
        assert "flushed to sda1" in vm.run("cowflush flush", timeout=60).ok().text

    # The daemon tries again by itself.
    daemon.start(vm, QUIET)
    vm.run("echo x >>/root/x; sync").ok()
    vm.run(FREEZE).ok()
    vm.run("killall -USR1 cowflush").ok()
    wait_for(vm, "frozen by another program")
    vm.run(THAW).ok()
    wait_for(vm, "flushed (asked)")
    daemon.signal(vm, "TERM")
    vm.until("! pidof cowflush")

    # During a shutdown the command does not wait, and loses nothing.
    vm.run("echo last >/root/last; sync").ok()
    vm.run(FREEZE).ok()
    vm.run("cowflush stop --shutdown", timeout=60).exits(FAILED)
    assert "another program froze it" in vm.console and ALL not in vm.console
    still_frozen(vm)
    vm.kill()
    assert vm.card.fs(replay=True).read("/root/last") == b"last\n"


@pytest.mark.kernels("6.12")
def test_a_flush_within_the_freeze_of_another_program_leaves_it_frozen(boot: Lab) -> None:
    """Since 6.8 the kernel counts freezes: the suspend's freeze is one more, and ends alone."""
    vm = boot()
    vm.run(TO_RAM).ok()
    vm.run(f"seq 3000 >/root/x; sync; {FREEZE}").ok()
    assert "flushed to sda1" in vm.run("cowflush flush", timeout=60).ok().text
    still_frozen(vm)
    vm.run(THAW).exits(1)
    vm.run("echo y >/root/y; sync; cowflush flush", timeout=60).ok()
    check_settled(vm)
    vm.kill()
    vm.card.fsck()
    assert vm.card.read("/root/y") == b"y\n"


@pytest.mark.thorough
def test_what_a_boot_wrote_to_cut_damage_off_is_no_flush(boot: Lab) -> None:
    card = logged.made(boot.card(), 3)
    log = FlushLog(card)
    with open(card.path, "r+b") as image:
        image.seek(card.log.start * 512 + log.segments[2].head * CHUNK)
        image.write(bytes(CHUNK))
    boot(card).kill()
    vm = boot(card)
    assert "holds 2 flushes" in logged.said(vm)
    assert status(vm)["log"]["segments"] == 2
    states = [segment["state"] for segment in logged.report(vm)["segments"]]
    assert states == ["committed", "committed", "boot"]
