"""The daemon: memory, wake-ups, CPU share, and how soon a change under /etc is durable."""

from __future__ import annotations

import re
import statistics
from typing import Any

from bench import cards
from bench.output import Row
from harness.lab import Lab
from harness.machine import VM
from product import daemon

# The defaults, without the flushes that would fall into the measured time by chance.
CONFIG = "size=32M\ninterval=off\n"
AIM_RSS_KIB = 500
URGENT_DELAY_SECONDS = 2.0
CHANGES = 7
SETTLE_SECONDS = 5
# A router's log daemon writes some lines a second and syncs each. The flood fills the COW again and
# again.
STATES = {
    "idle": "sleep {seconds}",
    "lines": "guest-tools writer /root/lines --seconds {seconds} --pause 50000 >/dev/null",
    "flood": "guest-tools flood /root/flood --places 512 --seconds {seconds} >/dev/null",
}


def measure(lab: Lab, seconds: int) -> dict[str, Any]:
    vm = lab(append="tsc=reliable", throttle=cards.FAST.throttle)
    daemon.start(vm, CONFIG, log=True)
    vm.run(f"sleep {SETTLE_SECONDS}").ok()
    figures: dict[str, Any] = {"seconds": seconds, "states": {}}
    for state, work in STATES.items():
        figures["states"][state] = _watched(vm, work.format(seconds=seconds), seconds)
    # After all that work the daemon is idle again.
    vm.run(f"sleep {SETTLE_SECONDS}").ok()
    figures["memory"] = _memory(vm)
    figures["urgent"] = {"delay_seconds": URGENT_DELAY_SECONDS, "fast": _urgent(vm)}
    vm.kill()
    vm = lab(append="tsc=reliable", throttle=cards.SLOW.throttle)
    daemon.start(vm, CONFIG, log=True)
    figures["urgent"]["slow"] = _urgent(vm)
    return figures


def _watched(vm: VM, work: str, seconds: int) -> dict[str, Any]:
    """What the daemon, with its guards and throttle workers, did during `work`."""
    before, flushes = _counters(vm), vm.get(daemon.SAID).count(b"flushed (")
    vm.run(work, timeout=seconds * 4 + 60).ok()
    after = _counters(vm)
    passed = after["uptime"] - before["uptime"]
    spent = {key: after[key] - before[key] for key in before}
    return {
        "watched_seconds": round(passed, 2),
        "wakeups_per_second": round(spent["voluntary"] / passed, 2),
        "preempted_per_second": round(spent["involuntary"] / passed, 2),
        "cpu_percent": round(100 * spent["cpu"] / passed, 3),
        "flushes": vm.get(daemon.SAID).count(b"flushed (") - flushes,
    }


def _counters(vm: VM) -> dict[str, float]:
    """Counters since the daemon started, times in seconds.

    One command reads all of them, so that little happens between.
    """
    text = (
        vm.run("cd /proc/$(sed -n s/pid=//p /run/cowflush/daemon) && cat status stat /proc/uptime")
        .ok()
        .text
    )
    switches = dict(
        re.findall(r"^(voluntary|nonvoluntary)_ctxt_switches:\s+(\d+)$", text, re.MULTILINE)
    )
    *_, stat, uptime = text.splitlines()
    # utime, stime, and those of ended children; the name before them may hold anything but a ")".
    ticks = map(int, stat.rpartition(")")[2].split()[11:15])
    return {
        "voluntary": int(switches["voluntary"]),
        "involuntary": int(switches["nonvoluntary"]),
        "cpu": sum(ticks) / 100,
        "uptime": float(uptime.split()[0]),
    }


def _memory(vm: VM) -> dict[str, int]:
    text = daemon.status_text(vm)
    fields = {
        "rss_kib": "VmRSS",
        "max_rss_kib": "VmHWM",
        "anon_kib": "RssAnon",
        "file_kib": "RssFile",
        "locked_kib": "VmLck",
    }
    found = {}
    for key, field in fields.items():
        value = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
        if not value:
            raise RuntimeError(f"/proc does not say {field} of the daemon: {text}")
        found[key] = int(value[1])
    return found


def _urgent(vm: VM) -> list[float]:
    """Seconds from a change under /etc until the daemon reports it durable, in steps of 10 ms."""
    found = []
    for number in range(CHANGES):
        before = vm.get(daemon.SAID).count(b"(urgent)")
        wait = f"until [ $(grep -c '(urgent)' {daemon.SAID}) -gt {before} ]; do usleep 5000; done"
        script = f"read a rest </proc/uptime; echo {number} >/etc/changed; {wait}; read b rest </proc/uptime; echo $a $b"
        begin, end = map(float, vm.run(script, timeout=120).ok().text.split())
        found.append(round(end - begin, 2))
        # The daemon also notices its own flush; the next change must find it idle.
        vm.run("sleep 2").ok()
    return found


def rows(figures: dict[str, Any]) -> list[Row]:
    memory, delay = figures["memory"], figures["urgent"]["delay_seconds"]
    own = f"{memory['anon_kib']} KiB of its own, {memory['file_kib']} KiB of the binary; aim: {AIM_RSS_KIB} KiB"
    found = [Row("daemon, resident", f"{memory['rss_kib']} KiB", own)]
    for state, seen in figures["states"].items():
        preempted = f"and {seen['preempted_per_second']} preemptions, {seen['cpu_percent']} % of the CPU, {seen['flushes']} flushes"
        found.append(Row(f"daemon, {state}", f"{seen['wakeups_per_second']}/s", preempted))
    for speed in ("fast", "slow"):
        times = figures["urgent"][speed]
        worst = f"worst {max(times):.2f} s, of which {delay:g} s are urgent-delay"
        found.append(
            Row(f"/etc to durable, {speed} card", f"{statistics.median(times):.2f} s", worst)
        )
    return found
