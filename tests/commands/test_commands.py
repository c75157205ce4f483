"""The commands' output and exit codes, for any caller and with anything around them missing.

Tests that need no guest are in test_commands_host.py.
"""

from __future__ import annotations

import re
import time

import pytest

from harness import Filesystem, Throttle, artefacts
from harness.lab import Lab
from harness.machine import VM
from product import jsondoc, logged
from product.router import MERGING, check_settled, loops, memory, status, wait_status

DONE, FAILED, INACTIVE, BUSY, CARD, INTERRUPTED = 0, 1, 3, 4, 5, 8
AS_NOBODY = "setuidgid nobody"
# So slow that nothing ends by itself while a test looks; the test lifts it once it has seen the
# step.
STANDS_STILL = Throttle(bytes_per_second=30_000)
THRESHOLD = "/sys/module/dm_snapshot/parameters/snapshot_cow_threshold"


def fill(vm: VM) -> None:
    """Writes 4 MiB for the next flush, which then takes long on a slow card.

    The programs that a test runs meanwhile are in the page cache.
    """
    vm.run("dd if=/dev/urandom of=/root/big bs=64k count=64 2>&1; cowflush status; sync").ok()


def slow_flush(boot: Lab) -> VM:
    """A router whose next merge takes long, until the test lifts its throttle."""
    vm = boot(throttle=Throttle())
    vm.run("echo kept >/root/kept").ok()
    fill(vm)
    vm.throttle(STANDS_STILL)
    return vm


# --- one at a time ---------------------------------------------------------------


def test_a_second_command_is_told_who_is_at_work(boot: Lab) -> None:
    vm = slow_flush(boot)
    first = vm.start("cowflush flush")
    wait_status(vm, MERGING)
    pid = status(vm)["busy_pid"]
    # The other process is the throttle worker.
    assert str(pid) in vm.run("pidof cowflush").ok().text.split()
    refused = f"cannot begin: process {pid} (cowflush flush) is at work. Wait for it to end"
    assert refused in vm.run("cowflush log format /dev/sda2").exits(BUSY).text
    # A command that changes a stack waits for the other, so no script has to retry. A signal ends
    # the wait.
    waits = f"cowflush: process {pid} (cowflush flush) is at work; {{}} waits for its end\n"
    for command in ("flush", "stop", "merge"):
        waiting = vm.start(f"exec cowflush {command}")
        waiting.wait_output(waits.format(command).strip())
        waiting.kill("INT")
        ended = waiting.wait(30).exits(BUSY).text
        assert ended.startswith(waits.format(command)) and refused in ended
    start = vm.start("cowflush start")
    start.wait_output(waits.format("start").strip())
    assert f"process {pid} is at work" in vm.run("cowflush status").ok().text
    # A shutdown waits for the other command, but not longer than its limit.
    seconds = measured(vm, "cowflush stop --shutdown --within 2", BUSY)
    assert 1.5 < seconds < 30
    assert f"process {pid} (cowflush flush) is at work" in vm.console
    assert "NOT ON THE CARD: " in vm.console
    assert first.running() and start.running() and start.output().decode() == waits.format("start")
    vm.throttle(Throttle())
    assert first.wait(60).code == DONE
    started = waits.format("start") + "started already: writes stay in RAM\n"
    assert start.wait(60).ok().text == started
    check_settled(vm)


def test_a_command_that_has_waited_obeys_a_hold_that_began_meanwhile(boot: Lab) -> None:
    vm = logged.start(boot, throttle=Throttle())
    fill(vm)
    vm.run("cowflush flush", timeout=60).ok()
    vm.throttle(STANDS_STILL)
    merge = vm.start("cowflush merge")
    wait_status(vm, '"busy_pid":[0-9]')
    stop = vm.start("cowflush stop")
    stop.wait_output("stop waits for its end")
    vm.run("cowflush hold").ok()
    vm.throttle(Throttle())
    merge.wait(60).ok()
    assert "cannot stop: nothing may reach the card since" in stop.wait(60).exits(FAILED).text
    assert status(vm)["mode"] == "deferring"


