"""The scripts for initramfs-tools and dracut, with each step failing, on the host with stand-ins.

Making an initramfs must fail as a whole where a copy fails: one with the scripts but without the
program would mount root without the flush log. A boot's scripts must not let root be written to
where the program, which alone knows whether there is such a log, does not answer. In real systems
they run in test_debian*.py.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import artefacts, local

PACKAGE = artefacts.TOP / "package"
LOG = b"cowflLOG" + bytes(4088)
# Adds its call to $PLACE/log, and fails if the call begins with $FAILS.
STUB = r"""#!/bin/sh
echo "${0##*/} $*" >>"$PLACE/log"
case "${0##*/} $*" in "${FAILS:-none}"*) exit "${CODE:-1}" ;; esac
case "${0##*/} $*" in
"cowflush attach"*) echo "${DEVICE-/dev/mapper/cowflush-root}" ;;
"cowflush log"*) echo "cowflush.log=UUID=x" ;;
findmnt*) echo /dev/sda1 ;;
"blkid -s UUID -o value /dev/sda1") echo 0b-5e ;;
"blockdev --getro"*) if grep -q setro "$PLACE/log"; then echo 1; else echo 0; fi ;;
ischroot*) exit 1 ;;
esac
"""
# The functions of initramfs-tools that the hook uses: the program's copy is as broken as COPY says.
FUNCTIONS = r"""
copy_exec() {
    mkdir -p "$DESTDIR$2"
    case ${COPY-} in
    refused) return 1 ;;
    short) head -c 3 "$1" >"$DESTDIR$2/${1##*/}" ;;
    *) cp "$1" "$DESTDIR$2/" ;;
    esac
}
manual_add_modules() { echo "$*" >>"$DESTDIR/modules"; return 1; }
get_fstype() { echo ext4; }
wait_for_udev() { :; }
"""


@dataclass(frozen=True)
class Place:
    """A folder that stands for / in the scripts, with stand-ins."""

    path: Path

    def script(self, source: Path, *names: str) -> Path:
        """The script, with its paths moved to this folder."""
        text = source.read_text()
        for name in names:
            text = text.replace(name, f"{self.path}{name}")
        return self.put(source.name, text)

    def put(self, name: str, content: str | bytes, mode: int = 0o755) -> Path:
        path = self.path / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    def stubs(self, *names: str) -> None:
        for name in names:
            self.put(f"bin/{name}", STUB)

    def run(self, *command: Path | str, **words: str) -> subprocess.CompletedProcess[str]:
        self.put("log", "")
        environment = {
            **os.environ,
            "PATH": f"{self.path}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PLACE": str(self.path),
            "DESTDIR": f"{self.path}/made",
            **words,
        }
        return local.run(command, capture_output=True, text=True, env=environment, timeout=60)

    def calls(self) -> list[str]:
        return (self.path / "log").read_text().splitlines()


HOOK_FILES = (
    "/usr/share/initramfs-tools/hook-functions",
    "/usr/sbin/cowflush",
    "/sbin/blockdev",
    "/usr/lib/dracut/modules.d",
    "rules=/usr/lib/udev",
    "/dev/mapper/cowflush-root",
)


def hook(path: Path) -> tuple[Place, Path]:
    place = Place(path)
    place.put("usr/share/initramfs-tools/hook-functions", FUNCTIONS)
    place.put("usr/sbin/cowflush", STUB)
    place.put("sbin/blockdev", STUB)
    place.put("usr/lib/dracut/modules.d/99cowflush/in-doubt.sh", "doubt")
    place.put("usr/lib/udev/rules.d/56-cowflush.rules", "rules")
    (path / "made/scripts").mkdir(parents=True)
    place.stubs("ischroot", "blkid", "findmnt")
    text = (PACKAGE / "debian/initramfs/hook").read_text()
    # The rules' source, not their target
    text = text.replace('cp -p "$rules"', f'cp -p "{path}$rules"')
    for name in (
        "/usr/share/initramfs-tools/hook-functions",
        "/usr/sbin/cowflush",
        "/usr/lib/dracut",
        "/usr/lib/cowflush",
        "/dev/mapper/",
        "/sys/devices/",
    ):
        text = text.replace(name, f"{path}{name}")
    card = (PACKAGE / "debian/card.sh").read_text()
    place.put("usr/lib/cowflush/card.sh", card.replace("/sys/block/", f"{path}/sys/block/"))
    text = text.replace(" /sbin/blockdev", f" {path}/sbin/blockdev")
    return place, place.put("hook", text)


def test_the_hook_puts_all_of_it_in(tmp_path: Path) -> None:
    place, script = hook(tmp_path)
    done = place.run(script)
    assert (done.returncode, done.stderr) == (0, "")
    made = tmp_path / "made"
    assert (made / "sbin/cowflush").read_text() == STUB
    assert (made / "scripts/cowflush-in-doubt").read_text() == "doubt"
    assert (made / "usr/lib/udev/rules.d/56-cowflush.rules").read_text() == "rules"
    assert (made / "etc/cowflush.words").read_text() == "cowflush.log=UUID=x\n"
    assert (made / "etc/cowflush.root").read_text() == "0b-5e\n"
    # A kernel that lacks them still gets an initramfs.
    assert (made / "modules").read_text() == "loop dm_mod dm_snapshot\n"


def test_the_card_s_drivers_go_in_whatever_a_flush_does_to_the_layers_above_it(
    tmp_path: Path,
) -> None:
    """The card is a partition on an IDE disk; root's own device is on layers that come and go."""
    place, script = hook(tmp_path)
    devices, blocks = tmp_path / "sys/devices", tmp_path / "sys/block"
    disk = devices / "pci0000:00/0000:00:01.1/ata1/0:0:0:0/block/sda"
    (disk / "sda1").mkdir(parents=True)
    place.put("sys/devices/pci0000:00/0000:00:01.1/modalias", "pci:v8086\n")
    for at, module in (("0000:00:01.1", "ata_piix"), ("0000:00:01.1/ata1/0:0:0:0", "sd_mod")):
        (tmp_path / "sys/module" / module).mkdir(parents=True)
        driver = devices / "pci0000:00" / at / "driver"
        driver.mkdir()
        (driver / "module").symlink_to(tmp_path / "sys/module" / module)
    for number, name, below in ((0, "cowflush-origin", disk / "sda1"), (3, "cowflush-root", None)):
        place.put(f"sys/block/dm-{number}/dm/name", f"{name}\n")
        slaves = blocks / f"dm-{number}/slaves"
        slaves.mkdir()
        # The device under root is gone.
        (slaves / "below").symlink_to(below or devices / "virtual/block/dm-2")
    done = place.run(script)
    assert (done.returncode, done.stderr) == (0, "")
    added = (tmp_path / "made/modules").read_text().split("\n")
    assert added == ["loop dm_mod dm_snapshot", "sd_mod", "ata_piix", "pci:v8086", ""]


