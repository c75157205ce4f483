"""The daemon: it flushes by itself, and never lets the COW overflow."""

from __future__ import annotations

import struct

import pytest

from harness.drive import Throttle
from harness.lab import Lab
from harness.machine import VM
from product import daemon
from product.daemon import QUIET, SAID, wait_for
from product.router import status

FAILED, NOT_ACTIVE = 1, 3
# As in src/pure/policy/schedule.rs
AT_ONCE = 12


def urgently(vm: VM, command: str) -> None:
    """Checks that the daemon flushes this command's changes as urgent, with nothing else under way."""
    before = daemon.said(vm).count("(urgent)")
    vm.run(command).ok()
    wait_for(vm, "(urgent)", before + 1)


def test_folders_made_later_are_urgent_too(boot: Lab) -> None:
    vm = boot()
    daemon.start(vm, "interval=off\nurgent=/etc\nurgent-delay=500ms\n")
    urgently(vm, "mkdir -p /etc/deep/er")
    urgently(vm, "echo two >/etc/deep/er/two")
    copy = vm.cut_copy(boot.directory / "cut.img")
    assert copy.read("/etc/deep/er/two") == b"two\n"
    urgently(vm, "rm /etc/deep/er/two")
    vm.kill()
    assert "/etc/deep/er/two" not in vm.card.hashes("/etc")


def test_what_a_boot_loader_reads_is_merged_at_once_and_the_rest_when_nobody_flushes(
    boot: Lab,
) -> None:
    """A boot loader sees the plain card, without the flush log."""
    vm = boot()
    vm.run("mkdir /root/kernels /root/more").ok()
    config = "interval=off\nurgent=/etc\nurgent-delay=200ms\nmerge-on=/root/kernels,/root/more\n"
    daemon.start(vm, config, log=True)
    plain = boot.directory / "plain.img"
    for flushes, folder in enumerate(("kernels", "more"), start=1):
        vm.run(f"echo new >/root/{folder}/vmlinuz").ok()
        wait_for(vm, "(boot files)", flushes)
        assert vm.cut_copy(plain).read(f"/root/{folder}/vmlinuz") == b"new\n"
    assert status(vm)["log"]["segments"] == 0
    urgently(vm, "echo other >/etc/other")
    assert status(vm)["log"]["segments"] > 0
    assert "/etc/other" not in vm.cut_copy(plain).hashes("/etc")
    daemon.reconfigure(vm, QUIET + "idle=2s\n")
    vm.until("cowflush status --json | grep -q '\"segments\":0,'")
    assert vm.cut_copy(plain).read("/etc/other") == b"other\n"


def test_a_file_that_is_rewritten_all_the_time_gets_a_bounded_number_of_flushes_and_is_named(
    boot: Lab,
) -> None:
    """Pi-hole rewrites such a file under /etc.

    An excluded file causes no flush, and the limit holds until the daemon is told otherwise.
    """
    vm = boot()
    config = (
        "interval=off\nmerge-on=none\nurgent=/etc,!/etc/silent\nurgent-delay=100ms\n"
        "urgent-pause=1h\n"
    )
    vm.run("mkdir /etc/noisy /etc/silent").ok()
    daemon.start(vm, config, log=True)
    before = vm.card_stats()
    rewrite = (
        "while n=$((n + 1)); do echo $n >/etc/noisy/file; echo $n >/etc/silent/n; sleep 0.2; done"
    )
    vm.run(f"({rewrite}) >/dev/null 2>&1 & echo $! >/run/rewriter").ok()
    said = wait_for(vm, "changes again and again: flushes for such changes", timeout=120)
    assert "/etc/noisy/file changes again and again" in said
    assert said.count("(urgent)") == AT_ONCE, said
    rewritten = int(vm.run("cat /etc/silent/n").ok().text)
    vm.until(f"[ $(cat /etc/silent/n) -gt {rewritten + 20} ]", timeout=60)
    assert daemon.flushes(vm, "urgent") == AT_ONCE
    # An append is two FLUSHes and a few writes.
    written = vm.card_stats() - before
    assert AT_ONCE <= written.flush_operations <= 3 * AT_ONCE, written
    assert written.wr_operations <= 12 * AT_ONCE, written
    report = status(vm)
    assert report["last_flush"]["reason"] == "urgent"
    assert report["last_flush"]["path"] == "/etc/noisy/file"
    following = report["daemon"]["next_flush"]
    assert following["reason"] == "urgent" and 0 < following["seconds"] <= 3600, following
    assert report["restless"] is None, "a dozen is nobody's fault"
    # With a shorter pause there are more flushes, and then every command reports it.
    daemon.reconfigure(vm, config.replace("1h", "1s"))
    wait_for(vm, "(urgent)", AT_ONCE + 3)
    vm.run("kill $(cat /run/rewriter)").ok()
    restless = status(vm)["restless"]
    assert restless["path"] == "/etc/noisy/file" and restless["flushes"] > AT_ONCE, restless
    words = r"[0-9]* of the last [0-9]* flushes came since /etc/noisy/file had changed"
    vm.run(f"cowflush status | grep -x 'restless   {words}; `cowflush check` says what to do'").ok()
    vm.run(f"cowflush check | grep -x 'note     changes          {words}'").ok()
    assert "silent" not in daemon.said(vm)
    # Under systemd the journal also takes what the daemon prints, so each line goes only one way:
    # here to the kernel's log.
    daemon.signal(vm, "TERM")
    vm.until("! pidof cowflush")
    said = daemon.said(vm)
    daemon.begin(vm, f"JOURNAL_STREAM=$(stat -c %d:%i {SAID})")
    vm.run("dmesg -c >/dev/null; killall -HUP cowflush").ok()
    vm.until("dmesg | grep -q 'the configuration was read again'")
    assert daemon.said(vm) == said


