"""Starts QEMU and makes sure that it ends.

QEMU runs in the guest's own directory with short relative paths, so that its sockets' names fit and
a person can repeat the run from there: see `qemu.sh`.
"""

from __future__ import annotations

import atexit
import os
import shlex
import socket
import subprocess
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness import drive
from harness.drive import Drive

# TCG, not KVM: only TCG traps an instruction that `-cpu pentium` lacks. A guest that resets (so
# also one that panics) stops QEMU for good; QEMU then pauses instead of exiting, so that its
# counters can still be read.
BASE = ["-accel", "tcg", "-nographic", "-nodefaults", "-nic", "none"]
QEMU = {"i586": "qemu-system-i386", "x86_64": "qemu-system-x86_64"}
# A processor that has what every one of its kind has, and no more.
CPU = {"i586": "pentium", "x86_64": "qemu64"}
# A kernel with 64 bits panics when the emulated timer is late, as on a busy host.
APPEND = {"i586": "", "x86_64": "no_timer_check"}
ACTIONS = ["-action", "reboot=shutdown,shutdown=pause"]
# For a person: console and QEMU's monitor share the terminal, Ctrl-A C changes over.
TERMINAL = [
    "-chardev",
    "stdio,id=console,mux=on,signal=off",
    "-mon",
    "chardev=console",
    "-serial",
    "chardev:console",
]
CONSOLE_LOG = "console.log"
START_SECONDS = 30


@dataclass(frozen=True)
class Machine:
    """What to emulate.

    `kernel` None boots by BIOS from the first disk; `initramfs` None starts the root's own init
    directly; `saved` is a file by `VM.save`, whose machine resumes paused; `terminal` is for a
    person.
    """

    kernel: Path | None
    initramfs: Path | None
    append: str
    drives: tuple[Drive, ...]
    qemu: str = QEMU["i586"]
    cpu: str = CPU["i586"]
    memory: int = 256
    icount: str = ""
    extra: tuple[str, ...] = ()
    terminal: bool = False
    saved: Path | None = None

    def command(self) -> list[str]:
        command = [self.qemu, *BASE, "-cpu", self.cpu, "-m", str(self.memory)]
        if self.kernel:
            command += ["-kernel", str(self.kernel)]
            command += ["-append", f"console=ttyS0 panic=-1 oops=panic {self.append}"]
        if self.initramfs:
            command += ["-initrd", str(self.initramfs)]
        command += TERMINAL if self.terminal else self._wires()
        for place, disk in enumerate(self.drives):
            command += drive.arguments(drive.drive_name(place), disk, place)
        if self.icount:
            command += ["-icount", self.icount]
        if self.saved:
            command += ["-incoming", f"exec:cat {shlex.quote(str(self.saved))}"]
        return command + list(self.extra)

    @staticmethod
    def _wires() -> list[str]:
        """What a test needs: the console in a file, the agent and the control channel on sockets.

        The console is QEMU's standard input and output. On a socket it would need a reader that
        never pauses: when 300 characters wait there, QEMU's log of it has some of them twice.
        """
        console = ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
        agent = [
            "-chardev",
            "socket,id=agent,path=agent.sock,server=on,wait=off",
            "-serial",
            "chardev:agent",
        ]
        return [*ACTIONS, *console, *agent, "-qmp", "unix:qmp.sock,server=on,wait=off"]


class Process:
    """A running QEMU."""

    _running: ClassVar[weakref.WeakSet[Process]] = weakref.WeakSet()

    def __init__(self, machine: Machine, directory: Path) -> None:
        self.directory = directory
        self.command = machine.command()
        self._prepare(machine)
        # The kernel kills QEMU when the thread that started it ends, however that ends.
        guarded = ["setpriv", "--pdeathsig", "KILL", *self.command]
        with (
            open(directory / CONSOLE_LOG, "wb") as console,
            open(directory / "qemu.log", "wb") as log,
        ):
            self.popen = subprocess.Popen(
                guarded, cwd=directory, stdin=subprocess.PIPE, stdout=console, stderr=log, bufsize=0
            )
        Process._running.add(self)

    def _prepare(self, machine: Machine) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for name in ("agent.sock", "qmp.sock"):
            (self.directory / name).unlink(missing_ok=True)
        for disk in machine.drives:
            if disk.write_log:
                disk.write_log.touch()
        lines = [
            "#!/bin/sh",
            "# Repeats this guest. Its console goes to console.log.",
            'cd "$(dirname "$0")" || exit',
        ]
        script = self.directory / "qemu.sh"
        script.write_text("\n".join([*lines, f"exec {self.command_line} >{CONSOLE_LOG}", ""]))
        script.chmod(0o755)

    @property
    def command_line(self) -> str:
        return shlex.join(self.command)

    @property
    def log(self) -> str:
        return (self.directory / "qemu.log").read_text(errors="replace").strip()

    def alive(self) -> bool:
        return self.popen.poll() is None

    def kill(self) -> None:
        """Kills QEMU with SIGKILL: for the guest, that is a power cut."""
        self.popen.kill()
        self.popen.wait()
        if self.popen.stdin:
            self.popen.stdin.close()
        Process._running.discard(self)

    def type(self, text: bytes) -> None:
        """Types on the console's keyboard."""
        assert self.popen.stdin
        self.popen.stdin.write(text)

    def connect(self, name: str) -> socket.socket:
        """Connects to one of QEMU's sockets, which appear soon after its start."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return self._connect_once(name)
            except (FileNotFoundError, ConnectionRefusedError):
                if not self.alive():
                    raise RuntimeError(
                        f"QEMU did not start: {self.log}\n{self.command_line}"
                    ) from None
                if time.monotonic() > deadline:
                    raise RuntimeError(
                        f"QEMU made no {name} in {START_SECONDS} s\n{self.command_line}"
                    ) from None
                time.sleep(0.01)

    def _connect_once(self, name: str) -> socket.socket:
        # A socket's address holds 107 bytes; a path through an open directory is short enough.
        directory = os.open(self.directory, os.O_PATH)
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(f"/proc/self/fd/{directory}/{name}")
        except OSError:
            sock.close()
            raise
        finally:
            os.close(directory)
        return sock


@atexit.register
def kill_all() -> None:
    for process in list(Process._running):
        process.kill()
