"""The scripts of OpenWrt's package, each by itself, with a program that records its calls."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from harness import artefacts, local

FILES = artefacts.TOP / "package" / "openwrt" / "files"
INACTIVE, BUSY, REFUSED = 3, 4, 5

# The parts of rc.common that the service's script uses, with procd's calls recorded
RC_COMMON = """
initscript=$1 action=$2
procd_open_instance() { echo instance >>"$ASKED"; }
procd_set_param() { :; }
procd_close_instance() { :; }
config_load() { :; }
config_get() { :; }
. "$SCRIPT"
start() { start_service; echo "set" >>"$ASKED"; }
stop() { stop_service; echo "kill" >>"$ASKED"; }
$action
"""
# The parts of preinit that a hook uses: it runs each list in preinit's order.
PREINIT = """
boot_hook_add() { eval "hooks_$1=\\"\\${hooks_$1-} $2\\""; }
. "$SCRIPT"
for list in $*; do eval "for hook in \\${hooks_$list-}; do \\$hook; done"; done
"""


class Router:
    """A folder that stands for a router's root, and a program that answers as told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("etc/rc.d", "etc/uci-defaults", "var/run", "tmp", "usr/sbin", "usr/libexec", "lib/functions"):  # fmt: skip
            (folder / name).mkdir(parents=True)
        self.program = folder / "usr/sbin/cowflush"
        self.answer()
        self.install("cowflush.functions", folder / "lib/functions/cowflush.sh")
        self.install("cowflush.wait", folder / "usr/libexec/cowflush-wait").chmod(0o755)

    def answer(self, **codes: list[int]) -> None:
        """Each subcommand's exit codes, call after call, and then 0."""
        cases = ""
        for command, each in codes.items():
            (self.folder / command).write_text("".join(f"{code}\n" for code in each))
            cases += f'{command}) code=$(head -n 1 {self.folder}/{command}); sed -i 1d {self.folder}/{command}; exit "${{code:-0}}" ;;\n'
        self.program.write_text(
            f'#!/bin/sh\n[ "$1" = status ] || echo "$*" >>{self.folder}/asked\n'
            f"case $1 in\nstatus) cat {self.folder}/held 2>/dev/null; exit $(cat {self.folder}/stack 2>/dev/null || echo 0) ;;\n{cases}esac\n"
        )
        self.program.chmod(0o755)

    def install(self, name: str, place: Path) -> Path:
        """Installs a file of the package with this folder as the root."""
        text = (FILES / name).read_text()
        text = re.sub(
            r"(?<![\w.$}/])/(?=(usr|var|etc|tmp|dev|lib|sysupgrade.tgz)\b)", f"{self.folder}/", text
        )
        # A console, unlike a file, is not emptied by a write.
        text = text.replace(f">{self.folder}/dev/console", f">>{self.folder}/dev/console")
        place.write_text(text.replace("sleep 3", ":").replace("seconds=14", "seconds=1"))
        return place

    def run(
        self, name: str, reader: str, *arguments: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs `reader`, a script that reads the package's."""
        (self.folder / "dev").mkdir(exist_ok=True)
        script = self.install(name, self.folder / "script")
        more = {
            "SCRIPT": str(script),
            "ASKED": str(self.folder / "asked"),
            "IPKG_INSTROOT": str(self.folder),
        }
        return local.run(
            ["sh", "-c", reader, *(arguments or ("sh",))],
            env={**os.environ, **more, **environment},
            capture_output=True,
            text=True,
        )

    def service(self, link: str, action: str) -> int:
        done = self.run("cowflush.init", RC_COMMON, "sh", f"/etc/rc.d/{link}", action)
        self.said = done.stderr
        return done.returncode

    def hold(self, held: bool) -> None:
        """In a hold `status` says so, and a flush by hand would end it."""
        (self.folder / "held").write_text(
            "held       since 2026-11-30 12:00:00 UTC: nothing\n" * held
        )

    def asked(self) -> list[str]:
        """The calls since the last look."""
        place = self.folder / "asked"
        lines = place.read_text().splitlines() if place.exists() else []
        place.unlink(missing_ok=True)
        return lines


@pytest.fixture
def router(tmp_path: Path) -> Router:
    return Router(tmp_path)


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text, re.MULTILINE)
    assert found, pattern
    return int(found[1].replace("_", ""))


