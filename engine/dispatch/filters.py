"""Delivery filters in memory, over the items of the deliveries lane.

Guarantees: a filter matches here exactly what `db.delivery_filters` selects in SQL, so that a stream replayed from the
log and the same stream live hold the same transitions. Pure; nothing to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import TypeAlias

import msgspec

from db.delivery_filters import DeliveryFilter
from db.delivery_records import TransitionRecord
from engine.dispatch.status import UNDER_WAY
from engine.dispatch.values import DeliveryStatus
from engine.filter_index import EVERYWHERE, Matching, Place, all_hold, place_of_name, places_of_name
from engine.wildcards import fits, split_pattern

TransitionMatcher: TypeAlias = Callable[[TransitionRecord], bool]

RUN_REPORTS = DeliveryFilter(statuses=tuple(sorted(set(DeliveryStatus) - UNDER_WAY)), of_runs=True)
"""What runs of workflows wait for: their deliveries have come to something."""

_EXACT = {
    "batch_id": attrgetter("batch_id"),
    "user_id": attrgetter("user_id"),
    "workflow_id": attrgetter("workflow_id"),
    "workflow_run_id": attrgetter("workflow_run_id"),
    "endpoint_id": attrgetter("endpoint_id"),
}
"""Fields of the filter that hold one value, which must be the item's."""
_LISTS = {
    "ids": attrgetter("delivery_id"),
    "channels": attrgetter("channel"),
    "statuses": attrgetter("to_status"),
    "error_codes": attrgetter("error_code"),
}
"""Fields of the filter that hold a list, which must hold the item's value."""
_INDEXED = ("workflow_run_id", "batch_id", "user_id", "endpoint_id", "workflow_id")
"""Those of the first kind by which filters are found, the one that fits the fewest items first."""


def delivery_filter_key(delivery_filter: DeliveryFilter) -> bytes:
    """Equal for filters that say the same, whatever the order of their lists."""
    lists = (*_LISTS, "event_types")
    ordered = {name: _ordered(getattr(delivery_filter, name)) for name in lists}
    return msgspec.json.encode(msgspec.structs.replace(delivery_filter, **ordered))


def compile_delivery_filter(delivery_filter: DeliveryFilter) -> TransitionMatcher:
    """The filter as one function."""
    return all_hold(list(_tests(delivery_filter)))


def delivery_places(delivery_filter: DeliveryFilter) -> tuple[Place, ...]:
    """Every transition that the filter matches is in at least one of these places; none if it can match nothing."""
    if delivery_filter.ids is not None:
        return tuple(("id", delivery_id) for delivery_id in set(delivery_filter.ids))
    for name in _INDEXED:
        value = getattr(delivery_filter, name)
        if value is not None:
            return ((name, value),)
    if delivery_filter.event_types is not None:
        places = {place_of_name(name) for name in delivery_filter.event_types}
        if EVERYWHERE not in places:
            return tuple(places)
    return (EVERYWHERE,)


def _places_of_transition(transition: TransitionRecord) -> tuple[Place, ...]:
    names = () if transition.event_type is None else places_of_name(transition.event_type)
    exact = tuple((name, value) for name in _INDEXED if (value := _EXACT[name](transition)) is not None)
    return (EVERYWHERE, ("id", transition.delivery_id), *exact, *names)


def _tests(delivery_filter: DeliveryFilter) -> Iterable[TransitionMatcher]:
    for name, read in _LISTS.items():
        values = getattr(delivery_filter, name)
        if values is not None:
            yield _is_in(read, frozenset(values))
    for name, read in _EXACT.items():
        value = getattr(delivery_filter, name)
        if value is not None:
            yield _is(read, value)
    if delivery_filter.event_types is not None:
        yield _has_name(delivery_filter.event_types)
    if delivery_filter.of_runs:
        yield lambda transition: transition.workflow_run_id is not None
    if (since := delivery_filter.since) is not None:
        yield lambda transition: transition.created_at >= since
    if (until := delivery_filter.until) is not None:
        yield lambda transition: transition.created_at < until


def _is_in(read: Callable[[TransitionRecord], object], values: frozenset[object]) -> TransitionMatcher:
    return lambda transition: read(transition) in values


def _is(read: Callable[[TransitionRecord], object], value: object) -> TransitionMatcher:
    return lambda transition: read(transition) == value


def _has_name(names: tuple[str, ...]) -> TransitionMatcher:
    exact = frozenset(name for name in names if "*" not in name)
    globs = [split_pattern(name) for name in names if "*" in name]

    def test(transition: TransitionRecord) -> bool:
        name = transition.event_type
        return name is not None and (name in exact or any(fits(name, glob) for glob in globs))

    return test


def _ordered(values: tuple[object, ...] | None) -> tuple[object, ...] | None:
    return None if values is None else tuple(sorted(set(values), key=str))


DELIVERY_MATCHING: Matching[DeliveryFilter, TransitionRecord] = Matching(
    key=delivery_filter_key,
    compile=compile_delivery_filter,
    view=lambda transition: transition,
    places=delivery_places,
    places_of=_places_of_transition,
)
