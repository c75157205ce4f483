"""Memory and devices over time: hundreds of flushes must not need more than the first."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from harness.machine import VM
from product import daemon
from product.router import LOG, LOGGED, check_settled, devices, loops, status

# How far a figure may move from the first look's after a boot, in KiB. The log's table and the
# kernel's list of the log's chunks grow until a merge: by about 1.3 MiB for a log of 64 MiB.
SLACK_KIB = 3072
# For the daemon itself: nothing in it grows.
DAEMON_SLACK_KIB = 128
RSS_LOOKS = 5
# During a flush: root's COW, a sealed one, the tables of the log and of a merge, and one that
# replaces another
MOST_LOOPS = 5
MOST_DEVICES = 9


@dataclass(frozen=True)
class Figures:
    """Figures while nothing is at work and nothing waits in RAM. All in KiB but the last two."""

    daemon_rss: int
    shmem: int
    slab: int
    loops: int
    devices: int


def look_at_work(vm: VM) -> None:
    """Checks that devices are few, whatever is under way."""
    attached, mapped = loops(vm), devices(vm)
    assert len(attached) <= MOST_LOOPS, f"loop devices leaked: {attached}"
    assert len(mapped) <= MOST_DEVICES, f"device-mapper devices leaked: {mapped}"
    report = status(vm)
    assert report["phase"] in ("idle", "sealed", "merging", "suspended"), report


def look_settled(vm: VM, daemon_rss: int) -> Figures:
    """Checks that exactly these devices exist, with no command or daemon, and the load paused."""
    mapped = devices(vm)
    check_settled(vm, log=LOGGED if "cowflush-logged" in mapped else LOG)
    text = vm.get("/proc/meminfo").decode()
    return Figures(
        daemon_rss, kib(text, "Shmem"), kib(text, "SUnreclaim"), len(loops(vm)), len(mapped)
    )


def daemon_rss(vm: VM) -> int:
    """The one running daemon's memory, in KiB: the least of some looks.

    One look may come in the middle of a flush, which has buffers.
    """
    looks = []
    for _ in range(RSS_LOOKS):
        looks.append(kib(daemon.status_text(vm), "VmRSS"))
        vm.run("usleep 200000").ok()
    return min(looks)


def kib(text: str, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    assert found, f"/proc does not say {field}"
    return int(found[1])


def check_flat(seen: list[Figures]) -> None:
    """Checks that in one boot no figure moved further from the first than its slack."""
    for field in fields(Figures):
        if field.name in ("loops", "devices"):
            continue  # look_settled compares them with what must be there
        slack = DAEMON_SLACK_KIB if field.name == "daemon_rss" else SLACK_KIB
        values = [getattr(figures, field.name) for figures in seen]
        assert max(values) - values[0] <= slack, (
            f"{field.name} grows over the flushes of one boot: {values} KiB"
        )
