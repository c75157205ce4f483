"""A card's root mounted on the host, where Debian's programs are fast; the card is recorded.

Root is the plain card there: the kernel's ext4, on a loop device over QEMU's own disk, which also
records the guests' cards. So dpkg and its scripts write what they write in a guest, and a FLUSH is
one; without emulation it is quick. There is no init and no service: the package's scripts use none
while root is the plain card.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import local
from harness.card import Card
from harness.sparse import SECTOR
from systems import debian

SPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
# A namespace and a /dev of its own: update-grub makes no menu for a root on a device that is named
# as a loop device.
ROOM = """
set -e
mount -t tmpfs none {dev}
for name in null zero urandom random full tty; do
    touch {dev}/$name
    mount --bind /dev/$name {dev}/$name
done
touch {dev}/card
mount --bind {device} {dev}/card
mkdir -p {dev}/disk/by-uuid
ln -s ../../card {dev}/disk/by-uuid/{uuid}
ln -s /proc/self/fd {dev}/fd
mount --rbind {dev} /dev
mount -o commit=1,errors=remount-ro /dev/card {folder}
mount --rbind {dev} {folder}/dev
mount -t proc none {folder}/proc
mount -t sysfs none {folder}/sys
mount -t tmpfs none {folder}/run
exec chroot {folder} /usr/bin/env -i PATH=/usr/sbin:/usr/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 sh
"""
# The initramfs is for a guest, not for the host.
DRIVERS = ("ata_piix", "sd_mod", "ext4")
PATIENCE = 30.0


@dataclass(frozen=True)
class Root:
    """A shell in it. Its writes reach the card when the kernel decides, or at `sync`."""

    shell: subprocess.Popen[str]

    def run(self, command: str) -> str:
        """Runs a command, which must succeed, and returns its output."""
        assert self.shell.stdin and self.shell.stdout
        self.shell.stdin.write(f"( {command}\n) 2>&1 </dev/null; echo; echo ENDED $?\n")
        self.shell.stdin.flush()
        said = ""
        for line in self.shell.stdout:
            if line.startswith("ENDED "):
                assert line == "ENDED 0\n", f"{command}: {said}"
                return said
            said += line
        raise AssertionError(f"{command}: the shell ended: {said}")

    def sync(self) -> None:
        self.run("sync -f /")


@contextmanager
def mounted(card: Card, directory: Path, log: Path) -> Iterator[Root]:
    """The card's root, until the end of the block; what the card receives goes to `log`."""
    with ExitStack() as ends:
        device = ends.enter_context(_device(card, directory, log))
        folder, dev = directory / "root", directory / "dev"
        folder.mkdir(exist_ok=True)
        dev.mkdir(exist_ok=True)
        script = ROOM.format(device=device, dev=dev, folder=folder, uuid=debian.UUID)
        shell = subprocess.Popen(
            [*SPACES, "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            yield Root(shell)
        finally:
            # The mounts end with their namespace, and the filesystem with the last of them.
            if shell.stdin:
                shell.stdin.close()
            shell.wait()


@contextmanager
def _device(card: Card, directory: Path, log: Path) -> Iterator[Path]:
    """A loop device of the host that is the card's first partition."""
    shown, pid = directory / "recorded", directory / "recorder.pid"
    shown.touch()
    log.unlink(missing_ok=True)
    log.touch()
    arguments = ["qemu-storage-daemon", "--daemonize", "--pidfile", str(pid)]
    for node in (
        {"driver": "file", "node-name": "card", "filename": str(card.path)},
        {"driver": "file", "node-name": "log", "filename": str(log)},
    ):
        arguments += ["--blockdev", json.dumps({**node, "cache": {"no-flush": True}})]
    arguments += ["--blockdev", json.dumps({"driver": "blklogwrites", "node-name": "recorder", "file": "card", "log": "log"})]  # fmt: skip
    arguments += ["--export", f"type=fuse,id=all,node-name=recorder,mountpoint={shown},writable=on"]
    local.run(arguments, check=True)
    recorder = int(pid.read_text())
    try:
        part = card.partitions[0]
        where = [f"--offset={part.start * SECTOR}", f"--sizelimit={part.size * SECTOR}"]
        attached = local.run(["losetup", "--find", "--show", *where, shown], capture_output=True, text=True, check=True)  # fmt: skip
        device = Path(attached.stdout.strip())
        try:
            yield device
        finally:
            local.run(["losetup", "--detach", device], check=True)
            _wait(lambda: not Path(f"/sys/block/{device.name}/loop").exists())
    finally:
        os.kill(recorder, 15)
        _wait(lambda: not Path(f"/proc/{recorder}").exists())


def _wait(over: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not over():
        assert time.monotonic() < end, "it does not end"
        time.sleep(0.05)
