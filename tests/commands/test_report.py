"""What a person sees: history, status, figures for Prometheus, an LED."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any, NamedTuple

import pytest

from harness import Throttle, artefacts
from harness.lab import Lab
from harness.light import make_light, shows
from harness.machine import VM
from product.daemon import QUIET, field, signal, wait_for
from product.daemon import start as daemon
from product.flushlog import CHUNK, RECORD, FlushLog, Segment
from product.router import status

FIGURES = "/run/node/cowflush.prom"
CARD_FAILS = 5
MIB = 1 << 20


def history(vm: VM) -> list[dict[str, Any]]:
    report = json.loads(vm.run("cowflush history --json").ok().output)
    assert report["version"] == 1
    flushes: list[dict[str, Any]] = report["flushes"]
    return flushes


def asked_flush(vm: VM, name: str) -> None:
    before = len(history(vm))
    vm.run(
        f"dd if=/dev/urandom of=/root/{name} bs=64k count=4 2>&1; sync; killall -USR1 cowflush"
    ).ok()
    vm.until(f"[ $(cowflush history | wc -l) -gt {before} ]")


# --- history ---------------------------------------------------------------------------


def test_history_tells_when_why_and_how_much(boot: Lab) -> None:
    vm = boot()
    assert vm.run("cowflush history").ok().text == "" and history(vm) == []
    daemon(vm, QUIET)
    asked_flush(vm, "one")
    flushes = history(vm)
    assert [(flush["command"], flush["reason"]) for flush in flushes] == [
        ("flush", ""),
        ("daemon", "asked"),
    ]
    assert flushes[1]["bytes"] >= 256 << 10 and flushes[1]["stall_us"] > 0
    assert status(vm)["last_flush"] == flushes[1]
    assert "(asked)" in vm.run("cowflush status").ok().text
    lines = vm.run("cowflush history").ok().text.splitlines()
    assert (
        len(lines) == 2
        and " flush " in lines[0]
        and " asked " in lines[1]
        and "#" not in "".join(lines)
    )


@pytest.mark.thorough
def test_history_has_a_plot_on_a_terminal(boot: Lab) -> None:
    vm = boot()
    vm.run("dd if=/dev/urandom of=/root/big bs=64k count=32 2>&1; cowflush flush; sync").ok()
    vm.run(
        "echo x >/root/x; cowflush flush; stty -F /dev/ttyS0 cols 109; cowflush history >/dev/ttyS0"
    ).ok()
    vm.wait_console(
        r"(?s)flushed at +why +bytes +pruned +took +waited.* UTC flush .* UTC flush [^\n]*\n"
    )
    large, small = [line for line in vm.console.splitlines() if " UTC flush " in line]
    bar = "#" * 10
    assert f"MiB {bar} " in large and bar not in small.split(" s ")[0], (large, small)
    assert len(large.rstrip()) <= 109


@pytest.mark.thorough
def test_history_outlives_nothing_and_needs_no_run(boot: Lab) -> None:
    vm = boot()
    vm.run("echo x >/root/x; cowflush flush", timeout=60).ok()
    assert len(history(vm)) == 1
    # Where cowflush can write no note, a flush still works.
    vm.run("mount -t tmpfs -o ro none /run; echo y >/root/y").ok()
    assert "flushed to sda1" in vm.run("cowflush flush", timeout=60).ok().text
    assert history(vm) == [] and vm.run("cowflush history").ok().text == ""
    vm.kill()
    assert vm.card.read("/root/y") == b"y\n"
    again = boot(vm.card)
    assert history(again) == [] and status(again)["last_flush"] is None


# --- status ----------------------------------------------------------------------------


def test_status_tells_of_the_daemon_and_of_a_hold(boot: Lab) -> None:
    vm = boot()
    assert status(vm)["daemon"] is None and status(vm)["held_since"] is None
    assert "not running: flushes come by hand only" in vm.run("cowflush status").ok().text
    daemon(vm, QUIET.replace("interval=off", "interval=2h"))
    report = status(vm)["daemon"]
    assert report["pid"] == int(field(vm, "Pid"))
    assert (
        report["next_flush"]["reason"] == "interval"
        and 7100 < report["next_flush"]["seconds"] <= 7200
    )
    assert re.search(
        r"next flush in (1 h 59|2 h 0) min \(interval\)", vm.run("cowflush status").ok().text
    )
    # A flush by hand counts: the interval begins anew.
    vm.until("cowflush status --json | grep -q '\"seconds\":719[0-8],'")
    vm.run("echo x >/root/x; cowflush flush", timeout=60).ok()
    vm.until("cowflush status --json | grep -q '\"seconds\":\\(7199\\|7200\\),'")
    assert vm.get(f"/proc/{report['pid']}/oom_score_adj") == b"-1000\n"
    vm.run("cowflush hold").ok()
    assert status(vm)["held_since"] == int(
        vm.run("sed -n s/since=//p /run/cowflush/hold").ok().text
    )
    text = vm.run("cowflush status").ok().text
    assert "held       since " in text and "a full COW would end the hold" in text
    vm.run("cowflush release").ok()
    signal(vm, "KILL")
    vm.until("! pidof cowflush")
    assert status(vm)["daemon"] is None and status(vm)["held_since"] is None


@pytest.mark.thorough
def test_status_watch(boot: Lab) -> None:
    vm = boot()
    lines = vm.run("cowflush status --watch | head -n 3", timeout=30).ok().text.splitlines()
    assert (
        len(lines) == 3
        and len(set(lines)) == 3
        and all(" deferring idle: RAM " in line for line in lines)
    )
    objects = (
        vm.run("cowflush status --watch --json | head -n 2", timeout=30).ok().text.splitlines()
    )
    assert [json.loads(line)["mode"] for line in objects] == ["deferring"] * 2
    vm.until("! pidof cowflush")
    watch = vm.start("cowflush status --watch >/dev/ttyS0")
    vm.wait_console("(?s)mode       deferring.*mode       deferring", timeout=30)
    watch.kill()
    vm.run("cowflush stop", timeout=60).ok()


# --- what they say beside what QEMU saw -----------------------------------------------------


class Bytes(NamedTuple):
    """Bytes written since boot.

    QEMU counts those to the card, `cowflush status` those to root's partition and by root.
    """

    card: int
    reached: int
    absorbed: int

    @classmethod
    def now(cls, vm: VM) -> Bytes:
        report = status(vm)
        return cls(
            vm.card_stats().wr_bytes, report["reached_card"]["bytes"], report["absorbed"]["bytes"]
        )

    def until_now(self, vm: VM) -> Bytes:
        return Bytes(*(now - before for now, before in zip(Bytes.now(vm), self, strict=True)))


def second_reader(boot: Lab, vm: VM) -> FlushLog:
    """The log's content, by a reader that shares nothing with the program."""
    return FlushLog(vm.cut_copy(boot.directory / "cut.img"))


