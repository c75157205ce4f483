"""Every refusal of a command: its words and its exit code.

A refused command changes nothing; the tests check that, too, and that after all of them a flush
reaches the card.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from harness import artefacts, ext
from harness.lab import Lab
from harness.machine import VM
from product import daemon, flushlog, logged
from product.logged import said
from product.router import check_settled

FAILED, USAGE, NO_STACK, LOST, NEWER = 1, 2, 3, 7, 9
# Root, and two more partitions of 64 MiB
TWO_LOGS = "label: dos\nlabel-id: 0xc0f1a586\n1: start=8192, size=200000, type=83\n" + "".join(
    f"{number}: size=131072, type=da\n" for number in (2, 3)
)


def says(vm: VM, command: str, code: int, *words: str) -> None:
    """Checks that the guest's command exits with this code and prints these words in this order."""
    text = " ".join(vm.run(command, timeout=60).exits(code).text.split())
    assert re.search(".*".join(map(re.escape, words)), text), (command, words, text)


# --- on any machine ---------------------------------------------------------------------


def test_words_that_are_not_understood() -> None:
    """The options are the same everywhere and ask nothing of the kernel, so the host will do."""
    for words, reason in (
        ("", "One of the following subcommands must be present:"),
        ("nonsense", "Unrecognized argument: nonsense"),
        ("flush --now", "Unrecognized argument: --now"),
        ("recover", "Required positional arguments not provided:"),
        ("stop --shutdown --within", "No value provided for option '--within'."),
        ("stop --within soon", "Error parsing option '--within' with value 'soon': "),
        ("stop --within 0", "Error parsing option '--within' with value '0': "),
        (
            "log format x --erase-block 3K",
            "Error parsing option '--erase-block' with value '3K': `3K` is not a multiple of 4K up to 64M",
        ),
        (
            "log format x --fill 128M",
            "Error parsing option '--fill' with value '128M': `128M` is not a multiple of 4K up to 64M",
        ),
        ("init", "cannot run init: this is not the init of an initramfs."),
    ):
        done = logged.host(*words.split())
        assert (done.returncode, done.stdout) == (USAGE, ""), (words, done)
        assert done.stderr.startswith(f"cowflush: {reason}"), (words, done)


def test_what_can_not_be_measured_is_no_root() -> None:
    """A terminal has no size."""
    done = logged.host("recover", "/dev/ptmx", "/dev/ptmx")
    assert done.returncode == FAILED, done
    assert "cowflush: cannot measure /dev/ptmx: " in done.stderr, done


def files(
    folder: Path, *, root_bytes: int = 8 << 20, log_bytes: int = 2 << 20
) -> tuple[Path, Path]:
    """A root and an empty log for it, as files."""
    tree = folder / "tree"
    (tree / "dev").mkdir(parents=True)
    root, log = folder / "root.img", folder / "log.img"
    ext.make(root, ext.Filesystem(), tree, root_bytes)
    log.write_bytes(bytes(log_bytes))
    done = logged.host("log", "format", log, "--root", root)
    assert done.returncode == 0, done
    return root, log


def test_recover_refuses_what_it_is_not_given(tmp_path: Path) -> None:
    root, log = files(tmp_path)
    before = root.read_bytes(), log.read_bytes()
    nothing, small, other = tmp_path / "nothing", tmp_path / "small.img", tmp_path / "other.img"
    small.write_bytes(log.read_bytes()[: 1 << 20])
    other.write_bytes(root.read_bytes())
    ext.tune(str(other), ["-U", "c0f1a5b0-5eed-4c0f-8a5b-0000000000ff"])
    export = tmp_path / "export.img"
    for words, code, reason in (
        ([root, log, "--merge", "--export", export], USAGE, "cannot recover: --merge and --export exclude each other."),
        ([root, nothing], FAILED, f"cannot open {nothing}: No such file or directory."),
        ([nothing, log], FAILED, f"cannot open {nothing}: No such file or directory."),
        ([root, root], FAILED, f"cannot use {root} as the flush log: it holds no flush log."),
        ([root, small], LOST, f"cannot use {small} as the flush log: the log has 512 chunks of 4096 bytes, but the partition has only 256."),
        ([other, log], FAILED, ""),
        ([other, log, "--merge"], FAILED, f"cannot apply {log} to {other}: the log belongs to another root."),
        ([root, log, "--export", root], FAILED, f"cannot make {root}: File exists."),
        ([root, log, "--export", nothing / "x"], FAILED, f"cannot make {nothing / 'x'}: No such file or directory."),
    ):  # fmt: skip
        done = logged.host("recover", *words)
        assert done.returncode == code and reason in done.stderr, (words, done)
    looked = logged.host("recover", other, log)
    assert (
        looked.stdout == "0 flushes in the log, 0 B to merge; the log belongs to another root\n"
    ), looked
    assert (root.read_bytes(), log.read_bytes()) == before and not export.exists()


