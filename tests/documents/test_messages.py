"""docs/messages.md has every message that a user can meet, and no obsolete one.

Covered: every text of two words or more in src (without its tests) or that image/ prints or raises,
and every `echo` of the packages' scripts. Each must be in one of the document's messages, its fixed
words in order; and each word of those messages must come from such a text. A message is a line of
docs/messages.md that is code and a hard break.

Each entry has a line that begins with **When**: the event that causes the message.

Not covered: advice, if it is in an error's `advise` or in the files in ADVISERS: the words before
it lead to the entry. And what EXEMPT lists.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from documents.messages_named import named, strings

TOP = Path(__file__).resolve().parents[2]
DOCUMENT = TOP / "docs" / "messages.md"
SCRIPTS = (
    "Makefile", "package/debian/42_cowflush", "package/debian/card-for-grub", "package/debian/cowflush.init", "package/debian/postinst", "package/debian/prerm",
    "package/dracut/in-doubt.sh", "package/openwrt/files/cowflush.init", "package/openwrt/files/cowflush.keep", "package/openwrt/files/cowflush.preinit", "package/openwrt/files/cowflush.upgrade",
)  # fmt: skip

# Whole files that report nothing that went wrong.
EXEMPT_FILES = {
    "src/daemon/tests.rs": "for tests",
    "src/flush/machine.rs": "for tests",
    "src/sys/kernel.rs": "for tests",
    "src/pure/report/history.rs": "the head of the table",
    "src/pure/report/metrics.rs": "Prometheus's HELP",
}
# Whole sentences in these files are advice.
ADVISERS = {
    "src/boot/find_log.rs", "src/pure/policy/served.rs", "src/commands/check/advice.rs", "src/commands/check/card.rs", "src/commands/check/kernel.rs", "src/commands/check/loaders.rs", "src/commands/check/memory.rs", "src/commands/check/mod.rs", "src/commands/log/format.rs", "src/commands/log/show.rs", "src/commands/recover.rs",
    "src/error.rs", "src/flush/flushlog/append.rs", "src/flush/flushlog/compare.rs", "src/daemon/swaps.rs", "src/flush/flushlog/mod.rs", "src/flush/seal.rs", "src/notes/spill.rs",
}  # fmt: skip
EXEMPT = {
    "labels of a line": {
        "flush log", "last flush", "RAM COW", "{}, in use", "cowflush rescue>", "at risk", "loop devices", "write cache", "journal commits", "in use", "the card", "boot files", "beside root",
    },
    "of the comparison of the model with a kernel, in no program that ships": {"cannot change the size of a loop device"},
    "the kernel's words, not ours": {"write back", "write through", "Merge failed"},
    "good news, whose words say all": {
        "ended the hold, flushed", "stopped, flushed", "released: flushes come as before", "started: writes stay in RAM, up to {}",
        "merged the flush log into {card}: {bytes} in {millis} ms", "merged {} into {}", "; merged {} into {card}", "the log on {}",
        "held since {since}: nothing reaches the card. `cowflush flush` keeps what changes, `cowflush discard` drops it, "
        "`cowflush release` ends the hold.",
        "would make a flush log of {path_text} ({size}) for {root_text}", "would write {}",
        "made a flush log of {path_text} ({size}) for {root_text}, UUID={uuid}",
        "flushes go there from now on, also after a reboot", "wrote {name}: root with {} of the log",
        "no flush since boot", "none since boot", "flush log: {}", "the last is flush {sequence} of {when}", "cowflush can work here.",
        "version {major}.{minor}.{patch}", "with LOOP_CONFIGURE", "without LOOP_CONFIGURE; two older requests do the same",
        "for the COW", "are no writes", "the card has one; it is flushed", "the card reports none",
    },
    "what to do, behind a cause that has its entry": {
        "What it had written before is on the card now. Reboot and let the filesystem be checked; raise cowflush.size or "
        "flush more often.",
    },
    "figures, with their names beside them": {
        "chunk {position}, round {} through the ring", "{} flushes of {}, {} merges of {} since {}",
        "{} {} {}: RAM {} of {}, pending {}, page cache {}", "{used} of {size} on the card in use",
        "{} by root, {} to {card} since boot", "{name}: {segments} flushes, {percent} % full{trouble}", "the data at chunk {}",
        "next flush in {} ({reason})", "flushes come when something asks for them",
    },
    "what to do at the prompt, below its first line": {
        "root=/dev/sda1            another device", "cowflush=off              the card directly", "or one of",
        "list                      the block devices and what they hold", "sh                        a shell, if the initramfs has one",
        "reboot, poweroff",
    },
    "only a defect of cowflush's own could bring it": {
        "cannot seal root", "its writes already go straight to the card", "cannot restart the merge", "nothing is being merged",
    },
}  # fmt: skip
# The crate that parses the command line prints these.
FROM_ARGH = (
    "Error parsing option '{}' with value '{}': {}", "Error parsing positional argument '{}' with value '{}': {}",
    "No value provided for option '{}'.", "One of the following subcommands must be present:",
    "Required positional arguments not provided:", "Unrecognized argument: {}",
)  # fmt: skip

# Messages met in these tests, which look for fewer words (too few to name one, as other messages
# begin the same) or for the consequences.
MET = {
    "test_log_whose.py::test_two_logs_with_flushes_hold_everything_until_the_owner_has_decided": (
        "LOG may have flushes of PARTITION, too: kept as it is, and not used.",
    ),
    "test_boot.py::test_a_flush_under_load_persists_and_what_is_younger_goes": (
        "nothing here is for these modules: NAMES.",
    ),
    "test_log_reading.py::test_what_one_boot_can_not_read_the_next_one_has": (
        "cannot append to the flush log: chunk N of the flush log on DEVICE can't be read: flushes up to N are there and can't "
        "be read now, and what root has is flush N.",
    ),
    "test_log_errors.py::test_reads_that_fail_in_the_log_during_a_merge": (
        "cannot merge the flush log: the flush log on DEVICE is damaged (WHAT at chunk N): flushes up to N are lost, and what "
        "counts is LAST.",
    ),
    "test_log_damage.py::test_one_copy_of_the_header": (
        "one of the two copies of the header; the next merge mends it",
    ),
    "test_commands.py::test_check_knows_this_machine_and_advises": (
        "none: a power cut during a flush can tear the filesystem",
        "SIZE of RAM, SIZE available; a COW of SIZE",
    ),
    "test_bad_inputs.py::test_a_kernel_that_lacks_something": (
        "cannot open /dev/loop-control: WHY.",
        "cannot open /dev/mapper/control: WHY.",
        "cannot load a table into NAME: the kernel has no KIND target.",
        "the kernel has no such target now",
        "every N s",
    ),
    "test_failing_calls.py::test_each_call_fails_once": (
        "cannot start a process that syncs: WHY.",
        "cannot start the guard process: it could not lock its memory.",
        "nothing to merge: the flush log is empty, or there is none",
    ),
    "test_log_commands.py::test_format_spares_what_is_there_and_what_is_in_use": (
        "cannot read sectors FIRST to LAST of DEVICE: WHY.",
    ),
    "test_refusals.py::test_what_the_kernel_refuses_is_named_and_the_next_flush_makes_up_for_it": (
        "rebooting: everything since the last flush is dropped",
    ),
    "test_daemon_faults.py::test_a_card_that_fails_for_a_while": ("flush (REASON) failed: WHY",),
    "test_overflow.py::test_a_cow_as_large_as_memory_allows": ("the RAM copy was full",),
    "test_package_words.py::test_debian_s_service_says_what_it_does_and_whether_it_worked": (
        "Usage: FILE {start|stop|restart|reload|force-reload|status}",
    ),
}
# No test meets these.
UNMET = {
    "in the boot's own hold root is deferred, so that there is nothing to start; unless a flush was killed in it": (
        "cannot start: since TIME the owner's word about the flush log is waited for.",
    ),
    "no test can make the kernel refuse just that": (
        "cannot start a process that reads swap back: WHY.",
        "cannot keep writes from DEVICE: WHY.",
        "cannot make DEVICE the root: WHY.",
        "That failed: WHY.",
    ),
    "the injector can't make this call fail by itself (socketpair's second; a write to sysfs)": (
        "cannot make a socket for a process that syncs: WHY.",
        "cannot make a socket for a process that reads swap back: WHY.",
        "cannot turn the FLUSHes of DEVICE on again: WHY.",
    ),
    "only a loaded table is left by a command and its guard that were both killed, and clearing it fails as well": (
        "cannot clear the loaded table of NAME: WHY.",
    ),
    "no command has a positional argument that is not text": (
        "Error parsing positional argument 'NAME' with value 'VALUE': WHY",
    ),
    "a guest would have to lose two partitions of a card at once": (
        "cannot tell whether there is a flush log of PARTITION: this can't be read, or not compared with root: PARTITIONS.",
    ),
    "files on this machine have no read errors; test_log_reading.py counts such chunks in `cowflush log --verify`": (
        "unreadable: chunk N of the log",
    ),
}

# A comment; a raw string; a string; a character or a lifetime.
RUST = re.compile(
    r"""//[^\n]*|\b[bc]?r(\#*)"(?P<raw>.*?)"\1|\b[bc]?"(?P<plain>(?:\\.|[^"\\])*)"|"(?P<text>(?:\\.|[^"\\])*)"|'(?:\\[^']*|[^'\\])'|'\w+""",
    re.DOTALL,
)
OPERATION = re.compile(r"(?:Error::new\(|\bdoing\(\|\| )\s*(?:format!\(\s*)?\Z")
HOLE = re.compile(r"\{[\w.:<>]*\}")
WORD = re.compile(r"[^\W\d_]{2,}")


