"""System calls that fail, one or two at a time: a command reports it, and the next one works.

Nothing is lost. The calls fail inside the guest, by `guest-tools inject`, which answers in the
kernel's place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from harness.lab import Lab
from harness.outcome import Result
from product import flushlog, logged, workload
from product.router import LOGGED, check_settled, status
from product.sweep import KILLED, SETTLED, TO_RAM

FAILED, CARD = 1, 5
# The injector's exit code when the program made no such call
NEVER_MET = 125
# A test counts the calls by letting one fail that no command gets to.
BEYOND = 100_000
CALLS_MADE = re.compile(
    r"^injected ([^:#=]+(?::[^#=]+)?)#\d+\+?=\w+: (\d+) such calls$", re.MULTILINE
)
# With a log each command reads the whole chain, so it is merged now and then to keep it short.
MERGE_EVERY = 8
# A write ends within this many seconds if it ends at all.
PATIENCE = 20


@dataclass(frozen=True)
class Kind:
    """A kind of call that fails: how, and the command's message."""

    call: str
    errno: str
    says: str
    exits: int = FAILED
    # From that call on all of them fail; else just one.
    lasts: bool = False

    def rule(self, number: int) -> str:
        return f"{self.call}#{number}{'+' if self.lasts else ''}={self.errno}"


UNWRITTEN = Kind("syncfs", "EIO", r"(The filesystem could not write everything out|cannot sync the root filesystem): I/O error\. ")  # fmt: skip
# Every call of these kinds that a command makes fails in turn.
KINDS = [
    Kind("suspend", "EIO", r"^(The filesystem could not be frozen: it has errors, another program froze it, or RAM had no room for what it would have written out|cowflush: cannot suspend cowflush-root: I/O error)\. "),
    *(
        Kind(f"resume:cowflush-{name}", "EIO", rf"cannot (resume|hand root's changes over to) cowflush-{name}: I/O error\. ")
        for name in ("root", "sealed", "logged", "log", "log-view", "view", "origin")
    ),
    Kind("load", "ENOMEM", r"cannot load a table into cowflush-[\w-]+: Out of memory\. "),
    Kind("create", "ENOMEM", r"cannot create cowflush-[\w-]+: Out of memory\. Free some memory"),
    # A command waits for a program that holds the device open for a moment, as udev does; here it
    # stays open.
    Kind("remove", "EBUSY", r"cannot remove cowflush-[\w-]+: Device or resource busy\. ", lasts=True),
    Kind("rename", "EBUSY", r"cannot rename cowflush-[\w-]+: Device or resource busy\. "),
    Kind("loop-free", "ENOSPC", r"cannot find a free loop device: No space left on device\. "),
    Kind("loop-attach", "ENOMEM", r"cannot attach cowflush-(cow|table) to /dev/loop\d+: Out of memory\. "),
    Kind("loop-resize", "EIO", r"cannot change the size of the COW: I/O error\. "),
    Kind("fsopen", "ENOMEM", r"cannot make a file in RAM for cowflush-(cow|table): Out of memory\. "),
    Kind("write:cowflush-table", "ENOSPC", r"cannot write the view's table: No space left on device\. "),
    Kind("fork", "EAGAIN", r"cannot start (the guard process|a process that syncs): Try again\. "),
    Kind("mlockall", "ENOMEM", r"cannot (lock memory: Out of memory|start the guard process: it could not lock)"),
    UNWRITTEN,
    Kind("fsync", "EIO", r"cannot flush the write cache of (/dev/)?sda\d: I/O error\.", CARD),
]  # fmt: skip


