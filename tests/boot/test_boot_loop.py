"""A loop of boots that crash or hang on the stack ends, and each boot costs the card one sector."""

from __future__ import annotations

import pytest

from harness import Card
from harness.boot import HURRIED, NO_LONG_JUMP
from harness.lab import Lab
from harness.sparse import SECTOR
from product import daemon, logged
from product.flushlog import CHUNK, TRIES_AT, FlushLog
from product.router import status

ON_THE_STACK = "root is cowflush-root over sda1"
ENDED = "3 boots in a row on the stack ended without a flush, the last one within 3 minutes"
NOT_ACTIVE = 3


def crash(boot: Lab, card: Card) -> None:
    """A boot that ends before anything runs on root: the card receives one sector and no FLUSH."""
    vm = boot(card, wait=False)
    vm.wait_console(ON_THE_STACK)
    got = vm.card_stats()
    assert (got.wr_operations, got.wr_bytes, got.flush_operations) == (1, SECTOR, 0)
    vm.kill()


def tries(card: Card) -> int:
    return FlushLog(card).tries


def test_after_three_boots_that_crash_the_next_is_plain_and_the_one_after_it_is_not(
    boot: Lab,
) -> None:
    card = logged.made(boot.card(), 1)
    crash(boot, card)
    # The power fails while the second boot writes that sector.
    with open(card.path, "r+b") as image:
        image.seek(card.log.sectors.stop * SECTOR - CHUNK + TRIES_AT + 100)
        image.write(b"torn")
    assert tries(card) == 0
    for count in (2, 3):
        crash(boot, card)
        assert tries(card) == count

    vm = boot(card)
    said = logged.said(vm)
    assert (
        f"{ENDED}: this one is without it, the next is on it again (on it each time: cowflush=always)."
        in said
    )
    assert "root is the plain card sda1 (rw), since it has no stack: writes go to it." in said
    text = vm.run("cowflush status").exits(NOT_ACTIVE).text
    assert f"plain {ENDED}" in text
    # This boot applies the log.
    logged.check_state(vm, 1)
    vm.kill()
    logged.check_root(card.fs(replay=True), 1)
    assert FlushLog(card).segments == [] and tries(card) == 0

    vm = boot(card)
    assert ON_THE_STACK in logged.said(vm) and status(vm)["mode"] == "deferring"
    assert tries(vm.cut_copy(boot.directory / "then.img")) == 1
    # A flush counts as a running system, and needs no write of its own for that.
    logged.flush(vm, 2)
    assert tries(vm.cut_copy(boot.directory / "flushed.img")) == 0
    vm.kill()


@pytest.mark.thorough
def test_a_system_that_runs_and_never_flushes_is_no_loop(boot: Lab) -> None:
    """A machine whose plug is pulled each time before its first flush."""
    card = logged.made(boot.card(), 1)
    for _ in range(2):
        crash(boot, card)
    vm = boot(card, append=f"{NO_LONG_JUMP} cowflush.interval=off", **HURRIED)
    before = vm.card_stats()
    daemon.begin(vm)
    vm.until("[ $(cut -d. -f1 /proc/uptime) -gt 185 ]", timeout=120)
    assert tries(vm.cut_copy(boot.directory / "then.img")) == 0
    got = vm.card_stats() - before
    assert (got.wr_operations, got.wr_bytes, got.flush_operations) == (1, SECTOR, 0)
    vm.kill()
    # With `cowflush=always` init uses the stack whatever happened.
    for _ in range(3):
        crash(boot, card)
    vm = boot(card, append="cowflush=always")
    assert ON_THE_STACK in logged.said(vm)
    vm.kill()

    # A system that shuts down in order has come up, even if there is nothing to flush.
    card = logged.made(boot.card(), 0)
    for _ in range(2):
        crash(boot, card)
    vm = boot(card, rw=False)
    vm.run("cowflush stop --shutdown", timeout=60).ok()
    vm.kill()
    assert tries(card) == 0
