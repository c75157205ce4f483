"""Commands for a card or a log refuse one that a stack or a mounted filesystem uses, unchanged.

And cowflush leaves alone what only has a name like its own.
"""

from __future__ import annotations

import pytest

from harness import Drive, Throttle
from harness.ext import Filesystem
from harness.lab import Lab
from harness.machine import VM
from product import logged
from product.router import LOG, check_settled, loops, wait_status

FAILED, BUSY = 1, 4
OTHER = "c0f1a5b0-5eed-4c0f-8a5b-000000000002"
BUSY_PID = '"busy_pid":[0-9]'
DEVICES = "for dm in /sys/block/dm-*/dm; do [ ! -e $dm ] || cat $dm/name $dm/suspended; done | paste - - | sort"
# The node of the device of that name; links are made by udev, which is not there.
NODE = 'for dm in /sys/block/dm-*; do [ "$(cat $dm/dm/name)" != {name} ] || echo /dev/${{dm##*/}}; done'


def node(vm: VM, name: str) -> str:
    return vm.run(NODE.format(name=name)).ok().text.strip()


def refuses(vm: VM, commands: dict[str, str], code: int | None = FAILED, disk: int = 0) -> None:
    """Each command is refused with its words, and changes neither this disk nor the stack."""
    devices = vm.run(f"sync; {DEVICES}").output
    card = vm.card_stats(disk)
    for command, words in commands.items():
        done = vm.run(command, timeout=60)
        assert done.code == code if code else done.code > 0, (command, done)
        assert words in " ".join(done.text.split()), (command, done.text)
        assert vm.run(DEVICES).output == devices, command
    assert (vm.card_stats(disk) - card).wr_operations == 0


def test_what_a_stack_uses_is_nobody_elses(boot: Lab) -> None:
    vm = logged.start(boot, throttle=Throttle())
    there = "cannot build the stack: there is one already."
    taken = "cannot remove cowflush-root: Device or resource busy."
    attach = {
        "cowflush attach": there,
        "cowflush attach /dev/sda1": there,
        "cowflush attach --plain": taken,
        "cowflush attach --plain /dev/sda1": taken,
    }
    # The log is empty: no device is on cowflush-log, so the kernel alone would let a program write
    # to it, or remove it.
    log = node(vm, "cowflush-log")

    def offline() -> dict[str, str]:
        busy = "cannot open {}: Device or resource busy."
        return {
            f"cowflush log format {log} --over cowflush-log": busy.format(log),
            "cowflush log format /dev/sda2 --over cowflush-log": busy.format("/dev/sda2"),
            "cowflush log format /dev/sda1 --over ext4": busy.format("/dev/sda1"),
            f"cowflush recover /dev/sda1 {log} --merge --force": busy.format(log),
            "cowflush recover /dev/sda1 /dev/sda2 --merge": busy.format("/dev/sda2"),
        }

    refuses(vm, attach | offline())
    logged.flush(vm, 1)
    log = node(vm, "cowflush-log")
    refuses(vm, attach | offline())
    # During a flush its lock is checked before everything else.
    vm.run(f"echo 2 >{logged.STATE} && seq 2 3000 >/root/f2 && sync").ok()
    vm.throttle(Throttle(bytes_per_second=5_000))
    flush = vm.start("cowflush flush")
    wait_status(vm, BUSY_PID)
    for command in ("cowflush attach", "cowflush attach --plain"):
        assert "is at work." in vm.run(command, timeout=60).exits(BUSY).text
    assert flush.running()
    vm.throttle(Throttle())
    flush.wait(60).ok()
    logged.check_state(vm, 2)
    vm.run("cowflush stop", timeout=60).ok()
    # Root writes through, and is still in use.
    log = node(vm, "cowflush-log")
    vm.run("sync").ok()
    refuses(vm, attach | offline())
    check_settled(vm, "write-through", LOG)
    vm.kill()
    logged.check_card(vm.card, 2)


@pytest.mark.thorough
def test_where_doubt_about_a_log_can_not_be_noted_there_is_no_stack(boot: Lab) -> None:
    """Without the note a flush would go to root and make the log's flushes useless.

    So root stays the kernel's.
    """
    other = logged.made(boot.card(Filesystem(uuid=OTHER)), 2)
    vm = boot(append="cowflush=off", drives=[Drive(other.path)])
    card = vm.disk(1)
    vm.run(
        "sed s/cowflush=off/cowflush.log=LABEL=none/ /proc/cmdline >/run/line && mount --bind /run/line /proc/cmdline"
    ).ok()
    attach = f"cowflush attach {card}1 2>/run/said"
    assert vm.run(attach, timeout=60).ok().text.strip() == "/dev/mapper/cowflush-root"
    vm.run("grep -qx log=1 /run/cowflush/hold").ok()
    vm.run(f"cowflush attach --plain {card}1", timeout=60).ok()
    vm.run("[ ! -e /run/cowflush/hold ]").ok()
    # No folder can be made there.
    vm.run("rm -r /run/cowflush && : >/run/cowflush").ok()
    before = vm.card_stats(1).wr_operations
    assert vm.run(attach, timeout=60).ok().text.strip() == f"{card}1"
    assert "cannot note in /run/cowflush that nothing may be flushed" in vm.console
    assert vm.run(DEVICES).output == b"" and vm.card_stats(1).wr_operations == before
    vm.run(f"[ $(cat /sys/class/block/{card[5:]}1/ro) = 1 ]").ok()


