"""The flush log's commands, its kernel arguments, and logs and roots that don't fit.

Tests that need no guest are in test_log_host.py. Most cards here have flushes in their log that the
second writer put there.
"""

from __future__ import annotations

import filecmp
import re
import uuid

import pytest

from harness import Card, Drive, ext
from harness.ext import Filesystem
from harness.lab import Lab
from harness.machine import VM
from product import flushlog, jsondoc, logged
from product.flushlog import CHUNK, FlushLog
from product.router import LOG, LOGGED, check_settled, status

FAILED, USAGE, LOST = 1, 2, 7
BOTH = pytest.mark.kernels("6.1", "6.12")
OTHER = "c0f1a5b0-5eed-4c0f-8a5b-000000000002"
# The board's root, and a log that is soon full
SMALL_LOG = """label: dos
label-id: 0xc0f1a586
1: start=8192, size=245760, type=83
2: start=253952, size=6144, type=da
"""


def with_flushes(boot: Lab, label: bytes = b"") -> Card:
    """A card with two flushes that are only in its log."""
    return logged.made(boot.card(), 2, label)


# --- root changed elsewhere -------------------------------------------------------------


def check_kept(vm: VM) -> None:
    """Checks that the log is neither applied nor changed, and that reports say how to decide."""
    why = "sda1 is not as its last flush left it"
    assert f"cannot use the flush log on /dev/sda2: {why}. The log is kept" in logged.said(vm)
    for text in (
        vm.run("cowflush status").ok().text,
        vm.run("cowflush log").ok().text,
        logged.said(vm),
    ):
        assert (
            why in text
            and "--over cowflush-log" in text
            and "--merge --force" in " ".join(text.split())
        ), text
    found = logged.report(vm)
    assert found["state"] == "kept" and why in found["reason"] and len(found["segments"]) == 2
    assert status(vm)["log"] is None and why in status(vm)["log_kept"]
    assert vm.get("/root/elsewhere") == b"elsewhere\n"
    vm.run(f"[ ! -e {logged.STATE} ]").ok()
    check_settled(vm)


def test_root_changed_elsewhere_and_kept(boot: Lab) -> None:
    card = with_flushes(boot)
    other = boot(card, direct=True)
    other.run("echo elsewhere >/root/elsewhere; mount -o remount,ro /").ok()
    other.poweroff()
    before = FlushLog(card)
    vm = boot(card)
    check_kept(vm)
    vm.run("echo x >/root/x; cowflush flush", timeout=60).ok()
    assert FlushLog(vm.cut_copy(boot.directory / "kept.img")).segments == before.segments
    vm.run("cowflush log format /dev/sda2 --over cowflush-log").ok()
    assert "to the log on sda2" in vm.run("echo y >/root/y; cowflush flush", timeout=60).ok().text
    vm.kill()
    root = flushlog.recovered(card)
    root.fsck()
    assert {name: root.read(f"/root/{name}") for name in ("elsewhere", "x", "y")} == {
        "elsewhere": b"elsewhere\n",
        "x": b"x\n",
        "y": b"y\n",
    }
    assert set(root.hashes("/root")) == {"/root/elsewhere", "/root/x", "/root/y"}


@pytest.mark.thorough
def test_a_log_of_another_root(boot: Lab) -> None:
    """Its partition was copied to a card whose root has another UUID."""
    card = with_flushes(boot)
    other = boot.card(Filesystem(uuid=OTHER))
    flushlog.write(other, 0, flushlog.log_image(card, boot.directory / "log.img").read_bytes())
    vm = boot(other, root="/dev/sda1", append="cowflush.log=/dev/sda2")
    assert (
        "cannot use the flush log on /dev/sda2: it belongs to another root than sda1"
        in logged.said(vm)
    )
    assert "it belongs to another root" in vm.run("cowflush status").ok().text
    vm.run(f"[ ! -e {logged.STATE} ] && echo x >/root/x && cowflush flush", timeout=60).ok()
    vm.kill()
    assert FlushLog(other).sequences == [1, 2]
    done = logged.host("recover", *logged.images(other), "--json")
    assert done.returncode == FAILED
    assert jsondoc.parse("recover", done.stdout)["fit"] == "foreign"


