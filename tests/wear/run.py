"""Runs one contender through a day and records all that its card received.

The guest's clock is not the host's. QEMU counts instructions (`-icount`) and leaps over idle time,
and the guest is told that its processor counts an eighth as fast as it does. So a day takes a
minute or two, the guest lives all 86,400 seconds of it, and every timer of its kernel (journal
commits, writeback, expiry) runs as on a router. Nothing has to be compressed.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from pathlib import Path

from harness import Card, Drive, ext
from harness.lab import Lab
from harness.machine import VM
from wear.contenders import Contender
from wear.day import Event, prepared
from wear.day import definition as day_definition

# An instruction takes 1 ns of QEMU's clock, which the guest takes for 8 ns: 125 million a second,
# about as many as a router of that class.
ICOUNT = "shift=0,sleep=off"
CLOCK = "tsc=reliable tsc_early_khz=125000"
# The host's pauses are leaps of the guest's clock: even after a long one no disk may count as hung.
GUEST = """
echo 1000000 >/sys/block/sda/device/timeout
echo 0 >/proc/sys/kernel/hung_task_timeout_secs
"""
SYSLOGD = "mkdir -p /day/var/log && syslogd -O /day/var/log/messages -s 0"
# A lab numbers its guests, and contenders may run side by side.
BOOTING = threading.Lock()
FOLDER = "/day"
SECTOR = 512
MINUTES = 60
RUN_SECONDS = 60 * MINUTES
FINISH_SECONDS = 10 * MINUTES


@dataclass(frozen=True)
class Plan:
    """A run's plan: the events, for how long, and how often RAM is made durable (seconds)."""

    events: list[Event]
    seconds: int
    interval: int


@dataclass(frozen=True)
class Run:
    """A run: `log` is the write log, `late_ms` and `latest_ms` the events' mean and worst delay."""

    contender: Contender
    plan: Plan
    card: Card
    log: Path
    events: int
    flushes: int
    late_ms: int
    latest_ms: int


def blank(lab: Lab) -> Card:
    """The card that every contender begins with: the router's files are there already."""
    lines = prepared(day_definition())
    card = lab.card()
    vm = lab(card, direct=True, drives=[_list(lab.directory / "prepared.txt", lines)])
    vm.run(
        f"mkdir {FOLDER} && guest-tools day /dev/sdb {FOLDER} --interval 100 --seconds 60 --flush true",
        300,
    ).ok()
    vm.run("sync && mount -o remount,ro /").ok()
    vm.poweroff()
    card.fsck()
    return card


def run(lab: Lab, card: Card, contender: Contender, plan: Plan, name: str) -> Run:
    copy = card.copy(lab.directory / f"{name}.img")
    if contender.tune:
        ext.tune(f"{copy.path}?offset={copy.root.start * SECTOR}", contender.tune)
    log = lab.directory / f"{name}.writes"
    drives = [_list(lab.directory / f"{name}.events", [str(event) for event in plan.events])]
    with BOOTING:
        vm = lab(
            copy,
            direct=contender.direct,
            drives=drives,
            write_log=log,
            icount=ICOUNT,
            append=f"{CLOCK} {contender.append}",
            inactivity=RUN_SECONDS,
            total=2 * RUN_SECONDS,
            wait=False,
        )
    vm.wait_boot()
    for script in (GUEST, contender.setup, SYSLOGD):
        vm.run(script).ok()
    text = _day(vm, contender, plan)
    vm.run(contender.finish, FINISH_SECONDS).ok()
    vm.run("sync").ok()
    vm.kill()
    events, late, latest, flushes = map(int, text)
    return Run(contender, plan, copy, log, events, flushes, late, latest)


def _day(vm: VM, contender: Contender, plan: Plan) -> tuple[str, ...]:
    # In the background, so that the agent's shell isn't in the way, with its output in /run
    vm.put(
        "/run/flush", f"#!/bin/sh\n{{ {contender.flush}; }} >/run/flush.out 2>&1\n".encode(), 0o755
    )
    flush = "/run/flush || { cat /run/flush.out >&2; exit 1; }"
    command = f"guest-tools day /dev/sdb {FOLDER} --interval {plan.interval} --seconds {plan.seconds} --flush '{flush}'"
    text = vm.run(command, RUN_SECONDS).ok().text
    found = re.search(
        r"^events (\d+) late_ms (\d+) latest_ms (\d+) flushes (\d+)$", text, re.MULTILINE
    )
    if not found:
        raise RuntimeError(f"the day of {contender.key} ended with: {text}")
    return found.groups()


def _list(path: Path, lines: list[str]) -> Drive:
    """A disk that holds the lines, with `end` as the last one."""
    text = "".join(f"{line}\n" for line in [*lines, "end"]).encode()
    path.write_bytes(text + bytes(-len(text) % SECTOR))
    return Drive(path)
