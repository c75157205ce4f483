"""The Debian package in real Debian systems: GRUB, the stock kernel, its initramfs, both inits."""

from __future__ import annotations

import json
import re

import pytest

from harness import artefacts
from harness.lab import Lab
from harness.machine import VM
from product import flushlog
from systems import debian
from systems.debian import CARD, PACKAGES, SLOW, STACK

THOROUGH, SYSTEMS = pytest.mark.thorough, pytest.mark.systems
INITS = pytest.mark.parametrize("init", ["systemd", "sysvinit"])
# What apt, dpkg and their tools print when something is wrong, or might be
COMPLAINT = re.compile(
    r"^.*(?:\b[WE]: |\berror\b|\bwarning\b|\bfailed\b|cannot).*$", re.IGNORECASE | re.MULTILINE
)
# Printed without cowflush as well
USUAL = re.compile(
    r"debconf: |can't be accessed by user '_apt'|unsandboxed as root|Possible missing firmware|"
    r"os-prober|not be executed to detect"
)
# What either init shows of a service that did not start or stop properly
FAILURE = re.compile(
    r"^.*(?:\[FAILED\]|\[FAIL\]|\[WARN\]|\bfailed!|\bDependency failed\b).*$", re.MULTILINE
)
# What a kernel emulated on a busy host prints now and then
CLOCK = re.compile(
    r"^(?:hrtimer|hpet|clocksource|timekeeping|sched_clock|tsc|APIC calibration)\b", re.IGNORECASE
)
# The guest's clocks run on while it is stopped. Then a real-time process, as cowflush is for
# moments, seems to run for long.
STOOD_STILL = re.compile(r"^(?:hrtimer: interrupt took|clocksource: Long readout)", re.MULTILINE)
RAN_LONG = "sched: RT throttling activated"
# What journald prints after any power cut: its file was in use.
CUT = re.compile(r"system\.journal corrupted or uncleanly shut down, renaming and replacing")
GRUB_DEFAULT = "/etc/default/grub.d/cowflush.cfg"
ENTRY = "Without cowflush: the plain card"
DOWN = "\x1b[B"


def complaints(text: str) -> list[str]:
    return [line for line in COMPLAINT.findall(text) if not USUAL.search(line)]


def mode(vm: VM) -> str:
    report: dict[str, str] = json.loads(vm.run("cowflush status --json").ok().output)
    return report["mode"]


def on_the_stack(vm: VM) -> None:
    """Checks that root is on the stack, writes stay in RAM, and root's UUID leads to the stack."""
    assert debian.root_device(vm) == STACK
    assert mode(vm) == "deferring"
    real = vm.run(f"readlink -f {STACK}").ok().text
    assert (
        vm.run(f"readlink -f /dev/disk/by-uuid/{debian.UUID} /dev/disk/by-label/debian").ok().text
        == 2 * real
    )
    for question in (
        f"blkid -U {debian.UUID}",
        f"findfs UUID={debian.UUID}",
        f"blkid -l -o device -t UUID={debian.UUID}",
    ):
        assert vm.run(f"readlink -f $({question})").ok().text == real, question
    # A copy in RAM, for when root can't be read
    assert vm.run("/run/cowflush/cowflush version").ok().text.startswith("cowflush ")
    vm.run("pgrep -f '[c]owflush daemon'").ok()


def on_the_plain_card(vm: VM, why: str) -> None:
    assert debian.root_device(vm) == CARD
    vm.run("cowflush status").exits(3)
    vm.run(f"grep -x mode={why} /run/cowflush/boot").ok()
    assert vm.run("cat /sys/block/dm-*/dm/name").text.find("cowflush") == -1
    vm.run("! pgrep -f '[c]owflush daemon'").ok()


