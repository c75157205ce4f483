"""A light of the kernel's own, for what the daemon shows by one."""

from __future__ import annotations

from harness.machine import VM

LIGHT = "/sys/class/leds/test:light"


def make_light(vm: VM) -> None:
    """A light of the kernel's own, for as long as its maker keeps the file open (uleds.h)."""
    vm.put("/run/light", b"test:light".ljust(64, b"\0") + (9).to_bytes(4, "little"))
    vm.run("(exec 3<>/dev/uleds; cat /run/light >&3; exec sleep 10000) >/dev/null 2>&1 &").ok()
    vm.until(f"[ -e {LIGHT}/trigger ]")


def shows(vm: VM, trigger: str, file: str, value: int) -> None:
    vm.until(f"grep -qF '[{trigger}]' {LIGHT}/trigger && [ $(cat {LIGHT}/{file}) = {value} ]")
