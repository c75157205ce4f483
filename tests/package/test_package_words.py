"""The messages of the packages' scripts, run on the host with stand-ins for what they call."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from harness import artefacts, local

DEBIAN = artefacts.TOP / "package" / "debian"
OPENWRT = artefacts.TOP / "package" / "openwrt" / "files"
# As in lsb-base, without colours
LSB = """
log_daemon_msg() { printf '%s:' "$1"; shift; printf ' %s' "$@"; }
log_end_msg() { [ "$1" = 0 ] && echo . || echo ' failed!'; return "$1"; }
"""


class Scripts:
    """A folder with stand-ins: each records its call, and exits with the code that it was given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = folder / "calls"
        self.stack = folder / "cowflush-root"
        self.stack.touch()
        (folder / "lsb").write_text(LSB)

    def program(self, name: str, code: int = 0, output: str = "") -> Path:
        path = self.folder / name
        script = (
            f"#!/bin/sh\necho \"{name} $*\" >>{self.calls}\nprintf %s '{output}'\nexit {code}\n"
        )
        path.write_text(script)
        path.chmod(0o755)
        return path

    def run(self, script: Path, *words: str, after: str = "") -> subprocess.CompletedProcess[str]:
        text = script.read_text()
        for place, here in (
            ("/usr/sbin/cowflush", self.folder / "cowflush"),
            # test_card_for_grub.py tests this program's messages.
            ("/usr/lib/cowflush/card-for-grub", "true"),
            ("/dev/mapper/cowflush-root", self.stack),
            ("/lib/lsb/init-functions", self.folder / "lsb"),
            ("/run/sendsigs.omit.d", self.folder / "omit"),
            ("/run/cowflush.pid", self.folder / "pid"),
            ("/tmp/cowflush.conf", self.folder / "tmp.conf"),
            ("/proc/cmdline", self.folder / "cmdline"),
            ("/dev/kmsg", self.folder / "kmsg"),
            ("/dev/console", self.folder / "console"),
            ("/dev/dm-overlay", self.folder / "dm-overlay"),
            ("/sys/module", self.folder / "module"),
            ("PATH=/sbin:", f"PATH={self.folder}:/sbin:"),
        ):
            text = text.replace(place, str(here))
        copy = self.folder / script.name
        copy.write_text(text + after)
        # In another folder than programs that are found by their path
        path = f"{self.folder}:{os.environ['PATH']}"
        return local.run(
            ["sh", copy, *words],
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": path},
        )


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    return Scripts(tmp_path)


def test_debian_s_service_says_what_it_does_and_whether_it_worked(scripts: Scripts) -> None:
    script = DEBIAN / "cowflush.init"
    for word, said, program, failure in (
        ("start", "Keeping root's writes in RAM", "cowflush", 5),
        ("stop", "Flushing root to the card", "cowflush", 5),
        ("restart", "Restarting cowflush's daemon", "start-stop-daemon", 1),
    ):
        for code, end in ((0, "."), (failure, " failed!")):
            for each in ("cowflush", "start-stop-daemon"):
                scripts.program(each, code if each == program else 0)
            done = scripts.run(script, word)
            assert done.stdout == f"{said}: cowflush{end}\n", done
    done = scripts.run(script, "nonsense")
    usage = (
        f"Usage: {scripts.folder / script.name} {{start|stop|restart|reload|force-reload|status}}"
    )
    assert (done.returncode, done.stderr.strip()) == (2, usage), done


