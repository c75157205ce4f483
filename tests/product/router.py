"""What the tests ask a guest about cowflush, and what must hold when no command runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.machine import VM
from harness.outcome import Result
from product import jsondoc

DEVICES = ["cowflush-origin", "cowflush-root"]
# The devices with a flush log, and with something in it
LOG = ["cowflush-log"]
LOGGED = ["cowflush-log", "cowflush-log-view", "cowflush-logged"]
# The COW's device where the kernel has memory limits, instead of a loop device; a number follows.
STORE = "cowflush-cow-"
# Shell: the kernel counts a loop device's file against memory limits. Debian's kernels do.
LIMITS = "grep -q '^blkio.*1$' /proc/cgroups"
# In the report while the kernel merges
MERGING = '"phase":"merging"'


def status(vm: VM) -> dict[str, Any]:
    """`cowflush status --json`, as docs/json.md describes it."""
    return jsondoc.parse("status", vm.run("cowflush status --json").ok().output)


def wait_status(vm: VM, pattern: str) -> None:
    """Waits until the report matches this."""
    vm.until(f"cowflush status --json | grep -q '{pattern}'")


def when_free(vm: VM, words: str) -> Result:
    """Runs a cowflush command, which waits until no other one, such as the daemon, is at work."""
    return vm.run(f"cowflush {words}", timeout=120)


def devices(vm: VM) -> list[str]:
    """The names of all device-mapper devices. One may disappear while the list is made."""
    return sorted(vm.run("cat /sys/block/dm-*/dm/name 2>/dev/null").text.split())


def loops(vm: VM) -> list[str]:
    """The files behind all attached loop devices."""
    lines = vm.run("cat /sys/block/loop*/loop/backing_file 2>/dev/null").text.splitlines()
    return [line.rsplit("/", 1)[-1].removesuffix(" (deleted)") for line in lines]


def memory(vm: VM, field: str) -> int:
    """A line of /proc/meminfo, in KiB. COWs are `Shmem`."""
    return int(vm.run(f"awk '/^{field}:/ {{ print $2 }}' /proc/meminfo").ok().text)


def check_settled(vm: VM, mode: str = "deferring", log: Sequence[str] = ()) -> None:
    """Checks that nothing of an earlier command is left: no device, no loop device, no process.

    `log` is the devices that a flush log has now: none, `LOG`, or `LOGGED`.
    """
    vm.until("! pidof cowflush cowflush-guard")
    report = status(vm)
    assert (report["mode"], report["phase"], report["sealed"], report["busy_pid"]) == (
        mode,
        "idle",
        None,
        None,
    )
    mapped, deferring = devices(vm), mode == "deferring"
    stores = [name for name in mapped if name.startswith(STORE)]
    assert [name for name in mapped if name not in stores] == sorted([*DEVICES, *log])
    expected = ["cowflush-cow"] if deferring else []
    if deferring and vm.run(LIMITS).code == 0:
        expected.insert(0, "cowflush-blank")
        assert len(stores) == 1, stores
    else:
        assert stores == []
    assert sorted(loops(vm)) == expected + (["cowflush-table"] if log == LOGGED else [])
