"""What the daemon's tests share: starting it in a guest and waiting for what it does."""

from __future__ import annotations

import shlex

from harness.card import Card
from harness.ext import ExtImage
from harness.machine import VM
from product import flushlog
from product.router import when_free

QUIET = "interval=off\nurgent=none\nmerge-on=none\n"
SAID = "/run/daemon.log"
NOTE = "/run/cowflush/daemon"
# Sums over all flushes since boot, and the last flushes
TOTALS, HISTORY = "/run/cowflush/totals", "/run/cowflush/history"


def start(vm: VM, config: str, log: bool = False) -> None:
    """Starts the daemon with this configuration, and puts everything on root so far on the card."""
    if log:
        vm.run("cowflush log format /dev/sda2").ok()
    vm.put("/etc/cowflush.conf", config.encode())
    vm.run("cowflush flush", timeout=60).ok()
    begin(vm)


def begin(vm: VM, environment: str = "") -> None:
    """Starts the daemon, and waits until it has its note: then it watches, and handles signals."""
    wait = f"until grep -qx pid=$! {NOTE}; do kill -0 $! || exit 1; sleep 0.05; done 2>/dev/null"
    vm.run(f"{environment} cowflush daemon >>{SAID} 2>&1 & {wait}", timeout=30).ok()


def reconfigure(vm: VM, config: str) -> None:
    """Gives the running daemon another configuration."""
    before = vm.get(SAID).count(b"read again")
    vm.put("/etc/cowflush.conf", config.encode())
    vm.run("sync; killall -HUP cowflush").ok()
    vm.until(f"[ $(grep -c 'read again' {SAID}) -gt {before} ]")


def status_text(vm: VM) -> str:
    """/proc/PID/status of the daemon.

    Its note names the PID: to pidof a guard looks like a daemon.
    """
    status = f"/proc/$(sed -n s/pid=//p {NOTE})/status"
    return vm.run(f"until cat {status} 2>/dev/null; do sleep 0.05; done", timeout=60).ok().text


def field(vm: VM, name: str) -> str:
    """The value of a line of /proc/PID/status."""
    return next(
        line.split()[1] for line in status_text(vm).splitlines() if line.startswith(f"{name}:")
    )


def signal(vm: VM, name: str) -> None:
    """Sends a signal to the daemon, and not to its throttle worker."""
    vm.run(f"kill -{name} {field(vm, 'Pid')}").ok()


def flush(vm: VM) -> None:
    """Flushes by hand, after the daemon's own flush if one is under way."""
    when_free(vm, "flush").ok()


def flushes(vm: VM, causes: str = ".*") -> int:
    """How many flushes there were since boot, for causes that this regular expression matches."""
    return int(vm.run(count_flushes(causes)).ok().text)


def count_flushes(causes: str) -> str:
    # The cause is the daemon's reason, or the command.
    pattern = f"/^flushes ({causes})=/ {{ n += $2 }} END {{ print n + 0 }}"
    return f"if [ -e {TOTALS} ]; then awk -F= '{pattern}' {TOTALS}; else echo 0; fi"


def wait_flushes(
    vm: VM, more: int = 2, causes: str = ".*", since: int | None = None, timeout: int = 60
) -> None:
    """Waits for `more` flushes since there were `since`.

    One may be under way, so only the second one begins after this call and includes all that was
    written before.
    """
    goal = (flushes(vm, causes) if since is None else since) + more
    vm.until(f"[ $({count_flushes(causes)}) -ge {goal} ]", timeout)


def wait_merges(vm: VM, more: int, timeout: int = 60) -> None:
    """Waits until that many more flushes have merged something."""
    # The history has the last hundred flushes; each one's times identify it.
    youngest = f"awk 'BEGIN {{ RS = \"\" }} /\\nmerged=[1-9]/ {{ text = $0 }} END {{ print text }}' {HISTORY}"
    script = f"""
        merged=$({youngest}); left={more}
        while [ $left -gt 0 ]; do
            sleep 0.05
            now=$({youngest})
            [ -z "$now" ] || [ "$now" = "$merged" ] || {{ merged=$now; left=$((left - 1)); }}
        done"""
    vm.run(script, timeout=timeout).ok()


def wait_for(vm: VM, text: str, times: int = 1, timeout: int = 30) -> str:
    """Waits until so many lines of the daemon have these words; returns all that it has printed."""
    vm.until(f"[ $(grep -c {shlex.quote(text)} {SAID}) -ge {times} ]", timeout)
    return said(vm)


def said(vm: VM) -> str:
    """All that the daemon has printed."""
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
    """Root as the next boot finds it on a card, seen from outside and checked."""
    image = flushlog.recovered(card) if log else card.fs()
    image.fsck()
    return image