@pytest.mark.parametrize(
    "lacking",
    [
        "usr/sbin/cowflush",
        "sbin/blockdev",
        "usr/lib/dracut/modules.d/99cowflush/in-doubt.sh",
        "usr/lib/udev/rules.d/56-cowflush.rules",
        "usr/lib/cowflush/card.sh",
    ],
)
def test_the_hook_fails_where_something_can_not_be_copied(tmp_path: Path, lacking: str) -> None:
    """update-initramfs then keeps the old initramfs."""
    place, script = hook(tmp_path)
    (tmp_path / lacking).unlink()
    assert place.run(script).returncode != 0


@pytest.mark.parametrize("copy", ["refused", "short"])
def test_the_hook_fails_where_the_program_s_copy_is_not_the_program(
    tmp_path: Path, copy: str
) -> None:
    place, script = hook(tmp_path)
    assert place.run(script, COPY=copy).returncode != 0


def test_the_hook_never_forgets_a_log_on_another_disk(tmp_path: Path) -> None:
    place, script = hook(tmp_path)
    words = tmp_path / "made/etc/cowflush.words"
    # Before the first boot with cowflush there is no stack to ask.
    assert place.run(script, FAILS="cowflush log").returncode == 0
    assert words.read_text() == "\n"
    place.put("dev/mapper/cowflush-root", "")
    assert place.run(script, FAILS="cowflush log").returncode == 1
    # In a chroot it would be the host's.
    words.unlink()
    place.put("bin/ischroot", "#!/bin/sh\nexit 0\n")
    assert place.run(script, FAILS="cowflush log").returncode == 0
    assert not words.exists()


