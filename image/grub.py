"""GRUB's grub.cfg: finds the default entry, puts two of ours first, and changes the others.

Those then start through our initramfs. Only plain statements are understood. Everything else is
refused: a guess here is a router that doesn't boot.
"""

from __future__ import annotations

import re
import shlex

from image.entry import Addition, Entry, arguments
from image.entry import lines as lines_of
from image.errors import Refused

PATHS = ("/boot/grub/grub.cfg", "/grub/grub.cfg", "/boot/grub2/grub.cfg", "/grub2/grub.cfg")
MARK = "# cowflush: added by its `make image`"
# An owner's file that Debian's grub.cfg reads if it exists, and its path in grub.cfg
OWN_NAME = "custom.cfg"
OWN_FILE = re.compile(r"source\s+\"?\$\{?(?:config_directory|prefix)\}?/custom\.cfg\"?")
LINUX, INITRD = ("linux", "linux16"), ("initrd", "initrd16")
# In grub-mkimage's words (hd0,msdos1), or hd0,1
DEVICE = re.compile(r"^\((?:hd0,(?:msdos)?(\d+)|\$root|\$\{root\})\)")


def _blocks(text: str) -> list[tuple[int, int]]:
    """The top-level menu entries as ranges of lines: from `menuentry … {` to their `}`."""
    return [(start, end) for start, end, depth in _nested(text) if depth == 0]


def _nested(text: str) -> list[tuple[int, int, int]]:
    """All menu entries and submenus, each with its depth; in the order of their beginnings."""
    found: list[tuple[int, int, int]] = []
    opened: list[tuple[int, int]] = []
    depth = 0
    for number, line in enumerate(lines_of(text)):
        plain = re.sub(r"\$\{\w+\}|'[^']*'|\"[^\"]*\"|#.*", "", line)
        if re.match(r"\s*(menuentry|submenu)\b", line):
            opened.append((number, depth))
        depth += plain.count("{") - plain.count("}")
        if depth < 0:
            raise Refused(f"grub.cfg, line {number + 1}: a }} that closes nothing")
        while opened and depth <= opened[-1][1]:
            start, outside = opened.pop()
            found.append((start, number, outside))
    if depth or opened:
        raise Refused("grub.cfg: an entry does not end")
    return sorted(found)


def _default(text: str, blocks: list[tuple[int, int]]) -> int:
    """The number of the entry that is started by itself."""
    lines = lines_of(text)
    values = {value for value in map(_default_of, _commands(lines, blocks)) if value}
    if len(values) > 1:
        raise Refused(
            f"grub.cfg: its default is one of {', '.join(sorted(values))}, and it is not said plainly which"
        )
    value = values.pop() if values else "0"
    if value.isdecimal():
        number = int(value)
    else:
        titles = [_title(lines[start]) for start, _ in blocks]
        number = titles.index(value) if titles.count(value) == 1 else -1
    if not 0 <= number < len(blocks):
        raise Refused(f"grub.cfg: its default is {value!r}, and no such entry is there")
    _check_always_there(lines, blocks, number)
    return number


def _commands(lines: list[str], blocks: list[tuple[int, int]]) -> list[str]:
    """The commands outside of the entries, one by one, without comments."""
    inside = {number for start, end in blocks for number in range(start, end + 1)}
    outside = [line for number, line in enumerate(lines) if number not in inside]
    return [command for line in outside for command in _split(line)]


def _split(line: str) -> list[str]:
    """A line's commands. A separator or # in quotes does not count."""
    parts = re.findall(r"(?:'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.|(?<=\S)#|[^;#'\"\\])+|;|#.*", line)
    return [
        part.strip() for part in parts if part.strip() and part != ";" and not part.startswith("#")
    ]


