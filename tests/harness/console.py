"""What a guest's serial console has said."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

# The kernel doesn't wait for a program's line to end: `login: [    1.148800] clocksource: ...`. What a boot
# loader left unfinished nobody goes on with: there the kernel's first message stays, from a time of zero.
STAMP = r"\[(?! *0\.000000\]) *\d+\.\d{6}\] "
BROKEN = re.compile(rf"^(?!{STAMP})([^\n]+?)({STAMP}[^\n]*\n)", re.MULTILINE)


class Console:
    """The file that QEMU writes it to, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - it stays open, and ends with the guest
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.text = ""

    def read(self) -> bool:
        """Takes in what came since; True if anything did."""
        printed = b"" if self._file.closed else self._file.read()
        if printed:
            # Only the last line may go on, so the others are left as they are.
            lines, end, last = self.text.rpartition("\n")
            new = (last + self._decoder.decode(printed)).replace("\r\n", "\n")
            self.text = lines + end + whole_lines(new)
        return bool(printed)

    def close(self) -> None:
        self.read()
        self._file.close()


def whole_lines(text: str) -> str:
    """The same text, with a message of the kernel that broke into a line put before that line."""
    moved = 1
    while moved:
        text, moved = BROKEN.subn(r"\2\1", text)
    return text
