"""Memory limits of services and containers: writes to root's COW count against no process's limit.

The kernel's loop device works in the name of the process that sent a request, and would count the
pages of the COW's file against that process's limit. A writer that may not be killed, or is dead
already, then fails to get a page, and the whole COW would be lost (Invalid).
"""

from __future__ import annotations

import pytest

from harness import artefacts, local
from harness.drive import Drive
from harness.lab import Lab
from harness.machine import VM
from product.router import STORE, check_settled, devices, memory, status

# Debian's own kernels; the small ones that are built here have no such limits.
LIMITED = tuple(name for name in artefacts.EVERYWHERE if name.endswith(artefacts.X86_64))
LIMIT = 24
WRITTEN = 40
# The COW's size, and what its device has in addition
SIZE, SLACK = 100, 8
# As for a container: an outer group has the limit, the writer is in an inner one.
NESTED = "/sys/fs/cgroup/docker/one/inner"
GROUPS = f"""
mount -t cgroup2 none /sys/fs/cgroup && cd /sys/fs/cgroup && mkdir -p {NESTED} || exit
for group in . docker docker/one; do echo '+io +memory' >$group/cgroup.subtree_control || exit; done
echo {LIMIT}M >docker/one/memory.max
"""
# Each process is in the group from its beginning; the OOM killer must not choose one with this
# score.
JOIN = f"echo 0 >{NESTED}/cgroup.procs && echo {{score}} >/proc/self/oom_score_adj && "
# Direct writes: then the writer itself hands its requests to the COW. For the page cache, the
# kernel's own threads mostly do, in no process's name.
WRITE = (
    "dd if=/dev/urandom of=/root/{name} bs=64k count={blocks} oflag=direct 2>/dev/null && "
    "md5sum </root/{name} >/run/{name}.md5"
)
UNKILLABLE = -1000


def write(vm: VM, name: str, score: int, mib: int = WRITTEN) -> None:
    """Writes a file to root from a process in the inner group."""
    script = JOIN.format(score=score) + WRITE.format(blocks=mib << 4, name=name)
    done = vm.run(f"sh -c '{script}' 2>&1", timeout=300)
    assert done.code == 0, (done.text, status(vm)["phase"])


def check(vm: VM, *names: str) -> None:
    """Checks that the files are as written, also when read from the COW."""
    vm.run("echo 3 >/proc/sys/vm/drop_caches").ok()
    for name in names:
        vm.run(f"md5sum </root/{name} | cmp - /run/{name}.md5", timeout=120).ok()


def events(vm: VM) -> dict[str, int]:
    """How often the limit was met, and a process killed for it."""
    lines = vm.run("cat /sys/fs/cgroup/docker/one/memory.events").ok().text.splitlines()
    return {name: int(count) for name, count in (line.split() for line in lines)}


def counted(vm: VM) -> int:
    """The bytes that files in RAM, such as a COW, count in the group; a checksum in /run is one."""
    text = vm.run("grep '^shmem ' /sys/fs/cgroup/docker/one/memory.stat").ok().text
    return int(text.split()[1])


@pytest.mark.kernels(*LIMITED)
def test_a_container_s_limit_is_none_of_the_cow_s(boot: Lab) -> None:
    """Writes more than the limit allows, and once more from a process that can't be killed."""
    vm = boot(memory=512, append=f"cowflush.size={SIZE}M")
    vm.run(GROUPS).ok()
    write(vm, "killable", 0)
    assert counted(vm) < 64 << 10
    report = status(vm)
    assert (report["phase"], report["cow_used"] > WRITTEN << 20) == ("idle", True)
    vm.run("cowflush flush", timeout=120).ok()
    check_settled(vm)
    # The COW had to share the memory with what was sealed, and has grown in use.
    assert status(vm)["cow_size"] == report["cow_size"] == SIZE + SLACK << 20
    write(vm, "unkillable", UNKILLABLE)
    check(vm, "killable", "unkillable")
    vm.run("rm /root/killable; cowflush flush", timeout=120).ok()
    write(vm, "third", UNKILLABLE, LIMIT)
    assert counted(vm) < 64 << 10
    found = events(vm)
    # The writer meets it all the time, with its own page cache.
    assert found["max"] > 0 and found["oom"] == found["oom_kill"] == 0, found
    assert "Out of memory" not in vm.console and "oom-kill" not in vm.console
    check(vm, "unkillable", "third")
    vm.run("cowflush stop", timeout=120).ok()
    check_settled(vm, "write-through")
    wanted = {
        f"/root/{name}": vm.run(f"sha256sum /root/{name}").ok().text.split()[0]
        for name in ("unkillable", "third")
    }
    vm.run("mount -o remount,ro /").ok()
    vm.poweroff()
    vm.card.fsck()
    assert vm.card.hashes("/root") == wanted


