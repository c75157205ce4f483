"""Cards whose flush log holds no segment, some, or as much as it can."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from harness.card import Card
from harness.lab import Lab
from harness.machine import VM

# How much each flush appends to the log that is to be full: it then has a dozen segments.
LARGE_MIB = 5
MANY = 100


@dataclass(frozen=True)
class LogCard:
    card: Card
    segments: int
    used_bytes: int
    size_bytes: int


def prepare(lab: Lab) -> dict[str, LogCard]:
    """The cards, by the key of the boot that uses each."""
    return {
        "log_0": _card(lab, 0),
        "log_10": _card(lab, 10),
        "log_100": _card(lab, MANY),
        "log_full": _full(lab),
    }


def _guest(lab: Lab) -> VM:
    vm = lab(append="cowflush.merge=100%")
    vm.run("cowflush log format /dev/sda2").ok()
    return vm


def _card(lab: Lab, segments: int) -> LogCard:
    vm = _guest(lab)
    for number in range(segments):
        vm.run(f"echo {number} >/root/number && cowflush flush", timeout=60).ok()
    return _ended(vm, segments)


def _full(lab: Lab) -> LogCard:
    """A card with a full log.

    The guest rewrites one file, so that root need not be as large as the log.
    """
    vm = _guest(lab)
    while True:
        log = _log(vm)
        # A segment has its head, table, journal and metadata besides.
        if log["size"] - log["used"] < (LARGE_MIB + 1) << 20:
            return _ended(vm, len(log["segments"]))
        vm.run(
            f"dd if=/dev/urandom of=/root/large bs=1M count={LARGE_MIB} 2>/dev/null", timeout=120
        ).ok()
        vm.run("cowflush flush", timeout=120).ok()


def _log(vm: VM) -> dict[str, Any]:
    log: dict[str, Any] = json.loads(vm.run("cowflush log --json").ok().output)
    return log


def _ended(vm: VM, segments: int) -> LogCard:
    log = _log(vm)
    if len(log["segments"]) != segments:
        raise RuntimeError(f"the log has {len(log['segments'])} segments, not {segments}")
    vm.kill()
    return LogCard(vm.card, segments, log["used"], log["size"])
