"""Whose log it is: one with flushes is never ignored, and while in doubt nothing is flushed."""

from __future__ import annotations

import subprocess
import uuid
from pathlib import Path
from random import Random

import pytest

from harness import Card, artefacts, ext, local
from harness.boot import HURRIED, NO_LONG_JUMP
from harness.drive import Drive
from harness.lab import Lab
from harness.machine import VM
from harness.sparse import SECTOR
from product import daemon, flushlog, jsondoc, logged
from product.flushlog import FlushLog

DONE, FAILED, USAGE = 0, 1, 2
MIB = (1 << 20) // SECTOR
# Root with room to grow, and two partitions that could be its log
TWO_LOGS = "label: dos\nlabel-id: 0xc0f1a586\n1: start=8192, size=200000, type=83\n" + "".join(
    f"{n}: start={start}, size={16 * MIB}, type=da\n" for n, start in ((2, 320000), (3, 400000))
)
RENAMED = str(uuid.UUID(int=586))


class OnCard:
    """A card's log in another of its partitions."""

    def __init__(self, card: Card, number: int, path: Path | None = None) -> None:
        self.path, self.log = path or card.path, card.partitions[number - 1]


def with_another_uuid(image: Path) -> None:
    """Gives the image another UUID, as our own advice has it for a copied card."""
    for command in (["e2fsck", "-fp"], ["tune2fs", "-U", RENAMED]):
        done = local.run([*command, str(image)], capture_output=True, env=ext_path())
        assert done.returncode < 2, done


def ext_path() -> dict[str, str]:
    return dict(ext.PATH)


def recovered(card: Card, number: int) -> ext.ExtImage:
    """Root with the flushes of the log on partition `number`."""
    root = card.fs()
    FlushLog(OnCard(card, number)).apply(root.path)
    return root


def writes(vm: VM) -> int:
    return vm.card_stats().wr_operations


# --- a root that is not what the header says, a log beside an empty one --------------------------


def test_a_log_with_flushes_is_found_whatever_became_of_its_root(boot: Lab) -> None:
    """A log is found beside an empty one that an older version made.

    Root has another UUID in the log than on the card; then it has grown; then its first chunk is
    torn.
    """
    card = boot.card(partitions=TWO_LOGS)
    logged.made(card, 0, log=card.partitions[1])
    logged.made(card, 2, log=card.partitions[2], last=with_another_uuid)
    # No partition has that UUID. The log knows whose it is.
    vm = boot(card, root=f"UUID={RENAMED}")
    said = logged.said(vm)
    assert f"root=UUID={RENAMED} is sda1 as its flush log has it" in said
    assert "the flush log on sda3 holds 2 flushes" in said
    assert "the flush log on sda3 now belongs to sda1 as it is" in said
    logged.check_state(vm, 2)
    assert FlushLog(OnCard(vm.cut_copy(boot.directory / "then.img"), 3)).header.root_uuid == (
        uuid.UUID(RENAMED).bytes
    )
    # Two logs would hide each other.
    before = writes(vm)
    refused = vm.run("cowflush log format /dev/sda2 --over cowflush-log").exits(USAGE).text
    assert "it has one: sda3, in use" in refused
    assert writes(vm) == before
    assert "to the log on sda3" in logged.flush(vm, 3)
    vm.kill()

    grow(card)
    vm = boot(card)
    assert "the flush log on sda3 holds 3 flushes" in logged.said(vm)
    logged.check_state(vm, 3)
    assert "to the log on sda3" in logged.flush(vm, 4)
    vm.kill()
    card = Card(card.path)
    header = FlushLog(OnCard(card, 3)).header
    assert (header.root_sectors, header.root_start) == (card.root.size, card.root.start)

    # A card that lost its power while a merge wrote the superblock's chunk
    whole = recovered(card, 3).hashes("/root")
    with open(card.path, "r+b") as image:
        image.seek(card.root.start * SECTOR)
        image.write(Random(586).randbytes(flushlog.CHUNK))
    for root in (f"UUID={RENAMED}", "LABEL=root"):
        vm = boot(card, root=root)
        assert f"root={root} is sda1 as its flush log has it" in logged.said(vm)
        logged.check_state(vm, 4)
        if root.startswith("LABEL"):
            vm.run("cowflush merge", timeout=60).ok()
        vm.kill()
    files = card.fs()
    files.fsck()
    assert files.hashes("/root") == whole


def grow(card: Card) -> None:
    """Gives root's partition the space after it."""
    script = TWO_LOGS.replace("size=200000", "size=300000").encode()
    done = subprocess.run(
        ["sfdisk", "--quiet", "--no-reread", str(card.path)],
        input=script,
        capture_output=True,
        env={"PATH": ext.PATH["PATH"]},
        check=False,
    )
    assert done.returncode == 0, done.stderr


# --- in doubt ----------------------------------------------------------------------------------


