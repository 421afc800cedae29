"""An `EventFilter` as a condition on `events AS e`. Values travel as parameters, never in the text."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from db.conditions import condition_sql
from db.filter_terms import all_of, compare, equal_any, like_any
from db.filters import EventFilter


def filter_sql(event_filter: EventFilter, parameters: list[Any], *, now: datetime) -> str:
    """A boolean SQL expression over `events AS e`; appends its values to `parameters` and refers to them as $n.

    `now` is what conditions look back from.
    """
    return all_of(
        [
            _types(event_filter.event_types, parameters),
            equal_any("e.module", event_filter.modules, parameters),
            compare("e.user_id =", event_filter.user_id, parameters),
            compare("e.anonymous_id =", event_filter.anonymous_id, parameters),
            equal_any("e.key", event_filter.keys, parameters),
            compare("e.timestamp >=", event_filter.since, parameters),
            compare("e.timestamp <", event_filter.until, parameters),
            _conditions(event_filter, parameters, now),
        ]
    )


def is_selective(event_filter: EventFilter) -> bool:
    """Whether an index leads straight to what matches, so that a page costs what it finds."""
    types = event_filter.event_types
    exact = types is not None and not any("*" in name for name in types)
    return exact or event_filter.user_id is not None or event_filter.keys is not None


def bound_sql(test: str, value: object, parameters: list[Any]) -> str:
    """`test`, as in `e.seq >`, against a value. Without one there is no test: a bound can then always use an index."""
    return compare(test, value, parameters) or "true"


def _types(names: tuple[str, ...] | None, parameters: list[Any]) -> str:
    return "" if names is None or "*" in names else like_any("e.event_type", names, parameters)


def _conditions(event_filter: EventFilter, parameters: list[Any], now: datetime) -> str:
    if not event_filter.where:
        return ""
    return condition_sql(event_filter.where, parameters, table="events", alias="e", now=now)