# --- without a stack -----------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    "append",
    [
        "cowflush=off",
        pytest.param("initcall_blacklist=dm_snapshot_init", marks=pytest.mark.thorough),
        pytest.param("initcall_blacklist=dm_init", marks=pytest.mark.thorough),
    ],
)
def test_a_boot_without_a_stack_merges_first(boot: Lab, append: str) -> None:
    card = with_flushes(boot)
    vm = boot(card, append=append)
    logged.check_state(vm, 2)
    vm.run("mount -o remount,ro /").ok()
    vm.poweroff()
    assert FlushLog(card).segments == []
    logged.check_card(card, 2)
    # The next boot with a stack finds an empty log that fits.
    vm = boot(card)
    assert "to the log on sda2" in logged.flush(vm, 3)
    check_settled(vm, log=LOGGED)
    vm.kill()
    logged.check_card(card, 3)


# --- the kernel command line ----------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("reference", ["PARTUUID={disk}-02", "LABEL=thelog", "/dev/sda2", "auto"])
def test_the_log_by_any_name(boot: Lab, reference: str) -> None:
    card = with_flushes(boot, label=b"thelog")
    vm = boot(card, append=f"cowflush.log={reference.format(disk=card.disk_id)}")
    logged.check_state(vm, 2)
    check_settled(vm, log=LOGGED)


@pytest.mark.thorough
def test_a_log_that_is_not_there(boot: Lab) -> None:
    vm = boot(with_flushes(boot), append="cowflush.log=LABEL=elsewhere")
    assert (
        "cannot use the flush log cowflush.log=LABEL=elsewhere: no such device appeared"
        in logged.said(vm)
    )
    assert (
        "no such device appeared; of sda1 is sda2 (2 flushes" in vm.run("cowflush status").ok().text
    )
    vm.run(f"[ ! -e {logged.STATE} ] && echo x >/root/x && cowflush flush", timeout=60).exits(
        FAILED
    )
    vm.run("cowflush release && cowflush flush", timeout=60).ok()


@pytest.mark.thorough
def test_a_log_that_is_not_wanted(boot: Lab) -> None:
    card = with_flushes(boot)
    vm = boot(card, append="cowflush.log=none cowflush.merge=lots cowflush.merge=0% cowflush.log=")
    for word in ("cowflush.merge=lots", "cowflush.merge=0%", "cowflush.log="):
        assert f"ignoring `{word}` on the kernel command line: " in logged.said(vm)
    assert "cowflush.log=none is on the kernel command line" in logged.said(vm)
    check_settled(vm)
    vm.kill()
    # Nothing was flushed past the log: it still counts.
    again = boot(card)
    logged.check_state(again, 2)


# --- cowflush log format -----------------------------------------------------------------------


def test_format_spares_what_is_there_and_what_is_in_use(boot: Lab) -> None:
    small = boot.directory / "small.img"
    small.write_bytes(bytes(512 << 10))
    vm = boot(drives=[Drive(small)])
    refusals = {
        "/dev/sda1": (USAGE, "it holds ext4"),
        "/dev/sda1 --over ext4": (FAILED, "busy|Busy"),
        "/dev/sdb": (FAILED, "it has 512.0 KiB, and a log with this erase block takes 1.0 MiB"),
        "/dev/nothing": (FAILED, "No such file"),
        "/root": (FAILED, "directory"),
    }
    before = vm.card_stats().wr_operations
    for words, (code, why) in refusals.items():
        said = vm.run(f"cowflush log format {words}").exits(code).text
        assert re.search(why, said) and said.startswith("cowflush: "), (words, said)
    assert vm.card_stats().wr_operations == before
    # The host's tests tell the other formats apart; these two are made by their own tools.
    for kind, make in (("swap", "mkswap /dev/sda2"), ("ext2", "mkfs.ext2 /dev/sda2")):
        vm.run(f"{make} >/dev/null 2>&1 && sync").ok()
        before = vm.card_stats().wr_operations
        said = vm.run("cowflush log format /dev/sda2").exits(USAGE).text
        assert f"it holds {kind}." in said and f"`--over {kind}`" in said
        dry = vm.run(f"cowflush log format /dev/sda2 --over {kind} --dry-run").ok().text
        assert dry == "would make a flush log of /dev/sda2 (64.0 MiB) for /dev/sda1\n"
        assert vm.card_stats().wr_operations == before
    vm.run("mkdir /run/m && mount -o ro /dev/sda2 /run/m").ok()
    assert "mounted" in vm.run("cowflush log format /dev/sda2 --over ext2").exits(FAILED).text
    vm.run("umount /run/m && cowflush log format /dev/sda2 --over ext2").ok()
    check_settled(vm, log=LOG)
    in_use = vm.run("cowflush log format /dev/sda2 --over cowflush-log").exits(FAILED).text
    assert "in use as the flush log" in in_use
    assert "to the log on sda2" in logged.flush(vm, 1)
    vm.run("cowflush log format /dev/nonsense --dry-run").exits(FAILED)
    vm.kill()
    logged.check_card(vm.card, 1)


