"""Puts a card, a kernel and an initramfs together and boots them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import artefacts, ext, launch
from harness.card import Card
from harness.drive import Drive, Throttle
from harness.launch import Machine
from harness.machine import INACTIVITY_SECONDS, TOTAL_SECONDS, VM

# Thirty seconds of the guest's clock pass in a moment of ours: while the guest is idle, its clock
# jumps to the next timer. With a tick (`NO_LONG_JUMP`, for `append`) the next timer is 4 ms away,
# so that no disk seems to be late. Waits for a disk look longer than they are; so this clock can
# prove that something took at least so long, but not how long in all.
HURRIED: dict[str, Any] = {"icount": "shift=3,sleep=off"}
NO_LONG_JUMP = "nohz=off"


def machine(
    card: Card,
    *,
    kernel: str = "6.1",
    root: str = f"UUID={ext.UUID}",
    rw: bool = True,
    append: str = "",
    direct: bool = False,
    throttle: Throttle | None = None,
    write_log: Path | None = None,
    drives: Sequence[Drive] = (),
    cpu: str = "",
    memory: int = 256,
    icount: str = "",
    extra: Sequence[str] = (),
    initramfs: Path | None = None,
    terminal: bool = False,
) -> Machine:
    """The machine that boots `card`: a Pentium, or one with 64 bits when the kernel is for that.

    `direct` leaves out the initramfs, so the kernel mounts the card's root itself: one with 64 bits
    can't, as its drivers are modules. With `rw` false root stays read-only until the guest remounts
    it, as a distribution's init does; ours doesn't. `append` is more kernel arguments, `extra` more
    of QEMU's.
    as a distribution's init does; ours doesn't. `append` is more kernel arguments, `extra` more of QEMU's.
    """
    target = artefacts.target(kernel)
    if direct and target == "x86_64":
        raise ValueError(f"{kernel} has its drivers in the initramfs, so it can't boot without")
    if direct:
        arguments, ram_root = "root=/dev/sda1 rootwait init=/sbin/init", None
    else:
        arguments, ram_root = f"root={root}", initramfs or artefacts.initramfs(kernel)
    mode = "rw" if rw else "ro"
    return Machine(
        kernel=artefacts.kernel(kernel),
        initramfs=ram_root,
        append=" ".join(filter(None, (arguments, mode, launch.APPEND[target], append))),
        drives=(Drive(card.path, throttle=throttle, write_log=write_log), *drives),
        qemu=launch.QEMU[target],
        cpu=cpu or launch.CPU[target],
        memory=memory,
        icount=icount,
        extra=tuple(extra),
        terminal=terminal,
    )


def boot(
    directory: Path,
    card: Card,
    *,
    wait: bool = True,
    inactivity: float = INACTIVITY_SECONDS,
    total: float = TOTAL_SECONDS,
    **options: Any,
) -> VM:
    """Boots a guest from `card`; its logs go to `directory`. See `machine` for the options.

    With `wait` false it returns at once, for guests that are meant not to boot.
    """
    vm = VM(machine(card, **options), card, directory, inactivity, total)
    if wait:
        vm.wait_boot()
    return vm
