"""How much memory each command needs at its peak."""

from __future__ import annotations

import re
from typing import Any

from bench.output import Row
from harness.lab import Lab
from harness.machine import VM

# In an order in which each command has something to do.
COMMANDS = ("status", "check", "flush", "stop", "start")
WORK = "head -c 2000000 /dev/zero >/root/work; sync"
INIT = "init=/usr/bin/guest-tools -- init-memory"


def measure(lab: Lab) -> dict[str, Any]:
    vm = lab(append=INIT)
    figures: dict[str, Any] = {command: _command(vm, command) for command in COMMANDS}
    figures["init"] = _init(vm)
    return figures


def _command(vm: VM, command: str) -> dict[str, int]:
    vm.run(WORK).ok()
    # `check` exits with 6 when something is missing, which does not matter here.
    text = vm.run(f"guest-tools memory cowflush {command}", timeout=120).text
    last = text.splitlines()[-1]
    found = re.fullmatch(r"max_rss_kib (\d+) anon_kib (\d+) file_kib (\d+)", last)
    if not found:
        raise RuntimeError(f"`guest-tools memory` of `cowflush {command}` said: {text}")
    most, own, file = map(int, found.groups())
    return {"max_rss_kib": most, "anon_kib": own, "file_kib": file}


def _init(vm: VM) -> dict[str, int | None]:
    """The memory of the initramfs' init: null where the measuring program itself was larger."""
    found = re.search(r"init_memory max_rss_kib (\d+) own_kib (\d+)", vm.run("dmesg").ok().text)
    if not found:
        raise RuntimeError("`guest-tools init-memory` did not write to the kernel's log")
    inherited, own = map(int, found.groups())
    return {"max_rss_kib": inherited if inherited > own else None, "asker_rss_kib": own}


def rows(figures: dict[str, Any]) -> list[Row]:
    found = []
    for command, values in figures.items():
        most = values["max_rss_kib"]
        note = ""
        if command == "init" and most is None:
            note = f"below {values['asker_rss_kib']} KiB, what the program that asks needs itself"
        elif command != "init":
            note = f"at the end {values['anon_kib']} KiB of its own, {values['file_kib']} KiB of the binary"
        found.append(Row(f"peak memory, {command}", "-" if most is None else f"{most} KiB", note))
    return found
