"""The scripts that dpkg calls, with power cuts and failures at each step.

They run on the host in a root of their own, as dpkg would run them: their shell, their tools for
files and deb-systemd-helper are Debian's own. Programs that act on a running system (systemctl,
invoke-rc.d) or take minutes (update-initramfs, update-grub), and cowflush, are stand-ins that keep
their state in files. In real systems the scripts run in test_debian.py.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import artefacts, local

PACKAGE = artefacts.TOP / "package" / "debian"
UNITS = ("cowflush.service", "cowflush-shutdown.service", "cowflush-card.service")
# A user's namespaces, which need no root rights
SPACES = "unshare --user --map-root-user --mount --pid --fork --kill-child"
KERNELS = ("6.1.0-1", "6.1.0-2")
# Calls that are steps: the power can fail before each.
REAL = ("cp", "mv", "mkdir", "rm", "sync", "deb-systemd-helper")
STUBS = (
    "card-for-grub", "cowflush", "deb-systemd-invoke", "dpkg-trigger", "invoke-rc.d", "ischroot", "systemctl", "update-grub",
    "update-initramfs", "update-rc.d",
)  # fmt: skip
# Each adds its call to /log. /cut has the number of the call before which the power fails, /fails a
# command that fails, or the number of a call that does.
STUB = r"""#!/bin/sh
PATH=/usr/bin:/usr/sbin
name=${0##*/}
echo "$name $*" >>/log
if [ "$(wc -l </log)" = "$(cat /cut 2>/dev/null)" ]; then kill -KILL "$(cat /pid)"; exit 1; fi
# As what dies of an error: 1 may be an answer.
if [ "$(wc -l </log)" = "$(cat /fails)" ]; then exit 2; fi
if [ -s /fails ] && echo "$name $*" | grep -q "^$(cat /fails)"; then exit 1; fi
is() { [ "$(cat "/state/$1" 2>/dev/null)" = "$2" ]; }
put() { echo "$2" >"/state/$1"; }
daemon() {
    case $1 in
    start | restart) [ -x /usr/sbin/cowflush ] && put mode deferring && put cowflush.service active ;;
    stop) put cowflush.service inactive ;;
    status) running cowflush.service ;;
    esac
}
# As systemctl and an init script answer: 3 is no. What died has left its pid file, which only the script looks at.
running() {
    if is "$1" active; then return 0; elif [ "$name" = invoke-rc.d ] && is "$1" dead; then return 1; else return 3; fi
}
case $name in
# With what codes it ends, one after the other, stands in /state/codes.
cowflush)
    [ "$1" != check ] || cat /state/check 2>/dev/null
    [ "$1" = stop ] || exit 0
    code=$(sed -n 1p /state/codes 2>/dev/null)
    [ -z "$code" ] || sed -i 1d /state/codes
    [ "${code:-0}" = 0 ] || exit "$code"
    put mode stopped ;;
# In real systems it runs in test_debian_grub.py.
card-for-grub) ;;
# Without a record, and not enabled: it starts nothing.
deb-systemd-invoke)
    [ -e "/etc/systemd/system/sysinit.target.wants/$2" ] || exit 0
    [ "$2" = cowflush.service ] && daemon "$1" || put "$2" active ;;
dpkg-trigger) put trigger "$*" ;;
invoke-rc.d) daemon "$2" ;;
ischroot) is chroot yes ;;
systemctl)
    case $* in
    *is-active*) for unit; do :; done; running "$unit" ;;
    esac ;;
update-grub) [ -d /boot/grub ] && echo "menu $(ls /etc/grub.d) $(cat /etc/default/grub.d/* 2>/dev/null)" >/boot/grub/grub.cfg ;;
# As with -k all; with -u alone the newest
update-initramfs)
    for image in /boot/initrd.img-*; do
        case $* in *"-k all") ;; *) image=$(ls /boot/initrd.img-* | tail -n 1) ;; esac
        if [ -x /usr/share/initramfs-tools/hooks/cowflush ]; then cat /usr/sbin/cowflush; else echo plain; fi >"$image.new"
        mv "$image.new" "$image"
    done ;;