DRACUT = r"""
PLACE=$1 initdir=$1/made moddir=$1/module udevdir=/usr/lib/udev systemdsystemunitdir=/usr/lib/systemd/system
did() { echo "$*" >>"$PLACE/log"; case "$*" in "${FAILS:-none}"*) return 1 ;; esac; }
inst_multiple() { did inst_multiple "$@"; }
inst_rules() { did inst_rules && mkdir -p "$initdir$udevdir/rules.d" && touch "$initdir$udevdir/rules.d/$1"; return 0; }
inst_hook() { did inst_hook "$@"; }
inst_script() { did "inst_script ${1##*/}"; }
inst_simple() { did "inst_simple ${1##*/}"; }
dracut_module_included() { true; }
dfatal() { echo "$*" >&2; }
derror() { echo "$*" >&2; }
. "$moddir/module-setup.sh"
check || exit 9
install
# As dracut does: whatever came of it.
echo made
"""


@pytest.mark.parametrize(
    "fails",
    ["", "inst_multiple blkid cowflush", "inst_rules", "inst_hook", "inst_simple in-doubt.sh", "inst_multiple systemctl", "inst_simple pre-mount.conf", "inst_script by-log.sh", "cowflush log"],
)  # fmt: skip
def test_dracut_makes_no_initramfs_without_all_of_it(tmp_path: Path, fails: str) -> None:
    place = Place(tmp_path)
    place.stubs("cowflush", "ischroot", "blkid")
    place.put("dev/mapper/cowflush-root", "")
    text = (PACKAGE / "dracut/module-setup.sh").read_text()
    place.put("module/module-setup.sh", text.replace("/dev/mapper/", f"{tmp_path}/dev/mapper/"))
    done = place.run("bash", "-c", DRACUT, "dracut", str(tmp_path), FAILS=fails)
    assert ("made" in done.stdout, done.returncode) == ((True, 0) if not fails else (False, 1))
    if fails:
        assert "cowflush can't be put into the initramfs, so none is made." in done.stderr
    else:
        assert (tmp_path / "made/etc/cowflush.words").read_text() == "cowflush.log=UUID=x\n"


def doubting(path: Path, words: str = "root=/dev/sda1 quiet\n", noted: str = "\n") -> Place:
    """A place with disks whose content is files."""
    place = Place(path)
    for name in ("sda", "sda1", "sda2", "sr0", "dm-0"):
        place.put(f"dev/{name}", bytes(65536))
        place.put(f"sys/class/block/{name}/size", "128\n")
        place.put(f"sys/class/block/{name}/uevent", f"MAJOR=8\nDEVNAME={name}\n")
    place.put("proc/cmdline", words)
    place.put("etc/cowflush.words", noted)
    place.put("dev/kmsg", "")
    place.stubs("blockdev")
    place.script(
        PACKAGE / "dracut/in-doubt.sh",
        "/proc/cmdline",
        "/etc/cowflush.words",
        "/sys/class",
        "/dev/",
    )
    return place