def header(log: Path, at: int, change: int, value: int) -> None:
    """Changes 4 bytes of a copy of the log's header, and corrects its checksum."""
    data = bytearray(log.read_bytes())
    record = bytearray(data[at : at + flushlog.RECORD])
    struct.pack_into("<I", record, change, value)
    struct.pack_into("<I", record, flushlog.CRC_AT, 0)
    struct.pack_into("<I", record, flushlog.CRC_AT, flushlog.crc32c(bytes(record)))
    data[at : at + flushlog.RECORD] = record
    log.write_bytes(data)


def test_log_format_refuses_what_it_is_not_given(tmp_path: Path) -> None:
    root, log = files(tmp_path)
    blank, tiny = tmp_path / "blank.img", tmp_path / "tiny.img"
    blank.write_bytes(bytes(2 << 20))
    tiny.write_bytes(bytes(64 << 10))
    before = log.read_bytes()
    for words, code, reason in (
        ([log], USAGE, "it holds cowflush-log. If cowflush-log may be destroyed, say so with `--over cowflush-log`."),
        ([root], USAGE, "it holds ext4."),
        ([log, "--over", "ext4"], USAGE, "it holds cowflush-log. Is it the right partition?"),
        ([blank, "--over", "ext4"], USAGE, "it does not hold what --over says."),
        ([blank, "--label", "of more than 16 bytes"], USAGE, "a label has at most 16 bytes."),
        ([tiny], FAILED, "it has 64.0 KiB, and a log with this erase block takes "),
        ([blank, "--erase-block", "64M"], FAILED, "it has 2.0 MiB, and a log with this erase block takes "),
    ):  # fmt: skip
        done = logged.host("log", "format", *words, "--root", root)
        assert (done.returncode, done.stdout) == (code, ""), (words, done)
        assert done.stderr.startswith(
            f"cowflush: cannot make a flush log of {words[0]}: {reason}"
        ), (words, done)
    assert log.read_bytes() == before and not any(blank.read_bytes())
    dry = logged.host("log", "format", blank, "--root", root, "--dry-run")
    assert dry.stdout.startswith(f"would make a flush log of {blank} (2.0 MiB) for {root}"), dry
    assert not any(blank.read_bytes())


def test_recover_says_what_is_wrong_with_a_log(tmp_path: Path) -> None:
    root, log = files(tmp_path)
    intact, last = log.read_bytes(), log.stat().st_size - flushlog.CHUNK
    for both, change, value, reason in (
        (False, 64, 7, ""),  # one copy counts
        (True, 8, 2, "its log has format 2, and this program knows none above 1."),
        # Fields that no log can have, under a right checksum: no chunks, erase blocks larger than
        # the log.
        (True, 48, 0, "the log's header makes no sense."),
        (True, 56, 1 << 30, "the log's header makes no sense."),
    ):
        log.write_bytes(intact)
        for at in (0, last)[: 1 + both]:
            header(log, at, change, value)
        done = logged.host("recover", root, log)
        if both:
            assert done.returncode == (NEWER if change == 8 else LOST), (change, done)
            assert f"cannot use {log} as the flush log: {reason}" in done.stderr, (change, done)
    for at in (0, last):
        log.write_bytes(intact[:at] + b"x" + intact[at + 1 :])
        assert logged.host("recover", root, log).returncode == 0
    log.write_bytes(b"x" + intact[1:last] + b"x" + intact[last + 1 :])
    done = logged.host("recover", root, log)
    assert done.returncode == FAILED
    assert f"cannot use {log} as the flush log: it holds no flush log." in done.stderr, done


# --- in a guest -----------------------------------------------------------------------------