def test_the_k_scripts_wait_as_long_as_the_stop_may_take_and_each_less_than_procd_allows(
    router: Router,
) -> None:
    assert router.service("cowflush", "enable") == 0
    links = sorted(path.name for path in (router.folder / "etc/rc.d").iterdir())
    waits = [name for name in links if name.startswith("K89cowflush")]
    # In procd's order, among OpenWrt's own
    own = ["K10gpio_switch", "K50dropbear", "K85odhcpd", "K89log", "K90network", "K90umount"]
    order = sorted([*own, *(name for name in links if name[0] == "K")])
    assert order == ["K00cowflush", *own[:3], *waits, *own[3:]]
    assert [name for name in links if name[0] == "S"] == ["S13cowflush"]
    for name in links:
        target = (router.folder / "etc/rc.d" / name).readlink()
        wanted = (
            "../init.d/cowflush"
            if "_" not in name
            else f"../..{router.folder}/usr/libexec/cowflush-wait"
        )
        assert str(target) == wanted

    # procd gives each 15 seconds; a write that has begun is waited for. And the daemon counts on
    # less than that.
    seconds = number(r"^seconds=(\d+)$", (FILES / "cowflush.wait").read_text())
    within = number(r"^WITHIN=(\d+)$", (FILES / "cowflush.init").read_text())
    counted = number(
        r"^pub const SHUTDOWN: u64 = ([\d_]+);$",
        (artefacts.TOP / "src/pure/policy/schedule.rs").read_text(),
    )
    assert seconds < 15 and within + 60 <= seconds * len(waits) and counted <= 1000 * within

    # Enabling it twice changes nothing; and disabling it leaves nothing.
    assert router.service("cowflush", "enable") == 0
    assert sorted(path.name for path in (router.folder / "etc/rc.d").iterdir()) == links
    assert router.service("cowflush", "disable") == 0
    assert list((router.folder / "etc/rc.d").iterdir()) == []


def test_a_shutdown_flushes_first_and_no_k_script_waits_for_longer_than_it_may(
    router: Router,
) -> None:
    router.service("cowflush", "enable")
    gate = router.folder / "gate"
    os.mkfifo(gate)
    router.program.write_text(
        f'#!/bin/sh\n[ "$1" = status ] && exit 0\necho "$*" >>{router.folder}/asked\nread -r line <{gate}\n'
    )
    # Both are at work until the test lets them go; the scripts end before.
    assert router.service("K00cowflush", "shutdown") == 0
    assert router.service("K89cowflush", "shutdown") == 0
    pid = int((router.folder / "var/run/cowflush-stop.pid").read_text())
    wait = router.folder / "usr/libexec/cowflush-wait"
    assert local.run([wait, "shutdown"]).returncode == 0 and Path(f"/proc/{pid}").exists()
    for _ in range(2):
        gate.write_text("go\n")
    while Path(f"/proc/{pid}").exists():
        pass
    assert local.run([wait, "shutdown"]).returncode == 0
    assert sorted(router.asked()) == ["flush", "stop --shutdown --within 780"]
    # The stop drops what is held.
    router.answer()
    router.hold(True)
    assert router.service("K00cowflush", "shutdown") == 0
    assert router.service("K89cowflush", "shutdown") == 0
    assert router.asked() == ["stop --shutdown --within 780"]


def test_a_service_that_can_t_start_or_stop_leaves_the_daemon_running(router: Router) -> None:
    router.answer(start=[BUSY, BUSY])
    router.service("cowflush", "start")
    assert router.asked() == ["start", "start", "start", "instance", "set"]
    # procd ends the daemon of a service that names no instance.
    for codes, tries in (([BUSY] * 99, 10), ([REFUSED], 1)):
        router.answer(start=codes)
        router.service("cowflush", "start")
        assert router.asked() == [*["start"] * tries, "instance", "set"]
        assert "root is not deferred again; the daemon runs all the same" in router.said
    router.answer(stop=[REFUSED])
    assert router.service("cowflush", "stop") == REFUSED
    assert router.asked() == ["stop"]
    assert router.service("cowflush", "stop") == 0
    assert router.asked() == ["stop", "kill"]
    # A failed report does not prove that there is nothing.
    for code, asked in ((INACTIVE, ["set"]), (1, ["start", "instance", "set"])):
        (router.folder / "stack").write_text(f"{code}\n")
        router.service("cowflush", "start")
        assert router.asked() == asked


def test_what_s10boot_did_at_the_first_boot_is_flushed(router: Router) -> None:
    lists = ("preinit_mount_root", "preinit_main")
    router.run("cowflush.keep", PREINIT, "sh", *lists)
    router.service("S13cowflush", "boot")
    assert "flush" not in router.asked()
    (router.folder / "etc/uci-defaults/10_keys").touch()
    router.run("cowflush.keep", PREINIT, "sh", *lists)
    router.service("S13cowflush", "boot")
    assert router.asked() == ["start", "instance", "set", "flush"]


def test_saved_settings_are_on_the_card_before_anything_can_remove_them_elsewhere(
    router: Router,
) -> None:
    (router.folder / "sysupgrade.tgz").touch()
    (router.folder / "stack").write_text(f"{INACTIVE}\n")
    router.run("cowflush.keep", PREINIT, "sh", "preinit_mount_root")
    assert router.asked() == []
    (router.folder / "stack").unlink()
    router.run("cowflush.keep", PREINIT, "sh", "preinit_mount_root")
    assert router.asked() == ["flush"]
    router.answer(flush=[REFUSED])
    router.run("cowflush.keep", PREINIT, "sh", "preinit_mount_root")
    assert (
        "the saved settings are in RAM only: DON'T POWER OFF"
        in (router.folder / "dev/console").read_text()
    )
    # In preinit's order, by name: after x86's own hook, which brings the settings.
    places = (FILES.parent / "files.list").read_text()
    assert re.findall(r"/lib/preinit/(\S+) files/cowflush.keep", places)[0] > "79_move_config"


