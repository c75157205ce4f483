"""GRUB's tools are led to the card: package/debian/card-for-grub, and what update-grub reads.

They run on the host with stand-ins for the programs that read and make mounts; in real systems in
test_debian_grub.py.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness import artefacts, local

DEBIAN = artefacts.TOP / "package" / "debian"
SCRIPT = DEBIAN / "card-for-grub"
LOST = (
    "cowflush: the card under root was not found. Do not use grub-install before the next boot.\n"
)
# Beside a mounted folder there is a file that says so. Each change is a line of the log, with what
# the name led to then; the change whose number is in `fails` fails.
STANDIN = """#!/bin/sh
name=${0##*/}
for last; do :; done
step() {
    echo "$name $last $(readlink "$HERE/run/cowflush/card")" >>"$HERE/log"
    [ "$(wc -l <"$HERE/log")" != "$(cat "$HERE/fails")" ] || exit 1
}
case "$name $1" in
"mountpoint -d" | "mountpoint -x") cat "$HERE/number$1" ;;
"mountpoint -q") [ -e "$last.mounted" ] ;;
findmnt*) case $* in *FSTYPE*) cat "$HERE/kind" ;; *) echo ro,noatime ;; esac ;;
mount*) step && echo "$*" >"$last.mounted" ;;
umount*) step && rm "$last.mounted" ;;
stat*) if [ "$last" = / ]; then echo 65026; else cat "$HERE/device"; fi ;;
ischroot*) [ -e "$HERE/chroot" ] ;;
*) step && /bin/"$name" "$@" ;;
esac
"""
PROGRAMS = ("findmnt", "grub-install", "ischroot", "ln", "mkdir", "mount", "mountpoint", "rmdir", "stat", "umount")  # fmt: skip


@dataclass
class System:
    """Root is on the stack over sda1, and GRUB is installed."""

    here: Path
    files: dict[str, str] = field(
        default_factory=lambda: {
            "cowflush-root": "",
            "number-d": "254:2\n",
            "number-x": "254:2\n",
            "kind": "ext4\n",
            "device": "65026\n",
            "sys/block/dm-0/dm/name": "cowflush-origin\n",
            "sys/block/dm-0/slaves/sda1/uevent": "MAJOR=8\nDEVNAME=sda1\nPARTNAME=DEVNAME=x y\n",
            "sys/block/dm-1/dm/name": "cowflush-log\n",
            "sys/block/dm-1/slaves/sda2/uevent": "DEVNAME=sda2\n",
            "boot/grub/grub.cfg": "",
            "run/cowflush/boot": "",
        }
    )

    def make(self) -> System:
        for name, text in self.files.items():
            path = self.here / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for name in PROGRAMS:
            path = self.here / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(STANDIN)
            path.chmod(0o755)
        return self

    def run(self, fails: int = 0) -> subprocess.CompletedProcess[str]:
        (self.here / "log").write_text("")
        (self.here / "fails").write_text(f"{fails}\n")
        (self.here / "card.sh").write_text(self.at_home((DEBIAN / "card.sh").read_text()))
        text = self.at_home(SCRIPT.read_text())
        env = {"HERE": str(self.here), "PATH": f"{self.here}/bin:{os.environ['PATH']}"}
        return local.run(["sh", "-c", text], capture_output=True, text=True, env=env)

    def at_home(self, script: str) -> str:
        for place, here in (
            ("/dev/mapper/cowflush-root", "cowflush-root"),
            ("/boot/grub", "boot/grub"),
            ("/run/cowflush", "run/cowflush"),
            ("/sys/block", "sys/block"),
            ("/usr/lib/cowflush/", ""),
            ("/usr/sbin/cowflush", "program"),
            ("/etc/default/grub.d", "grub.d"),
        ):
            script = script.replace(place, f"{self.here}/{here}")
        return script

    def log(self) -> list[str]:
        return (self.here / "log").read_text().replace(f"{self.here}/", "").splitlines()

    def mounted(self) -> dict[str, str]:
        return {
            str(path.relative_to(self.here)): path.read_text()
            .replace(f"{self.here}/boot", "/boot")
            .replace(f"{self.here}/", "")
            .strip()
            for path in self.here.rglob("*.mounted")
        }


DONE = {"boot/grub.mounted": "--bind -o rw,noatime run/cowflush/grub/boot/grub /boot/grub"}


def test_the_name_leads_to_the_stack_for_the_mount_and_to_the_card_before_grub_can_see_it(
    tmp_path: Path,
) -> None:
    system = System(tmp_path).make()
    assert (done := system.run()).returncode == 0, done
    changes = [line for line in system.log() if line.startswith(("mount ", "umount "))]
    assert changes == [
        "mount run/cowflush/grub cowflush-root",
        "mount boot/grub /dev/sda1",
        "umount run/cowflush/grub /dev/sda1",
    ]
    assert system.mounted() == DONE
    assert not (tmp_path / "run/cowflush/grub").exists()
    # A second run has nothing to do.
    assert system.run().returncode == 0
    assert not [line for line in system.log() if not line.startswith("mkdir boot/grub ")]


def test_whatever_fails_it_is_made_good_by_the_next_call(tmp_path: Path) -> None:
    whole = System(tmp_path / "whole").make()
    assert whole.run().returncode == 0
    for number in range(1, len(whole.log()) + 1):
        system = System(tmp_path / str(number)).make()
        assert system.run(fails=number).returncode != 0, number
        # GRUB's tools see the folder as it was, or on the card.
        if "boot/grub.mounted" in system.mounted():
            assert os.readlink(system.here / "run/cowflush/card") == "/dev/sda1"
        assert (done := system.run()).returncode == 0, (number, done)
        assert {name: how for name, how in system.mounted().items() if name in DONE} == DONE, number
        assert os.readlink(system.here / "run/cowflush/card") == "/dev/sda1"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("chroot", ""),
        ("number-d", "8:1\n"),
        ("device", "2050\n"),
        ("kind", "btrfs\n"),
        ("boot/grub.mounted", ""),
    ],
    ids=["in a chroot", "root is no stack", "boot is another filesystem", "btrfs", "it is done"],
)
def test_nothing_is_mounted_where_grub_finds_the_way(tmp_path: Path, name: str, text: str) -> None:
    system = System(tmp_path)
    system.files[name] = text
    assert (done := system.make().run()).returncode == 0, done
    assert not [line for line in system.log() if line.startswith("mount ")]


def test_a_card_that_is_not_found_is_said(tmp_path: Path) -> None:
    system = System(tmp_path)
    system.files["sys/block/dm-0/dm/name"] = "cowflush-root\n"
    done = system.make().run()
    assert (done.returncode, done.stderr) == (1, LOST)
    assert not system.mounted()


# A partition's name in /sys, and its node
NODES = {
    "sda1": "sda1",
    "mmcblk0p2": "mmcblk0p2",
    "nvme0n1p2": "nvme0n1p2",
    "cciss!c0d0p1": "cciss/c0d0p1",
}


@pytest.mark.parametrize("name", NODES)
def test_a_card_of_any_name_is_found(tmp_path: Path, name: str) -> None:
    system = System(tmp_path)
    del system.files["sys/block/dm-0/slaves/sda1/uevent"]
    system.files[f"sys/block/dm-0/slaves/{name}/uevent"] = f"DEVNAME={NODES[name]}\n"
    assert (done := system.make().run()).returncode == 0, done
    assert os.readlink(system.here / "run/cowflush/card") == f"/dev/{NODES[name]}"
    # update-grub reads the two as one file, as in the package, and ends at the first failure.
    settings = "".join((DEBIAN / part).read_text() for part in ("card.sh", "grub-default.cfg"))
    (tmp_path / "bin/grub-probe").write_text('#!/bin/sh\necho "$*"\n')
    (tmp_path / "bin/grub-probe").chmod(0o755)
    stack = f"{tmp_path}/cowflush-root"
    mine = f"GRUB_DEVICE={stack} GRUB_DEVICE_BOOT={stack}"
    tell = 'echo "$GRUB_DEVICE $GRUB_DEVICE_BOOT $GRUB_DEVICE_UUID"'

    def told() -> str:
        script = f"set -e\n{mine}\n{system.at_home(settings)}\n{tell}"
        env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
        done = local.run(["sh", "-c", script], capture_output=True, text=True, check=True, env=env)
        assert done.stderr == ""
        return done.stdout.strip()

    node = f"/dev/{NODES[name]}"
    assert told() == f"{node} {node} --device {node} --target=fs_uuid"
    # The stack has gone, or was never there.
    (tmp_path / "sys/block/dm-0/dm/name").write_text("other\n")
    assert told() == f"{stack} {stack}"


def test_a_folder_is_made_for_a_grub_that_is_not_used_yet(tmp_path: Path) -> None:
    system = System(tmp_path)
    del system.files["boot/grub/grub.cfg"]
    system.files["boot/x"] = ""
    system.make()
    (tmp_path / "bin/grub-install").unlink()
    assert system.run().returncode == 0 and not (tmp_path / "boot/grub").exists()
    (tmp_path / "bin/grub-install").write_text("")
    (tmp_path / "bin/grub-install").chmod(0o755)
    assert system.run().returncode == 0 and system.mounted() == DONE
