"""Rounds of the same work, flushed each way: without a log in one guest, with a log in another."""

from __future__ import annotations

import json
import os
import statistics
from typing import Any

from bench import cowtable, ways
from bench.cards import FOLDER, Speed, journal_blocks
from bench.output import Row
from bench.ways import CLASSIC, COWFLUSH, LOGGED
from harness.card import Card
from harness.drive import Drive
from harness.lab import Lab
from harness.machine import VM

AIM_TIMES_SHORTER = 20
AIM_OVERHEAD, AIM_FLUSHES, AIM_OF_PLAIN = 0.05, 3, 1.1
MIB = 1 << 20
# How many bytes are written before a flush, by the load's key.
LOADS = {"scattered": 8 * MIB, "sequential": 8 * MIB, "logs": MIB // 4}
PLAIN_BYTES, PLAIN_BLOCK = 8 * MIB, 256 << 10
# No flush merges by itself, since merges are measured alone; and this clock loses no ticks while
# the host is busy.
ARGUMENTS = "cowflush.merge=100% tsc=reliable"
PLAIN_DISK_BYTES = 64 * MIB
# What is summed over a load's flushes, to compare it with one merge of all of them.
TOLD = ("seconds", "card_wr_operations", "card_wr_bytes", "card_flush_operations")
IDLE_SECONDS = 3
TOTAL_SECONDS = 3000
SUMMED = (
    "seconds",
    "durable_seconds",
    "flushed_bytes",
    "stall_us",
    "ram_freed_bytes",
    "longest_fsync_us",
    "median_fsync_us",
    "card_wr_operations",
    "card_wr_bytes",
    "card_flush_operations",
)
WAYS = (COWFLUSH, CLASSIC, LOGGED)


def measure(lab: Lab, card: Card, speed: Speed, rounds: int) -> dict[str, Any]:
    journal = journal_blocks(card)
    with_log, without = (
        _guest(lab, card, speed, "with-log"),
        _guest(lab, card, speed, "without-log"),
    )
    with_log.run("cowflush log format /dev/sda2").ok()
    guests = {COWFLUSH: without, CLASSIC: without, LOGGED: with_log}
    figures: dict[str, Any] = {
        "iops": speed.throttle.iops if speed.throttle else None,
        "bytes_per_second": speed.throttle.bytes_per_second if speed.throttle else None,
        "rounds": rounds,
        "idle": ways.idle(without, IDLE_SECONDS),
        "loads": {
            kind: _rounds(guests, kind, size, rounds, journal) for kind, size in LOADS.items()
        },
    }
    for vm in (with_log, without):
        vm.kill()
        vm.card.fsck()
    return figures


def _guest(lab: Lab, card: Card, speed: Speed, name: str) -> VM:
    """A guest with a second disk as fast as the card, for plain writes."""
    name = f"{speed.name}-{name}"
    plain = lab.directory / f"{name}-plain.img"
    plain.write_bytes(b"")
    os.truncate(plain, PLAIN_DISK_BYTES)
    drives = (Drive(plain, throttle=speed.throttle),)
    copy = card.copy(lab.directory / f"{name}.img")
    return lab(copy, throttle=speed.throttle, drives=drives, append=ARGUMENTS, total=TOTAL_SECONDS)


def _rounds(
    guests: dict[str, VM], kind: str, size: int, rounds: int, journal: set[int]
) -> dict[str, Any]:
    done: list[dict[str, Any]] = []
    for number in range(rounds):
        # In turn, and each way in each place, so that the host's other load affects all alike.
        for place in range(len(WAYS)):
            way = WAYS[(number + place) % len(WAYS)]
            vm = guests[way]
            # Each flush begins with an empty COW, not with what the last writer was still writing.
            vm.run("cowflush flush", timeout=ways.FLUSH_SECONDS).ok()
            vm.run(
                f"guest-tools load {kind} {FOLDER} --bytes {size} --seed {number + 1}", timeout=300
            ).ok()
            cow = cowtable.measure(vm, journal)
            plain = _plain_write(vm, cow["chunks"] * cowtable.CHUNK)
            done.append(
                {"round": number, "cow": cow, "plain_write_seconds": plain, **ways.flush(vm, way)}
            )
            done[-1].update(_ratios(done[-1]))
    return {"bytes": size, "rounds": done, **_summary(done), "merge": _merge(guests[LOGGED], done)}


def _plain_write(vm: VM, size: int) -> float:
    """Seconds to write the same amount in one piece, to a disk that is as fast as the card."""
    # At least PLAIN_BYTES are written, since the clock ticks only every 10 ms.
    blocks = max(size, PLAIN_BYTES) // PLAIN_BLOCK
    options = f"bs={PLAIN_BLOCK} count={blocks} oflag=direct conv=fsync"
    seconds = ways.timed(vm, f"dd if=/dev/zero of=/dev/sdb {options} 2>/dev/null")[1]
    return max(seconds, ways.TICK_SECONDS) * size / (blocks * PLAIN_BLOCK)


def _ratios(flush: dict[str, Any]) -> dict[str, float]:
    # The writer adds to what is flushed, so the plain write is scaled to that amount.
    plain = (
        flush["plain_write_seconds"]
        * flush["flushed_bytes"]
        / (flush["cow"]["chunks"] * cowtable.CHUNK)
    )
    return {
        "card_wr_overhead": flush["card_wr_bytes"] / flush["flushed_bytes"] - 1,
        "of_plain_write": flush["seconds"] / plain,
        "durable_of_plain_write": flush["durable_seconds"] / plain,
    }


def _merge(vm: VM, done: list[dict[str, Any]]) -> dict[str, Any]:
    """One merge of the whole log, beside the merges that the same data took without a log."""
    segments = json.loads(vm.run("cowflush log --json").ok().output)["segments"]
    before = vm.card_stats()
    text, seconds = ways.timed(vm, "cowflush merge --json")
    card = vm.card_stats() - before
    without = [one for one in done if one["way"] == COWFLUSH]
    logged = [one for one in done if one["way"] == LOGGED]
    return {
        "segments": len(segments),
        "logged_bytes": sum(segment["bytes"] for segment in segments),
        "merged_bytes": json.loads(text)["merged"],
        "seconds": seconds,
        **{f"card_{key}": getattr(card, key) for key in ways.WRITTEN},
        "flushes": {key: sum(one[key] for one in logged) for key in TOLD},
        "without_log": {key: sum(one[key] for one in without) for key in TOLD},
    }


def _summary(done: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for way in WAYS:
        mine = [one for one in done if one["way"] == way]
        summary[way] = {
            key: _middle([one[key] for one in mine]) for key in (*SUMMED, *_ratios(mine[0]))
        }
    summary["cow"] = {key: _middle([one["cow"][key] for one in done]) for key in done[0]["cow"]}
    fsync = {way: summary[way]["longest_fsync_us"] for way in (COWFLUSH, CLASSIC)}
    summary["times_shorter"] = {
        "median": fsync[CLASSIC]["median"] / fsync[COWFLUSH]["median"],
        "worst": fsync[CLASSIC]["median"] / fsync[COWFLUSH]["worst"],
    }
    return summary


def _middle(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "worst": max(values)}


TIMES = ("longest fsync", "suspended", "whole flush", "durable", "by plain write")
HEADER = (*TIMES, "writes", "MiB", "overhead", "FLUSHes")
AIMS = f"overhead {AIM_OVERHEAD:.0%}, {AIM_FLUSHES} FLUSHes, by plain write {AIM_OF_PLAIN}"


def rows(speed: str, figures: dict[str, Any]) -> list[Row]:
    idle = figures["idle"]["longest_fsync_us"]
    found = [
        Row(f"{speed} card: longest fsync, no flush", _ms(idle)),
        Row(f"{speed} card", *HEADER),
    ]
    for kind, load in figures["loads"].items():
        found += [Row(f"  {kind}, {way}", *_cells(load[way])) for way in WAYS]
        times = load["times_shorter"]
        aim = f"with cowflush's worst {times['worst']:.1f} (aim: {AIM_TIMES_SHORTER})"
        found.append(Row("    longest fsync, times shorter", f"{times['median']:.1f}", aim))
        found.append(Row("    aims with a log", "", AIMS))
        found.append(Row("    RAM", *(f"{way}: {_held(load[way])}" for way in WAYS)))
        found += _merge_rows(load["merge"])
        found.append(Row(f"    in the COW: {_shape(load['cow'])}"))
    return found


def _cells(way: dict[str, dict[str, float]]) -> list[str]:
    middle = {key: values["median"] for key, values in way.items()}
    return [
        _ms(middle["longest_fsync_us"]),
        _ms(middle["stall_us"]),
        f"{middle['seconds']:.2f} s",
        f"{middle['durable_seconds']:.2f} s",
        f"{middle['durable_of_plain_write']:.2f}",
        f"{middle['card_wr_operations']:.0f}",
        f"{middle['card_wr_bytes'] / MIB:.2f}",
        f"{middle['card_wr_overhead']:+.1%}",
        f"{middle['card_flush_operations']:.0f}",
    ]


def _held(way: dict[str, dict[str, float]]) -> str:
    return f"{way['flushed_bytes']['median'] / MIB:.1f} MiB for {way['durable_seconds']['median']:.2f} s"


def _merge_rows(merge: dict[str, Any]) -> list[Row]:
    def told(what: dict[str, Any]) -> str:
        written = f"{what['card_wr_operations']:.0f} writes, {what['card_wr_bytes'] / MIB:.1f} MiB"
        return f"{written}, {what['card_flush_operations']:.0f} FLUSHes, {what['seconds']:.2f} s"

    return [
        Row(f"    one merge of {merge['segments']} segments", told(merge)),
        Row("      and the flushes before it", told(merge["flushes"])),
        Row("      the same without a log", told(merge["without_log"])),
    ]


def _shape(cow: dict[str, dict[str, float]]) -> str:
    middle = {key: f"{values['median']:.0f}" for key, values in cow.items()}
    chunks = f"{middle['chunks']} chunks, {middle['journal_chunks']} of them journal"
    return f"{chunks}; {middle['runs']} runs, {middle['ranges']} ranges, {middle['erase_blocks']} erase blocks"


def _ms(microseconds: float) -> str:
    return f"{microseconds / 1000:.1f} ms"
