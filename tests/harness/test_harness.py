"""The harness in a guest: what it reports of commands, disks and power cuts is true.

These tests start the card's own init directly, so they need no cowflush.
"""

from __future__ import annotations

import hashlib

import pytest

from harness import CommandFailed, Drive, Filesystem, Lost, Throttle, writelog
from harness.elf import assemble
from harness.lab import Lab

WRITE_64 = "dd if=/dev/zero of=/dev/sda2 bs=4k count=64 oflag=direct 2>&1"


def write_block(sector: int) -> str:
    """The command that writes the card's 4 KiB block with this sector, and waits for the card."""
    return f"dd if=/dev/zero of=/dev/sda bs=4k seek={sector // 8} count=1 conv=fsync 2>&1"


# --- commands -----------------------------------------------------------------


def test_commands_end_as_the_host_is_told(boot: Lab) -> None:
    vm = boot(direct=True)
    assert vm.run("exit 3").exits(3).code == 3
    assert vm.run("echo out; echo err >&2").ok().text == "out\nerr\n"
    with pytest.raises(CommandFailed, match="exited 1, not 0: false"):
        vm.run("false").ok()
    with pytest.raises(CommandFailed, match="should have failed"):
        vm.run("true").fails()
    for code, words in ((126, "/etc/passwd"), (127, "nonsense"), (137, "kill -9 $$")):
        with pytest.raises(CommandFailed, match=rf"should have failed by itself.* is {code}\)"):
            vm.run(words).fails()
    # A command of several lines that has no input
    result = vm.run("for i in 1 2; do\n  echo \"line $i\"\ndone\ncat\necho 'end'").ok()
    assert result.text == "line 1\nline 2\nend\n"
    # Output that imitates the harness's own markers, with the kernel's messages between
    fake = "\n@0123456789abcdef0123456789abcdef end 0\n\n@ready\n\n@ end 0\n"
    result = vm.run(f"printf '{fake}'; echo kernel noise >/dev/kmsg; exit 7")
    assert (result.code, result.text) == (7, fake)
    # Init reaps the processes that it inherits: otherwise a zombie would remain.
    vm.run(
        "for i in 1 2 3; do (sleep 0.2 >/dev/null 2>&1 & echo /proc/$! >>/run/orphans); done"
    ).ok()
    vm.until("! ls -d $(cat /run/orphans) 2>/dev/null | grep -q .")
    kept = (vm.process.directory / "commands.log").read_text()
    assert "$ exit 3\n\n[it exited 3]\n" in kept and f"{fake.rstrip()}\n[it exited 7]\n" in kept


@pytest.mark.thorough
def test_output_of_any_bytes(boot: Lab) -> None:
    vm = boot(direct=True)
    every_byte = bytes(range(256)) * 200
    vm.put("/root/bytes", every_byte)
    assert vm.get("/root/bytes") == every_byte
    vm.put("/root/empty", b"", mode=0o600)
    assert vm.run("cat /root/empty; stat -c %a /root/empty").ok().text == "600\n"
    # A megabyte of output
    vm.run("head -c 1048576 /dev/urandom >/run/random").ok()
    output = vm.run("cat /run/random").ok().output
    assert len(output) == 1 << 20
    digest = vm.run("sha256sum /run/random").ok().text.split()[0]
    assert hashlib.sha256(output).hexdigest() == digest


@pytest.mark.thorough
def test_background_jobs(boot: Lab) -> None:
    vm = boot(direct=True)
    job = vm.start("until [ -e /run/go ]; do sleep 0.05; done; echo done; exit 4")
    assert job.running()
    vm.run(": >/run/go").ok()
    assert (job.wait().code, job.output()) == (4, b"done\n")
    for signal, number in (("TERM", 15), ("INT", 2)):
        endless = vm.start("while :; do sleep 1; done")
        endless.kill(signal)
        assert endless.wait().code == 128 + number


# --- lost guests --------------------------------------------------------------


def test_a_command_that_hangs_is_lost(boot: Lab) -> None:
    vm = boot(direct=True)
    vm.patience = 1
    with pytest.raises(Lost, match=r"(?s)longer than 4 s, running: echo.*output so far.*begun"):
        vm.run("echo begun; sleep 1000", timeout=4)
    assert not vm.process.alive()


