"""What the package carries besides the program stays true to it: the manual page, the completion, the configuration."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from vm import artefacts

MANUAL = artefacts.TOP / "package" / "cowflush.8"
README = artefacts.TOP / "README.md"
# Each is a word and what `cowflush WORD --help` lists besides it.
NESTED = {"log": ("format",)}


def help_of(*words: str) -> str:
    return subprocess.run(
        [artefacts.host_cowflush(), *words, "--help"], capture_output=True, text=True, check=True
    ).stdout


def listed(words: tuple[str, ...], heading: str) -> set[str]:
    """What the help lists under a heading, `--help` itself left out."""
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


def test_the_configuration_has_each_key_with_its_default() -> None:
    """The README's table is compared with the code by another test."""
    table = README.read_text().split("### The daemon", 1)[1].split("## Commands", 1)[0]
    keys = re.findall(r"^\| `([a-z-]+)` \| `([^`]+)` \|", table, re.MULTILINE)
    assert len(keys) > 10
    manual = MANUAL.read_text().split(".SH CONFIGURATION", 1)[1].replace("\\-", "-")
    assert re.findall(r'^\.BR "([a-z-]+)" " \(([^)]+)\)"$', manual, re.MULTILINE) == keys
    conffile = (artefacts.TOP / "package" / "cowflush.conf").read_text()
    assert re.findall(r"^# ([a-z-]+) = (.*)$", conffile, re.MULTILINE) == keys


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
    done = subprocess.run(
        ["bash", "-c", script, "-", *words],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": path},
    )
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize("arch", ["i386", "amd64"])
def test_lintian_finds_nothing_that_is_not_explained(arch: str) -> None:
    """The overrides, each with its reason, are in package/debian/lintian-overrides."""
    package = artefacts.debian_package(arch)
    done = subprocess.run(
        ["lintian", "--allow-root", "--tag-display-limit", "0", package],
        capture_output=True,
        text=True,
    )
    assert re.findall(r"^[EW]: .*", done.stdout, re.MULTILINE) == [], done.stdout
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("arch", "target"), [("i386", "i586"), ("amd64", "x86_64")])
def test_the_package_holds_the_program_that_the_boot_tests_run(
    arch: str, target: str, tmp_path: Path
) -> None:
    package = artefacts.debian_package(arch)
    subprocess.run(["dpkg-deb", "--extract", package, tmp_path], check=True)
    assert (tmp_path / "usr" / "sbin" / "cowflush").read_bytes() == artefacts.cowflush(
        target
    ).read_bytes()
    field = subprocess.run(
        ["dpkg-deb", "--field", package, "Architecture"], capture_output=True, text=True, check=True
    )
    assert field.stdout == f"{arch}\n"
