"""The text that a guest has printed on its serial console."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

# The kernel doesn't wait for a program's line to end: `login: [    1.148800] clocksource: ...`. A
# boot loader never finishes a line that it left open; there the kernel's first message stays, whose
# time is zero.
STAMP = r"\[(?! *0\.000000\]) *\d+\.\d{6}\] "
BROKEN = re.compile(rf"^(?!{STAMP})([^\n]+?)({STAMP}[^\n]*\n)", re.MULTILINE)


class Console:
    """The file that QEMU writes the console to, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - it stays open, and ends with the guest
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.text = ""

    def read(self) -> bool:
        """Reads what QEMU has added; True if that is anything."""
        printed = b"" if self._file.closed else self._file.read()
        if printed:
            # Only the last line may still grow, so the others are not looked at again.
            lines, end, last = self.text.rpartition("\n")
            new = (last + self._decoder.decode(printed)).replace("\r\n", "\n")
            self.text = lines + end + whole_lines(new)
        return bool(printed)

    def close(self) -> None:
        self.read()
        self._file.close()


def whole_lines(text: str) -> str:
    """The same text, with each kernel message that broke into a line moved before that line."""
    moved = 1
    while moved:
        text, moved = BROKEN.subn(r"\2\1", text)
    return text
