"""Runs emulated routers and judges their cards from outside. What knows cowflush is in product/.

card     makes card images and looks into them, without root rights
drive    describes a disk to QEMU: recording, throttling, failing
qmp      talks to QEMU
lab      what one test has: cards and guests, which end with the test
local    runs programs on the host, with a time limit
machine  runs one guest: commands, console, power cuts
outcome  how a guest's run can end: pass, fail, lost
"""

from harness.card import Card
from harness.drive import Drive, Throttle
from harness.ext import Filesystem
from harness.machine import VM
from harness.outcome import CommandFailed, Lost, Result

__all__ = ["VM", "Card", "CommandFailed", "Drive", "Filesystem", "Lost", "Result", "Throttle"]