def flush_and_cut(vm: VM) -> None:
    """Leaves /root/kept in the flush log alone and /root/lost unflushed, and cuts the power."""
    debian.flush(vm, merge=True)
    vm.run("echo kept >/root/kept").ok()
    debian.flush(vm)
    vm.run("echo lost >/root/lost; sync").ok()
    vm.kill()


def quiet(vm: VM, init: str, before: list[str], after_a_cut: bool = False) -> None:
    """Checks that nothing failed, and that there is no complaint that cowflush caused."""
    debian.settled(vm, init)
    said = {line for line in debian.complaints(vm, init) if not CLOCK.search(line)}
    if STOOD_STILL.search(vm.run("dmesg --notime").text):
        said.discard(RAN_LONG)
    if after_a_cut:
        said = {line for line in said if not CUT.search(line)}
    assert said - set(before) == set()
    assert FAILURE.findall(vm.console) == []


@THOROUGH
@INITS
def test_the_package_is_installed_without_a_complaint(init: str) -> None:
    """The reboot that the package asks for leads to the stack; the system's maker did it."""
    seen = debian.installation(init)
    assert complaints(seen.said) == []
    assert "cowflush: reboot to keep root's writes in RAM." in seen.said
    # Nothing changes before the reboot.
    assert seen.root == CARD
    assert FAILURE.findall(seen.shutdown + seen.boot) == []
    assert "cowflush: root is cowflush-root over sda1" in seen.boot


@pytest.mark.parametrize(
    "init", [pytest.param("systemd", marks=SYSTEMS), pytest.param("sysvinit", marks=THOROUGH)]
)
def test_install_use_and_remove(boot: Lab, init: str) -> None:
    seen = debian.installation(init)
    vm = debian.running(boot, init)
    quiet(vm, init, seen.before)
    on_the_stack(vm)
    if init == "sysvinit":
        # As /etc/init.d/sendsigs looks for processes to spare at a shutdown;
        # test_waits_for_nobody.py tests the effect.
        vm.run("cat /run/sendsigs.omit.d/* | grep -w $(cat /run/cowflush.pid)").ok()
        # On the way to runlevel 1 every process is killed; then the daemon is started again.
        for order in ("cowflush-single: killprocs", "single: .*cowflush-single.*"):
            vm.run(f"grep -x '{order}' /etc/init.d/.depend.start").ok()
        vm.run(
            "daemon=$(cat /run/cowflush.pid); kill -9 $daemon; while [ -e /proc/$daemon ]; do sleep 0.1; done; "
            "/etc/init.d/cowflush-single start && pgrep -f '[c]owflush daemon'"
        ).ok()
    vm.run(
        "echo '* * * * * root date >>/root/cron' >/etc/cron.d/minute && logger from-rsyslog"
    ).ok()
    said = vm.run(
        "apt-get update && apt-get install --yes hello && hello && apt-get remove --yes hello",
        timeout=SLOW,
    )
    assert complaints(said.ok().text) == []
    assert "Hello, world!" in said.text
    vm.run(
        "until [ -s /root/cron ]; do sleep 1; done; echo kept >/root/kept; sync", timeout=90
    ).ok()
    debian.flush(vm)
    quiet(vm, init, seen.before)
    vm.kill()

    root = flushlog.recovered(vm.card)
    root.fsck()
    assert root.read("/root/kept") == b"kept\n"
    assert b"from-rsyslog" in root.read("/var/log/syslog")
    vm = debian.boot(boot, vm.card)
    quiet(vm, init, seen.before, after_a_cut=True)
    on_the_stack(vm)
    vm.run(
        "cat /root/kept /root/cron && grep from-rsyslog /var/log/syslog && dpkg --audit && ! which hello"
    ).ok()
    remove(vm, init)
    vm.card.fsck()

    vm = debian.boot(boot, vm.card)
    quiet(vm, init, seen.before)
    assert debian.root_device(vm) == CARD
    assert vm.run("cat /root/kept /root/after").ok().text == "kept\nafter\n"
    assert complaints(vm.run("update-grub", timeout=SLOW).ok().text) == []
    vm.run(
        f"! ls {GRUB_DEFAULT} && grep menuentry /boot/grub/grub.cfg && ! grep cowflush /boot/grub/grub.cfg"
    ).ok()
    vm.run("lsinitramfs /boot/initrd.img-* >/tmp/list && ! grep cowflush /tmp/list").ok()
    debian.shut_down(vm, init)
    vm.card.fsck()