NOBODY = "setuidgid nobody"
PATHS = "absolute paths, separated by commas, or none; one in another is left out by a ! before it"
# For each key a value that it can't have, and what the message says it needs.
WANTED = {
    "size=lots": "a size such as 32M or a share of the RAM such as 40%",
    "interval=5": "a time such as 90s, 30m, 12h or off",
    "at=25:00": "times of day such as 03:30,15:00, or none",
    "high=0%": "a share such as 75%",
    "full-wait=101%": "a share such as 75%",
    "memory-low=8": "a share such as 75%",
    "urgent=etc": PATHS,
    "urgent-delay=2": "a time such as 90s, 30m, 12h or off",
    "urgent-pause=5": "a time such as 90s, 30m, 12h or off",
    "merge-on=/boot,": PATHS,
    "merge=none": "a share such as 75%",
    "prune=yes": "on or off",
    "idle=10": "a time such as 90s, 30m, 12h or off",
    "min-flush=small": "a size such as 64K, or off",
    "on-overflow=stop": "write-through or wait",
    "hold-full=ask": "flush or discard",
    "spill=sda3": "a swap area such as /dev/sda3 or UUID=..., or none",
    "watchdog=watchdog0": "a path such as /dev/watchdog, or none",
    "metrics=here": "an absolute path, or none",
    "led=a/b": "a name under /sys/class/leds, or none",
    "colour=red": "a key that this version knows",
}


def test_each_key_is_refused_a_value() -> None:
    """The package's file is made from the table of keys (tests/keys.rs)."""
    conffile = (artefacts.TOP / "package" / "cowflush.conf").read_text()
    keys = re.findall(r"^# ([a-z-]+) = ", conffile, re.MULTILINE)
    assert [word.partition("=")[0] for word in WANTED] == [*keys, "colour"]


def test_a_value_that_a_key_cannot_have(boot: Lab) -> None:
    """cowflush uses the defaults and works, on the kernel command line and in a daemon's file."""
    vm = boot(append=" ".join(f"cowflush.{word}" for word in WANTED))
    for word, needs in WANTED.items():
        complaint = f"ignoring `cowflush.{word}` on the kernel command line: it needs {needs}."
        assert complaint in said(vm)
    check_settled(vm)
    lines = [*WANTED, "high=90%", "full-wait=70%", "spill=/dev/sda9"]
    lines += ["watchdog=/dev/nothing", "led=none-such", "metrics=/proc/nowhere/figures"]
    daemon.start(vm, "\n".join([*lines, ""]))
    for number, (word, needs) in enumerate(WANTED.items(), 1):
        daemon.wait_for(
            vm, f"ignoring line {number} of /etc/cowflush.conf, .{word}.: it needs {needs}$"
        )
    for words in (
        "high=90% is above full-wait=70%, where writers are held back: flushing from 70% on",
        "cannot open the watchdog /dev/nothing: No such file or directory",
        "the light none-such can.t be used: .* led= must name a folder of /sys/class/leds",
        "the figures for Prometheus can.t be written to /proc/nowhere/figures: .* metrics= wants a path",
        "cannot use cowflush.spill=/dev/sda9: there is no such device",
    ):
        daemon.wait_for(vm, words)
    for spill, holds in (("/dev/sda1", "ext4"), ("/dev/sda2", "nothing that is known")):
        daemon.reconfigure(vm, f"spill={spill}\n")
        daemon.wait_for(vm, f"cannot use cowflush.spill={spill}: {spill} holds {holds}")
    vm.run("echo x >/root/x").ok()
    daemon.flush(vm)
    vm.kill()
    vm.card.fsck()
    assert vm.card.read("/root/x") == b"x\n"


