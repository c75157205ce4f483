"""Makes the Debian systems that tests begin with: `python3 -m systems.debian_make INIT…`.

Each has the package installed, and was booted on the stack and saved. That takes minutes, so it is
done once, before the tests and beside others. For a system that can't be made it leaves the reason,
which the tests that need that system then report; none of them tries again.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path

from harness import artefacts
from harness.lab import Lab
from harness.machine import VM
from harness.outcome import Lost
from systems import debian
from systems.debian import INSTALLED, MEMORY, PACKAGES, RUNNING, SEEN, SLOW, Installation


def make(init: str) -> str:
    """Makes a system unless it exists. Returns why that failed, or nothing."""
    folder = debian.place(init)
    artefacts.CACHE.mkdir(parents=True, exist_ok=True)
    with open(artefacts.CACHE / f"debian-{init}.lock", "w") as lock:
        # One at a time, even with other commands
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return ""
        for stale in artefacts.CACHE.glob(f"debian-{init}-*"):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        return _make_new(init, folder)


def _make_new(init: str, folder: Path) -> str:
    begin = time.monotonic()
    lab = Lab(artefacts.LOGS / f"debian-system-{init}")
    new = folder.with_suffix(".new")
    new.mkdir()
    failed = True
    try:
        install(lab, init, new)
        new.rename(folder)
        failed = False
    except Exception as error:
        log = lab.directory / "failure.txt"
        log.write_text(traceback.format_exc())
        what = error.what if isinstance(error, Lost) else str(error)
        first = (what.splitlines() or [type(error).__name__])[0]
        why = f"the Debian system {init} could not be made: {first}: see {log}"
        debian.broken(folder).write_text(f"{why}\n")
        shutil.rmtree(new, ignore_errors=True)
        return why
    finally:
        lab.end(keep_images=failed)
    say(init, f"done in {time.monotonic() - begin:.0f} s")
    return ""


def install(lab: Lab, init: str, folder: Path) -> None:
    """Boots the plain system, installs the package in it, and boots it on the stack."""
    card = debian.fresh(lab, init)
    say(init, "booting it as it is")
    vm = debian.boot(lab, card, arch=debian.arch(init))
    debian.settled(vm, init)
    if init == "dracut":
        vm = _with_dracut(lab, vm)
    # What the kernel says of its own modules does not concern cowflush.
    vm.run("modprobe -a loop dm-snapshot").ok()
    before = debian.complaints(vm, init)
    say(init, "installing the package")
    # The image was made without GRUB's own tools.
    vm.run("update-grub", timeout=SLOW).ok()
    said = vm.run(f"apt-get install --yes {PACKAGES}/cowflush.deb", timeout=SLOW).ok().text
    vm.run("cowflush log format /dev/sda2").ok()
    root = debian.root_device(vm)
    begin = len(vm.console)
    debian.shut_down(vm, init)
    shutdown = vm.console[begin:]
    card.copy(folder / INSTALLED)
    say(init, "booting it on the stack")
    vm = debian.boot(lab, card, arch=debian.arch(init))
    debian.settled(vm, init)
    vm.save(folder / MEMORY)
    card.copy(folder / RUNNING)
    seen = Installation(before, said, root, shutdown, vm.console)
    (folder / SEEN).write_text(json.dumps(asdict(seen)))


def _with_dracut(lab: Lab, vm: VM) -> VM:
    """Replaces initramfs-tools by dracut, and boots by that."""
    say("dracut", "replacing initramfs-tools")
    # Compressed quickly: on an emulated machine anything else takes minutes.
    vm.run(
        "mkdir -p /etc/dracut.conf.d && echo 'compress=\"gzip -1\"' >/etc/dracut.conf.d/quick.conf"
    ).ok()
    vm.run(
        "apt-get update && apt-get install --yes dracut && ! command -v update-initramfs",
        timeout=2 * SLOW,
    ).ok()
    debian.shut_down(vm, "dracut")
    vm = debian.boot(lab, vm.card, arch="amd64")
    debian.settled(vm, "dracut")
    return vm


def say(init: str, what: str) -> None:
    print(f"debian-systems: {init}: {what}", flush=True)


def main(names: list[str]) -> int:
    if not names or set(names) - {"systemd", "sysvinit", *debian.AMD64}:
        print(
            "usage: python3 -m systems.debian_make systemd|sysvinit|amd64|dracut …", file=sys.stderr
        )
        return 2
    failures = []
    for init in names:
        try:
            failures += [why] if (why := make(init)) else []
        except artefacts.MissingArtefact as missing:
            failures.append(str(missing))
    for why in failures:
        print(f"debian-systems: {why}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
