"""The flush log's commands, what the kernel command line says of it, and logs and roots that don't fit."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from vm import Card, Drive, artefacts, ext, flushlog, logged
from vm.flushlog import FlushLog
from vm.lab import Lab
from vm.machine import VM
from vm.router import LOG, LOGGED, check_settled, status

FAILED, USAGE, CARD, LOST = 1, 2, 5, 7
BOTH = pytest.mark.kernels("6.1", "6.12")
SEGMENT = {"sequence", "when", "chunks", "bytes", "state"}
NOTHING = {"merged": 0, "merge_ms": 0, "pruned": 0, "not_pruned": ""}
REPORT = {
    "version", "state", "reason", "device", "uuid", "root_uuid", "size", "used", "wear_position", "wear_rounds",
    "header_whole", "end", "damaged_chunks", "segments", "life",
}  # fmt: skip
LIFE = {"made", "segments", "bytes", "merges", "merged"}
RECOVER = {"version", "fit", "end", "damaged_chunks", "to_merge", "segments"}


def with_flushes(boot: Lab, count: int = 2) -> Card:
    """A card with flushes that are only in its log."""
    vm = logged.start(boot)
    for number in range(1, count + 1):
        logged.flush(vm, number)
    vm.kill()
    return vm.card


# --- root changed elsewhere -------------------------------------------------------------


def changed_elsewhere(boot: Lab) -> Card:
    card = with_flushes(boot)
    other = boot(card, direct=True)
    other.run("echo elsewhere >/root/elsewhere; mount -o remount,ro /").ok()
    other.poweroff()
    return card


def check_kept(vm: VM) -> None:
    """The log is not applied, it stays as it is, and everything tells how to decide."""
    why = "sda1 was changed by somebody else since the last flush"
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
    assert vm.get("/root/elsewhere") == b"elsewhere\n"
    vm.run(f"[ ! -e {logged.STATE} ]").ok()
    check_settled(vm)


@BOTH
def test_root_changed_elsewhere_and_kept(boot: Lab) -> None:
    card = changed_elsewhere(boot)
    before = FlushLog(card)
    vm = boot(card)
    check_kept(vm)
    vm.run("echo x >/root/x; cowflush flush", timeout=60).ok()
    vm.kill()
    assert FlushLog(card).segments == before.segments
    vm = boot(card)
    vm.run("cowflush log format /dev/sda2 --over cowflush-log").ok()
    assert "to the log on sda2" in vm.run("echo y >/root/y; cowflush flush", timeout=60).ok().text
    vm.kill()
    root = flushlog.recovered(card)
    root.fsck()
    assert [root.read(f"/root/{name}") for name in ("elsewhere", "x", "y")] == [
        b"elsewhere\n",
        b"x\n",
        b"y\n",
    ]


def test_root_changed_elsewhere_and_the_log_wins(boot: Lab) -> None:
    card = changed_elsewhere(boot)
    check_kept(boot(card))
    boot.vms[-1].kill()
    root, log = logged.images(card)
    refused = logged.host("recover", root, log, "--merge")
    assert refused.returncode == FAILED and "root was changed by somebody else" in refused.stderr
    assert (
        "Nothing was written" in refused.stderr and card.fs().path.read_bytes() == root.read_bytes()
    )
    assert json.loads(logged.host("recover", root, log, "--json").stdout)["fit"] == "changed"
    expected = flushlog.recovered(card).path.read_bytes()
    assert logged.host("recover", root, log, "--merge", "--force").returncode == 0
    assert root.read_bytes() == expected
    emptied = logged.host("recover", root, log, "--json")
    assert emptied.returncode == 0 and json.loads(emptied.stdout)["segments"] == []


def test_a_log_of_another_root(boot: Lab) -> None:
    """Its partition was copied to a card whose root has another UUID."""
    card = with_flushes(boot)
    other = boot.card(ext_with(uuid="c0f1a5b0-5eed-4c0f-8a5b-000000000002"))
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
    assert done.returncode == FAILED and json.loads(done.stdout)["fit"] == "foreign"


def ext_with(**options: str) -> ext.Filesystem:
    return ext.Filesystem(**options)


# --- without a stack -----------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    "append", ["cowflush=off", "initcall_blacklist=dm_snapshot_init", "initcall_blacklist=dm_init"]
)
def test_a_boot_without_a_stack_merges_first(boot: Lab, append: str) -> None:
    card = with_flushes(boot)
    vm = boot(card, append=append)
    logged.check_state(vm, 2)
    vm.run("echo x >/root/x; mount -o remount,ro /").ok()
    vm.poweroff()
    card.fsck()
    assert FlushLog(card).segments == []
    assert (card.read(logged.STATE), card.read("/root/x")) == (b"2\n", b"x\n")
    # The next boot with a stack finds an empty log that fits.
    vm = boot(card)
    logged.flush(vm, 3)
    check_settled(vm, log=LOGGED)


# --- the kernel command line ----------------------------------------------------------------


@pytest.mark.parametrize("reference", ["PARTUUID={disk}-02", "LABEL=thelog", "/dev/sda2", "auto"])
def test_the_log_by_any_name(boot: Lab, reference: str) -> None:
    vm = boot()
    vm.run("cowflush log format /dev/sda2 --label thelog").ok()
    logged.flush(vm, 1)
    vm.kill()
    again = boot(vm.card, append=f"cowflush.log={reference.format(disk=vm.card.disk_id)}")
    logged.check_state(again, 1)
    check_settled(again, log=LOGGED)


def test_a_log_that_is_not_there(boot: Lab) -> None:
    vm = boot(with_flushes(boot), append="cowflush.log=LABEL=elsewhere")
    assert (
        "cannot use the flush log cowflush.log=LABEL=elsewhere: no such device appeared"
        in logged.said(vm)
    )
    assert "no such device appeared" in vm.run("cowflush status").ok().text
    vm.run(f"[ ! -e {logged.STATE} ] && echo x >/root/x && cowflush flush", timeout=60).ok()


def test_a_log_that_is_not_wanted(boot: Lab) -> None:
    card = with_flushes(boot)
    vm = boot(card, append="cowflush.log=none cowflush.merge=lots cowflush.merge=0% cowflush.log=")
    for word in ("cowflush.merge=lots", "cowflush.merge=0%", "cowflush.log="):
        assert f"ignoring `{word}` on the kernel command line: " in logged.said(vm)
    assert "cowflush.log=none is on the kernel command line" in logged.said(vm)
    check_settled(vm)
    vm.kill()
    # Nothing was flushed past it: it still counts.
    again = boot(card)
    logged.check_state(again, 2)


# --- cowflush log format -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("ext2", "mkfs.ext2 /dev/sda2"),
        ("swap", "mkswap /dev/sda2"),
        ("vfat", "mkfs.vfat /dev/sda2"),
    ],
)
def test_format_spares_what_is_there(boot: Lab, kind: str, make: str) -> None:
    vm = boot()
    vm.run(f"{make} 2>&1").ok()
    before = vm.run("sha256sum </dev/sda2").ok().text
    for over in ("", "--over cowflush-log", "--over ext3"):
        said = vm.run(f"cowflush log format /dev/sda2 {over}").exits(USAGE).text
        assert f"cannot make a flush log of /dev/sda2: it holds {kind}." in said, said
        assert over or f"`--over {kind}`" in said
    dry = vm.run(f"cowflush log format /dev/sda2 --over {kind} --dry-run").ok().text
    assert "would make a flush log of /dev/sda2 (64.0 MiB) for /dev/sda1" in dry
    assert vm.run("sha256sum </dev/sda2").ok().text == before
    vm.run(f"cowflush log format /dev/sda2 --over {kind}").ok()
    check_settled(vm, log=LOG)
    assert "to the log on sda2" in logged.flush(vm, 1)


def test_format_refuses(boot: Lab) -> None:
    small = boot.directory / "small.img"
    small.write_bytes(bytes(512 << 10))
    vm = boot(drives=[Drive(small)])
    refusals = {
        "/dev/sda1": (USAGE, "it holds ext4"),
        "/dev/sda1 --over ext4": (FAILED, "busy|Busy"),
        "/dev/sdb": (FAILED, "it has 512.0 KiB, and a log with this erase block takes 1.0 MiB"),
        "/dev/nothing": (FAILED, "No such file"),
        "/root": (FAILED, "directory"),
        "/dev/sda2 --over ext4": (USAGE, "it does not hold what --over says"),
        "/dev/sda2 --label 12345678901234567": (USAGE, "a label has at most 16 bytes"),
        "/dev/sda2 --erase-block 3K": (USAGE, "no multiple of 4K"),
    }
    for words, (code, why) in refusals.items():
        done = vm.run(f"cowflush log format {words}")
        assert (done.code, bool(re.search(why, done.text))) == (code, True), (
            words,
            done.code,
            done.text,
        )
        assert done.text.startswith("cowflush: "), done.text
    vm.run("mkfs.ext2 /dev/sda2 >/dev/null && mkdir /run/m && mount /dev/sda2 /run/m").ok()
    assert "mounted" in vm.run("cowflush log format /dev/sda2 --over ext2").exits(FAILED).text
    vm.run("umount /run/m && cowflush log format /dev/sda2 --over ext2").ok()
    in_use = vm.run("cowflush log format /dev/sda2 --over cowflush-log").exits(FAILED).text
    assert "in use as the flush log" in in_use
    assert "to the log on sda2" in logged.flush(vm, 1)
    vm.run("cowflush log format /dev/nonsense --dry-run").fails()
    logged.check_state(vm, 1)


@BOTH
def test_format_takes_effect_at_once(boot: Lab) -> None:
    """Also while writes go through; and after a start flushes go to the log."""
    vm = boot()
    vm.run("echo before >/root/before; cowflush stop", timeout=60).ok()
    vm.run("cowflush log format /dev/sda2").ok()
    check_settled(vm, "write-through", log=LOG)
    vm.run("cowflush start").ok()
    assert "to the log on sda2" in logged.flush(vm, 1)
    vm.run("cowflush stop", timeout=60).ok()
    check_settled(vm, "write-through", log=LOG)
    assert logged.report(vm)["segments"] == []
    vm.run("echo through >/root/through; sync; cowflush start").ok()
    assert "to the log on sda2" in logged.flush(vm, 2)
    check_settled(vm, log=LOGGED)
    vm.kill()
    logged.check_card(vm.card, 2)
    assert flushlog.recovered(vm.card).read("/root/through") == b"through\n"
    again = boot(vm.card)
    logged.check_state(again, 2)


def test_an_erase_block_is_kept_to(boot: Lab) -> None:
    vm = boot()
    vm.run("cowflush log format /dev/sda2 --erase-block 128K").ok()
    for number in (1, 2, 3):
        logged.flush(vm, number)
    vm.kill()
    log = FlushLog(vm.card)
    assert log.header.align == 32 and [segment.head % 32 for segment in log.segments] == [0, 0, 0]
    logged.check_card(vm.card, 3)


# --- what they print ----------------------------------------------------------------------------


@pytest.mark.kernels("6.1", *artefacts.ELSEWHERE)
def test_json_has_the_documented_keys(boot: Lab, tmp_path: Path) -> None:
    vm = boot()
    assert json.loads(vm.run("cowflush log --json").ok().output) == {"version": 1, "state": "none"}
    assert "There is no flush log" in vm.run("cowflush log").ok().text
    assert json.loads(vm.run("cowflush merge --json").ok().output) == {**NOTHING, "card": "sda1"}
    vm.run("cowflush log format /dev/sda2").ok()
    for number in (1, 2):
        logged.flush(vm, number)
    report = logged.report(vm)
    assert set(report) == REPORT and set(report["life"]) == LIFE
    assert all(set(segment) == SEGMENT for segment in report["segments"])
    assert (report["state"], report["device"], report["end"]) == ("in-use", "/dev/sda2", "clean")
    assert report["root_uuid"] == ext.UUID
    short = status(vm)["log"]
    assert short == {"partition": "sda2", "segments": 2, "used_percent": 0}
    vm.pause()
    card, log = vm.card.copy(boot.directory / "then.img"), FlushLog(vm.card)
    vm.cont()
    assert [(s["sequence"], s["chunks"]) for s in report["segments"]] == [
        (s.sequence, len(s.olds)) for s in log.segments
    ]
    assert (
        report["used"] == log.used() * flushlog.CHUNK
        and report["size"] == log.length * flushlog.CHUNK
    )
    done = logged.host("recover", *logged.images(card), "--json")
    found = json.loads(done.stdout)
    assert set(found) == RECOVER and found["to_merge"] == len(log.live()) * flushlog.CHUNK
    assert (found["version"], found["fit"], found["end"], found["damaged_chunks"]) == (
        1,
        "fits",
        "clean",
        0,
    )
    assert found["segments"] == report["segments"]
    merged = json.loads(vm.run("cowflush merge --json", timeout=60).ok().output)
    assert (
        set(merged) == {*NOTHING, "card"}
        and merged["merged"] + merged["pruned"] == found["to_merge"]
    )
    life = logged.report(vm)["life"]
    assert (life["segments"], life["merges"], life["merged"]) == (2, 1, merged["merged"])


@pytest.mark.kernels("6.1", *artefacts.ELSEWHERE)
def test_recover_writes_nothing_unless_told(boot: Lab) -> None:
    card = with_flushes(boot)
    root, log = logged.images(card)
    before = root.read_bytes(), log.read_bytes()
    export = boot.directory / "export.img"
    for words in ([], ["--merge", "--dry-run"], ["--export", export, "--dry-run"]):
        assert logged.host("recover", root, log, *words).returncode == 0, words
        assert (root.read_bytes(), log.read_bytes()) == before and not export.exists()
    assert logged.host("recover", root, log, "--merge", "--export", export).returncode == USAGE
    export.write_bytes(b"mine")
    assert logged.host("recover", root, log, "--export", export).returncode == FAILED
    assert export.read_bytes() == b"mine"
    assert logged.host("recover", root, log, "--merge").returncode == 0
    assert root.read_bytes() == flushlog.recovered(card).path.read_bytes()


def test_a_recovery_that_fails_halfway_says_what_state_root_is_in(boot: Lab) -> None:
    """As by a card that takes no more writes, of which a limit on a file's size is the likeness."""
    card = with_flushes(boot)
    root, log = logged.images(card)
    limited = [
        "env",
        "--ignore-signal=XFSZ",
        "prlimit",
        f"--fsize={1 << 20}",
        artefacts.host_cowflush(),
    ]
    failed = subprocess.run(
        [*limited, "recover", root, log, "--merge"], capture_output=True, text=True
    )
    assert (
        failed.returncode == FAILED
        and "Root may be half merged, so don't mount it." in failed.stderr
    ), failed
    # What it says is true: the same again is all it takes.
    assert logged.host("recover", root, log, "--merge").returncode == 0
    assert root.read_bytes() == flushlog.recovered(card).path.read_bytes()