@pytest.mark.thorough
@BOTH
def test_format_takes_effect_at_once(boot: Lab) -> None:
    """The log takes effect even while writes go through.

    After a start flushes go to the log, each to an erase block's start.
    """
    vm = boot()
    vm.run("cowflush stop", timeout=60).ok()
    vm.run("cowflush log format /dev/sda2 --erase-block 128K").ok()
    check_settled(vm, "write-through", log=LOG)
    vm.run("cowflush start").ok()
    assert "to the log on sda2" in logged.flush(vm, 1)
    vm.run("cowflush stop", timeout=60).ok()
    check_settled(vm, "write-through", log=LOG)
    assert logged.report(vm)["segments"] == []
    vm.run("echo through >/root/through; sync; cowflush start").ok()
    assert "to the log on sda2" in logged.flush(vm, 2) and "to the log" in logged.flush(vm, 3)
    check_settled(vm, log=LOGGED)
    vm.kill()
    log = FlushLog(vm.card)
    assert log.header.align == 32 and len(log.segments) == 2
    assert [segment.head % 32 for segment in log.segments] == [0, 0]
    logged.check_card(vm.card, 3, besides=["/root/through"])
    assert flushlog.recovered(vm.card).read("/root/through") == b"through\n"
    again = boot(vm.card)
    logged.check_state(again, 3)


# --- what they print ----------------------------------------------------------------------------


