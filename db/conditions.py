"""The condition language as SQL, over rows of `events` or `profiles`: the same answers as `engine.conditions`.

Every test is written so that it gives true or false for any stored JSON, never NULL and never an error: JSON is
compared as JSON (numbers by value), text is taken out only of strings, and the one cast (`sum`) and the one
set-returning call (`CONTAINS`) are guarded by CASE. Whatever a caller supplies, keys of paths included, travels as a
parameter; the text is made of constants only. Conditions must have passed `engine.condition_input`.
"""

# ruff: noqa: S608
# The statements' text is made of constants and $n only; a test throws hostile keys and values at them.

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec

from db.condition_terms import FieldKind, Path, parse_instant, parse_path
from db.filters import Condition, ConditionOperator, EventCount

CONSENT_WITHOUT_RECORD = "UNKNOWN"
"""The state of every purpose that a person has said nothing about."""

_MAX_COUNT = 2**62
"""Where a bigint LIMIT is safe; no log is longer."""

_EVENT_COLUMNS = {
    "eventType": "event_type",
    "module": "module",
    "key": "key",
    "seq": "seq",
    "userId": "user_id",
    "anonymousId": "anonymous_id",
    "timestamp": "timestamp",
    "receivedAt": "received_at",
    "properties": "properties",
    "context": "context",
}
_PROFILE_COLUMNS = {"userId": "user_id", "anonymous": "anonymous", "createdAt": "created_at", "traits": "traits"}

_COMPARISONS = {
    ConditionOperator.EQ: "=",
    ConditionOperator.NE: "<>",
    ConditionOperator.GT: ">",
    ConditionOperator.GTE: ">=",
    ConditionOperator.LT: "<",
    ConditionOperator.LTE: "<=",
}
_OPPOSITES = {
    ConditionOperator.NE: ConditionOperator.EQ,
    ConditionOperator.NOT_IN: ConditionOperator.IN,
    ConditionOperator.NOT_EXISTS: ConditionOperator.EXISTS,
}


def condition_sql(
    conditions: Sequence[Condition],
    parameters: list[Any],
    *,
    table: Literal["events", "profiles"],
    alias: str,
    now: datetime,
    project: str | None = None,
) -> str:
    """One boolean SQL expression: do all conditions hold for the row of `table` that the statement calls `alias`?

    Appends to `parameters` what the expression refers to as $n, counting on from those already there. `now` is what
    `withinSeconds` looks back from and what IS_ANNIVERSARY calls today for a person (an event's today is the day, in
    UTC, on which it was received). Over profiles, `event.*` is possible only inside counts of events.
    `project` is the parameter that holds the rows' project, e.g. `$1`: with it a count is planned for one partition.
    """
    return ConditionWriter(parameters, table, alias, now, project).write_all(conditions)


def count_test_sql(test: Condition, parameters: list[Any], *, alias: str, project: str) -> str:
    """Whether a test of a count holds for a row that the statement calls `alias`, of a person as of a moment.

    The row has a user_id, the `seq` up to which events count, and `at`, from which `withinSeconds` looks back. `test`
    is one of `events`, `project` as in `condition_sql`, which says how `parameters` are appended to.
    """
    return ConditionWriter(parameters, "profiles", alias, None, project).write_all([test])


