"""How a guest's run can end.

pass   the guest answered, and the answer is right
fail   the guest answered, and the answer is wrong: AssertionError
lost   the guest did not answer: `Lost`

Lost is kept apart from fail because it says nothing about the case that ran: the guest hung,
panicked or rebooted, or QEMU died. It is never a pass.

One kind of lost is proven to be the emulator's fault: see `impossible_flags`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TAIL_LINES = 40
# The BIOS clears the screen; on a person's terminal it must not.
CONTROL = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|.)|[\x00-\x08\x0b-\x1f\x7f]")

# In an x86 processor's flags bits 3, 5, 15, 22 and up are always 0, and bit 1 is always 1.
ALWAYS_0, ALWAYS_1 = 0xFFFF_FFFF_FFC0_8028, 0x0000_0002
FLAGS = re.compile(r"\b[ER]FLAGS: ([0-9a-f]{8,16})\b")

# A shell's codes for a command that did not run or did not end, and so has refused nothing.
SIGNALLED = 128
NO_REFUSAL = {
    126: "it could not be run",
    127: "there is no such program",
    SIGNALLED: "a signal ended it",
}


def tail(text: str, lines: int = TAIL_LINES) -> str:
    """The last lines, without control characters."""
    text = CONTROL.sub("", text)
    return "\n".join(text.splitlines()[-lines:])


class Lost(Exception):
    """The guest stopped answering; the message says how, and what it last printed."""

    def __init__(self, what: str, console: str) -> None:
        super().__init__(f"LOST: {what}\n--- end of the guest's console ---\n{tail(console)}")
        self.what = what


class EmulatorFault(Lost):
    """The guest's kernel crashed with flags that no processor can have: QEMU's fault."""


def impossible_flags(console: str) -> str | None:
    """The line of a kernel's register dump that shows flags which no x86 processor can have.

    QEMU 7.2's emulation computes a wrong value once in some thousand boots. Where such a value
    includes the direction flag, and an interrupt restores it, the kernel clears the memory below a
    variable instead of the variable, and crashes in an unrelated place.
    """
    for line in console.splitlines():
        for value in FLAGS.findall(line):
            flags = int(value, 16)
            if flags & ALWAYS_0 or not flags & ALWAYS_1:
                return line.strip()
    return None


class CommandFailed(AssertionError):
    """A command in the guest ended with a status other than the expected one."""


@dataclass(frozen=True)
class Result:
    """How a command in the guest ended, and what it wrote to stdout and stderr."""

    command: str
    code: int
    output: bytes

    @property
    def text(self) -> str:
        return self.output.decode(errors="replace")

    def ok(self) -> Result:
        return self.exits(0)

    def exits(self, code: int) -> Result:
        if self.code != code:
            raise CommandFailed(
                f"the guest's command exited {self.code}, not {code}: {self.command}\n{tail(self.text)}"
            )
        return self

    def fails(self) -> Result:
        """It ran, and failed. Where the code is known, `exits` checks more."""
        if self.code == 0:
            raise CommandFailed(
                f"the guest's command should have failed: {self.command}\n{tail(self.text)}"
            )
        if why := NO_REFUSAL.get(min(self.code, SIGNALLED)):
            raise CommandFailed(
                f"the guest's command should have failed by itself, but {why} (its status is "
                f"{self.code}): {self.command}\n{tail(self.text)}"
            )
        return self
