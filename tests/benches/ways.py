"""One measured flush, while a writer appends and fsyncs lines."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

from vm.machine import VM

COWFLUSH, CLASSIC = "cowflush", "classic"
COMMANDS = {COWFLUSH: "cowflush flush --json", CLASSIC: "guest-tools classic"}
FLUSH_SECONDS = 300
WRITER = "/root/bench/writer"
STOP = "/run/_root_bench_writer.stop"
# Lines before and after the flush, so that the writer is well at work when it begins.
MARGIN_SECONDS = 0.2
TICK_SECONDS = 0.01


def flush(vm: VM, way: str, command: str = "") -> dict[str, Any]:
    """Flushes, and says what reached the card meanwhile and what the writer saw."""
    writer = _Writer(vm)
    before = vm.card_stats()
    text, seconds = timed(vm, command or COMMANDS[way])
    card = vm.card_stats() - before
    return {
        "way": way,
        "seconds": seconds,
        **_reported(way, text),
        **{f"card_{key}": value for key, value in asdict(card).items() if key in WRITTEN},
        **writer.stop(),
    }


WRITTEN = ("wr_operations", "wr_bytes", "flush_operations")


def idle(vm: VM, seconds: float) -> dict[str, Any]:
    """What the writer sees while nobody flushes."""
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


def _reported(way: str, text: str) -> dict[str, Any]:
    """What the way says of itself: how much it merged and how long root was suspended."""
    if way == CLASSIC:
        found = re.fullmatch(r"merged_bytes (\d+) stall_us (\d+)", text)
        if not found:
            raise RuntimeError(f"the classic recipe said: {text}")
        return {"merged_bytes": int(found[1]), "stall_us": int(found[2])}
    record = json.loads(text)["flush"]
    return {"merged_bytes": record["bytes"], "stall_us": record["stall_us"]}


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
