"""A long life in one guest: thousands of flushes, by hand and by the daemon.

Merges, holds, stops and starts come between. After thousands of flushes memory, devices and
processes are as after some hundred, and a flush takes as long.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from harness.machine import VM
from product import daemon
from product.router import DEVICES, LOG, devices, loops
from soak.watch import daemon_rss, kib

# Nothing happens by itself: the script below decides. The log is full enough for a merge every two
# hundred small flushes.
CONFIG = "interval=off\nurgent=none\nmerge-on=none\nsize=16M\nmerge=10%\n"
FOLDER = "/root/life"
FILES = 20
# A router's day in one step: some files are replaced, one grows, and all is flushed, by hand or by
# the daemon.
SCRIPT = f"""
flush() {{ cowflush flush >/dev/null; }}
asked() {{ sed -n 's/^flushes asked=//p' {daemon.TOTALS}; }}
ask() {{
    before=$(asked)
    kill -USR1 $(sed -n s/pid=//p {daemon.NOTE}) || return
    left=600
    until [ "$(asked)" != "$before" ]; do left=$((left - 1)); [ $left -gt 0 ] || return 1; usleep 20000; done
}}
mkdir -p {FOLDER}
n=BEGIN
while [ $n -lt END ]; do
    n=$((n + 1))
    [ $((n % 100)) != 1 ] || : >{FOLDER}/lines
    echo $n >>{FOLDER}/lines && seq $n $((n + 50)) >{FOLDER}/$((n % {FILES})) && sync || exit 10
    case $((n % 5)) in [0-2]) flush || exit 11 ;; *) ask || exit 12 ;; esac
    [ $((n % 53)) != 0 ] || cowflush merge >/dev/null || exit 13
    [ $((n % 101)) != 0 ] || {{
        cowflush hold >/dev/null && echo $n >{FOLDER}/trial && sync && cowflush release >/dev/null || exit 14; }}
    [ $((n % 151)) != 0 ] || {{
        cowflush stop >/dev/null && echo $n >{FOLDER}/straight && sync &&
        cowflush start >/dev/null || exit 15; }}
