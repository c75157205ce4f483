"""Shows cowflush at work in an emulated router, or gives a shell in one.

Everything printed is what really happened; the first thing that is not as it
should be ends the demo with a message and status 1.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

from vm import Card, CommandFailed, Lost, artefacts, workload
from vm.boot import machine
from vm.lab import Lab
from vm.machine import VM
from vm.outcome import Result

ROUNDS_BEFORE_FLUSH = 20


class DemoFailed(Exception):
    """Something that the demo is to show does not hold."""


def say(text: str = "") -> None:
    print(text, flush=True)


def check(holds: bool, what: str) -> None:
    if not holds:
        raise DemoFailed(f"this should hold, but doesn't: {what}")
    say(f"  ok: {what}")


def show(vm: VM, command: str, timeout: float | None = None) -> Result:
    """Runs a command in the guest, as a person would see it."""
    say(f"guest# {command}")
    result = vm.run(command, timeout)
    for line in result.text.splitlines():
        say(f"  {line}")
    return result.ok()


def boot(lab: Lab, card: Card) -> VM:
    begin = time.monotonic()
    vm = lab(card, wait=False)
    say(f"host$ {vm.process.command_line}")
    vm.wait_boot()
    for line in vm.console.splitlines():
        if "cowflush:" in line:
            say(f"  {line}")
    say(f"  (booted in {time.monotonic() - begin:.1f} s)")
    return vm


def card_writes(vm: VM) -> int:
    stats = vm.card_stats()
    writes = (
        f"{stats.wr_operations} writes, {stats.wr_bytes} bytes, {stats.flush_operations} FLUSHes"
    )
    say(f"host: the card has received {writes}")
    return stats.wr_operations


def on_device_mapper(vm: VM) -> bool:
    mapper = int(vm.run("awk '$2 == \"device-mapper\" { print $1 }' /proc/devices").ok().text)
    device = int(vm.run("stat -c %d /").ok().text)
    return device >> 8 == mapper


def guest_hashes(vm: VM, files: str) -> dict[str, str]:
    lines = vm.run(f"sha256sum {files}").ok().text.splitlines()
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}


def demo(kernel: str) -> None:
    lab = Lab(artefacts.LOGS / "demo", kernel)
    try:
        card = lab.card()
        say(f"== A fresh card, kernel {kernel}: cowflush is the initramfs' /init")
        vm = boot(lab, card)
        show(vm, "grep ' / ' /proc/mounts")
        show(vm, "cowflush status")
        check(on_device_mapper(vm), "root is a device-mapper device")

        say("\n== Files are written, and synced; the card rests")
        show(vm, "for i in 1 2 3; do head -c 500000 /dev/urandom >/root/file$i || exit; done; sync")
        show(vm, "sha256sum /root/file*")
        files = guest_hashes(vm, "/root/file*")
        check(card_writes(vm) == 0, "not one write has reached the card")

        before = flush_under_load(vm)
        check(card_writes(vm) > 0, "the flush has written to the card")

        say("\n== The power is cut (SIGKILL)")
        vm.kill()
        say("host$ e2fsck -fn (the card's root)")
        for line in card.fsck().strip().splitlines():
            say(f"  {line}")
        check(True, "e2fsck -fn finds nothing to repair")

        say("\n== The same card boots again")
        vm = boot(lab, card)
        check(
            guest_hashes(vm, "/root/file*") == files,
            "all three files are back, with the same hashes",
        )
        expected = workload.hashes(before)
        rounds = guest_hashes(vm, " ".join(expected))
        check(rounds == expected, f"so are the {before} rounds that were written before the flush")
        show(vm, "cowflush status")
        vm.kill()
        card.fsck()
        check(True, "e2fsck -fn is clean after a second power cut, too")
    finally:
        lab.end(keep_images=False)


def flush_under_load(vm: VM) -> int:
    """Flushes while a writer runs; returns how many of its rounds came before."""
    say("\n== cowflush flush, while a writer goes on")
    writer = workload.Writer(vm)
    before = writer.wait_rounds(ROUNDS_BEFORE_FLUSH)
    show(vm, "cowflush flush", timeout=120)
    after = writer.rounds()
    check(after > before, f"the writer went on: from round {before} to {after}")
    writer.stop()
    return before


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
    try:
        if arguments.shell:
            return shell(arguments.kernel, arguments.card and arguments.card.resolve())
        demo(arguments.kernel)
    except (DemoFailed, CommandFailed, Lost, AssertionError, artefacts.MissingArtefact) as error:
        say(f"\nFAILED: {error}")
        say(f"The logs are in {artefacts.LOGS / 'demo'}; qemu.sh there repeats a boot.")
        return 1
    say("\nAll of it holds.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
