"""Looks at a running guest's disks, and changes them, from outside."""

from __future__ import annotations

from dataclasses import dataclass, fields

from harness import drive
from harness.drive import Drive, Throttle, drive_name
from harness.qmp import Qmp


@dataclass(frozen=True)
class DriveStats:
    """QEMU's counters: what reached a disk since QEMU started."""

    rd_operations: int
    rd_bytes: int
    wr_operations: int
    wr_bytes: int
    flush_operations: int
    failed_rd_operations: int
    failed_wr_operations: int

    def __sub__(self, earlier: DriveStats) -> DriveStats:
        return DriveStats(*(getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)))


class Disks:
    """Counts what reaches the disks, and makes them fail and work again."""

    def __init__(self, qmp: Qmp, drives: tuple[Drive, ...]) -> None:
        self._qmp = qmp
        self._drives = drives

    def stats(self) -> list[DriveStats]:
        """QEMU's counters, in the order of the disks' places."""
        answer = self._qmp.execute("query-blockstats")
        by_id = {entry["qdev"]: entry["stats"] for entry in answer if entry.get("qdev")}
        found = [by_id[f"{drive_name(place)}-disk"] for place in range(len(self._drives))]
        names = [field.name for field in fields(DriveStats)]
        return [DriveStats(*(stats[name] for name in names)) for stats in found]

    def fail(self, iotype: str, sectors: range | None, place: int) -> None:
        name, lower = self._names(place)
        self._qmp.execute("blockdev-add", **drive.fault_options(name, lower, sectors, iotype))
        self._put_below(name, f"{name}-fault")

    def heal(self, place: int) -> None:
        name, lower = self._names(place)
        self._put_below(name, lower)
        self._qmp.execute("blockdev-del", **{"node-name": f"{name}-fault"})

    def throttle(self, limits: Throttle, place: int) -> None:
        if not self._drives[place].throttle:
            raise ValueError(f"disk {place} was not started with a throttle")
        path = f"/objects/{drive_name(place)}-limits"
        self._qmp.execute("qom-set", path=path, property="limits", value=limits.limits())

    def _names(self, place: int) -> tuple[str, str]:
        name = drive_name(place)
        return name, drive.lower_node(name, self._drives[place])

    def _put_below(self, name: str, below: str) -> None:
        self._qmp.execute("blockdev-reopen", options=[drive.raw_options(name, below)])
