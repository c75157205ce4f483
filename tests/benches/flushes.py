"""Rounds of the same work, flushed both ways in the same guest."""

from __future__ import annotations

import statistics
from typing import Any

from benches import cowtable, ways
from benches.cards import FOLDER, Speed, journal_blocks
from benches.output import Row
from benches.ways import CLASSIC, COWFLUSH
from vm.card import Card
from vm.lab import Lab
from vm.machine import VM

AIM_TIMES_SHORTER = 20
MIB = 1 << 20
# What is written before a flush, by key: bytes.
LOADS = {"scattered": 8 * MIB, "sequential": 8 * MIB, "logs": MIB // 4}
PLAIN_BYTES, PLAIN_BLOCK = 8 * MIB, 128 << 10
IDLE_SECONDS = 3
TOTAL_SECONDS = 3000
SUMMED = (
    "seconds",
    "merged_bytes",
    "stall_us",
    "longest_fsync_us",
    "median_fsync_us",
    "card_wr_operations",
    "card_wr_bytes",
    "card_flush_operations",
)


def measure(lab: Lab, card: Card, speed: Speed, rounds: int) -> dict[str, Any]:
    journal = journal_blocks(card)
    vm = lab(card.copy(lab.directory / f"{speed.name}.img"), throttle=speed.throttle, total=TOTAL_SECONDS)
    figures: dict[str, Any] = {
        "iops": speed.throttle.iops if speed.throttle else None,
        "bytes_per_second": speed.throttle.bytes_per_second if speed.throttle else None,
        "rounds": rounds,
        "idle": ways.idle(vm, IDLE_SECONDS),
        "loads": {kind: _rounds(vm, kind, size, rounds, journal) for kind, size in LOADS.items()},
    }
    vm.kill()
    vm.card.fsck()
    return figures


def _rounds(vm: VM, kind: str, size: int, rounds: int, journal: set[int]) -> dict[str, Any]:
    done: list[dict[str, Any]] = []
    for number in range(rounds):
        both = (COWFLUSH, CLASSIC) if number % 2 == 0 else (CLASSIC, COWFLUSH)
        for way in both:
            # Each begins with an empty COW, not with what the last writer still wrote.
            vm.run("cowflush flush", timeout=ways.FLUSH_SECONDS).ok()
            vm.run(f"guest-tools load {kind} {FOLDER} --bytes {size} --seed {number + 1}", timeout=300).ok()
            cow = cowtable.measure(vm, journal)
            plain = _plain_write(vm, cow["chunks"] * cowtable.CHUNK)
            done.append({"round": number, "cow": cow, "plain_write_seconds": plain, **ways.flush(vm, way)})
    return {"bytes": size, "rounds": done, **_summary(done)}


def _plain_write(vm: VM, size: int) -> float:
    """Seconds to write as much to the card in one piece, on the partition that is not mounted."""
    # More than a little is written, since the clock ticks every 10 ms.
    blocks = max(size, PLAIN_BYTES) // PLAIN_BLOCK
    options = f"bs={PLAIN_BLOCK} count={blocks} oflag=direct conv=fsync"
    seconds = ways.timed(vm, f"dd if=/dev/zero of=/dev/sda2 {options} 2>/dev/null")[1]
    return max(seconds, ways.TICK_SECONDS) * size / (blocks * PLAIN_BLOCK)


def _summary(done: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for way in (COWFLUSH, CLASSIC):
        mine = [one for one in done if one["way"] == way]
        summary[way] = {key: _middle([one[key] for one in mine]) for key in SUMMED}
        summary[way]["of_plain_write"] = _middle([one["seconds"] / one["plain_write_seconds"] for one in mine])
    summary["cow"] = {key: _middle([one["cow"][key] for one in done]) for key in done[0]["cow"]}
    fsync = {way: summary[way]["longest_fsync_us"] for way in (COWFLUSH, CLASSIC)}
    summary["times_shorter"] = {
        "median": fsync[CLASSIC]["median"] / fsync[COWFLUSH]["median"],
        "worst": fsync[CLASSIC]["median"] / fsync[COWFLUSH]["worst"],
    }
    return summary


def _middle(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "worst": max(values)}


HEADER = ("longest fsync", "worst", "suspended", "flush", "by plain write", "writes", "MiB", "FLUSHes")


def rows(speed: str, figures: dict[str, Any]) -> list[Row]:
    idle = figures["idle"]["longest_fsync_us"]
    found = [Row(f"{speed} card: longest fsync, no flush", _ms(idle)), Row(f"{speed} card", *HEADER)]
    for kind, load in figures["loads"].items():
        found += [Row(f"  {kind}, {way}", *_cells(load[way])) for way in (COWFLUSH, CLASSIC)]
        times = load["times_shorter"]
        aim = f"with cowflush's worst {times['worst']:.1f} (aim: {AIM_TIMES_SHORTER})"
        found.append(Row("    longest fsync, times shorter", f"{times['median']:.1f}", aim))
        found.append(Row(f"    in the COW: {_shape(load['cow'])}"))
    return found


def _cells(way: dict[str, dict[str, float]]) -> list[str]:
    middle = {key: values["median"] for key, values in way.items()}
    return [
        _ms(middle["longest_fsync_us"]),
        _ms(way["longest_fsync_us"]["worst"]),
        _ms(middle["stall_us"]),
        f"{middle['seconds']:.2f} s",
        f"{middle['of_plain_write']:.1f}",
        f"{middle['card_wr_operations']:.0f}",
        f"{middle['card_wr_bytes'] / MIB:.1f}",
        f"{middle['card_flush_operations']:.0f}",
    ]


def _shape(cow: dict[str, dict[str, float]]) -> str:
    middle = {key: f"{values['median']:.0f}" for key, values in cow.items()}
    chunks = f"{middle['chunks']} chunks, {middle['journal_chunks']} of them journal"
    return f"{chunks}; {middle['runs']} runs, {middle['ranges']} ranges, {middle['erase_blocks']} erase blocks"


def _ms(microseconds: float) -> str:
    return f"{microseconds / 1000:.1f} ms"
