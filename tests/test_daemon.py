"""The daemon: it flushes by itself, and never lets the COW overflow."""

from __future__ import annotations

from vm import daemon
from vm.daemon import QUIET, wait_for
from vm.lab import Lab


def test_folders_made_later_are_urgent_too(boot: Lab) -> None:
    vm = boot()
    daemon.start(vm, "interval=off\nurgent=/etc\nurgent-delay=500ms\n")
    vm.run("mkdir -p /etc/deep/er").ok()
    before = wait_for(vm, "(urgent)").count("(urgent)")
    vm.run("echo two >/etc/deep/er/two").ok()
    wait_for(vm, "(urgent)", before + 1)
    vm.kill()
    assert vm.card.read("/etc/deep/er/two") == b"two\n"


def test_an_interval_and_sigusr1(boot: Lab) -> None:
    vm = boot()
    daemon.start(vm, QUIET.replace("interval=off", "interval=3s"))
    vm.run("echo x >/root/x; dd if=/dev/urandom of=/root/y bs=64k count=2 2>&1").ok()
    wait_for(vm, "(interval)")
    vm.run("echo z >/root/z; sync; killall -USR1 cowflush").ok()
    wait_for(vm, "(asked)")
    daemon.signal(vm, "TERM")
    vm.until("! pidof cowflush")
    vm.kill()
    assert vm.card.read("/root/z") == b"z\n"


def test_a_hold_that_fills_the_cow_is_ended_and_said(boot: Lab) -> None:
    vm = boot()
    daemon.start(vm, QUIET + "size=8M\nfull-wait=70%\n")
    vm.run(
        "cowflush hold && dd if=/dev/urandom of=/root/big bs=64k count=160 2>&1; sync", timeout=60
    ).ok()
    wait_for(vm, "the hold was ended")
    daemon.flush(vm)
    vm.kill()
    vm.card.fsck()


def test_a_bad_line_is_named_and_the_rest_holds(boot: Lab) -> None:
    vm = boot(append="cowflush.interval=soon cowflush.min-flush=512K")
    assert "`cowflush.interval=soon`" in vm.run("dmesg | grep cowflush").ok().text
    daemon.start(vm, "interval=4s\nhigh=most\nfoo=1\n" + "urgent=none\n")
    said = wait_for(vm, "line 3")
    assert "ignoring line 2 of /etc/cowflush.conf, `high=most`" in said and "`foo=1`" in said
    # The command line wins: a small file is not worth a flush.
    vm.run("echo x >/root/x; sync; sleep 6; ! grep -q '(interval)' /run/daemon.log").ok()
    vm.run("dd if=/dev/urandom of=/root/big bs=64k count=16 2>&1; sync").ok()
    wait_for(vm, "(interval)")


# Each with the words that must be said of it.
BAD_LINES = {
    "interval": "`interval`",
    "interval=": "`interval=`",
    "interval=-5m": "a time such as 90s",
    "size=0%": "a size such as 32M",
    "high=101%": "a share such as 75%",
    "at=24:00": "times of day such as 03:30",
    "urgent=etc": "absolute paths",
    "on-overflow=panic": "write-through or wait",
    "watchdog=watchdog": "a path such as /dev/watchdog",
    "=5m": "a key that this version knows",
    "min-flush=99999999999999999999K": "a size such as 64K",
    "\x00\xff\xfe\x80": "a key that this version knows",
    "x" * 5000: "a key that this version knows",
}


def test_a_file_of_nothing_but_mistakes(boot: Lab) -> None:
    """Every line is named, the defaults hold, and SIGHUP takes a better one. So does a file that can't be read."""
    vm = boot()
    vm.put("/etc/cowflush.conf", "\n".join(BAD_LINES).encode("latin-1"))
    daemon.begin(vm)
    said = daemon.said(vm)
    for number, wanted in enumerate(BAD_LINES.values(), start=1):
        line = next(
            (line for line in said.splitlines() if f"line {number} of /etc/cowflush.conf" in line),
            "",
        )
        assert "ignoring" in line and wanted in line and len(line) < 400, (number, line, said)
    vm.run("rm /etc/cowflush.conf; mkdir /etc/cowflush.conf; killall -HUP cowflush").ok()
    wait_for(vm, "ignoring /etc/cowflush.conf: Is a directory")
    vm.run("rmdir /etc/cowflush.conf").ok()
    daemon.reconfigure(vm, QUIET + "interval=2s\nmin-flush=off\nhigh=90%\nfull-wait=70%\n")
    wait_for(vm, "high=90% is above full-wait=70%")
    vm.run("echo x >/root/x; sync").ok()
    wait_for(vm, "(interval)")


def test_times_of_day_and_clocks_that_leap(boot: Lab) -> None:
    vm = boot()
    vm.run("date -s '2026-01-01 03:20:00'").ok()
    daemon.start(vm, QUIET + "at=03:29,03:31\n")
    vm.run(
        "dd if=/dev/urandom of=/root/one bs=64k count=2 2>&1; sync; date -s '2026-01-01 03:28:57'"
    ).ok()
    wait_for(vm, "(at 03:29)")
    # Set back and forth: nothing is made up for, and the next time of day still comes.
    vm.run("dd if=/dev/urandom of=/root/two bs=64k count=2 2>&1; sync").ok()
    vm.run("date -s '1970-01-01 00:00:00'; sleep 2; date -s '2030-06-01 12:00:00'; sleep 2").ok()
    assert daemon.said(vm).count("flushed") == 1
    vm.run("date -s '2030-06-02 03:30:57'").ok()
    wait_for(vm, "(at 03:31)")
