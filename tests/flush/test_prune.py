"""Pruning leaves out what the card need not get, and nothing else: on ext2, ext3 and ext4."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from harness import Filesystem
from harness.ext import ExtImage
from harness.lab import Lab
from harness.machine import VM
from powercut import tree
from powercut.tree import Truth
from product import flushlog, logged
from product.router import LOGGED, check_settled, status

# tests/ext.rs checks which blocks are left out, without a kernel, for 28 ways to make a filesystem.
# Here are those in which the kernel's own reading and writing differs.
KINDS = [
    pytest.param("ext4", 4096),
    pytest.param("ext4", 1024, marks=pytest.mark.thorough),
    pytest.param("ext3", 1024, marks=pytest.mark.thorough),
    pytest.param("ext2", 1024, marks=pytest.mark.thorough),
]
SWITCHES = {True: "rm -f /etc/cowflush.conf", False: "echo prune = off >/etc/cowflush.conf"}
DIRECT = 20


def filesystem(kind: str, block: int, *options: str) -> Filesystem:
    return Filesystem(kind, ("-b", str(block), *options))


def change(vm: VM, number: int) -> None:
    """Makes files that stay, that grow, that go with this flush, and that go with the next."""
    vm.run(
        f"""cd /root && mkdir -p tmp && rm -f next-* &&
        for n in $(seq 6); do seq $n 9000 >tmp/gone-$n; done && sync &&
        for n in $(seq 40); do seq $n 60 >tmp/small-$n; done && sync &&
        rm -r tmp && seq {number} 12000 >stay-{number} && seq {number} 9000 >next-{number} &&
        seq {number} 300 >>grow && ln -s stay-{number} link-{number} && sync"""
    ).ok()


def flush(vm: VM) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(vm.run("cowflush flush --json", timeout=120).ok().output)[
        "flush"
    ]
    return record


def seq(number: int) -> str:
    """The SHA-256 of what `seq N 900` writes."""
    lines = "".join(f"{line}\n" for line in range(number, 901))
    return hashlib.sha256(lines.encode()).hexdigest()


def is_as(image: ExtImage, wanted: Truth) -> str:
    """What differs from what the guest's own programs found, or ""."""
    image.fsck()
    return tree.complaint(tree.on_card(image), wanted)


def check_figures(whole: dict[str, Any], pruned: dict[str, Any]) -> None:
    """Compares the figures: half a MiB came and went before each flush, and the parts add up."""
    assert pruned["pruned"] > 100 << 10 and pruned["not_pruned"] == ""
    assert pruned["bytes"] + pruned["pruned"] > whole["bytes"] * 0.8
    assert pruned["bytes"] < whole["bytes"] * 0.7
    assert whole["pruned"] == 0 and "switched off" in whole["not_pruned"]


@pytest.mark.parametrize(("kind", "block"), KINDS)
def test_with_pruning_the_card_has_the_files_that_the_guest_had(
    boot: Lab, kind: str, block: int
) -> None:
    vm = logged.start(boot, filesystem=filesystem(kind, block))
    flush(vm)
    records = []
    for number, pruning in enumerate((True, True, False), start=1):
        vm.run(SWITCHES[pruning]).ok()
        change(vm, number)
        records.append(flush(vm))
    [*pruned, whole] = records
    print(kind, block, [(record["bytes"], record["pruned"]) for record in records])
    for record in pruned:
        check_figures(whole, record)
    # These files' chunks in the log are free then.
    vm.run(f"{SWITCHES[True]} && rm /root/next-* && sync").ok()
    flushed = tree.in_guest(vm)
    flush(vm)
    vm.run("cd /root && seq 5000 >unflushed && sync").ok()
    vm.kill()
    assert {f"/root/stay-{number}" for number in range(1, 4)} <= set(flushed.files)
    assert is_as(flushlog.recovered(vm.card), flushed) == ""

    # The card is used again: a merge leaves out what is free by now, too; and in write-through mode
    # a journal begins over the remains of older ones.
    vm = boot(vm.card)
    assert tree.complaint(tree.in_guest(vm), flushed) == ""
    merge = json.loads(vm.run("cowflush merge --json", timeout=120).ok().output)
    # cowflush can't know whether an ext2 in the log was frozen.
    assert (merge["pruned"] > 0) == (kind != "ext2") and merge["merged"] > 0, merge
    vm.pause()
    assert is_as(ExtImage(vm.card.copy(boot.directory / "merged.img").fs().path), flushed) == ""
    vm.cont()
    vm.run("cowflush stop", timeout=120).ok()
    vm.run(f"cd /root && for n in $(seq {DIRECT}); do seq $n 900 >direct-$n && sync; done").ok()
    vm.kill()
    left = vm.card.fs(replay=kind != "ext2")
    direct = {f"/root/direct-{number}": seq(number) for number in range(1, DIRECT + 1)}
    hashes = left.hashes("/root")
    assert {name: hashes[name] for name in direct} == direct
    # Only the folder's time has changed.
    files, wanted = dict(tree.on_card(left).files), dict(flushed.files)
    for name in direct:
        del files[name]
    files["/root"] = wanted["/root"]
    assert tree.complaint(Truth(files), Truth(wanted)) == ""
    if kind != "ext2":
        left.fsck()


