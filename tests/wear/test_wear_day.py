"""The day's events: the same for the same seed, in order, and as many as day.toml says."""

from __future__ import annotations

from collections import Counter

import pytest

from wear import day
from wear.contenders import CONTENDERS
from wear.day import DAY_SECONDS, Event

DEFINITION = day.definition()


def test_the_same_seed_makes_the_same_day() -> None:
    assert day.events(DEFINITION, 1) == day.events(DEFINITION, 1)
    assert day.events(DEFINITION, 1) != day.events(DEFINITION, 2)


def test_the_days_of_a_week_differ_and_follow_each_other() -> None:
    first, second = (day.events(DEFINITION, 1, number) for number in (0, 1))
    assert first[-1].at < DAY_SECONDS * 1000 <= second[0].at
    assert [event.words for event in first] != [event.words for event in second]


def test_events_are_in_order_and_within_their_time() -> None:
    events = day.events(DEFINITION, 1, 0, 3600)
    assert events == sorted(events)
    assert events == [event for event in day.events(DEFINITION, 1) if event.at < 3600 * 1000]
    assert len(events) > 1000


def test_a_part_that_is_left_out_changes_no_other() -> None:
    logs = day.events(day.logs_only(DEFINITION), 1)
    assert {event.words[0] for event in logs} == {"syslog", "append", "rotate"}
    everything = Counter(day.events(DEFINITION, 1))
    assert not Counter(logs) - everything


def test_the_rates_are_those_of_the_definition() -> None:
    counts = Counter(event.words[0] for event in day.events(DEFINITION, 1))
    lines = 24 * sum(part["per_hour"] for part in DEFINITION["syslog"])
    assert counts["syslog"] == pytest.approx(lines, rel=0.1)
    rrd = DEFINITION["rrd"]
    assert counts["rrd"] == rrd["files"] * DAY_SECONDS / rrd["every"]
    assert counts["sql"] == DAY_SECONDS / DEFINITION["sqlite"]["every"]
    assert counts["unpack"] == counts["rename"] == DEFINITION["upgrade"]["files"]


def test_an_event_is_one_line_of_words() -> None:
    for event in [*day.events(DEFINITION, 1), Event(1500, ("read", "a"))]:
        assert "\n" not in str(event) and all(event.words)
    assert str(Event(1500, ("read", "a"))) == "1500 read a"


def test_a_round_robin_row_stays_in_its_file() -> None:
    rrd = DEFINITION["rrd"]
    size = rrd["head_bytes"] + rrd["row_bytes"] * sum(rows for _, rows in rrd["archives"])
    places = [event.words[4] for event in day.events(DEFINITION, 1) if event.words[0] == "rrd"]
    rows = [int(row) for text in places for row in text.split(",") if text != "-"]
    assert min(rows) >= rrd["head_bytes"] and max(rows) + rrd["row_bytes"] <= size


def test_every_contender_says_what_a_power_cut_costs() -> None:
    assert all(contender.loses and contender.label for contender in CONTENDERS.values())
    assert len({contender.label for contender in CONTENDERS.values()}) == len(CONTENDERS)
