"""Boots a card as a power cut left it, and lets the guest judge it."""

from __future__ import annotations

from harness import Drive
from harness.ext import ExtImage
from harness.lab import Lab
from powercut import tree
from powercut.judge import Judge, reported
from powercut.medium import Medium, rebuild
from powercut.recording import digests, make_states, read_out
from powercut.states import State
from powercut.ways import Way
from product import workload

AFTER = "/root/after-the-cut"


def check(lab: Lab, way: Way, judge: Judge, state: State) -> None:
    """Boots: the guest finds flush N's or N+1's state, flushes, and loses its power again."""
    number = reported(judge.marks, state)
    card = rebuild(lab.directory / "cut.img", judge.recording.blank, judge.entries, state)
    seen = lab.directory / "seen.img"
    make_states(seen, 1)
    with lab(card, drives=[Drive(seen)], append=way.append) as vm:
        read_out(vm, 0)
        [digest] = digests(seen)
        assert judge.flush_of.get(digest) in (number, number + 1), (
            f"root is not as flush {number} or the next left it"
        )
        found = tree.in_guest(vm)
        differ = tree.complaint(found, judge.truths[judge.flush_of[digest]])
        assert not differ, f"the guest has other files: {differ}"
        workload.check_in_guest(vm, judge.truths[number].rounds)
        vm.run(f"echo {state.name} >{AFTER} && cowflush flush", timeout=60).ok()
    files = Medium(lab.directory, card, []).files
    recovered = ExtImage(way.recover(files))
    recovered.fsck()
    assert recovered.read(AFTER).decode().strip() == state.name
