"""A command that runs in a guest's background."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from harness.outcome import Result

if TYPE_CHECKING:
    from harness.machine import VM


class Job:
    """Its script, output and status are files in the guest's /run."""

    def __init__(self, vm: VM, command: str, number: int) -> None:
        self.vm = vm
        self.command = command
        self._base = base = f"/run/vm-job{number}"
        # A condition for the guest's shell: true until the command has ended.
        self.alive = f"[ ! -e {base}.code ]"
        vm.put(f"{base}.sh", command.encode())
        # setsid, so that kill() reaches the whole command, but not the shell around it, which
        # reports the status.
        session = f"setsid sh -c {shlex.quote(f'echo $$ >{base}.pid; exec sh {base}.sh')}"
        report = f"echo $? >{base}.new; mv {base}.new {base}.code"
        vm.put(f"{base}.wrap", f"{session} >{base}.out 2>&1\n{report}\n".encode())
        # Not with `&`: a shell makes such a command ignore SIGINT, and the command can't undo that.
        vm.run(f"start-stop-daemon -S -b -p {base}.none -x /bin/sh -- {base}.wrap").ok()
        vm.run(f"while [ ! -s {base}.pid ]; do sleep 0.02; done").ok()

    def running(self) -> bool:
        return self.vm.run(self.alive).code == 0

    def output(self) -> bytes:
        """What the command has written so far."""
        return self.vm.get(f"{self._base}.out")

    def wait_output(self, text: str) -> None:
        """Waits until the command has written this."""
        self.vm.until(f"grep -q {shlex.quote(text)} {self._base}.out")

    def kill(self, signal: str = "TERM") -> None:
        """Signals the command and its children."""
        self.vm.run(f"kill -{signal} -$(cat {self._base}.pid)").ok()

    def wait(self, timeout: float | None = None) -> Result:
        self.vm.run(f"while [ ! -e {self._base}.code ]; do sleep 0.05; done", timeout).ok()
        code = int(self.vm.get(f"{self._base}.code"))
        return Result(self.command, code, self.output())
