"""A router under mixed load for many flushes, with kills and power cuts in between.

Each round boots the same card, lets the daemon and a person flush while files
are replaced and a log grows a numbered line at a time, kills cowflush here and
there, and cuts the power. Then the card is recovered on the host and must hold
everything that a flush had reported, whole. Ends with 1 on any loss, torn file,
leaked device, or memory that grows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from vm import CommandFailed, Lost, artefacts, sparse, workload
from vm.card import Card
from vm.ext import ExtImage
from vm.lab import Lab
from vm.machine import VM
from vm.router import loops, memory
from vm.sparse import SECTOR

RESULTS = artefacts.BUILD / "soak"
LINES = "/root/lines"
# The line is in the file before its number is in /run; so a number seen there is a line written.
APPEND = f"""
n=$(($(wc -l <{LINES} 2>/dev/null || echo 0)))
while :; do n=$((n + 1)); echo "line $n of the log" >>{LINES} && echo $n >/run/n.new && mv /run/n.new /run/n || exit; usleep 20000; done
"""
CONFIG = "interval=7s\nurgent=none\nmerge-on=none\nsize=16M\nmerge=40%\n"
# A settled router has root's COW and perhaps the log's table; a flush under way has one COW more.
MOST_LOOPS = 4


class Soak:
    """What has been seen over all rounds."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self.lab, self.random = lab, Random(seed)
        self.card = lab.card()
        self.flushes = self.cuts = self.kills = 0
        self.shared: list[int] = []

    def round(self, first: bool) -> None:
        vm = self.lab(self.card, memory=128)
        if first:
            vm.run("cowflush log format /dev/sda2").ok()
            vm.put("/etc/cowflush.conf", CONFIG.encode())
        vm.run("cowflush daemon >/run/daemon.log 2>&1 &").ok()
        writer = workload.Writer(vm)
        vm.start(APPEND)
        lines = rounds = 0
        for _ in range(self.random.randint(3, 8)):
            vm.run(f"dd if=/dev/urandom of=/root/bulk bs=64k count={self.random.randint(1, 40)} 2>/dev/null").ok()
            lines_now, rounds_now = int(vm.run("cat /run/n 2>/dev/null || echo 0").ok().text), writer.rounds()
            done = vm.run("cowflush flush", timeout=120)
            if done.code == 0:
                lines, rounds = lines_now, rounds_now
                self.flushes += 1
            elif done.code != 4:  # the daemon is at it
                done.ok()
            if self.random.random() < 0.3:
                self.kills += 1
                vm.run("killall -9 cowflush 2>/dev/null; cowflush daemon >>/run/daemon.log 2>&1 &").ok()
        self.flushes += int(vm.run("grep -c 'flushed (' /run/daemon.log; true").text.split()[0])
        self.look(vm)
        time.sleep(self.random.random())
        vm.kill()
        self.cuts += 1
        self.check(lines, rounds)

    def look(self, vm: VM) -> None:
        attached = loops(vm)
        assert len(attached) <= MOST_LOOPS, f"loop devices leaked: {attached}"
        report = json.loads(vm.run("cowflush status --json").ok().output)
        assert report["phase"] in ("idle", "sealed", "merging", "suspended"), report
        vm.run("until cowflush flush; do sleep 1; done", timeout=120).ok()
        self.shared.append(memory(vm, "Shmem"))

    def check(self, lines: int, rounds: int) -> None:
        root, log, out = (self.lab.directory / name for name in ("root.img", "log.img", "recovered.img"))
        for image, part in ((root, self.card.root), (log, self.card.log)):
            image.unlink(missing_ok=True)
            sparse.copy_range(self.card.path, image, part.start * SECTOR, 0, part.size * SECTOR)
        out.unlink(missing_ok=True)
        command = [artefacts.host_cowflush(), "recover", root, log, "--export", out]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"recover ended with {done.returncode}: {done.stderr}{done.stdout}"
        image = ExtImage(out)
        workload.check(image, rounds)
        found = image.read(LINES).decode().splitlines()
        assert found == [f"line {n} of the log" for n in range(1, len(found) + 1)], "the log has a hole"
        assert len(found) >= lines, f"{lines} lines were flushed, the card has {len(found)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flushes", type=int, default=200, help="at least so many")
    parser.add_argument("--minutes", type=float, default=30, help="but not longer")
    parser.add_argument("--kernel", default=artefacts.KERNELS[0], choices=artefacts.KERNELS)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    soak, begin, good = Soak(Lab(RESULTS, arguments.kernel), arguments.seed), time.monotonic(), True
    try:
        while soak.flushes < arguments.flushes and time.monotonic() - begin < arguments.minutes * 60:
            soak.round(first=soak.cuts == 0)
            print(f"{soak.flushes} flushes, {soak.kills} kills, {soak.cuts} power cuts in {time.monotonic() - begin:.0f} s", flush=True)
        # After a flush little is in RAM, however long it has gone on.
        assert max(soak.shared[-5:]) < 2 * max(soak.shared[:5]) + 4096, f"memory grows: {soak.shared} KiB"
    except (CommandFailed, Lost, AssertionError, artefacts.MissingArtefact) as error:
        print(f"FAILED in round {soak.cuts + 1}: {error}\nThe logs are in {RESULTS}.")
        good = False
    finally:
        soak.lab.end(keep_images=not good)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