def test_a_card_that_is_mounted_is_nobody_elses(boot: Lab) -> None:
    """Root is the plain card: no stack is in use, and without device-mapper nothing tells of one.

    No program uses the second disk's root, so `attach` takes it, once; and `attach --plain` gives
    it back when no program uses it.
    """
    other = logged.made(boot.card(Filesystem(uuid=OTHER)), 2)
    # noatime, so that merely reading a writable root changes nothing.
    vm = boot(append="cowflush=off rootflags=noatime", drives=[Drive(other.path)])
    vm.run("cowflush log format /dev/sda2").ok()
    busy = "cannot open {}: Device or resource busy."
    commands = {
        "cowflush attach": busy.format("/dev/sda1"),
        "cowflush attach --plain /dev/sda1": busy.format("/dev/sda1"),
        "cowflush recover /dev/sda1 /dev/sda2 --merge": busy.format("/dev/sda1"),
        "cowflush log format /dev/sda1 --over ext4": busy.format("/dev/sda1"),
    }
    refuses(vm, commands)

    # As if the boot had found no way to build a stack
    vm.run(
        "sed s/cowflush=off// /proc/cmdline >/run/line && mount --bind /run/line /proc/cmdline"
    ).ok()
    # Another program's device has one of cowflush's names: cowflush does not remove it.
    vm.run("guest-tools dm create cowflush-view && guest-tools dm table cowflush-view 8 error").ok()
    foreign = "cannot go on with cowflush-view: its table is none that cowflush makes."
    refuses(vm, {"cowflush attach /dev/sdb1": foreign}, disk=1)
    vm.run("guest-tools dm remove cowflush-view").ok()
    stack = "/dev/mapper/cowflush-root"
    attached = vm.run("cowflush attach /dev/sdb1 2>/dev/null", timeout=60).ok().text
    assert attached.strip() == stack
    there = "cannot build the stack: there is one already."
    taken = "cannot remove cowflush-root: Device or resource busy."
    offline = {
        "cowflush attach /dev/sdb1": there,
        "cowflush recover /dev/sdb1 /dev/sdb2 --merge": busy.format("/dev/sdb2"),
        "cowflush log format /dev/sdb2 --over cowflush-log --root /dev/sdb1": busy.format(
            "/dev/sdb2"
        ),
        "mount /dev/sdb1 /run/m": "busy",
    }
    vm.run(
        f"mkdir /run/m && mount -o ro {stack} /run/m && [ $(cat /run/m{logged.STATE}) = 2 ]"
    ).ok()
    refuses(vm, offline | {"cowflush attach --plain /dev/sdb1": taken}, None, disk=1)
    vm.run("umount /run/m").ok()
    refuses(vm, offline, None, disk=1)
    plain = vm.run("cowflush attach --plain /dev/sdb1 2>/dev/null", timeout=60).ok().text
    assert plain.strip() == "/dev/sdb1" and vm.run(DEVICES).output == b""
    vm.run(
        f"mount -o ro /dev/sdb1 /run/m && [ $(cat /run/m{logged.STATE}) = 2 ] && umount /run/m"
    ).ok()

    vm.run(
        "rm /dev/mapper/control && mkdir /run/none && mount --bind /run/none /sys/class/misc"
    ).ok()
    refuses(vm, commands)
    vm.kill()
    logged.check_root(other.fs(), 2)


# Loop devices made by `losetup`, and so without autoclear: one over a file on root, and one, like
# cowflush's own, over a file deleted from a filesystem that is no longer mounted. And a device over
# the first, with a COW's name.
NAMESAKES = """
head -c 1048576 /dev/zero >/root/cowflush-data && losetup -f /root/cowflush-data
mkdir /run/t && mount -t tmpfs t /run/t && head -c 1048576 /dev/zero >/run/t/cowflush-cow
losetup -f /run/t/cowflush-cow && rm /run/t/cowflush-cow && umount -l /run/t
guest-tools dm create cowflush-cow-7 && guest-tools dm table cowflush-cow-7 2048 linear $(losetup -a | sed -n 's/:.*cowflush-data.*//p') 0
guest-tools dm create cowflush-cow-8
"""
NAMES = "cat /sys/block/dm-*/dm/name | sort"


def test_what_is_only_called_like_ours_is_left_alone(boot: Lab) -> None:
    """Except a device without a table, as a killed command leaves it, which serves no purpose."""
    vm = boot()
    vm.run(f"set -e\n{NAMESAKES}").ok()
    for command in ("flush", "stop", "start"):
        vm.run(f"date >>/root/x; cowflush {command}", timeout=60).ok()
        own = [] if command == "stop" else ["cowflush-cow"]
        assert sorted(loops(vm)) == sorted(["cowflush-data", "cowflush-cow", *own]), command
        assert vm.run(NAMES).ok().text.split() == [
            "cowflush-cow-7",
            "cowflush-origin",
            "cowflush-root",
        ]
