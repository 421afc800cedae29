"""Filters of a lane in memory: one item against thousands of them.

`FilterIndex` looks only at filters that stand in one of the item's places, so an item costs its matches. What a filter
means and where it stands is the lane's to say (`Matching`). Pure; nothing to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

Place: TypeAlias = tuple[str, Hashable]
"""Where a filter stands in the index: a property of items, and the value that it must have."""

EVERYWHERE: Place = ("any", None)
"""Where every item is."""

F = TypeVar("F")
"""A lane's filter."""
R = TypeVar("R")
"""A lane's record."""
T = TypeVar("T")


class Matching(msgspec.Struct, Generic[F, R], frozen=True):
    """How one lane's filters are kept in memory.

    `key` is equal for filters that say the same, and hashable. `compile` makes a filter one function of a `view` of the
    record (made once per record, for all filters); it raises `ValueError` for a filter that the record cannot decide.
    Every record that a filter matches is in at least one of the filter's `places`: `places_of` gives the record's.
    """

    key: Callable[[F], bytes]
    compile: Callable[[F], Callable[[Any], bool]]
    view: Callable[[R], Any]
    places: Callable[[F], tuple[Place, ...]]
    places_of: Callable[[R], tuple[Place, ...]]


class FilterIndex(Generic[T, F, R]):
    """Values, each behind a filter. `match` gives those whose filter a record passes, in the order they were added."""

    def __init__(self, matching: Matching[F, R]) -> None:
        self._matching = matching
        self._places: dict[Place, dict[T, Callable[[Any], bool]]] = {}
        self._orders: dict[T, int] = {}
        self._added = 0

    def add(self, value: T, item_filter: F) -> None:
        """Raises `ValueError` for a filter that a record alone cannot decide."""
        matcher = self._matching.compile(item_filter)
        self._added += 1
        self._orders[value] = self._added
        for place in self._matching.places(item_filter):
            self._places.setdefault(place, {})[value] = matcher

    def remove(self, value: T, item_filter: F) -> None:
        """`item_filter` is what the value was added with."""
        self._orders.pop(value, None)
        for place in self._matching.places(item_filter):
            here = self._places.get(place, {})
            here.pop(value, None)
            if not here:
                self._places.pop(place, None)

    def match(self, record: R) -> list[T]:
        """Costs a look-up per place of the record, and a test per filter that stands there."""
        candidates = self._candidates(record)
        if not candidates:
            return []
        view = self._matching.view(record)
        found = [value for value, matcher in candidates.items() if matcher(view)]
        if len(found) > 1:
            found.sort(key=self._orders.__getitem__)
        return found

    def _candidates(self, record: R) -> dict[T, Callable[[Any], bool]]:
        places = self._places
        candidates: dict[T, Callable[[Any], bool]] = {}
        for place in self._matching.places_of(record):
            here = places.get(place)
            if here is not None:
                candidates = {**candidates, **here} if candidates else here
        return candidates


def all_hold(tests: list[Callable[[R], bool]]) -> Callable[[R], bool]:
    """The tests as one; without any, everything passes."""
    if not tests:
        return lambda _view: True
    if len(tests) == 1:
        return tests[0]
    return lambda view: all(test(view) for test in tests)


def place_of_name(name: str) -> Place:
    """Where a dotted name or wildcard stands: a wildcard under its first or last part, where that is written out."""
    if "*" not in name:
        return ("type", name)
    before, after = name.partition("*")[0], name.rpartition("*")[2]
    if "." in before:
        return ("head", before.partition(".")[0])
    if "." in after:
        return ("tail", after.rpartition(".")[2])
    return EVERYWHERE


def places_of_name(name: str) -> tuple[Place, ...]:
    """Where a record of this dotted name is, besides everywhere."""
    return ("type", name), ("head", name.partition(".")[0]), ("tail", name.rpartition(".")[2])