def inside(code: str, opening: str) -> set[int]:
    """The places between such an opening bracket and its closing one."""
    places: set[int] = set()
    for call in re.finditer(opening, code):
        depth, end = 1, call.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(code[end], 0)
            end += 1
        places.update(range(call.end(), end))
    return places


def literals(source: str) -> Iterator[tuple[str, bool]]:
    """The strings of a Rust source but its tests and --help, and whether each goes to `advise`."""
    source = re.split(r"^#\[cfg\(test\)\]\nmod ", source, flags=re.MULTILINE)[0]
    tokens = [(found.start(), found["text"]) for found in RUST.finditer(source)]
    # Blanks everything but code, so that brackets in strings don't count.
    code = RUST.sub(lambda found: " " * len(found[0]), source)
    advised, helps = inside(code, r"\.advise\("), inside(code, r"#\[(?:argh|doc = concat!)\(")
    for start, text in tokens:
        if text is not None and start not in helps:
            text = (
                re.sub(r"\\\n\s*", "", text)
                .replace('\\"', '"')
                .replace("\\n", "\n")
                .replace("\\r", "")
            )
            # The operation that an error says has failed
            yield "cannot " * bool(OPERATION.search(source, 0, start)) + text, start in advised


def from_rust(only_told: bool) -> Iterator[tuple[str, str]]:
    for path in sorted((TOP / "src").rglob("*.rs")):
        place = str(path.relative_to(TOP))
        # The tests' model of the world ships in no program.
        if "/tests/" in place or place.startswith(("src/sys/world/", "src/simulate/")):
            continue
        for text, advice in literals(path.read_text()):
            for line in text.split("\n"):
                sentence = re.match(r"[A-Z`]", line) and line.endswith((".", "?"))
                if not (only_told and (advice or (sentence and place in ADVISERS))):
                    yield place, line.strip()


