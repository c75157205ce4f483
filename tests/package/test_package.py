"""The package's other files match the program: the manual page, the completion, the units.

tests/keys.rs compares the keys of the configuration.
"""

from __future__ import annotations

import configparser
import gzip
import io
import os
import re
import shlex
import sys
import tarfile
from pathlib import Path

import pytest

from harness import artefacts, local

sys.path.insert(0, str(artefacts.TOP))

from image import notices

PACKAGE = artefacts.TOP / "package"
MANUAL = PACKAGE / "cowflush.8"
# A word, and what `cowflush WORD --help` lists besides it
NESTED = {"log": ("format",)}


def help_of(*words: str) -> str:
    return local.run(
        [artefacts.host_cowflush(), *words, "--help"], capture_output=True, text=True, check=True
    ).stdout


def listed(words: tuple[str, ...], heading: str) -> set[str]:
    """What the help lists under a heading, except `--help` itself."""
    section = re.search(rf"^{heading}:\n((?:  .*\n)+)", help_of(*words), re.MULTILINE)
    return (
        set(re.findall(r"^  ((?:--)?[a-z][a-z-]*)\b", section[1], re.MULTILINE)) - {"--help"}
        if section
        else set()
    )


def commands() -> list[tuple[str, ...]]:
    return [(word,) for word in sorted(listed((), "Commands"))] + [
        (word, nested) for word, all_nested in NESTED.items() for nested in all_nested
    ]


def test_all_nested_commands_are_known() -> None:
    found = {
        (word, nested) for word in listed((), "Commands") for nested in listed((word,), "Commands")
    }
    assert found == {(word, nested) for word, all_nested in NESTED.items() for nested in all_nested}


def test_the_manual_has_each_command_with_its_options() -> None:
    plain = re.sub(r"\\f[A-Z]", "", MANUAL.read_text().replace("\\-", "-")).replace('"', "")
    section = plain.split(".SH COMMANDS", 1)[1].split(".SH", 1)[0]
    headings = re.findall(r"^\.TP\n\.BR? cowflush (.*)$", section, re.MULTILINE)
    found = {}
    for heading in headings:
        words = tuple(heading.split("[")[0].split("FILE")[0].split())
        found[words] = set(re.findall(r"--[a-z-]+", heading))
    assert found == {words: listed(words, "Options") for words in commands()}


def test_the_manual_has_the_exit_codes() -> None:
    section = MANUAL.read_text().split(".SH EXIT STATUS", 1)[1].split(".SH", 1)[0]
    codes = re.findall(r"^  (\d) ", help_of().split("Error codes:")[1], re.MULTILINE)
    assert re.findall(r"^\.TP\n\.B (\d)$", section, re.MULTILINE) == codes


@pytest.mark.parametrize("words", [(), *commands()], ids=" ".join)
def test_the_completion_offers_what_the_help_lists(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "cowflush").symlink_to(artefacts.host_cowflush())
    for typed, expected in (("--", listed(words, "Options")), ("", listed(words, "Commands"))):
        assert complete([*words, typed], tmp_path) - {"--help", "help"} == expected


def complete(words: list[str], directory: Path) -> set[str]:
    script = f"""source "{artefacts.TOP}/package/cowflush.bash"
        COMP_WORDS=(cowflush "$@") COMP_CWORD=$#
        cd "$(mktemp -d -p "{directory}")" && _cowflush && printf '%s\\n' "${{COMPREPLY[@]}}" """
    path = f"{directory}:{os.environ['PATH']}"
    done = local.run(
        ["bash", "-c", script, "-", *words],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": path},
    )
    assert done.stderr == ""
    return set(done.stdout.split())


# --- what Debian's package holds --------------------------------------------------------------

