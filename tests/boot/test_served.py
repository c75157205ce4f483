"""A boot keeps root in RAM only if root has cowflush's program and its service to flush it."""

from __future__ import annotations

import pytest

from harness.drive import Drive
from harness.lab import Lab
from product import logged
from product.logged import said

NO_PROGRAM = (
    "cannot put root on the stack: there is no program cowflush on it that can be started, so nothing could flush it. "
    "If it was removed, make the initramfs anew without it."
)
NO_SERVICE = (
    "cannot put root on the stack: no service on it is switched on that would flush it. If the system calls cowflush in a "
    "way of its own, say so: cowflush=on on the kernel command line."
)
PLAIN = "root is the plain card sda1 (rw), since it has no stack: writes go to it."


def test_root_without_the_program_gets_the_log_s_flushes_and_then_all_writes(boot: Lab) -> None:
    """An older kernel's initramfs does not know that the package was purged."""
    vm = logged.start(boot)
    logged.flush(vm, 1)
    vm.run("rm /usr/sbin/cowflush && /run/cowflush/cowflush flush", timeout=60).ok()
    vm.kill()
    vm = boot(vm.card)
    assert NO_PROGRAM in said(vm) and PLAIN in said(vm)
    note = vm.get("/run/cowflush/boot").decode()
    assert f"mode=plain\ncard=sda1\nreason={NO_PROGRAM}\n" in note
    logged.check_state(vm, 1)
    vm.run("[ ! -e /dev/mapper/cowflush-root ] && [ ! -e /run/cowflush-look ]").ok()
    vm.run("echo precious >/root/precious && sync").ok()
    vm.kill()
    root = vm.card.fs(replay=True)
    root.fsck()
    assert root.read("/root/precious") == b"precious\n"


@pytest.mark.thorough
def test_root_without_a_service_is_kept_in_ram_only_if_the_owner_says_so(boot: Lab) -> None:
    card = boot.card()
    card.edit(["rm /usr/sbin/flusher"])
    vm = boot(card)
    assert NO_SERVICE in said(vm) and PLAIN in said(vm)
    vm.kill()
    vm = boot(card, append="cowflush=on")
    vm.run("mkdir /etc/rc0.d && ln -s ../init.d/cowflush /etc/rc0.d/K01cowflush").ok()
    vm.run("cowflush flush", timeout=60).ok()
    vm.kill()
    vm = boot(card)
    # A file that can't be started is not a program.
    vm.run("cowflush status && head -c 99 /dev/zero >/usr/sbin/other").ok()
    vm.run("chmod +x /usr/sbin/other && mv /usr/sbin/other /usr/sbin/cowflush").ok()
    vm.run("/run/cowflush/cowflush flush", timeout=60).ok()
    vm.kill()
    vm = boot(card, append="cowflush=on")
    assert NO_PROGRAM in said(vm) and PLAIN in said(vm)


@pytest.mark.thorough
def test_a_root_whose_programs_are_on_another_filesystem_is_no_root_without_them(boot: Lab) -> None:
    """Init can't look for the program, and unknown is not "no": so the service decides."""
    card = boot.card()
    card.edit(["rm /usr/sbin/flusher", "mkdir /etc/rc6.d", "symlink /etc/rc6.d/K01cowflush x"])
    vm = boot(card)
    vm.run("mkdir /far && mv /usr/sbin /far/ && ln -s /far/sbin/cowflush /run/c").ok()
    vm.run("/run/c flush", timeout=60).ok()
    vm.kill()
    vm = boot(card)
    assert "cannot put root" not in said(vm)
    vm.run("/far/sbin/cowflush status && rm /etc/rc6.d/K01cowflush").ok()
    vm.run("/far/sbin/cowflush flush", timeout=60).ok()
    vm.kill()
    vm = boot(card)
    assert NO_SERVICE in said(vm) and PLAIN in said(vm)


@pytest.mark.thorough
def test_an_overlay_that_hides_the_program_is_not_put_on_the_stack(boot: Lab) -> None:
    """OpenWrt's writable filesystem over a squashfs that still has the program."""
    disk = boot.directory / "disk.img"
    disk.write_bytes(bytes(32 << 20))
    vm = boot(append="cowflush=off", drives=[Drive(disk)])
    vm.run(
        "sed s/cowflush=off// /proc/cmdline >/run/line && mount --bind /run/line /proc/cmdline"
    ).ok()
    vm.run("mke2fs /dev/sdb && mkdir /run/o && mount /dev/sdb /run/o").ok()

    def attached(words: str = "") -> str:
        return vm.run(f"cowflush attach {words} /dev/sdb 2>/dev/null").ok().text.strip()

    for hidden in ("usr/sbin/cowflush", "etc/rc.d/K89cowflush"):
        vm.run(f"mkdir -p /run/o/upper/{hidden} && umount /run/o").ok()
        assert attached() == "/dev/mapper/cowflush-root"
        assert attached("--plain") == "/dev/sdb"
        vm.run(f"mount /dev/sdb /run/o && rmdir /run/o/upper/{hidden}").ok()
        vm.run(f"mknod /run/o/upper/{hidden} c 0 0 && umount /run/o").ok()
        assert attached() == "/dev/sdb"
        vm.run(f"mount /dev/sdb /run/o && rm /run/o/upper/{hidden}").ok()
