"""When a schedule is due next: as cron understands it, on its zone's wall clock, over every change of that clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from croniter import croniter  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.workflows.definition import Schedule
from engine.workflows.schedules import InvalidCron, next_occurrence, read_cron


def due(cron: str, zone: str, after: str, count: int) -> list[str]:
    """The next occurrences, as the zone's own clock shows them, with its offset."""
    found, moment = [], datetime.fromisoformat(after)
    for _ in range(count):
        occurrence = next_occurrence(Schedule(cron, zone), moment)
        assert occurrence is not None
        assert occurrence > moment
        assert occurrence.tzinfo is UTC
        moment = occurrence
        found.append(moment.strftime("%m-%d %H:%M"))
    return found


def test_the_next_one_is_after_now_and_never_now() -> None:
    assert due("0 9 * * *", "UTC", "2026-05-01T09:00+00:00", 2) == ["05-02 09:00", "05-03 09:00"]
    assert due("0 9 * * *", "UTC", "2026-05-01T08:59:59+00:00", 1) == ["05-01 09:00"]


def test_a_time_of_day_is_the_zones() -> None:
    assert due("0 9 * * *", "Asia/Kolkata", "2026-05-01T00:00+00:00", 1) == ["05-01 03:30"]
    assert due("0 0 * * MON", "America/New_York", "2026-05-01T00:00+00:00", 1) == ["05-04 04:00"]


def test_a_time_of_day_stays_as_the_clock_is_put_forward_and_back() -> None:
    # Berlin: forward on 29 March 2026 at 2:00, back on 25 October at 3:00.
    assert due("0 9 * * *", "Europe/Berlin", "2026-03-28T00:00+00:00", 3) == [
        "03-28 08:00",
        "03-29 07:00",
        "03-30 07:00",
    ]
    assert due("0 9 * * *", "Europe/Berlin", "2026-10-24T00:00+00:00", 3) == [
        "10-24 07:00",
        "10-25 08:00",
        "10-26 08:00",
    ]


def test_a_time_that_the_clock_skips_is_due_as_much_later() -> None:
    # 2:30 is 3:30 summer time on that day.
    assert due("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00+00:00", 2) == ["03-29 01:30", "03-30 00:30"]


def test_a_time_that_comes_twice_is_due_once() -> None:
    assert due("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00+00:00", 2) == ["10-25 00:30", "10-26 01:30"]
    # Also when it is asked in between.
    assert due("30 2 * * *", "Europe/Berlin", "2026-10-25T00:45+00:00", 1) == ["10-26 01:30"]


@pytest.mark.parametrize("start", ["2026-03-28T20:00+00:00", "2026-10-24T20:00+00:00"])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"])
def test_every_hour_is_every_hour_over_a_change(zone: str, start: str) -> None:
    moments, moment = [], datetime.fromisoformat(start)
    for _ in range(12):
        occurrence = next_occurrence(Schedule("*/30 * * * *", zone), moment)
        assert occurrence is not None
        moments.append(moment := occurrence)

    assert {later - earlier for earlier, later in pairwise(moments)} == {timedelta(minutes=30)}


def test_a_day_is_one_of_both_kinds_unless_one_begins_with_a_star() -> None:
    assert due("0 0 13 * FRI", "UTC", "2026-02-01T00:00+00:00", 3) == ["02-06 00:00", "02-13 00:00", "02-20 00:00"]
    assert due("0 0 */2 * MON", "UTC", "2026-05-01T00:00+00:00", 2) == ["05-11 00:00", "05-25 00:00"]


def test_ranges_go_round_and_sunday_has_two_numbers() -> None:
    assert read_cron("0 22-2/2 * * *").hours == (0, 2, 22)
    assert read_cron("0 0 * * 5-7").weekdays == read_cron("0 0 * * fri-Sun").weekdays == {5, 6, 0}
    assert read_cron("0 0 * * 7").weekdays == read_cron("0 0 * * 0").weekdays == {0}
    assert read_cron("0 0 * NOV-FEB *").months == {11, 12, 1, 2}
    assert read_cron("5/20 * * * *").minutes == (5, 25, 45)


@pytest.mark.parametrize(
    "cron",
    [
        "0 9 30 2 *",
        "0 9 31 4,6,9,11 *",
        "",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "*/0 * * * *",
        "MON * * * *",
        "1- * * * *",
        "1,,2 * * * *",
        "٣ * * * *",
    ],
)
def test_what_is_never_due_cannot_be_read_and_has_no_next_time(cron: str) -> None:
    with pytest.raises(InvalidCron, match="cron"):
        read_cron(cron)
    assert next_occurrence(Schedule(cron), datetime(2026, 1, 1, tzinfo=UTC)) is None


def test_a_leap_day_is_waited_for() -> None:
    leap_day = next_occurrence(Schedule("0 0 29 2 *"), datetime(2096, 3, 1, tzinfo=UTC))
    assert leap_day == datetime(2104, 2, 29, tzinfo=UTC)


def test_a_zone_that_is_gone_and_the_end_of_the_calendar_have_no_next_time() -> None:
    assert next_occurrence(Schedule("0 0 * * *", "Mars/Olympus"), datetime(2026, 1, 1, tzinfo=UTC)) is None
    assert next_occurrence(Schedule("0 0 * * *"), datetime(9999, 12, 31, tzinfo=UTC)) is None


def numbers(least: int, most: int) -> st.SearchStrategy[str]:
    value = st.integers(least, most)
    # A range that does not go round, with a step or without: what every cron understands.
    spans = st.tuples(value, value, st.integers(1, 9)).map(lambda three: (min(three[:2]), max(three[:2]), three[2]))
    ranges = spans.filter(lambda three: three[0] < three[1]).map(lambda three: "{}-{}/{}".format(*three))
    return st.lists(value.map(str) | ranges, min_size=1, max_size=2).map(",".join)


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(
        st.just("*") | numbers(0, 59),
        st.just("*") | numbers(0, 23),
        st.just("*") | numbers(1, 28),
        st.just("*") | numbers(1, 12),
        st.just("*") | numbers(0, 6),
    ).map(" ".join),
    st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001
)
def test_without_changes_of_the_clock_it_is_what_another_cron_says(cron: str, wall: datetime) -> None:
    after = wall.replace(tzinfo=UTC)
    assert next_occurrence(Schedule(cron), after) == croniter(cron, after).get_next(datetime)