def segment_bytes(chunks: int) -> int:
    """A segment's size on the card: head and table, data, commit record."""
    return (-(-(flushlog.RECORD + chunks * flushlog.ENTRY.size) // CHUNK) + chunks + 1) * CHUNK


def test_what_the_log_prints_is_documented_and_true(boot: Lab) -> None:
    """Its figures match what QEMU says the card got, and what the second reader finds there."""
    vm = boot()
    none = vm.run("cowflush log --json").ok().output
    assert jsondoc.parse(jsondoc.NO_LOG, none) == {"version": 1, "state": "none"}
    assert "There is no flush log" in vm.run("cowflush log").ok().text
    merge = "cowflush merge --json"
    nothing = {"card": "sda1", "merged": 0, "merge_ms": 0, "pruned": 0, "not_pruned": ""}
    assert jsondoc.parse("merge", vm.run(merge).ok().output) == nothing
    clock = int(vm.run("date +%s").ok().text)
    vm.run("cowflush log format /dev/sda2").ok()
    assert jsondoc.parse("merge", vm.run(merge).ok().output) == nothing
    flushed = []
    for number in (1, 2):
        vm.run(f"echo {number} >{logged.STATE} && seq {number} 3000 >/root/f{number}; sync").ok()
        before = vm.card_stats()
        done = jsondoc.parse("flush", vm.run("cowflush flush --json").ok().output)
        got = vm.card_stats() - before
        record = done["flush"]
        assert (done["card"], done["complete"]) == ("sda1", True)
        assert record["bytes"] == record["logged"] > 3 * CHUNK and record["merged"] == 0
        assert got.wr_bytes == segment_bytes(record["logged"] // CHUNK)
        assert got.flush_operations == 2
        assert 0 <= record["log_ms"] <= record["took_ms"] and record["merge_ms"] == 0
        assert status(vm)["last_flush"] == record
        flushed.append(record["logged"])

    report = logged.report(vm)
    log = FlushLog(vm.cut_copy(boot.directory / "then.img"))
    now = int(vm.run("date +%s").ok().text)
    assert (report["version"], report["state"], report["reason"]) == (1, "in-use", "")
    assert (report["device"], report["end"]) == ("/dev/sda2", "clean")
    assert report["uuid"] == str(uuid.UUID(bytes=log.header.uuid))
    assert report["root_uuid"] == ext.UUID
    assert (report["size"], report["used"]) == (log.length * CHUNK, log.used() * CHUNK)
    assert report["size"] == vm.card.log.size * 512 - 2 * CHUNK
    assert (report["wear_position"], report["wear_rounds"]) == ((1 + log.used()) * CHUNK, 0)
    assert (report["header_whole"], report["damaged_chunks"]) == (True, 0)
    assert [(s["sequence"], s["chunks"], s["bytes"]) for s in report["segments"]] == [
        (s.sequence, len(s.olds), size) for s, size in zip(log.segments, flushed, strict=True)
    ]
    assert all(s["state"] == "committed" for s in report["segments"])
    assert all(clock <= s["when"] <= now for s in report["segments"])
    life = report["life"]
    assert clock <= life.pop("made") <= now
    assert life == {"segments": 2, "bytes": sum(flushed), "merges": 0, "merged": 0}
    verified = vm.run("cowflush log --verify --json").ok().output
    assert jsondoc.parse("log", verified)["segments"] == report["segments"]
    used = 100 * log.used() // log.length
    short = {"partition": "sda2", "state": "clean", "segments": 2, "used_percent": used}
    assert status(vm)["log"] == short
    # Nothing has reached root's own partition yet.
    assert status(vm)["reached_card"] == {"requests": 0, "bytes": 0}

    before = vm.card_stats()
    merged = jsondoc.parse("merge", vm.run(merge, timeout=60).ok().output)
    got = vm.card_stats() - before
    assert merged["card"] == "sda1" and merged["not_pruned"] == ""
    assert merged["merged"] + merged["pruned"] == len(log.live()) * CHUNK
    # Root, and both copies of the log's header
    assert got.wr_bytes == merged["merged"] + 2 * CHUNK
    assert status(vm)["reached_card"]["bytes"] == merged["merged"]
    after = logged.report(vm)
    assert after["segments"] == [] and after["used"] == 0
    assert after["wear_position"] == report["wear_position"]
    assert {key: after["life"][key] for key in life} == {
        "segments": 2,
        "bytes": sum(flushed),
        "merges": 1,
        "merged": merged["merged"],
    }
    history = jsondoc.parse("history", vm.run("cowflush history --json").ok().output)
    assert history["life"] == after["life"]
    assert [flush["logged"] for flush in history["flushes"]] == flushed


# --- the card as others read it -------------------------------------------------------------------


def test_a_second_reader_agrees_on_every_state_of_a_log(boot: Lab) -> None:
    """Empty, with one flush and several, merged, wrapped around, damaged at its end.

    `recover` on the host makes the same of the card, byte for byte, and the guest's files are in
    it.
    """
    vm = boot(boot.card(partitions=SMALL_LOG))
    vm.run("cowflush log format /dev/sda2").ok()
    big = ""

    def look(name: str, number: int, flushes: int) -> Card:
        card = vm.cut_copy(boot.directory / f"{name}.img")
        found = logged.found_by_host(card)
        assert (len(found["segments"]), found["fit"], found["end"]) == (flushes, "fits", "clean")
        if number:
            logged.check_card(card, number, besides=["/root/big"] if big else [])
        if big:
            assert flushlog.recovered(card).hashes("/root")["/root/big"] == big
        return card

    look("empty", 0, 0)
    logged.flush(vm, 1)
    look("one", 1, 1)
    logged.flush(vm, 2)
    logged.flush(vm, 3)
    look("several", 3, 3)
    vm.run("cowflush merge", timeout=60).ok()
    look("merged", 3, 0)
    number, wrapped = 3, False
    # Each flush takes a quarter of the ring, and every third merges.
    while not wrapped:
        number += 1
        vm.run("dd if=/dev/urandom of=/root/big bs=4k count=190 2>/dev/null").ok()
        big = vm.run("sha256sum /root/big").ok().text.split()[0]
        logged.flush(vm, number)
        assert number < 12
        log = FlushLog(vm.cut_copy(boot.directory / "around.img"))
        wrapped = any(list(s.places) != sorted(s.places) for s in log.segments)
    look("around", number, len(log.segments))
    before = big
    vm.run("echo small >/root/big").ok()
    big = vm.run("sha256sum /root/big").ok().text.split()[0]
    logged.flush(vm, number + 1)
    card = look("then", number + 1, len(log.segments) + 1)

    log = FlushLog(card)
    youngest = log.segments[-1]
    flushlog.flip(card, max(set(youngest.places) & set(log.live().values())), 99)
    found = logged.found_by_host(card, LOST)
    assert (found["end"], len(found["segments"])) == ("damaged", len(log.segments) - 1)
    logged.check_card(card, number, besides=["/root/big"])
    assert flushlog.recovered(card).hashes("/root")["/root/big"] == before


def test_recover_works_on_devices_and_refuses_those_in_use(boot: Lab) -> None:
    """The guest's second disk plays a card in a reader."""
    other = logged.made(boot.card(Filesystem(uuid=OTHER)), 2)
    expected = flushlog.recovered(other).path
    vm = boot(drives=[Drive(other.path)])
    recover = "cowflush recover /dev/sdb1 /dev/sdb2"
    assert "2 flushes in the log" in vm.run(recover).ok().text
    looked = jsondoc.parse("recover", vm.run(f"{recover} --json").ok().output)
    assert looked["fit"] == "fits" and len(looked["segments"]) == 2
    assert "would write" in vm.run(f"{recover} --merge --dry-run").ok().text
    vm.run(f"{recover} --export /run/export.img", timeout=60).ok()
    made = vm.run("sha256sum </run/export.img; rm /run/export.img", timeout=60).ok().text.split()[0]
    # A mounted root, even a read-only one, can't be written under its filesystem.
    vm.run("mkdir /run/m").ok()
    for options in ("ro", "ro,noload"):
        vm.run(f"mount -o {options} /dev/sdb1 /run/m").ok()
        said = vm.run(f"{recover} --merge").exits(FAILED).text
        assert "cannot open /dev/sdb1" in said and "Is it mounted" in said, said
        vm.run("umount /run/m").ok()
    assert vm.card_stats(1).wr_operations == 0
    # Nor this system's own root, or its log.
    vm.run("cowflush log format /dev/sda2").ok()
    logged.flush(vm, 1)
    before = vm.card_stats().wr_operations
    own = "cowflush recover /dev/sda1 /dev/sda2"
    assert jsondoc.parse("recover", vm.run(f"{own} --json").ok().output)["fit"] == "fits"
    assert "cannot open /dev/sda2" in vm.run(f"{own} --merge").exits(FAILED).text
    refused = vm.run("cowflush recover /dev/sda1 /dev/sdb2 --merge --force").exits(FAILED).text
    assert "cannot open /dev/sda1" in refused
    assert vm.card_stats().wr_operations == before
    assert vm.card_stats(1).wr_operations == 0

    assert "merged " in vm.run(f"{recover} --merge", timeout=60).ok().text
    # Durable when it returns: root, then each of the two headers
    assert vm.card_stats(1).flush_operations >= 3
    vm.run("mount -o ro /dev/sdb1 /run/m && [ $(cat /run/m/root/state) = 2 ]").ok()
    vm.kill()
    root = other.fs()
    assert filecmp.cmp(root.path, expected, shallow=False)
    assert made == logged.content_digest(expected)
    logged.check_root(root, 2)
    log = FlushLog(other)
    assert log.segments == [] and log.whole
    logged.check_card(vm.card, 1)
