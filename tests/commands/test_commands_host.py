"""The commands on a machine without a stack, such as this one: no guest boots for that.

These tests also check docs/json.md, by which the guests' tests judge all JSON, against
docs/use/commands.md and against itself.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from harness import artefacts
from product import jsondoc, logged

DONE, USAGE, INACTIVE = 0, 2, 3
DOCUMENT = (artefacts.TOP / "docs" / "use" / "commands.md").read_text()


# --- help and usage ----------------------------------------------------------------


def test_help_names_every_command_and_each_has_its_own() -> None:
    text = logged.host("--help").stdout
    for word in (
        "flush", "merge", "stop", "start", "status", "history", "check", "daemon", "hold", "release",
        "discard", "log", "recover", "init", "attach", "version",
    ):  # fmt: skip
        assert re.search(rf"^  {word} ", text, re.MULTILINE), word
        own = logged.host(word, "--help")
        assert own.returncode == DONE and f"Usage: cowflush {word}" in own.stdout, word
        assert own.stderr == "", word
    assert "Usage: cowflush log format" in logged.host("log", "format", "--help").stdout


def exit_codes(text: str, line: str) -> dict[int, str]:
    return {int(code): words for code, words in re.findall(line, text, re.MULTILINE)}


def test_the_document_and_the_help_have_the_same_exit_codes() -> None:
    table = DOCUMENT.split("| exit code | meaning |")[1].split("\n\n")[0]
    documented = exit_codes(table, r"^\| (\d) \| (.+?) \|$")
    helped = exit_codes(logged.host("--help").stdout, r"^  (\d) (.+)$")
    assert set(documented) == set(helped) == set(range(10))
    for code, words in documented.items():
        # Their wording differs here and there, but not their subject.
        same = set(re.findall(r"\w{4,}", words)) & set(re.findall(r"\w{4,}", helped[code]))
        assert same, f"exit code {code}: {words} / {helped[code]}"


@pytest.mark.parametrize(
    "words",
    [
        "", "nonsense", "flush now", "flush --now", "status --json=1", "init", "recover", "recover one",
        "recover one two three", "recover one two --merge --export three", "log nonsense", "log format",
        "stop --within 5x", "stop --within 5", "stop --shutdown --json", "stop --within 0", "log format x --fill 3K", "log format x --erase-block 128M",
        "log format x --fill", "attach one two", "discard --within 1", "merge --direct",
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(words: str) -> None:
    done = logged.host(*words.split())
    assert done.returncode == USAGE, (words, done)
    assert done.stderr.startswith("cowflush: ") and done.stdout == "", words


def test_the_version_is_the_packages() -> None:
    manifest = (artefacts.TOP / "Cargo.toml").read_text()
    version = re.search(r'^version = "(.+)"$', manifest, re.MULTILINE)
    assert version and logged.host("version").stdout == f"cowflush {version[1]}\n"


# --- without a stack -----------------------------------------------------------------


def test_without_a_stack_the_status_says_so_and_watching_ends() -> None:
    text = logged.host("status")
    assert text.returncode == INACTIVE and text.stdout.startswith("mode       inactive"), text
    for words in (["--json"], ["--watch", "--json"]):
        done = logged.host("status", *words)
        assert done.returncode == INACTIVE, (words, done)
        report = jsondoc.parse("status", done.stdout)
        assert (report["version"], report["mode"], report["phase"]) == (1, "inactive", "unknown")
        known = {key for key, value in report.items() if value not in (None, "", [], False)}
        assert known == {"version", "mode", "phase", "page_cache"}
    watched = logged.host("status", "--watch")
    assert watched.returncode == INACTIVE and " inactive unknown: RAM ? of ?" in watched.stdout


def test_without_a_stack_there_is_no_history() -> None:
    done = logged.host("history", "--json")
    assert done.returncode == DONE
    assert jsondoc.parse("history", done.stdout) == {"version": 1, "flushes": [], "life": None}


# --- the document ----------------------------------------------------------------------


def test_every_command_that_takes_json_has_a_table_and_no_other() -> None:
    sentence = re.search(r"^(`flush`.*) take `--json`;", DOCUMENT, re.MULTILINE)
    assert sentence
    commands = set(re.findall(r"`([a-z]+)`", sentence[1]))
    tables = jsondoc.tables()
    assert commands <= set(tables)
    for command in commands:
        assert "--json" in logged.host(command, "--help").stdout, command
    # Each other table is one that a type links to.
    linked = {value.table for table in tables.values() for value in table.values()} - {""}
    assert set(tables) == commands | linked | {jsondoc.NO_LOG}


FLUSH: dict[str, Any] = {
    "when": 1, "command": "daemon", "reason": "at 03:30", "bytes": 2, "logged": 2, "merged": 0,
    "took_ms": 3, "log_ms": 1, "merge_ms": 0, "stall_us": 9, "pruned": 0, "not_pruned": "", "path": "",
}  # fmt: skip
ITEM = {"name": "tmpfs", "state": "found", "found": "for the COW", "advice": ""}


def test_what_is_as_documented_passes() -> None:
    jsondoc.check("flush", {"card": "sda1", "complete": True, "refused": "", "flush": FLUSH})
    jsondoc.check("flush", {"card": "sda1", "complete": True, "refused": "", "flush": None})
    jsondoc.check("history", {"version": 1, "flushes": [FLUSH, FLUSH], "life": None})
    jsondoc.check("check", {"complete": False, "items": [ITEM]})
    jsondoc.check("a-flush", {**FLUSH, "reason": ""})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"more": 1}, "a-flush has the keys"),
        ({"when": None}, "a-flush.when is another type"),
        ({"when": "1"}, "a-flush.when is another type"),
        ({"when": 1.0}, "a-flush.when is another type"),
        ({"bytes": True}, "a-flush.bytes is another type"),
        ({"not_pruned": None}, "a-flush.not_pruned is another type"),
        ({"command": "status"}, "a-flush.command is one of"),
        ({"command": ""}, "a-flush.command is one of"),
        ({"reason": "at noon"}, "a-flush.reason is one of"),
        ({"reason": "at 24:00"}, "a-flush.reason is one of"),
        ({"reason": "boot"}, "a-flush.reason is one of"),
    ],
)
def test_what_is_not_as_documented_fails(change: dict[str, Any], complaint: str) -> None:
    """The check of all JSON can fail."""
    with pytest.raises(jsondoc.NotAsDocumented, match=re.escape(complaint)):
        jsondoc.check(
            "history", {"version": 1, "flushes": [FLUSH, {**FLUSH, **change}], "life": None}
        )


def test_a_key_that_is_missing_or_on_another_line_fails() -> None:
    short = {key: value for key, value in FLUSH.items() if key != "pruned"}
    with pytest.raises(jsondoc.NotAsDocumented, match="a-flush has the keys"):
        jsondoc.check("a-flush", short)
    with pytest.raises(jsondoc.NotAsDocumented, match=r"history\.flushes is a list"):
        jsondoc.check("history", {"version": 1, "flushes": None, "life": None})
    with pytest.raises(jsondoc.NotAsDocumented, match="prints one line"):
        jsondoc.parse("check", '{"complete": true,\n"items": []}\n')
