"""An `EventFilter` as a condition on `events AS e`. Values travel as parameters, never in the text."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from db.conditions import condition_sql
from db.filters import EventFilter


def filter_sql(event_filter: EventFilter, parameters: list[Any], *, now: datetime) -> str:
    """A boolean SQL expression over `events AS e`; appends its values to `parameters` and refers to them as $n.

    `now` is what conditions look back from.
    """
    parts = [part for part in _parts(event_filter, parameters, now) if part]
    return " AND ".join(parts) if parts else "true"


def is_selective(event_filter: EventFilter) -> bool:
    """Whether an index leads straight to what matches, so that a page costs what it finds."""
    types = event_filter.event_types
    exact = types is not None and not any("*" in name for name in types)
    return exact or event_filter.user_id is not None or event_filter.keys is not None


def bound_sql(test: str, value: object, parameters: list[Any]) -> str:
    """`test`, as in `e.seq >`, against a value. Without one there is no test: a bound can then always use an index."""
    return _compare(test, value, parameters) or "true"


def _parts(event_filter: EventFilter, parameters: list[Any], now: datetime) -> list[str]:
    return [
        _types(event_filter.event_types, parameters),
        _equal_any("e.module", event_filter.modules, parameters),
        _compare("e.user_id =", event_filter.user_id, parameters),
        _compare("e.anonymous_id =", event_filter.anonymous_id, parameters),
        _equal_any("e.key", event_filter.keys, parameters),
        _compare("e.timestamp >=", event_filter.since, parameters),
        _compare("e.timestamp <", event_filter.until, parameters),
        _conditions(event_filter, parameters, now),
    ]


def _types(names: tuple[str, ...] | None, parameters: list[Any]) -> str:
    if names is None or "*" in names:
        return ""
    exact = tuple(name for name in names if "*" not in name)
    patterns = [_like(name) for name in names if "*" in name]
    if not patterns:
        return _equal_any("e.event_type", exact, parameters)
    likes = f"e.event_type LIKE ANY({_bind(patterns, parameters)})"
    return f"({_equal_any('e.event_type', exact, parameters)} OR {likes})" if exact else likes


def _like(pattern: str) -> str:
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%")


def _equal_any(column: str, values: tuple[str, ...] | None, parameters: list[Any]) -> str:
    return "" if values is None else f"{column} = ANY({_bind(list(values), parameters)})"


def _compare(test: str, value: object, parameters: list[Any]) -> str:
    return "" if value is None else f"{test} {_bind(value, parameters)}"


def _conditions(event_filter: EventFilter, parameters: list[Any], now: datetime) -> str:
    if not event_filter.where:
        return ""
    return condition_sql(event_filter.where, parameters, table="events", alias="e", now=now)


def _bind(value: object, parameters: list[Any]) -> str:
    parameters.append(value)
    return f"${len(parameters)}"