def check_held(vm: VM, why: str) -> None:
    """Checks that nothing reaches the card, and that every command says what it waits for."""
    assert why in logged.said(vm)
    text = vm.run("cowflush status").ok().text
    assert why in text and "nothing reaches the card until you decide" in text
    report = jsondoc.parse("status", vm.run("cowflush status --json").ok().output)
    assert why in report["log_kept"] and report["held_since"] is not None
    check = vm.run("cowflush check").ok().text
    assert why in check and "until you decide" in check
    before = writes(vm)
    vm.run("echo x >/root/x; sync").ok()
    for command, words in (
        ("flush", "cannot flush: since "),
        ("flush --direct", "cannot flush: since "),
        ("merge", "cannot merge: since "),
        ("stop", "cannot stop: since "),
    ):
        said = vm.run(f"cowflush {command}").exits(FAILED).text
        assert words in said and "the owner's word about the flush log is waited for" in said, said
        assert "`cowflush release` goes on without them" in said
    # A service's first command: a daemon has to watch the COW meanwhile.
    assert "started already" in vm.run("cowflush start").ok().text
    assert writes(vm) == before


def test_two_logs_with_flushes_hold_everything_until_the_owner_has_decided(boot: Lab) -> None:
    card = boot.card(partitions=TWO_LOGS)
    for number, count in ((2, 1), (3, 2)):
        logged.made(card, count, log=card.partitions[number - 1])
    ids = [uuid.UUID(bytes=FlushLog(OnCard(card, number)).header.uuid) for number in (2, 3)]
    vm = boot(card)
    why = f"it may be sda2 (1 flushes, UUID={ids[0]}) or sda3 (2 flushes, UUID={ids[1]})"
    check_held(vm, why)
    vm.run(f"[ ! -e {logged.STATE} ]").ok()
    vm.put("/etc/cowflush.conf", b"interval=1s\nsize=16M\n")
    daemon.begin(vm)
    before = writes(vm)
    # A COW that gets full does not end this either: writers wait.
    vm.start("while :; do n=$((n + 1)); head -c 1048576 /dev/urandom >/root/$n; done")
    vm.wait_console("THE COW IS FULL, and nothing may be flushed before you have decided", 60)
    assert writes(vm) == before
    assert "what was held is flushed now" not in vm.console
    vm.kill()
    # Both are as they were. Naming one is a decision.
    vm = boot(card, append=f"cowflush.log=UUID={ids[1]}")
    logged.check_state(vm, 2)
    vm.kill()
    # So is wiping one.
    vm = boot(card)
    vm.run("dd if=/dev/zero of=/dev/sda3 bs=1M 2>/dev/null; sync").ok()
    vm.kill()
    vm = boot(card)
    logged.check_state(vm, 1)
    assert "to the log on sda2" in logged.flush(vm, 2)
    vm.kill()
    root = recovered(Card(card.path), 2)
    logged.check_root(root, 2)


def test_without_a_stack_nobody_writes_past_a_log_that_is_in_doubt(boot: Lab) -> None:
    """Nor does an fstab, or an owner who does not know of it. Both ways out work."""
    card = boot.card(partitions=TWO_LOGS)
    for number, count in ((2, 1), (3, 2)):
        logged.made(card, count, log=card.partitions[number - 1])
    ids = [uuid.UUID(bytes=FlushLog(OnCard(card, number)).header.uuid) for number in (2, 3)]
    plain = "initcall_blacklist=dm_snapshot_init"
    for line, words in (
        (
            "root is the plain card sda1 (ro), as cowflush=off says: writes are refused.",
            "cowflush=off",
        ),
        ("root is the plain card sda1 (ro), since it has no stack: writes are refused.", plain),
    ):
        vm = boot(card, append=words)
        said = logged.said(vm)
        assert line in said
        assert "what is written to root makes the flushes useless that may be in" in said
        vm.run("mount -o remount,rw /; ! touch /root/x && grep -qx 1 /sys/class/block/sda1/ro").ok()
        vm.run("dd if=/dev/zero of=/dev/sda1 bs=4k count=1").exits(1)
        assert writes(vm) == 0
        vm.kill()
    vm = boot(card, append=f"cowflush.log=UUID={ids[1]}")
    logged.check_state(vm, 2)
    vm.kill()
    vm = boot(card, append=plain)
    vm.run("blockdev --setrw /dev/sda1 && mount -o remount,rw / && echo x >/root/x && sync").ok()
    vm.kill()
    vm = boot(card, append=f"{plain} cowflush.log=none")
    through = "root is the plain card sda1 (rw), since it has no stack: writes go to it."
    assert through in logged.said(vm)
    vm.run("cat /root/x && echo y >/root/y && sync").ok()
    vm.kill()
    assert card.fs(replay=True).read("/root/y") == b"y\n"