def template(node: ast.expr) -> str:
    """An expression's text, with `{}` for what is not fixed."""
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "{}"


def from_python(only_told: bool) -> Iterator[tuple[str, str]]:
    for path in sorted((TOP / "image").glob("*.py")):
        tree = ast.parse(path.read_text())
        comments = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) in ("Refused", "argparse.ArgumentTypeError", "print")
                and node.args
            ):
                yield f"image/{path.name}", template(node.args[0])
            elif (
                not only_told
                and isinstance(node, ast.JoinedStr | ast.Constant)
                and node not in comments
            ):
                yield f"image/{path.name}", template(node)


def from_scripts() -> Iterator[tuple[str, str]]:
    for name in SCRIPTS:
        text = (TOP / name).read_text()
        for echo in re.finditer(
            r'\b(?:echo|log_daemon_msg) "((?:\\.|[^"\\])*)"|\$\(error ([^)]*)\)', text
        ):
            said = re.sub(r"\\(.)", r"\1", echo[1] or echo[2])
            yield name, re.sub(r"\$\([^)]*\)|\$+\w+|\$\*", "{}", said)


def fixed(text: str) -> list[str]:
    """The fixed parts of a text."""
    parts = (
        " ".join(part.split()) for part in HOLE.split(text.replace("{{", "{").replace("}}", "}"))
    )
    return [part for part in parts if re.search(r"[^\W\d_]", part)]


