"""A made-up LED, for tests of what the daemon shows by one."""

from __future__ import annotations

from harness.machine import VM

LIGHT = "/sys/class/leds/test:light"


def make_light(vm: VM) -> None:
    """Creates an LED (uleds.h), which exists for as long as its maker keeps the file open."""
    vm.put("/run/light", b"test:light".ljust(64, b"\0") + (9).to_bytes(4, "little"))
    vm.run("(exec 3<>/dev/uleds; cat /run/light >&3; exec sleep 10000) >/dev/null 2>&1 &").ok()
    vm.until(f"[ -e {LIGHT}/trigger ]")


def shows(vm: VM, trigger: str, file: str, value: int) -> None:
    vm.until(f"grep -qF '[{trigger}]' {LIGHT}/trigger && [ $(cat {LIGHT}/{file}) = {value} ]")