def measured(vm: VM, command: str, code: int) -> float:
    """How long a command takes by the guest's clock."""
    clock = "cut -d ' ' -f 1 /proc/uptime"
    script = (
        f"begin=$({clock}); {command} >/run/out 2>&1; code=$?; echo $begin $({clock}); exit $code"
    )
    begin, end = vm.run(script, timeout=60).exits(code).text.split()
    return float(end) - float(begin)


# --- signals -----------------------------------------------------------------------


def test_a_signal_ends_a_flush_but_not_its_merge(boot: Lab) -> None:
    vm = slow_flush(boot)
    for signal in ("INT", "TERM", "HUP"):
        flush = vm.start("exec cowflush flush")
        wait_status(vm, MERGING)
        flush.kill(signal)
        ended = flush.wait(30).exits(INTERRUPTED)
        assert (
            f"cannot wait for the end of the merge: SIG{signal} came. The kernel goes on merging"
            in ended.text
        )
        assert status(vm)["phase"] == "merging"
        vm.throttle(Throttle())
        vm.run("cowflush flush", timeout=60).ok()
        check_settled(vm)
        fill(vm)
        vm.throttle(STANDS_STILL)
    vm.kill()
    vm.card.fsck()
    assert vm.card.read("/root/kept") == b"kept\n"


def merged_since(vm: VM) -> None:
    """Waits until some of the sealed data is merged, on a card that is made a little faster."""
    before = status(vm)["sealed"]
    vm.throttle(Throttle(bytes_per_second=150_000))
    deadline = time.monotonic() + 240
    while (left := status(vm)["sealed"]) == before:
        assert time.monotonic() < deadline, f"{before} are sealed, and it does not get less"
    assert left and left < before


def test_a_shutdown_does_not_end_a_stop(boot: Lab) -> None:
    """A shutdown sends SIGTERM and SIGHUP to every process."""
    vm = slow_flush(boot)
    stop = vm.start("exec cowflush stop")
    wait_status(vm, MERGING)
    stop.kill("TERM")
    stop.kill("HUP")
    # The stop wakes up while the merge goes on, and would have seen the signals.
    merged_since(vm)
    assert stop.running()
    vm.throttle(Throttle())
    assert stop.wait(60).code == DONE
    check_settled(vm, "write-through")


# --- what a shutdown leaves -----------------------------------------------------------


@pytest.mark.kernels("6.1", "6.12")
def test_stop_late_in_a_shutdown(boot: Lab) -> None:
    """A stop with root read-only, with /run gone, and with both."""
    vm = boot()
    for number, before in enumerate(
        ("mount -o remount,ro /", "umount -l /run", "mount -o remount,ro /")
    ):
        vm.run(f"echo kept >/root/kept{number}; {before}").ok()
        assert status(vm)["mode"] == "deferring"
        vm.run("cowflush stop", timeout=60).ok()
        assert status(vm)["mode"] == "write-through" and loops(vm) == []
        vm.run("mount -o remount,rw / && cowflush start", timeout=60).ok()
    vm.kill()
    files = vm.card.fs(replay=True)
    files.fsck()
    for number in range(3):
        assert files.read(f"/root/kept{number}") == b"kept\n"


def test_a_stop_that_has_little_time_comes_back_and_says_what_is_not_on_the_card(boot: Lab) -> None:
    vm = slow_flush(boot)
    # The limit is by the guest's own clock, so a busy host makes no difference.
    limited = "timeout -s KILL 20 cowflush stop --shutdown --within 3"
    seconds = measured(vm, limited, INTERRUPTED)
    assert 2.5 < seconds < 20
    said = vm.console
    assert re.search(r"are in RAM only and go to the card now: DON'T POWER OFF", said)
    left = re.search(r"NOT ON THE CARD: (\d\.\d) MiB that were written since the last flush", said)
    assert left and float(left[1]) > 3, said
    assert "all data are" not in said
    report = status(vm)
    assert report["mode"] == "deferring" and report["pending"] > 3 << 20
    # With enough time the stop finishes, and only then says so.
    vm.throttle(Throttle())
    assert measured(vm, "cowflush stop --shutdown --within 600", DONE) < 300
    assert vm.console.count("all data are on the card.") == 1
    check_settled(vm, "write-through")
    vm.kill()
    files = vm.card.fs(replay=True)
    files.fsck()
    assert files.read("/root/kept") == b"kept\n"