def refused(place: Place, code: str = "139") -> bool:
    done = place.run(place.path / "in-doubt.sh", "/dev/sda1", code)
    said = (place.path / "dev/kmsg").read_text()
    if done.returncode == 0:
        assert place.calls() == ["blockdev --setro /dev/sda1"]
        assert said == (
            f"<3>cowflush: ended with {code} and did not say what is in the flush log, so root is read-only, and writes "
            "to /dev/sda1 are refused. To go on without the log's flushes: reboot with cowflush.log=none.\n"
        )
    else:
        assert (place.calls(), said) == ([], "")
    return done.returncode == 0


@pytest.mark.parametrize("at", [0, 61440])
def test_root_takes_no_writes_where_the_program_died_and_a_log_is_there(
    tmp_path: Path, at: int
) -> None:
    """The second copy of its header alone is enough."""
    place = doubting(tmp_path)
    content = bytearray(65536)
    content[at : at + 4096] = LOG
    # What is not a disk is not read: a drive without a disk takes its time.
    place.put("dev/sr0", bytes(content))
    place.put("dev/dm-0", bytes(content))
    assert not refused(place)
    place.put("dev/sda2", bytes(content))
    for code in ("1", "4", "5", "126", "127", "139"):
        assert refused(place, code), code
    # In /sys, ! stands for the / of a node's name.
    place.put("dev/sda2", bytes(65536))
    place.put("dev/cciss/c0d0p1", bytes(content))
    place.put("sys/class/block/cciss!c0d0p1/size", "128\n")
    place.put("sys/class/block/cciss!c0d0p1/uevent", "DEVNAME=cciss/c0d0p1\n")
    assert refused(place)
    # The program ran, and said that root is not one for it.
    place.put("dev/kmsg", "")
    assert not refused(place, "3")


def test_root_takes_no_writes_where_the_program_died_and_a_log_is_named(tmp_path: Path) -> None:
    """Its disk may come later."""
    for number, (words, noted, wanted) in enumerate(
        [
            ("quiet cowflush.log=UUID=x\n", "\n", True),
            ("quiet\n", "cowflush.log=UUID=x\n", True),
            ("quiet cowflush.log=none\n", "cowflush.log=UUID=x\n", False),
            ("quiet cowflush.log=UUID=y\n", "cowflush.log=none\n", True),
            ("cowflush.log=UUID=x cowflush.log=auto\n", "", False),
            ("xcowflush.log=UUID=x * quiet\n", "", False),
        ]
    ):
        assert refused(doubting(tmp_path / str(number), words, noted)) is wanted, words


def premount(path: Path) -> tuple[Place, Path]:
    place = Place(path)
    place.put("scripts/functions", FUNCTIONS)
    place.put(
        "scripts/cowflush-in-doubt", STUB.replace("${0##*/}", "in-doubt") + "blockdev --setro $1\n"
    )
    (path / "conf").mkdir()
    (path / "run").mkdir()
    place.stubs("cowflush", "modprobe", "blockdev", "mount", "umount")
    script = place.script(
        PACKAGE / "debian/initramfs/local-premount", "/scripts/", "/conf/", "/run/cowflush"
    )
    return place, script


def test_local_premount_asks_what_to_do_when_the_program_does_not_answer(tmp_path: Path) -> None:
    place, script = premount(tmp_path)

    def told(**words: str) -> str:
        conf = tmp_path / "conf/param.conf"
        conf.unlink(missing_ok=True)
        done = place.run(script, ROOT="/dev/sda1", **words)
        assert done.returncode == 0, done.stderr
        return conf.read_text() if conf.exists() else ""

    assert told() == "ROOT=/dev/mapper/cowflush-root\n"
    assert not any(call.startswith("in-doubt") for call in place.calls())
    # The program has said itself why it is the plain card.
    assert told(DEVICE="/dev/sda1") == ""
    assert not any(call.startswith("in-doubt") for call in place.calls())
    # The stack can't be mounted, and the script removes it.
    assert told(FAILS="mount") == ""
    assert "cowflush attach --plain /dev/sda1" in place.calls()
    for code in ("1", "127", "139"):
        assert told(FAILS="cowflush", CODE=code) == "readonly=y\n", code
        assert f"in-doubt /dev/sda1 {code}" in place.calls()


