"""Describes disks to QEMU.

A disk is a chain of block nodes, from the guest down to the file:

    ide-hd -> ID (raw) -> [ID-throttle] -> [ID-log] -> ID-file

`fault_options` describes one more node, which can be inserted right below the raw node at run time,
so that a failing write never reaches the log or the file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IDE_PLACES = ("bus=ide.0,unit=0", "bus=ide.0,unit=1", "bus=ide.1,unit=0", "bus=ide.1,unit=1")

EIO = 5
# blkdebug takes one rule a sector, and QEMU reads many of them in quadratic time.
MAX_RULES = 1024
# Linux repeats a failing FLUSH this many times.
FLUSH_TRIES = 6


@dataclass(frozen=True)
class Throttle:
    """A slow card: limits for reads and writes together; 0 is no limit.

    `VM.throttle` changes them.
    """

    iops: int = 0
    bytes_per_second: int = 0

    def limits(self) -> dict[str, int]:
        return {"iops-total": self.iops, "bps-total": self.bytes_per_second}


@dataclass(frozen=True)
class Drive:
    """One IDE disk of the guest.

    `write_log` records all that reaches it, in dm-log-writes' format.
    """

    path: Path
    serial: str = ""
    throttle: Throttle | None = None
    write_log: Path | None = None


def drive_name(place: int) -> str:
    return "card" if place == 0 else f"disk{place}"


def lower_node(name: str, drive: Drive) -> str:
    """The node below the raw node; a fault is inserted between the two."""
    if drive.throttle:
        return f"{name}-throttle"
    return f"{name}-log" if drive.write_log else f"{name}-file"


def arguments(name: str, drive: Drive, place: int) -> list[str]:
    """QEMU's arguments for one disk."""
    # A power cut here is SIGKILL, which loses nothing that the host's page cache holds, so the host
    # needn't sync. FLUSHes are still counted.
    nodes = [_file(f"{name}-file", drive.path)]
    top = f"{name}-file"
    args: list[str] = []
    if drive.write_log:
        nodes.append(_file(f"{name}-logfile", drive.write_log))
        nodes.append(_node(f"{name}-log", "blklogwrites", file=top, log=f"{name}-logfile"))
        top = f"{name}-log"
    if drive.throttle:
        args += ["-object", json.dumps(_throttle_group(name, drive.throttle))]
        nodes.append(
            _node(f"{name}-throttle", "throttle", file=top, **{"throttle-group": f"{name}-limits"})
        )
        top = f"{name}-throttle"
    nodes.append(raw_options(name, top))
    for node in nodes:
        args += ["-blockdev", json.dumps(node)]
    # werror=report: the guest must see the error; QEMU must not stop for it.
    device = f"ide-hd,id={name}-disk,drive={name},{IDE_PLACES[place]},werror=report,rerror=report"
    if drive.serial:
        device += f",serial={drive.serial}"
    return [*args, "-device", device]


def raw_options(name: str, below: str) -> dict[str, Any]:
    return _node(name, "raw", file=below)


def fault_options(name: str, below: str, sectors: range | None, iotype: str) -> dict[str, Any]:
    """A blkdebug node that fails every request of a kind that touches `sectors` (None: all).

    For a large range there is one rule per block of some size, and an alignment that widens
    requests to such blocks, so that each request meets a rule. The card below this node then sees
    the widened requests.
    """
    node = _node(f"{name}-fault", "blkdebug", image=below)
    if iotype == "flush":
        # Only a few, since QEMU itself flushes when the node is removed again.
        node["inject-error"] = [_error(-1, iotype) | {"once": True}] * FLUSH_TRIES
        return node
    if sectors is None:
        node["inject-error"] = [_error(-1, iotype)]
        return node
    step = 1
    while len(sectors) > MAX_RULES * step:
        step *= 2
    if sectors.start % step or len(sectors) % step:
        raise ValueError(
            f"can't fail sectors {sectors.start} to {sectors.stop}: a range so large "
            f"must begin and end at a multiple of {step} sectors"
        )
    if step > 1:
        node["align"] = step * 512
    node["inject-error"] = [
        _error(sector, iotype) for sector in range(sectors.start, sectors.stop, step)
    ]
    return node


def _error(sector: int, iotype: str) -> dict[str, Any]:
    return {"event": "none", "iotype": iotype, "errno": EIO, "sector": sector}


def _file(name: str, path: Path) -> dict[str, Any]:
    return _node(name, "file", filename=str(path), cache={"no-flush": True})


def _node(name: str, driver: str, **options: Any) -> dict[str, Any]:
    return {"driver": driver, "node-name": name, **options}


def _throttle_group(name: str, throttle: Throttle) -> dict[str, Any]:
    return {"qom-type": "throttle-group", "id": f"{name}-limits", "limits": throttle.limits()}