# `make test` works without the package.
BOTH = pytest.mark.parametrize(
    ("arch", "target"),
    [
        pytest.param("i386", "i586", marks=pytest.mark.thorough),
        pytest.param("amd64", "x86_64", marks=pytest.mark.thorough),
    ],
)
DRACUT = "/usr/lib/dracut/modules.d/99cowflush"
# Place, mode, and the file in package/; a name in capitals is something else.
FILES = {
    "/usr/sbin/cowflush": (0o755, "PROGRAM"),
    "/usr/share/initramfs-tools/hooks/cowflush": (0o755, "debian/initramfs/hook"),
    "/usr/share/initramfs-tools/conf-hooks.d/cowflush": (0o644, "debian/initramfs/conf-hook"),
    "/usr/share/initramfs-tools/scripts/local-top/cowflush": (0o755, "debian/initramfs/local-top"),
    "/usr/share/initramfs-tools/scripts/local-premount/cowflush": (
        0o755,
        "debian/initramfs/local-premount",
    ),
    "/usr/share/initramfs-tools/scripts/local-block/cowflush": (
        0o755,
        "debian/initramfs/local-block",
    ),
    f"{DRACUT}/module-setup.sh": (0o755, "dracut/module-setup.sh"),
    f"{DRACUT}/pre-mount.sh": (0o755, "dracut/pre-mount.sh"),
    f"{DRACUT}/in-doubt.sh": (0o755, "dracut/in-doubt.sh"),
    f"{DRACUT}/pre-mount.conf": (0o644, "dracut/pre-mount.conf"),
    f"{DRACUT}/by-log.sh": (0o755, "dracut/by-log.sh"),
    f"{DRACUT}/by-log.service": (0o644, "dracut/by-log.service"),
    "/usr/lib/systemd/system/cowflush.service": (0o644, "debian/cowflush.service"),
    "/usr/lib/systemd/system/cowflush-shutdown.service": (
        0o644,
        "debian/cowflush-shutdown.service",
    ),
    "/usr/lib/systemd/system/cowflush-card.service": (0o644, "debian/cowflush-card.service"),
    "/usr/lib/cowflush/card-for-grub": (0o755, "debian/card-for-grub"),
    "/usr/lib/systemd/system-shutdown/cowflush": (0o755, "debian/cowflush.shutdown"),
    "/etc/init.d/cowflush": (0o755, "debian/cowflush.init"),
    "/etc/init.d/cowflush-single": (0o755, "debian/cowflush-single.init"),
    "/etc/grub.d/42_cowflush": (0o755, "debian/42_cowflush"),
    "/usr/lib/cowflush/card.sh": (0o644, "debian/card.sh"),
    "/usr/share/cowflush/grub-default.cfg": (0o644, "GRUB"),
    "/usr/lib/udev/rules.d/56-cowflush.rules": (0o644, "udev/56-cowflush.rules"),
    "/etc/cowflush.conf": (0o644, "cowflush.conf"),
    "/usr/share/bash-completion/completions/cowflush": (0o644, "cowflush.bash"),
    "/usr/share/man/man8/cowflush.8.gz": (0o644, "cowflush.8"),
    "/usr/share/doc/cowflush/copyright": (0o644, "COPYRIGHT"),
    "/usr/share/doc/cowflush/changelog.gz": (0o644, "CHANGELOG"),
    "/usr/share/doc/cowflush/changelog.Debian.gz": (0o644, "RELEASES"),
    "/usr/share/lintian/overrides/cowflush": (0o644, "debian/lintian-overrides"),
}
CONFFILES = {
    "/etc/cowflush.conf",
    "/etc/grub.d/42_cowflush",
    "/etc/init.d/cowflush",
    "/etc/init.d/cowflush-single",
}
SCRIPTS = ("postinst", "prerm", "postrm")


def test_systemd_never_gives_up_to_start_the_service() -> None:
    """On a slow card systemd must start the service again and again.

    It begins with `cowflush start`, which waits for other commands, and fails if that takes too
    long. After five failures in ten seconds systemd gives a service up, unless its unit says
    otherwise.
    """
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(PACKAGE / "debian" / "cowflush.service")
    service = unit["Service"]
    assert service["ExecStartPre"].startswith("/bin/sh -c '/usr/sbin/cowflush start || ")
    # A failed start is a failure, too, and tried again.
    assert (service["Restart"], unit["Unit"]["StartLimitIntervalSec"]) == ("on-failure", "0")
    assert int(service["RestartSec"]) >= 1, "others get a turn"
    patience = re.search(
        r"const PATIENCE_OF_START: Duration = Duration::from_secs\((\d+)\)",
        (artefacts.TOP / "src" / "commands" / "waiting.rs").read_text(),
    )
    # systemd itself waits 90 seconds (DefaultTimeoutStartSec); a start that it kills has done
    # nothing.
    assert patience and int(patience[1]) < 90 and "TimeoutStartSec" not in service


@pytest.mark.parametrize(
    ("start", "mode", "begins"),
    [(0, "deferring", True), (5, "deferring", True), (5, "stopped", False), (4, "stopped", False)],
)
def test_systemd_s_daemon_begins_where_writes_are_in_ram_whatever_the_card_refuses(
    tmp_path: Path, start: int, mode: str, begins: bool
) -> None:
    """Where they are not, the service fails, and systemd tries it again until they are."""
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(PACKAGE / "debian" / "cowflush.service")
    program = tmp_path / "cowflush"
    report = (
        f'{{"version":1,"mode":"{mode}","phase":"idle","boot":{{"mode":"deferring","reason":""}}}}'
    )
    program.write_text(
        f"#!/bin/sh\ncase $1 in start) exit {start} ;; status) echo '{report}' ;; esac\n"
    )
    program.chmod(0o755)
    command = unit["Service"]["ExecStartPre"].replace("/usr/sbin/cowflush", str(program))
    assert (local.run(shlex.split(command)).returncode == 0) == begins


def test_the_daemon_starts_after_what_would_undo_or_lack_what_it_needs() -> None:
    """systemd-sysctl would replace the daemon's limit by the owner's vm.dirty_ratio.

    `watchdog=` and `spill=` are tried once, and their drivers may be modules; /boot is watched as
    it is mounted.
    """
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(PACKAGE / "debian" / "cowflush.service")
    assert {
        "systemd-sysctl.service",
        "systemd-modules-load.service",
        "systemd-remount-fs.service",
        "local-fs.target",
    } <= set(unit["Unit"]["After"].split())