class Router:
    """A guest: each round changes root, lets a command fail, and the next one restores order."""

    def __init__(self, boot: Lab, log: bool, append: str = "") -> None:
        self.vm = logged.start(boot, append=append) if log else boot(append=append)
        self.log = log
        self.rounds = 0
        self._through = False
        self.vm.run(TO_RAM).ok()
        self.vm.run(f"mkdir {workload.FOLDER} && cowflush flush").ok()

    def begin(self, before: str = "true", prepare: str = "true") -> None:
        """Changes root, for a command that needs something before or after that."""
        self.rounds += 1
        number, file = self.rounds, f"{workload.FOLDER}/{self.rounds}"
        write = f"seq {number} {number + workload.LINES} >{file}"
        if self.log and number % MERGE_EVERY == 0:
            write = f"cowflush merge && {write}"
        self.vm.run(f"{before} && {write} && {prepare}", timeout=60).ok()

    def inject(self, command: str, rules: Sequence[str]) -> Result:
        print(command, *rules)  # for a person who reads why a test failed
        words = " ".join(f"--rule '{rule}'" for rule in rules)
        return self.vm.run(f"guest-tools inject {words} cowflush {command}", timeout=60)

    def check_lives(self) -> None:
        """Checks that root takes a write, and has all that was written before."""
        self.vm.run(
            "{ date >/root/probe && sync && : >/run/probed; } >/dev/null 2>&1 & "
            f"timeout {PATIENCE} sh -c 'until [ -e /run/probed ]; do usleep 20000; done' && "
            "rm /run/probed && echo 3 >/proc/sys/vm/drop_caches"
        ).ok()
        assert workload.check_in_guest(self.vm, self.rounds) == self.rounds

    def check_cut(self, flushed: bool = False) -> None:
        """Checks that a power cut now would lose no flush.

        Without a log a merge may be half done.
        """
        if self.log and status(self.vm)["mode"] == "deferring":
            self.vm.pause()
            least = self.rounds if flushed else self.rounds - 1
            workload.check(flushlog.recovered(self.vm.card), least)
            self.vm.cont()

    def check_unwritten(self, call: str) -> None:
        """Plays a new boot if the kernel could not write something out.

        The kernel tells that only once, so cowflush remembers it until the next boot.
        """
        if self.vm.run("[ -e /run/cowflush/unwritten ]").code == 0:
            assert call in ("syncfs", "fsync"), "root is written out by both"
            again = self.vm.run("cowflush flush", timeout=60).exits(FAILED).text
            assert "The filesystem could not write everything out: I/O error." in again
            self.vm.run("rm /run/cowflush/unwritten").ok()

    def check_flush(self, then: str = "true") -> None:
        """Checks that the next flush works: nothing of this one is left, and all is on the card."""
        self.vm.run("cowflush flush", timeout=60).ok()
        settled = f"say() {{ echo $*; exit 1; }}\n{SETTLED}settled"
        self.vm.run(f"log={'yes' if self.log else ''}\n{settled}").ok()
        through = status(self.vm)["mode"] == "write-through"
        if through:
            self.vm.run("sync").ok()
        self.vm.pause()
        image = flushlog.recovered(self.vm.card) if self.log else self.vm.card.fs()
        if through:
            image.replay_journal()
        workload.check(image, self.rounds)
        self.vm.cont()

    def end(self) -> None:
        self.vm.run("cowflush start && echo x >/root/last && cowflush flush").ok()
        check_settled(self.vm, log=LOGGED if self.log else ())
        self.vm.kill()


def calls_made(router: Router, command: str, before: str, prepare: str) -> dict[str, int]:
    """How many calls of each kind the command makes when none fails."""
    router.begin(before, prepare)
    said = router.inject(command, [f"{kind.call}#{BEYOND}={kind.errno}" for kind in KINDS])
    assert said.code == NEVER_MET, said.text
    router.check_flush()
    return {call: int(count) for call, count in CALLS_MADE.findall(said.text)}


# Per command, the calls that it can do without: it still exits with 0. A flush's third process
# writes out the page cache, and its parent ends at once: no process learns that it could not start.
# The freeze between suspend and resume writes everything out all the same, and would report an
# error.
DOES_WITHOUT: dict[str, set[tuple[str, int]]] = {
    "flush": {("fork", 3)},
    # One copy of the log's header is enough.
    "merge": {("fsync", 3), ("fsync", 4)},
    # The log's header has two copies. The last table is root's own once more, loaded for its
    # limits.
    "stop": {("fork", 3), ("load", 12)} | {("fsync", number) for number in (6, 7, 12, 13)},
}
# cowflush retries the handover's last step at once: it can't go back from there.
TRIED_AGAIN = {("flush", "resume:cowflush-root"), ("stop", "resume:cowflush-root")}
# The first fsync is of root itself: it proves that root's filesystem has written everything out.
ROOTS_OWN = ("fsync", 1)
WRITES_OUT = {"flush", "start", "stop"}