update-rc.d) if [ "$2" = remove ]; then rm -f "/etc/rcS.d/S01$1"; else ln -sf "../init.d/$1" "/etc/rcS.d/S01$1"; fi ;;
*) "/usr/bin/$name" "$@" ;;
esac
"""
# The package's files that the scripts ask for, and those that stay after a removal without a purge
FILES = {
    "usr/sbin/cowflush": "the program",
    "usr/lib/cowflush/card-for-grub": "#!/bin/sh\nexec card-for-grub\n",
    "usr/share/cowflush/grub-default.cfg": "GRUB's settings",
    "usr/share/initramfs-tools/hooks/cowflush": "",
}
CONFFILES = {
    "etc/cowflush.conf": "",
    "etc/grub.d/42_cowflush": "",
    "etc/init.d/cowflush": "",
    "etc/init.d/cowflush-single": "",
}


@dataclass(frozen=True)
class System:
    """A root with only what the scripts touch; `ran` has the last run's calls."""

    root: Path

    def unpack(self, program: str = "the program") -> None:
        for name, text in {**FILES, **CONFFILES, "usr/sbin/cowflush": program}.items():
            put(self.root / name, text, 0o755)
        for unit in UNITS:
            put(self.root / "usr/lib/systemd/system" / unit, (PACKAGE / unit).read_text())

    def take_away(self, conffiles: bool = False) -> None:
        names = [*FILES, *(f"usr/lib/systemd/system/{unit}" for unit in UNITS)]
        for name in CONFFILES if conffiles else names:
            (self.root / name).unlink(missing_ok=True)

    def run(
        self, script: str, *words: str, cut: int = 0, fails: str = ""
    ) -> subprocess.CompletedProcess[str]:
        put(self.root / "cut", str(cut))
        put(self.root / "fails", fails)
        put(self.root / "log", "")
        put(self.root / "script", (PACKAGE / script).read_text(), 0o755)
        binds = "\n".join(
            f"mount --bind /{place} {self.root}/{place} || exit 99"
            for place in (
                "usr/bin",
                "usr/lib/x86_64-linux-gnu",
                "usr/share/perl",
                "usr/share/perl5",
            )
            if Path(f"/{place}").is_dir()
        )
        lines = f"""
        mount -t tmpfs none {self.root}/proc && mount --bind /dev/null {self.root}/dev/null || exit 99
        {binds}
        chroot {self.root} /usr/bin/env -i PATH=/stubs:/usr/sbin:/usr/bin DPKG_MAINTSCRIPT_PACKAGE=cowflush \
            /bin/sh -c 'echo $$ >/pid; exec /script "$@"' sh {shlex.join(words)}
        # Not in its place: a process 1 can't be killed.
        exit $?
        """
        return local.run(
            [*SPACES.split(), "sh", "-c", lines], capture_output=True, text=True, timeout=60
        )

    def calls(self) -> list[str]:
        return (self.root / "log").read_text().splitlines()

    def state(self, name: str) -> str:
        path = self.root / "state" / name
        return path.read_text().strip() if path.exists() else ""

    def initramfs(self) -> list[str]:
        return [(self.root / f"boot/initrd.img-{kernel}").read_text().strip() for kernel in KERNELS]

    def all(self) -> dict[str, str]:
        """Everything in it, without the test's own files."""
        own = {"log", "cut", "fails", "script", "pid"}
        found = {}
        for path in sorted(self.root.rglob("*")):
            name = str(path.relative_to(self.root))
            if name in own or name.startswith(("stubs/", "usr/bin/", "usr/lib/x86_64")):
                continue
            if path.is_symlink():
                found[name] = f"-> {path.readlink()}"
            elif path.is_file():
                found[name] = path.read_text()
        return found

    def copy(self, name: str) -> System:
        other = self.root.parent / name
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(self.root, other, symlinks=True)
        return System(other)