def on_card(segment: Segment) -> int:
    """The bytes of an append: head and table, data, commit record."""
    head = -(-(RECORD + segment.table_bytes) // CHUNK)
    return (head + len(segment.olds) + 1) * CHUNK


def a_flush(vm: VM, name: str) -> dict[str, Any]:
    """Flushes a file of half a MiB, and deletes an unflushed one of 1 MiB."""
    vm.run(
        f"""
        head -c {MIB} /dev/urandom >/root/dropped && head -c {MIB // 2} /dev/urandom >/root/{name} && sync &&
        rm /root/dropped && sync"""
    ).ok()
    pending = status(vm)["pending"]
    done: dict[str, Any] = json.loads(vm.run("cowflush flush --json", timeout=60).ok().output)
    flush: dict[str, Any] = done["flush"]
    assert MIB // 2 <= flush["bytes"] < MIB and flush["pruned"] >= MIB, flush
    # A freeze adds little: the filesystem's superblock.
    assert 0 <= flush["bytes"] + flush["pruned"] - pending <= 8 * CHUNK, (flush, pending)
    return flush


@pytest.mark.kernels("6.1", "6.12")
def test_figures_are_what_the_card_got(boot: Lab) -> None:
    vm = boot()
    before = Bytes.now(vm)
    assert before.reached == before.card, "since boot"

    # Root's writes are not the card's.
    vm.run(f"head -c {2 * MIB} /dev/urandom >/root/first; sync").ok()
    moved = before.until_now(vm)
    assert moved.card == moved.reached == 0 and moved.absorbed >= 2 * MIB
    vm.run("cowflush flush").ok()

    # Without a log a flush merges, and the card gets exactly that.
    before = Bytes.now(vm)
    flushes = [a_flush(vm, "one")]
    moved = before.until_now(vm)
    assert flushes[0]["merged"] == flushes[0]["bytes"] and flushes[0]["logged"] == 0
    assert moved.card == moved.reached == flushes[0]["merged"] < moved.absorbed

    # With a log it appends; the records around the data do not count as data.
    vm.run("cowflush log format /dev/sda2").ok()
    for name in ("two", "three"):
        before = Bytes.now(vm)
        flushes.append(flush := a_flush(vm, name))
        moved = before.until_now(vm)
        last = second_reader(boot, vm).segments[-1]
        assert flush["merged"] == 0 and flush["logged"] == flush["bytes"] == len(last.olds) * CHUNK
        assert moved.card == on_card(last) > flush["logged"] and moved.reached == 0
    assert history(vm)[1:] == flushes and status(vm)["last_flush"] == flushes[-1]
    log = json.loads(vm.run("cowflush log --json").ok().output)
    logged = [flush["logged"] for flush in flushes[1:]]
    assert [segment["bytes"] for segment in log["segments"]] == logged
    reader = second_reader(boot, vm)
    assert log["used"] == reader.used() * CHUNK >= sum(map(on_card, reader.segments))

    # A merge writes each chunk once, even one that two flushes wrote, and both copies of the log's
    # header.
    before = Bytes.now(vm)
    merge = json.loads(vm.run("cowflush merge --json", timeout=60).ok().output)
    moved = before.until_now(vm)
    assert moved.reached == merge["merged"] > 0 and moved.card == moved.reached + 2 * CHUNK
    assert merge["merged"] + merge["pruned"] == len(reader.live()) * CHUNK < sum(logged)

    # Sums are those of the parts, and a failed flush is not counted.
    daemon(vm, QUIET + f"metrics={FIGURES}\n")
    vm.until(f"[ -e {FIGURES} ]")
    every = history(vm)
    logged += [every[-1]["logged"]]
    wanted = {
        "flushed_bytes_total": sum(flush["bytes"] for flush in every),
        "pruned_bytes_total": sum(flush["pruned"] for flush in every),
        'flushes_total{reason="flush"}': len(every),
        "flush_failures_total": 0,
        "log_segments": 1,
        "log_flushes_total": len(logged),
        "log_flushed_bytes_total": sum(logged),
        "log_merges_total": 1,
        "log_merged_bytes_total": merge["merged"],
    }
    samples = parsed(vm.get(FIGURES).decode())
    assert {name: samples[f"cowflush_{name}"] for name in wanted} == wanted
    vm.run("echo x >/root/x; sync").ok()
    vm.fail_writes()
    vm.run("cowflush flush", timeout=60).exits(CARD_FAILS)
    vm.heal()
    assert history(vm) == every
    asked_flush(vm, "four")
    vm.until(f"grep -q asked {FIGURES}")
    assert parsed(vm.get(FIGURES).decode())["cowflush_flush_failures_total"] == 1
    signal(vm, "TERM")
    vm.until("! pidof cowflush")

    # A stop merges everything, and from then on root's writes are the card's.
    before = Bytes.now(vm)
    stop = json.loads(vm.run("cowflush stop --json", timeout=60).ok().output)["flush"]
    moved = before.until_now(vm)
    assert stop["merged"] > 0 and 0 <= moved.reached - stop["merged"] <= 8 * CHUNK, (moved, stop)
    before = Bytes.now(vm)
    vm.run(f"head -c {MIB} /dev/urandom >/root/last; sync").ok()
    moved = before.until_now(vm)
    assert moved.card == moved.reached == moved.absorbed >= MIB


def test_what_a_flush_failed_to_write_is_counted_when_it_is_written(boot: Lab) -> None:
    vm = boot()
    vm.run("cowflush log format /dev/sda2").ok()
    vm.run(f"head -c {MIB} /dev/urandom >/root/first; sync").ok()
    vm.fail_writes()
    vm.run("cowflush flush", timeout=60).exits(CARD_FAILS)
    vm.heal()
    vm.run("echo x >/root/x; cowflush flush", timeout=60).ok()
    wrote = sum(len(segment.olds) * CHUNK for segment in second_reader(boot, vm).segments)
    assert wrote > MIB and sum(flush["bytes"] for flush in history(vm)) == wrote


# --- figures for Prometheus --------------------------------------------------------------


def figures(vm: VM) -> dict[str, float]:
    """The file's figures, which must pass promtool."""
    text = vm.get(FIGURES)
    promtool = artefacts.promtool()
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True)
    assert checked.returncode == 0 and not checked.stderr + checked.stdout, checked
    return parsed(text.decode())


