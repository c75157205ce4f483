"""The order in which a card received a command's writes, as a word of letters, and its pattern.

    s  a segment of the log begins        h, H  the log's header, its first and its last copy
    d  more of the segment                r     root
    c  a commit record                    F     a FLUSH
    b  the boots' record

A pattern has an F wherever a FLUSH is needed. The enumeration notices a missing one, too, by the
states that the card may then be left in; the pattern tells where it is missing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.writelog import FLUSH, Entry
from powercut.judge import CHUNK
from powercut.ways import LOG_SECTORS, LOG_START, ROOT_SECTORS, ROOT_START

# Head, table and data are durable before the commit record is written, and that before the command
# returns.
APPEND = "sd*F+cF+"
# Both copies of the header, one after the other: a cut leaves one of them whole.
HEADER = "HF+hF+"
# A boot on the stack counts itself, and sends no FLUSH.
COUNTED = "b"
# Root is durable before the log's segments stop counting.
MERGE = f"(?:r+F+)+{HEADER}"
# A merge without the log: root's content is durable before the RAM copy is given up.
DIRECT = "(?:r+F+)+"


def word(entries: Sequence[Entry], cuts: range) -> str:
    """What was received within these cuts; writes outside both partitions are left out."""
    return "".join(_letters(entry) for entry in entries[cuts.start : cuts.stop - 1])


def flush_between(entries: Sequence[Entry], before: str, after: str) -> int:
    """The first FLUSH between a write of one letter and a write of another."""
    letters = [_letters(entry) for entry in entries]
    for index, letter in enumerate(letters):
        earlier, later = "".join(letters[:index]), "".join(letters[index + 1 :])
        if letter == "F" and earlier.endswith(before) and later.startswith(after):
            return index
    raise AssertionError(f"no FLUSH between {before} and {after}: {''.join(letters)}")


def _letters(entry: Entry) -> str:
    flush = "F" if entry.flags & FLUSH else ""
    return flush + (_letter(entry) if entry.data else "")


def _letter(entry: Entry) -> str:
    if entry.sector in range(ROOT_START, ROOT_START + ROOT_SECTORS):
        return "r"
    if entry.sector not in range(LOG_START, LOG_START + LOG_SECTORS):
        return ""
    if entry.sector == LOG_START:
        return "h"
    if entry.sector == LOG_START + LOG_SECTORS - CHUNK:
        return "H"
    return {b"cowflSEG": "s", b"cowflEND": "c", b"cowflTRY": "b"}.get(entry.data[:8], "d")


def complaint(pattern: str, found: str) -> str:
    """Why an order does not match its pattern, or ""."""
    if re.fullmatch(pattern, found):
        return ""
    short = re.sub(r"(.)\1{3,}", lambda run: f"{run[1]}({len(run[0])})", found)
    return f"the card received {short}, which is not {pattern}"