def words(text: str) -> int:
    return sum(bool(WORD.search(HOLE.sub("", word))) for word in text.split())


def pattern(text: str) -> re.Pattern[str]:
    """A pattern for the fixed parts in order; each is a group."""
    edges = (
        (part, r"(?<!\w)" * part[0].isalpha(), r"(?!\w)" * part[-1].isalpha())
        for part in fixed(text)
    )
    parts = [f"{before}({re.escape(part)}){after}" for part, before, after in edges]
    return re.compile(r".*?".join(parts))


def quoted() -> list[str]:
    """The messages of the document."""
    lines = re.finditer(
        r"^(?:- |  )(?P<mark>`{1,2})(?P<text>.+?) ?(?P=mark)\\$", DOCUMENT.read_text(), re.MULTILINE
    )
    return [" ".join(found["text"].split()) for found in lines]


# After an entry's messages: a sentence, on as many lines as it takes.
WHEN = re.compile(r"  \*\*When\*\* [^\s.](?:[^\n]|\n  (?!\*\*))*?\.$", re.MULTILINE)


def entries(document: str) -> list[tuple[str, str]]:
    """Each entry's first message, and all text after its messages."""
    found = re.finditer(
        r"^- (?P<first>`.+)\\\n(?:  `.*\\\n)*(?P<rest>(?:  .*\n)*)", document, re.MULTILINE
    )
    return [(entry["first"], entry["rest"]) for entry in found]


def without_event(document: str) -> list[str]:
    """The entries that don't say, in their first line and once, which event is the cause."""
    return [
        first
        for first, rest in entries(document)
        if not WHEN.match(rest) or rest.count("**When**") != 1
    ]


def unexplained(text: str, patterns: dict[str, re.Pattern[str]]) -> str:
    """What is left of a message without all that the sources can say."""
    left = [*text.replace("cannot ", " " * 7, 1)] if text.startswith("cannot ") else [*text]
    for said, found in patterns.items():
        # A single word counts only where an operation has one, or if it is a name.
        alone = words(said) < 2 and not HOLE.search(said) and not re.search(r"[/-]", said)
        places = (
            found.finditer(text)
            if not alone
            else filter(None, (found.match(text, at) for at in (0, len("cannot "))))
        )
        for place in places:
            for group in range(1, found.groups + 1):
                left[place.start(group) : place.end(group)] = " " * (
                    place.end(group) - place.start(group)
                )
    return " ".join(re.findall(r"[a-z]{2,}", "".join(left)))


QUOTED = quoted()
TOLD = [*from_rust(only_told=True), *from_python(only_told=True), *from_scripts()]
ALL = {
    text
    for _, text in [*from_rust(only_told=False), *from_python(only_told=False), *from_scripts()]
} | {*FROM_ARGH}
LISTED = {text: why for why, texts in EXEMPT.items() for text in texts}
WANTED = sorted(
    {
        (place, text)
        for place, text in TOLD
        if words(text) > 1 and place not in EXEMPT_FILES and text not in LISTED
    }
)


def test_there_are_messages() -> None:
    """The extraction sees one of each kind."""
    assert len(WANTED) > 350 and len(QUOTED) > 300
    texts = {text for _, text in WANTED}
    assert {
        "root is not on a cowflush stack",
        "cannot suspend cowflush-root",
        "the kernel is no bzImage for x86",
    } <= texts
    assert "Adding an entry without cowflush" in texts


def test_strings_are_read_as_rust_does() -> None:
    source = """
// "a comment"
fn f() { g('"', "one \\\n     line", b"bytes") }
fn e() { Error::new(format!("read {it}"), "a \\"cause\\"").advise(h("Do (this.")); i("told") }
#[cfg(test)]
mod tests { "a test's" }
"""
    found = [*literals(source)]
    assert [text for text, advice in found if not advice] == [
        "one line",
        "cannot read {it}",
        'a "cause"',
        "told",
    ]
    assert [text for text, advice in found if advice] == ["Do (this."]