def _default_of(command: str) -> str:
    """What a command makes the default; empty if it sets none."""
    if re.match(
        r"(configfile|normal|source|\.|legacy_configfile|extract_entries_\w+|blscfg)(\s|$)", command
    ):
        # Debian's own hook for the owner, which plan.py looks for
        if not OWN_FILE.fullmatch(command):
            raise Refused(f"grub.cfg continues in another file ({command})")
        return ""
    found = re.search(r"(?:^|\s)default=(.*)$", command)
    if not found:
        if re.search(r"(?:^|\s)(?:read|unset)\s.*\bdefault\b", command):
            raise Refused(f"grub.cfg: its default is not said plainly ({command})")
        return ""
    if not re.match(r"(?:(?:if|then|else)\s+)*(?:(?:set|export)\s+)?default=", command):
        raise Refused(f"grub.cfg: its default is not said plainly ({command})")
    words = _words(found[1])
    if len(words) != 1 or not words[0]:
        raise Refused(f"grub.cfg: its default is not said plainly ({command})")
    # `grub-reboot` sets this for one boot, and nobody asks that of the image. All other variables
    # are what a boot left.
    if words[0] in ("$next_entry", "${next_entry}"):
        return ""
    if "$" in words[0]:
        raise Refused(f"grub.cfg: its default is not said plainly ({command})")
    return words[0]


def _check_always_there(lines: list[str], blocks: list[tuple[int, int]], number: int) -> None:
    """Refuses a default whose number depends on an `if` or a loop around an entry up to it."""
    depth = 0
    starts = {start for start, _ in blocks[: number + 1]}
    for place, line in enumerate(lines[: blocks[number][0] + 1]):
        if place in starts and depth:
            raise Refused(
                "grub.cfg: whether an entry is there depends on a condition, so it is not clear which is started"
            )
        for command in _split(line):
            words = re.findall(r"^(?:(?:then|else|do)\s+)*(if|while|until|for|fi|done)\b", command)
            depth += sum(-1 if word in ("fi", "done") else 1 for word in words)


def _title(line: str) -> str:
    try:
        return shlex.split(line.rsplit("{", 1)[0])[1]
    except (ValueError, IndexError) as error:
        raise Refused(f"grub.cfg: an entry without a title: {line.strip()}") from error


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, posix=True)
    except ValueError as error:
        raise Refused(f"grub.cfg: {line.strip()}: {error}") from error


def _body(text: str) -> tuple[str, list[str]]:
    lines, blocks = lines_of(text), _blocks(text)
    if not blocks:
        raise Refused("grub.cfg has no menuentry")
    start, end = blocks[_default(text, blocks)]
    if lines[start].split()[0] == "submenu":
        raise Refused("grub.cfg: what is started by itself is a submenu")
    if start == end:
        raise Refused("grub.cfg: an entry stands in one line")
    return _title(lines[start]), lines[start + 1 : end]


def _is(line: str, *commands: str) -> bool:
    return bool(re.match(rf"\s*({'|'.join(commands)})\s", line))


def parse(text: str, partition: int) -> Entry:
    """The entry that is started by itself. grub.cfg is on `partition`."""
    if MARK in text:
        raise Refused(
            "grub.cfg has cowflush's entries already: begin with the image as it was before"
        )
    title, body = _body(text)
    kernels = [_words(line) for line in body if _is(line, *LINUX)]
    if not kernels:
        raise Refused(f'grub.cfg: the entry "{title}" has no line `linux`')
    if any(len(words) < 2 for words in kernels):
        raise Refused(f'grub.cfg: the entry "{title}" has a line `linux` that names no kernel')
    if len({(words[1], *arguments(tuple(words[2:]), off=False)) for words in kernels}) > 1:
        raise Refused(f'grub.cfg: the entry "{title}" has several lines `linux` that differ')
    initrds = [word for line in body if _is(line, *INITRD) for word in _words(line)[1:]]
    kernel = _local(kernels[0][1], partition)
    # A variable holds the processor's microcode; a file is an initramfs.
    files = tuple(_local(word, partition) for word in initrds if not word.startswith("$"))
    return Entry(title, kernel, files, tuple(kernels[0][2:]))


def _local(path: str, partition: int) -> str:
    """A path without the device before it, which must be grub.cfg's partition."""
    device = DEVICE.match(path)
    if device and device[1] in (None, str(partition)):
        path = path[device.end() :]
    if not path.startswith("/") or "$" in path:
        raise Refused(
            f"grub.cfg: {path} is on another device than grub.cfg, or it is not said plainly where"
        )
    return path


