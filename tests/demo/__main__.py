"""Shows cowflush at work in an emulated router, or gives a shell in one.

Everything printed is what really happened; the first check that fails ends the demonstration with a
message and status 1.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from demo.scenes import Demo, DemoFailed, say
from harness import Card, CommandFailed, Lost, artefacts
from harness.boot import machine
from harness.lab import Lab


def shell(kernel: str, image: Path | None) -> int:
    """Connects the terminal to a guest's console."""
    if not sys.stdin.isatty():
        say("the shell needs a terminal on its standard input; `make run` works without one")
        return 2
    lab = Lab(artefacts.LOGS / "shell", kernel)
    if image and not image.exists():
        Card.create(image)
    card = Card(image) if image else lab.card()
    command = machine(card, kernel=kernel, append="vm.shell", terminal=True).command()
    say(f"host$ {shlex.join(command)}")
    say("To leave: `poweroff -f` in the guest, or Ctrl-A X, which cuts its power.")
    say(f"The card is {card.path}.\n")
    return subprocess.run(command, cwd=lab.directory).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", default=artefacts.KERNELS[0], choices=artefacts.KERNELS)
    parser.add_argument(
        "--shell", action="store_true", help="boot and connect this terminal to a root shell"
    )
    parser.add_argument(
        "--card", type=Path, help="with --shell: keep the card in this file, and use it again"
    )
    arguments = parser.parse_args()
    lab: Lab | None = None
    try:
        if arguments.shell:
            return shell(arguments.kernel, arguments.card and arguments.card.resolve())
        lab = Lab(artefacts.LOGS / "demo", arguments.kernel)
        Demo(lab).run()
    except (DemoFailed, CommandFailed, Lost, AssertionError, artefacts.MissingArtefact) as error:
        say(f"\nFAILED: {error}")
        say(f"The logs are in {artefacts.LOGS / 'demo'}; qemu.sh there repeats a boot.")
        return 1
    finally:
        if lab:
            lab.end(keep_images=False)
    say("\nAll of it holds.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