@pytest.mark.thorough
def test_a_stop_that_has_little_time_leaves_the_merge_to_the_next_boot(boot: Lab) -> None:
    vm = logged.start(boot, throttle=Throttle())
    fill(vm)
    assert "to the log on sda2" in logged.flush(vm, 1)
    vm.throttle(STANDS_STILL)
    # Enough to append what a freeze changes to the log, and too little for the merge.
    limited = "timeout -s KILL 40 cowflush stop --shutdown --within 20"
    seconds = measured(vm, limited, INTERRUPTED)
    assert 19 < seconds < 40
    said = vm.console
    assert "all data are safe in the flush log on sda2; it is merged now." in said, said
    # The flush itself leaves this behind: thawing the filesystem changes its superblock.
    assert "NOT ON THE CARD: 4.0 KiB" in said, said
    assert "all data are on the card." not in said
    vm.kill()
    logged.check_card(vm.card, 1, besides=["/root/big"])
    again = boot(vm.card)
    logged.check_state(again, 1)


# --- a hold, and what ends it ------------------------------------------------------------------


AS_INIT = """#!/bin/sh
echo "reboot was asked for with: $*" >/dev/console
cowflush stop --shutdown
echo "stop ended with $?" >/dev/console
exec busybox reboot -f
"""
REFUSES = """#!/bin/sh
echo "reboot refuses" >/dev/console
exit 1
"""


def on_trial(vm: VM, reboot: str) -> None:
    """Writes what must not stay, and installs this `reboot`: busybox's wants another init."""
    vm.run("echo kept >/root/kept; cowflush flush", timeout=60).ok()
    vm.put("/usr/sbin/reboot", reboot.encode(), 0o755)
    vm.run("echo trial >/root/trial; sync").ok()


def test_discard_reboots_by_the_systems_own_command_and_nothing_is_flushed(boot: Lab) -> None:
    vm = boot()
    on_trial(vm, AS_INIT)
    before = vm.cut_copy(boot.directory / "before.img")
    assert vm.run_last("cowflush discard", timeout=60) == "guest-reset"
    assert "reboot was asked for with: \n" in vm.console.replace("\r", "")
    assert "nothing may reach the card since" in vm.console and "stop ended with 0" in vm.console
    assert vm.card.differing_sectors(before) == []
    # Where the system's own command fails, cowflush asks the kernel.
    again = boot(vm.card)
    again.run("[ -e /root/kept ] && [ ! -e /root/trial ]").ok()
    on_trial(again, REFUSES)
    before = again.cut_copy(boot.directory / "before-2.img")
    assert again.run_last("cowflush discard", timeout=60) == "guest-reset"
    assert "reboot refuses" in again.console
    assert vm.card.differing_sectors(before) == []


@pytest.mark.thorough
def test_discard_at_once_asks_nobody(boot: Lab) -> None:
    vm = boot()
    on_trial(vm, AS_INIT)
    before = vm.cut_copy(boot.directory / "before.img")
    assert vm.run_last("cowflush discard --now", timeout=60) == "guest-reset"
    assert "reboot was asked for" not in vm.console
    assert vm.card.differing_sectors(before) == []


def test_there_is_nothing_to_hold_or_discard_while_writes_go_through(boot: Lab) -> None:
    vm = boot()
    vm.run("cowflush stop", timeout=60).ok()
    for command in ("hold", "discard", "discard --now"):
        said = vm.run(f"cowflush {command}").exits(INACTIVE).text
        assert "writes go straight to the card now. `cowflush start` keeps them in RAM" in said
    assert vm.run("cowflush release").ok().text == "nothing was held\n"
    vm.run("cowflush start").ok()
    for command in ("hold", "release", "discard", "discard --now"):
        said = vm.run(f"{AS_NOBODY} cowflush {command}").exits(FAILED).text
        assert "only root may. Run this as root." in said
    assert status(vm)["held_since"] is None
    # A stop by hand must not decide what happens to a trial.
    vm.run("cowflush hold").ok()
    before = vm.card_stats().wr_operations
    said = vm.run("echo x >/root/x; sync; cowflush stop").exits(FAILED).text
    assert "nothing may reach the card since" in said and "cowflush discard" in said
    assert vm.card_stats().wr_operations == before and status(vm)["mode"] == "deferring"


