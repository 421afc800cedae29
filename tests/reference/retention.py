"""Retention, slow and obvious."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from tests.reference.calendar import bucket_of, buckets_between
from tests.reference.history import Event, Test, persons


@dataclass(frozen=True)
class Cohort:
    """Whoever did the first thing in one interval, and how many of them did the second one in each that follows."""

    start: datetime
    size: int
    returned: list[int]


def retention(
    events: Sequence[Event],
    *,
    starts: Test,
    returns: Test,
    since: datetime,
    until: datetime,
    now: datetime,
    interval: str,
    zone: tzinfo,
    periods: int,
) -> list[Cohort]:
    """The cohorts of [since, until); intervals that have not begun by `now` are left out."""
    of = persons(events)
    cohorts = buckets_between(since, until, interval, zone)
    calendar = buckets_between(since, max(now, until), interval, zone) if cohorts else []
    answer = []
    for start in cohorts:
        members = {
            of[event.seq]
            for event in events
            if since <= event.timestamp < until
            and bucket_of(event.timestamp, interval, zone) == start
            and starts(event, of[event.seq])
        } - {None}
        place = calendar.index(start)
        returned = [len(members)]
        for later in calendar[place + 1 : place + periods]:
            if later >= now:
                break
            came = {
                of[event.seq]
                for event in events
                if event.timestamp >= since
                and bucket_of(event.timestamp, interval, zone) == later
                and returns(event, of[event.seq])
            }
            returned.append(len(members & came))
        answer.append(Cohort(start, len(members), returned))
    return answer
