"""Measures one flush while a writer appends and fsyncs lines."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

from harness.machine import VM

COWFLUSH, CLASSIC, LOGGED = "cowflush", "classic", "logged"
COMMANDS = {
    COWFLUSH: "cowflush flush --json",
    CLASSIC: "guest-tools classic",
    # The same command, in a guest whose card has a log
    LOGGED: "cowflush flush --json",
}
FLUSH_SECONDS = 300
WRITER = "/root/bench/writer"
STOP = "/run/_root_bench_writer.stop"
# The writer runs this long before and after the flush, so that it is at work when the flush begins.
MARGIN_SECONDS = 0.2
TICK_SECONDS = 0.01


def flush(vm: VM, way: str, command: str = "") -> dict[str, Any]:
    """Flushes, and returns what reached the card meanwhile and what the writer saw."""
    writer = _Writer(vm)
    ram = _shmem_bytes(vm)
    before = vm.card_stats()
    text, seconds = timed(vm, command or COMMANDS[way])
    card = vm.card_stats() - before
    freed = ram - _shmem_bytes(vm)
    return {
        "way": way,
        "seconds": seconds,
        "ram_freed_bytes": freed,
        **_reported(way, text, seconds),
        **{f"card_{key}": value for key, value in asdict(card).items() if key in WRITTEN},
        **writer.stop(),
    }


WRITTEN = ("wr_operations", "wr_bytes", "flush_operations")


def idle(vm: VM, seconds: float) -> dict[str, Any]:
    """What the writer sees while no flush goes on."""
    writer = _Writer(vm)
    vm.run(f"sleep {seconds}").ok()
    return writer.stop()


def timed(vm: VM, command: str) -> tuple[str, float]:
    """A command's output, and how long it took by the guest's clock (see TICK_SECONDS)."""
    now = "rest </proc/uptime"
    script = f"read begin {now}; {command}; code=$?; read end {now}; echo $begin $end; exit $code"
    *lines, times = vm.run(script, FLUSH_SECONDS).ok().text.splitlines()
    begin, end = map(float, times.split())
    return "\n".join(lines), end - begin


def _shmem_bytes(vm: VM) -> int:
    """How much RAM files there take: above all the COW's."""
    found = re.search(r"^Shmem: +(\d+) kB$", vm.run("cat /proc/meminfo").ok().text, re.MULTILINE)
    if not found:
        raise RuntimeError("/proc/meminfo does not say how much RAM its files take")
    return int(found[1]) * 1024


def _reported(way: str, text: str, seconds: float) -> dict[str, Any]:
    """The way's own report: how much it flushed, and how long each part took."""
    if way == CLASSIC:
        found = re.fullmatch(r"merged_bytes (\d+) stall_us (\d+)", text)
        if not found:
            raise RuntimeError(f"the classic recipe said: {text}")
        # The recipe reports nothing; at its end everything is durable and the RAM free.
        return {
            "flushed_bytes": int(found[1]),
            "stall_us": int(found[2]),
            "durable_seconds": seconds,
        }
    record = json.loads(text)["flush"]
    if way == LOGGED and record["logged"] != record["bytes"]:
        raise RuntimeError(f"the flush did not go to the log as a whole: {text}")
    step = "log_ms" if way == LOGGED else "merge_ms"
    return {
        "flushed_bytes": record["bytes"],
        "stall_us": record["stall_us"],
        "durable_seconds": record[step] / 1000,
    }


class _Writer:
    def __init__(self, vm: VM) -> None:
        self._vm = vm
        vm.run(f"rm -f {STOP}").ok()
        self._job = vm.start(f"guest-tools writer {WRITER} --seconds {FLUSH_SECONDS}")
        vm.run(f"sleep {MARGIN_SECONDS}").ok()

    def stop(self) -> dict[str, int]:
        self._vm.run(f"sleep {MARGIN_SECONDS}; : >{STOP}").ok()
        text = self._job.wait(60).ok().text
        found = re.fullmatch(r"lines (\d+) longest_us (\d+) median_us (\d+)\n", text)
        if not found:
            raise RuntimeError(f"the writer said: {text}")
        lines, longest, median = map(int, found.groups())
        return {"writer_lines": lines, "longest_fsync_us": longest, "median_fsync_us": median}