WITH_BOOT = "label: dos\n,160M\n,64M,da\n,16M\n"


def test_a_boot_mounted_beside_the_daemon_is_watched_and_a_change_there_brings_root_to_the_log(
    boot: Lab,
) -> None:
    """A /boot of its own is on the card at once, and root's modules must follow.

    For them a flush is enough; files that a boot loader reads on root need a merge.
    """
    vm = boot(boot.card(partitions=WITH_BOOT))
    vm.run("mkdir -p /boot && mkfs.ext2 /dev/sda3 >/dev/null").ok()
    daemon.start(vm, "interval=off\nurgent=none\nurgent-delay=100ms\n", log=True)
    # The mount is a change, too: a program may have written before the daemon watched.
    vm.run("mount -t ext2 /dev/sda3 /boot").ok()
    wait_for(vm, "(boot files)")
    for folder in ("/boot", "/boot/deep"):
        if folder != "/boot":
            vm.run(f"mkdir {folder}").ok()
            wait_for(vm, f", since {folder} changed")
        name = folder.replace("/", "-")
        vm.run(f"echo modules >/root/{name}; echo new >{folder}/vmlinuz").ok()
        wait_for(vm, f", since {folder}/vmlinuz changed")
        report = status(vm)
        assert report["log"]["segments"] > 0 and report["last_flush"]["merged"] == 0, report
        cut = vm.cut_copy(boot.directory / "cut.img")
        assert daemon.root_of(cut, log=True).read(f"/root/{name}") == b"modules\n"
    # Without the mount, root's own folder shows again, and what a boot loader reads there needs the
    # merge.
    before = daemon.flushes(vm, "boot")
    vm.run("umount /boot").ok()
    daemon.wait_flushes(vm, 1, "boot", since=before)
    vm.run("echo new >/boot/on-root").ok()
    vm.until("cowflush status --json | grep -q '\"segments\":0,'")
    assert vm.cut_copy(boot.directory / "plain.img").read("/boot/on-root") == b"new\n"


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


def test_a_hold_that_fills_the_cow_is_ended_and_what_was_held_is_kept(boot: Lab) -> None:
    vm = boot()
    daemon.start(vm, QUIET + "size=8M\nfull-wait=70%\n")
    vm.run("cowflush hold && echo trial >/root/trial; sync").ok()
    # More than `high`, and less than what ends the hold
    vm.run("dd if=/dev/urandom of=/root/some bs=64k count=72 2>&1; sync").ok()
    before = vm.card_stats()
    daemon.signal(vm, "USR1")
    vm.run("dd if=/dev/urandom of=/root/little bs=4k count=1 2>&1; sync; sleep 1").ok()
    assert (vm.card_stats() - before).wr_operations == 0 and status(vm)["held_since"]
    vm.run("dd if=/dev/urandom of=/root/big bs=64k count=160 2>&1; sync", timeout=60).ok()
    said = wait_for(vm, "flushed (high)")
    assert "the hold was ended, since the COW is full: what was held is flushed now" in said
    assert said.count("the hold was ended") == 1 and status(vm)["held_since"] is None
    kept = vm.run("cd /root && sha256sum trial some little").ok().text
    daemon.flush(vm)
    vm.kill()
    vm.card.fsck()
    found = vm.card.hashes("/root")
    assert kept.split() == [
        word for name in ("trial", "some", "little") for word in (found[f"/root/{name}"], name)
    ]