def remove(vm: VM, init: str, last: str = "true") -> None:
    """Purges the package, writes a file, runs `last`, and reboots."""
    removed = vm.run("apt-get purge --yes cowflush", timeout=SLOW).ok().text
    assert complaints(removed) == []
    # A stop by hand: the console shows nothing of it.
    assert "stopped, flushed " in removed
    left = vm.run(f"find / -xdev -iname '*cowflush*' -not -path '{PACKAGES}/*'").ok().text
    # GRUB's tools need it until root is off the stack. The next update-grub after that removes it.
    assert left.split() == [GRUB_DEFAULT]
    assert complaints(vm.run("update-grub", timeout=SLOW).ok().text) == []
    roots = (
        vm.run(r"sed -n 's/^\s*linux\s.* \(root=\S*\) .*/\1/p' /boot/grub/grub.cfg | sort -u")
        .ok()
        .text
    )
    assert roots.strip() == f"root=UUID={debian.UUID}"
    vm.run(f"echo after >/root/after; {last}").ok()
    debian.shut_down(vm, init, "reboot")
    assert FAILURE.findall(vm.console) == []


@SYSTEMS
@INITS
def test_an_initramfs_that_the_purge_did_not_reach_keeps_nothing_in_ram(
    boot: Lab, init: str
) -> None:
    """Another initramfs with cowflush was beside the purge: no kernel's name leads to it."""
    vm = debian.running(boot, init)
    vm.run("cp /boot/initrd.img-$(uname -r) /boot/older.img").ok()
    remove(vm, init, "sed -i 's|/boot/initrd.img-.*|/boot/older.img|' /boot/grub/grub.cfg")
    vm = debian.boot(boot, vm.card)
    debian.settled(vm, init)
    assert debian.root_device(vm) == CARD
    said = vm.run("dmesg").text
    assert "cowflush: cannot put root on the stack: there is no program cowflush on it" in said
    vm.run("echo precious >/root/precious; sync; cat /run/cowflush/boot").ok()
    vm.kill()
    root = vm.card.fs(replay=True)
    root.fsck()
    assert root.read("/root/precious") == b"precious\n"


@SYSTEMS
def test_the_plain_card_is_mounted_when_there_is_no_snapshot_target(boot: Lab) -> None:
    """Root has what was flushed before: the log is applied first."""
    vm = debian.running(boot, "sysvinit")
    vm.run("sed -i 's/panic=-1/initcall_blacklist=dm_snapshot_init &/' /boot/grub/grub.cfg").ok()
    flush_and_cut(vm)
    vm = debian.boot(boot, vm.card)
    debian.settled(vm, "sysvinit")
    on_the_plain_card(vm, "plain")
    assert vm.run("cat /root/kept").ok().text == "kept\n"


@SYSTEMS
@pytest.mark.parametrize("link", [f"by-uuid/{debian.UUID}", "by-path/pci-0000:00:01.1-ata-1-part1"])
def test_root_is_named_by_one_of_udev_s_links(boot: Lab, link: str) -> None:
    """For every name that Debian's initramfs knows, the boot builds the stack with the log."""
    vm = debian.running(boot, "systemd")
    vm.run(f"ls /dev/disk/{link}").ok()
    vm.run(f"sed -i 's|root=UUID=[^ ]*|root=/dev/disk/{link}|' /boot/grub/grub.cfg").ok()
    flush_and_cut(vm)
    vm = debian.boot(boot, vm.card)
    debian.settled(vm, "systemd")
    vm.run(f"grep 'root=/dev/disk/{link}' /proc/cmdline").ok()
    on_the_stack(vm)
    assert vm.run("cat /root/kept").ok().text == "kept\n"