def test_failsafe_mode_writes_through_or_says_what_is_lost(router: Router) -> None:
    router.run("cowflush.keep", PREINIT, "sh", "failsafe")
    console = router.folder / "dev/console"
    assert router.asked() == ["stop"] and "from then on at once" in console.read_text()
    assert "LOST" not in console.read_text()
    router.answer(stop=[REFUSED])
    router.run("cowflush.keep", PREINIT, "sh", "failsafe")
    assert "what you change is LOST when you reboot, unless" in console.read_text()
    # A squashfs root's writable partition comes onto the stack first.
    overlay = 'cowflush_overlay() { echo overlay >>"$ASKED"; }\n'
    router.asked()
    router.run("cowflush.keep", overlay + PREINIT, "sh", "failsafe")
    assert router.asked() == ["overlay", "stop"]


# sysupgrade's own variables when it reads the hooks, and whether it then writes an image
OPTIONS = {
    "an image": ({"IMAGE": "/tmp/new.img", "TEST": "0", "CONF_BACKUP_LIST": "0"}, True),
    "-T": ({"IMAGE": "/tmp/new.img", "TEST": "1", "CONF_BACKUP_LIST": "0"}, False),
    "-b": ({"IMAGE": "", "TEST": "0", "CONF_BACKUP_LIST": "0"}, False),
    "-l": ({"IMAGE": "x", "TEST": "0", "CONF_BACKUP_LIST": "1"}, False),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_an_upgrade_is_refused_while_the_system_is_alive(router: Router, option: str) -> None:
    variables, writes = OPTIONS[option]
    reader = '. "$SCRIPT"; echo goes on'

    def sysupgrade(name: str = "/sbin/sysupgrade") -> tuple[str, str, int]:
        done = router.run("cowflush.upgrade", reader, name, **variables)
        return done.stdout, done.stderr, done.returncode

    assert sysupgrade()[::2] == ("goes on\n", 0) and router.asked() == ["flush"] * writes
    router.answer(flush=[REFUSED, 0])
    assert sysupgrade()[::2] == ("goes on\n", 0) and router.asked() == ["flush"] * 2 * writes
    for codes in ([1], [REFUSED, REFUSED]):
        router.answer(flush=codes)
        out, said, code = sysupgrade()
        assert router.asked() == ["flush"] * len(codes) * writes
        assert (out, code) == (("", 1) if writes else ("goes on\n", 0))
        assert writes == ("the upgrade is refused" in said and "Nothing was changed" in said)
    router.hold(True)
    out, said, code = sysupgrade()
    assert router.asked() == [] and code == writes
    assert writes == ("the upgrade is refused during a hold: 'cowflush flush' keeps" in said)
    router.hold(False)
    # For other programs that read the hooks, they do nothing.
    for name in ("/usr/libexec/validate_firmware_image", "/lib/upgrade/stage2"):
        assert sysupgrade(name)[::2] == ("goes on\n", 0) and router.asked() == []
    (router.folder / "stack").write_text(f"{INACTIVE}\n")
    assert sysupgrade()[::2] == ("goes on\n", 0) and router.asked() == []


def test_stage_2_resets_the_machine_only_when_all_is_flushed_or_nothing_can_be(
    router: Router,
) -> None:
    reader = '. "$SCRIPT"; platform_pre_upgrade image; echo goes on'

    def stage2() -> tuple[str, int]:
        done = router.run("cowflush.upgrade", reader, "/lib/upgrade/stage2", IMAGE="/tmp/new.img")
        return done.stdout, done.returncode

    for codes in ([0], [REFUSED, 0]):
        router.answer(stop=codes)
        out, code = stage2()
        assert out.endswith("goes on\n") and code == 0 and router.asked() == ["stop"] * len(codes)
    router.answer(stop=[1], flush=[1, REFUSED, 0])
    out, code = stage2()
    assert code == 1 and router.asked() == ["stop", "flush", "flush", "flush"]
    assert "Nothing is lost" in out and "goes on" not in out
    router.answer(stop=[1], flush=[1] * 99)
    out, code = stage2()
    assert code == 1 and router.asked() == ["stop", *["flush"] * 10]
    assert "what was written since the last flush is LOST" in out
    # A reboot drops what is held.
    router.hold(True)
    router.answer(stop=[1])
    assert stage2()[1] == 1 and router.asked() == ["stop"]
    (router.folder / "stack").write_text(f"{INACTIVE}\n")
    assert stage2() == ("goes on\n", 0) and router.asked() == []