def test_local_block_tries_again_only_when_a_disk_has_come(tmp_path: Path) -> None:
    """initramfs-tools calls it once a second. A failed try has been reported."""
    place = Place(tmp_path)
    place.put("scripts/functions", FUNCTIONS)
    place.put("sys/class/block/sda1/size", "128\n")
    place.put("sys/class/block/sr0/size", "0\n")
    (tmp_path / "run").mkdir()
    place.stubs("cowflush", "modprobe")
    script = place.script(
        PACKAGE / "debian/initramfs/local-block", "/scripts/", "/run/cowflush", "/sys/class"
    )
    asked = "cowflush attach --by-log UUID=x"

    def asks(**words: str) -> bool:
        done = place.run(script, "UUID=x", ROOT="UUID=x", **words)
        assert (done.returncode, done.stderr) == (0, "")
        return asked in place.calls()

    # No log knows root: nothing was tried, and what was unreadable may answer now.
    assert all(asks(FAILS="cowflush", CODE="3") for _ in range(3))
    for code in ("1", "5", "9"):
        assert asks(FAILS="cowflush", CODE=code), code
        assert not asks() and not asks(), code
        # Its own layers are not disks.
        place.put(f"sys/class/block/dm-{code}/size", "64\n")
        assert not asks(), code
        place.put(f"sys/class/block/sdb{code}/size", "64\n")
    # A card was put into a reader that was there.
    assert asks(FAILS="cowflush", CODE="5") and not asks()
    place.put("sys/class/block/sr0/size", "4096\n")
    assert asks(DEVICE="/dev/sda1")
    assert not asks(), "it said that this is the plain card"
    place.put("sys/class/block/sdc/size", "64\n")
    assert asks()
    assert (tmp_path / "run/cowflush-sought").read_text() == "UUID=x\n"
    place.put("sys/class/block/sdd/size", "64\n")
    assert not asks(), "it is there"


def test_a_root_that_names_the_stack_is_the_one_that_the_initramfs_was_made_on(
    tmp_path: Path,
) -> None:
    """raspi-firmware writes such a root, since it asks from what root is mounted."""
    place = Place(tmp_path)
    script = place.script(PACKAGE / "debian/initramfs/local-top", "/conf/", "/etc/")
    (tmp_path / "conf").mkdir()

    def root(was: str) -> str:
        conf = tmp_path / "conf/param.conf"
        conf.unlink(missing_ok=True)
        assert place.run(script, ROOT=was).returncode == 0
        return conf.read_text() if conf.exists() else was

    stack = "/dev/mapper/cowflush-root"
    assert root(stack) == stack, "it was made in a chroot"
    place.put("etc/cowflush.root", "\n")
    assert root(stack) == stack, "root has no UUID"
    place.put("etc/cowflush.root", "0b-5e\n")
    assert root(stack) == "ROOT=UUID=0b-5e\n"
    assert root("UUID=x") == "UUID=x" and root("/dev/sda1") == "/dev/sda1"


# As sys_walk_mod_add of initramfs-tools 0.142 climbs from the device that it is called with.
WALK = """
device_path=$(readlink -f /sys/block/gone/slaves/sda1)
while [ "$device_path" != /sys ]; do
    device_path=$(dirname "$device_path")
done
echo arrived
dirname /lib/modules/x
"""


def test_a_walk_through_sys_ends_though_its_device_is_gone() -> None:
    """A flush removes devices while mkinitramfs walks from them to their drivers."""
    hook = PACKAGE / "debian" / "initramfs" / "conf-hook"
    done = local.run(
        ["dash", "-c", f". {hook}\n{WALK}"], capture_output=True, text=True, timeout=20
    )
    assert done.stdout.split() == ["arrived", "/lib/modules"]
