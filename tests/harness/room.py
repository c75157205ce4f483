"""Whether this machine has room for a run's disks, before it begins.

A disk that fills up in the middle fails hundreds of tests, none of which says why.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from harness import artefacts

MIB = 1 << 20
# What a tier's tests have on the disk at one time at most, with as much again in reserve.
NEEDED = {"test": 2048 * MIB, "thorough": 6144 * MIB, "systems": 12288 * MIB}


def lacking(tier: str | None) -> str | None:
    """Which folder has too little room for a tier's tests, and how much it has."""
    if tier is None:
        return None
    needed = NEEDED[tier]
    for folder in (artefacts.BUILD, Path(tempfile.gettempdir())):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < needed:
            return (
                f"the disk of {folder} has {free // MIB} MiB free, and the tests of the tier "
                f"{tier} need {needed // MIB}: make room, then run them again"
            )
    return None