def test_neither_merge_nor_start_writes_during_a_hold_and_one_of_an_earlier_boot_is_none(
    boot: Lab,
) -> None:
    vm = logged.start(boot)
    logged.flush(vm, 1)
    vm.run("cowflush hold").ok()
    before = vm.card_stats()
    said = vm.run("cowflush merge", timeout=60).exits(FAILED).text
    assert "cannot merge: nothing may reach the card since" in said
    # A service's first command: nothing is left to start, so that is not a failure.
    assert "started already" in vm.run("cowflush start", timeout=60).ok().text
    assert (vm.card_stats() - before).wr_operations == 0
    # Where /run is on root, its notes survive the boot.
    vm.run("sed -i s/^boot=.*/boot=another/ /run/cowflush/hold").ok()
    assert status(vm)["held_since"] is None
    vm.run("cowflush merge", timeout=60).ok()


# --- who calls ------------------------------------------------------------------------


def test_a_user_sees_the_mode_and_nothing_else(boot: Lab) -> None:
    vm = boot()
    vm.run("cowflush flush; echo secret >/root/secret; sync").ok()
    text = vm.run(f"{AS_NOBODY} cowflush status").ok().text
    assert "deferring: writes stay in RAM, sda1 is only read" in text
    assert "how much is used only root can see" in text
    report = jsondoc.parse("status", vm.run(f"{AS_NOBODY} cowflush status --json").ok().output)
    assert (report["mode"], report["card"], report["cow_used"], report["pending"]) == (
        "deferring",
        "sda1",
        None,
        None,
    )
    nodes = vm.run("ls /dev/loop[0-9]* /dev/dm-* /dev/sda* /dev/mapper/control").ok().text.split()
    assert len(nodes) >= 7
    for node in nodes:
        refused = vm.run(f"{AS_NOBODY} dd if={node} of=/dev/null count=1 2>&1").exits(1).text
        assert "Permission denied" in refused, node
    assert vm.run("find / -xdev -name 'cowflush-*'; find /run -name 'cowflush-*'").text == ""
    for command in ("flush", "stop", "start", "check", "merge", "log"):
        assert re.search(
            r"(?i)run .*as root|permission denied",
            vm.run(f"{AS_NOBODY} cowflush {command}").exits(FAILED).text,
        ), command
    # A user who may not read the log does not learn what is in it.
    vm.run("cowflush log format /dev/sda2; echo x >/root/x; cowflush flush").ok()
    report = jsondoc.parse("status", vm.run(f"{AS_NOBODY} cowflush status --json").ok().output)
    unknown = {"state": "", "segments": None, "used_percent": None}
    assert report["log"] == {"partition": "sda2"} | unknown
    history = jsondoc.parse("history", vm.run(f"{AS_NOBODY} cowflush history --json").ok().output)
    assert history["life"] is None and len(history["flushes"]) == 2


# --- what they print --------------------------------------------------------------------


def kib(vm: VM, field: str) -> int:
    return memory(vm, field) << 10