@pytest.mark.kernels(LIMITED[0])
def test_what_comes_back_from_the_spill_area_counts_against_nobody_either(boot: Lab) -> None:
    swap = boot.directory / "swap.img"
    local.run(["truncate", "-s", "160M", swap], check=True)
    vm = boot(drives=[Drive(swap)], append=f"cowflush.size={SIZE}M")
    vm.run(GROUPS).ok()
    disk = vm.disk(1)
    vm.run(f"mkswap {disk} && swapon {disk}").ok()
    write(vm, "spilled", UNKILLABLE)
    check(vm, "spilled")
    vm.run("mount -t tmpfs -o size=200M others /tmp").ok()
    vm.run("dd if=/dev/zero of=/tmp/all bs=64k count=3000 2>/dev/null", timeout=120).ok()
    used = vm.run(f"awk '$1 == \"{disk}\" {{ print $4 }}' /proc/swaps").ok().text
    assert int(used) > WRITTEN << 9, "half of the COW, or as much of others, in KiB"
    # The writer reads the file, and writes it once more.
    script = JOIN.format(score=UNKILLABLE) + "md5sum </root/spilled | cmp - /run/spilled.md5"
    vm.run(f"sh -c '{script}' 2>&1", timeout=120).ok()
    write(vm, "spilled", UNKILLABLE)
    assert counted(vm) < 64 << 10
    check(vm, "spilled")
    assert status(vm)["phase"] == "idle"


@pytest.mark.kernels(LIMITED[0])
def test_a_cow_that_can_only_be_plain_says_so_until_the_next_flush(boot: Lab) -> None:
    vm = boot()
    vm.run("cowflush stop").ok()
    said = vm.run("guest-tools deny --ioctl C138FD03 --errno 16 cowflush start 2>&1").ok().text
    assert "denied" in said
    assert (
        "cowflush: the COW counts against the memory limits of those who write to root: cannot make a device that "
        "copies for the COW: Device or resource busy." in vm.run("dmesg").ok().text
    )
    checked = vm.run("cowflush check").ok().text
    assert (
        "note     memory limits    the COW counts against those of the processes that write to root"
        in checked
    )
    assert not [name for name in devices(vm) if name.startswith(STORE)]
    vm.run("echo kept >/root/kept; cowflush flush").ok()
    check_settled(vm)
    assert (
        "found    memory limits    the COW counts against no process's"
        in vm.run("cowflush check").ok().text
    )
    vm.kill()
    assert vm.card.fs(replay=True).read("/root/kept") == b"kept\n"


# Requests of device-mapper, and the stops at which a command is killed: one before each and one
# after. A start makes a store, loads its table and swaps it in; then root's.
KILLED = {"C138FD03": (1, 2), "C138FD09": (1, 2, 3, 4), "C138FD06": (1, 2, 3, 4)}
SUSPEND = "C138FD06"
REMOVE = "C138FD04"


@pytest.mark.kernels(LIMITED[0])
def test_what_a_killed_command_leaves_of_a_store_goes_with_the_next(boot: Lab) -> None:
    """A store has a name and no user that would keep it.

    cowflush does not ask the kernel to remove it by itself, since the kernel would complain.
    """
    vm = boot()
    for ioctl, stops in KILLED.items():
        for stop in stops:
            vm.run("cowflush stop", timeout=60).ok()
            check_settled(vm, "write-through")
            vm.run(f"guest-tools killat {stop} --ioctl {ioctl} cowflush start").exits(137)
            vm.run("cowflush start").ok()
            check_settled(vm)
    before = memory(vm, "Shmem")
    for stop in range(1, 7):
        vm.run(f"head -c 1000000 /dev/urandom >/root/{stop}").ok()
        killed = vm.run(f"guest-tools killat {stop} --ioctl {REMOVE} cowflush flush", timeout=60)
        assert killed.code == 137, killed
        vm.run("cowflush flush", timeout=60).ok()
        check_settled(vm)
        assert memory(vm, "Shmem") - before < 2048
    # Between the load of a new table and its swap: the next load would be one too many.
    met = 0
    for stop in range(1, 30):
        vm.run(f"head -c 1000000 /dev/urandom >/root/{stop}").ok()
        killed = vm.run(f"guest-tools killat {stop} --ioctl {SUSPEND} cowflush flush", timeout=60)
        vm.run("cowflush flush", timeout=60).ok()
        if killed.code != 137:
            break
        met += 1
        check_settled(vm)
    assert met > 4, met
    said = vm.run("dmesg").ok().text
    assert "remove_all" not in said, said
    vm.kill()
    vm.card.fsck()
