"""A damaged flush log: what is whole counts, losses are reported, and what is cut off stays so.

The test damages the card from outside between two boots. The boot, the program on the host, and the
second reader in product/flushlog.py then say what counts; they must agree byte for byte.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness import Card
from harness.lab import Lab
from harness.machine import VM
from product import flushlog, logged
from product.flushlog import CHUNK, FlushLog

LOST = 7
NEWER = 9
FLUSHES = 4
IN_TABLE = 512 + 5  # a byte in a segment's table


@pytest.fixture(scope="session")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Card]]:
    """A card with a log, as it was after each of some flushes."""
    lab = Lab(tmp_path_factory.mktemp("damage"))
    vm = logged.start(lab)
    made = []
    for number in range(1, FLUSHES + 1):
        logged.flush(vm, number)
        vm.pause()
        made.append(vm.card.copy(lab.directory / f"after-{number}.img"))
        vm.cont()
    vm.kill()
    yield made
    lab.end(keep_images=False)


@pytest.fixture
def card(cards: list[Card], boot: Lab) -> Card:
    """The card after all flushes, to be damaged."""
    return cards[-1].copy(boot.directory / "card.img")


def own_data(log: FlushLog, index: int) -> int:
    """A chunk of data of that segment that no younger segment replaces."""
    return max(set(log.segments[index].places) & set(log.live().values()))


def replaced_data(log: FlushLog, index: int) -> int:
    return max(set(log.segments[index].places) - set(log.live().values()))


def blank(card: Card, *chunks: int) -> None:
    for chunk in chunks:
        flushlog.write(card, chunk, bytes(CHUNK))


def flip_head(card: Card, log: FlushLog) -> int:
    flushlog.flip(card, log.segments[2].head, 100)
    return log.segments[2].head


def flip_table(card: Card, log: FlushLog) -> int:
    flushlog.flip(card, log.segments[1].head, IN_TABLE, 3)
    return log.segments[1].head


def flip_data(card: Card, log: FlushLog) -> int:
    flushlog.flip(card, own_data(log, 2), 4000, 7)
    return own_data(log, 2)


def flip_first_data(card: Card, log: FlushLog) -> int:
    flushlog.flip(card, own_data(log, 0))
    return own_data(log, 0)


def lose_data(card: Card, log: FlushLog) -> int:
    """Loses data, as after a FLUSH that the card ignored: the commit record is there."""
    last = log.segments[-1]
    blank(card, *last.places)
    return min(last.places)


def lose_all_but_the_commit(card: Card, log: FlushLog) -> int:
    """Loses data likewise, with something else in the segment's place."""
    last = log.segments[-1]
    for chunk in (last.head, *last.places):
        flushlog.write(card, chunk, b"\xff" * CHUNK)
    return last.head


@dataclass(frozen=True)
class Lossy:
    """Damage that loses flushes."""

    damage: Callable[[Card, FlushLog], int]
    what: str
    counts: int


LOSSY = [
    Lossy(flip_head, "a segment's head or table", 2),
    Lossy(flip_table, "a segment's head or table", 1),
    Lossy(flip_data, "a segment's data", 2),
    Lossy(flip_first_data, "a segment's data", 0),
    Lossy(lose_data, "a segment's data", 3),
    Lossy(lose_all_but_the_commit, "a segment's head or table", 3),
]
# A bit that rots, and a card that lied about a FLUSH
MOST_TELLING = (flip_data, lose_data)


def recover(card: Card, code: int, tmp: Path) -> dict[str, Any]:
    """What `cowflush recover` reports, after a check that its result is the second reader's."""
    root, log = logged.images(card)
    done = logged.host("recover", root, log, "--export", tmp / "export.img", "--json")
    assert done.returncode == code, done.stderr
    assert filecmp.cmp(tmp / "export.img", flushlog.recovered(card).path, shallow=False)
    (tmp / "export.img").unlink()
    found: dict[str, Any] = json.loads(done.stdout)
    assert [segment["sequence"] for segment in found["segments"]] == FlushLog(card).sequences
    return found


def check_seen(vm: VM, log: FlushLog) -> None:
    """Checks that the kernel shows every chunk of root in the log as the second reader does."""
    live = log.live()
    expected = hashlib.sha256(b"".join(log.chunk(live[old]) for old in sorted(live)))
    olds = " ".join(map(str, sorted(live)))
    script = f"""
    for dm in /sys/block/dm-*; do [ "$(cat $dm/dm/name)" = cowflush-logged ] && break; done
    for old in {olds}; do dd if=/dev/${{dm##*/}} bs={CHUNK} skip=$old count=1 2>/dev/null || exit; done | sha256sum
    """
    assert vm.run(script).ok().text.split()[0] == expected.hexdigest()