def test_what_is_printed_is_documented_and_true(boot: Lab) -> None:
    """Without a flush log: compares cowflush's figures with QEMU's for the card, and the kernel's."""
    vm = boot()
    # The COW is large, so the kernel may let programs fill it at full speed.
    assert vm.get(THRESHOLD) == b"2048\n"
    report = status(vm)
    assert (report["version"], report["mode"], report["phase"]) == (1, "deferring", "idle")
    assert (report["card"], report["sealed"], report["busy_pid"]) == ("sda1", None, None)
    assert report["boot"] == {"mode": "deferring", "reason": ""} and report["last_flush"] is None
    assert (report["log"], report["log_kept"]) == (None, "")
    assert (report["spill"], report["held_since"], report["daemon"]) == (None, None, None)
    assert report["reached_card"] == {"requests": 0, "bytes": 0} and vm.card_stats().wr_bytes == 0
    # 40 % of the RAM, and the slack of its device
    expected = kib(vm, "MemTotal") * 40 // 100
    assert expected - (1 << 20) < report["cow_size"] < expected + (9 << 20)
    vm.run("dd if=/dev/urandom of=/root/big bs=4k count=64 2>&1; sync").ok()
    after = status(vm)
    assert 64 << 12 < after["pending"] < after["cow_used"] < 2 << 20
    assert after["absorbed"]["bytes"] - report["absorbed"]["bytes"] >= 64 << 12
    assert after["reached_card"] == {"requests": 0, "bytes": 0} and vm.card_stats().wr_bytes == 0

    records = []
    for command in ("flush", "stop"):
        clock = int(
            vm.run(f"cowflush start; date +%s; echo {command} >/root/x; sync").ok().text.split()[-1]
        )
        before = vm.card_stats()
        done = jsondoc.parse(command, vm.run(f"cowflush {command} --json", timeout=60).ok().output)
        got = vm.card_stats() - before
        record = done["flush"]
        assert (done["card"], done["complete"]) == ("sda1", True)
        assert (record["command"], record["reason"], record["not_pruned"]) == (command, "", "")
        assert clock <= record["when"] <= int(vm.run("date +%s").ok().text)
        assert record["logged"] == record["log_ms"] == 0 and record["bytes"] == record["merged"] > 0
        assert 0 < record["stall_us"] <= (record["took_ms"] + 1) * 1000
        assert record["merge_ms"] <= record["took_ms"]
        if command == "flush":
            assert got.wr_bytes == record["merged"]
        now = status(vm)
        assert now["last_flush"] == record
        assert now["reached_card"]["bytes"] == vm.card_stats().wr_bytes
        records.append(record)
    assert status(vm)["mode"] == "write-through" and status(vm)["cow_size"] is None
    nothing = {"card": "sda1", "complete": True, "refused": "", "flush": None}
    assert jsondoc.parse("stop", vm.run("cowflush stop --json").ok().output) == nothing
    history = jsondoc.parse("history", vm.run("cowflush history --json").ok().output)
    assert history["version"] == 1 and history["life"] is None
    first, *stops = history["flushes"]
    assert first == records[0] and {flush["command"] for flush in stops} == {"stop"}
    # A stop prints all that it flushed, one flush after the other.
    for key in ("bytes", "merged", "pruned"):
        assert sum(flush[key] for flush in stops) == records[1][key], key


def checked(vm: VM) -> dict[str, tuple[str, str, str]]:
    """What `check` says of each item: state, finding and advice."""
    report = jsondoc.parse("check", vm.run("cowflush check --json").ok().output)
    assert report["complete"] is True
    for item in report["items"]:
        # An item that is as it should be needs no advice; a note may be for information only.
        assert item["state"] != "found" or item["advice"] == "", item
    items = {
        item["name"]: (item["state"], item["found"], item["advice"]) for item in report["items"]
    }
    text = vm.run("cowflush check").ok().text
    assert text.endswith("cowflush can work here.\n")
    for name, (state, found, advice) in items.items():
        # The available memory changes all the time.
        shown = found.split(",")[0] if name == "memory" else f"{found}\n"
        assert f"{state:<8} {name:<16} {shown}" in text
        assert not advice or f"-> {advice}\n" in text
    return items


def test_check_knows_this_machine_and_advises(boot: Lab) -> None:
    vm = boot()
    items = checked(vm)
    assert set(items) == {
        "device-mapper", "linear", "snapshot", "snapshot-merge", "loop devices", "tmpfs", "memory", "memory limits", "card",
        "write cache", "flush log", "reads", "journal commits",
    }  # fmt: skip
    for name in ("device-mapper", "linear", "snapshot", "snapshot-merge"):
        assert re.fullmatch(r"version \d+\.\d+\.\d+", items[name][1]), items[name]
    assert items["loop devices"] == ("found", "with LOOP_CONFIGURE", "")
    assert items["card"] == ("found", "sda1, ext4 of 120.0 MiB", "")
    assert items["write cache"] == ("found", "the card has one; it is flushed", "")
    assert items["memory"][0] == "found"
    assert items["memory limits"] == ("found", "the COW counts against no process's", "")
    assert items["flush log"][0] == "note" and "log --help" in items["flush log"][2]
    assert items["reads"][:2] == (
        "found",
        "are seldom writes; noatime would spare 3 % of a day's erases",
    )
    assert items["journal commits"] == ("found", "every 5 s", "")

    vm.put("/etc/cowflush.conf", b"prune=off\nsize=64K\n")
    vm.run("cowflush log format /dev/sda2 && mount -o remount,strictatime /").ok()
    vm.run("echo 'write through' >/sys/block/sda/queue/write_cache").ok()
    items = checked(vm)
    assert items["flush log"] == ("found", "sda2, in use", "")
    assert items["reads"] == ("note", "are writes, too", "Mount root with noatime.")
    assert items["journal commits"][:2] == ("note", "every 5 s")
    assert items["write cache"] == ("found", "the card reports none", "")
    assert items["memory"][0] == "note" and "That fills up fast." in items["memory"][2]
    vm.run("mount -o remount,noatime,commit=1800 /").ok()
    items = checked(vm)
    assert items["reads"] == ("found", "are no writes", "")
    assert items["journal commits"] == ("found", "every 1800 s", "")
    before = memory(vm, "Shmem")
    said = vm.run("guest-tools deny --ioctl 4C0A --errno 22 cowflush check").ok().text
    assert "without LOOP_CONFIGURE; two older requests do the same" in said
    assert memory(vm, "Shmem") == before


