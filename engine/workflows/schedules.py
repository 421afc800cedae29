"""Schedules: when five fields of cron, read in a time zone, are due next. Pure.

The fields are those of crontab(5): a day matches when both of its fields do, or one of them, when neither begins with
`*`. Guarantees: what falls into an hour that the clock skips is due as much later as is skipped, and never lost; an
hour that comes twice is due once, unless the hours are `*`: then every one of them is, both times. Leaves to others:
occurrences that nobody was there for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import MAXYEAR, UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec

from engine.push.quiet_hours import find_zone
from engine.workflows.definition import Schedule

YEARS_AHEAD = 48
"""What is not due within them never is: a 29 February on a given weekday is at most 40 years off."""
_CHANGE = timedelta(hours=3)
"""No clock is put forward or back by more at once."""
_ANY_DAY = datetime(2000, 1, 1)  # noqa: DTZ001 (a wall has no zone)


class InvalidCron(ValueError):
    """Five fields that no time table can be read from. The text says why."""


class _Field(msgspec.Struct, frozen=True):
    """One of the five. `cycle` is how many values there are: 7 is Sunday as 0 is."""

    name: str
    least: int
    most: int
    cycle: int
    words: tuple[str, ...] = ()


_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_FIELDS = (
    _Field("minute", 0, 59, 60),
    _Field("hour", 0, 23, 24),
    _Field("day of the month", 1, 31, 31),
    _Field("month", 1, 12, 12, _MONTHS),
    _Field("day of the week", 0, 7, 7, _WEEKDAYS),
)
_ENTRY = re.compile(r"(?:\*|([0-9]{1,2}|[A-Z]{3})(?:-([0-9]{1,2}|[A-Z]{3}))?)(?:/([0-9]{1,2}))?")


class TimeTable(msgspec.Struct, frozen=True):
    """What the fields stand for. `weekdays` count from Sunday; `any_day`: one of the two kinds of days is enough."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day: bool
    every_hour: bool

    def has(self, day: date) -> bool:
        """Whether it is due on a day."""
        fits = (day.day in self.days, day.isoweekday() % 7 in self.weekdays)
        return day.month in self.months and (any(fits) if self.any_day else all(fits))


@lru_cache(maxsize=1024)
def read_cron(cron: str) -> TimeTable:
    """The time table of five fields. Raises `InvalidCron`, also for one that is never due."""
    parts = cron.upper().split()
    if len(parts) != len(_FIELDS):
        raise InvalidCron(
            "cron has five fields: minute, hour, day of the month, month, day of the week; e.g. 0 9 * * MON-FRI."
        )
    minutes, hours, days, months, weekdays = map(_read_field, parts, _FIELDS)
    table = TimeTable(
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=days,
        months=months,
        weekdays=weekdays,
        any_day=not parts[2].startswith("*") and not parts[4].startswith("*"),
        every_hour=parts[1] == "*",
    )
    if next(_walls(table, _ANY_DAY), None) is None:
        raise InvalidCron("cron names a day that never comes, such as 30 February.")
    return table


def next_occurrence(schedule: Schedule, after: datetime) -> datetime | None:
    """When a schedule is due first after an instant, in UTC; None when it never is again, or cannot be read."""
    zone = find_zone(schedule.timezone)
    try:
        table = read_cron(schedule.cron)
    except InvalidCron:
        return None
    if zone is None:
        return None
    found: datetime | None = None
    until: datetime | None = None
    # Where the clock changes, the next one on the wall need not be the next one in time.
    for wall in _walls(table, after.astimezone(zone).replace(tzinfo=None) - _CHANGE):
        if until is not None and wall > until:
            break
        for instant in _instants(wall, zone, twice=table.every_hour):
            if instant > after and (found is None or instant < found):
                found, until = instant, wall + _CHANGE
    return found


def _read_field(part: str, field: _Field) -> frozenset[int]:
    values: set[int] = set()
    for entry in part.split(","):
        values |= _read_entry(entry, field)
    return frozenset(values)


def _read_entry(entry: str, field: _Field) -> set[int]:
    """A value, a range (through the end and round to the start, if need be) or all, and every how many of them."""
    match = _ENTRY.fullmatch(entry)
    first, last, step = (None, None, None) if match is None else match.groups()
    start = field.least if first is None else _value(first, field)
    stop = start if last is None else _value(last, field)
    if first is None or (last is None and step is not None):
        stop = field.least + field.cycle - 1
    every = 1 if step is None else int(step)
    if match is None or start is None or stop is None or every == 0:
        raise InvalidCron(
            f"In cron, the {field.name} is made of *, numbers from {field.least} to {field.most}, ranges, lists and "
            "/steps."
        )
    stop += field.cycle if stop < start else 0
    return {field.least + (value - field.least) % field.cycle for value in range(start, stop + 1, every)}


def _value(text: str, field: _Field) -> int | None:
    if not text.isdigit():
        return field.words.index(text) + field.least if text in field.words else None
    return int(text) if field.least <= int(text) <= field.most else None


def _walls(table: TimeTable, start: datetime) -> Iterator[datetime]:
    """What a clock on the wall shows whenever it is due, from a moment on, in order."""
    for day in _days(table, start.date()):
        for hour in table.hours:
            for minute in table.minutes:
                wall = datetime(day.year, day.month, day.day, hour, minute)  # noqa: DTZ001 (a wall has no zone)
                if wall >= start:
                    yield wall


def _days(table: TimeTable, start: date) -> Iterator[date]:
    for year in range(start.year, min(start.year + YEARS_AHEAD, MAXYEAR - 1) + 1):
        for month in sorted(table.months):
            if (year, month) < (start.year, start.month):
                continue
            day = max(start, date(year, month, 1))
            while day.month == month:
                if table.has(day):
                    yield day
                day += timedelta(days=1)


def _instants(wall: datetime, zone: ZoneInfo, *, twice: bool) -> tuple[datetime, ...]:
    """When the wall shows it. What is skipped is read with the offset before the change: as much later."""
    first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    return (first, second) if twice and second > first else (first,)
