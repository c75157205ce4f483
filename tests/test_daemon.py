"""The daemon: it flushes by itself, and never lets the COW overflow."""

from __future__ import annotations

import json
import time

import pytest

from vm import workload
from vm.daemon import QUIET, flush, wait_for
from vm.daemon import start as daemon
from vm.lab import Lab

BOTH = pytest.mark.kernels("6.1", "6.12")


@BOTH
def test_urgent_changes_survive_a_power_cut(boot: Lab) -> None:
    vm = boot()
    daemon(vm, "interval=off\\nurgent=/etc\\nurgent-delay=500ms\\n")
    vm.run("mkdir -p /etc/deep/er; echo one >/etc/deep/er/one; sleep 1").ok()
    vm.run("echo two >/etc/deep/er/two; echo elsewhere >/root/elsewhere").ok()
    wait_for(vm, "(urgent)")
    vm.run("until [ $(grep -c urgent /run/daemon.log) -ge 2 ]; do usleep 100000; done", timeout=30).ok()
    vm.kill()
    assert vm.card.read("/etc/deep/er/two") == b"two\n"


def test_an_interval_and_sigusr1(boot: Lab) -> None:
    vm = boot()
    daemon(vm, QUIET.replace("interval=off", "interval=3s"))
    vm.run("echo x >/root/x; dd if=/dev/urandom of=/root/y bs=64k count=2 2>&1").ok()
    wait_for(vm, "(interval)")
    vm.run("echo z >/root/z; sync; killall -USR1 cowflush").ok()
    wait_for(vm, "(asked)")
    vm.run("killall cowflush; sleep 1; ! pidof cowflush").ok()
    vm.kill()
    assert vm.card.read("/root/z") == b"z\n"


@pytest.mark.parametrize("log", [True, False], ids=["log", "no-log"])
@pytest.mark.parametrize("memory", [256, 64])
def test_a_writer_at_full_speed_never_overflows(boot: Lab, memory: int, log: bool) -> None:
    vm = boot(memory=memory)
    if log:
        vm.run("cowflush log format /dev/sda2").ok()
    daemon(vm, QUIET + "size=16M\\n")
    script = (
        "i=0; end=$(( $(date +%s) + 15 )); while [ $(date +%s) -lt $end ]; do i=$((i+1)); "
        "dd if=/dev/zero of=/root/big$((i % 8)) bs=64k count=64 2>/dev/null || exit 7; done; echo rounds $i"
    )
    text = vm.run(f"sh -c '{script}'", timeout=300).ok().text
    assert int(text.split()[-1]) > 3
    status = json.loads(vm.run("cowflush status --json").ok().output)
    assert status["phase"] in ("idle", "merging", "sealed", "suspended"), status
    assert "Out of memory" not in vm.run("dmesg").ok().text
    vm.run("sync; cowflush flush; sync", timeout=120).ok()
    said = vm.run("cat /run/daemon.log").ok().text
    assert "failed" not in said and "FULL" not in said, said
    vm.kill()
    vm.card.fsck()


def test_a_hold_keeps_the_card_still_until_it_is_kept(boot: Lab) -> None:
    vm = boot()
    daemon(vm, "interval=2s\\nurgent-delay=500ms\\n")
    vm.run("cowflush hold").ok()
    still = vm.card_stats()
    vm.run("echo trial >/etc/trial; dd if=/dev/zero of=/root/big bs=64k count=16 2>&1; sync; sleep 4").ok()
    assert (vm.card_stats() - still).wr_operations == 0
    assert "nothing may reach the card" in vm.run("cowflush stop").fails().text
    vm.run("cowflush flush", timeout=60).ok()
    assert "nothing was held" in vm.run("cowflush release").ok().text
    vm.kill()
    assert vm.card.read("/etc/trial") == b"trial\n"


def test_a_discarded_trial_is_gone_after_the_reboot(boot: Lab) -> None:
    vm = boot()
    daemon(vm, "interval=2s\\nurgent-delay=500ms\\n")
    vm.run("cowflush hold; echo trial >/etc/trial; sync; sleep 3").ok()
    assert vm.run_last("cowflush discard --now", timeout=30) == "guest-reset"
    again = boot(vm.card)
    again.run("ls /etc/trial").fails()
    again.kill()
    again.card.fsck()