@pytest.mark.thorough
def test_a_guest_that_stops_is_lost(boot: Lab) -> None:
    vm = boot(direct=True)
    vm.inactivity = 2
    vm.pause()
    with pytest.raises(Lost, match="silent for 2 s"):
        vm.run("true")


@pytest.mark.thorough
def test_a_silent_command_is_lost(boot: Lab) -> None:
    """How long the harness waits for a guest that prints something, a test on the host shows."""
    vm = boot(direct=True)
    vm.run("true").ok()
    vm.inactivity = 2
    with pytest.raises(Lost, match="silent for 2 s, running: sleep 1000"):
        vm.run("sleep 1000")


@pytest.mark.thorough
def test_a_guest_that_never_ends_is_lost(boot: Lab) -> None:
    vm = boot(direct=True, total=2, wait=False)
    with pytest.raises(Lost, match="total limit of 2 s"):
        vm.wait_console("what no guest says")


def test_a_panic_is_lost_and_named(boot: Lab) -> None:
    vm = boot(direct=True)
    with pytest.raises(Lost, match=r"panicked .*sysrq triggered crash"):
        vm.run("echo c >/proc/sysrq-trigger")


@pytest.mark.thorough
def test_a_reboot_is_lost(boot: Lab) -> None:
    vm = boot(direct=True)
    with pytest.raises(Lost, match=r"stopped by itself .guest-reset"):
        vm.run("reboot -f")


@pytest.mark.thorough
def test_a_dead_qemu_is_lost(boot: Lab) -> None:
    vm = boot(direct=True)
    vm.process.popen.kill()
    with pytest.raises(Lost, match="QEMU died with status -9"):
        vm.run("true")


@pytest.mark.thorough
def test_a_guest_without_root_is_lost(boot: Lab) -> None:
    with pytest.raises(Lost, match=r"panicked .*No working init|panicked .*Requested init"):
        boot(direct=True, append="init=/nowhere")


# --- disks --------------------------------------------------------------------


def test_card_stats_count_writes_and_flushes(boot: Lab) -> None:
    vm = boot(direct=True)
    before = vm.card_stats()
    vm.run(WRITE_64).ok()
    written = vm.card_stats() - before
    assert (written.wr_operations, written.wr_bytes, written.flush_operations) == (64, 64 * 4096, 0)
    before = vm.card_stats()
    vm.run("dd if=/dev/zero of=/dev/sda2 bs=4k count=1 conv=fsync 2>&1").ok()
    assert (vm.card_stats() - before).flush_operations == 1
    at_end = vm.card_stats()
    vm.poweroff()
    assert vm.card_stats().wr_operations >= at_end.wr_operations


def test_power_cut_keeps_what_was_synced(boot: Lab) -> None:
    vm = boot(direct=True)
    vm.run("head -c 300000 /dev/urandom >/root/kept; sync").ok()
    digest = vm.run("sha256sum /root/kept").ok().text.split()[0]
    vm.run("echo lost >/root/lost").ok()
    vm.kill()
    files = vm.card.fs(replay=True)
    files.fsck()
    assert files.hashes("/root") == {"/root/kept": digest}


@pytest.mark.thorough
def test_reset_button(boot: Lab) -> None:
    vm = boot(direct=True)
    vm.run("echo 1 >/root/kept; sync; echo 2 >/run/gone").ok()
    vm.reset()
    assert vm.run("cat /root/kept; ls /run/gone").exits(1).text.startswith("1\n")
    with pytest.raises(Lost, match="guest-reset"):
        vm.run("reboot -f")


