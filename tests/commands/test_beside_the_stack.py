"""What a stack can't hold, as a boot or the daemon, `status` and `check` report it.

That is swap on root, a root on more than one device, a card that takes no writes, and what else is
on the card.
"""

from __future__ import annotations

import struct

from harness import Drive, ext
from harness.card import Card
from harness.lab import Lab
from harness.machine import VM
from harness.sparse import SECTOR
from product import daemon, jsondoc
from product.router import status

MISSING = 6
# Root, and two more partitions: 32 and 16 MiB
THREE = """
label: dos
label-id: 0xc0f1a1c2
unit: sectors
1: start=8192, size=256000, type=83, bootable
2: start=270336, size=65536, type=83
3: start=339968, size=32768, type=83
"""
OTHER = "c0f1a5b0-5eed-4c0f-8a5b-000000000002"
JOURNAL = "c0f1a5b0-5eed-4c0f-8a5b-000000000009"


def checked(vm: VM, name: str, code: int = 0) -> list[str]:
    """The results of `check` for the items of that name, each after its state."""
    items = jsondoc.parse("check", vm.run("cowflush check --json").exits(code).output)["items"]
    return [f"{item['state']}: {item['found']}" for item in items if item["name"] == name]


def said(vm: VM, name: str, command: str = "cowflush status") -> list[str]:
    """The lines of `status` with that name."""
    lines = vm.run(command).text.splitlines()
    return [line.removeprefix(name).strip() for line in lines if line.startswith(f"{name} ")]


def swapped(vm: VM) -> str:
    return vm.run("tail -n +2 /proc/swaps").ok().text


def test_swap_on_root_is_given_up_while_writes_stay_in_ram(boot: Lab) -> None:
    vm = boot()
    assert said(vm, "swap") == [] and checked(vm, "swap") == []
    vm.run(
        "dd if=/dev/zero of='/my swap' bs=1M count=4 2>/dev/null; mkswap '/my swap' && sync"
    ).ok()
    vm.put("/etc/fstab", b"/my\\040swap none swap sw 0 0\n")
    assert checked(vm, "swap") == ["note: /my swap of /etc/fstab is on root"]
    vm.run("swapon '/my swap'").ok()
    size = (4 << 20) - 4096
    assert status(vm)["swap_on_root"] == [{"path": "/my swap", "used": 0, "size": size}]
    in_use = "/my swap IS ON ROOT, so it takes RAM (0 B of 3.9 MiB in use)"
    assert said(vm, "swap") == [in_use] and checked(vm, "swap") == [f"note: {in_use}"]

    daemon.start(vm, daemon.QUIET)
    given_up = "swap on /my swap was given up. Swap on root is RAM while writes stay in RAM."
    daemon.wait_for(vm, given_up)
    assert swapped(vm) == ""
    assert status(vm)["swap_on_root"] == [{"path": "/my swap", "used": None, "size": None}]
    gone = "/my swap is on root: given up while writes stay in RAM"
    assert said(vm, "swap") == [gone] and checked(vm, "swap") == [f"note: {gone}"]

    # Swap behind a loop device counts the same; and while writes go to the card, the owner's swap
    # stays.
    loop = vm.run("losetup -f").ok().text.strip()
    vm.run("cp '/my swap' /other").ok()
    vm.run(f"losetup {loop} /other && swapon {loop}").ok()
    daemon.wait_for(vm, f"swap on {loop} was given up.")
    stopped = vm.run("cowflush stop", timeout=60).ok().text
    for path in ("/my swap", loop):
        assert f"cowflush: swap on {path} is in use again" in stopped
    assert status(vm)["swap_on_root"] == [] and said(vm, "swap") == []
    assert [line.split()[0] for line in swapped(vm).splitlines()] == ["/my\\040swap", loop]
    # The owner switches one area off, and the daemon gives up the other, and ends before the next
    # stop.
    vm.run(f"swapoff {loop} && losetup -d {loop}").ok()
    vm.run("swapoff '/my swap' && swapon -p 7 '/my swap' && cowflush start").ok()
    daemon.wait_for(vm, given_up, times=2)
    daemon.signal(vm, "KILL")
    vm.until("! pidof cowflush")
    assert vm.run("cowflush stop", timeout=60).ok().text.count(" is in use again") == 1
    assert swapped(vm).split()[0] == "/my\\040swap" and swapped(vm).split()[-1] == "7"
    assert "is in use again" not in vm.run("cowflush stop", timeout=60).ok().text
    # What has changed stays off: the owner removed it from /etc/fstab, as the daemon advised, or it
    # is another file.
    listed = vm.get("/etc/fstab")
    changes = ("sed -i /swap/d /etc/fstab", "cp '/my swap' /new && mv /new '/my swap'")
    for times, change in enumerate(changes, 3):
        vm.put("/etc/fstab", listed)
        vm.run("swapon '/my swap'; cowflush start").ok()
        daemon.start(vm, daemon.QUIET)
        daemon.wait_for(vm, given_up, times)
        vm.run(change).ok()
        stopped = vm.run("cowflush stop", timeout=60).ok().text
        cause = "it is another one by now, or was taken out of /etc/fstab. `swapon` does"
        assert f"cowflush: cannot use swap on /my swap again: {cause}" in stopped, change
        assert swapped(vm) == ""
        daemon.signal(vm, "TERM")
        vm.until("! pidof cowflush")


