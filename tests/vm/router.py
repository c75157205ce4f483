"""What the tests ask a guest about cowflush, and what must hold when no command is at work."""

from __future__ import annotations

import json
from typing import Any

from vm.machine import VM

DEVICES = ["cowflush-origin", "cowflush-root"]


def status(vm: VM) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(vm.run("cowflush status --json").ok().output)
    return report


def devices(vm: VM) -> list[str]:
    """The names of all device-mapper devices."""
    return sorted(vm.run("cat /sys/block/dm-*/dm/name").ok().text.split())


def loops(vm: VM) -> list[str]:
    """The files behind all attached loop devices."""
    lines = vm.run("cat /sys/block/loop*/loop/backing_file 2>/dev/null").text.splitlines()
    return [line.rsplit("/", 1)[-1].removesuffix(" (deleted)") for line in lines]


def memory(vm: VM, field: str) -> int:
    """A line of /proc/meminfo, in KiB. COWs are `Shmem`."""
    return int(vm.run(f"awk '/^{field}:/ {{ print $2 }}' /proc/meminfo").ok().text)


def check_settled(vm: VM, mode: str = "deferring") -> None:
    """Nothing of an earlier command is left: no device, no loop device, no process."""
    report = status(vm)
    assert (report["mode"], report["phase"], report["sealed"], report["busy_pid"]) == (mode, "idle", None, None)
    assert devices(vm) == DEVICES
    assert loops(vm) == (["cowflush-cow"] if mode == "deferring" else [])
    assert vm.run("pidof cowflush cowflush-guard").text == ""