@pytest.mark.thorough
def test_who_may_hold_and_when(boot: Lab) -> None:
    vm = boot()
    vm.run("cowflush hold").ok()
    since = status(vm)["held_since"]
    for command in ("hold", "release", "discard --now"):
        said = vm.run(f"setuidgid nobody cowflush {command}").exits(FAILED).text
        assert f"cannot {command.split()[0]}: only root may. Run this as root." in said
    vm.run("sleep 1; cowflush hold").ok()
    assert status(vm)["held_since"] == since, "one that is there stays"
    assert "released: flushes come as before" in vm.run("cowflush release").ok().text
    assert "nothing was held" in vm.run("cowflush release").ok().text
    vm.run("cowflush stop", timeout=60).ok()
    for command in ("hold", "discard --now"):
        said = vm.run(f"cowflush {command}").exits(NOT_ACTIVE).text
        assert "writes go straight to the card now. `cowflush start` keeps them in RAM." in said
        assert status(vm)["held_since"] is None
    vm.run("cowflush start && cowflush hold").ok()
    assert status(vm)["held_since"]


@pytest.mark.thorough
def test_two_daemons_do_each_others_work(boot: Lab) -> None:
    """A second daemon that is started by mistake does no harm."""
    vm = boot()
    daemon.start(vm, QUIET.replace("interval=off", "interval=1s") + "size=16M\n", log=True)
    first = daemon.field(vm, "Pid")
    daemon.begin(vm)
    second = daemon.field(vm, "Pid")
    for name in ("one", "two", "three"):
        before = daemon.flushes(vm)
        vm.run(f"dd if=/dev/urandom of=/root/{name} bs=64k count=192 2>&1; sync").ok()
        daemon.wait_flushes(vm, 1, since=before)
    daemon.no_trouble(vm)
    vm.run(f"kill -0 {first} {second}").ok()
    sums = vm.run("cd /root && sha256sum one two three").ok().text.split()
    daemon.flush(vm)
    vm.kill()
    found = daemon.root_of(vm.card, log=True).hashes("/root")
    assert [found[f"/root/{name}"] for name in sums[1::2]] == sums[::2]


@pytest.mark.thorough
def test_of_two_daemons_the_one_that_ends_leaves_the_other_its_note(boot: Lab) -> None:
    vm = boot()
    daemon.start(vm, QUIET)
    first = daemon.field(vm, "Pid")
    daemon.begin(vm)
    second = daemon.field(vm, "Pid")
    vm.run(f"kill {second}; while [ -e /proc/{second} ]; do sleep 0.05; done").ok()
    # The daemon checks its note once a second.
    vm.until(f"grep -qx pid={first} {daemon.NOTE}")
    report = status(vm)["daemon"]
    assert report and report["pid"] == int(first)


@pytest.mark.thorough
def test_the_kernels_settings_come_back_when_the_daemon_ends(boot: Lab) -> None:
    vm = boot()
    settings = "head /proc/sys/vm/dirty_*bytes /proc/sys/vm/dirty_*ratio"
    before = vm.run(settings).ok().text
    daemon.start(vm, QUIET + "size=16M\n")
    assert vm.run(settings).ok().text != before, "the daemon has set none"
    daemon.signal(vm, "TERM")
    vm.until("! pidof cowflush")
    assert vm.run(settings).ok().text == before
    # A killed daemon leaves this to the next one, which must not take its settings for the
    # machine's; or to a stop.
    for ends in (
        "kill $(sed -n s/pid=//p /run/cowflush/daemon)",
        "killall -9 cowflush; cowflush stop",
    ):
        daemon.begin(vm)
        daemon.signal(vm, "KILL")
        vm.until("! pidof cowflush")
        assert vm.run(settings).ok().text != before
        daemon.begin(vm)
        vm.run(ends, timeout=60).ok()
        vm.until("! pidof cowflush")
        assert vm.run(settings).ok().text == before, ends


