"""Power cuts in stops, merges, --direct, boots that merge or repair, offline work, and errors.

Each runs in one recorded guest. The tests judge all states that a cut may leave its card in by the
promises of the table in docs/use/power-cut.md, and look for each FLUSH in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import Card, Drive, Filesystem, Throttle, artefacts, ext
from harness.lab import Lab
from powercut import order, run, tree
from powercut.judge import Judge, Outcome, Verdict
from powercut.medium import Medium, rebuild
from powercut.recording import (
    CARD,
    Load,
    Recorder,
    Recording,
    marks,
    prepare,
    put_state,
    recorder,
)
from powercut.states import Arrived, State
from powercut.ways import DAMAGED, FILLED, LOG, LOG_START, NO_LOG, ROOT_START
from product import daemon, flushlog, workload

SEED = 1
FLUSHES = 4
# Few enough for blkdebug to fail each of them
SOME = 1024


def judged(judge: Judge, drawn: int = 40) -> list[Verdict]:
    verdicts = run.judged(judge, run.states(judge, drawn, SEED), print)
    print(run.describe(judge), run.table(verdicts), sep="\n")
    return verdicts


def check(verdicts: list[Verdict]) -> None:
    assert all(verdict.good for verdict in verdicts), run.failures(verdicts)


def check_order(judge: Judge, name: str, pattern: str) -> None:
    found = order.word(judge.entries, judge.window(name))
    assert order.complaint(pattern, found) == "", name


# --- what a running system does ---------------------------------------------


@pytest.mark.thorough
def test_a_cut_in_a_merge_by_hand_or_between_direct_flushes_does_no_harm(boot: Lab) -> None:
    """`flush --direct` promises nothing while it merges: root is then a mix of two states."""
    made = recorder(boot, LOG, 4)
    direct = "cowflush flush --direct"
    for command in ("cowflush flush", "cowflush flush", direct, "cowflush flush"):
        made.change()
        made.flush(command)
    made.run("cowflush merge")
    judge = Judge(made.end(), LOG.recover)
    verdicts = judged(judge)

    # First it merges the log, and a cut there is as harmless as in any merge.
    window = judge.window(direct)
    emptied = window.start + max(
        place
        for place, entry in enumerate(judge.entries[window.start : window.stop - 1])
        if entry.sector == LOG_START
    )
    torn = [v for v in verdicts if v.state.seen > emptied + 2 and v.state.seen in window]
    check([verdict for verdict in verdicts if verdict not in torn])
    outcomes = [verdict.outcome for verdict in torn]
    print(
        f"{len(torn)} cuts while it merged without the log, {outcomes.count(Outcome.TORN)} tore root"
    )
    assert Outcome.TORN in outcomes, "a --direct that can't tear root is more than is promised"
    assert {Outcome.TORN, Outcome.NEXT, Outcome.REPORTED} >= set(outcomes), run.failures(torn)
    mixed(judge, [verdict.state for verdict in torn], 2, 3)

    check_order(judge, "cowflush flush", order.APPEND)
    check_order(judge, "cowflush merge", order.MERGE)
    check_order(judge, direct, order.MERGE + order.DIRECT)
    grown(boot, judge)


def mixed(judge: Judge, states: list[State], before: int, after: int) -> None:
    """Checks that each sector of root is as in one of two states."""
    with judge.recording.state(before) as one, judge.recording.state(after) as other:
        old, new = one.path.read_bytes(), other.path.read_bytes()
    medium = Medium(judge.recording.directory, judge.recording.blank, judge.entries)
    for state in sorted(states, key=lambda state: state.start):
        with medium.after(state):
            found = LOG.recover(medium.files).read_bytes()
        wrong = [
            at
            for at in range(0, len(found), 512)
            if found[at : at + 512] not in (old[at : at + 512], new[at : at + 512])
        ]
        assert not wrong, f"{state}: bytes {wrong[:5]} of root are of neither state"


def grown(boot: Lab, judge: Judge) -> None:
    """A merge that was cut when half of it had arrived; the log then grows, and is cut again."""
    merging = judge.window("cowflush merge")
    inside = [
        state
        for state in judge.cuts.drawn(400, SEED)
        if state.seen in merging and len(state.arrived) > 2
    ]
    assert inside, "no cut was drawn inside the merge"
    card = rebuild(boot.directory / "cut.img", judge.recording.blank, judge.entries, inside[0])
    made = recorder(boot, LOG, 2, card, "grown", judge.truths[-1])
    for _ in range(2):
        made.change()
        made.flush()
    check(judged(Judge(made.end(), LOG.recover)))


STOP = "cowflush stop"


def stopped(boot: Lab, busy: bool) -> tuple[Judge, range]:
    """A recorded stop, and the cuts in its last step; if `busy`, two programs write meanwhile."""
    made = recorder(boot, LOG, 2)
    load = Load(made) if busy else None
    for command in ("cowflush flush", STOP):
        if load:
            load.scatter()
        else:
            made.change()
        made.flush(command, read=command != STOP)
    if load:
        load.stop()
    judge = Judge(made.end(), LOG.recover, mounted=True)
    window = judge.window(STOP)
    # Once the log is empty for good, writes go to root past it.
    emptied = max(n for n in window if judge.entries[n - 1].sector == LOG_START)
    return judge, range(emptied + 1, window.stop)


# The last FLUSH finds nothing to do when no process writes any more, and QEMU does not pass such a
# FLUSH on.
STEPS = f"(?:(?:{order.APPEND})+{order.MERGE})+"


@pytest.mark.thorough
def test_a_cut_in_a_stop_of_a_quiet_system_does_no_harm(boot: Lab) -> None:
    """A cut between the superblock's two sectors, which a freeze changes, is harmless, too.

    All that the stop writes is in the log first, and only programs write past it.
    """
    judge, last = stopped(boot, busy=False)
    check(judged(judge))
    check_order(judge, STOP, f"{STEPS}F*")
    past = [n for n in last if judge.entries[n - 1].sector == ROOT_START]
    assert not past, "the superblock was written past the log"
    torn = [
        State(f"torn {n} {half}", index, epoch.start, n + 1, (Arrived(n, half),))
        for index, epoch in enumerate(judge.cuts.epochs)
        for n in range(epoch.start, epoch.stop)
        if n + 1 in judge.window(STOP) and judge.entries[n].sector == ROOT_START
        for half in ((0, 1, 2), (3, 4, 5, 6, 7))
    ]
    assert torn, "the stop has not written the superblock"
    check(run.judged(judge, torn, print))


@pytest.mark.thorough
def test_what_is_written_through_is_flushed_by_a_stop_and_by_a_flush_after_it(boot: Lab) -> None:
    """ext2 itself sends no FLUSH when it is synced."""
    made = recorder(boot, NO_LOG, 0, boot.card(Filesystem("ext2"), NO_LOG.partitions))
    made.change()
    made.run(STOP)
    made.change()
    made.run("cowflush flush")
    judge = Judge(made.end(), NO_LOG.recover, mounted=True)
    for command in (STOP, "cowflush flush"):
        check_order(judge, command, "r[rF]*F")


@pytest.mark.thorough
def test_a_cut_in_a_stop_under_load_does_no_harm(boot: Lab) -> None:
    """Finally programs that go on write to root directly, as on any system."""
    judge, last = stopped(boot, busy=True)
    written = sum(len(entry.data) for entry in judge.entries[last.start : last.stop])
    print(f"{written >> 10} KiB came to the card between the log's end and the command's")
    verdicts = judged(judge)
    check(verdicts)
    assert [verdict for verdict in verdicts if verdict.state.seen in last]
    check_order(judge, STOP, f"{STEPS}[rF]*")


@pytest.mark.thorough
def test_a_cut_after_a_flush_that_failed_and_was_tried_again_does_no_harm(boot: Lab) -> None:
    """A write to the log fails, a FLUSH fails, a merge fails; each is done again."""
    made = recorder(boot, LOG, 3)
    vm = made.vm
    made.change()
    made.flush(read=False)

    made.change()
    vm.fail_writes(range(LOG_START + 8, LOG_START + 8 + SOME))
    made.look()
    made.run("cowflush flush", 2, code=5)
    vm.heal()
    made.flush(read=False)

    made.change()
    vm.fail_flush()
    made.look()
    made.run("cowflush flush", 3, code=5)
    vm.heal()
    made.flush(read=False)

    vm.fail_writes(range(ROOT_START, ROOT_START + SOME))
    made.run("cowflush merge", code=5)
    vm.heal()
    made.run("cowflush merge")
    check(judged(Judge(made.end(), LOG.recover, mounted=True)))


@pytest.mark.thorough
def test_a_merge_that_fills_gaps_writes_nothing_to_the_log_but_its_header(boot: Lab) -> None:
    """The kernel must not find the log's own table on a second snapshot when a merge begins.

    It would save the gaps' old content on the log, after its last data.
    """
    made = recorder(boot, FILLED, 1)
    made.change()
    made.flush()
    made.run("cowflush merge")
    judge = Judge(made.end(), FILLED.recover)
    check(judged(judge))
    check_order(judge, "cowflush merge", order.MERGE)


# Fills the COW, in the writers' folder, under names that no round has, so that no check reads them.
FILL = f"n=0; while :; do n=$(((n + 1) % 24)); head -c 262144 /dev/urandom >{workload.FOLDER}/$n.new || exit; done"
# Nothing throttles it once the daemon has ended.
FILL_SLOWLY = FILL.replace("262144", "32768").replace("|| exit", "|| exit; usleep 20000")


def flushed_twice(boot: Lab, **options: Any) -> Recorder:
    """A recorder with two flushes in the log, a small COW and the daemon at work."""
    made = recorder(boot, LOG, 3, memory=128, **options)
    made.vm.put("/etc/cowflush.conf", (daemon.QUIET + "size=4M\n").encode())
    made.vm.run(f"mkdir {workload.FOLDER}").ok()
    for _ in range(2):
        made.change()
        made.flush(read=False)
    daemon.begin(made.vm)
    return made


def judged_to_the_end(made: Recorder) -> Judge:
    """Judges: no cut is older than the last flush that had returned, nor a mix."""
    judge = Judge(made.end(), LOG.recover, mounted=True)
    # Each state is mounted, as it were, and there are many.
    verdicts = run.judged(judge, run.states(judge, 30, SEED, directed=4), print)
    print(run.describe(judge), run.table(verdicts), sep="\n")
    check(verdicts)
    return judge


@pytest.mark.thorough
def test_a_cut_around_a_last_resort_does_no_harm(boot: Lab) -> None:
    """The card refuses writes until a last resort has failed, then works again but for one FLUSH.

    So the next last resort follows a failed flush at once, and succeeds, with a writer at work.
    """
    made = flushed_twice(boot)
    vm = made.vm
    vm.fail_writes()
    writer = vm.start(FILL)
    vm.wait_console("the last resort failed", timeout=180)
    vm.heal()
    vm.fail_flush()
    daemon.wait_for(vm, "writes go straight to the card from now on", timeout=180)
    vm.heal()
    flushes = range(max(mark.entry for mark in marks(made.recording.entries())))
    vm.until(f"[ -e {workload.FOLDER}/23.new ] && sync", timeout=60)
    writer.kill()
    judge = judged_to_the_end(made)
    received = range(flushes.stop, len(judge.entries))
    found = order.word(judge.entries, received)
    # The last resort's own append and merge, and then what programs write.
    assert {"c", "h", "r"} <= set(found), found
    # Had it emptied the log before root was durable, some cut would do harm, and the judge would
    # notice.
    less, states = judge.without(order.flush_between(judge.entries, "r", "H"))
    assert not all(verdict.good for verdict in run.judged(less, states, print))


@pytest.mark.thorough
def test_a_cut_around_a_daemon_that_is_ended_in_a_flush_for_room_does_no_harm(boot: Lab) -> None:
    """The card is healthy and slow, a writer is at work, and a stop follows."""
    made = flushed_twice(boot, throttle=Throttle())
    vm = made.vm
    vm.throttle(Throttle(bytes_per_second=200_000))
    writer = vm.start(FILL_SLOWLY)
    sealed = "grep -qx cowflush-sealed /sys/block/dm-*/dm/name 2>/dev/null"
    vm.until(sealed, timeout=60)
    pid = daemon.field(vm, "Pid")
    daemon.signal(vm, "TERM")
    vm.until(f"! kill -0 {pid} 2>/dev/null", timeout=120)
    vm.run(sealed).ok()
    vm.throttle(Throttle())
    made.change()
    made.flush(STOP, read=False)
    writer.kill()
    judged_to_the_end(made)


# --- what works on a log without a stack ---------------------------------------


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recording]:
    """A card with four flushes in its log, after a power cut, and root's state after each."""
    lab = Lab(artefacts.LOGS / f"power_cut_commands-{tmp_path_factory.getbasetemp().name}")
    made = recorder(lab, LOG, FLUSHES)
    for _ in range(FLUSHES):
        made.change()
        made.flush()
    yield made.end()
    lab.end(keep_images=False)


