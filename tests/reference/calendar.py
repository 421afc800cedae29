"""Buckets of time, slow and obvious: clocks are looked at minute after minute."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import cache

MINUTE = timedelta(minutes=1)


@cache
def bucket_of(instant: datetime, interval: str, zone: tzinfo) -> datetime:
    """The start of the bucket that holds an instant."""
    minute = instant.astimezone(UTC).replace(second=0, microsecond=0)
    match interval:
        case "MINUTE":
            return minute
        case "HOUR":
            while minute.astimezone(zone).minute != 0:
                minute -= MINUTE
            return minute
    day = instant.astimezone(zone).date()
    while first_instant(day + timedelta(days=1), zone) <= instant:
        day += timedelta(days=1)
    if interval == "WEEK":
        while day.weekday() != 0:
            day -= timedelta(days=1)
    if interval == "MONTH":
        while day.day != 1:
            day -= timedelta(days=1)
    return first_instant(day, zone)


@cache
def first_instant(day: date, zone: tzinfo) -> datetime:
    """The first minute at which clocks show a day, or a later one where they leave it out."""
    minute = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=15)
    while minute.astimezone(zone).date() < day:
        minute += MINUTE
    return minute


def buckets_between(since: datetime, until: datetime, interval: str, zone: tzinfo) -> list[datetime]:
    """The starts of all buckets that hold an instant of [since, until)."""
    found = {bucket_of(since, interval, zone)} if since < until else set()
    step = {"MINUTE": MINUTE, "HOUR": MINUTE}.get(interval, timedelta(hours=1))
    minute = since.replace(second=0, microsecond=0)
    while minute < until:
        if minute >= since:
            found.add(bucket_of(minute, interval, zone))
        minute += step
    if since < until:
        found.add(bucket_of(until - timedelta(microseconds=1), interval, zone))
    return sorted(found)