@pytest.mark.thorough
def test_a_log_that_does_not_come_holds_everything_until_the_owner_goes_on_without(
    boot: Lab,
) -> None:
    """The log is whole, on a disk of its own.

    The command says which argument a boot needs; without the disk that boot waits for it.
    """
    disk = boot.directory / "disk.img"
    disk.write_bytes(bytes(64 << 20))
    vm = boot(drives=[Drive(disk)])
    made = vm.run("cowflush log format /dev/sdb").ok().text
    word = vm.run("cowflush log --word").ok().text.strip()
    assert (
        word.startswith("cowflush.log=UUID=") and f"put {word} on the kernel command line" in made
    )
    assert "no boot waits for it" in vm.run("cowflush check").ok().text
    assert "to the log on sdb" in logged.flush(vm, 1)
    card = vm.card
    vm.kill()
    # As noted by a distribution's initramfs
    noted = boot.directory / "noted"
    (noted / "etc").mkdir(parents=True)
    (noted / "etc/cowflush.words").write_text(f"{word}\n")
    packed = subprocess.run(
        ["cpio", "--quiet", "-o", "-H", "newc"],
        input=b"etc\netc/cowflush.words\n",
        cwd=noted,
        capture_output=True,
        check=True,
    ).stdout
    initramfs = boot.directory / "noted.cpio"
    initramfs.write_bytes(artefacts.initramfs("6.1").read_bytes())
    with open(initramfs, "ab") as file:
        file.write(bytes(-file.tell() % 4) + packed)
    vm = boot(card, initramfs=initramfs, append=NO_LONG_JUMP, **HURRIED)
    check_held(vm, f"cannot use the flush log {word}: no such device appeared")
    # A new initramfs must not forget it.
    assert vm.run("cowflush log --word").ok().text.strip() == word
    vm.kill()
    # The log and a copy of it on yet another disk: no way to tell.
    copy = boot.directory / "copy.img"
    copy.write_bytes(disk.read_bytes())
    vm = boot(card, initramfs=initramfs, drives=[Drive(disk), Drive(copy)])
    check_held(vm, "it may be sdb (1 flushes")
    vm.kill()
    # A boot waits for a newer cowflush's log as well.
    flushlog.set_format(flushlog.LogImage(disk), 2)
    vm = boot(card, initramfs=initramfs, drives=[Drive(disk)])
    assert "the flush log on sdb is of a newer cowflush" in logged.said(vm)
    assert vm.run("cowflush log --word").ok().text.strip() == word
    vm.kill()
    flushlog.set_format(flushlog.LogImage(disk), 1)
    vm = boot(card, initramfs=initramfs, drives=[Drive(disk)])
    logged.check_state(vm, 1)
    assert "no boot waits for it" not in vm.run("cowflush check").ok().text
    vm.kill()
    vm = boot(card, append=f"{word} {NO_LONG_JUMP}", **HURRIED)
    assert vm.run("cowflush release").ok().text == "released: flushes come as before\n"
    vm.run("echo z >/root/z; cowflush flush", timeout=60).ok()
    vm.kill()
    assert card.fs().read("/root/z") == b"z\n"


# --- what is no log must not become one ----------------------------------------------------------


def test_format_spares_disks_and_what_it_does_not_know(boot: Lab) -> None:
    disk, notes = boot.directory / "disk.img", boot.directory / "notes.img"
    Card.create(disk)
    notes.write_bytes(b"my notes".ljust(8 << 20, b"\0"))
    vm = boot(drives=[Drive(disk), Drive(notes)])
    for device, why in (
        ("sda", "it begins or ends with a partition table"),
        ("sdb", "it begins or ends with a partition table"),
        ("sdc", "it is not known what"),
    ):
        for over in ("", " --over ext4", " --over cowflush-log"):
            said = vm.run(f"cowflush log format /dev/{device}{over}").exits(USAGE).text
            assert why in said and f"dd if=/dev/zero of=/dev/{device}" in said, said
    # A table that the kernel still knows, and the disk no longer has
    vm.run("dd if=/dev/zero of=/dev/sdb bs=4k count=1 2>/dev/null; sync").ok()
    said = vm.run("cowflush log format /dev/sdb").exits(FAILED).text
    assert "it is a disk with partitions" in said
    # Another root's log is not ours, an empty one of ours is.
    vm.run("cowflush log format /dev/sdb2 --root /dev/sdb1").ok()
    vm.run("cowflush log format /dev/sda2").ok()
    assert (
        all(vm.card_stats(n).wr_operations for n in (0, 1)) and not vm.card_stats(2).wr_operations
    )
    vm.kill()
    # The other disk is partitioned like the card, as far as it still was.
    others = FlushLog(OnCard(vm.card, 2, disk))
    assert others.header.root_uuid == FlushLog(vm.card).header.root_uuid != bytes(16)
    assert others.header.uuid != FlushLog(vm.card).header.uuid
