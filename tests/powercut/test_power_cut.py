"""Power cuts at all points of a record; `make power-cut` does the same with thousands of cuts."""

from __future__ import annotations

import pytest

from harness.lab import Lab
from powercut import order, run
from powercut.judge import Judge, Outcome
from powercut.recording import Load, recorder
from powercut.ways import FILLED, LOG, NO_LOG

SEED = 1


def test_no_cut_of_flushes_and_a_merge_does_harm(boot: Lab) -> None:
    """The short one: the card has what the guest's programs had, and each FLUSH is in its place."""
    made = recorder(boot, FILLED, 4)
    load = Load(made)
    for number in range(4):
        load.scatter()
        made.flush()
        if number == 2:
            made.run("cowflush merge")
    load.stop()
    judge = Judge(made.end(), FILLED.recover)
    verdicts = run.judged(judge, run.states(judge, drawn=60, seed=SEED, directed=6), print)
    print(run.describe(judge), run.table(verdicts), sep="\n")
    assert all(verdict.good for verdict in verdicts), run.failures(verdicts)
    for name, wanted in (("cowflush flush", order.APPEND), ("cowflush merge", order.MERGE)):
        assert order.complaint(wanted, order.word(judge.entries, judge.window(name))) == ""

    # Without one of these FLUSHes some cut would do harm, and the judge would notice.
    for before, after in (("d", "c"), ("r", "H"), ("H", "h")):
        less, states = judge.without(order.flush_between(judge.entries, before, after))
        found = run.judged(less, states, print)
        assert not all(verdict.good for verdict in found), f"the FLUSH between {before} and {after}"


@pytest.mark.thorough
def test_without_a_log_a_cut_tears_the_merge(boot: Lab) -> None:
    """The control: a check that sees no damage here would see none anywhere."""
    judge = run.recorded(boot, NO_LOG, flushes=3)
    boundaries = judge.cuts.boundaries()
    assert len(boundaries) >= 5
    verdicts = run.judged(judge, [*boundaries, *judge.cuts.drawn(200, SEED)], print)
    print(run.table(verdicts))
    assert run.control_complaint(verdicts) == ""

    assert run.booted(boot, NO_LOG, judge, [boundaries[1], boundaries[-1]]) == {}
    unseen = next(v.state for v in verdicts if v.outcome is Outcome.TORN and not v.complaint)
    # A guest may well boot from it; the judge must notice that its root is not any flush's.
    assert "root is not as flush" in run.booted(boot, NO_LOG, judge, [unseen])[unseen.name]

    again = run.cut_again(boot, NO_LOG, judge, boundaries[1], flushes=1)
    second = run.judged(again, [*again.cuts.boundaries(), *again.cuts.drawn(50, SEED)], print)
    assert [verdict.good for verdict in second if verdict.state.at_boundary] == [True] * 3
    assert not all(verdict.good for verdict in second)


@pytest.mark.thorough
@pytest.mark.kernels("6.1", "6.12")
def test_with_the_log_no_cut_does_harm(boot: Lab) -> None:
    judge = run.recorded(boot, LOG, flushes=9)
    assert run.idle_complaint(judge) == ""
    verdicts = run.judged(judge, run.states(judge, drawn=250, seed=SEED), print)
    print(run.table(verdicts))
    assert all(verdict.good for verdict in verdicts), run.failures(verdicts)
    [*states, twice] = run.sample(verdicts, 4, SEED)
    assert run.booted(boot, LOG, judge, states) == {}

    again = run.cut_again(boot, LOG, judge, twice, flushes=2)
    second = run.judged(again, run.states(again, drawn=50, seed=SEED), print)
    assert all(verdict.good for verdict in second), run.failures(second)