def add(text: str, addition: Addition, partition: int = 1) -> str:
    """The file with our two entries before all others, and the first of them as the default.

    The others start what they did, through our initramfs. grub.cfg is on `partition`.
    """
    title, body = _body(text)
    lines, blocks = lines_of(text), _blocks(text)
    old = _default(text, blocks)
    ours = [MARK]
    for suffix, off in (("cowflush", False), ("cowflush=off: the plain card", True)):
        ours += [
            f'menuentry "{_quoted(title)}, {suffix}" {{',
            *_rewritten(body, addition, off),
            "}",
        ]
    first = blocks[0][0]
    # The last statement counts. If an entry can't be loaded, GRUB starts the old default.
    ending = [MARK, "set default=0", f"set fallback={_fallback(text, old)}"]
    others = _others(text, addition, partition)
    return "\n".join([*lines[:first], *ours, *others[first:], *ending, ""])


def _fallback(text: str, old: int) -> str:
    """What GRUB starts if ours can't be: the owner's choice, or the old default.

    By its number after our two.
    """
    said = re.findall(r"^\s*set\s+fallback=(.*)$", text, re.MULTILINE)
    words = " ".join(_words(said[-1])).split() if said else []
    if not words or not all(word.isdecimal() for word in words):
        words = [str(old)]
    numbers = " ".join(str(int(word) + 2) for word in words)
    return numbers if len(words) == 1 else f'"{numbers}"'


def _others(text: str, addition: Addition, partition: int) -> list[str]:
    """All lines, with the old entries changed to start root through our initramfs.

    They write to the plain card, as before; but it first gets what the flush log holds.
    """
    lines = lines_of(text)
    # From the last one on, since an insertion moves what follows.
    nested = _nested(text)
    for start, end, _ in reversed(nested):
        if lines[start].split()[0] == "submenu":
            continue
        if any(start < other < end for other, _, _ in nested):
            raise Refused(f'grub.cfg: the entry "{_title(lines[start])}" has others in it')
        if start == end:
            if re.search(r"[\s{;]linux(16)?\s", lines[start]):
                raise Refused("grub.cfg: an entry stands in one line")
            continue
        body = lines[start + 1 : end]
        kernels = [_words(line) for line in body if _is(line, *LINUX)]
        found = [addition.for_old(_old(lines[start], body, words, partition)) for words in kernels]
        wanted = next((one for one in found if one), None)
        if wanted:
            lines[start + 1 : end] = _rewritten(body, wanted, True)
    return lines


def _old(title: str, body: list[str], words: list[str], partition: int) -> Entry:
    """An old entry. Its kernel is empty if its place is not stated plainly."""
    initrds = tuple(
        word
        for line in body
        if _is(line, *INITRD)
        for word in _words(line)[1:]
        if not word.startswith("$")
    )
    try:
        kernel = _local(words[1] if len(words) > 1 else "", partition)
    except Refused:
        kernel = ""
    return Entry(_title(title), kernel, initrds, tuple(words[2:]))


def _quoted(title: str) -> str:
    return re.sub(r"([\"\\$`])", r"\\\1", title)


def _rewritten(body: list[str], addition: Addition, off: bool) -> list[str]:
    """The entry's own lines, except those that name the kernel and initramfs.

    Conditions and what sets the root stay.
    """
    result = []
    for line in body:
        indent, command = line[: len(line) - len(line.lstrip())], line.split()[:1]
        if _is(line, *LINUX):
            words = arguments(tuple(_words(line)[2:]), off, addition)
            line = indent + " ".join([command[0], addition.kernel, *map(_argument, words)])
        elif _is(line, *INITRD):
            # Not left out: a branch of an `if` must not be empty.
            line = f"{indent}set cowflush=1"
        result.append(line)
    return [*result, f"\tinitrd {addition.initramfs}"]


def _argument(word: str) -> str:
    """A word for GRUB: variables stay variables, everything else is quoted."""
    return (
        word if re.fullmatch(r"[\w=/.,:+@%${}-]*", word) else "'" + word.replace("'", "'\\''") + "'"
    )