def parsed(text: str) -> dict[str, float]:
    samples = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in samples}


@pytest.mark.thorough
def test_promtool_would_complain() -> None:
    """The check of the figures can fail."""
    bad = b"# TYPE cowflush_x counter\ncowflush_x 1\n"
    checked = subprocess.run(
        [artefacts.promtool(), "check", "metrics"], input=bad, capture_output=True
    )
    assert checked.returncode != 0 and b"cowflush_x" in checked.stderr


@pytest.mark.thorough
def test_figures_follow_the_flushes(boot: Lab) -> None:
    vm = boot()
    vm.run("cowflush log format /dev/sda2").ok()
    daemon(vm, QUIET + f"metrics={FIGURES}\n")
    vm.until(f"[ -e {FIGURES} ]")
    before = figures(vm)
    assert before['cowflush_mode{mode="deferring"}'] == 1 and before["cowflush_held"] == 0
    assert before['cowflush_flushes_total{reason="flush"}'] == before["cowflush_log_segments"] == 1
    asked_flush(vm, "one")
    vm.until(f"grep -q asked {FIGURES}")
    after = figures(vm)
    assert (
        after['cowflush_flushes_total{reason="asked"}'] == 1 and after["cowflush_log_segments"] == 2
    )
    assert (
        after["cowflush_flushed_bytes_total"] - before["cowflush_flushed_bytes_total"] >= 256 << 10
    )
    last = history(vm)[-1]
    assert after["cowflush_last_flush_timestamp_seconds"] == last["when"]
    assert after["cowflush_last_flush_stall_seconds"] == pytest.approx(last["stall_us"] / 1e6)
    assert 0 < after["cowflush_cow_used_bytes"] < after["cowflush_cow_size_bytes"]
    assert vm.run("ls -A /run/node").ok().text.split() == ["cowflush.prom"]
    vm.run("cowflush hold").ok()
    vm.until(f"grep -q 'cowflush_held 1' {FIGURES}")
    signal(vm, "TERM")
    vm.until("! pidof cowflush")
    vm.run(f"ls {FIGURES}").fails()


