"""Event filters in memory.

Guarantees: a filter matches here exactly what `db.event_filters` selects in SQL, so that a stream replayed from the log
and the same stream live hold the same events. In an index (engine.filter_index) it stands where only events of its
user, key, type or module are. Pure; nothing to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec

from db.filters import EventFilter
from db.records import EventRecord
from engine.conditions import EventView, compile_conditions
from engine.filter_index import EVERYWHERE, Matching, Place, all_hold, place_of_name, places_of_name
from engine.wildcards import fits, split_pattern

EventMatcher: TypeAlias = Callable[[EventView], bool]


def filter_key(event_filter: EventFilter) -> bytes:
    """Equal for filters that say the same, whatever the order of their lists. Hashable, unlike conditions' values."""
    ordered = msgspec.structs.replace(
        event_filter,
        event_types=_ordered(event_filter.event_types),
        modules=_ordered(event_filter.modules),
        keys=_ordered(event_filter.keys),
    )
    return msgspec.json.encode(ordered)


def compile_filter(event_filter: EventFilter) -> EventMatcher:
    """The filter as one function. Raises `ValueError` for conditions that an event alone cannot decide."""
    return all_hold(list(_tests(event_filter)))


def index_places(event_filter: EventFilter) -> tuple[Place, ...]:
    """Every event that the filter matches is in at least one of these places; none if it can match nothing."""
    if event_filter.keys is not None:
        return tuple(("key", key) for key in set(event_filter.keys))
    if event_filter.user_id is not None:
        return (("user", event_filter.user_id),)
    if event_filter.anonymous_id is not None:
        return (("anonymous", event_filter.anonymous_id),)
    if event_filter.event_types is not None:
        places = {place_of_name(name) for name in event_filter.event_types}
        if EVERYWHERE not in places:
            return tuple(places)
    if event_filter.modules is not None:
        return tuple(("module", module) for module in set(event_filter.modules))
    return (EVERYWHERE,)


def _places_of_event(event: EventRecord) -> tuple[Place, ...]:
    return (
        EVERYWHERE,
        ("user", event.user_id),
        *places_of_name(event.event_type),
        ("module", event.module),
        ("key", event.key),
        ("anonymous", event.anonymous_id),
    )


def _tests(event_filter: EventFilter) -> Iterable[EventMatcher]:
    if event_filter.event_types is not None and "*" not in event_filter.event_types:
        yield _type_test(event_filter.event_types)
    if event_filter.modules is not None:
        modules = frozenset(event_filter.modules)
        yield lambda view: view.event.module in modules
    if (user_id := event_filter.user_id) is not None:
        yield lambda view: view.event.user_id == user_id
    if (anonymous_id := event_filter.anonymous_id) is not None:
        yield lambda view: view.event.anonymous_id == anonymous_id
    if event_filter.keys is not None:
        keys = frozenset(event_filter.keys)
        yield lambda view: view.event.key in keys
    if (since := event_filter.since) is not None:
        yield lambda view: view.event.timestamp >= since
    if (until := event_filter.until) is not None:
        yield lambda view: view.event.timestamp < until
    if event_filter.where:
        yield compile_conditions(event_filter.where)


def _type_test(names: tuple[str, ...]) -> EventMatcher:
    exact = frozenset(name for name in names if "*" not in name)
    if len(exact) == len(set(names)):
        return lambda view: view.event.event_type in exact
    globs = [split_pattern(name) for name in names if "*" in name]
    return lambda view: view.event.event_type in exact or any(fits(view.event.event_type, glob) for glob in globs)


def _ordered(values: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(sorted(set(values)))


EVENT_MATCHING: Matching[EventFilter, EventRecord] = Matching(
    key=filter_key, compile=compile_filter, view=EventView, places=index_places, places_of=_places_of_event
)
