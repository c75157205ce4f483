"""What one test has: a directory, cards, and guests that all end with the test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import artefacts, boot
from harness.card import Card
from harness.ext import Filesystem
from harness.machine import VM


class Lab:
    """Call it to boot a guest; see `harness.boot.boot` for the options."""

    def __init__(self, directory: Path, kernel: str = "6.1") -> None:
        self.directory = directory
        self.kernel = kernel
        self.vms: list[VM] = []
        self._cards = 0
        self._boots = 0
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)

    def card(self, filesystem: Filesystem = Filesystem(), partitions: str = "") -> Card:
        """A fresh card."""
        self._cards += 1
        path = self.directory / f"card-{self._cards}.img"
        return Card.create(path, filesystem, partitions, artefacts.target(self.kernel))

    def __call__(
        self, card: Card | None = None, *, filesystem: Filesystem = Filesystem(), **options: Any
    ) -> VM:
        """Boots a guest from `card`, or from a fresh one with `filesystem` on it."""
        options = {"kernel": self.kernel, **options}
        wait = options.pop("wait", True)
        card = card or self.card(filesystem)
        return self.add(lambda directory: boot.boot(directory, card, wait=False, **options), wait)

    def add(self, start: Callable[[Path], VM], wait: bool = True) -> VM:
        """Starts a guest that ends with the test; `start` gets a directory for its logs."""
        self._boots += 1
        vm = start(self.directory / f"boot-{self._boots}")
        self.vms.append(vm)  # before waiting for it, so that a lost boot's console is shown, too
        if wait:
            vm.wait_boot()
        return vm

    def end(self, keep_images: bool) -> None:
        """Ends the guests. Logs always stay; images are large and stay only on demand."""
        for vm in self.vms:
            vm.kill()
        if not keep_images:
            for image in self.directory.rglob("*.img"):
                image.unlink()
