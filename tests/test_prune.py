"""What needn't reach the card does not, and nothing else is missing: with pruning and without, on ext2, ext3 and ext4."""

from __future__ import annotations

import json
from typing import Any

import pytest
from vm import Filesystem, flushlog, logged
from vm.card import Card
from vm.ext import ExtImage
from vm.lab import Lab
from vm.machine import VM
from vm.router import LOGGED, check_settled, status

KINDS = [(kind, size) for kind in ("ext2", "ext3", "ext4") for size in (1024, 4096)]
OFF = "cowflush.prune=off"


def filesystem(kind: str, block: int, *options: str) -> Filesystem:
    return Filesystem(kind, ("-b", str(block), *options))


def change(vm: VM, number: int) -> None:
    """Files that stay, that grow, that go with this flush, and that the next one deletes."""
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


def tree(image: ExtImage) -> dict[str, str]:
    image.fsck()
    found = image.hashes("/root")
    assert {f"/root/stay-{number}" for number in range(1, 4)} <= set(found)
    return found


def three_flushes(boot: Lab, made: Filesystem, append: str) -> tuple[VM, list[dict[str, Any]]]:
    """A guest that has changed much and flushed, and the records of three of its flushes."""
    vm = logged.start(boot, filesystem=made, append=append)
    flush(vm)
    records = []
    for number in range(1, 4):
        change(vm, number)
        records.append(flush(vm))
    # What the log holds of these is free then.
    vm.run("rm /root/next-* && sync").ok()
    flush(vm)
    vm.run("cd /root && seq 5000 >unflushed && sync").ok()
    return vm, records


def after_a_cut(boot: Lab, vm: VM) -> tuple[dict[str, str], Card]:
    """The tree that the log and the card give, and the card."""
    vm.kill()
    return tree(flushlog.recovered(vm.card)), vm.card


@pytest.mark.parametrize(("kind", "block"), KINDS)
def test_with_pruning_and_without_the_files_are_the_same(boot: Lab, kind: str, block: int) -> None:
    made = filesystem(kind, block)
    vm, pruned = three_flushes(boot, made, "")
    with_pruning, card = after_a_cut(boot, vm)
    vm, whole = three_flushes(boot, made, OFF)
    without, _ = after_a_cut(boot, vm)
    assert with_pruning == without
    print(
        kind,
        block,
        "pruned",
        [(r["bytes"], r["pruned"]) for r in pruned],
        "whole",
        [r["bytes"] for r in whole],
    )
    for number in range(3):
        # Half a MiB came and went before each flush.
        assert pruned[number]["pruned"] > 100 << 10 and pruned[number]["not_pruned"] == ""
        assert pruned[number]["bytes"] + pruned[number]["pruned"] > whole[number]["bytes"] * 0.8
        assert pruned[number]["bytes"] < whole[number]["bytes"] * 0.7
        assert whole[number]["pruned"] == 0 and "switched off" in whole[number]["not_pruned"]

    # The card goes on: a merge leaves out what is free by now, too; and in write-through mode a
    # journal begins over what is left of older ones.
    vm = boot(card)
    merge = json.loads(vm.run("cowflush merge --json", timeout=120).ok().output)
    # Whether an ext2 in the log was frozen is not known.
    assert (merge["pruned"] > 0) == (kind != "ext2") and merge["merged"] > 0, merge
    vm.pause()
    assert tree(ExtImage(vm.card.copy(boot.directory / "merged.img").fs().path)) == with_pruning
    vm.cont()
    vm.run("cowflush stop", timeout=120).ok()
    vm.run("cd /root && for n in $(seq 20); do seq $n 900 >direct-$n && sync; done").ok()
    vm.kill()
    left = card.fs(replay=kind != "ext2")
    found = left.hashes("/root")
    direct = {name for name in found if "/direct-" in name}
    assert {name: found[name] for name in found if name not in direct} == with_pruning and len(
        direct
    ) == 20
    if kind != "ext2":
        left.fsck()


def refused(vm: VM) -> str:
    """Changes something that could be pruned, and flushes. Returns why it was not, as everybody is told."""
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


def test_a_wrong_checksum_means_no_pruning_and_is_said(boot: Lab) -> None:
    per_group = 4096
    content = b"in place\n" * 2000
    card = boot.card(filesystem("ext4", 4096, "-g", str(per_group)))
    card.edit([f"write {place(boot, content)} /root/in-place"])
    group = card.fs().blocks("/root/in-place")[0] // per_group
    bitmap = card.fs().bitmap(group)
    with open(card.path, "r+b") as image:
        # A free block late in the group becomes a used one.
        image.seek(card.root.start * 512 + bitmap * 4096 + per_group // 8 - 2)
        image.write(b"\1")
    vm = logged.start(boot, card=card)
    vm.run("seq 3000 | dd of=/root/in-place bs=4096 count=1 conv=notrunc 2>/dev/null; sync").ok()
    why = refused(vm)
    # The kernel may have noticed as well, and noted it.
    assert "bitmaps has a wrong checksum" in why or "recorded errors" in why, why
    vm.kill()
    # debugfs does not look at such a filesystem.
    assert boot(card).get("/root/in-place")[4096:] == content[4096:]


def place(boot: Lab, content: bytes) -> str:
    path = boot.directory / "content"
    path.write_bytes(content)
    return str(path)


def test_a_feature_that_is_not_known_means_no_pruning_and_is_said(boot: Lab) -> None:
    vm = logged.start(boot, filesystem=filesystem("ext4", 4096, "-O", "bigalloc"))
    assert "a feature that pruning does not know" in refused(vm)
    vm.kill()
    flushlog.recovered(vm.card).fsck()


def test_a_flush_of_which_nothing_is_needed(boot: Lab) -> None:
    """Without a log and with one: only a chunk that no file uses was written, past the filesystem."""
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
