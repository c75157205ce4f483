"""Memory limits as a distribution sets them: with systemd's units and slices, and nested groups.

test_memory_limits.py has the same with groups made by hand.
"""

from __future__ import annotations

import hashlib
import json

import pytest

from harness import artefacts
from harness.lab import Lab
from harness.machine import VM
from product import flushlog
from product.router import when_free
from systems import debian
from systems.debian import SLOW

MIB = 60
LIMIT = "MemoryMax=24M"
COMMON = "--quiet --collect -p MemorySwapMax=0 -p IOAccounting=yes"
# As for a container: a slice with its limit, in it a delegated scope with a smaller one, and in
# that groups of its own
SLICE = "systemctl set-property --runtime box.slice MemoryMax=48M IOAccounting=yes"
UNIT = {
    "service": f"systemd-run --unit=writer {COMMON} -p {LIMIT}",
    "scope": f"systemd-run --scope --slice=box.slice {COMMON} -p {LIMIT} -p Delegate=yes",
}
# The system has no D-Bus, with which systemd-run could wait itself.
ENDED = "while systemctl --quiet is-active writer; do sleep 0.2; done; cat /run/ended"
NEST = """
group=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)
mkdir -p $group/box/inner && echo $$ >$group/box/inner/cgroup.procs || exit 90
for outer in $group $group/box; do echo '+io +memory' >$outer/cgroup.subtree_control || exit 91; done
echo 20M >$group/box/memory.max || exit 92
"""
# The last line is how many bytes files in RAM, such as a COW, count in the group afterwards.
WRITE = f"""#!/bin/sh
echo began >/run/ended
if [ $3 = nested ]; then {NEST} fi
dd if=/dev/urandom of=/root/$1 bs=64k count={MIB << 4} $2 2>/run/$1.said || exit
md5sum </root/$1 >/run/$1.md5
sed -n 's/^shmem //p' /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/memory.stat >/run/$1.shmem
echo whole >/run/ended
"""
WAYS = {"direct": "oflag=direct", "synced": "conv=fsync"}


def write(vm: VM, unit: str, way: str, nested: bool = False) -> str:
    """Writes more than the limit to root, in such a unit. Returns how far that came."""
    nest = "nested" if nested else "plain"
    # When memory gets scarce in a unit the daemon flushes: a hold prevents that meanwhile.
    when_free(vm, "hold").ok()
    vm.run("echo never >/run/ended").ok()
    begun = vm.run(f"{UNIT[unit]} /bin/sh /run/write {way} {WAYS[way]} {nest}", timeout=SLOW)
    return begun.text + vm.run(ENDED, timeout=SLOW).text


def phase(vm: VM) -> tuple[str, bool]:
    """Whether the COW is whole, and has more than the limit in it."""
    report = json.loads(vm.run("cowflush status --json").ok().output)
    return report["phase"], report["cow_used"] > MIB << 20


def shut_off(vm: VM) -> None:
    """Prevents flushes by the daemon meanwhile, even for the system's own changes."""
    config = "interval=off\nhigh=80%\nurgent=none\nmerge-on=none\nmemory-low=1%\n"
    vm.put("/etc/cowflush.conf", config.encode())
    vm.run("systemctl reload cowflush").ok()
    said = "journalctl --boot --quiet --output=cat | grep -x '.*the configuration was read again.*'"
    vm.until(f"{said} >/dev/null", timeout=60)
    # By its standard error, which the journal reads, and not to the system's log as well, which that reads, too.
    vm.run("journalctl --sync").ok()
    assert len(vm.run(said).ok().text.splitlines()) == 1


@pytest.mark.thorough
def test_what_a_unit_with_a_memory_limit_writes_counts_against_nobody_on_a_real_system(
    boot: Lab,
) -> None:
    """A service, and a container's groups; each writes directly, and by fsync.

    No process is killed, and what they wrote is whole, also on the card. Where the COW is only a
    loop device the same service is killed.
    """
    vm = debian.running(boot, "systemd")
    shut_off(vm)
    vm.put("/run/write", WRITE.encode(), 0o755)
    vm.run(SLICE).ok()
    for unit, nested in (("service", False), ("scope", True)):
        for way in WAYS:
            ended = write(vm, unit, way, nested)
            assert ended == "whole\n", vm.run(f"cat /run/{way}.said; dmesg | tail -n 30").text
            assert phase(vm) == ("idle", True), (unit, way)
            assert int(vm.get(f"/run/{way}.shmem")) < 64 << 10, (unit, way)
            # The COW takes no more than the log has room for.
            debian.flush(vm, merge=True)
            vm.run("echo 3 >/proc/sys/vm/drop_caches").ok()
            vm.run(f"md5sum </root/{way} | cmp - /run/{way}.md5", timeout=SLOW).ok()
    said = vm.run("dmesg").text
    assert "oom-kill" not in said and "remove_all" not in said
    wanted = [vm.get(f"/run/{way}.md5").split()[0].decode() for way in WAYS]
    cut = vm.cut_copy(boot.directory / "cut.img")
    root = flushlog.recovered(cut)
    root.fsck()
    assert [hashlib.md5(root.read(f"/root/{way}")).hexdigest() for way in WAYS] == wanted

    # /run allows no programs.
    vm.put(
        "/usr/local/bin/guest-tools",
        (artefacts.programs("i586") / "guest-tools").read_bytes(),
        0o755,
    )
    vm.run("cowflush stop", timeout=SLOW).ok()
    # cowflush can't make the device that would stand between.
    denied = vm.run("guest-tools deny --ioctl C138FD03 --errno 12 cowflush start")
    assert "denied 1 calls" in denied.ok().text
    assert write(vm, "service", "direct") == "began\n", "the test would not see it"
    assert "oom-kill" in vm.run("dmesg").text
    vm.kill()