def used_card(used: Recording, path: Path) -> Card:
    return Card(used.directory / CARD).copy(path)


def check_boot(judge: Judge, pattern: str) -> None:
    """Checks a boot's writes before its first command: cuts don't change root, FLUSHes are there."""
    begun = judge.marks[0].entry if judge.marks else len(judge.entries)
    found = order.word(judge.entries, range(begun + 1))
    assert order.complaint(pattern, found) == ""
    check(judged(judge))


def test_a_cut_in_a_boot_with_cowflush_off_does_no_harm(boot: Lab, used: Recording) -> None:
    """The boot copies the log into root without device-mapper, before it mounts root."""
    truth = used.truths()[FLUSHES]
    recording = prepare(
        boot.directory / "off", LOG, used_card(used, boot.directory / "used.img"), 0, truth
    )
    card = recording.blank.copy(recording.directory / CARD)
    vm = boot(card, rw=False, append="cowflush=off", write_log=recording.log)
    assert tree.complaint(tree.in_guest(vm), truth) == ""
    vm.kill()
    check_boot(Judge(recording, LOG.recover), order.MERGE)


def test_a_cut_in_a_boot_that_mends_a_damaged_log_does_no_harm(boot: Lab, used: Recording) -> None:
    """The boot appends an empty segment, so that the two lost flushes never count again."""
    card = used_card(used, boot.directory / "used.img")
    segments = flushlog.FlushLog(card).segments
    assert len(segments) == FLUSHES
    flushlog.flip(card, next(place for place in segments[2].places if place in set(live(card))))
    recording = prepare(boot.directory / "damaged", DAMAGED, card, 1, used.truths()[2])
    card = recording.blank.copy(recording.directory / CARD)
    vm = boot(card, write_log=recording.log, drives=[Drive(recording.states)], rw=False)
    made = Recorder(vm, recording)
    made.vm.run("mount -o remount,rw /").ok()
    made.change()
    made.flush()
    judge = Judge(made.end(), DAMAGED.recover)
    check_boot(judge, order.APPEND + order.COUNTED)
    check_order(judge, "cowflush flush", order.APPEND)
    outcomes = {verdict.outcome for verdict in run.judged(judge, judge.cuts.boundaries(), print)}
    assert outcomes == {Outcome.REPORTED, Outcome.NEXT}


