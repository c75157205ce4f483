"""A Debian whose root no boot can keep in RAM: it is on device-mapper, as with LVM or LUKS.

It is a `linear` device over the card's partition, made in the initramfs by a script of the owner's,
where those of lvm2 and cryptsetup make theirs. To the kernel, and so to cowflush, all three are
devices on other devices.
"""

from __future__ import annotations

import pytest

from harness import artefacts
from harness.card import Card
from harness.lab import Lab
from harness.machine import VM
from packagecut import native
from packagecut.story import LONG
from systems import debian
from systems.debian import PACKAGES

INIT = "sysvinit"
NAME = "vg-root"
ROOT = f"/dev/mapper/{NAME}"
TOOL = "/usr/local/sbin/guest-tools"
SETTING = "/etc/initramfs-tools/update-initramfs.conf"
HOOK = f"""#!/bin/sh
[ "$1" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
copy_exec {TOOL} /sbin
manual_add_modules dm_mod
"""
MAKE = f"""#!/bin/sh
[ "$1" = prereqs ] && exit 0
modprobe dm_mod
until [ -b {debian.CARD} ]; do sleep 0.1; done
guest-tools dm create {NAME}
guest-tools dm table {NAME} $(cat /sys/class/block/sda1/size) linear {debian.CARD} 0
for node in /sys/block/dm-*; do
    if grep -qx {NAME} $node/dm/name; then mkdir -p /dev/mapper && ln -sf /dev/${{node##*/}} {ROOT}; fi
done
exit 0
"""
WHY = "it stands on sda1 by md, LVM, LUKS or the like"


def put(root: native.Root, path: str, text: str) -> None:
    root.run(f"cat >{path} <<'END'\n{text}END\nchmod +x {path}")


def initramfs(card: Card, boot: Lab) -> None:
    """Makes the initramfs on the host, which takes seconds."""
    with native.mounted(card, boot.directory, boot.directory / "made.writes") as root:
        root.run(f"sed -i s/^update_initramfs=.*/update_initramfs=all/ {SETTING}")
        root.run("update-initramfs -u -k all")
        root.run(f"sed -i s/^update_initramfs=.*/update_initramfs=no/ {SETTING}")
        root.sync()


def on_a_volume(boot: Lab) -> Card:
    card = debian.fresh(boot, INIT)
    card.edit([f"write {artefacts.programs('i586') / 'guest-tools'} {TOOL}"])
    with native.mounted(card, boot.directory, boot.directory / "prepared.writes") as root:
        root.run(f"chmod +x {TOOL}")
        put(root, "/etc/initramfs-tools/hooks/volume", HOOK)
        put(root, "/etc/initramfs-tools/scripts/local-top/volume", MAKE)
        root.run("echo MODULES=list >/etc/initramfs-tools/conf.d/zz-list")
        root.run(f"printf '%s\\n' {' '.join(native.DRIVERS)} >>/etc/initramfs-tools/modules")
        # The last one counts, and is in each entry of a menu made later.
        root.run(f"sed -i 's|^GRUB_CMDLINE_LINUX=\"|&root={ROOT} |' /etc/default/grub && update-grub")  # fmt: skip
        root.run(f"sed -i 's|root=UUID=[^ ]*|root={ROOT}|' /boot/grub/grub.cfg")
        root.run(f"sed -i 's|^UUID=[^ ]* / |{ROOT} / |' /etc/fstab && grep '^{ROOT} / ' /etc/fstab")
        root.sync()
    initramfs(card, boot)
    return card


def booted(boot: Lab, card: Card) -> VM:
    vm = debian.boot(boot, card)
    debian.settled(vm, INIT)
    assert debian.root_device(vm) == ROOT
    return vm


@pytest.mark.systems
def test_the_install_says_why_root_is_not_kept_in_ram_and_the_purge_leaves_nothing(
    boot: Lab,
) -> None:
    vm = booted(boot, on_a_volume(boot))
    before = set(vm.run("find / -xdev -not -path '/var/lib/dpkg/*'").ok().text.split("\n"))
    said = vm.run(f"dpkg --install {PACKAGES}/cowflush.deb", timeout=LONG).ok().text
    assert f"cowflush: root can't be kept in RAM: dm-0: {WHY}. Writes go on to it; " in said, said
    assert "reboot to keep root's writes in RAM" not in said
    debian.shut_down(vm, INIT)
    initramfs(vm.card, boot)

    vm = booted(boot, vm.card)
    told = " ".join(vm.run("dmesg").ok().text.split())
    assert f"cannot put dm-0 on the stack: {WHY}." in told, told
    vm.run("! pgrep -f '[c]owflush daemon'").ok()
    assert "cowflush" not in vm.run("cat /sys/block/dm-*/dm/name").ok().text
    vm.run("echo precious >/root/precious && sync").ok()
    vm.run("cowflush status").exits(3)
    vm.run("dpkg --purge cowflush", timeout=LONG).ok()
    after = set(vm.run("find / -xdev -not -path '/var/lib/dpkg/*'").ok().text.split("\n"))
    left = {name for name in after - before if "cowflush" in name}
    assert not left, left
    debian.shut_down(vm, INIT)
    vm.card.fsck()
    assert vm.card.read("/root/precious") == b"precious\n"
