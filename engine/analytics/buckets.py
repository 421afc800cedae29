"""Buckets: a period cut into minutes, hours, days, weeks or months of a time zone.

Guarantees: buckets are gapless and in order. A day, week or month begins with the first instant of its first day in
the time zone, so that a day of a clock change has 23 or 25 hours; weeks begin on Monday. An hour or a minute begins
when the local clock shows a full one: the hour that a clock change repeats is two buckets, and one that is cut short is
one with its neighbour. A period's first and last bucket hold only what lies in the period.
Pure. Whatever counts events is handed these buckets, so that every part of the answer means the same days.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from enum import StrEnum


class Interval(StrEnum):
    """How long a bucket is."""

    MINUTE = "MINUTE"
    HOUR = "HOUR"
    DAY = "DAY"
    WEEK = "WEEK"
    MONTH = "MONTH"


_CLOCK_SECONDS = {Interval.MINUTE: 60, Interval.HOUR: 3600}


def bucket_starts(since: datetime, until: datetime, interval: Interval, zone: tzinfo) -> Iterator[datetime]:
    """The starts of the buckets that [since, until) touches, as UTC: the first is `since` or before it."""
    start = bucket_start(since, interval, zone)
    while start < until:
        yield start
        start = next_start(start, interval, zone)


def bucket_start(instant: datetime, interval: Interval, zone: tzinfo) -> datetime:
    """The start of the bucket that holds an instant, as UTC."""
    if interval in _CLOCK_SECONDS:
        start = instant.astimezone(UTC).replace(microsecond=0)
        while past := _seconds_past(start, interval, zone):
            start -= timedelta(seconds=past)
        return start
    start = _midnight(_first_day(instant.astimezone(zone).date(), interval), zone)
    while (following := next_start(start, interval, zone)) <= instant:
        # Clocks that went back over midnight show the day before again.
        start = following
    return start


def next_start(start: datetime, interval: Interval, zone: tzinfo) -> datetime:
    """The start of the bucket after the one that starts at `start`, as UTC."""
    if interval in _CLOCK_SECONDS:
        seconds = _CLOCK_SECONDS[interval]
        following = start + timedelta(seconds=seconds)
        past = _seconds_past(following, interval, zone)
        return following + timedelta(seconds=seconds - past) if past else following
    day = start.astimezone(zone).date()
    while (following := _midnight(day := _next_day(day, interval), zone)) <= start:
        # A day that the time zone left out begins when the next one does.
        pass
    return following


def _seconds_past(instant: datetime, interval: Interval, zone: tzinfo) -> int:
    local = instant.astimezone(zone)
    return (local.minute * 60 + local.second) % _CLOCK_SECONDS[interval]


def _first_day(day: date, interval: Interval) -> date:
    match interval:
        case Interval.WEEK:
            return day - timedelta(days=day.weekday())
        case Interval.MONTH:
            return day.replace(day=1)
        case _:
            return day


def _next_day(day: date, interval: Interval) -> date:
    match interval:
        case Interval.WEEK:
            return day + timedelta(days=7)
        case Interval.MONTH:
            return (day.replace(day=1) + timedelta(days=32)).replace(day=1)
        case _:
            return day + timedelta(days=1)


def _midnight(day: date, zone: tzinfo) -> datetime:
    """The first instant of a day. Where clocks skip midnight, that of the change."""
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
