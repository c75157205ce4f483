"""dracut's hooks, on the host: dracut's loop, systemd and the program are stand-ins.

In real systems they run in test_debian_amd64.py.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import artefacts, local

DRACUT = artefacts.TOP / "package" / "dracut"
UUID = "/dev/disk/by-uuid/1-2"
STACK = "/dev/mapper/cowflush-root"
# Each records its call. A device's name is a file in `disks`, which comes and goes as udev's links
# do.
STANDS_IN = r"""#!/bin/sh
name=${0##*/}
echo "$name $*" >>"$BOX/calls"
answer() { cat "$BOX/$1" 2>/dev/null; }
case "$name $*" in
"cowflush attach --by-log "*)
    [ -e "$BOX/known" ] || exit 3
    [ "$(answer known)" = fails ] && exit 1
    # The stack shows root's name, or the log is on the card, which does then.
    touch "$BOX/disks/1-2"
    answer known ;;
"cowflush attach --plain "*) echo /dev/sda1 ;;
"cowflush attach "*) answer attach ;;
"systemctl show --property=What "*) answer what ;;
"blkid -p"*) answer image ;;
"blkid -l"*) echo /dev/loop-of-nothing ;;
# Time passes: what is to come by then comes.
"sleep "*) [ "$(grep -c ^sleep "$BOX/calls")" -lt "$(answer comes || echo 999)" ] || touch "$BOX/disks/1-2" ;;
mount*) exit "$(answer mountable || echo 0)" ;;
esac
"""
NAMES = (
    "cowflush", "systemctl", "systemd-escape", "blkid", "udevadm", "modprobe", "sleep", "mount", "umount", "rmdir", "mkdir",
)  # fmt: skip
LIBRARY = 'getarg() { [ "$1" = resume= ] && cat "$BOX/resume" 2>/dev/null; }\n'


@dataclass
class Box:
    """A folder with stand-ins, and the hooks' places in it."""

    folder: Path

    def __post_init__(self) -> None:
        for name in ("bin", "disks", "run"):
            (self.folder / name).mkdir()
        for name in NAMES:
            program = self.folder / "bin" / name
            program.write_text(STANDS_IN)
            program.chmod(0o755)
        self.put("dracut-lib.sh", LIBRARY)
        self.put("what", UUID)

    def put(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def looks(self) -> int:
        return sum(call == f"cowflush attach --by-log {UUID}" for call in self.calls)

    @property
    def sought(self) -> Path:
        return self.folder / "run" / "cowflush-sought"

    def script(self, name: str) -> Path:
        text = (DRACUT / name).read_text()
        for place, here in (
            ("/run/", f"{self.folder}/run/"),
            ("/lib/dracut-lib.sh", f"{self.folder}/dracut-lib.sh"),
            # Whether a name exists, and no more
            ('[ -e "$1" ]', '[ -e "$BOX/disks/${1##*/}" ]'),
            ('[ ! -b "$cowflush_image" ]', '[ ! -e "$BOX/disks/${cowflush_image##*/}" ]'),
        ):
            text = text.replace(place, here)
        path = self.folder / name
        path.write_text(text)
        return path

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {"BOX": str(self.folder), "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin"}
        done = local.run(["sh", *command], capture_output=True, text=True, env=environment)
        assert done.returncode == 0 and not done.stderr, done
        return done

    def service(self) -> None:
        """Runs the hook as systemd starts it."""
        self.run(self.script("by-log.sh"), "service")

    def loop(self, rounds: int = 8) -> None:
        """Runs the hook as dracut without systemd does, which goes on when root is there."""
        hook = self.script("by-log.sh")
        self.run(
            "-c",
            f"root=block:{UUID}; main_loop=0; . {self.folder}/dracut-lib.sh; while [ $main_loop -lt {rounds} ]; do "
            f'[ -e "$BOX/disks/1-2" ] && break; set --; . {hook}; main_loop=$((main_loop + 1)); done',
        )


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


@pytest.mark.parametrize("way", ["service", "loop"])
def test_dracut_builds_the_stack_where_only_the_flush_log_knows_root(box: Box, way: str) -> None:
    box.put("known", STACK)
    getattr(box, way)()
    assert box.looks() == 1 and box.sought.read_text() == f"{UUID}\n"
    assert "modprobe -q dm-snapshot" in box.calls
    # Once is enough, even if dracut asks again.
    getattr(box, way)()
    assert box.looks() == 1


@pytest.mark.parametrize("way", ["service", "loop"])
def test_dracut_waits_as_before_where_no_log_knows_root(box: Box, way: str) -> None:
    box.put("comes", "3")
    getattr(box, way)()
    assert not box.sought.exists()
    # Each second, until it is there
    assert box.looks() == (3 if way == "service" else 8)


def test_dracut_does_not_wait_for_ever(box: Box) -> None:
    box.service()
    assert box.calls.count("sleep 1") == 120 and not box.sought.exists()


@pytest.mark.parametrize("way", ["service", "loop"])
def test_dracut_leaves_alone_what_is_there_and_what_no_log_can_know(box: Box, way: str) -> None:
    (box.folder / "disks" / "1-2").touch()
    getattr(box, way)()
    assert box.looks() == 0
    (box.folder / "disks" / "1-2").unlink()
    for what in ("", "/dev/sda1", "192.168.0.1:/root", "/dev/mapper/vg-root"):
        box.put("what", what)
        box.service()
    assert box.looks() == 0 and "sleep 1" not in box.calls


@pytest.mark.parametrize("found", ["/dev/sda1", "fails"])
def test_dracut_tries_once_what_can_not_be_built(box: Box, found: str) -> None:
    box.put("known", found)
    box.service()
    assert box.looks() == 1 and not box.sought.exists()


def test_dracut_looks_at_no_log_before_a_system_that_was_hibernated_had_its_turn(box: Box) -> None:
    box.put("known", STACK)
    box.put("resume", "/dev/sda2")
    (box.folder / "disks" / "sda2").touch()
    box.put("image", "swsuspend")
    box.service()
    box.loop()
    assert box.looks() == 0
    box.put("image", "swap")
    box.service()
    assert box.looks() == 1
    # It may appear after the card, but not for ever.
    (box.folder / "disks" / "sda2").unlink()
    box.sought.unlink()
    (box.folder / "disks" / "1-2").unlink()
    before = box.calls.count("sleep 1")
    box.service()
    assert box.looks() == 2 and box.calls.count("sleep 1") - before == 10


@pytest.mark.parametrize("mountable", [True, False])
def test_dracut_mounts_what_was_built_before_or_the_card(box: Box, mountable: bool) -> None:
    """There is no systemd, whose units are the same for any stack."""
    box.sought.write_text(f"{UUID}\n")
    box.put("mountable", "0" if mountable else "1")
    hook = box.script("pre-mount.sh")
    done = box.run("-c", f"root=block:{UUID}; fstype=ext4; rflags=; . {hook}; echo $root")
    assert done.stdout.strip() == f"block:{STACK if mountable else UUID}"
    attached = [call for call in box.calls if call.startswith("cowflush")]
    # By what its log knows: the name itself leads to the stack.
    assert attached == ([] if mountable else [f"cowflush attach --plain {UUID}"])


def test_dracut_mounts_the_stack_or_what_attach_says(box: Box) -> None:
    card = "/dev/null"  # a device that exists
    for answer, root in ((STACK, STACK), ("/dev/sda1", card), ("", card)):
        box.put("attach", answer)
        hook = box.script("pre-mount.sh")
        done = box.run("-c", f"root=block:{card}; fstype=; rflags=; . {hook}; echo $root")
        assert done.stdout.strip() == f"block:{root}", answer
        assert f"cowflush attach {card}" in box.calls
        assert (f"cowflush attach --plain {card}" in box.calls) is (answer == "")
