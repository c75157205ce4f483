"""Assembles tiny programs for guests: a static ELF of i386 code, no libc."""

from __future__ import annotations

import tempfile
from pathlib import Path

from harness import local


def assemble(source: str) -> bytes:
    with tempfile.TemporaryDirectory() as temporary:
        code, program = Path(temporary) / "code.o", Path(temporary) / "program"
        local.run(["as", "--32", "-o", code, "-"], input=source.encode(), check=True)
        local.run(["ld", "-m", "elf_i386", "-o", program, code], check=True)
        return program.read_bytes()