@pytest.mark.parametrize(
    ("command", "before", "prepare", "log", "least"),
    [
        ("flush", "true", "true", True, 25),
        pytest.param("flush", "true", "true", False, 25, marks=pytest.mark.thorough),
        pytest.param("merge", "true", "cowflush flush", True, 15, marks=pytest.mark.thorough),
        pytest.param("stop", "cowflush start", "true", True, 30, marks=pytest.mark.thorough),
        pytest.param("start", "cowflush stop", "true", True, 5, marks=pytest.mark.thorough),
    ],
    ids=["flush", "flush-no-log", "merge", "stop", "start"],
)
def test_each_call_fails_once(
    boot: Lab, command: str, before: str, prepare: str, log: bool, least: int
) -> None:
    router = Router(boot, log)
    calls = calls_made(router, command, before, prepare)
    met, others = 0, []
    for kind in KINDS:
        for number in range(1, calls[kind.call] + 1):
            router.begin(before, prepare)
            said = router.inject(command, [kind.rule(number)])
            # The number of calls depends a little on what the log holds.
            if said.code == NEVER_MET:
                router.check_flush()
                continue
            met += 1
            without = (kind.call, number) in DOES_WITHOUT.get(command, set()) or (
                (command, kind.call) in TRIED_AGAIN
            )
            tells = (
                UNWRITTEN if (kind.call, number) == ROOTS_OWN and command in WRITES_OUT else kind
            )
            expected = 0 if without else tells.exits
            if said.code != expected or (
                not without and not re.search(tells.says, said.text, re.MULTILINE)
            ):
                others.append(f"{kind.rule(number)}: exit code {said.code}, {said.text}")
            router.check_lives()
            router.check_cut()
            router.check_unwritten(kind.call)
            router.check_flush()
    assert not others, "\n".join(others)
    assert met >= least, met
    router.end()


# The first call fails halfway through a flush, the second in its repair; then the next command has
# to repair it.
PAIRS = [
    ("suspend:cowflush-root=EIO", "clear:cowflush-root#1=ENOMEM"),
    ("suspend:cowflush-root=EIO", "clear:cowflush-root#1=KILL"),
    ("suspend:cowflush-root=EIO", "remove:cowflush-sealed=EBUSY"),
    ("suspend:cowflush-root=EIO", "remove:cowflush-sealed#1=KILL"),
    ("resume:cowflush-sealed#1=EIO", "clear:cowflush-root#1=KILL"),
    ("resume:cowflush-sealed#1=EIO", "clear:cowflush-sealed#1=KILL"),
    ("resume:cowflush-sealed#1=EIO", "clear:cowflush-sealed=ENOMEM"),
    ("resume:cowflush-sealed#1=EIO", "remove:cowflush-sealed=EBUSY"),
    ("resume:cowflush-sealed#1=EIO", "remove:cowflush-sealed#1=KILL"),
    ("resume:cowflush-sealed#1=DROP", "clear:cowflush-root#1=ENOMEM"),
    ("resume:cowflush-sealed#1=DROP", "clear:cowflush-root#1=KILL"),
    ("resume:cowflush-sealed#1=EIO", "resume:cowflush-root=EIO"),
    ("resume:cowflush-root#1=EIO", "resume:cowflush-root#2+=EIO"),
    ("resume:cowflush-root#1=EIO", "resume:cowflush-root#2=KILL"),
    ("resume:cowflush-root#1=EIO", "load:cowflush-sealed#2+=ENOMEM"),
    ("load:cowflush-sealed#1=ENOMEM", "remove:cowflush-sealed=EBUSY"),
    ("load:cowflush-sealed#1=ENOMEM", "remove:cowflush-sealed#1=KILL"),
    ("load:cowflush-root#1=ENOMEM", "remove:cowflush-sealed=EBUSY"),
    ("load:cowflush-root#1=ENOMEM", "remove:cowflush-sealed#1=KILL"),
]


