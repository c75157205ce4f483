"""Lists which messages of docs/messages.md the tests' last run printed, and which it did not.

It reads build/test-logs: the guests' consoles, their commands' output, and that of programs on the
host. It judges nothing: a run of some tests says little, and some messages are for what no test can
bring about. It is for writers of tests.

A message is met when one line has its words in order, with anything in the place of the words in
capitals. A short one may be met by chance.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from documents.messages_named import CAPITALS, SAID_SO
from documents.test_messages import quoted
from harness import artefacts
from harness.launch import CONSOLE_LOG
from harness.machine import COMMANDS_LOG
from harness.pytest_plugin import RUN_BEGAN

FIGURE = r"[\d.,]+"
HOLES = {
    "N": FIGURE,
    "SIZE": rf"{FIGURE} ?(?:bytes|B|KiB|MiB|GiB)",
    "SIGNAL": r"SIG[A-Z0-9]+",
    "TIME": r"\S[^\n]*?",
}


def pattern(message: str) -> tuple[str, re.Pattern[str]]:
    """A pattern for a message, with anything for a word in capitals; and its longest fixed text."""
    parts: list[str] = []
    words: list[str] = []
    at = 0
    for hole in CAPITALS.finditer(message):
        if hole[0] in SAID_SO:
            continue
        words.append(message[at : hole.start()].strip())
        parts += [fixed(message[at : hole.start()]), HOLES.get(hole[0], r"\S[^\n]*?")]
        at = hole.end()
    words.append(message[at:].removesuffix(".").strip())
    parts.append(fixed(message[at:]))
    # An error's last words may be followed by advice, or by nothing.
    found = re.compile(r"(?<!\w)" * message[0].isalnum() + "".join(parts))
    return max(words, key=len), found


def fixed(text: str) -> str:
    return r"\s+".join(re.escape(word) for word in re.split(r"\s+", text.removesuffix(".")))


def is_said(text: str, words: str, found: re.Pattern[str]) -> bool:
    """Searches only lines with these words: a pattern with many gaps is slow on the others."""
    at = text.find(words)
    while at >= 0:
        end = text.find("\n", at)
        end = end if end >= 0 else len(text)
        if found.search(text, text.rfind("\n", 0, at) + 1, end):
            return True
        at = text.find(words, end)
    return False


def logs(since: float) -> Iterator[Path]:
    """The logs that the last run wrote."""
    names = (CONSOLE_LOG, COMMANDS_LOG, "this-machine/*.log")
    for path in (path for name in names for path in artefacts.LOGS.rglob(name)):
        if path.stat().st_mtime >= since:
            yield path


def said(path: Path) -> str:
    """A log without the commands that were given; the kernel repeats its command line, too."""
    text = path.read_text(errors="replace").replace("\r", "")
    return re.sub(r"^\$ .*\n|^.*ommand line: .*\n", "", text, flags=re.MULTILINE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--met", action="store_true", help="list those that were met, and where")
    parser.add_argument(
        "--all", action="store_true", help="look through the logs of earlier runs, too"
    )
    wanted = parser.parse_args()
    began = artefacts.LOGS / RUN_BEGAN
    if not began.exists():
        print(f"{began} is missing: run the tests first", file=sys.stderr)
        return 1
    left = {message: pattern(message) for message in dict.fromkeys(quoted())}
    met: dict[str, Path] = {}
    paths = sorted(logs(0 if wanted.all else began.stat().st_mtime))
    for path in paths:
        text = said(path)
        for message in [message for message, found in left.items() if is_said(text, *found)]:
            met[message] = path
            del left[message]
    if wanted.met:
        for message, path in met.items():
            print(f"{message}\n    {path.relative_to(artefacts.LOGS)}")
    else:
        print("\n".join(left))
    print(
        f"{len(met)} messages were met in {len(paths)} logs, {len(left)} were not", file=sys.stderr
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