def external_journal(card: Card) -> None:
    """Gives root an external journal as mke2fs -J device= does, which needs a block device."""
    journal = card.path.with_suffix(".journal")
    ext.make_journal(journal, JOURNAL, card.log.size * SECTOR)
    # Its one user, in the journal's own superblock in the second block
    content = bytearray(journal.read_bytes())
    struct.pack_into(">I", content, 4096 + 0x40, 1)
    content[4096 + 0x100 : 4096 + 0x110] = bytes.fromhex(ext.UUID.replace("-", ""))
    with open(card.path, "r+b") as image:
        image.seek(card.log.start * SECTOR)
        image.write(content)
    card.edit([
        "feature has_journal", f"ssv journal_uuid {JOURNAL}", "ssv journal_dev 0x802", "ssv journal_inum 0",
    ])  # fmt: skip


def part_of_a_mirror(card: Card) -> None:
    """Puts md's superblock, version 1.0, after the filesystem."""
    place = (card.root.size - 16) & ~7
    superblock = bytearray(SECTOR)
    struct.pack_into("<II", superblock, 0, 0xA92B4EFC, 1)
    struct.pack_into("<Q", superblock, 144, place)
    with open(card.path, "r+b") as image:
        image.seek((card.root.start + place) * SECTOR)
        image.write(superblock)


def test_a_root_on_several_devices_is_mounted_plainly_and_it_is_said_why(boot: Lab) -> None:
    no_journal = ext.Filesystem(options=("-O", "^has_journal"))
    journal, mirror = boot.card(no_journal, THREE), boot.card(partitions=THREE)
    external_journal(journal)
    part_of_a_mirror(mirror)
    for card, why in (
        (journal, "its journal is on another device"),
        (mirror, "it is a part of a md array, or was one; `mdadm --examine` shows that"),
    ):
        vm = boot(card)
        refused = f"cannot put sda1 on the stack: {why}. `cowflush check` says more."
        assert refused in " ".join(vm.console.split())
        assert said(vm, "boot") == [f"plain {refused}"]
        assert checked(vm, "card", MISSING) == [f"missing: sda1: {why}"]
        before = vm.card_stats()
        vm.run("echo kept >/root/kept && sync").ok()
        assert (vm.card_stats() - before).wr_operations > 0
        if card is journal:
            mapped = "guest-tools dm create lvm-root && guest-tools dm table lvm-root 32768 linear /dev/sda3 0"
            vm.run(f"mkfs.ext2 /dev/sda3 >/dev/null && {mapped}").ok()
            node = vm.run(
                "echo /dev/$(basename $(dirname $(dirname $(grep -l lvm-root /sys/block/dm-*/dm/name))))"
            )
            path = node.ok().text.strip()
            text = " ".join(vm.run(f"cowflush attach {path} && dmesg").ok().text.split())
            name = path.removeprefix("/dev/")
            assert (
                f"cannot put {name} on the stack: it stands on sda3 by md, LVM, LUKS or the like."
                in text
            )
            assert text.startswith(f"{path} ")
        vm.kill()