def test_a_hold_that_fills_the_cow_is_ended_and_said(boot: Lab) -> None:
    vm = boot()
    daemon(vm, QUIET + "size=8M\\nfull-wait=70%%\\n")
    vm.run("cowflush hold; dd if=/dev/urandom of=/root/big bs=64k count=160 2>&1; sync", timeout=60).ok()
    wait_for(vm, "the hold was ended")
    flush(vm)
    vm.kill()
    vm.card.fsck()


def test_a_bad_line_is_named_and_the_rest_holds(boot: Lab) -> None:
    vm = boot(append="cowflush.interval=soon cowflush.min-flush=512K")
    assert "`cowflush.interval=soon`" in vm.run("dmesg | grep cowflush").ok().text
    daemon(vm, "interval=4s\\nhigh=most\\nfoo=1\\n" + "urgent=none\\n")
    said = wait_for(vm, "line 3")
    assert "ignoring line 2 of /etc/cowflush.conf, `high=most`" in said and "`foo=1`" in said
    # The command line wins: a small file is not worth a flush.
    vm.run("echo x >/root/x; sync; sleep 6; ! grep -q '(interval)' /run/daemon.log").ok()
    vm.run("dd if=/dev/urandom of=/root/big bs=64k count=16 2>&1; sync").ok()
    wait_for(vm, "(interval)")


def test_times_of_day_and_clocks_that_leap(boot: Lab) -> None:
    vm = boot()
    vm.run("date -s '2026-01-01 03:28:50'").ok()
    daemon(vm, QUIET + "at=03:29,03:31\\n")
    vm.run("dd if=/dev/urandom of=/root/one bs=64k count=2 2>&1; sync").ok()
    wait_for(vm, "(at 03:29)")
    # Set back and forth: nothing is made up for, and the next time of day still comes.
    vm.run("dd if=/dev/urandom of=/root/two bs=64k count=2 2>&1; sync").ok()
    vm.run("date -s '1970-01-01 00:00:00'; sleep 2; date -s '2030-06-01 12:00:00'; sleep 2; date -s '2030-06-02 03:30:57'").ok()
    assert vm.run("grep -c flushed /run/daemon.log").ok().text.strip() == "1"
    wait_for(vm, "(at 03:31)")


def test_a_card_that_fails_for_a_while(boot: Lab) -> None:
    vm = boot()
    vm.run("cowflush log format /dev/sda2").ok()
    daemon(vm, QUIET.replace("interval=off", "interval=2s"))
    vm.fail_writes(vm.card.log.sectors)
    vm.run("dd if=/dev/urandom of=/root/big bs=64k count=8 2>&1; sync; md5sum /root/big >/run/sum").ok()
    wait_for(vm, "failed")
    vm.run("md5sum -c /run/sum").ok()
    vm.heal()
    vm.run("until tail -n 1 /run/daemon.log | grep -q 'flushed (interval)'; do usleep 200000; done", timeout=60).ok()
    flush(vm)
    wanted = vm.run("md5sum </root/big").ok().text
    vm.kill()
    assert boot(vm.card).run("md5sum </root/big").ok().text == wanted


@BOTH
def test_killed_at_any_moment_it_leaves_root_awake(boot: Lab) -> None:
    vm = boot(memory=128)
    vm.run("cowflush log format /dev/sda2").ok()
    daemon(vm, QUIET + "size=24M\\nhigh=20%%\\n")
    writer = workload.Writer(vm)
    for _ in range(6):
        # What was sealed by the killed one holds memory until the next one appends it.
        vm.run("dd if=/dev/urandom of=/root/big bs=64k count=90 2>/dev/null; killall -9 cowflush 2>/dev/null; true", timeout=120).ok()
        vm.run("cowflush daemon >>/run/daemon.log 2>&1 &").ok()
        before = writer.wait_rounds(2)
    flush(vm)
    flush(vm)
    writer.stop()
    vm.kill()
    vm.card.fsck()
    again = boot(vm.card)
    again.run("cowflush merge", timeout=60).ok()
    again.kill()
    workload.check(again.card, before)