def test_a_message_that_is_nowhere_is_seen() -> None:
    patterns = {text: pattern(text) for text in ("cannot open {}", "it is full", "full")}
    assert unexplained("cannot open FILE: it is full", patterns) == ""
    assert unexplained("cannot open FILE: it is not full", patterns) == "it is not full"


def test_every_message_has_its_entry() -> None:
    missing = [
        (place, text) for place, text in WANTED if not any(map(pattern(text).search, QUOTED))
    ]
    assert not missing, f"these have no entry in docs/messages.md: {missing}"


def test_every_entry_is_a_message() -> None:
    patterns = {text: pattern(text) for text in ALL if fixed(text)}
    gone = {message: left for message in QUOTED if (left := unexplained(message, patterns))}
    assert not gone, (
        f"docs/messages.md has messages, or these words of them, that are not in the sources: {gone}"
    )


def test_an_entry_without_its_event_is_seen() -> None:
    good = (
        "- `cannot x: WHY.`\\\n  `cannot y: WHY.`\\\n  **When** the kernel refused.\n  Try again.\n"
    )
    assert without_event(good) == []
    assert without_event(good.replace("refused.", "refused it,\n  twice.")) == []
    for bad in (
        good.replace("refused.\n  Try again.", "refused,\n  **Exit 5.** Try again."),
        good.replace("  **When** the kernel refused.\n", ""),
        good.replace("the kernel refused.", ""),
        good.replace("Try again.", "**When** twice."),
        good.replace("  **When** the kernel refused.\n  Try again.\n", ""),
    ):
        assert without_event(bad) == ["`cannot x: WHY.`"], bad


def test_every_entry_says_which_event_makes_its_messages() -> None:
    document = DOCUMENT.read_text()
    assert len(entries(document)) == len(re.findall(r"^- `.*\\$", document, re.MULTILINE)) > 200
    missing = without_event(document)
    assert not missing, (
        f"these entries of docs/messages.md have no line that begins with **When**: {missing}"
    )


def test_every_exemption_is_needed() -> None:
    texts = {text for _, text in TOLD}
    assert not [text for text in LISTED if text not in texts], "no longer in the sources"
    assert not [name for name in (*EXEMPT_FILES, *ADVISERS) if not (TOP / name).exists()]


def test_every_message_is_met_by_a_test_or_there_is_a_reason() -> None:
    """The tests' sources decide; messages_met.py lists the messages of the last run."""
    elsewhere = [message for messages in MET.values() for message in messages]
    unmet = [message for messages in UNMET.values() for message in messages]
    found = named(dict.fromkeys(QUOTED), strings())
    lacking = [text for text in QUOTED if text not in found | {*elsewhere, *unmet}]
    assert not lacking, (
        f"no test looks for the words of these messages, by test_messages.UNMET with no reason: {lacking}"
    )
    needless = [text for text in (*elsewhere, *unmet) if text in found or text not in QUOTED]
    assert not needless, f"a test looks for these now, or they are gone: {needless}"
    for test in MET:
        file, name = test.split("::")
        (path,) = (TOP / "tests").rglob(file)
        assert f"\ndef {name}(" in path.read_text(), test


def test_which_message_a_string_names() -> None:
    both = [
        "cannot open DEVICE: WHY.",
        "cannot use DEVICE: it is full.",
        "cannot use DEVICE: it is not.",
    ]
    for string, names in (
        ("cannot open /dev/sda1: No such file", {both[0]}),
        ("cannot use /dev/sda1: it is", set()),
        (r"x: cannot use .*: it is full\.", {both[1]}),
        ("cannot use {}: it is not", {both[2]}),
        ("open", set()),
        ("it is", set()),
    ):
        assert named(both, [string]) == names, string


def test_entries_are_sorted() -> None:
    for group in re.split(r"^#+ ", DOCUMENT.read_text(), flags=re.MULTILINE):
        first = re.findall(r"^- `{1,2}(.+)$", group, re.MULTILINE)
        first = [text.rstrip("`\\").casefold() for text in first]
        assert first == sorted(first), group.split("\n")[0]