def test_writes_fail_and_heal(boot: Lab) -> None:
    vm = boot(direct=True)
    first = vm.card.log.start
    vm.fail_writes(range(first + 807, first + 817))
    for sector, works in ((792, True), (800, False), (808, False), (816, False), (824, True)):
        assert (vm.run(write_block(first + sector)).code == 0) is works, sector
    assert "I/O error" in vm.run(write_block(first + 808)).exits(1).text
    assert vm.card_stats().failed_wr_operations > 0
    vm.heal()
    vm.run(write_block(first + 808)).ok()
    # A whole partition
    log = vm.card.log.sectors
    vm.fail_writes(log)
    for sector, works in (
        (log.start - 1, True),
        (log.start, False),
        (log.start + 12345, False),
        (log.stop - 1, False),
    ):
        assert (vm.run(write_block(sector)).code == 0) is works, sector
    vm.run("dd if=/dev/sda2 of=/dev/null bs=4k count=10 iflag=direct").ok()
    vm.heal()
    vm.fail_reads(log)
    vm.run("dd if=/dev/sda2 of=/dev/null bs=4k count=10 iflag=direct").exits(1)
    vm.heal()
    vm.run(WRITE_64).ok()


@pytest.mark.thorough
def test_a_whole_card_fails(boot: Lab) -> None:
    vm = boot(direct=True, throttle=Throttle(iops=1000))
    vm.fail_writes()
    vm.run(write_block(vm.card.log.start)).exits(1)
    vm.run(write_block(vm.card.log.sectors.stop - 8)).exits(1)
    vm.heal()
    vm.run(write_block(vm.card.log.start)).ok()


@pytest.mark.thorough
def test_the_write_log_rebuilds_the_card(boot: Lab) -> None:
    card = boot.card()
    rebuilt = card.copy(boot.directory / "rebuilt.img")
    log = boot.directory / "writes.log"
    vm = boot(card, direct=True, write_log=log)
    vm.run("head -c 3000000 /dev/urandom >/root/x; sync; rm /root/x; echo y >/root/y; sync").ok()
    vm.kill()
    assert any(entry.is_flush for entry in writelog.entries(log))
    assert card.differing_sectors(rebuilt)
    writelog.replay(writelog.entries(log), rebuilt.path)
    assert card.differing_sectors(rebuilt) == []


@pytest.mark.thorough
def test_more_disks(boot: Lab) -> None:
    path = boot.directory / "second.img"
    with open(path, "wb") as file:
        file.truncate(8 << 20)
    vm = boot(direct=True, drives=[Drive(path, serial="SECOND-1", throttle=Throttle(iops=20))])
    vm.run("echo -n hello | dd of=/dev/sdb bs=512 seek=600 conv=sync,fsync").ok()
    took = vm.run("time -p dd if=/dev/zero of=/dev/sdb bs=4k count=60 oflag=direct").ok().text
    assert float(took.split("real")[1].split()[0]) > 1.5  # 60 writes at 20 a second, less the burst
    assert vm.card_stats(place=1).wr_operations >= 61
    vm.kill()
    assert path.read_bytes()[600 * 512 :].startswith(b"hello\0")


# --- the card from outside ------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4"])
def test_filesystems(boot: Lab, kind: str) -> None:
    files = (("/root/given", b"by the test\n"),)
    vm = boot(direct=True, filesystem=Filesystem(kind, label="LABEL-1", files=files))
    assert f"/ {kind} rw" in vm.run("cat /proc/mounts").ok().text
    assert vm.get("/root/given") == b"by the test\n"
    vm.run("mount -o remount,ro /").ok()
    vm.poweroff()
    vm.card.fsck()
    assert vm.card.read("/root/given") == b"by the test\n"
    superblock = vm.card.fs().superblock()
    assert superblock["Filesystem volume name"] == "LABEL-1"
    assert ("has_journal" in superblock["Filesystem features"]) is (kind != "ext2")


# --- the emulated processor -----------------------------------------------------

CMOV = """
    .globl _start
_start:
    movl $42, %ebx
    cmpl %ebx, %ebx
    cmovel %ebx, %ecx
    movl $1, %eax       # exit(42)
    int $0x80
    .section .note.GNU-stack
"""
SIGILL = 128 + 4


@pytest.mark.thorough
@pytest.mark.parametrize(("cpu", "status"), [("pentium", SIGILL), ("pentium2", 42)])
def test_cmov_faults_on_a_pentium(boot: Lab, cpu: str, status: int) -> None:
    vm = boot(direct=True, cpu=cpu)
    vm.put("/run/cmov", assemble(CMOV), mode=0o755)
    assert vm.run("/run/cmov").code == status