def live(card: Card) -> list[int]:
    return list(flushlog.FlushLog(card).live().values())


@pytest.mark.thorough
def test_a_cut_in_recover_or_log_format_leaves_one_state_or_the_other(
    boot: Lab, used: Recording
) -> None:
    """A guest whose root is elsewhere merges one disk's log and makes the other's anew."""
    truths = used.truths()
    merged = prepare(
        boot.directory / "merged",
        LOG,
        used_card(used, boot.directory / "1.img"),
        0,
        truths[FLUSHES],
    )
    anew = prepare(
        boot.directory / "anew", LOG, used_card(used, boot.directory / "2.img"), 1, truths[FLUSHES]
    )
    # Root without its log
    root = Medium(boot.directory, anew.blank, []).files[0]
    put_state(anew, 1, root)
    tree.on_card(ext.ExtImage(root)).save(anew.truth_at(1))

    cards = [made.blank.copy(made.directory / CARD) for made in (merged, anew)]
    logs = (merged.log, anew.log)
    drives = [Drive(card.path, write_log=log) for card, log in zip(cards, logs, strict=True)]
    other = Filesystem(uuid="c0f1a5b0-5eed-4c0f-8a5b-0000000000ff")
    vm = boot(filesystem=other, root="/dev/sda1", drives=drives)
    recover = "cowflush recover /dev/sdb1 /dev/sdb2 --merge"
    Recorder(vm, merged, "/dev/sdb").run(recover)
    form = "cowflush log format /dev/sdc2 --root /dev/sdc1 --over cowflush-log"
    formatting = Recorder(vm, anew, "/dev/sdc")
    formatting.run(form, 1)
    vm.kill()

    judge = Judge(merged, LOG.recover)
    check(judged(judge))
    check_order(judge, recover, order.MERGE)
    judge = Judge(anew, LOG.recover)
    check(judged(judge))
    check_order(judge, form, order.HEADER)
