"""Runs programs on the host: each of them ends, and its output is kept.

A program that hangs would hang the whole suite, which has no time limit for a test. So the harness,
and every test, starts programs with `run`, which is `subprocess.run` with a limit.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

# Far more than any of them takes on a busy host; a test that builds something passes another.
LIMIT_SECONDS = 600.0
# How much of a long output is kept: this much of its beginning, and of its end.
KEPT_BYTES = 32_768

Word = str | os.PathLike[str]


class Record:
    """A file with all commands that were run, each line of one after a `$`, and their output."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")

    def add(self, command: str, end: str, output: bytes) -> None:
        if len(output) > 2 * KEPT_BYTES:
            output = output[:KEPT_BYTES] + b"\n[...]\n" + output[-KEPT_BYTES:]
        asked = "".join(f"$ {line}\n" for line in command.splitlines())
        with open(self._path, "ab") as file:
            file.write(asked.encode() + output.rstrip(b"\n") + f"\n[{end}]\n".encode())


# Where `run` records: pytest's plugin sets it; our other programs don't need it.
_record: Record | None = None


def record_to(path: Path) -> None:
    global _record
    _record = Record(path)


@overload
def run(
    command: Sequence[Word], *, text: Literal[True], input: str | None = None, **options: Any
) -> subprocess.CompletedProcess[str]: ...


@overload
def run(
    command: Sequence[Word], *, input: bytes | None = None, **options: Any
) -> subprocess.CompletedProcess[bytes]: ...


def run(
    command: Sequence[Word],
    *,
    check: bool = False,
    capture_output: bool = False,
    input: Any = None,
    timeout: float = LIMIT_SECONDS,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run`, but it always ends: a program has `timeout` seconds.

    Then it and all that it started are killed, and `subprocess.TimeoutExpired` is raised with their
    output.
    """
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # A program that asks a question gets no answer.
    options.setdefault("stdin", subprocess.DEVNULL if input is None else subprocess.PIPE)
    # A group of its own, so that its children end with it; they may hold its output open.
    with subprocess.Popen(command, start_new_session=True, **options) as process:
        try:
            output, errors = process.communicate(input, timeout)
        except subprocess.TimeoutExpired as expired:
            _end(process)
            expired.stdout, expired.stderr = process.communicate()
            raise
        except BaseException:
            _end(process)
            raise
    if _record:
        words = " ".join(str(word) for word in command)
        said = b"\n".join(_bytes(part) for part in (output, errors) if part)
        _record.add(words, f"it exited {process.returncode}", said)
    if check and process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output, errors)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _end(process: subprocess.Popen[Any]) -> None:
    # The group exists until the process is waited for.
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
