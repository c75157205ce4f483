"""Images of cards: they boot by BIOS and their own boot loader, as on a board."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import artefacts, local, sparse
from harness.card import Card
from harness.drive import Drive
from harness.lab import Lab
from harness.launch import Machine
from harness.machine import VM

# A Geode LX: CMOV, but no SSE.
GEODE = (
    "pentium,vendor=AuthenticAMD,family=5,model=10,stepping=2,"
    "+sep,+cmov,+mmx,+mmxext,+3dnow,+3dnowext,+pge,+clflush"
)
MEMORY = 128
DOWN = "\x1b[B"
AGENT = artefacts.TOP / "tests" / "harness" / "agent.sh"


def tool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs `python3 -m image` as `make image` does."""
    command = [sys.executable, "-m", "image", *map(str, arguments)]
    return local.run(command, capture_output=True, text=True, cwd=artefacts.TOP)


def done(*arguments: str | Path) -> str:
    """Runs it; it must succeed."""
    run = tool(*arguments)
    assert run.returncode == 0, run.stderr
    return run.stdout


def refused(*arguments: str | Path) -> str:
    """Runs it; it must be refused, with a message and nothing else."""
    run = tool(*arguments)
    assert run.returncode == 1 and run.stdout == "", run.stdout
    assert run.stderr.startswith("image: ") and "Traceback" not in run.stderr, run.stderr
    return run.stderr.removeprefix("image: ").strip()


def boot(lab: Lab, card: Card, **options: Any) -> VM:
    """Boots a card as the board would: nothing comes from outside."""
    wait = options.pop("wait", True)
    own = {name: options.pop(name, None) for name in ("throttle", "write_log")}
    drives = (Drive(card.path, **own), *options.pop("drives", ()))
    machine = Machine(
        kernel=None,
        initramfs=None,
        append="",
        drives=drives,
        cpu=GEODE,
        memory=options.pop("memory", MEMORY),
    )
    return lab.add(lambda directory: VM(machine, card, directory, **options), wait)


def copy(lab: Lab, image: Path, name: str = "card.img") -> Card:
    sparse.copy(image, lab.directory / name)
    return Card(lab.directory / name)


def with_agent(card: Card) -> Card:
    """The card with the tests' agent in its root, run by busybox's init."""
    inittab = card.read("/etc/inittab").decode()
    own = card.path.with_suffix(".inittab")
    own.write_text(inittab + "::respawn:/sbin/vm-agent\n")
    card.edit(
        [
            "rm /etc/inittab",
            "cd /etc",
            f"write {own} inittab",
            "cd /sbin",
            f"write {AGENT} vm-agent",
            "sif vm-agent mode 0100755",
        ]
    )
    return card