@pytest.mark.thorough
def test_a_machine_with_no_watch_left_is_told_and_still_flushed_by_the_clock(boot: Lab) -> None:
    vm = boot()
    # inotify_init1 fails: too many open files.
    vm.put("/etc/cowflush.conf", b"interval=2s\nmin-flush=4K\nurgent=/etc\n")
    vm.run("cowflush flush", timeout=60).ok()
    vm.run(f"guest-tools deny --call 332 --errno 24 cowflush daemon >>{daemon.SAID} 2>&1 &").ok()
    said = wait_for(vm, "changes under /etc are not watched: Too many open files")
    assert "max_user_instances" in said
    vm.run("echo x >/etc/x; sync").ok()
    wait_for(vm, "flushed (interval)")
    assert daemon.said(vm).count("are not watched") == 2, "once for each kind of path"


@pytest.mark.thorough
def test_told_to_end_in_the_middle_of_a_flush_it_ends_and_counts_no_failure(boot: Lab) -> None:
    """The signal ends the flush first: the daemon must also take it as its own end."""
    vm = boot(throttle=Throttle(bytes_per_second=200_000))
    daemon.start(vm, QUIET + "min-flush=64K\n", log=True)
    vm.run("dd if=/dev/urandom of=/root/big bs=64k count=64 2>/dev/null; sync").ok()
    daemon.signal(vm, "USR1")
    vm.until("grep -q cowflush-sealed /sys/block/dm-*/dm/name")
    daemon.signal(vm, "TERM")
    vm.until("! pidof cowflush", timeout=10)
    said = daemon.said(vm)
    assert "failed" not in said and "(asked)" not in said, said
    vm.run(f"! grep -q '^failures=[^0]' {daemon.TOTALS}").ok()
    # The next command flushes what the daemon had sealed.
    vm.throttle(Throttle())
    sums = vm.run("cd /root && sha256sum big").ok().text.split()
    vm.run("cowflush flush", timeout=60).ok()
    vm.kill()
    assert daemon.root_of(vm.card, log=True).hashes("/root")["/root/big"] == sums[0]


@pytest.mark.thorough
def test_boot_files_are_merged_though_another_flush_comes_first(boot: Lab) -> None:
    vm = boot()
    daemon.start(vm, QUIET + "min-flush=4K\nurgent-delay=4s\n", log=True)
    daemon.reconfigure(
        vm, QUIET.replace("merge-on=none", "merge-on=/root/boot.cfg") + "urgent-delay=4s\n"
    )
    for text in ("one", "two"):
        # An editor writes a new file and renames it; so the second time the file is another one.
        vm.run(f"echo {text} >/root/new; mv /root/new /root/boot.cfg; sync").ok()
        daemon.signal(vm, "USR1")
        daemon.wait_for(vm, "flushed (boot files)", times=1 if text == "one" else 2)
        assert status(vm)["log"]["segments"] == 0, "it is merged"
    vm.kill()
    assert vm.card.read("/root/boot.cfg") == b"two\n"


@pytest.mark.thorough
def test_a_bad_line_is_named_and_the_rest_holds(boot: Lab) -> None:
    vm = boot(append="cowflush.interval=soon cowflush.min-flush=512K")
    assert "`cowflush.interval=soon`" in vm.run("dmesg | grep cowflush").ok().text
    daemon.start(vm, "interval=2s\nhigh=most\nfoo=1\nurgent=none\n")
    said = wait_for(vm, "line 3")
    assert "ignoring line 2 of /etc/cowflush.conf, `high=most`" in said and "`foo=1`" in said
    # The kernel command line wins: a small file is not worth a flush.
    vm.run("echo x >/root/x; sync").ok()
    vm.until("cowflush status --json | grep -q '\"seconds\":0,'")
    # The daemon checks twice a second.
    vm.run("sleep 1; ! grep -q '(interval)' /run/daemon.log").ok()
    vm.run("dd if=/dev/urandom of=/root/big bs=64k count=16 2>&1; sync").ok()
    wait_for(vm, "(interval)")


# Each line with the words that the message must have
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
    """The daemon names every line, uses the defaults, and reads a better file on SIGHUP.

    The same for an unreadable file.
    """
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