class ConditionWriter:
    """Writes tests for the rows of one table. Without a `now` each row has a moment of its own: `at`, and a `seq`."""

    def __init__(
        self,
        parameters: list[Any],
        table: Literal["events", "profiles"],
        alias: str,
        now: datetime | None,
        project: str | None = None,
    ) -> None:
        self._parameters = parameters
        self._table = table
        self._alias = alias
        self._now = now
        self._project = project or f"{alias}.project_id"

    def write_all(self, conditions: Sequence[Condition], joined_by: str = " AND ") -> str:
        return "(" + joined_by.join(self._write(condition) for condition in conditions) + ")" if conditions else "true"

    def _write(self, condition: Condition) -> str:
        if condition.any is not None:
            return self.write_all(condition.any, " OR ") if condition.any else "false"
        if condition.all is not None:
            return self.write_all(condition.all)
        if condition.negate is not None:
            return f"(NOT {self._write(condition.negate)})"
        if condition.op is None:
            raise ValueError("a test has an operator")
        op = ConditionOperator(condition.op)
        if condition.events is not None:
            return self._count_test(condition.events, op, condition.value)
        return self._path_test(parse_path(condition.path or ""), op, condition.value)

    def _path_test(self, path: Path, op: ConditionOperator, value: Any) -> str:
        if op in _OPPOSITES:
            return f"(NOT {self._path_test(path, _OPPOSITES[op], value)})"
        if op is ConditionOperator.IS_ANNIVERSARY:
            return self._anniversary_test(path)
        column = self._column(path)
        match path.kind:
            case FieldKind.STRING | FieldKind.CONSENT:
                return self._text_test(column, op, value)
            case FieldKind.INSTANT:
                return self._instant_test(column, op, value)
            case FieldKind.JSON:
                return self._json_test(self._json(path, column), op, value)
            case FieldKind.NUMBER | FieldKind.BOOLEAN:
                return self._json_test(f"to_jsonb({column})", op, value)

    def _column(self, path: Path) -> str:
        match path.root, path.field:
            case "event", field if self._table == "events":
                return f"{self._alias}.{_EVENT_COLUMNS[field]}"
            case "profile", "consent":
                return self._consent(path.keys[0])
            case "profile", "lastSeenAt":
                return self._last_seen()
            case "profile", field if self._table == "profiles":
                return f"{self._alias}.{_PROFILE_COLUMNS[field]}"
            case "profile", field:
                return self._of_person(_PROFILE_COLUMNS[field])
            case root, _:
                raise ValueError(f"rows of {self._table} have no {root}.*")

    def _of_person(self, column: str) -> str:
        return (
            f"(SELECT person.{column} FROM profiles AS person"
            f" WHERE person.project_id = {self._project} AND person.user_id = {self._alias}.user_id)"
        )

    def _last_seen(self) -> str:
        return (
            f"(SELECT latest.timestamp FROM events AS latest"
            f" WHERE latest.project_id = {self._project} AND latest.user_id = {self._alias}.user_id"
            f" ORDER BY latest.seq DESC LIMIT 1)"
        )

    def _consent(self, purpose: str) -> str:
        return (
            f"COALESCE((SELECT said.state FROM consents AS said"
            f" WHERE said.project_id = {self._project} AND said.user_id = {self._alias}.user_id"
            f" AND said.purpose = {self._bind(purpose.upper())}::text), '{CONSENT_WITHOUT_RECORD}')"
        )

    def _json(self, path: Path, column: str) -> str:
        inner = f"{column} #> {self._bind(list(path.keys))}::text[]" if path.keys else column
        return f"NULLIF({inner}, 'null'::jsonb)"

    def _bind(self, value: Any) -> str:
        self._parameters.append(value)
        return f"${len(self._parameters)}"

    def _bind_json(self, value: Any) -> str:
        """As text that the server casts, so that it is the same with or without a codec for jsonb."""
        return f"{self._bind(msgspec.json.encode(value).decode())}::text::jsonb"

    def _json_test(self, value_sql: str, op: ConditionOperator, value: Any) -> str:
        text = f"({value_sql} #>> '{{}}')"
        match op:
            case ConditionOperator.EXISTS:
                return f"({value_sql} IS NOT NULL)"
            case ConditionOperator.EQ if value is None:
                return f"({value_sql} IS NULL)"
            case ConditionOperator.EQ:
                return f"COALESCE({value_sql} = {self._bind_json(value)}, false)"
            case ConditionOperator.IN:
                return self._json_in(value_sql, value)
            case ConditionOperator.CONTAINS:
                return self._json_contains(value_sql, text, value)
            case ConditionOperator.STARTS_WITH | ConditionOperator.ENDS_WITH:
                return f"COALESCE(jsonb_typeof({value_sql}) = 'string' AND {self._affix(text, op, value)}, false)"
            case _ if isinstance(value, str):
                ordered = f'{text} COLLATE "C" {_COMPARISONS[op]} {self._bind(value)}::text'
                return f"COALESCE(jsonb_typeof({value_sql}) = 'string' AND {ordered}, false)"
            case _:
                ordered = f"{value_sql} {_COMPARISONS[op]} {self._bind_json(value)}"
                return f"COALESCE(jsonb_typeof({value_sql}) = 'number' AND {ordered}, false)"

    def _json_in(self, value_sql: str, values: Sequence[Any]) -> str:
        listed = [value for value in values if value is not None]
        member = f"COALESCE({value_sql} = ANY (ARRAY(SELECT jsonb_array_elements({self._bind_json(listed)}))), false)"
        return self._or_nothing(member, value_sql, values)

    def _json_contains(self, value_sql: str, text: str, value: Any) -> str:
        typed = f"jsonb_typeof({value_sql})"
        substring = f"strpos({text}, {self._bind(value)}::text) > 0" if isinstance(value, str) else "false"
        array = f"CASE WHEN {typed} = 'array' THEN {value_sql} ELSE '[]'::jsonb END"
        element = f"{self._bind_json(value)} IN (SELECT jsonb_array_elements({array}))"
        return f"(CASE {typed} WHEN 'string' THEN {substring} WHEN 'array' THEN {element} ELSE false END)"

    def _affix(self, text: str, op: ConditionOperator, value: str) -> str:
        if op is ConditionOperator.STARTS_WITH:
            return f"starts_with({text}, {self._bind(value)}::text)"
        return f'right({text}, {len(value)}) COLLATE "C" = {self._bind(value)}::text'

    def _text_test(self, column: str, op: ConditionOperator, value: Any) -> str:
        match op:
            case ConditionOperator.EXISTS:
                return f"({column} IS NOT NULL)"
            case ConditionOperator.EQ if value is None:
                return f"({column} IS NULL)"
            case ConditionOperator.IN:
                listed = self._bind([item for item in value if item is not None])
                return self._or_nothing(f"({column} IS NOT NULL AND {column} = ANY ({listed}::text[]))", column, value)
            case ConditionOperator.CONTAINS:
                test = f"strpos({column}, {self._bind(value)}::text) > 0"
            case ConditionOperator.STARTS_WITH | ConditionOperator.ENDS_WITH:
                test = self._affix(column, op, value)
            case ConditionOperator.EQ:
                test = f"{column} = {self._bind(value)}::text"
            case _:
                test = f'{column} COLLATE "C" {_COMPARISONS[op]} {self._bind(value)}::text'
        return f"({column} IS NOT NULL AND {test})"

    def _instant_test(self, column: str, op: ConditionOperator, value: Any) -> str:
        match op:
            case ConditionOperator.EXISTS:
                return f"({column} IS NOT NULL)"
            case ConditionOperator.EQ if value is None:
                return f"({column} IS NULL)"
            case ConditionOperator.IN:
                listed = self._bind([parse_instant(item) for item in value if item is not None])
                member = f"({column} IS NOT NULL AND {column} = ANY ({listed}::timestamptz[]))"
                return self._or_nothing(member, column, value)
            case _:
                instant = self._bind(parse_instant(value))
                return f"({column} IS NOT NULL AND {column} {_COMPARISONS[op]} {instant}::timestamptz)"

    def _or_nothing(self, member: str, value_sql: str, values: Sequence[Any]) -> str:
        return f"({member} OR {value_sql} IS NULL)" if None in values else member

    def _anniversary_test(self, path: Path) -> str:
        now, zone = self._today_of(path)
        today = f"{now} AT TIME ZONE {zone}"
        day = self._month_day(path, zone)
        leap_day = f"{day} = '02-29' AND to_char({today}, 'MM-DD') = '02-28'"
        no_leap_day = f"to_char({today} + interval '1 day', 'MM-DD') = '03-01'"
        return f"COALESCE({day} = to_char({today}, 'MM-DD') OR ({leap_day} AND {no_leap_day}), false)"

    def _today_of(self, path: Path) -> tuple[str, str]:
        """Instant and time zone, as SQL, that decide which day it is: a person's zone is their trait `timezone`, or
        else the project's."""
        if path.root == "event":
            return f"{self._alias}.received_at", "'UTC'"
        named = f"({self._column(Path('profile', 'traits'))} ->> 'timezone')"
        known = f"EXISTS (SELECT FROM time_zones AS zone WHERE zone.name = {named})"
        default = (
            "SELECT s.default_timezone FROM project_settings AS s"
            " JOIN time_zones AS zone ON zone.name = s.default_timezone"
            f" WHERE s.project_id = {self._project}"
        )
        otherwise = f"COALESCE(({default}), 'UTC')"
        return f"{self._bind(self._now)}::timestamptz", f"(CASE WHEN {known} THEN {named} ELSE {otherwise} END)"

    def _month_day(self, path: Path, zone: str) -> str:
        column = self._column(path)
        if path.kind is FieldKind.INSTANT:
            return f"to_char({column} AT TIME ZONE {zone}, 'MM-DD')"
        value_sql = self._json(path, column)
        text = f"({value_sql} #>> '{{}}')"
        is_date = f"jsonb_typeof({value_sql}) = 'string' AND {text} ~ '^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([T ]|$)'"
        return f"(CASE WHEN {is_date} THEN substr({text}, 6, 5) END)"

    def _count_test(self, count: EventCount, op: ConditionOperator, value: Any) -> str:
        measured = self._sum(count) if count.sum is not None else self._count(count, value)
        if op in _COMPARISONS:
            return f"({measured} {_COMPARISONS[op]} {self._bind(repr(value))}::text::numeric)"
        member = f"({measured} = ANY ({self._bind([repr(item) for item in value])}::text[]::numeric[]))"
        return f"(NOT {member})" if op is ConditionOperator.NOT_IN else member

    def _count(self, count: EventCount, value: Any) -> str:
        """Counts no further than the comparison can tell apart: *at least once* reads one row."""
        highest = max(value if isinstance(value, list) else [value], default=0)
        enough = min(max(math.floor(highest), 0) + 1, _MAX_COUNT)
        rows = f"SELECT FROM {self._counted_rows(count)} LIMIT {self._bind(enough)}::bigint"
        return f"(SELECT count(*) FROM ({rows}) AS enough)"

    def _sum(self, count: EventCount) -> str:
        path = parse_path(count.sum or "")
        summed = self._json(path, f"counted.{_EVENT_COLUMNS[path.field]}")
        number = f"CASE WHEN jsonb_typeof({summed}) = 'number' THEN ({summed})::numeric END"
        return f"(SELECT COALESCE(sum({number}), 0) FROM {self._counted_rows(count)})"

    def _counted_rows(self, count: EventCount) -> str:
        owner = f"counted.project_id = {self._project} AND counted.user_id = {self._alias}.user_id"
        tests = [owner, self._event_types_test(count.event_types)]
        if self._now is None:
            tests.append(f"counted.seq <= {self._alias}.seq")
        if count.within_seconds is not None:
            tests.append(f"counted.timestamp >= {self._since(timedelta(seconds=count.within_seconds))}")
        tests.append(ConditionWriter(self._parameters, "events", "counted", self._now).write_all(count.where))
        return f"events AS counted WHERE {' AND '.join(tests)}"

    def _since(self, span: timedelta) -> str:
        if self._now is None:
            return f"{self._alias}.at - {self._bind(span)}::interval"
        return f"{self._bind(self._now - span)}::timestamptz"

    def _event_types_test(self, names: Sequence[str]) -> str:
        exact = [name for name in names if "*" not in name]
        tests = [f"counted.event_type LIKE {self._bind(like_pattern(name))}::text" for name in names if "*" in name]
        if exact:
            tests.append(f"counted.event_type = ANY ({self._bind(exact)}::text[])")
        return f"({' OR '.join(tests)})"


def like_pattern(wildcard: str) -> str:
    """What LIKE takes for a wildcard over event types."""
    escaped = wildcard.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%")