def test_only_root_may_and_only_where_it_makes_sense(boot: Lab) -> None:
    vm = boot()
    vm.run("echo before >/root/x; cowflush flush; echo x >/root/x; sync").ok()
    for command, words in (
        ("hold", "cannot hold: only root may."),
        ("release", "cannot release: only root may."),
        ("discard", "cannot discard: only root may."),
        ("check", "cannot check this machine: only root may ask device-mapper."),
    ):
        says(vm, f"{NOBODY} cowflush {command}", FAILED, f"cowflush: {words} Run this as root.")
    for command in ("flush", "merge", "stop", "start", "log"):
        says(vm, f"{NOBODY} cowflush {command}", FAILED, "/dev/mapper/control: Permission denied.")
    says(
        vm,
        f"{NOBODY} cowflush recover /dev/sda1 /dev/sda2",
        FAILED,
        "cannot open /dev/sda2: Permission denied.",
    )
    says(vm, "cowflush release", 0, "nothing was held")
    says(
        vm,
        "cowflush recover /dev/sda1 /dev/sda2",
        FAILED,
        "cannot use /dev/sda2 as the flush log: it holds no flush log.",
    )
    says(vm, "cowflush hold", 0, "held since")
    says(vm, "cowflush stop", FAILED, "cannot stop: nothing may reach the card since ")
    says(vm, "cowflush status", 0, "since ", ": nothing reaches the card")
    says(vm, "cowflush release", 0, "released: flushes come as before")
    # Device-mapper's node is only a name: a command that lacks it makes it.
    says(vm, "rm /dev/mapper/control && cowflush flush && ls -l /dev/mapper/control", 0, "flushed")
    says(vm, "mount --bind /dev/null /proc/meminfo && cowflush flush; code=$?; umount /proc/meminfo; exit $code",
         FAILED, "cannot read /proc/meminfo: it has no MemTotal.")  # fmt: skip
    vm.run("mount -o remount,ro /run").ok()
    says(
        vm,
        "cowflush hold",
        FAILED,
        "cannot note the hold in /run/cowflush: ",
        "Read-only file system",
    )
    vm.run("mount -o remount,rw /run").ok()
    says(
        vm,
        "cowflush hold && mount -o remount,ro /run && cowflush release; code=$?; mount -o remount,rw /run; exit $code",
        FAILED,
        "cannot release: the note of the hold stays in /run/cowflush.",
    )
    says(vm, "cowflush release", 0, "released: flushes come as before")
    says(vm, "mount -o remount,strictatime / && cowflush check", 0, "reads are writes, too")
    vm.run("echo prune=off >/etc/cowflush.conf; echo y >/root/y; sync; cowflush flush").ok()
    says(vm, "cowflush status", 0, "nothing at the last flush: it is switched off (prune=off)")
    says(vm, "cowflush check", 0, "note journal commits every 5 s")
    vm.run("rm /etc/cowflush.conf; sync").ok()
    says(vm, "cowflush stop", 0, "stopped, flushed to sda1")
    says(
        vm,
        "cowflush hold",
        NO_STACK,
        "cannot hold: writes go straight to the card now. `cowflush start` keeps them in RAM.",
    )
    says(vm, "cowflush discard", NO_STACK, "cannot discard: writes go straight to the card now.")
    says(
        vm,
        "cowflush status",
        0,
        "write-through: writes go to sda1",
        "in the page cache, as on any system",
    )
    vm.run("mount -o remount,ro /run").ok()
    says(
        vm,
        "cowflush start",
        0,
        "cannot renew the program in /run/cowflush: ",
        "Read-only file system",
    )
    vm.run("mount -o remount,rw /run").ok()
    check_settled(vm)
    vm.kill()
    root = vm.card.fs(replay=True)
    root.fsck()
    assert (root.read("/root/x"), root.read("/root/y")) == (b"x\n", b"y\n")


NO_MEMORY, IN_USE, NO_FILES, NOT_PERMITTED = (
    (12, "Out of memory."),
    (16, "Device or resource busy."),
    (24, "Too many open files."),
    (1, "Operation not permitted."),
)
# What the kernel refuses (a request of an ioctl, or the number of a system call of the i386), with
# which errno, to which command; and the message.
REFUSED = (
    ("--ioctl C138FD00", NO_MEMORY, "check", 6, "cannot ask for the version of device-mapper: "),
    ("--ioctl C138FD0D", NO_MEMORY, "check", 6, "cannot list the targets of device-mapper: "),
    ("--ioctl C138FD03", NO_MEMORY, "flush", FAILED, "cannot create cowflush-sealed: "),
    ("--ioctl C138FD04", NO_MEMORY, "flush", FAILED, "cannot remove cowflush-view: "),
    ("--ioctl C138FD05", NO_MEMORY, "flush", FAILED, "cannot rename cowflush-sealed: "),
    ("--ioctl C138FD06", NO_MEMORY, "flush", FAILED, "cannot suspend cowflush-root: "),
    ("--ioctl C138FD09", NO_MEMORY, "flush", FAILED, "cannot load a table into cowflush-sealed: "),
    ("--ioctl C138FD0C", NO_MEMORY, "flush", FAILED, "cannot ask for the status of cowflush-root: "),
    ("--ioctl 4C82", IN_USE, "flush", FAILED, "cannot find a free loop device: "),
    ("--ioctl 4C0A", IN_USE, "flush", FAILED, "cannot attach cowflush-cow to a loop device: others took every free one."),
    ("--ioctl 4C05", IN_USE, "flush", FAILED, "cannot ask for the size of the COW: "),
    ("--ioctl 4C04", IN_USE, "flush", FAILED, "cannot change the size of the COW: "),
    ("--call 152", NO_MEMORY, "flush", FAILED, "cannot lock memory: "),  # mlockall
    ("--call 2", NO_MEMORY, "flush", FAILED, "cannot start the guard process: "),  # fork
    ("--call 327", NO_FILES, "flush", FAILED, "cannot watch for signals: "),  # signalfd4
    ("--call 360", NO_FILES, "flush", FAILED, "cannot make a socket for the guard process: "),  # socketpair
    ("--call 430", NO_MEMORY, "flush", FAILED, "cannot make a file in RAM for cowflush-cow: "),  # fsopen
    ("--call 194", NO_MEMORY, "flush", FAILED, "cannot set the size of cowflush-cow: "),  # ftruncate64
    ("--call 181", NO_MEMORY, "flush", FAILED, "cannot write the view's table: "),  # pwrite64
    ("--call 118", NO_MEMORY, "flush", 5, "cannot flush the write cache of /dev/sda1: "),  # fsync
    ("--call 88", NOT_PERMITTED, "discard --now", FAILED, "cannot reboot: "),
)  # fmt: skip