def go_on(vm: VM, boot: Lab, counts: int) -> None:
    """Checks that flushing goes on, and that what was cut off never counts again."""
    logged.check_state(vm, counts)
    assert "to the log on sda2" in logged.flush(vm, counts + 1)
    vm.kill()
    logged.check_card(vm.card, counts + 1)
    assert recover(vm.card, 0, boot.directory)["end"] == "clean"


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case.damage in MOST_TELLING else pytest.mark.thorough)
        for case in LOSSY
    ],
    ids=lambda case: case.damage.__name__,
)
def test_what_is_lost_is_told(boot: Lab, card: Card, case: Lossy) -> None:
    chunk = case.damage(card, FlushLog(card))
    counts = f"flush {case.counts}" if case.counts else "the last merge"
    sentence = f"is damaged ({case.what} at chunk {chunk}): flushes up to {FLUSHES} are lost, and what counts is {counts}"
    found = recover(card, LOST, boot.directory)
    assert (found["fit"], found["end"]) == ("fits", "damaged")
    root, log = logged.images(card)
    assert f"LOST: the flush log on {log} {sentence}" in logged.host("recover", root, log).stdout
    after = FlushLog(card)
    assert after.sequences == list(range(1, case.counts + 1))

    vm = boot(card)
    assert f"the flush log on /dev/sda2 {sentence}." in logged.said(vm)
    assert sentence in vm.get("/run/cowflush/boot").decode()
    if case.counts:
        check_seen(vm, after)
        go_on(vm, boot, case.counts)
    else:
        vm.run(f"[ ! -e {logged.STATE} ]").ok()
        logged.flush(vm, 1)
        vm.kill()
        logged.check_card(card, 1)
    assert FlushLog(card).youngest > FLUSHES


def test_a_second_boot_does_not_apply_what_was_cut_off(boot: Lab, card: Card) -> None:
    """What was cut off stays so even if it is whole again, as after a read that failed once."""
    whole, third = FlushLog(card), FlushLog(card).segments[2]
    place = own_data(whole, 2)
    flushlog.flip(card, place)
    boot(card).kill()
    assert third.sequence not in FlushLog(card).sequences
    flushlog.write(card, place, whole.chunk(place))
    vm = boot(card)
    assert "is damaged" not in logged.said(vm)
    go_on(vm, boot, 2)
    vm = boot(card)
    logged.check_state(vm, 3)


# --- damage that costs nothing --------------------------------------------------------


def flip_replaced_data(card: Card, log: FlushLog) -> None:
    flushlog.flip(card, replaced_data(log, 0), 77)


def flip_last_commit(card: Card, log: FlushLog) -> None:
    flushlog.flip(card, log.segments[-1].commit, 20)


def flip_middle_commit(card: Card, log: FlushLog) -> None:
    flushlog.flip(card, log.segments[1].commit, 20)


@pytest.mark.parametrize(
    "damage",
    [
        flip_last_commit,
        pytest.param(flip_replaced_data, marks=pytest.mark.thorough),
        pytest.param(flip_middle_commit, marks=pytest.mark.thorough),
    ],
)
def test_damage_that_costs_nothing(
    boot: Lab, card: Card, damage: Callable[[Card, FlushLog], None]
) -> None:
    damage(card, FlushLog(card))
    uncommitted = damage is flip_last_commit
    assert recover(card, 0, boot.directory)["end"] == ("torn" if uncommitted else "clean")
    vm = boot(card)
    assert "is damaged" not in logged.said(vm)
    news = "in the flush log on sda2 the last flush was cut short after it had written everything: it counts."
    assert (news in logged.said(vm)) is uncommitted
    report = logged.report(vm)
    complete = [
        segment["sequence"] for segment in report["segments"] if segment["state"] == "complete"
    ]
    without_commit: dict[Callable[[Card, FlushLog], None], list[int]] = {
        flip_last_commit: [FLUSHES],
        flip_middle_commit: [2],
    }
    assert complete == without_commit.get(damage, [])
    verified = vm.run("cowflush log --verify")
    if damage is flip_replaced_data:
        assert re.search(r"DAMAGED +the data at chunk \d+", verified.exits(LOST).text)
    else:
        verified.ok()
    check_seen(vm, FlushLog(card))
    go_on(vm, boot, FLUSHES)


def test_a_flush_that_was_cut_short(boot: Lab, card: Card) -> None:
    last = FlushLog(card).segments[-1]
    blank(card, last.places[-1], last.commit)
    found = recover(card, 0, boot.directory)
    assert (found["end"], len(found["segments"])) == ("torn", FLUSHES - 1)
    vm = boot(card)
    assert (
        "in the flush log on sda2 the last flush was cut short: what counts is the one before."
        in logged.said(vm)
    )
    assert logged.report(vm)["end"] == "torn"
    check_seen(vm, FlushLog(card))
    go_on(vm, boot, FLUSHES - 1)


