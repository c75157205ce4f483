"""Memory and devices over time: after hundreds of flushes there is as much of them as after the first."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from harness.machine import VM
from product import daemon
from product.router import LOG, LOGGED, check_settled, devices, loops, status

# How far a figure may go from what it was at the first look after a boot, in KiB. The log's table and the
# kernel's list of what is in the log grow until a merge: by about 1.3 MiB for a log of 64 MiB.
SLACK_KIB = 3072
# The daemon's own: it has nothing that grows.
DAEMON_SLACK_KIB = 128
RSS_LOOKS = 5
# At work: root's COW, a sealed one, the tables of the log and of a merge, and one that takes another's place.
MOST_LOOPS = 5
MOST_DEVICES = 9


@dataclass(frozen=True)
class Figures:
    """A look while nothing is at work and nothing waits in RAM. All in KiB but the last two."""

    daemon_rss: int
    shmem: int
    slab: int
    loops: int
    devices: int


def look_at_work(vm: VM) -> None:
    """Whatever is under way, devices are few."""
    attached, mapped = loops(vm), devices(vm)
    assert len(attached) <= MOST_LOOPS, f"loop devices leaked: {attached}"
    assert len(mapped) <= MOST_DEVICES, f"device-mapper devices leaked: {mapped}"
    report = status(vm)
    assert report["phase"] in ("idle", "sealed", "merging", "suspended"), report


def look_settled(vm: VM, daemon_rss: int) -> Figures:
    """No command and no daemon runs, and the load is paused: exactly these devices are there."""
    mapped = devices(vm)
    check_settled(vm, log=LOGGED if "cowflush-logged" in mapped else LOG)
    text = vm.get("/proc/meminfo").decode()
    return Figures(
        daemon_rss, kib(text, "Shmem"), kib(text, "SUnreclaim"), len(loops(vm)), len(mapped)
    )


def daemon_rss(vm: VM) -> int:
    """Of the one daemon that runs, in KiB: the least of some looks, since one may come in the middle of a flush, which
    has buffers."""
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
    """Of one boot: no figure went further from the first than its slack."""
    for field in fields(Figures):
        if field.name in ("loops", "devices"):
            continue  # look_settled compares them with what must be there
        slack = DAEMON_SLACK_KIB if field.name == "daemon_rss" else SLACK_KIB
        values = [getattr(figures, field.name) for figures in seen]
        assert max(values) - values[0] <= slack, (
            f"{field.name} grows over the flushes of one boot: {values} KiB"
        )