# The same after the handover, when the sealed device has root's changes and root's own table is
# void. The kernel drops the new table when it can't swap it in. The numbers are those of a flush's
# first window, and a stop's last.
AFTER_HANDOVER = [
    (("resume:cowflush-root#1=DROP",), 0),
    (("resume:cowflush-root#1=DROP", "load:cowflush-root#2=ENOMEM"), 0),
    (("resume:cowflush-root#1=DROP", "resume:cowflush-root#2=DROP"), 0),
    (("resume:cowflush-root#1=DROP", "resume:cowflush-root#2=KILL"), KILLED),
    (("resume:cowflush-root#1=DROP", "load:cowflush-root#2=KILL"), KILLED),
    (("resume:cowflush-root#1=DROP", "load:cowflush-root#2+=ENOMEM"), FAILED),
    (("resume:cowflush-root#1=DROP", "resume:cowflush-root#2+=DROP"), FAILED),
]


def fail_two(
    router: Router,
    pair: Sequence[str],
    code: int | None = None,
    command: str = "flush",
    before: Sequence[str] = (),
) -> None:
    """Lets two calls fail; the injector makes sure that both are met."""
    router.begin(*before)
    killed = pair[-1].endswith("KILL")
    expected = code if code is not None else KILLED if killed else FAILED
    said = router.inject(command, pair).exits(expected)
    assert expected != FAILED or "cowflush: cannot " in said.text, said.text
    if killed:
        # The guard is there, so no other command is needed.
        router.check_lives()
    # A writer may have to wait for the next command.
    router.check_flush()
    router.check_lives()


@pytest.mark.thorough
def test_two_calls_fail_in_a_flush(boot: Lab) -> None:
    router = Router(boot, log=True)
    for pair in PAIRS:
        fail_two(router, pair)
    router.end()


@pytest.mark.thorough
def test_a_handover_fails_and_so_does_the_way_back(boot: Lab) -> None:
    """A step that can't be undone is finished all the same."""
    router = Router(boot, log=True)
    fail_two(router, ("resume:cowflush-sealed#1=EIO", "clear:cowflush-root#1=ENOMEM"), 0)
    fail_two(router, ("resume:cowflush-sealed#1=EIO", "clear:cowflush-root=ENOMEM"), 0)
    router.end()


@pytest.mark.kernels("6.1", "6.12")
def test_roots_new_table_is_gone_after_the_handover(boot: Lab) -> None:
    router = Router(boot, log=True)
    for rules, code in AFTER_HANDOVER:
        fail_two(router, rules, code)
    router.end()


@pytest.mark.thorough
def test_root_is_frozen_and_does_not_wake_up(boot: Lab) -> None:
    """A thaw writes, so it must wait until root is resumed."""
    router = Router(boot, log=True, append="cowflush.size=8M")
    for pair in (
        ("freeze#1=EIO", "resume:cowflush-root=EIO"),
        ("resume:cowflush-sealed#1=EIO", "resume:cowflush-root=EIO"),
        ("resume:cowflush-sealed#1=EIO", "clear:cowflush-root#1=KILL"),
    ):
        fail_two(router, pair)
    for rules, code in AFTER_HANDOVER:
        fail_two(router, rules, code)
    router.end()