done
"""
# At least how many of a hundred flushes are of each kind, by the totals' names
SHARES = {"flush": 55, "asked": 35}

# How far a figure may move from the first look's, in KiB; a kernel's caches vary. Each look is at
# the same state: nothing in the log, nothing in RAM.
SLACK = {
    "daemon_rss": 64,
    "daemon_data": 64,
    "shmem": 256,
    "slab": 512,
    "kernel_stack": 128,
    "page_tables": 128,
    "notes": 128,
}
# These must not move at all.
COUNTS = ("descriptors", "processes", "loops", "devices", "mounts")
# Descriptors of the daemon; mounts; cowflush's processes and zombies, the least of some looks,
# since a command's second process ends a moment after it; the notes' size.
COUNT = f"""
ls /proc/$(sed -n s/pid=//p {daemon.NOTE})/fd | wc -l
wc -l </proc/mounts
for look in 1 2 3 4 5; do
    cat /proc/[0-9]*/status 2>/dev/null | grep -cE '^Name:.cowflush|^State:.Z'; usleep 100000
done | sort -n | sed -n 1p
du -s /run/cowflush
"""
# For a flush the reads and writes of the card count; its time is an emulated machine's, so only the
# best is compared.
FLUSHES_LOOKED_AT = 10
SLACK_REQUESTS, TIMES_SLOWER = 1.3, 2.0


@dataclass(frozen=True)
class Look:
    """Figures while nothing is at work, right after a merge: KiB, counts, costs of flushes."""

    flushes: int
    daemon_rss: int
    daemon_data: int
    shmem: int
    slab: int
    kernel_stack: int
    page_tables: int
    notes: int
    descriptors: int
    processes: int
    loops: int
    devices: int
    mounts: int
    reads: float
    writes: float
    best_ms: int
    median_ms: int


def live(vm: VM, begin: int, end: int, timeout: float) -> None:
    """Runs steps `begin` to `end`."""
    script = SCRIPT.replace("BEGIN", str(begin)).replace("END", str(end))
    vm.run(script, timeout=timeout).ok()


def look(vm: VM) -> Look:
    """Takes the figures; the daemon goes on, since they are about it."""
    # What the test itself leaves in RAM
    daemon.no_trouble(vm)
    vm.run(f": >{daemon.SAID}; dmesg -c >/dev/null").ok()
    vm.run("cowflush flush", timeout=120).ok()
    vm.run("cowflush merge", timeout=120).ok()
    mapped, attached = devices(vm), loops(vm)
    assert mapped == sorted(DEVICES + LOG), f"device-mapper devices leaked: {mapped}"
    assert attached == ["cowflush-cow"], f"loop devices leaked: {attached}"
    vm.run("echo 3 >/proc/sys/vm/drop_caches").ok()
    memory, process = vm.get("/proc/meminfo").decode(), daemon.status_text(vm)
    descriptors, mounts, processes, notes = map(int, vm.run(COUNT).ok().text.split()[:4])
    figures = {
        "daemon_rss": daemon_rss(vm),
        "daemon_data": kib(process, "VmData"),
        "shmem": kib(memory, "Shmem"),
        "slab": kib(memory, "SUnreclaim"),
        "kernel_stack": kib(memory, "KernelStack"),
        "page_tables": kib(memory, "PageTables"),
    }
    return Look(
        flushes=daemon.flushes(vm),
        notes=notes,
        descriptors=descriptors,
        processes=processes,
        loops=len(attached),
        devices=len(mapped),
        mounts=mounts,
        **figures,
        **_some_flushes(vm),
    )


def _some_flushes(vm: VM) -> dict[str, Any]:
    before = vm.card_stats()
    steps = f"for n in $(seq {FLUSHES_LOOKED_AT}); do echo $n >{FOLDER}/one; sync; cowflush flush --json || exit; done"
    lines = vm.run(steps, timeout=300).ok().output.splitlines()
    took = sorted(json.loads(line)["flush"]["took_ms"] for line in lines)
    card = vm.card_stats() - before
    return {
        "reads": card.rd_operations / FLUSHES_LOOKED_AT,
        "writes": card.wr_operations / FLUSHES_LOOKED_AT,
        "best_ms": took[0],
        "median_ms": took[len(took) // 2],
    }


def check_flat(looks: list[Look]) -> None:
    """Checks that nothing has grown since the first look."""
    first, last = looks[0], looks[-1]
    for name, slack in SLACK.items():
        grown = getattr(last, name) - getattr(first, name)
        assert grown <= slack, f"{name} grows: {[getattr(one, name) for one in looks]} KiB"
    for name in COUNTS:
        values = [getattr(one, name) for one in looks]
        assert len(set(values)) == 1, f"{name} does not stay the same: {values}"
    for name in ("reads", "writes"):
        values = [getattr(one, name) for one in looks]
        assert values[-1] <= values[0] * SLACK_REQUESTS, f"a flush's {name} grow: {values}"
    best = [one.best_ms for one in looks]
    assert best[-1] <= best[0] * TIMES_SLOWER, f"a flush takes longer: {best} ms"


def check_shares(vm: VM, steps: int) -> None:
    """Checks that there were flushes by hand and by the daemon, merges, holds and stops."""
    totals = vm.run(f"cat {daemon.TOTALS}").ok().text
    for cause, percent in SHARES.items():
        found = re.search(rf"^flushes {cause}=(\d+)$", totals, re.MULTILINE)
        assert found and int(found[1]) >= steps * percent // 100, totals
    assert re.search(r"^flushes stop=[1-9]", totals, re.MULTILINE) or steps < 151, totals


def save(looks: list[Look], path: Path) -> None:
    """Writes all figures as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(one) for one in looks], indent=2) + "\n")


def table(looks: list[Look]) -> str:
    """The figures as a table."""
    names = [field.name for field in fields(Look)]
    return "\n".join(
        " ".join([f"{name:>14}", *(f"{getattr(one, name):>8g}" for one in looks)]) for name in names
    )
