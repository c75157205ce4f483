"""Makes a file whole or not at all: it is made in a folder of its own beside its place."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from image.errors import Refused

# A plain name, whatever the person calls the result: other programs see more in a name than a
# file's.
NAME = "card.img"
SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


class Stopped(BaseException):
    """A signal ended the run.

    Like KeyboardInterrupt it is no error, so that nothing treats it as one.
    """


def stop_cleanly() -> None:
    """Makes SIGINT, SIGTERM and SIGHUP end this process through its `finally`, which cleans up."""

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        raise Stopped

    for number in SIGNALS:
        signal.signal(number, stop)


@contextlib.contextmanager
def workplace(beside: Path) -> Iterator[Path]:
    """An empty folder on the filesystem of `beside`, which is removed however the run ends."""
    # A signal between the folder and the `try` would leave the folder, and a second one a part of
    # it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        folder = Path(tempfile.mkdtemp(prefix=".cowflush-", dir=beside.parent))
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            yield folder
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def check(out: Path, replace: bool) -> str:
    """Refuses to replace what is not a file, or a file unless told so. Returns what is replaced."""
    try:
        found = out.lstat()
    except FileNotFoundError:
        return ""
    if not stat.S_ISREG(found.st_mode):
        raise Refused(f"{out} is no file, and would be replaced by one: name another")
    if not replace:
        raise Refused(f"{out} is there already: name another file, or say --replace")
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.st_mtime))
    return f"the {out.name} of {made} is replaced"


def finish(made: Path, out: Path) -> None:
    """Puts a complete file in its place."""
    # Its bytes first: after a power cut its name must not lead to an empty file.
    _sync(made)
    made.rename(out)
    _sync(out.parent)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