def test_a_card_that_takes_no_writes_and_what_else_is_on_it(boot: Lab) -> None:
    vm = boot(boot.card(partitions=THREE))
    report = status(vm)
    assert report["write_protected"] is False and report["beside"] == []
    vm.run(
        "mkfs.ext2 /dev/sda2 >/dev/null && mkdir /root/other && mount /dev/sda2 /root/other"
    ).ok()
    vm.run(
        "mkswap /dev/sda3 && swapon /dev/sda3 && dd if=/dev/zero of=/root/other/x bs=1M count=2 && sync"
    ).ok()
    report = status(vm)
    assert [(each["partition"], each["uses"]) for each in report["beside"]] == [
        ("sda2", "/root/other"), ("sda3", "swap"),
    ]  # fmt: skip
    held = vm.run("cowflush hold").ok().text
    assert held.splitlines()[1] == (
        "Only root is held: what is written to sda2 (/root/other), sda3 (swap) is there at once, and stays after a discard."
    )
    vm.run("cowflush release").ok()
    other, _ = report["beside"]
    assert 2 << 20 < other["bytes"] < 4 << 20 and 0 < other["requests"] < 1000
    assert report["reached_card"]["bytes"] == 0
    lines = said(vm, "beside")
    assert lines[0].startswith("sda2 (/root/other) is on the card, too: ") and len(lines) == 2
    assert [text.split(" is on ")[0] for text in checked(vm, "beside root")] == [
        "note: sda2 (/root/other)", "note: sda3 (swap)",
    ]  # fmt: skip

    locked = "sda1 IS WRITE-PROTECTED: nothing can be flushed until that ends"
    vm.run("umount /root/other && blockdev --setro /dev/sda").ok()
    report = status(vm)
    assert report["write_protected"] is True
    assert [each["uses"] for each in report["beside"]] == ["", "swap"]
    assert said(vm, "card") == [locked] and f"note: {locked}" in checked(vm, "card")
    vm.run("blockdev --setrw /dev/sda").ok()
    assert status(vm)["write_protected"] is False and said(vm, "card") == []


def test_a_card_whose_driver_refuses_to_open_it_for_writing_gets_a_stack_as_well(boot: Lab) -> None:
    """A kernel whose driver refuses to open the card for writing still gets a stack.

    Of Linux' drivers, those of SCSI disks and SD cards refuse that. QEMU has no read-only IDE disk
    or SD card, and virtio's driver only sets the flag that this test sets, too. So the test makes
    that one call fail.
    """
    other = boot.card(ext.Filesystem(uuid=OTHER))
    vm = boot(append="cowflush=off", drives=[Drive(other.path)])
    line = "sed s/cowflush=off// /proc/cmdline >/run/line && mount --bind /run/line /proc/cmdline"
    vm.run(f"{line} && blockdev --setro /dev/sdb").ok()
    rule = "load:cowflush-origin#1=EPERM"
    attach = f"guest-tools inject --rule {rule} cowflush attach /dev/sdb1"
    text = " ".join(vm.run(f"{attach} && dmesg").ok().text.split())
    assert "sdb1 IS WRITE-PROTECTED: nothing can be flushed until that ends." in text
    assert "root is cowflush-root over sdb1 (rw): writes stay in RAM" in text
    vm.run(
        "grep -l cowflush-origin /sys/block/dm-*/dm/name | sed s,dm/name,ro, | xargs grep -qx 1"
    ).ok()
    script = "mkdir -p /run/it && mount -t ext4 /dev/mapper/cowflush-root /run/it && echo kept >/run/it/kept && sync"
    before = vm.card_stats(1)
    vm.run(
        f"{script} && umount /run/it && mount -t ext4 /dev/mapper/cowflush-root /run/it && grep -qx kept /run/it/kept"
    ).ok()
    assert (vm.card_stats(1) - before).wr_operations == 0
    assert "sdb1 IS WRITE-PROTECTED" in vm.run("cowflush status").ok().text
