"""Keeps the records of `story`, which take minutes, for as long as their parts are the same."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from pathlib import Path

from harness import artefacts
from harness.lab import Lab
from packagecut import native, story
from packagecut.story import Story
from systems import debian


def told(init: str, root: str) -> Story:
    """What a system with this init wrote to its card, with root on the plain card or the stack."""
    digest = hashlib.sha256(debian.place(init).name.encode())
    for source in (story, native):
        digest.update(Path(str(source.__file__)).read_bytes())
    name = f"packagecut-{init}-{root}"
    folder = artefacts.CACHE / f"{name}-{digest.hexdigest()[:16]}"
    plain = told(init, "plain") if root == "stack" else None
    artefacts.CACHE.mkdir(parents=True, exist_ok=True)
    with open(artefacts.CACHE / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            for stale in artefacts.CACHE.glob(f"{name}-*"):
                shutil.rmtree(stale)
            new = folder.with_suffix(".new")
            new.mkdir()
            lab = Lab(artefacts.LOGS / name)
            if plain:
                story.on_the_stack(lab, Story(new, init), plain.directory / story.STACK_CARD)
            else:
                story.on_the_plain_card(lab.directory, Story(new, init))
            lab.end(keep_images=False)
            new.rename(folder)
    return Story(folder, init)
