"""One guest: boots it, runs commands in it, cuts its power."""

from __future__ import annotations

import re
import select
import shlex
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from harness.agent import PUT_CHUNK, Agent
from harness.card import Card
from harness.console import Console
from harness.disks import Disks, DriveStats
from harness.drive import Throttle
from harness.job import Job
from harness.launch import CONSOLE_LOG, Machine, Process
from harness.local import Record
from harness.outcome import EmulatorFault, Lost, Result, impossible_flags, tail
from harness.patience import Patience
from harness.qmp import Qmp

T = TypeVar("T")

# A guest that is silent for so long hangs: it boots in two seconds, more on a busy host. All limits
# are generous, since a limit that is not reached costs nothing.
INACTIVITY_SECONDS = 240.0
TOTAL_SECONDS = 2400.0
# The console goes to a plain file, which can only be polled.
POLL_SECONDS = 0.02
# The guest's commands and their output.
COMMANDS_LOG = "commands.log"


class VM:
    """A running guest. Every method that waits for it raises `Lost` when it stops answering."""

    # A `timeout` is meant for an idle host; a busy one gets this many times as long.
    patience = 4.0

    def __init__(
        self,
        machine: Machine,
        card: Card,
        directory: Path,
        inactivity: float = INACTIVITY_SECONDS,
        total: float = TOTAL_SECONDS,
    ) -> None:
        self.card = card
        self.inactivity = inactivity
        self.total = total
        self._stopped = ""  # why the guest stopped, in QEMU's words
        self._final_stats: list[DriveStats] = []
        self._resetting = False
        self._timed_out = False
        self._jobs = 0
        self.process = Process(machine, directory)
        # A thread, so that it ends the guest even while a test waits for something else.
        self._watchdog = threading.Timer(total, self._time_out)
        self._watchdog.daemon = True
        self._watchdog.start()
        self._console = Console(directory / CONSOLE_LOG)
        self._record = Record(directory / COMMANDS_LOG)
        try:
            self._agent = Agent(self.process.connect("agent.sock"))
            self._qmp = Qmp(self.process.connect("qmp.sock"))
        except BaseException:
            self.process.kill()
            raise
        self._disks = Disks(self._qmp, machine.drives)

    def __enter__(self) -> VM:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    # --- commands -----------------------------------------------------------

    def wait_boot(self) -> None:
        """Waits until the agent in the root filesystem listens."""
        self._wait(self._agent.ready, "waiting for the guest to boot")

    def run(self, command: str, timeout: float | None = None) -> Result:
        """Runs shell commands in the guest, with no input, and waits for their end.

        `timeout` is how many seconds they may take on an idle host; it replaces the limit on
        silence. `run` also waits for the end of the output, so a child that is left behind must
        write elsewhere; see `start`.
        """
        self._control(lambda: self._agent.send_run(command))
        code, output = self._wait(self._agent.finished, f"running: {command}", timeout)
        self._record.add(command, f"it exited {code}", output)
        return Result(command, code, output)

    def start(self, command: str) -> Job:
        """Runs shell commands in the background."""
        self._jobs += 1
        return Job(self, command, self._jobs)

    def put(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Writes a small file in the guest."""
        self.run(f": >{shlex.quote(path)}").ok()
        for at in range(0, len(content), PUT_CHUNK):
            self._append(path, content[at : at + PUT_CHUNK])
        self.run(f"chmod {mode:o} {shlex.quote(path)}").ok()

    def _append(self, path: str, chunk: bytes) -> None:
        self._control(lambda: self._agent.send_put(path, chunk))
        code, output = self._wait(self._agent.finished, f"putting {path}")
        Result(f"put {path}", code, output).ok()

    def get(self, path: str) -> bytes:
        return self.run(f"cat {shlex.quote(path)}").ok().output

    # --- the console --------------------------------------------------------

    @property
    def console(self) -> str:
        """Everything that the guest has printed so far."""
        self._take_in()
        return self._console.text

    def wait_console(self, pattern: str, timeout: float | None = None) -> re.Match[str]:
        """Waits until the console holds the pattern, including what was printed before."""
        regex = re.compile(pattern, re.MULTILINE)
        return self._wait(
            lambda: regex.search(self._console.text),
            f"waiting for {pattern!r} on the console",
            timeout,
        )

    def type(self, text: str) -> None:
        """Types on the console's keyboard."""
        self._control(lambda: self.process.type(text.encode()))

    def press(self, *keys: str) -> None:
        """Presses keys together on the machine's own keyboard; their names are QEMU's."""
        held = [{"type": "qcode", "data": key} for key in keys]
        self._control(lambda: self._qmp.execute("send-key", keys=held))

    # --- ends ---------------------------------------------------------------

    def kill(self) -> None:
        """Cuts the power: completed writes stay, everything else is lost."""
        self._watchdog.cancel()
        self.process.kill()
        self._console.close()
        self._agent.close()
        self._qmp.close()

    def until(self, condition: str, timeout: float = 30) -> None:
        """Waits until this command succeeds in the guest's shell."""
        self.run(f"until {condition}; do sleep 0.05; done", timeout=timeout).ok()

    def poweroff(self, command: str = "poweroff -f", timeout: float | None = None) -> None:
        """Lets the guest power off, and waits until it has."""
        if self.run_last(command, timeout) != "guest-shutdown":
            raise Lost(
                f"the guest did not power off, QEMU says {self._stopped}: {command}",
                self._console.text,
            )

    def run_last(self, command: str, timeout: float | None = None) -> str:
        """Runs a command that stops the guest, and returns how it stopped, in QEMU's words.

        It waits only for the stop: the guest may be gone before the command can report its end.
        """
        self._control(lambda: self._agent.send_run(command))
        self._wait(
            lambda: self._stopped or None, f"waiting for the guest to stop: {command}", timeout
        )
        self._final_stats = self._control(self._disks.stats)
        self.kill()
        return self._stopped

    def send(self, command: str) -> None:
        """Runs a command and does not wait for its end, such as one that kills the agent."""
        self._control(lambda: self._agent.send_run(command))

    def wait_stopped(self, timeout: float | None = None) -> str:
        """Waits until the guest stops by itself, and returns how, in QEMU's words."""
        stopped = self._wait(
            lambda: self._stopped or None, "waiting for the guest to stop", timeout
        )
        self.kill()
        return stopped

    def reset(self) -> None:
        """Presses the reset button, and waits until the guest has booted again."""
        self._execute("set-action", reboot="reset")
        self._agent.forget()
        self._resetting = True
        self._execute("system_reset")
        self.wait_boot()
        self._resetting = False
        self._execute("set-action", reboot="shutdown")

    # --- the card, seen from outside -----------------------------------------

    def pause(self) -> None:
        self._execute("stop")

    def cont(self) -> None:
        self._execute("cont")

    def save(self, path: Path) -> None:
        """Saves the whole machine except its disks, which stay as they are, to a file and ends it."""
        self.pause()
        self._execute("migrate", uri=f"exec:cat >{shlex.quote(str(path))}")
        while (
            status := self._control(lambda: self._qmp.execute("query-migrate"))["status"]
        ) != "completed":
            if status in ("failed", "cancelled"):
                raise RuntimeError(f"QEMU could not save the machine to {path}: {self.process.log}")
            time.sleep(POLL_SECONDS)
        self.kill()

    def go_on(self) -> None:
        """Resumes a machine that was started from a saved one."""
        while self._control(lambda: self._qmp.execute("query-status"))["status"] == "inmigrate":
            time.sleep(POLL_SECONDS)
        self.cont()
        self.run("true").ok()

    def cut_copy(self, path: Path) -> Card:
        """A copy of the card as a power cut at this moment would leave it; the guest goes on."""
        self.pause()
        copy = self.card.copy(path)
        self.cont()
        return copy

    def disk(self, place: int) -> str:
        """The guest's name for the disk that is plugged in at this place; the card is in place 0.

        The kernel probes several disks at once, and the first that answers is sda.
        """
        cable, unit = divmod(place, 2)
        (found,) = re.findall(
            rf"^\S*/ata{cable + 1}/\S*/\d+:0:{unit}:0/block/(\w+)$",
            self.run("for disk in /sys/block/sd*; do readlink -f $disk; done").ok().text,
            re.MULTILINE,
        )
        return f"/dev/{found}"

    def card_stats(self, place: int = 0) -> DriveStats:
        """What has reached the card (or another drive) so far; also after poweroff()."""
        if self._final_stats:
            return self._final_stats[place]
        return self._control(self._disks.stats)[place]

    def fail_writes(self, sectors: range | None = None, place: int = 0) -> None:
        """From now on, every write that touches one of these sectors (None: any) fails with EIO."""
        self._control(lambda: self._disks.fail("write", sectors, place))

    def fail_reads(self, sectors: range | None = None, place: int = 0) -> None:
        self._control(lambda: self._disks.fail("read", sectors, place))

    def fail_flush(self, place: int = 0) -> None:
        """The next FLUSH fails with EIO, and so do the driver's repetitions of it."""
        self._control(lambda: self._disks.fail("flush", None, place))

    def heal(self, place: int = 0) -> None:
        """Makes the disk work again."""
        self._control(lambda: self._disks.heal(place))

    def throttle(self, limits: Throttle, place: int = 0) -> None:
        """From now on the disk has this speed; it must have been booted with some throttle."""
        self._control(lambda: self._disks.throttle(limits, place))

    def _execute(self, command: str, **arguments: str) -> None:
        self._control(lambda: self._qmp.execute(command, **arguments))

    def _control(self, action: Callable[[], T]) -> T:
        """Asks QEMU something; a QEMU that doesn't answer is as lost as a guest that doesn't."""
        if not self.process.alive():
            self._take_in()
            self._lose(self._why_lost())
        try:
            return action()
        except OSError as error:
            self._lose(f"QEMU does not answer ({error})")

    # --- waiting ------------------------------------------------------------

    def _wait(self, answer: Callable[[], T | None], what: str, timeout: float | None = None) -> T:
        """Waits for an answer from the guest; every wait ends, and only an answer ends it well."""
        patience = Patience(None if timeout is None else timeout * self.patience, self.inactivity)
        while True:
            if self._take_in():
                patience.heard()
            answered = answer()
            if answered is not None:
                return answered
            if reason := self._why_lost() or patience.over():
                self._lose(f"{reason}, {what}")
            select.select([self._agent.fileno(), self._qmp.fileno()], [], [], POLL_SECONDS)

    def _why_lost(self) -> str:
        panic = re.search(r"Kernel panic - .*", self._console.text)
        # After a panic the guest stops once the kernel has printed everything, except while resets
        # are allowed.
        if panic and (self._stopped or self._resetting):
            return f"the guest panicked ({panic[0].strip()})"
        if self._stopped:
            return f"the guest stopped by itself ({self._stopped})"
        if self._timed_out:
            return f"the guest ran longer than its total limit of {self.total:g} s"
        if not self.process.alive():
            return f"QEMU died with status {self.process.popen.returncode} ({self.process.log or 'it said nothing'})"
        return ""

    def _lose(self, reason: str) -> NoReturn:
        partial = self._agent.partial().decode(errors="replace")
        self._record.add("", f"lost: {reason}", partial.encode())
        self.kill()
        said = f"\n--- the command's output so far ---\n{tail(partial)}" if partial.strip() else ""
        if flags := impossible_flags(self._console.text):
            raise EmulatorFault(
                f"QEMU made a mistake ({flags}): {reason}{said}", self._console.text
            )
        raise Lost(f"{reason}{said}", self._console.text)

    def _take_in(self) -> bool:
        """Reads what the guest and QEMU have sent; True if the guest sent anything."""
        printed = self._console.read()
        received = self._agent.receive() if self.process.alive() else 0
        if self.process.alive():
            for event in self._qmp.events():
                if event["event"] == "SHUTDOWN":
                    self._stopped = event["data"]["reason"]
        return bool(printed or received)

    def _time_out(self) -> None:
        self._timed_out = True
        self.process.popen.kill()