# --- the header ------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("copy", [0, -1])
def test_one_copy_of_the_header(boot: Lab, card: Card, copy: int) -> None:
    chunk = copy % (card.log.size * 512 // CHUNK)
    flushlog.flip(card, chunk, 30)
    recover(card, 0, boot.directory)
    vm = boot(card)
    assert (
        "one copy of the header of the log on sda2 is damaged or can't be read; the next merge mends it."
        in logged.said(vm)
    )
    assert logged.report(vm)["header_whole"] is False
    assert "DAMAGED" in vm.run("cowflush log").ok().text
    logged.check_state(vm, FLUSHES)
    # A merge repairs it.
    vm.run("cowflush merge", timeout=60).ok()
    assert logged.report(vm)["header_whole"] is True
    logged.flush(vm, FLUSHES + 1)
    vm.kill()
    assert FlushLog(card).whole
    logged.check_card(card, FLUSHES + 1)


def both(card: Card, change: Callable[[int], None]) -> None:
    for chunk in (0, card.log.size * 512 // CHUNK - 1):
        change(chunk)


def damage_both_headers(card: Card) -> str:
    both(card, lambda chunk: flushlog.flip(card, chunk, 30))
    return "both copies of the log's header are damaged"


def make_it_newer(card: Card) -> str:
    """Makes the header as a later version of this program would write it."""
    header = bytearray(FlushLog(card).chunk(0)[:512])
    header[8:16] = bytes([2, 0, 0, 0, 0, 0, 0, 0])
    header[12:16] = flushlog.crc32c(bytes(header)).to_bytes(4, "little")
    both(card, lambda chunk: flushlog.write(card, chunk, bytes(header)))
    return "its log has format 2, and this program knows none above 1"


def cut_the_partition(card: Card) -> str:
    """Shrinks the partition, as a tool would that did not know what was on it."""
    with open(card.path, "r+b") as image:
        image.seek(446 + 16 + 12)
        image.write((card.log.size // 2).to_bytes(4, "little"))
    return f"the log has {card.log.size // 8} chunks of 4096 bytes, but the partition has only {card.log.size // 16}"


# How the log was found does not matter for why it can't be read.
@pytest.mark.parametrize(
    ("damage", "append"),
    [
        (damage_both_headers, ""),
        pytest.param(damage_both_headers, "cowflush.log=/dev/sda2", marks=pytest.mark.thorough),
        pytest.param(cut_the_partition, "", marks=pytest.mark.thorough),
    ],
    ids=["damaged-found", "damaged-named", "cut-found"],
)
def test_a_log_that_cannot_be_read(
    boot: Lab, card: Card, damage: Callable[[Card], str], append: str
) -> None:
    """Such a log may hold flushes, so cowflush never silently ignores it."""
    why = damage(card)
    vm = boot(card, append=append)
    assert f"cannot use /dev/sda2 as the flush log: {why}" in logged.said(vm)
    assert why in vm.run("cowflush status").ok().text
    assert why in json.loads(vm.run("cowflush status --json").ok().output)["log_kept"]
    assert why in vm.run("cowflush log").exits(LOST).text
    # Root is the plain card, as the last merge left it, and works.
    vm.run(f"[ ! -e {logged.STATE} ]").ok()
    # A flush would make the log's flushes useless, if there are any.
    waits = vm.run("echo x >/root/x; cowflush flush", timeout=60).exits(1).text
    assert "the owner's word about the flush log is waited for" in waits
    # The messages' advice.
    vm.run("cowflush release; cowflush flush", timeout=60).ok()
    refused = vm.run("cowflush log format /dev/sda2").exits(2).text
    assert "--over cowflush-log" in refused, refused
    vm.run("cowflush log format /dev/sda2 --over cowflush-log").ok()
    assert "to the log on sda2" in logged.flush(vm, 1)
    vm.kill()
    assert Card(card.path).read("/root/x") == b"x\n"


def test_recover_says_why_it_can_not(boot: Lab, card: Card) -> None:
    root, log = logged.images(card)
    whole = log.read_bytes()
    for damage, code in ((damage_both_headers, LOST), (make_it_newer, NEWER)):
        worse = card.copy(boot.directory / "worse.img")
        why = damage(worse)
        done = logged.host("recover", *logged.images(worse))
        assert done.returncode == code and f"as the flush log: {why}" in done.stderr, done.stderr
    log.write_bytes(whole[: len(whole) // 2])
    done = logged.host("recover", root, log, "--merge")
    assert done.returncode == LOST and "but the partition has only" in done.stderr, done.stderr
    log.write_bytes(whole)
    assert logged.host("recover", root, log, "--merge").returncode == 0
    assert filecmp.cmp(root, flushlog.recovered(card).path, shallow=False)
