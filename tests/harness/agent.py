"""The host's end of the agent's protocol; `agent.sh` is the guest's."""

from __future__ import annotations

import re
import secrets
import socket

READY = b"\n@ready\n"
# Linux limits one argument of a program to 128 KiB, and the script is one argument.
MAX_SCRIPT = 100_000
# How much the guest's serial port takes at once without losing a byte.
PUT_CHUNK = 16_384


class Agent:
    """Splits the serial port's bytes into frames; it never waits."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.setblocking(False)
        self._unread = b""
        self._token = b""
        self._searched = 0

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def receive(self) -> int:
        """Reads what has arrived; returns its length: 0 if there is nothing, or QEMU is gone."""
        count = 0
        try:
            while chunk := self._sock.recv(65536):
                self._unread += chunk
                count += len(chunk)
        except (BlockingIOError, ConnectionError):
            pass
        return count

    def forget(self) -> None:
        """Drops everything received so far."""
        self.receive()
        self._unread = b""

    def ready(self) -> bool | None:
        """True once the agent has said that it listens; drops everything received before."""
        at = self._unread.rfind(READY)
        if at < 0:
            return None
        self._unread = self._unread[at + len(READY) :]
        return True

    def send_run(self, script: str) -> None:
        body = script.encode()
        if len(body) > MAX_SCRIPT:
            raise ValueError(
                f"the command has {len(body)} bytes, the agent takes {MAX_SCRIPT}: use put() and run that"
            )
        self._send("run", body)

    def send_put(self, path: str, content: bytes) -> None:
        self._send("put", content, f" {path}")

    def _send(self, verb: str, body: bytes, argument: str = "") -> None:
        self._token = secrets.token_hex(16).encode()
        self._searched = 0
        header = f"{verb} {self._token.decode()} {len(body)}{argument}\n"
        self._sock.setblocking(True)
        self._sock.settimeout(60)
        self._sock.sendall(header.encode() + body)
        self._sock.setblocking(False)

    def finished(self) -> tuple[int, bytes] | None:
        """The exit status and the output of the last request, once it has ended."""
        end = re.compile(rb"\n@%s end (\d+)\n" % self._token)
        found = end.search(self._unread, self._searched)
        if not found:
            # The end marker may have arrived in part, so its length is searched again.
            self._searched = max(0, len(self._unread) - 64)
            return None
        begin = b"\n@%s begin\n" % self._token
        at = self._unread.find(begin, 0, found.start())
        if at < 0:
            raise RuntimeError("the agent ended a command that it had not begun")
        output = self._unread[at + len(begin) : found.start()]
        self._unread = self._unread[found.end() :]
        return int(found[1]), output

    def partial(self) -> bytes:
        """What the command has written so far."""
        return self._unread