def refused(vm: VM) -> str:
    """Changes something prunable, and flushes.

    Returns why it was not pruned, as all reports say it.
    """
    change(vm, 1)
    record = flush(vm)
    assert record["pruned"] == 0 and record["bytes"] > 500 << 10
    assert (
        f"pruned     nothing at the last flush: {record['not_pruned']}"
        in vm.run("cowflush status").ok().text
    )
    assert status(vm)["last_flush"] == record
    why: str = record["not_pruned"]
    return why


@pytest.mark.thorough
def test_a_wrong_checksum_means_no_pruning_and_is_said(boot: Lab) -> None:
    per_group = 4096
    content = b"in place\n" * 2000
    card = boot.card(filesystem("ext4", 4096, "-g", str(per_group)))
    card.edit([f"write {place(boot, content)} /root/in-place"])
    group = card.fs().blocks("/root/in-place")[0] // per_group
    bitmap = card.fs().bitmap(group)
    with open(card.path, "r+b") as image:
        # Marks a free block late in the group as used.
        image.seek(card.root.start * 512 + bitmap * 4096 + per_group // 8 - 2)
        image.write(b"\1")
    vm = logged.start(boot, card=card)
    vm.run("seq 3000 | dd of=/root/in-place bs=4096 count=1 conv=notrunc 2>/dev/null; sync").ok()
    why = refused(vm)
    # The kernel may have noticed as well, and recorded it.
    assert "bitmaps has a wrong checksum" in why or "recorded errors" in why, why
    vm.kill()
    # debugfs does not read such a filesystem.
    assert boot(card).get("/root/in-place")[4096:] == content[4096:]


def place(boot: Lab, content: bytes) -> str:
    path = boot.directory / "content"
    path.write_bytes(content)
    return str(path)


@pytest.mark.thorough
def test_a_feature_that_is_not_known_means_no_pruning_and_is_said(boot: Lab) -> None:
    vm = logged.start(boot, filesystem=filesystem("ext4", 4096, "-O", "bigalloc"))
    assert "a feature that pruning does not know" in refused(vm)
    vm.kill()
    flushlog.recovered(vm.card).fsck()


@pytest.mark.thorough
def test_a_flush_of_which_nothing_is_needed(boot: Lab) -> None:
    """Only a chunk past the filesystem was written, without a log and with one."""
    card = boot.card()
    free = card.fs().unused()[0].start // 4096 + 1
    vm = boot(card, rw=False)
    for log in ((), LOGGED):
        if log:
            vm.run("cowflush log format /dev/sda2").ok()
        vm.run(
            f"""for dm in /sys/block/dm-*; do
                [ "$(cat $dm/dm/name)" != cowflush-root ] || root=/dev/${{dm##*/}}
            done
            dd if=/dev/urandom of=$root bs=4096 seek={free} count=1 conv=notrunc 2>/dev/null; sync"""
        ).ok()
        record = flush(vm)
        assert (record["bytes"], record["pruned"], record["not_pruned"]) == (0, 4096, ""), record
        check_settled(vm, log=log)
    vm.run("cowflush stop", timeout=60).ok()
    vm.kill()
    assert not [
        sector for sector in card.differing_sectors(boot.card()) if sector in card.root.sectors
    ]
