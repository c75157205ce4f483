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
from vm.router import status

MIB = 1 << 20
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
    record: dict[str, Any] = json.loads(vm.run("cowflush flush --json", timeout=120).ok().output)["flush"]
    return record


def tree(image: ExtImage) -> dict[str, str]:
    image.fsck()
    found = image.hashes("/root")
    assert {f"/root/stay-{number}" for number in range(1, 4)} <= set(found)
    return found


def three_flushes(boot: Lab, made: Filesystem, append: str) -> tuple[VM, list[dict[str, Any]]]:
    vm = logged.start(boot, filesystem=made, append=append)
    flush(vm)
    records = []
    for number in range(1, 4):
        change(vm, number)
        records.append(flush(vm))
    vm.run("cd /root && seq 5000 >unflushed && sync").ok()
    return vm, records


def after_a_cut(boot: Lab, vm: VM) -> tuple[dict[str, str], Card]:
    """The tree that the log and the card give, and the card."""
    vm.kill()
    return tree(flushlog.recovered(vm.card)), vm.card


@pytest.mark.parametrize("kind, block", KINDS)
def test_with_pruning_and_without_the_files_are_the_same(boot: Lab, kind: str, block: int) -> None:
    made = filesystem(kind, block)
    vm, pruned = three_flushes(boot, made, "")
    with_pruning, card = after_a_cut(boot, vm)
    vm, whole = three_flushes(boot, made, OFF)
    without, _ = after_a_cut(boot, vm)
    assert with_pruning == without
    print(kind, block, "pruned", [(r["bytes"], r["pruned"]) for r in pruned], "whole", [r["bytes"] for r in whole])
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
    assert {name: found[name] for name in found if name not in direct} == with_pruning and len(direct) == 20
    if kind != "ext2":
        left.fsck()