def set_clock(vm: VM, time: str, next_minute: int) -> None:
    """Sets the clock, and waits until the daemon's note has the next time of day that follows."""
    # The kernel refuses a time before the boot; `date` then complains but exits with 0.
    vm.run(f"date -u -s '{time}' >/dev/null; [ \"$(date -u '+%F %H:%M')\" = '{time[:16]}' ]").ok()
    vm.until(f"grep -qx at={next_minute} {daemon.NOTE}")


def dirty(vm: VM, name: str) -> None:
    """Writes enough to be worth a flush."""
    vm.run(f"dd if=/dev/urandom of=/root/{name} bs=64k count=2 2>&1; sync").ok()


@pytest.mark.thorough
def test_times_of_day_and_clocks_that_leap(boot: Lab) -> None:
    vm = boot()
    vm.run("date -u -s '2026-01-01 03:20:00'").ok()
    daemon.start(vm, QUIET + "at=03:29,03:31\n")
    first, second = 3 * 60 + 29, 3 * 60 + 31
    dirty(vm, "one")
    set_clock(vm, "2026-01-01 03:28:55", first)
    wait_for(vm, "(at 03:29)")
    # The clock is set back and forth: no missed time is made up for, and the next one still comes.
    dirty(vm, "two")
    set_clock(vm, "2026-01-01 03:30:00", second)
    set_clock(vm, "1970-01-01 12:00:00", first)
    set_clock(vm, "2030-06-02 03:30:01", second)
    assert daemon.said(vm).count("flushed") == 1
    set_clock(vm, "2030-06-02 03:30:55", second)
    wait_for(vm, "(at 03:31)")


# A zone's file (RFC 8536) without changes of time: the block for old programs, the one for others,
# and the TZ string
ZONE = (
    struct.pack(">5s15x6l", b"TZif2", 0, 0, 0, 0, 0, 0)
    + struct.pack(">5s15x6l", b"TZif2", 0, 0, 0, 0, 1, 4)
    + struct.pack(">lBB4s", 5 * 3600 + 1800, 0, 0, b"IST\0")
    + b"\nIST-5:30\n"
)


@pytest.mark.thorough
def test_times_of_day_are_local(boot: Lab) -> None:
    """Local as /etc/localtime says, or TZ."""
    vm = boot()
    vm.put("/etc/localtime", ZONE)
    vm.run("date -u -s '2026-01-01 03:20:00'").ok()
    daemon.start(vm, QUIET + "at=03:59,09:29\n")
    dirty(vm, "one")
    # It is 08:50 in India. At 03:59 in Greenwich it is 09:29 there.
    assert status(vm)["daemon"]["next_flush"] == {"seconds": 39 * 60, "reason": "at"}
    set_clock(vm, "2026-01-01 03:58:55", 9 * 60 + 29)
    assert "(at 03:59)" not in wait_for(vm, "(at 09:29)")
    daemon.signal(vm, "TERM")
    vm.until("! pidof cowflush")
    vm.run("date -u -s '2026-01-01 11:50:00'").ok()
    daemon.begin(vm, "TZ=XYZ8")
    dirty(vm, "two")
    set_clock(vm, "2026-01-01 11:58:55", 3 * 60 + 59)
    wait_for(vm, "(at 03:59)")


@pytest.mark.thorough
def test_a_slow_card_is_flushed_before_a_shutdown_could_not_wait_for_it(boot: Lab) -> None:
    """The speed of the last large enough flush counts; here a note says 10 KiB/s."""
    vm = boot()
    daemon.start(vm, QUIET + "high=79%\n")
    vm.run("dd if=/dev/urandom of=/root/first bs=64k count=2 2>/dev/null && cowflush flush").ok()
    vm.run(
        "sed -i 's/^merge_ms=.*/merge_ms=12800/; s/^merged=.*/merged=131072/; s/^logged=.*/logged=0/' /run/cowflush/last-flush"
    ).ok()
    write = "dd if=/dev/urandom of=/root/{} bs=1M count={} 2>/dev/null && sync"
    vm.run("cowflush hold && " + write.format("held", 7)).ok()
    wait_for(vm, "MiB are held, more than the card takes in the time that a shutdown has")
    vm.run("! grep -q '(high)' /run/daemon.log && cowflush release").ok()
    wait_for(vm, "flushed (high)")
