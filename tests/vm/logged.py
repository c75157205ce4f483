"""What the tests of the flush log share: a guest with a log, its reports, and its card seen from outside."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vm import artefacts, flushlog, local
from vm.card import Card
from vm.machine import VM

if TYPE_CHECKING:
    from vm.lab import Lab

STATE = "/root/state"


def start(boot: Lab, **options: Any) -> VM:
    """A guest whose card has a log, in use."""
    vm = boot(**options)
    vm.run("cowflush log format /dev/sda2").ok()
    return vm


def report(vm: VM, code: int = 0) -> dict[str, Any]:
    """`cowflush log --json`."""
    found: dict[str, Any] = json.loads(vm.run("cowflush log --json").exits(code).output)
    return found


def flush(vm: VM, number: int) -> str:
    """One flush of a state that `check_state` knows again: its number, and a file for each before."""
    vm.run(f"echo {number} >{STATE} && seq {number} 3000 >/root/f{number} && sync").ok()
    return vm.run("cowflush flush", timeout=60).ok().text


def check_state(vm: VM, number: int) -> None:
    """Root is as flush `number` left it."""
    vm.run(f"[ $(ls /root | grep -c '^f[0-9]') = {number} ] && [ $(cat {STATE}) = {number} ]").ok()
    vm.run(f"cd /root && for n in $(seq {number}); do seq $n 3000 | cmp - f$n || exit; done").ok()


def check_card(card: Card, number: int) -> None:
    """The same from outside, with the log applied by the second reader."""
    root = flushlog.recovered(card)
    root.fsck()
    assert root.read(STATE) == f"{number}\n".encode()
    found = {name for name in root.hashes("/root") if re.search(r"/f\d+$", name)}
    assert found == {f"/root/f{n}" for n in range(1, number + 1)}


def said(vm: VM) -> str:
    """What cowflush has printed on the console, without the kernel's times."""
    return "\n".join(re.findall(r"^(?:\[.*?\] )?cowflush: (.*)", vm.console, re.MULTILINE))


def host(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs cowflush on this machine, as a person with the card in a reader would."""
    return local.run(
        [artefacts.host_cowflush(), *map(str, arguments)], capture_output=True, text=True
    )


def images(card: Card) -> tuple[Path, Path]:
    """The card's root and log as files."""
    return card.fs().path, flushlog.log_image(card, card.path.with_suffix(".log.img"))
