"""Trends, slow and obvious."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from fractions import Fraction
from typing import Any

from tests.reference.calendar import bucket_of, buckets_between
from tests.reference.history import Event, Person, Test, persons


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    group: str | None
    is_other: bool
    points: list[tuple[datetime, float]]
    total: float


@dataclass(frozen=True)
class Trend:
    """What is asked for. `group_of` is given the event and its person."""

    matches: Test
    since: datetime
    until: datetime
    interval: str
    zone: tzinfo
    measure: str = "COUNT"
    value_of: Callable[[Event], Any] | None = None
    group_of: Callable[[Event, Person | None], str | None] | None = None
    limit: int = 10

    def answer(self, events: Sequence[Event]) -> tuple[list[Series], list[Series]]:
        """The series of the period, and those of as long a period just before."""
        length = self.until - self.since
        now = self._happened(events, self.since, self.until)
        before = self._happened(events, self.since - length, self.since)
        if self.group_of is None:
            return [self._series(None, False, now, self.since, self.until)], [
                self._series(None, False, before, self.since - length, self.since)
            ]
        named = self._ranked(now)[: self.limit]
        return (
            self._grouped(named, now, self.since, self.until, rest=False),
            self._grouped(named, before, self.since - length, self.since, rest=len(self._ranked(now)) > self.limit),
        )

    def _grouped(
        self, named: list[str | None], rows: list[Row], since: datetime, until: datetime, *, rest: bool
    ) -> list[Series]:
        series = [self._series(n, False, [row for row in rows if row.group == n], since, until) for n in named]
        others = [row for row in rows if row.group not in named]
        return [*series, self._series(None, True, others, since, until)] if others or rest else series

    def _happened(self, events: Sequence[Event], since: datetime, until: datetime) -> list[Row]:
        of = persons(events)
        rows = []
        for event in events:
            person = of[event.seq]
            if not since <= event.timestamp < until or not self.matches(event, person):
                continue
            value = None if self.value_of is None else self.value_of(event)
            if self.value_of is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                continue
            if self.measure == "UNIQUE_USERS" and person is None:
                continue
            group = None if self.group_of is None else self.group_of(event, person)
            rows.append(Row(event.timestamp, person, value, group))
        return rows

    def _ranked(self, rows: list[Row]) -> list[str | None]:
        totals = {
            group: measured(self.measure, [row for row in rows if row.group == group])
            for group in {row.group for row in rows}
        }
        return sorted(totals, key=lambda group: (-totals[group], group is None, group or ""))

    def _series(self, group: str | None, is_other: bool, rows: list[Row], since: datetime, until: datetime) -> Series:
        points = []
        for start in buckets_between(since, until, self.interval, self.zone):
            inside = [row for row in rows if bucket_of(row.at, self.interval, self.zone) == start]
            points.append((start, float(measured(self.measure, inside))))
        return Series(group, is_other, points, float(measured(self.measure, rows)))


@dataclass(frozen=True)
class Row:
    """An event that is counted."""

    at: datetime
    person: Person | None
    value: int | float | None
    group: str | None


def measured(measure: str, rows: list[Row]) -> Fraction:
    """One number for some events; 0 for none."""
    values = sorted(Fraction(str(row.value)) for row in rows if row.value is not None)
    match measure:
        case "COUNT":
            return Fraction(len(rows))
        case "UNIQUE_USERS":
            return Fraction(len({row.person for row in rows}))
        case _ if not values:
            return Fraction(0)
        case "SUM":
            return sum(values, Fraction(0))
        case "AVG":
            return sum(values, Fraction(0)) / len(values)
        case "MIN":
            return values[0]
        case "MAX":
            return values[-1]
        case _:
            return quantile(values, Fraction(int(measure[1:]), 100))


def quantile(values: list[Fraction], share: Fraction) -> Fraction:
    """Between the two values around the place `share` of the way from the first to the last."""
    place = share * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])