def test_the_kernels_words_are_explained() -> None:
    """Those that the tests here and in test_bad_inputs.py meet."""
    table = artefacts.TOP / "docs" / "messages.md"
    explained = table.read_text().split("\n## The kernel's words\n")[1]
    for words in (
        *(why.rstrip(".") for _, why in (NO_MEMORY, IN_USE, NO_FILES, NOT_PERMITTED)),
        *("Exec format error", "Invalid argument", "No such file or directory"),
        *("Permission denied", "I/O error"),
    ):
        assert re.search(rf"^\|.*\b{re.escape(words)}\b.*\|.*\|$", explained, re.MULTILINE), words


@pytest.mark.thorough
def test_what_the_kernel_refuses_is_named_and_the_next_flush_makes_up_for_it(boot: Lab) -> None:
    vm = boot()
    for number, (what, (errno, why), command, code, words) in enumerate(REFUSED):
        write = f"dd if=/dev/urandom of=/root/{number} bs=4k count=20 2>/dev/null && sync"
        vm.run(write).ok()
        done = vm.run(f"guest-tools deny {what} --errno {errno} cowflush {command}", timeout=60)
        text = done.exits(code).text
        denied = re.search(r"^denied (\d+) calls", text, re.MULTILINE)
        assert denied and int(denied[1]) > 0, (what, text)
        expected = words if words.endswith(".") else words + why
        assert expected in " ".join(text.split()), (expected, text)
        vm.run("cowflush flush", timeout=60).ok()
        check_settled(vm)
    hashes = vm.run("cd /root && sha256sum *").ok().text
    vm.kill()
    vm.card.fsck()
    found = vm.card.hashes("/root")
    assert len(found) == len(REFUSED)
    assert {f"/root/{line.split()[1]}": line.split()[0] for line in hashes.splitlines()} == found


def as_asked(vm: VM, line: str) -> None:
    """Gives the guest this kernel command line from here on."""
    vm.run("umount /proc/cmdline 2>/dev/null; true").ok()
    vm.put("/run/line", line.encode())
    vm.run("mount --bind /run/line /proc/cmdline").ok()