def test_check_on_the_plain_card_without_a_journal(boot: Lab) -> None:
    vm = boot(filesystem=Filesystem(kind="ext2"), append="cowflush=off")
    items = checked(vm)
    assert items["card"][:2] == ("note", "sda1, ext2 of 120.0 MiB without a journal")
    assert "tune2fs -j adds a journal" in items["card"][2]
    assert items["stack"][:2] == ("note", "root is not on one now")
    assert "journal commits" not in items
    assert status_of_plain(vm) == {
        "mode": "off",
        "reason": "cowflush=off on the kernel command line",
    }
    for command in ("flush", "stop", "start", "merge", "hold", "discard", "flush --direct"):
        said = vm.run(f"cowflush {command}").exits(INACTIVE).text
        assert "root is not on a cowflush stack" in said, command
    # A shutdown has nothing to do, and reports no failure.
    assert vm.run("cowflush stop --shutdown --within 5").ok().text == ""


def status_of_plain(vm: VM) -> dict[str, str]:
    report = jsondoc.parse("status", vm.run("cowflush status --json").exits(INACTIVE).output)
    assert report["mode"] == "inactive"
    boot: dict[str, str] = report["boot"]
    return boot


@pytest.mark.thorough
def test_who_watches_sees_each_change_and_ends_with_the_terminal(boot: Lab) -> None:
    vm = boot()
    begin = float(vm.get("/proc/uptime").split()[0])
    watch = vm.start("exec cowflush status --watch --json")
    watch.wait_output('"mode":"deferring"')
    vm.run("echo x >/root/x; cowflush stop", timeout=60).ok()
    watch.wait_output('"mode":"write-through"')
    vm.run("cowflush start; echo y >/root/y; cowflush flush", timeout=60).ok()
    watch.wait_output('"command":"flush"')
    watch.kill("INT")
    code = watch.wait(30).code
    assert code != DONE
    lines = watch.output().decode().splitlines()
    reports = [jsondoc.parse("status", f"{line}\n") for line in lines]
    modes = [report["mode"] for report in reports]
    assert modes[0] == modes[-1] == "deferring" and "write-through" in modes
    # One line a second, not as many as it can
    assert len(lines) <= float(vm.get("/proc/uptime").split()[0]) - begin + 1
    # It ends by itself when its reader goes away.
    vm.run("cowflush status --watch | head -n 1", timeout=30).ok()
    vm.until("! pidof cowflush")


def test_a_reader_that_goes_away_stops_nothing(boot: Lab) -> None:
    """The pipe is closed before the first byte, and standard error's, too.

    The flush is still done, and in syslog.
    """
    vm = boot()
    vm.run("syslogd -O /run/log; until [ -S /dev/log ]; do sleep 0.05; done").ok()
    vm.run("mkfifo /run/gone").ok()
    for command in (
        "status",
        "check",
        "history",
        "log",
        "flush",
        "merge",
        "stop",
        "start",
        "--help",
    ):
        vm.run(f"echo '{command}' >/root/kept; sync").ok()
        # The fifo's reader has gone before the command begins: each write to it fails.
        script = f"""
        exec 3<>/run/gone 4>/run/gone 3<&-
        cowflush {command} >&4 2>&4
        """
        vm.run(script, timeout=60).ok()
    vm.run("cowflush flush >/dev/full 2>/dev/full && cowflush status >&- 2>&-", timeout=60).ok()
    said = vm.run("echo x >/root/x; cowflush flush").ok().text.strip()
    vm.until(f"grep -qF '{said}' /run/log")
    lines = [line for line in vm.get("/run/log").decode().splitlines() if "cowflush" in line]
    assert re.search(rf"daemon\.notice cowflush\[\d+\]: {re.escape(said)}$", lines[-1]), lines
    flushes = [line for line in lines if re.search(r"\]: (flushed|stopped, flushed) to ", line)]
    assert len(flushes) == 4, lines
    vm.kill()
    assert vm.card.read("/root/kept") == b"--help\n"


