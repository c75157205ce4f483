"""The daemon: it flushes by itself, and never lets the COW overflow."""

from __future__ import annotations

import json
import time

import pytest

from vm import workload
from vm.lab import Lab
from vm.machine import VM

BOTH = pytest.mark.kernels("6.1", "6.12")
QUIET = "interval=off\\nurgent=none\\nmerge-on=none\\n"


def daemon(vm: VM, config: str) -> None:
    """Starts the daemon with this configuration, and puts what is on root so far on the card."""
    vm.run(f"printf '{config}' >/etc/cowflush.conf").ok()
    vm.run("cowflush flush", timeout=60).ok()
    vm.run("cowflush daemon >/run/daemon.log 2>&1 & sleep 1; kill -0 $!").ok()


def wait_for(vm: VM, text: str, timeout: int = 30) -> str:
    """Waits for words of the daemon."""
    vm.run(f"until grep -q '{text}' /run/daemon.log; do usleep 100000; done", timeout=timeout).ok()
    return vm.run("cat /run/daemon.log").ok().text


@BOTH
def test_urgent_changes_survive_a_power_cut(boot: Lab) -> None:
    vm = boot()
    daemon(vm, "interval=off\\nurgent=/etc\\nurgent-delay=500ms\\n")
    vm.run("mkdir -p /etc/deep/er; echo one >/etc/deep/er/one; sleep 1").ok()
    vm.run("echo two >/etc/deep/er/two; echo elsewhere >/root/elsewhere").ok()
    wait_for(vm, "(urgent)")
    vm.run("until [ $(grep -c urgent /run/daemon.log) -ge 2 ]; do usleep 100000; done", timeout=30).ok()
    vm.kill()
    assert vm.card.read("/etc/deep/er/two") == b"two\n"


def test_an_interval_and_sigusr1(boot: Lab) -> None:
    vm = boot()
    daemon(vm, QUIET.replace("interval=off", "interval=3s"))
    vm.run("echo x >/root/x; dd if=/dev/urandom of=/root/y bs=64k count=2 2>&1").ok()
    wait_for(vm, "(interval)")
    vm.run("echo z >/root/z; sync; killall -USR1 cowflush").ok()
    wait_for(vm, "(asked)")
    vm.run("killall cowflush; sleep 1; ! pidof cowflush").ok()
    vm.kill()
    assert vm.card.read("/root/z") == b"z\n"


@pytest.mark.parametrize("log", [True, False], ids=["log", "no-log"])
@pytest.mark.parametrize("memory", [256, 64])
def test_a_writer_at_full_speed_never_overflows(boot: Lab, memory: int, log: bool) -> None:
    vm = boot(memory=memory)
    if log:
        vm.run("cowflush log format /dev/sda2").ok()
    daemon(vm, QUIET + "size=16M\\n")
    script = (
        "i=0; end=$(( $(date +%s) + 15 )); while [ $(date +%s) -lt $end ]; do i=$((i+1)); "
        "dd if=/dev/zero of=/root/big$((i % 8)) bs=64k count=64 2>/dev/null || exit 7; done; echo rounds $i"
    )
    text = vm.run(f"sh -c '{script}'", timeout=300).ok().text
    assert int(text.split()[-1]) > 3
    status = json.loads(vm.run("cowflush status --json").ok().output)
    assert status["phase"] in ("idle", "merging", "sealed", "suspended"), status
    assert "Out of memory" not in vm.run("dmesg").ok().text
    vm.run("sync; cowflush flush; sync", timeout=120).ok()
    said = vm.run("cat /run/daemon.log").ok().text
    assert "failed" not in said and "FULL" not in said, said
    vm.kill()
    vm.card.fsck()
