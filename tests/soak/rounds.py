"""Boots of the soak, one after the other, on the same card."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from harness import artefacts, sparse
from harness.ext import ExtImage
from harness.lab import Lab
from harness.machine import VM
from harness.sparse import SECTOR
from product import daemon
from soak import watch
from soak.judge import judge
from soak.load import FOLDER, Load

CONFIG = "interval=7s\nurgent=/etc\nmerge-on=none\nsize=16M\nmerge=40%\n"
MEMORY_MIB = 128
# A soak shares its host with other work for half an hour.
SILENCE_SECONDS, TOTAL_SECONDS = 240, 3600
# Steps of a round: some boots are short, some long enough to see memory grow.
LENGTHS = (6, 12, 24, 48)
# Every so many steps a look with everything settled
LOOK_EVERY = 6


@dataclass
class Totals:
    """What has happened over all rounds."""

    flushes: int = 0
    kills: int = 0
    cuts: int = 0
    cuts_at_work: int = 0
    steps: dict[str, int] = field(default_factory=dict)
    boots: list[list[watch.Figures]] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        return asdict(self)


class Soak:
    """A card, and a router's life on it."""

    def __init__(
        self, lab: Lab, seed: int, enough: Callable[[Totals], bool], say: Callable[[str], None]
    ) -> None:
        self.lab, self.random, self.enough, self.say = lab, Random(seed), enough, say
        self.card = lab.card()
        self.totals = Totals()

    def round(self) -> None:
        vm = self.lab(self.card, memory=MEMORY_MIB, inactivity=SILENCE_SECONDS, total=TOTAL_SECONDS)
        if self.totals.cuts == 0:
            vm.run("cowflush log format /dev/sda2").ok()
            vm.put("/etc/cowflush.conf", CONFIG.encode())
        load = Load(vm)
        daemon.begin(vm)
        self.totals.boots.append([])
        durable: dict[str, int] = {}
        before = self.totals.flushes
        for step in range(1, self.random.choice(LENGTHS) + 1):
            durable = self.step(vm, load) or durable
            watch.look_at_work(vm)
            self.totals.flushes = before + daemon.flushes(vm)
            if step % LOOK_EVERY == 0:
                durable = self.look(vm, load)
            if self.enough(self.totals):
                break
        load.check()
        daemon.no_trouble(vm)
        self.totals.flushes = before + daemon.flushes(vm)
        self.cut(vm)
        found = judge(self.recovered(), durable)
        self.totals.steps = found
        self.say(
            f"cut {self.totals.cuts}: {self.totals.flushes} flushes, {self.totals.kills} kills; on the card {found}, flushed {durable}"
        )

    def step(self, vm: VM, load: Load) -> dict[str, int] | None:
        """Some writes, then a flush, a kill, or nothing. Returns what is durable now, if known."""
        vm.run(
            f"dd if=/dev/urandom of={FOLDER}/bulk bs=64k count={self.random.randint(1, 40)} 2>/dev/null"
        ).ok()
        done, dice = load.done(), self.random.random()
        if dice < 0.65:
            daemon.flush(vm)
            return done
        if dice < 0.9:
            self.kill(vm)
        else:
            vm.run("date >/etc/changed; sleep 3").ok()  # the daemon's turn
        return None

    def kill(self, vm: VM) -> None:
        """Kills daemon and flush at any moment of a flush; another daemon goes on."""
        self.totals.kills += 1
        vm.run(
            f"cowflush flush >/dev/null 2>&1 & usleep {self.random.randint(0, 500_000)}; killall -9 cowflush"
        ).ok()
        daemon.begin(vm)

    def look(self, vm: VM, load: Load) -> dict[str, int]:
        """Pauses everything for a moment: then all is durable, and nothing is left over."""
        rss = watch.daemon_rss(vm)
        load.pause()
        vm.run("killall cowflush").ok()
        vm.until("! pidof cowflush", timeout=60)
        done = load.done()
        daemon.flush(vm)
        seen = self.totals.boots[-1]
        seen.append(watch.look_settled(vm, rss))
        self.say(f"  {self.totals.flushes} flushes, {self.totals.kills} kills; {seen[-1]}")
        watch.check_flat(seen)
        daemon.begin(vm)
        load.go_on()
        return done

    def cut(self, vm: VM) -> None:
        """Cuts the power, half of the time during a flush."""
        self.totals.cuts += 1
        if self.random.random() < 0.5:
            self.totals.cuts_at_work += 1
            vm.run("cowflush flush >/dev/null 2>&1 &").ok()
            time.sleep(self.random.random() * 0.5)
        vm.kill()

    def recovered(self) -> ExtImage:
        """The root that a boot would find, made by the program on the host."""
        root, log, out = (
            self.lab.directory / name for name in ("root.img", "log.img", "recovered.img")
        )
        for image, part in ((root, self.card.root), (log, self.card.log)):
            image.unlink(missing_ok=True)
            sparse.copy_range(self.card.path, image, part.start * SECTOR, 0, part.size * SECTOR)
        out.unlink(missing_ok=True)
        command: list[str | Path] = [
            artefacts.host_cowflush(),
            "recover",
            root,
            log,
            "--export",
            out,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, (
            f"recover ended with {done.returncode}: {done.stderr}{done.stdout}"
        )
        return ExtImage(out)
