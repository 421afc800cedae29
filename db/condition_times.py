"""When the passing of time alone may change what conditions say about a person, as SQL over rows of `profiles`.

Guarantees: until the instant that it gives, or for ever where that is NULL, the answer of `db.conditions` stays what it
is at `now`, unless an event is stored or something about the person changes. It may be too early, never too late: any
test inside may turn, whether or not the whole does. An event that is counted within a window leaves it; a day becomes,
or ceases to be, an anniversary at midnight in the person's time zone. Nothing else in conditions looks at the clock.
"""

# ruff: noqa: S608
# The statements' text is made of constants and $n only.

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from db.condition_terms import Path, parse_path
from db.conditions import ConditionWriter
from db.filters import Condition, ConditionOperator, EventCount

MAX_BOUNDARIES = 4
"""Of one test: the counts between which its answer turns. For more, each event that leaves counts as a turn."""

JUST_AFTER = timedelta(microseconds=1)
"""A window has its first moment in it."""
_VALID_DAY = "^(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])$|^(0[469]|11)-(0[1-9]|[12][0-9]|30)$|^02-(0[1-9]|[12][0-9])$"


def next_change_sql(
    conditions: Sequence[Condition], parameters: list[Any], *, alias: str, now: datetime, project: str | None = None
) -> str:
    """One SQL expression: an instant after `now`, or NULL. The arguments are those of `condition_sql`."""
    writer = _TimeWriter(parameters, "profiles", alias, now, project)
    times = list(writer.write_times(conditions))
    return f"LEAST({', '.join(times)})" if times else "NULL::timestamptz"


class _TimeWriter(ConditionWriter):
    """Writes one instant for each test that looks at the clock."""

    def write_times(self, conditions: Sequence[Condition]) -> Iterator[str]:
        for condition in conditions:
            if condition.events is not None:
                yield from self._leaving(condition.events, condition.op, condition.value)
            elif condition.op == ConditionOperator.IS_ANNIVERSARY:
                yield self._next_day_that_turns(parse_path(condition.path or ""))
            yield from self.write_times(condition.any or ())
            yield from self.write_times(condition.all or ())
            yield from self.write_times(() if condition.negate is None else (condition.negate,))

    def _leaving(self, count: EventCount, op: str | None, value: Any) -> Iterator[str]:
        """When an event leaves the window with which the answer turns."""
        if count.within_seconds is None:
            return
        span = timedelta(seconds=count.within_seconds) + JUST_AFTER
        boundaries = None if count.sum is not None else count_boundaries(op, value)
        if boundaries is None:
            oldest = f"SELECT min(counted.timestamp) FROM {self._counted_rows(count)}"
            yield f"(({oldest}) + {self._bind(span)}::interval)"
            return
        for boundary in boundaries:
            newest = f"SELECT counted.timestamp FROM {self._counted_rows(count)} ORDER BY counted.timestamp DESC"
            yield f"(({newest} OFFSET {self._bind(boundary - 1)}::bigint LIMIT 1) + {self._bind(span)}::interval)"

    def _next_day_that_turns(self, path: Path) -> str:
        """The next local midnight at which today becomes, or ceases to be, the anniversary.

        Where the clock is put back at midnight there are two: the day begins with the first.
        """
        now, zone = self._today_of(path)
        return f"""(
            SELECT CASE
                WHEN (turn.at - interval '1 hour') AT TIME ZONE person.zone >= turn.day THEN turn.at - interval '1 hour'
                ELSE turn.at
            END
            FROM (
                SELECT {zone} AS zone, {self._month_day(path, zone)} AS day
            ) AS person
            CROSS JOIN LATERAL (
                SELECT ({now} AT TIME ZONE person.zone)::date AS today
            ) AS local
            CROSS JOIN LATERAL (
                SELECT min(candidate.day) AS day FROM (
                    VALUES
                        ({_day_in("extract(year FROM local.today)::integer")}),
                        ({_day_in("extract(year FROM local.today)::integer")} + 1),
                        ({_day_in("extract(year FROM local.today)::integer + 1")})
                ) AS candidate (day)
                WHERE candidate.day > local.today
            ) AS next
            CROSS JOIN LATERAL (
                SELECT next.day::timestamp AS day, next.day::timestamp AT TIME ZONE person.zone AS at
            ) AS turn
        )"""


def _day_in(year: str) -> str:
    """The anniversary in a year; NULL for what is no day of any year."""
    ordinary = f"make_date({year}, substr(person.day, 1, 2)::integer, substr(person.day, 4, 2)::integer)"
    leap_day = f"make_date({year}, 3, 1) - 1"
    return f"CASE WHEN person.day = '02-29' THEN {leap_day} WHEN person.day ~ '{_VALID_DAY}' THEN {ordinary} END"


def count_boundaries(op: str | None, value: Any) -> list[int] | None:
    """The counts k such that the answer at k may differ from that at k - 1; None where there are many."""
    values = value if isinstance(value, list) else [value]
    found: set[int] = set()
    for each in values:
        match op:
            case ConditionOperator.GTE | ConditionOperator.LT:
                found.add(math.ceil(each))
            case ConditionOperator.GT | ConditionOperator.LTE:
                found.add(math.floor(each) + 1)
            case _ if each == math.floor(each):
                found |= {math.floor(each), math.floor(each) + 1}
    reachable = sorted(each for each in found if 1 <= each < 2**62)
    return reachable if len(reachable) <= MAX_BOUNDARIES else None


class Turn(msgspec.Struct, frozen=True):
    """What conditions say about somebody, and until when they do if nothing happens; None: for ever."""

    user_id: str
    is_member: bool
    recheck_at: datetime | None
