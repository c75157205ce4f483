"""Upgrades and removals of the package beside what there is on an owner's machine.

That is a hold, a flush at work, and a card that refuses writes. Root is on the stack in a real
Debian; one guest meets all of it in turn. Commands that fail are in test_debian_cuts.py, and with
stand-ins in test_package_scripts.py.
"""

from __future__ import annotations

import pytest

from harness import Throttle
from harness.lab import Lab
from harness.machine import VM
from harness.outcome import Result
from product import flushlog
from product.router import status, when_free
from systems import debian
from systems.debian import PACKAGES, SLOW, STACK
from systems.test_debian import daemon_of

INITS = pytest.mark.parametrize("init", ["systemd", "sysvinit"])
LONG = 3 * SLOW
NEWER, OLDER = f"{PACKAGES}/cowflush-newer.deb", f"{PACKAGES}/cowflush.deb"
# Only the newer program ends so.
IS_NEWER = f"tail -c {len(debian.NEWER)} /usr/sbin/cowflush | grep -q {debian.NEWER}"
# An owner's own setting: no initramfs is made, which takes a minute each.
SETTING = "/etc/initramfs-tools/update-initramfs.conf"
# Programs that take the place of the system's
INSTEAD = "/usr/local/instead"
STAYS = "cowflush: root can't be written back to the card, so the package stays. See above."
SLOW_CARD = Throttle(bytes_per_second=64 << 10)
# Each flush here is the test's.
SETTINGS = b"interval=off\nurgent=none\nmerge-on=none\nmemory-low=1%\n"


def dpkg(vm: VM, words: str) -> Result:
    return vm.run(as_dpkg(vm, words), timeout=LONG)


def as_dpkg(vm: VM, words: str) -> str:
    """Returns the command for that, with an update-grub that does nothing.

    It takes longer than all else, and test_debian.py has it.
    """
    program = f"{INSTEAD}/update-grub"
    vm.run(f"mkdir -p {INSTEAD} && printf '#!/bin/sh\\n' >{program} && chmod +x {program}").ok()
    return f"PATH={INSTEAD}:$PATH DEBIAN_FRONTEND=noninteractive dpkg {words}"


def daemon_works(vm: VM, deferring: bool = True) -> None:
    """Waits until a daemon runs the program that is installed."""
    vm.until(
        "pid=$(pgrep -o -f '[c]owflush daemon') && cmp /proc/$pid/exe /usr/sbin/cowflush",
        timeout=120,
    )
    assert debian.root_device(vm) == STACK
    if deferring:
        assert status(vm)["mode"] == "deferring"


def state(vm: VM) -> str:
    return vm.run("dpkg-query --show --showformat '${Status}' cowflush").text


def is_installed(vm: VM) -> None:
    assert state(vm) == "install ok installed"
    assert not vm.run("dpkg --audit").ok().text.strip()


def make_initramfs(vm: VM, which: str) -> None:
    vm.run(
        f"sed -i 's/^update_initramfs=.*/update_initramfs={which}/' {SETTING} && grep {which} {SETTING}"
    ).ok()


def begun(boot: Lab, init: str) -> VM:
    vm = debian.running(boot, init, throttle=Throttle())
    make_initramfs(vm, "no")
    vm.put("/etc/cowflush.conf", SETTINGS)
    vm.run("invoke-rc.d cowflush restart", timeout=LONG).ok()
    daemon_works(vm)
    return vm


def in_a_hold(boot: Lab, vm: VM) -> None:
    """Upgrades in a hold, of which nothing reaches the card and which goes on.

    A removal must bring root to the card, so it is refused.
    """
    when_free(vm, "hold").ok()
    vm.run("echo trial >/root/trial && sync").ok()
    assert not dpkg(vm, f"--install {NEWER}").code
    daemon_works(vm)
    refused = dpkg(vm, "--remove cowflush")
    assert refused.code and STAYS in refused.text, refused
    assert state(vm) == "deinstall ok installed"
    daemon_works(vm)
    assert status(vm)["held_since"] is not None
    cut = flushlog.recovered(vm.cut_copy(boot.directory / "hold.img"))
    assert "/root/trial" not in cut.hashes("/root")
    when_free(vm, "release").ok()
    debian.flush(vm)


def beside_a_flush(boot: Lab, vm: VM) -> None:
    """Installs over the program that flushes: that waits for the flush, or leaves it alone."""
    vm.run(
        "head -c 12000000 /dev/urandom >/root/data && sha256sum </root/data | cut -c1-64 >/root/sum && sync",
        timeout=SLOW,
    ).ok()
    command = as_dpkg(vm, f"--install {OLDER}")
    vm.throttle(SLOW_CARD)
    flush = vm.start("cowflush flush")
    vm.until('cowflush status --json | grep -vq \'"phase":"idle"\'', timeout=60)
    upgrade = vm.start(command)
    vm.until(f"! {{ {IS_NEWER}; }}", timeout=LONG)
    assert flush.running(), flush.output()
    vm.throttle(Throttle())
    flush.wait(LONG).ok()
    upgrade.wait(LONG).ok()
    daemon_works(vm)
    is_installed(vm)
    debian.flush(vm)
    cut = flushlog.recovered(vm.cut_copy(boot.directory / "flush.img"))
    cut.fsck()
    assert cut.hashes("/root")["/root/data"] == cut.read("/root/sum").decode().strip()


def with_a_card_that_refuses(boot: Lab, vm: VM) -> None:
    """Removes, which is refused, and upgrades, while the card refuses writes.

    What is in RAM stays there, and the card gets it once it takes writes again.
    """
    vm.run("echo refused >/root/refused && sync").ok()
    vm.fail_writes()
    before = daemon_of(vm)
    refused = dpkg(vm, "--remove cowflush")
    assert refused.code and STAYS in refused.text, refused
    assert state(vm) == "deinstall ok installed"
    assert daemon_of(vm) == before
    assert not dpkg(vm, f"--install {NEWER}").code
    daemon_works(vm, deferring=False)
    assert vm.run("cat /root/refused").ok().text == "refused\n"
    vm.heal()
    vm.run("cowflush start", timeout=SLOW).ok()
    debian.flush(vm)
    daemon_works(vm)
    is_installed(vm)
    cut = flushlog.recovered(vm.cut_copy(boot.directory / "refused.img"))
    cut.fsck()
    assert cut.read("/root/refused") == b"refused\n"


@pytest.mark.systems
@INITS
def test_a_hold_a_flush_and_a_card_that_refuses_cost_an_upgrade_or_a_removal_nothing(
    boot: Lab, init: str
) -> None:
    vm = begun(boot, init)
    in_a_hold(boot, vm)
    beside_a_flush(boot, vm)
    with_a_card_that_refuses(boot, vm)
    debian.shut_down(vm, init)
    vm.card.fsck()
    assert vm.card.read("/root/trial") == b"trial\n"
    assert vm.card.read("/root/refused") == b"refused\n"
