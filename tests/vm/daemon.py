"""What the tests of the daemon share."""

from __future__ import annotations

from vm import flushlog
from vm.card import Card
from vm.ext import ExtImage
from vm.machine import VM
from vm.router import when_free

QUIET = "interval=off\nurgent=none\nmerge-on=none\n"
SAID = "/run/daemon.log"
NOTE = "/run/cowflush/daemon"


def start(vm: VM, config: str, log: bool = False) -> None:
    """Starts the daemon with this configuration, and puts what is on root so far on the card."""
    if log:
        vm.run("cowflush log format /dev/sda2").ok()
    vm.put("/etc/cowflush.conf", config.encode())
    vm.run("cowflush flush", timeout=60).ok()
    begin(vm)


def begin(vm: VM) -> None:
    """Starts the daemon, and waits until it has its note: then it watches, and listens to signals."""
    wait = f"until grep -qx pid=$! {NOTE}; do kill -0 $! || exit 1; sleep 0.05; done 2>/dev/null"
    vm.run(f"cowflush daemon >>{SAID} 2>&1 & {wait}", timeout=30).ok()


def reconfigure(vm: VM, config: str) -> None:
    """Gives the running daemon another configuration."""
    before = vm.get(SAID).count(b"read again")
    vm.put("/etc/cowflush.conf", config.encode())
    vm.run("sync; killall -HUP cowflush").ok()
    vm.until(f"[ $(grep -c 'read again' {SAID}) -gt {before} ]")


def status_text(vm: VM) -> str:
    """/proc/PID/status of the daemon. Its note says which that is: a guard looks like one to pidof."""
    status = f"/proc/$(sed -n s/pid=//p {NOTE})/status"
    return vm.run(f"until cat {status} 2>/dev/null; do sleep 0.05; done", timeout=60).ok().text


def field(vm: VM, name: str) -> str:
    """A line of /proc/PID/status."""
    return next(
        line.split()[1] for line in status_text(vm).splitlines() if line.startswith(f"{name}:")
    )


def signal(vm: VM, name: str) -> None:
    """Sends the daemon a signal, and nothing to the process at its valve."""
    vm.run(f"kill -{name} {field(vm, 'Pid')}").ok()


def flush(vm: VM) -> None:
    """A flush by hand that waits for the daemon's own."""
    when_free(vm, "flush").ok()


def wait_for(vm: VM, text: str, times: int = 1, timeout: int = 30) -> str:
    """Waits until so many lines of the daemon have these words; returns all it has said."""
    vm.until(f"[ $(grep -c '{text}' {SAID}) -ge {times} ]", timeout)
    return said(vm)


def said(vm: VM) -> str:
    """All that it has said."""
    return vm.get(SAID).decode()


def no_trouble(vm: VM) -> None:
    """Nothing was killed for want of memory, no flush failed, and the COW never got full."""
    kernel = vm.run("dmesg").ok().text
    assert not [
        line for line in kernel.splitlines() if "Out of memory" in line or "oom-kill" in line
    ], kernel
    words = said(vm)
    assert "failed" not in words and "FULL" not in words, words


def root_of(card: Card, log: bool) -> ExtImage:
    """What the next boot finds on a card, seen from outside and without a fault."""
    image = flushlog.recovered(card) if log else card.fs()
    image.fsck()
    return image
