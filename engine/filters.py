"""Event filters in memory: one event against one filter, and one event against thousands of them.

Guarantees: a filter matches here exactly what `db.event_filters` selects in SQL, so that a stream replayed from the log
and the same stream live hold the same events. `FilterIndex` looks only at filters whose user, key, type or module can
be the event's: an event costs its matches. Pure; nothing to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeAlias, TypeVar

import msgspec

from db.filters import EventFilter
from db.records import EventRecord
from engine.conditions import EventView, compile_conditions
from engine.wildcards import fits, split_pattern

EventMatcher: TypeAlias = Callable[[EventView], bool]
Place: TypeAlias = tuple[str, str | None]
"""Where a filter stands in the index: a property of events, and the value that it must have."""

_EVERYWHERE: Place = ("any", None)

T = TypeVar("T")


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
    tests = list(_tests(event_filter))
    if not tests:
        return lambda _view: True
    if len(tests) == 1:
        return tests[0]
    return lambda view: all(test(view) for test in tests)


def index_places(event_filter: EventFilter) -> tuple[Place, ...]:
    """Every event that the filter matches is in at least one of these places; none if it can match nothing."""
    if event_filter.keys is not None:
        return tuple(("key", key) for key in set(event_filter.keys))
    if event_filter.user_id is not None:
        return (("user", event_filter.user_id),)
    if event_filter.anonymous_id is not None:
        return (("anonymous", event_filter.anonymous_id),)
    if event_filter.event_types is not None:
        places = {_place_of_type(name) for name in event_filter.event_types}
        if _EVERYWHERE not in places:
            return tuple(places)
    if event_filter.modules is not None:
        return tuple(("module", module) for module in set(event_filter.modules))
    return (_EVERYWHERE,)


class FilterIndex(Generic[T]):
    """Values, each behind a filter. `match` gives those whose filter an event passes, in the order they were added."""

    def __init__(self) -> None:
        self._places: dict[Place, dict[T, EventMatcher]] = {}
        self._orders: dict[T, int] = {}
        self._added = 0

    def add(self, value: T, event_filter: EventFilter) -> None:
        """Raises `ValueError` for conditions that an event alone cannot decide."""
        matcher = compile_filter(event_filter)
        self._added += 1
        self._orders[value] = self._added
        for place in index_places(event_filter):
            self._places.setdefault(place, {})[value] = matcher

    def remove(self, value: T, event_filter: EventFilter) -> None:
        """`event_filter` is what the value was added with."""
        self._orders.pop(value, None)
        for place in index_places(event_filter):
            here = self._places.get(place, {})
            here.pop(value, None)
            if not here:
                self._places.pop(place, None)

    def match(self, event: EventRecord) -> list[T]:
        """Costs a look-up per place of the event, and a test per filter that stands there."""
        candidates = self._candidates(event)
        if not candidates:
            return []
        view = EventView(event)
        found = [value for value, matcher in candidates.items() if matcher(view)]
        if len(found) > 1:
            found.sort(key=self._orders.__getitem__)
        return found

    def _candidates(self, event: EventRecord) -> dict[T, EventMatcher]:
        places = self._places
        candidates: dict[T, EventMatcher] = {}
        for place in _places_of_event(event):
            here = places.get(place)
            if here is not None:
                candidates = {**candidates, **here} if candidates else here
        return candidates


def _places_of_event(event: EventRecord) -> tuple[Place, ...]:
    name = event.event_type
    return (
        _EVERYWHERE,
        ("user", event.user_id),
        ("type", name),
        ("head", name.partition(".")[0]),
        ("tail", name.rpartition(".")[2]),
        ("module", event.module),
        ("key", event.key),
        ("anonymous", event.anonymous_id),
    )


def _place_of_type(name: str) -> Place:
    """A wildcard stands under its first or last dotted part, where that part is written out."""
    if "*" not in name:
        return ("type", name)
    before, after = name.partition("*")[0], name.rpartition("*")[2]
    if "." in before:
        return ("head", before.partition(".")[0])
    if "." in after:
        return ("tail", after.rpartition(".")[2])
    return _EVERYWHERE


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
