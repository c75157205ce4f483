"""Each reason to flush, from end to end: after a power cut exactly what was flushed is there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from harness.lab import Lab
from harness.machine import VM
from product import daemon
from product.daemon import QUIET
from product.router import when_free

BYTES = 150_000
FAILED = 1


class Story:
    """Files that a test writes one after the other, and what a power cut leaves of them."""

    def __init__(self, boot: Lab, log: bool) -> None:
        self.boot, self.log = boot, log
        self.vm: VM = boot()
        self.flushed: dict[str, str] = {}
        self._cuts = 0

    def write(self, path: str) -> None:
        """Writes a file that the next flush must take, and that no cut before it may show."""
        content = hashlib.shake_128(path.encode()).digest(BYTES)
        self.vm.put("/run/new", content)
        # In one step: an immediate flush takes all of it.
        self.vm.run(f"cp /run/new /root/staged && sync && mv /root/staged {path} && sync").ok()
        self.flushed[path] = hashlib.sha256(content).hexdigest()

    def cut(self, missing: str = "") -> None:
        """Cuts the power for a copy of the card, which must have all files but the unflushed one."""
        self._cuts += 1
        self.vm.run("echo late >/root/late; sync").ok()
        card = self.vm.cut_copy(self.boot.directory / f"cut-{self._cuts}.img")
        image = daemon.root_of(card, self.log)
        found = {
            name: digest
            for folder in ("/root", "/etc/trial")
            for name, digest in image.hashes(folder).items()
        }
        self.vm.run("rm /root/late").ok()
        expected = {name: digest for name, digest in self.flushed.items() if name != missing}
        assert found == expected, self.vm.run(f"cat {daemon.SAID}; cowflush history").text


def interval(story: Story) -> None:
    """The interval follows a clock that only runs forward, whatever the wall clock does."""
    vm = story.vm
    daemon.flush(vm)  # the interval counts from here
    story.write("/root/interval")
    vm.run("date -s '1970-01-01 00:00:00'").ok()
    daemon.reconfigure(vm, QUIET.replace("interval=off", "interval=2s"))
    daemon.wait_for(vm, "flushed (interval)")
    story.cut()
    daemon.reconfigure(vm, QUIET.replace("interval=off", "interval=1h"))
    before = daemon.said(vm).count("flushed (interval)")
    # Several checks later it has still not come.
    vm.run("date -s '2037-06-01 12:00:00'; sleep 2").ok()
    assert daemon.said(vm).count("flushed (interval)") == before
    daemon.reconfigure(vm, QUIET)


def time_of_day(story: Story) -> None:
    vm = story.vm
    daemon.reconfigure(vm, QUIET + "at=03:29\n")
    story.write("/root/night")
    vm.run("date -s '2026-01-01 03:28:57'").ok()
    daemon.wait_for(vm, "flushed (at 03:29)")
    story.cut()


def urgent(story: Story) -> None:
    vm = story.vm
    daemon.reconfigure(vm, QUIET.replace("urgent=none", "urgent=/etc") + "urgent-delay=500ms\n")
    story.write("/etc/trial/urgent")
    daemon.wait_for(vm, "flushed (urgent)")
    story.cut()


def asked(story: Story) -> None:
    story.write("/root/asked")
    daemon.signal(story.vm, "USR1")
    daemon.wait_for(story.vm, "flushed (asked)")
    story.cut()


def held_and_released(story: Story) -> None:
    """During a hold not even urgent files reach the card; after the release they do."""
    vm = story.vm
    before = daemon.wait_for(vm, "flushed").count("flushed (urgent)")
    when_free(vm, "hold").ok()
    still = vm.card_stats()
    story.write("/etc/trial/released")
    vm.run("sleep 2").ok()
    assert (vm.card_stats() - still).wr_operations == 0
    story.cut(missing="/etc/trial/released")
    when_free(vm, "release").ok()
    daemon.wait_for(vm, "flushed (urgent)", before + 1)
    story.cut()


def held_and_kept(story: Story) -> None:
    vm = story.vm
    before = daemon.wait_for(vm, "flushed").count("flushed (urgent)")
    daemon.reconfigure(vm, QUIET)  # which is itself a change under /etc
    daemon.wait_for(vm, "flushed (urgent)", before + 1)
    when_free(vm, "hold").ok()
    story.write("/etc/trial/kept")
    vm.run("sleep 1").ok()
    assert "nothing may reach the card" in vm.run("cowflush stop").exits(FAILED).text
    story.cut(missing="/etc/trial/kept")
    daemon.flush(vm)
    assert "nothing was held" in when_free(vm, "release").ok().text
    story.cut()


def held_and_discarded(story: Story) -> None:
    """The guest reboots by itself; then the card shows nothing of the trial."""
    vm = story.vm
    when_free(vm, "hold").ok()
    vm.run(
        "echo trial >/etc/trial/discarded; rm /etc/trial/kept; echo changed >/root/asked; sync"
    ).ok()
    assert vm.run_last("cowflush discard --now", timeout=30) == "guest-reset"
    story.vm = again = story.boot(vm.card)
    daemon.start(again, QUIET)
    sums = "".join(f"{digest}  {name}\n" for name, digest in story.flushed.items())
    again.put("/run/sums", sums.encode())
    assert again.run("sha256sum -c /run/sums").ok().text.count(": OK") == len(story.flushed)
    again.run("[ ! -e /etc/trial/discarded ]").ok()
    story.cut()


STEPS: list[Callable[[Story], None]] = [
    interval, time_of_day, urgent, asked, held_and_released, held_and_kept, held_and_discarded,
]  # fmt: skip


def tell(boot: Lab, log: bool) -> None:
    story = Story(boot, log)
    story.vm.run("mkdir /etc/trial; : >/root/first; : >/etc/trial/first").ok()
    empty = hashlib.sha256(b"").hexdigest()
    story.flushed = {"/root/first": empty, "/etc/trial/first": empty}
    daemon.start(story.vm, QUIET, log)
    story.cut()
    for step in STEPS:
        step(story)
    story.vm.kill()
    story.vm.card.fsck()


def test_every_reason_across_a_power_cut(boot: Lab) -> None:
    tell(boot, log=True)


@pytest.mark.thorough
def test_every_reason_across_a_power_cut_without_a_log(boot: Lab) -> None:
    tell(boot, log=False)
