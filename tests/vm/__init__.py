"""Runs cowflush in emulated routers and judges their cards from outside.

card     makes card images and looks into them, without root rights
drive    describes a disk to QEMU: recording, throttling, failing
qmp      talks to QEMU
debian   Debian systems with the package installed
lab      what one test has: cards and guests that end with it
local    runs programs of this machine, with a limit
machine  runs one guest: commands, console, power cuts
workload a writer whose files prove themselves
outcome  what a guest's run can end in: pass, fail, lost
"""

from vm.card import Card
from vm.drive import Drive, Throttle
from vm.ext import Filesystem
from vm.machine import VM
from vm.outcome import CommandFailed, Lost, Result

__all__ = ["VM", "Card", "CommandFailed", "Drive", "Filesystem", "Lost", "Result", "Throttle"]