def new_kernel(vm: VM) -> str:
    """Which kernel an upgrade brings; the older one runs, and asks for its archive's packages."""
    old, new = (package.removeprefix("linux-image-") for package in artefacts.debian_kernels())
    assert vm.run("uname -r").ok().text.strip() == old
    vm.run("apt-get update").ok()
    return new


def new_kernel_is_ready(vm: VM, new: str) -> None:
    vm.run(f"lsinitramfs /boot/initrd.img-{new} | grep -x usr/sbin/cowflush").ok()
    vm.run(f"grep 'linux.*/boot/vmlinuz-{new} root=UUID={debian.UUID}' /boot/grub/grub.cfg").ok()


def rebooted_into(boot: Lab, vm: VM, new: str, before: list[str]) -> VM:
    """Checks that the new kernel's initramfs and menu entry are on the card, and boots it."""
    new_kernel_is_ready(vm, new)
    debian.shut_down(vm, "systemd", "reboot")
    vm.card.fsck()
    vm = debian.boot(boot, vm.card)
    quiet(vm, "systemd", before)
    assert vm.run("uname -r").ok().text.strip() == new
    return vm


@SYSTEMS
def test_a_new_kernel_boots_after_a_stop(boot: Lab) -> None:
    seen = debian.installation("systemd")
    vm = debian.running(boot, "systemd")
    new = new_kernel(vm)
    said = vm.run(f"apt-get install --yes linux-image-{new}", timeout=2 * SLOW).ok().text
    assert complaints(said) == []
    vm = rebooted_into(boot, vm, new, seen.before)
    on_the_stack(vm)


def upgrade(vm: VM, *others: str) -> None:
    """Upgrades: the new daemon and its copy in RAM are in use, the owner's settings stay."""
    old = daemon_of(vm)
    vm.run(
        "sed -i 's/^#* *interval.*/interval = 29m/' /etc/cowflush.conf && grep -x 'interval = 29m' /etc/cowflush.conf"
    ).ok()
    packages = " ".join([f"{PACKAGES}/cowflush-newer.deb", *others])
    said = vm.run(f"apt-get install --yes {packages}", timeout=2 * SLOW).ok().text
    assert complaints(said) == []
    vm.run(f"dpkg-query -W cowflush | grep -x 'cowflush.*{debian.NEWER}' && dpkg --audit").ok()
    vm.run("grep -x 'interval = 29m' /etc/cowflush.conf && ! ls /etc/cowflush.conf.*").ok()
    new = daemon_of(vm)
    assert new != old
    vm.run(
        f"cmp /proc/{new}/exe /usr/sbin/cowflush && cmp /run/cowflush/cowflush /usr/sbin/cowflush"
    ).ok()
    on_the_stack(vm)


def upgraded(vm: VM) -> None:
    """Checks after a reboot: the copy in RAM is the initramfs's program."""
    on_the_stack(vm)
    vm.run("cmp /run/cowflush/cowflush /usr/sbin/cowflush && [ $(cat /root/before) = before ]").ok()


@SYSTEMS
@INITS
def test_an_upgrade_of_the_package_takes_over_the_stack(boot: Lab, init: str) -> None:
    """The new daemon, copy in RAM and initramfs are in use; settings and all data stay."""
    seen = debian.installation(init)
    vm = debian.running(boot, init)
    vm.run("echo before >/root/before").ok()
    upgrade(vm)
    quiet(vm, init, seen.before)
    # The boot loader reads the initramfs from the plain card.
    debian.flush(vm, merge=True)
    vm.kill()

    vm = debian.boot(boot, vm.card)
    quiet(vm, init, seen.before, after_a_cut=True)
    upgraded(vm)
    debian.shut_down(vm, init)
    vm.card.fsck()
    assert FAILURE.findall(vm.console) == []