def test_what_check_attach_and_format_say_where_root_is_not_on_a_stack(boot: Lab) -> None:
    """Uses other command lines and removes files. sda3 plays a root that is not mounted."""
    card = logged.made(boot.card(partitions=TWO_LOGS), 1)
    vm = boot(card, append="cowflush=off cowflush.log=none")
    attach = "cowflush attach"
    # A copy of root, beside the original's log
    vm.run("dd if=/dev/sda1 of=/dev/sda3 bs=4k count=1 2>/dev/null").ok()
    as_asked(vm, "root=/dev/sda3")
    says(
        vm,
        "cowflush check",
        6,
        "sda3, ext4 of ",
        ", but the filesystem is larger than the partition",
    )
    vm.run(f"{attach} --plain /dev/sda3").exits(FAILED)
    told = vm.run("dmesg").ok().text
    assert (
        "the flush log on sda2 has flushes for another partition with root's UUID: it is not looked at."
        in told
    )
    vm.run(
        "dd if=/dev/zero of=/dev/sda3 bs=1M 2>/dev/null; dd if=/dev/zero of=/dev/sda2 bs=1M 2>/dev/null; true"
    ).ok()
    says(vm, "cowflush check", 0, "sda3 with a filesystem that cowflush does not know")
    as_asked(vm, "root=UUID=nothing")
    says(vm, "cowflush check", 6, "root= on the kernel command line leads to no block device")
    says(
        vm,
        "cowflush log format /dev/sda2",
        USAGE,
        "cannot make a flush log of /dev/sda2: it is not known for which root.",
    )
    says(
        vm,
        f"{attach} UUID=nothing",
        NO_STACK,
        "cannot find root=UUID=nothing: there is no such device; there are: ",
    )
    says(
        vm,
        f"{attach} /dev/nfs",
        NO_STACK,
        "cannot find root: the kernel command line has no usable root=.",
    )
    as_asked(vm, "root=/dev/sda1")
    vm.run("touch /run/nothing").ok()
    says(vm, "mount --bind /run/nothing /proc/filesystems; cowflush check; code=$?; umount /proc/filesystems; exit $code",
         6, "the kernel has no tmpfs")  # fmt: skip
    says(vm, "mount -t tmpfs none /sys/block/sda/queue; cowflush check; code=$?; umount /sys/block/sda/queue; exit $code",
         0, "this kernel does not tell")  # fmt: skip
    make = "cowflush log format --root /dev/sda1"
    says(vm, f"mount -t tmpfs none /sys/dev/block; {make} /dev/sda2; code=$?; umount /sys/dev/block; exit $code",
         FAILED, "cannot make a flush log of /dev/sda2: the kernel does not tell whether it is in use.")  # fmt: skip
    says(vm, f"mv /dev/urandom /dev/aside; {make} /dev/sda2; code=$?; mv /dev/aside /dev/urandom; exit $code",
         FAILED, "cannot read /dev/urandom: No such file or directory.")  # fmt: skip
    vm.run(f"{make} /dev/sda2").ok()
    other = "cannot make another flush log for /dev/sda1: it has one: sda2, "
    says(vm, f"{make} /dev/sda3", USAGE, f"{other}which is empty.")
    # Both copies of the header.
    size = int(vm.run("cat /sys/class/block/sda2/size").ok().text) * 512
    for at in (20, size - flushlog.CHUNK + 20):
        vm.run(f"printf x | dd of=/dev/sda2 bs=1 seek={at} conv=notrunc 2>/dev/null").ok()
    says(vm, f"{make} /dev/sda3", USAGE, f"{other}which has flushes in it or can't be read.")
    vm.run("dd if=/dev/zero of=/dev/sda2 bs=1M 2>/dev/null; true").ok()
    for call, errno, command, words in (
        (175, 1, "flush", "cannot hold back signals: Operation not permitted."),
        (
            221,
            37,
            "attach /dev/sda3",
            "cannot lock /dev/mapper/control: No record locks available.",
        ),
    ):
        says(
            vm, f"guest-tools deny --call {call} --errno {errno} cowflush {command}", FAILED, words
        )
    # The log is in doubt: once with a stack that can't be used, once with one, and where no note
    # can be left.
    as_asked(vm, "root=/dev/sda3 cowflush.log=LABEL=elsewhere")
    vm.run(f"{attach} --plain /dev/sda3", timeout=60).ok()
    vm.run(f"mount -o remount,ro /run; {attach} /dev/sda3", timeout=60).ok()
    told = vm.run("dmesg").ok().text
    for words in (
        "the stack could not be used.",
        "what is written to root makes the flushes useless that may be in the flush log. To have them: ",
        "cannot note in /run/cowflush that nothing may be flushed: Read-only file system.",
        "cannot write to /run/cowflush: ",
    ):
        assert words in told, told
    # Where that can't be noted, there is no stack.
    vm.run(f"mount -o remount,rw /run; {attach} /dev/sda3", timeout=60).ok()
    says(vm, f"{attach} /dev/sda3", FAILED, "cannot build the stack: there is one already.")
    says(vm, "guest-tools inject --rule look:cowflush-root#2=ENOMEM cowflush log --word",
         FAILED, "cannot ask for the table of cowflush-root: Out of memory.")  # fmt: skip
    attached = "free=$(losetup -f) && losetup $free /run/file && echo $free"
    loop = vm.run(f"dd if=/dev/zero of=/run/file bs=1M count=4 2>/dev/null && {attached}").ok().text
    says(vm, f"cowflush log format {loop.strip()}", FAILED,
         f"cannot use {loop.strip()} at once: it is none of this machine's partitions.")  # fmt: skip