def test_the_flush_at_shutdown_comes_before_swap_is_switched_off() -> None:
    """A spill area is swap, which must stay until the flush is done.

    systemd makes a unit for it when it sees it, before swap.target; units stop in reverse order.
    Swap that is encrypted with a random key comes after systemd-random-seed
    (systemd-cryptsetup-generator): coming before that as well would make a circle, which systemd
    breaks anywhere.
    """
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(PACKAGE / "debian" / "cowflush-shutdown.service")
    assert "swap.target" in unit["Unit"]["After"].split()
    assert "systemd-random-seed.service" not in unit["Unit"]["Before"].split()


def members(package: Path, archive: str) -> dict[str, tuple[int, bytes]]:
    """Mode and content of each file in the package; all must be root's.

    `archive` is fsys or ctrl.
    """
    packed = local.run(
        ["dpkg-deb", f"--{archive}-tarfile", package], check=True, capture_output=True
    ).stdout
    found = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        for member in tar:
            assert (member.uid, member.gid) == (0, 0), member.name
            if member.isdir():
                assert member.mode == 0o755, member.name
                continue
            file = tar.extractfile(member)
            assert file and member.isfile(), member.name
            content = file.read()
            if member.name.endswith(".gz"):
                content = gzip.decompress(content)
            found[member.name.removeprefix(".")] = (member.mode, content)
    return found


@BOTH
def test_debian_s_package_holds_these_files_and_no_others(arch: str, target: str) -> None:
    """The program in the package is the one that the boot tests run."""
    inside = members(artefacts.debian_package(arch), "fsys")
    releases = inside.pop("/usr/share/doc/cowflush/changelog.Debian.gz")
    assert releases[0] == 0o644 and releases[1].startswith(b"cowflush (")
    others = {
        "PROGRAM": artefacts.cowflush(target).read_bytes(),
        "CHANGELOG": (artefacts.TOP / "CHANGELOG.md").read_bytes(),
        "COPYRIGHT": (PACKAGE / "debian/copyright").read_bytes()
        + b"\n"
        + notices.debian(notices.linked(f"{target}-unknown-linux-musl")).encode(),
        # One file, since it outlives the package
        "GRUB": b"".join(
            (PACKAGE / "debian" / part).read_bytes() for part in ("card.sh", "grub-default.cfg")
        ),
    }
    assert inside == {
        path: (mode, others[name] if name in others else (PACKAGE / name).read_bytes())
        for path, (mode, name) in FILES.items()
        if name != "RELEASES"
    }


@BOTH
def test_debian_s_package_is_the_same_each_time(arch: str, target: str, tmp_path: Path) -> None:
    """The folder, the umask and the filesystem don't matter: the size is not counted in blocks."""
    package = artefacts.debian_package(arch)
    folder = tmp_path / "some where"
    command = f'umask 077; exec "{PACKAGE}/debian/build" {arch} "{folder}"'
    local.run(["sh", "-c", command], check=True, capture_output=True)
    assert [path.name for path in folder.iterdir()] == [package.name]
    assert (folder / package.name).read_bytes() == package.read_bytes()
    # As dpkg-gencontrol counts
    control = members(package, "ctrl")["/control"][1].decode()
    said = int(re.search(r"^Installed-Size: (\d+)$", control, re.MULTILINE)[1])  # type: ignore[index]
    inside = local.run(
        ["dpkg-deb", "--contents", package], check=True, capture_output=True, text=True
    ).stdout
    entries = [line.split(maxsplit=5) for line in inside.splitlines()]
    assert said == sum(
        -(-int(entry[2]) // 1024) if entry[0].startswith("-") else 1
        for entry in entries
        if entry[5] != "./"
    )


@BOTH
def test_debian_s_package_has_its_scripts_its_settings_and_sums(arch: str, target: str) -> None:
    control = members(artefacts.debian_package(arch), "ctrl")
    fields = control.pop("/control")[1].decode()
    assert f"\nArchitecture: {arch}\n" in fields and re.search(r"\nVersion: \d+\.\d", fields)
    assert set(control.pop("/conffiles")[1].decode().split()) == CONFFILES
    sums = control.pop("/md5sums")[1].decode()
    listed = {f"/{line.split()[1]}" for line in sums.splitlines()}
    assert listed == {path for path in FILES if path.startswith("/usr/")}
    assert control == {
        f"/{name}": (mode, (PACKAGE / "debian" / name).read_bytes())
        for name, mode in {**dict.fromkeys(SCRIPTS, 0o755), "triggers": 0o644}.items()
    }


@BOTH
def test_lintian_finds_nothing_that_is_not_explained(arch: str, target: str) -> None:
    """The overrides, each with its reason, are in package/debian/lintian-overrides."""
    package = artefacts.debian_package(arch)
    done = local.run(
        ["lintian", "--allow-root", "--tag-display-limit", "0", package],
        capture_output=True,
        text=True,
    )
    assert re.findall(r"^[EW]: .*", done.stdout, re.MULTILINE) == [], done.stdout
    assert done.returncode == 0, done.stderr