def put(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def made(root: Path, systemd: bool = True, stack: bool = False) -> System:
    for folder in ("proc", "dev/mapper", "state", "etc/rcS.d", "usr/bin", "usr/lib/x86_64-linux-gnu", "usr/share/perl", "usr/share/perl5", "boot/grub"):  # fmt: skip
        (root / folder).mkdir(parents=True)
    for name, to in {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}.items():
        (root / name).symlink_to(to)
    # The loader's place; the library itself is bind-mounted.
    put(root / "dev/null", "")
    (root / "usr/lib64").mkdir()
    (root / "usr/lib64/ld-linux-x86-64.so.2").symlink_to(
        "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    )
    for name in (*REAL, *STUBS):
        put(root / "stubs" / name, STUB, 0o755)
    for kernel in KERNELS:
        put(root / f"boot/initrd.img-{kernel}", "plain\n")
    put(root / "boot/grub/grub.cfg", "menu\n")
    put(root / "usr/lib/systemd/system/sysinit.target", "")
    if systemd:
        (root / "run/systemd/system").mkdir(parents=True)
    system = System(root)
    if stack:
        put(root / "dev/mapper/cowflush-root", "")
        put(root / "state/mode", "deferring\n")
        put(root / "state/cowflush.service", "active\n")
    return system


def installed(root: Path, systemd: bool = True, stack: bool = True) -> System:
    """A system with the package, rebooted since."""
    system = made(root, systemd)
    system.unpack()
    assert system.run("postinst", "configure", "").returncode == 0
    if stack:
        put(root / "dev/mapper/cowflush-root", "")
        put(root / "state/mode", "deferring\n")
        for unit in UNITS:
            put(root / "state" / unit, "active\n")
    return system


INITS = pytest.mark.parametrize("systemd", [True, False], ids=["systemd", "sysvinit"])


@INITS
def test_all_kernels_get_it_and_none_keeps_it(tmp_path: Path, systemd: bool) -> None:
    plain = made(tmp_path / "plain", systemd).all()
    system = installed(tmp_path / "root", systemd, stack=False)
    assert system.initramfs() == ["the program", "the program"]
    for unit in UNITS:
        assert (system.root / f"etc/systemd/system/sysinit.target.wants/{unit}").is_symlink()
    system.unpack("the newer program")
    assert system.run("postinst", "configure", "0.1").returncode == 0
    assert system.initramfs() == ["the newer program"] * 2
    assert system.run("prerm", "remove").returncode == 0
    system.take_away()
    assert system.run("postrm", "remove").returncode == 0
    assert system.initramfs() == ["plain", "plain"]
    system.take_away(conffiles=True)
    assert system.run("postrm", "purge").returncode == 0
    left = {name: text for name, text in system.all().items() if plain.get(name) != text}
    assert set(left) <= {"boot/grub/grub.cfg"}, left


def test_a_lib_of_its_own_has_what_systemd_looks_for_there(tmp_path: Path) -> None:
    """In Debian 10 and 11 /lib can be a folder; systemd looks only there for its last call."""
    system = made(tmp_path / "root")
    (system.root / "lib").unlink()
    (system.root / "lib").mkdir()
    # Debian 12's asks systemctl, which knows no such /lib; those systems' own makes its links
    # itself.
    put(system.root / "stubs/deb-systemd-helper", "#!/bin/sh\n", 0o755)
    before = set(system.all())
    system.unpack()
    for words in (("configure", ""), ("configure", "0.1")):
        assert system.run("postinst", *words).returncode == 0
        for name in ("system-shutdown/cowflush", *(f"system/{unit}" for unit in UNITS)):
            link = system.root / "lib/systemd" / name
            assert str(link.readlink()) == f"/usr/lib/systemd/{name}"
    assert system.run("prerm", "remove").returncode == 0
    system.take_away()
    assert system.run("postrm", "remove").returncode == 0
    assert not [name for name in system.all() if name.startswith("lib/")]
    system.take_away(conffiles=True)
    assert system.run("postrm", "purge").returncode == 0
    assert set(system.all()) == before


def test_grub_is_told_where_root_is_before_it_is_installed(tmp_path: Path) -> None:
    """No service runs in an installer, or where an image is built."""
    system = made(tmp_path / "root", systemd=False)
    shutil.rmtree(system.root / "boot/grub")
    system.unpack()
    assert system.run("postinst", "configure", "").returncode == 0
    assert (system.root / "etc/default/grub.d/cowflush.cfg").read_text() == "GRUB's settings"
    assert not any(call.startswith("update-grub") for call in system.calls())


@INITS
def test_grub_s_tools_are_led_to_the_card_as_soon_as_the_package_or_grub_comes(
    tmp_path: Path, systemd: bool
) -> None:
    """If that fails the package is configured all the same."""
    system = installed(tmp_path / "root", systemd)
    for words in (("configure", "0.1"), ("triggered", "/usr/sbin/grub-install")):
        assert system.run("postinst", *words, fails="card-for-grub").returncode == 0
        assert "card-for-grub " in system.calls()


@INITS
def test_a_chroot_with_the_host_s_devices_leaves_the_host_alone(
    tmp_path: Path, systemd: bool
) -> None:
    system = made(tmp_path / "root", systemd, stack=True)
    put(system.root / "state/chroot", "yes\n")
    system.unpack()
    for script, word in (
        ("postinst", "configure"),
        ("postinst", "abort-remove"),
        ("prerm", "remove"),
    ):
        assert system.run(script, word).returncode == 0
        acted = [call for call in system.calls() if call.startswith(("invoke-rc.d", "cowflush", "deb-systemd-invoke"))]  # fmt: skip
        assert acted == [], script


def test_a_daemon_that_runlevel_1_has_killed_is_there_again_but_no_other(tmp_path: Path) -> None:
    """killprocs kills all processes.

    A daemon that the owner stopped stays so; systemd has no such file.
    """
    called = tmp_path / "called"
    script = (PACKAGE / "cowflush-single.init").read_text()
    for name in ("/run/cowflush.pid", "/etc/init.d/cowflush"):
        script = script.replace(name, f"{tmp_path}{name}")
    put(tmp_path / "single", script, 0o755)
    put(tmp_path / "etc/init.d/cowflush", f"#!/bin/sh\necho $* >>{called}\n", 0o755)

    def run(word: str) -> str:
        called.unlink(missing_ok=True)
        local.run([tmp_path / "single", word], check=True)
        return called.read_text() if called.exists() else ""

    assert run("start") == ""
    put(tmp_path / "run/cowflush.pid", "4711")
    assert run("start") == "start\n"
    for word in ("stop", "status", "restart"):
        assert run(word) == "", word


def test_a_root_that_no_boot_keeps_in_ram_is_told_of_when_the_package_comes(tmp_path: Path) -> None:
    """An owner of LVM who is told to reboot would think that it works now."""
    system = made(tmp_path / "root")
    system.unpack()
    checked = "found    device-mapper    yes\n{}note     stack            root is not on one now\n"
    on_lvm = "missing  card             dm-0: it stands on sda5 by md, LVM, LUKS or the like\n         Root must be all on one.\n"
    reboot = "cowflush: reboot to keep root's writes in RAM. See cowflush(8) for the flush log."
    for card, chroot, said in (
        ("found    card             sda1, ext4 of 60.0 MiB\n", "no", (reboot, "")),
        (on_lvm, "yes", (reboot, "")),
        (on_lvm, "no", ("", "cowflush: root can't be kept in RAM: dm-0: it stands on sda5 by md, LVM, LUKS or the like. Writes go on to it; 'cowflush check' says more.")),
    ):  # fmt: skip
        put(system.root / "state/check", checked.format(card))
        put(system.root / "state/chroot", f"{chroot}\n")
        done = system.run("postinst", "configure", "")
        assert done.returncode == 0
        for text, wanted in zip((done.stdout, done.stderr), said, strict=True):
            ours = [line for line in text.splitlines() if line.startswith("cowflush: ")]
            assert ours == ([wanted] if wanted else [])


@INITS
def test_an_upgrade_leaves_a_daemon_alone_that_the_owner_stopped(
    tmp_path: Path, systemd: bool
) -> None:
    system = installed(tmp_path / "root", systemd)
    put(system.root / "state/cowflush.service", "inactive\n")
    assert system.run("postinst", "configure", "0.1").returncode == 0
    assert system.state("cowflush.service") == "inactive"
    put(system.root / "state/cowflush.service", "active\n")
    assert system.run("postinst", "configure", "0.1").returncode == 0
    assert any(call == "invoke-rc.d cowflush restart" for call in system.calls())
    # Nothing is flushed for that: RAM keeps its content.
    assert not any(call.startswith("cowflush stop") for call in system.calls())


@INITS
def test_an_upgrade_starts_a_daemon_of_which_nobody_says_that_it_was_stopped(
    tmp_path: Path, systemd: bool
) -> None:
    """A dead daemon was not stopped; and no answer must not silently keep an old program."""
    system = installed(tmp_path / "root", systemd)
    if not systemd:
        put(system.root / "state/cowflush.service", "dead\n")
        assert system.run("postinst", "configure", "0.1").returncode == 0
        assert system.state("cowflush.service") == "active"
    done = system.run("postinst", "configure", "0.1", fails="systemctl\\|invoke-rc.d")
    assert done.returncode == 0 and "cowflush: its service did not start" in done.stderr


@INITS
def test_a_removal_that_is_refused_leaves_a_daemon_that_flushes(
    tmp_path: Path, systemd: bool
) -> None:
    system = installed(tmp_path / "root", systemd)
    done = system.run("prerm", "remove", fails="cowflush stop")
    assert done.returncode == 1 and "so the package stays" in done.stderr
    # As dpkg goes on. The daemon is not ended for that: on a card that refuses to be written none might begin.
    assert system.run("postinst", "abort-remove").returncode == 0
    assert "invoke-rc.d cowflush restart" not in system.calls()
    assert (system.state("mode"), system.state("cowflush.service")) == ("deferring", "active")
    # A removal that is given up later, as when another package's script fails
    assert system.run("prerm", "remove").returncode == 0
    assert (system.state("mode"), system.state("cowflush.service")) == ("stopped", "inactive")
    assert system.run("postinst", "abort-remove").returncode == 0
    assert (system.state("mode"), system.state("cowflush.service")) == ("deferring", "active")


def test_a_removal_asks_again_where_the_card_refused_a_write(
    tmp_path: Path,
) -> None:
    """The command waits for others itself. 5: the card refused a write, but may have all."""
    system = installed(tmp_path / "root")
    for codes, code in (((5, 0), 0), ((5, 5, 0), 1), ((4, 0), 1), ((1, 0), 1)):
        put(system.root / "state/codes", "".join(f"{each}\n" for each in codes))
        assert system.run("prerm", "remove").returncode == code, codes
        assert ("invoke-rc.d cowflush stop" in system.calls()) == (code == 0), codes


def test_a_step_that_fails_is_said_and_the_others_are_done(tmp_path: Path) -> None:
    system = installed(tmp_path / "root")
    wanted = system.all()
    system.unpack("the newer program")
    # Without room for an initramfs the package is not configured: dpkg says so, and tries again.
    done = system.run("postinst", "configure", "0.1", fails="update-initramfs")
    assert done.returncode == 1
    assert system.state("cowflush.service") == "active"
    # A daemon that does not start loses nothing.
    done = system.run("postinst", "configure", "0.1", fails="invoke-rc.d")
    assert done.returncode == 0 and (
        "cowflush: its service did not start as it should. Without the daemon nothing is flushed by itself before "
        "the shutdown: 'cowflush status' says whether there is one." in done.stderr
    )
    assert system.initramfs() == ["the newer program"] * 2
    done = system.run("postinst", "configure", "0.1", fails="update-grub")
    assert done.returncode == 0 and (
        "cowflush: update-grub failed, so GRUB has no entry without cowflush yet." in done.stderr
    )
    system.unpack()
    assert system.run("postinst", "configure", "0.1").returncode == 0
    assert system.all() == wanted
    # An initramfs that can't be made without cowflush would put root in RAM, with nothing to flush
    # it.
    assert system.run("prerm", "remove").returncode == 0
    system.take_away()
    assert system.run("postrm", "remove", fails="update-initramfs").returncode == 1


STAGES: dict[str, list[tuple[str, ...]]] = {
    "install": [("postinst", "configure", "")],
    "upgrade": [("postinst", "configure", "0.1")],
    "remove": [("prerm", "remove"), ("postrm", "remove"), ("postrm", "purge")],
}
STORIES = pytest.mark.parametrize("story", list(STAGES))


def begun(root: Path, systemd: bool, story: str) -> System:
    """A system in which dpkg has unpacked the package, and now calls its scripts."""
    if story == "install":
        system = made(root, systemd)
        system.unpack()
    else:
        system = installed(root, systemd)
        system.unpack("the newer program")
    return system


def stages(
    root: Path, systemd: bool, story: str
) -> Iterator[tuple[System, System, str, list[str]]]:
    """Each script call that dpkg makes: the system before and after, the script, its arguments."""
    system = begun(root, systemd, story)
    for script, *words in STAGES[story]:
        if script == "postrm":
            system.take_away(conffiles=words == ["purge"])
        after = system.copy("uncut")
        assert after.run(script, *words).returncode == 0
        yield system, after, script, words
        system = after.copy("root")


@pytest.mark.thorough
@INITS
@STORIES
def test_a_power_cut_at_each_step_is_made_good_when_dpkg_runs_it_again(
    tmp_path: Path, systemd: bool, story: str
) -> None:
    for system, after, script, words in stages(tmp_path / "root", systemd, story):
        for number, call in enumerate(after.calls(), 1):
            once = system.copy("cut")
            assert once.run(script, *words, cut=number).returncode != 0, call
            # Each file is either the old one or the new one.
            settings = once.root / "etc/default/grub.d/cowflush.cfg"
            assert not settings.exists() or settings.read_text() == "GRUB's settings"
            assert set(once.initramfs()) <= {*system.initramfs(), *after.initramfs()}
            assert once.run(script, *words).returncode == 0, call
            assert once.all() == after.all(), call


# Calls that a configuration or removal can do without: they cost no data and no boot, and the
# failing program reports it. By the call, and what the script says besides.
DISPENSABLE = {
    "update-grub ": "cowflush: update-grub failed",
    "invoke-rc.d cowflush restart": "cowflush: its service did not start",
    "card-for-grub ": "",
    "systemctl --system daemon-reload": "",
    "deb-systemd-invoke start cowflush-shutdown.service": "",
}


@pytest.mark.thorough
@INITS
@STORIES
def test_a_command_that_fails_once_stops_the_script_or_is_said_and_all_is_well_when_dpkg_runs_it_again(
    tmp_path: Path, systemd: bool, story: str
) -> None:
    """A unit not enabled, or masked for ever, or an old initramfs would silently lose data."""
    for system, after, script, words in stages(tmp_path / "root", systemd, story):
        for number, call in enumerate(after.calls(), 1):
            once = system.copy("failed")
            done = once.run(script, *words, fails=str(number))
            if done.returncode == 0 and not answers(call):
                said = [word for begin, word in DISPENSABLE.items() if call.startswith(begin)]
                assert said and (script == "postrm" or said[0] in done.stderr), (call, done.stderr)
            if done.returncode and script == "prerm":
                # As dpkg does then
                assert once.run("postinst", "abort-remove").returncode == 0, call
                assert once.state("mode") == "deferring", call
                assert once.state("cowflush.service") == "active", call
            assert once.run(script, *words).returncode == 0, call
            assert once.all() == after.all(), call


def answers(call: str) -> bool:
    """Whether its failure is an answer.

    Such as: no chroot; a daemon that may run is restarted; without a reason from `check` the usual
    words are printed.
    """
    return call.startswith("ischroot") or call.endswith(
        ("is-active cowflush.service", "cowflush status", "cowflush check")
    )