# --- a light -------------------------------------------------------------------------------


@pytest.mark.thorough
def test_a_light_shows_pending_flushing_and_trouble(boot: Lab) -> None:
    vm = boot(throttle=Throttle())
    make_light(vm)
    daemon(vm, QUIET + "led=test:light\n")
    vm.run("echo x >/root/x; sync").ok()
    shows(vm, "timer", "delay_off", 1800)
    vm.run("dd if=/dev/urandom of=/root/big bs=64k count=64 2>&1; sync").ok()
    vm.throttle(Throttle(bytes_per_second=500_000))
    vm.run("killall -USR1 cowflush").ok()
    shows(vm, "none", "brightness", 9)
    vm.throttle(Throttle())
    wait_for(vm, "(asked)")
    vm.fail_writes()
    vm.run("echo y >/root/y; sync; killall -USR1 cowflush").ok()
    wait_for(vm, "failed")
    shows(vm, "timer", "delay_off", 100)
    vm.heal()
    shows(vm, "none", "brightness", 0)
    signal(vm, "TERM")


@pytest.mark.thorough
def test_what_is_not_there_is_said_once(boot: Lab) -> None:
    vm = boot()
    daemon(vm, QUIET + "led=nowhere\nmetrics=/proc/nowhere/x.prom\n")
    for flushes in range(1, 4):
        # Each time the LED would change twice, and the daemon would write the figures.
        vm.run(f"echo {flushes} >/root/x; sync").ok()
        signal(vm, "USR1")
        wait_for(vm, "(asked)", flushes)
    signal(vm, "TERM")
    vm.until("! pidof cowflush")
    said = wait_for(vm, "can't be used")
    assert said.count("the light nowhere can't be used: No such file or directory. led=") == 1, said
    assert said.count("can't be written to /proc/nowhere/x.prom") == 1, said
