"""The daemon in a guest: starts it, waits for its words."""

from __future__ import annotations

from vm.machine import VM

LOG = "/run/daemon.log"
# Nothing comes by itself, but for a COW that gets full.
QUIET = "interval=off\\nurgent=none\\nmerge-on=none\\n"


def start(vm: VM, config: str) -> None:
    """Starts the daemon with this configuration, and puts what is on root so far on the card."""
    vm.run(f"printf '{config}' >/etc/cowflush.conf; sync").ok()
    vm.run("cowflush flush", timeout=60).ok()
    vm.run(f"cowflush daemon >{LOG} 2>&1 & sleep 2; kill -0 $!").ok()


def wait_for(vm: VM, text: str, timeout: int = 30) -> str:
    """Waits for words of the daemon, and returns all of them."""
    vm.run(f"until grep -q '{text}' {LOG}; do usleep 100000; done", timeout=timeout).ok()
    return said(vm)


def said(vm: VM) -> str:
    return vm.run(f"cat {LOG}").ok().text


def flush(vm: VM) -> None:
    """A flush by hand that waits for the daemon's own: only "busy" is tried again."""
    vm.run("(while :; do cowflush flush; code=$?; [ $code = 4 ] || exit $code; sleep 0.2; done)", timeout=120).ok()
