"""QEMU's control protocol: one command at a time, events kept for later."""

from __future__ import annotations

import json
import socket
from typing import Any

# A healthy QEMU answers in milliseconds; half a minute allows for a busy host.
ANSWER_SECONDS = 30


class QmpError(Exception):
    """QEMU refused a command."""


class Qmp:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._unread = b""
        self._events: list[dict[str, Any]] = []
        self._message()  # the greeting
        self.execute("qmp_capabilities")

    def fileno(self) -> int:
        return self._sock.fileno()

    def execute(self, command: str, **arguments: Any) -> Any:
        """Runs one command; ConnectionError if QEMU is gone."""
        request = {"execute": command, "arguments": arguments}
        self._sock.settimeout(ANSWER_SECONDS)
        self._sock.sendall(json.dumps(request).encode() + b"\n")
        while True:
            message = self._message()
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise QmpError(f"QEMU refused {command} {arguments}: {message['error']['desc']}")
            self._events.append(message)

    def events(self) -> list[dict[str, Any]]:
        """The events since the last call; doesn't wait."""
        self._sock.setblocking(False)
        try:
            while chunk := self._sock.recv(65536):
                self._unread += chunk
        except BlockingIOError:
            pass
        except ConnectionError:
            pass  # what QEMU said before it went still counts
        while b"\n" in self._unread:
            self._events.append(self._message())
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        self._sock.close()

    def _message(self) -> dict[str, Any]:
        self._sock.settimeout(ANSWER_SECONDS)
        while b"\n" not in self._unread:
            chunk = self._sock.recv(65536)
            if not chunk:
                raise ConnectionError("QEMU closed its control socket")
            self._unread += chunk
        line, self._unread = self._unread.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message
