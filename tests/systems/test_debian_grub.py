"""GRUB is installed while root is on the stack, by hand or an upgrade, and boots the machine."""

from __future__ import annotations

import pytest

from harness.lab import Lab
from harness.machine import VM
from systems import debian
from systems.debian import CARD, SLOW, STACK
from systems.test_debian import on_the_stack

LEADER = "/usr/lib/cowflush/card-for-grub"
# GRUB's second half, between the partition table and the first partition. Without it the disk does
# not boot.
GAP = "bs=512 seek=1 count=2047 conv=notrunc"


def led_to_the_card(vm: VM) -> None:
    """Checks that only /boot/grub is said to be on the card."""
    for target, answer in (("device", CARD), ("drive", "(hostdisk//dev/sda,msdos1)"), ("partmap", "msdos"), ("abstraction", "")):  # fmt: skip
        found = vm.run(f"grub-probe --target={target} /boot/grub").ok().text.strip()
        assert found == answer, target
    assert vm.run("grub-mkrelpath /boot/grub").ok().text.strip() == "/boot/grub"
    assert debian.root_device(vm) == STACK


def installed_anew(vm: VM, command: str) -> None:
    vm.run(f"dd if=/dev/zero of=/dev/sda {GAP} && sync /dev/sda").ok()
    said = vm.run(command, timeout=2 * SLOW).ok().text
    assert "Installation finished. No error reported." in said, said


def booted_again(boot: Lab, vm: VM, init: str) -> VM:
    vm.kill()
    vm = debian.boot(boot, vm.card)
    debian.settled(vm, init)
    on_the_stack(vm)
    led_to_the_card(vm)
    return vm


@pytest.mark.parametrize(
    "init",
    [
        pytest.param("systemd", marks=pytest.mark.thorough),
        pytest.param("sysvinit", marks=pytest.mark.systems),
    ],
)
def test_grub_is_installed_on_the_stack_and_the_machine_boots(boot: Lab, init: str) -> None:
    vm = debian.running(boot, init)
    led_to_the_card(vm)
    # A run that was killed before its last step left this.
    vm.run(
        f"umount /boot/grub && mkdir /run/cowflush/grub && mount {STACK} /run/cowflush/grub && "
        f"ln -sfn {STACK} /run/cowflush/card && {LEADER} && ! ls /run/cowflush/grub"
    ).ok()
    led_to_the_card(vm)
    # A second call finds nothing to do.
    before = vm.run("cat /proc/self/mountinfo").ok().text
    assert vm.run(f"{LEADER} && cat /proc/self/mountinfo").ok().text == before

    installed_anew(vm, "grub-install /dev/sda")
    debian.flush(vm, merge=True)
    vm = booted_again(boot, vm, init)

    # While writes go through, and in the way of Debian's upgrade of GRUB
    vm.run("cowflush stop").ok()
    led_to_the_card(vm)
    vm.run(
        "echo grub-pc grub-pc/install_devices multiselect /dev/sda | debconf-set-selections"
    ).ok()
    installed_anew(vm, "DEBIAN_FRONTEND=noninteractive dpkg-reconfigure grub-pc")
    vm.run("sync").ok()
    vm = booted_again(boot, vm, init)
    debian.shut_down(vm, init)
    vm.card.fsck()
