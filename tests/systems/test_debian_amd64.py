"""The Debian package with 64 bits in a real Debian system, also with dracut's initramfs."""

from __future__ import annotations

import re

import pytest

from harness.lab import Lab
from harness.machine import VM
from product import flushlog
from systems import debian
from systems.debian import CARD, SLOW
from systems.test_debian import (
    break_attach,
    complaints,
    flush_and_cut,
    on_the_plain_card,
    on_the_stack,
    quiet,
)

pytestmark = pytest.mark.systems

DRACUT_SLOW = 2 * SLOW
HOOK = "lib/dracut/hooks/pre-mount/90-pre-mount.sh"


def recovered(lab: Lab, vm: VM, init: str, before: list[str]) -> VM:
    """Boots again after that cut: on the stack, with what was flushed."""
    root = flushlog.recovered(vm.card)
    root.fsck()
    assert root.read("/root/kept") == b"kept\n"
    vm = debian.boot(lab, vm.card, arch="amd64")
    quiet(vm, init, before, after_a_cut=True)
    on_the_stack(vm)
    assert vm.run("cat /root/kept; ls /root/lost").text.startswith("kept\nls: cannot access")
    return vm


def test_install_use_and_shut_down_with_64_bits(boot: Lab) -> None:
    seen = debian.installation("amd64")
    assert complaints(seen.said) == []
    assert seen.root == CARD
    vm = debian.running(boot, "amd64")
    assert vm.run("uname -m").ok().text == "x86_64\n"
    quiet(vm, "amd64", seen.before)
    on_the_stack(vm)
    flush_and_cut(vm)
    vm = recovered(boot, vm, "amd64", seen.before)
    vm.run("echo last >/root/last").ok()
    debian.shut_down(vm, "amd64")
    assert "cowflush: all data are on the card." in vm.console
    vm.card.fsck()
    assert vm.card.read("/root/last") == b"last\n"


def test_dracut_boots_on_the_stack(boot: Lab) -> None:
    seen = debian.installation("dracut")
    assert complaints(seen.said) == []
    assert seen.root == CARD
    vm = debian.running(boot, "dracut")
    quiet(vm, "dracut", seen.before)
    on_the_stack(vm)
    flush_and_cut(vm)
    vm = recovered(boot, vm, "dracut", seen.before)
    # The stack was checked and mounted; nothing is left of how that was done.
    assert re.search(
        r"^debian: clean", vm.run("journalctl -b -o cat -t systemd-fsck").ok().text, re.MULTILINE
    )
    assert (
        vm.run("systemctl show -p DropInPaths --value sysroot.mount systemd-fsck-root.service")
        .ok()
        .text.split()
        == []
    )
    assert vm.run("find /etc/systemd /run/systemd -name cowflush.conf").ok().text == ""
    debian.shut_down(vm, "dracut")
    assert "cowflush: all data are on the card." in vm.console
    vm.card.fsck()


def test_dracut_without_systemd_made_for_this_machine_on_the_stack(boot: Lab) -> None:
    """Root is named by its partition, to which no link of the stack leads."""
    seen = debian.installation("dracut")
    vm = debian.running(boot, "dracut")
    without = "hostonly=yes\nomit_dracutmodules+=' systemd systemd-initrd dracut-systemd '\n"
    vm.put("/etc/dracut.conf.d/without.conf", without.encode())
    vm.run("dracut --force", timeout=DRACUT_SLOW).ok()
    listed = vm.run("lsinitrd", timeout=SLOW).ok().text
    assert HOOK in listed and "lib/systemd/systemd-fsck" not in listed
    # dracut would wait for the stack before it exists.
    assert (
        vm.run("lsinitrd -f etc/cmdline.d/95root-dev.conf", timeout=SLOW).ok().text.split()[0]
        == f"root=UUID={debian.UUID}"
    )
    vm.run(
        f"sed -i 's/root=UUID={debian.UUID}/root=PARTUUID=c0f1deb1-01/' /boot/grub/grub.cfg"
    ).ok()
    # GRUB reads only the card.
    flush_and_cut(vm)
    vm = recovered(boot, vm, "dracut", seen.before)
    assert "root=PARTUUID=" in vm.run("cat /proc/cmdline").ok().text


def test_dracut_mounts_the_plain_card_when_the_stack_can_not_be_used(boot: Lab) -> None:
    """Root has what was flushed before. Without the package, nothing of it is in the initramfs."""
    debian.installation("dracut")
    vm = debian.running(boot, "dracut")
    break_attach(vm, "nothing can be mounted")
    flush_and_cut(vm)
    vm = debian.boot(boot, vm.card, arch="amd64")
    debian.settled(vm, "dracut")
    on_the_plain_card(vm, "plain")
    assert "cowflush: the stack could not be used" in vm.console
    assert vm.run("cat /root/kept").ok().text == "kept\n"
    assert complaints(vm.run("apt-get purge --yes cowflush", timeout=DRACUT_SLOW).ok().text) == []
    vm.run("lsinitrd >/tmp/list && ! grep cowflush /tmp/list", timeout=SLOW).ok()
    debian.shut_down(vm, "dracut", "reboot")
    vm.card.fsck()
    vm = debian.boot(boot, vm.card, arch="amd64")
    assert debian.root_device(vm) == CARD