# --- old kernels ---------------------------------------------------------------------------


MISSING = {
    "--ioctl 4C0A --errno 22": "LOOP_CONFIGURE, since 5.8",
    "--call 430 --errno 38": "fsopen, since 5.2",
}


@pytest.mark.thorough
def test_a_kernel_without(boot: Lab) -> None:
    vm = boot()
    before = memory(vm, "Shmem")
    for missing, calls in MISSING.items():
        for round_ in range(3):
            script = f"echo {calls} {round_} >/root/x; guest-tools deny {missing} cowflush flush"
            said = vm.run(script, timeout=60).ok().text
            denied = re.search(r"^denied (\d+) calls", said, re.MULTILINE)
            assert denied and int(denied[1]) > 0, f"{calls} was never called: {said}"
            check_settled(vm)
        assert "cowflush" not in vm.run("cat /proc/mounts").ok().text.replace(
            "/dev/mapper/cowflush-root", ""
        )
        assert memory(vm, "Shmem") - before < 1024
    vm.kill()
    vm.card.fsck()
    assert vm.card.read("/root/x") == b"fsopen, since 5.2 2\n"


@pytest.mark.thorough
@pytest.mark.kernels(f"6.1{artefacts.X86_64}")
def test_process_1_of_a_container_mounts_nothing_where_others_see_it(boot: Lab) -> None:
    """Without fsopen cowflush mounts a tmpfs for an instant, in a mount namespace of its own.

    Only the machine's init does it in the common one. Here cowflush can get no other namespace.
    (The small kernels have no containers.)
    """
    vm = boot()
    vm.run("echo x >/root/x").ok()
    denied = "guest-tools deny --call 430 --call 272 --errno 38 cowflush flush"
    # The first child after this `unshare` is process 1: the denied command, not the program that
    # denies.
    for first in (denied, f"unshare -p {denied}"):
        said = vm.run(f"{first} 2>&1").exits(1).text
        assert "cannot make a file in RAM for cowflush-cow: Function not implemented" in said, said
        assert "denied 2 calls" in said
    vm.run("cowflush flush").ok()
    check_settled(vm)


def test_nothing_to_do(boot: Lab) -> None:
    """On a read-only root: thawing a writable one writes its superblock, so it is never empty."""
    vm = boot()
    vm.run("mount -o remount,ro / && cowflush flush", timeout=60).ok()
    before = vm.card_stats()
    assert vm.run("cowflush flush").ok().text == "nothing to flush: the card is up to date\n"
    nothing = {"card": "sda1", "complete": True, "refused": "", "flush": None}
    assert jsondoc.parse("flush", vm.run("cowflush flush --json").ok().output) == nothing
    assert vm.run("cowflush start").ok().text == "started already: writes stay in RAM\n"
    assert (vm.card_stats() - before).wr_operations == 0
    vm.run("cowflush stop").ok()
    assert vm.run("cowflush stop").ok().text == "stopped already: writes go to the card\n"


@pytest.mark.kernels(*artefacts.EVERYWHERE)
def test_a_small_cow_is_filled_slowly(boot: Lab) -> None:
    """The kernel gets this setting while writes are deferred, and only then."""
    vm = boot(append="cowflush.size=16M")
    assert vm.get(THRESHOLD) == b"4\n"
    vm.run("dd if=/dev/zero of=/root/big bs=64k count=100 2>/dev/null; cowflush flush").ok()
    assert vm.get(THRESHOLD) == b"4\n"
    vm.run("cowflush stop").ok()
    assert vm.get(THRESHOLD) == b"2048\n"
    vm.run("cowflush start").ok()
    assert vm.get(THRESHOLD) == b"4\n"