def test_sysvinit_s_daemon_feeds_the_watchdog_until_all_is_on_the_card(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a shutdown it ends after the stop, however that went; by hand only after a good one."""
    for level, words in (("0", "stop --shutdown"), ("6", "stop --shutdown"), ("", "stop")):
        monkeypatch.setenv("RUNLEVEL", level)
        for code in (0, 5):
            scripts.program("cowflush", code)
            scripts.program("start-stop-daemon")
            scripts.calls.unlink(missing_ok=True)
            done = scripts.run(DEBIAN / "cowflush.init", "stop")
            assert done.returncode == code, done
            calls = scripts.calls.read_text().splitlines()
            ended = [call.startswith("start-stop-daemon --stop") for call in calls]
            assert calls[0] == f"cowflush {words}"
            assert ended == ([False, True] if level or not code else [False]), (level, code, calls)


def test_sysvinit_s_script_forgets_a_daemon_only_when_it_is_gone_and_keeps_back_no_error(
    scripts: Scripts,
) -> None:
    """A second daemon must not run beside it.

    `stop` and then `start` leave one, whatever the stop said.
    """
    pid, spared = scripts.folder / "pid", scripts.folder / "omit/cowflush"
    script = DEBIAN / "cowflush.init"
    for code in (2, 0):
        pid.write_text("4711")
        scripts.program("cowflush")
        scripts.program("start-stop-daemon", code)
        assert scripts.run(script, "stop").returncode == code
        assert pid.exists() == bool(code)
    scripts.program("cowflush", output="")
    (scripts.folder / "cowflush").write_text("#!/bin/sh\necho why >&2\nexit 5\n")
    assert "why" in scripts.run(script, "stop").stderr
    scripts.program("cowflush")
    scripts.program("start-stop-daemon")
    assert scripts.run(script, "start").returncode == 0
    assert spared.is_symlink() and spared.readlink() == pid


def test_sysvinit_s_daemon_begins_though_root_is_not_deferred_again(scripts: Scripts) -> None:
    """Beside a running command the script exits with start's code, unless the daemon's is worse."""
    for code, daemon, answer in ((4, 0, 4), (0, 2, 2), (5, 2, 2), (0, 0, 0)):
        scripts.program("cowflush", code)
        scripts.program("start-stop-daemon", daemon)
        scripts.calls.unlink(missing_ok=True)
        done = scripts.run(DEBIAN / "cowflush.init", "start")
        assert done.returncode == answer, done
        calls = scripts.calls.read_text().splitlines()
        assert [call.startswith("start-stop-daemon --start") for call in calls] == [False, True]


def test_debian_s_package_stays_where_root_can_not_be_written_back(scripts: Scripts) -> None:
    scripts.program("ischroot", 1)
    scripts.program("invoke-rc.d")
    scripts.program("cowflush", 5)
    done = scripts.run(DEBIAN / "prerm", "remove")
    assert done.returncode == 1 and done.stderr == (
        "cowflush: root can't be written back to the card, so the package stays. See above.\n"
    ), done
    # The daemon goes on, since something must flush what is in RAM.
    assert scripts.calls.read_text().splitlines() == ["ischroot ", *2 * ["cowflush stop"]]
    scripts.program("cowflush")
    done = scripts.run(DEBIAN / "prerm", "remove")
    assert (done.returncode, done.stderr) == (0, ""), done
    # The service's own script reports a service that does not end.
    scripts.program("invoke-rc.d", 1)
    done = scripts.run(DEBIAN / "prerm", "remove")
    assert (done.returncode, done.stderr) == (1, ""), done


def test_debian_s_postinst_refuses_what_it_does_not_know(scripts: Scripts) -> None:
    done = scripts.run(DEBIAN / "postinst", "nonsense")
    assert (done.returncode, done.stderr) == (
        1,
        "postinst called with unknown argument `nonsense'\n",
    ), done


def test_grub_s_menu_gets_an_entry_without_cowflush(scripts: Scripts) -> None:
    scripts.program("cowflush")
    entries = "menuentry x {\n\tlinux /vmlinuz\n}\nmenuentry y {\n\tlinux /other\n}\n"
    scripts.program("10_linux", output=entries)
    done = scripts.run(DEBIAN / "42_cowflush")
    assert (done.returncode, done.stderr) == (0, "Adding an entry without cowflush\n"), done
    assert "\tlinux /vmlinuz\n}" in done.stdout and "/other" not in done.stdout, done
    # The entry as it was, except for what would make a rescue the default of all later boots
    entries = "menuentry x {\n\tsavedefault\n\tlinux /vmlinuz a=\\\\n\\$b\n}\n"
    (scripts.folder / "entries").write_text(entries)
    (scripts.folder / "10_linux").write_text(f"#!/bin/sh\ncat {scripts.folder}/entries\n")
    said = scripts.run(DEBIAN / "42_cowflush").stdout
    assert entries.splitlines()[2] in said.splitlines() and "savedefault" not in said, said
    scripts.program("10_linux")
    assert scripts.run(DEBIAN / "42_cowflush").stderr == "", "nothing to make one of"


def test_openwrt_s_service_writes_its_settings_to_no_link_of_somebody_else_s(
    scripts: Scripts,
) -> None:
    """A user who may write to /tmp could use a link to make root overwrite any file."""
    precious = scripts.folder / "precious"
    precious.write_text("work")
    conf = scripts.folder / "tmp.conf"
    for name in (conf, conf.with_name("tmp.conf.new")):
        name.symlink_to(precious)
    uci = 'config_load() { :; }\nconfig_get() { if [ "$3" = interval ]; then eval "$1=3h"; else eval "$1="; fi; }\n'
    done = scripts.run(OPENWRT / "cowflush.init", after=f"\n{uci}write_config\n")
    assert done.returncode == 0, done
    assert conf.read_text() == "interval = 3h\n" and not conf.is_symlink()
    assert precious.read_text() == "work" and conf.stat().st_mode & 0o777 == 0o644
    assert [*scripts.folder.glob("tmp.conf.??????")] == []


def test_openwrt_s_boot_says_that_it_has_no_writable_partition(scripts: Scripts) -> None:
    script, call = OPENWRT / "cowflush.preinit", "\ncowflush_overlay\n"
    overlay, kmsg, console = (scripts.folder / name for name in ("dm-overlay", "kmsg", "console"))
    scripts.program("boot_hook_add")
    scripts.program("mount")
    # Built into the kernel, or not there at all: whether that is a failure cowflush itself says.
    scripts.program("modprobe", 255)
    (scripts.folder / "cmdline").write_text("quiet cowflush_overlay=LABEL=rootfs_data rw\n")
    for output, code in (("", 1), ("", 127), ("", 0)):
        kmsg.unlink(missing_ok=True)
        console.unlink(missing_ok=True)
        scripts.program("cowflush", code, output)
        assert scripts.run(script, after=call).returncode == 0
        said = (
            "cowflush: there is no writable partition LABEL=rootfs_data "
            f"('cowflush attach' ended with {code}): what is written is gone at the next boot\n"
        )
        # With this rank the kernel shows it even with `quiet`.
        assert kmsg.read_text() == f"<3>{said}" and not console.exists()
        # There is no kernel log, so it goes to the console.
        kmsg.unlink()
        kmsg.mkdir()
        scripts.run(script, after=call)
        assert console.read_text() == said
        kmsg.rmdir()
        assert not overlay.is_symlink()
    for device in ("/dev/mapper/cowflush-root", "/dev/sda3"):
        scripts.program("cowflush", 0, device)
        done = scripts.run(script, after=call)
        assert (done.returncode, done.stderr, kmsg.exists()) == (0, "", False), done
        assert str(overlay.readlink()) == device
    # OpenWrt loads that module later by itself, or not at all.
    calls = scripts.calls.read_text().splitlines()
    attach = calls.index("cowflush attach LABEL=rootfs_data")
    assert calls.index("modprobe dm-snapshot") < attach
    (scripts.folder / "module/dm_snapshot").mkdir(parents=True)
    scripts.calls.unlink()
    scripts.run(script, after=call)
    assert "modprobe" not in scripts.calls.read_text()
    # Without the word it does nothing.
    scripts.calls.unlink()
    (scripts.folder / "cmdline").write_text("quiet\n")
    scripts.run(script, after=call)
    assert scripts.calls.read_text() == "boot_hook_add preinit_main cowflush_overlay\n"


def test_the_script_at_the_very_end_comes_back_before_systemd_goes_on_also_on_a_slow_card() -> None:
    """systemd gives each script 90 s (DEFAULT_TIMEOUT_USEC).

    cowflush checks for signals between two writes of a piece, and the current write may have begun
    just before the time was over.
    """
    shutdown = (DEBIAN / "cowflush.shutdown").read_text()
    chunks = (artefacts.TOP / "src/pure/chunks.rs").read_text()
    within = re.search(r"^exec .* stop --shutdown --within (\d+)$", shutdown, re.MULTILINE)
    piece = re.search(r"PIECE: usize = (\d+);", chunks)
    assert within and piece
    # As slow as the card of test_debian_shutdown.py. Besides, the stop reads only a few chunks.
    seconds = int(piece[1]) * 4096 / (16 << 10)
    assert int(within[1]) + seconds + 10 <= 90
