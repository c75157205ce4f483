"""What people get to see: history, status, figures for Prometheus, a light."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
from vm import Throttle, artefacts
from vm.daemon import QUIET, field, signal, wait_for
from vm.daemon import start as daemon
from vm.lab import Lab
from vm.machine import VM
from vm.router import status

FIGURES = "/run/node/cowflush.prom"
LIGHT = "/sys/class/leds/test:light"


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


def test_history_outlives_nothing_and_needs_no_run(boot: Lab) -> None:
    vm = boot()
    vm.run("echo x >/root/x; umount -l /run; mount -o remount,ro /run 2>/dev/null; true").ok()
    vm.run("cowflush flush", timeout=60).ok()
    vm.kill()
    assert vm.card.read("/root/x") == b"x\n"


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


# --- figures for Prometheus --------------------------------------------------------------


def figures(vm: VM) -> dict[str, float]:
    """The file, which promtool must like."""
    text = vm.get(FIGURES)
    promtool = artefacts.promtool()
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True)
    assert checked.returncode == 0 and not checked.stderr + checked.stdout, checked
    samples = [
        line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#")
    ]
    return {name: float(value) for name, value in samples}


def test_promtool_would_complain() -> None:
    """The check of the figures can fail."""
    bad = b"# TYPE cowflush_x counter\ncowflush_x 1\n"
    checked = subprocess.run(
        [artefacts.promtool(), "check", "metrics"], input=bad, capture_output=True
    )
    assert checked.returncode != 0 and b"cowflush_x" in checked.stderr


@pytest.mark.kernels("6.1", "6.12")
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


def make_light(vm: VM) -> None:
    """A light of the kernel's own, for as long as its maker keeps the file open (uleds.h)."""
    vm.put("/run/light", b"test:light".ljust(64, b"\0") + (9).to_bytes(4, "little"))
    vm.run("(exec 3<>/dev/uleds; cat /run/light >&3; exec sleep 10000) >/dev/null 2>&1 &").ok()
    vm.until(f"[ -e {LIGHT}/trigger ]")


def shows(vm: VM, trigger: str, file: str, value: int) -> None:
    vm.until(f"grep -qF '[{trigger}]' {LIGHT}/trigger && [ $(cat {LIGHT}/{file}) = {value} ]")


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


def test_what_is_not_there_is_said_once(boot: Lab) -> None:
    vm = boot()
    daemon(vm, QUIET + "led=nowhere\nmetrics=/proc/nowhere/x.prom\n")
    vm.run(
        "cowflush hold && sleep 3; echo x >/root/x; sync; sleep 2; cowflush release; sleep 2"
    ).ok()
    lines = vm.run("cat /run/daemon.log").ok().text.splitlines()
    assert (
        len([line for line in lines if "the light nowhere can't be used: No such file" in line])
        == 1
    ), lines
    assert (
        len([line for line in lines if "can't be written to /proc/nowhere/x.prom" in line]) == 1
    ), lines