@pytest.mark.thorough
@pytest.mark.parametrize("log", [True, False], ids=["log", "no-log"])
def test_roots_new_table_is_gone_after_the_last_handover_of_a_stop(boot: Lab, log: bool) -> None:
    """After that handover root writes to the card.

    Without a log the kernel then merges what root wrote before. With a log root stays over what is
    sealed, and goes on there if it can't get its last table.
    """
    router = Router(boot, log)
    for rules, code in AFTER_HANDOVER:
        # The first window of a stop with next to nothing to flush is a flush's, the second the
        # stop's own, which loads root's table twice if there is a log.
        moved = [rule.replace("#2", "#3").replace("#1", "#2") for rule in rules]
        if log:
            moved = [re.sub(r"^(load:.*)#3", r"\1#4", rule) for rule in moved]
        expected = FAILED if log and code == 0 else code
        fail_two(router, moved, expected, "stop", ("cowflush start", "cowflush flush"))
    router.end()


@pytest.mark.thorough
def test_a_merge_that_the_card_refuses_and_a_call_that_fails_as_well(boot: Lab) -> None:
    """The retry's undo and its new start fail, too, while the card still refuses writes."""
    router = Router(boot, log=True)
    # The superblock is in the part that the kernel merges after it has written what is free.
    superblock = router.vm.card.root.sectors[:8]
    for rule in (
        "load:cowflush-logged#1=ENOMEM",
        "load:cowflush-logged#1=KILL",
        "resume:cowflush-logged#1=EIO",
        "resume:cowflush-logged#1=KILL",
        "remove:cowflush-view=EBUSY",
        "load:cowflush-view=ENOMEM",
        "load:cowflush-logged#2=ENOMEM",
        "resume:cowflush-logged#2=KILL",
    ):
        router.begin(prepare="cowflush flush")
        router.vm.fail_writes(superblock)
        router.vm.run("cowflush merge", timeout=60).exits(CARD)
        said = router.inject("merge", [rule]).exits(KILLED if rule.endswith("KILL") else FAILED)
        assert rule.endswith("KILL") or "cowflush: cannot " in said.text, said.text
        router.check_lives()
        router.check_cut(flushed=True)
        router.vm.heal()
        router.vm.run("cowflush merge", timeout=60).ok()
        router.check_flush()
    router.end()


@pytest.mark.thorough
def test_a_proc_that_is_gone(boot: Lab) -> None:
    """cowflush can't know how much memory there is, so it begins nothing."""
    router = Router(boot, log=True)
    for command in ("flush", "merge", "stop", "start"):
        router.begin()
        gone = (
            f"umount -l /proc && cowflush {command}; code=$?; mount -t proc proc /proc; exit $code"
        )
        said = router.vm.run(gone, timeout=60).exits(FAILED).text
        assert "cannot read /proc/meminfo: No such file or directory" in said, said
        router.check_lives()
        router.check_cut()
        router.check_flush()
    router.end()


@pytest.mark.thorough
def test_a_run_that_is_full(boot: Lab) -> None:
    """The notes there are for people: nothing needs them."""
    router = Router(boot, log=True)
    router.vm.run(
        "mount -t tmpfs -o size=64k full /run/cowflush && ! dd if=/dev/zero of=/run/cowflush/all bs=4k 2>/dev/null"
    ).ok()
    for command in ("flush", "merge", "stop", "start"):
        router.begin()
        said = router.vm.run(f"cowflush {command}", timeout=60).ok().text
        renews = "cannot renew the program in /run/cowflush: No space left on device" in said
        assert renews is (command == "start"), said
        router.check_lives()
        router.check_flush()
    router.end()


def test_a_layer_that_somebody_has_open(boot: Lab) -> None:
    """Here the kernel itself answers; in the tests above the injector does."""
    router = Router(boot, log=True)
    router.begin()
    router.check_flush()
    router.begin()
    find = "for dm in /sys/block/dm-*; do [ $(cat $dm/dm/name) = cowflush-logged ] && break; done"
    holder = router.vm.start(
        f"{find}; exec 9</dev/${{dm##*/}} && echo has it && while :; do sleep 1; done"
    )
    holder.wait_output("has it")
    said = router.vm.run("cowflush flush", timeout=60).exits(FAILED).text
    assert (
        "cannot remove cowflush-logged: Device or resource busy. Is it mounted, or in use" in said
    )
    router.check_lives()
    router.check_cut()
    holder.kill()
    holder.wait()
    router.check_flush()
    router.end()
