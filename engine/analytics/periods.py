"""The period that a question is about: two instants, or a length that counts back. Pure.

A length is ISO 8601 (`P30D`, `P2W`, `PT12H`, `P1M`). Days are 24 hours, weeks seven days; months and years are
those of the calendar in UTC, and a day that a month does not have is its last one.
"""

from __future__ import annotations

import calendar
import re
from datetime import UTC, datetime, timedelta

from db.analytics_terms import Period
from engine.errors import BadUserInput

DEFAULT_PERIOD = timedelta(days=30)
"""What a question is about that names none."""
MAX_PERIOD = timedelta(days=3660)
"""Ten years: no log is longer, and every instant that follows from it can be written down."""
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
"""The log takes no timestamp beyond these."""

_LENGTH = re.compile(
    r"P(?=\d|T\d)(?:(?P<years>\d{1,4})Y)?(?:(?P<months>\d{1,4})M)?(?:(?P<weeks>\d{1,4})W)?(?:(?P<days>\d{1,5})D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d{1,6})H)?(?:(?P<minutes>\d{1,8})M)?(?:(?P<seconds>\d{1,9})S)?)?"
)
_MALFORMED = "must be a length of time as in ISO 8601, e.g. P30D, P2W, PT12H"
_MONTHS_A_YEAR = 12


def read_period(
    since: datetime | None,
    until: datetime | None,
    period: str | None,
    *,
    now: datetime,
    path: tuple[str, ...] = ("input",),
) -> Period:
    """The period that an input names, by default the last 30 days. Raises `BadUserInput`, whose path begins `path`."""
    if since is not None and period is not None:
        raise _refused((*path, "period"), "does not go with since: give one of them")
    end = until if until is not None else now
    _check(end, (*path, "until"))
    named = (*path, "period" if period is not None else "since")
    default = since if since is not None else end - DEFAULT_PERIOD
    start = default if period is None else _back(end, period, named)
    _check(start, named)
    if start >= end:
        raise _refused(named, "must begin before the period's end")
    if end - start > MAX_PERIOD:
        raise _refused(named, f"makes a period of more than {MAX_PERIOD.days} days: ask for less")
    return Period(start, end)


def _back(end: datetime, length: str, path: tuple[str, ...]) -> datetime:
    found = _LENGTH.fullmatch(length)
    if found is None:
        raise _refused(path, _MALFORMED)
    parts = {name: int(digits or 0) for name, digits in found.groupdict().items()}
    months = parts.pop("years") * _MONTHS_A_YEAR + parts.pop("months")
    try:
        return _months_before(end, months) - timedelta(**parts)
    except (OverflowError, ValueError):
        raise _refused(path, "reaches back further than any calendar") from None


def _months_before(end: datetime, months: int) -> datetime:
    year, month = divmod(end.year * _MONTHS_A_YEAR + end.month - 1 - months, _MONTHS_A_YEAR)
    last_day = calendar.monthrange(year, month + 1)[1]
    return end.replace(year=year, month=month + 1, day=min(end.day, last_day))


def _check(instant: datetime, path: tuple[str, ...]) -> None:
    if not EARLIEST <= instant <= LATEST:
        raise _refused(path, "must lie within the years 1970 to 2099, as every event's timestamp does")


def _refused(path: tuple[str, ...], problem: str) -> BadUserInput:
    return BadUserInput(f"{'.'.join(path)} {problem}.", path=path)
