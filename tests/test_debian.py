"""The Debian package in real Debian systems: GRUB, the stock kernel, its initramfs, both inits."""

from __future__ import annotations

import json
import re

import pytest

from vm import artefacts, debian, flushlog
from vm.debian import CARD, PACKAGES, SLOW, STACK
from vm.lab import Lab
from vm.machine import VM

INITS = pytest.mark.parametrize("init", ("systemd", "sysvinit"))
# What apt, dpkg and the tools they start say when something is wrong, or might be.
COMPLAINT = re.compile(r"^.*(?:\b[WE]: |\berror\b|\bwarning\b|\bfailed\b|cannot).*$", re.IGNORECASE | re.MULTILINE)
# Said without cowflush as well
USUAL = re.compile(
    r"debconf: |can't be accessed by user '_apt'|unsandboxed as root|Possible missing firmware|"
    r"os-prober|not be executed to detect|policy-rc.d"
)


def complaints(text: str) -> list[str]:
    return [line for line in COMPLAINT.findall(text) if not USUAL.search(line)]


def mode(vm: VM) -> str:
    report: dict[str, str] = json.loads(vm.run("cowflush status --json").ok().output)
    return report["mode"]


def kernel_said(vm: VM) -> list[str]:
    """What the kernel or cowflush complained of since this boot."""
    return vm.run("dmesg --level=emerg,alert,crit,err").ok().text.splitlines()


@INITS
def test_install_use_and_remove(boot: Lab, init: str) -> None:
    card = debian.fresh(boot, init)
    vm = debian.boot(boot, card)
    debian.settled(vm, init)
    before = kernel_said(vm)
    assert complaints(debian.install(vm)) == []
    # Nothing changes before the reboot.
    assert debian.root_device(vm) == CARD
    debian.shut_down(vm, init, "reboot")

    vm = debian.boot(boot, card)
    debian.settled(vm, init)
    on_the_stack(vm)
    strip = lambda lines: {re.sub(r"^\[.*?\] ", "", line) for line in lines}  # noqa: E731
    assert strip(kernel_said(vm)) <= strip(before)
    vm.run("echo '* * * * * root date >>/root/cron' >/etc/cron.d/minute && logger from-rsyslog").ok()
    said = vm.run("apt-get update && apt-get install --yes hello && hello && apt-get remove --yes hello", timeout=SLOW)
    assert complaints(said.ok().text) == []
    assert "Hello, world!" in said.text
    vm.run("until [ -s /root/cron ]; do sleep 1; done; echo kept >/root/kept; sync", timeout=90).ok()
    vm.run("cowflush flush", timeout=60).ok()
    vm.kill()

    root = flushlog.recovered(card)
    root.fsck()
    assert root.read("/root/kept") == b"kept\n"
    assert b"from-rsyslog" in root.read("/var/log/syslog")
    vm = debian.boot(boot, card)
    debian.settled(vm, init)
    on_the_stack(vm)
    vm.run("cat /root/kept /root/cron && grep from-rsyslog /var/log/syslog && dpkg --audit && ! which hello").ok()
    vm.run("echo later >/root/later").ok()
    debian.shut_down(vm, init)
    assert "all data are on the card." in vm.console
    card.fsck()
    assert card.read("/root/later") == b"later\n"

    vm = debian.boot(boot, card)
    debian.settled(vm, init)
    on_the_stack(vm)
    removed = vm.run("apt-get purge --yes cowflush", timeout=SLOW).ok().text
    assert complaints(removed) == []
    vm.run("! ls /etc/cowflush.conf /usr/sbin/cowflush /usr/lib/systemd/system/cowflush.service 2>&1").ok()
    vm.run("echo after >/root/after").ok()
    debian.shut_down(vm, init, "reboot")
    card.fsck()

    vm = debian.boot(boot, card)
    debian.settled(vm, init)
    assert debian.root_device(vm) == CARD
    assert vm.run("cat /root/later /root/after").ok().text == "later\nafter\n"
    vm.run("lsinitramfs /boot/initrd.img-* >/tmp/list && ! grep cowflush /tmp/list").ok()
    debian.shut_down(vm, init)
    card.fsck()


def on_the_stack(vm: VM) -> None:
    """Root is on the stack, writes stay in RAM, and whoever asks for root's UUID gets the stack."""
    assert debian.root_device(vm) == STACK
    assert mode(vm) == "deferring"
    real = vm.run(f"readlink -f {STACK}").ok().text
    assert vm.run(f"readlink -f /dev/disk/by-uuid/{debian.UUID} /dev/disk/by-label/debian").ok().text == 2 * real
    for question in (f"blkid -U {debian.UUID}", f"findfs UUID={debian.UUID}", f"blkid -l -o device -t UUID={debian.UUID}"):
        assert vm.run(f"readlink -f $({question})").ok().text == real, question
    # A copy in RAM, for when root can't be read
    assert vm.run("/run/cowflush/cowflush version").ok().text.startswith("cowflush ")
    vm.run("pgrep -x cowflush || pgrep -f 'cowflush daemon'").ok()


def test_a_new_kernel_boots_after_a_stop(boot: Lab) -> None:
    old, new = (package.removeprefix("linux-image-") for package in artefacts.debian_kernels())
    vm = debian.boot(boot, debian.installed(boot, "systemd"))
    debian.settled(vm, "systemd")
    assert vm.run("uname -r").ok().text.strip() == old
    said = vm.run(f"apt-get update && apt-get install --yes linux-image-{new}", timeout=2 * SLOW).ok().text
    assert complaints(said) == []
    vm.run(f"lsinitramfs /boot/initrd.img-{new} | grep -x usr/sbin/cowflush").ok()
    vm.run(f"grep 'linux.*/boot/vmlinuz-{new} root=UUID={debian.UUID}' /boot/grub/grub.cfg").ok()
    debian.shut_down(vm, "systemd", "reboot")
    vm.card.fsck()
    vm = debian.boot(boot, vm.card)
    debian.settled(vm, "systemd")
    assert vm.run("uname -r").ok().text.strip() == new
    on_the_stack(vm)


def test_the_plain_card_is_mounted_when_there_is_no_snapshot_target(boot: Lab) -> None:
    """And with what was flushed before: the log is applied first."""
    vm = debian.boot(boot, debian.installed(boot, "sysvinit"))
    vm.run("echo kept >/root/kept && cowflush flush", timeout=60).ok()
    vm.run("sed -i 's/panic=-1/initcall_blacklist=dm_snapshot_init &/' /boot/grub/grub.cfg && cowflush merge").ok()
    vm.run("echo younger >/root/younger && cowflush flush", timeout=60).ok()
    vm.kill()
    vm = debian.boot(boot, vm.card)
    assert debian.root_device(vm) == CARD
    assert mode(vm) == "inactive"
    vm.run("grep -x mode=plain /run/cowflush/boot").ok()
    assert vm.run("cat /root/kept /root/younger").ok().text == "kept\nyounger\n"
