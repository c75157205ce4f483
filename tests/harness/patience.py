"""How long the harness waits for a guest: every wait ends."""

from __future__ import annotations

import time
from collections.abc import Callable


class Patience:
    """One wait: for `timeout` seconds in all, or until nothing was heard for `silence` seconds."""

    def __init__(
        self,
        timeout: float | None,
        silence: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeout = timeout
        self._silence = silence
        self._clock = clock
        self._begin = self._heard = clock()

    def heard(self) -> None:
        """The guest gave a sign of life."""
        self._heard = self._clock()

    def over(self) -> str:
        """Why the wait is over; empty while it is not."""
        now = self._clock()
        if self._timeout is not None:
            late = now - self._begin > self._timeout
            return f"the guest took longer than {self._timeout:g} s" if late else ""
        silent = now - self._heard > self._silence
        return f"the guest was silent for {self._silence:g} s" if silent else ""