@THOROUGH
def test_an_upgrade_of_the_package_and_of_the_kernel_at_once(boot: Lab) -> None:
    """A distribution brings both at once. The tests above try each alone, and each init."""
    seen = debian.installation("systemd")
    vm = debian.running(boot, "systemd")
    quiet(vm, "systemd", seen.before)
    on_the_stack(vm)
    new = new_kernel(vm)
    vm.run("echo before >/root/before").ok()
    upgrade(vm, f"linux-image-{new}")
    vm = rebooted_into(boot, vm, new, seen.before)
    upgraded(vm)


def daemon_of(vm: VM) -> str:
    return vm.run("pgrep -o -x cowflush").ok().text.strip()


@SYSTEMS
@INITS
def test_grub_has_an_entry_without_cowflush(boot: Lab, init: str) -> None:
    """The entry is chosen in the menu. The log is applied first, so root is as it was flushed."""
    seen = debian.installation(init)
    vm = debian.running(boot, init)
    said = (
        vm.run("sed -i s/TIMEOUT=0/TIMEOUT=20/ /etc/default/grub && update-grub", timeout=SLOW)
        .ok()
        .text
    )
    assert complaints(said) == []
    flush_and_cut(vm)

    vm = debian.boot(boot, vm.card, wait=False)
    vm.wait_console(ENTRY, timeout=60)
    vm.type(2 * DOWN + "\r")
    vm.wait_boot()
    quiet(vm, init, seen.before, after_a_cut=True)
    on_the_plain_card(vm, "off")
    assert vm.run("cat /root/kept").ok().text == "kept\n"
    vm.run("echo direct >/root/direct").ok()
    debian.shut_down(vm, init)
    vm.card.fsck()
    assert vm.card.read("/root/direct") == b"direct\n"


# What replaces the initramfs's own program, and calls it or fails
BROKEN = {
    "it dies": 'cowflush-real attach "$2" >/dev/null; kill -KILL $$',
    # udev makes that link as well, a moment later.
    "nothing can be mounted": 'cowflush-real attach "$2"; udevadm settle; ln -sf /dev/null /dev/mapper/cowflush-root; exit',
}


def break_attach(vm: VM, how: str) -> None:
    """Makes `cowflush attach` fail in this kernel's initramfs from now on."""
    script = (
        f'#!/bin/sh\nif [ "$*" = "attach $2" ]; then {BROKEN[how]}; fi\nexec cowflush-real "$@"\n'
    )
    vm.run(
        "mkdir -p /run/broken/usr/sbin && cp /usr/sbin/cowflush /run/broken/usr/sbin/cowflush-real"
    ).ok()
    vm.put("/run/broken/usr/sbin/cowflush", script.encode(), 0o755)
    vm.run(
        "cd /run/broken && find . | cpio --quiet -o -H newc | gzip >>/boot/initrd.img-$(uname -r)"
    ).ok()


@SYSTEMS
@pytest.mark.parametrize(
    ("init", "how"), [("sysvinit", "it dies"), ("systemd", "nothing can be mounted")]
)
def test_the_plain_card_is_mounted_when_something_fails_after_the_stack_was_built(
    boot: Lab, init: str, how: str
) -> None:
    vm = debian.running(boot, init)
    break_attach(vm, how)
    flush_and_cut(vm)

    vm = debian.boot(boot, vm.card)
    debian.settled(vm, init)
    on_the_plain_card(vm, "plain")
    assert "cowflush: the stack could not be used" in vm.console
    assert re.search(
        r"cowflush: root is the plain card sda1 .*writes go to it", vm.run("dmesg").text
    )
    assert vm.run("cat /root/kept").ok().text == "kept\n"
    debian.shut_down(vm, init)
    vm.card.fsck()
