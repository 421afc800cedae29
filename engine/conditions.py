"""The condition language on values in memory: what a list of conditions says about one event.

Logic has two values: a test is true or false, never unknown, so `NE` is exactly not `EQ`. A path that leads nowhere
and a path that leads to null read the same: nothing. Numbers compare by value and exactly (1 is 1.0; 0.1 is not
0.10000000000000001), strings by code point, and nothing is ever converted into something else. `db.conditions` writes
the same tests as SQL; a property test holds the two together. docs/conditions.md says it for users.

Conditions arrive through `engine.condition_input`, which has refused everything that could not be evaluated. Counts of
events and fields of people need the database: they are not for this module.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from datetime import UTC, date, datetime, tzinfo
from decimal import Decimal
from typing import Any, TypeAlias

import msgspec

from db.condition_terms import FieldKind, Path, anniversary_days, parse_instant, parse_path
from db.filters import Condition, ConditionOperator
from db.records import EventRecord
from engine.condition_input import InvalidCondition, parse_conditions, unparse_conditions

__all__ = [
    "EventView",
    "InvalidCondition",
    "Matcher",
    "compile_conditions",
    "compile_value_test",
    "matches",
    "parse_conditions",
    "unparse_conditions",
]

_INDEX = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]+")
"""An array index as PostgreSQL's `#>` reads one, so that both walk alike."""

_INDEX_LIMIT = 2**31

_DATE = re.compile(r"[0-9]{4}-([0-9]{2}-[0-9]{2})(?:[T ].*)?", re.DOTALL)

_decoder = msgspec.json.Decoder(float_hook=Decimal)


class EventView:
    """An event whose JSON is decoded when a condition first looks inside, and then only once. Not for keeping."""

    __slots__ = ("_json", "event")

    def __init__(self, event: EventRecord) -> None:
        self.event = event
        self._json: dict[str, Any] = {}

    def read(self, path: Path) -> Any:
        """What the path leads to; None for nothing."""
        if path.field in _COLUMNS:
            return _COLUMNS[path.field](self.event)
        try:
            value = self._json[path.field]
        except KeyError:
            raw = self.event.properties if path.field == "properties" else self.event.context
            value = self._json[path.field] = _decoder.decode(raw)
        return _walk(value, path.keys)

    def received_on(self, timezone: tzinfo) -> date:
        """The day on which the event was received: the *today* of IS_ANNIVERSARY, so that an event decides alone."""
        return self.event.received_at.astimezone(timezone).date()


_COLUMNS: dict[str, Callable[[EventRecord], Any]] = {
    "eventType": lambda event: event.event_type,
    "module": lambda event: event.module,
    "key": lambda event: event.key,
    "seq": lambda event: event.seq,
    "userId": lambda event: event.user_id,
    "anonymousId": lambda event: event.anonymous_id,
    "timestamp": lambda event: event.timestamp,
    "receivedAt": lambda event: event.received_at,
}

Matcher: TypeAlias = Callable[[EventView], bool]
_Test: TypeAlias = Callable[[Any], bool]


def matches(conditions: Sequence[Condition], event: EventRecord, *, timezone: tzinfo = UTC) -> bool:
    """Whether all conditions hold. To test many events, or one event many times, use `compile_conditions`."""
    return compile_conditions(conditions, timezone=timezone)(EventView(event))


def compile_conditions(conditions: Sequence[Condition], *, timezone: tzinfo = UTC) -> Matcher:
    """The conditions as one function of an event. `timezone` is the person's, for IS_ANNIVERSARY.

    Raises `ValueError` for paths outside `event` and for counts of events: an event alone cannot decide those.
    """
    matchers = [_compile(condition, timezone) for condition in conditions]
    if len(matchers) == 1:
        return matchers[0]
    return lambda view: all(matcher(view) for matcher in matchers)


def _compile(condition: Condition, timezone: tzinfo) -> Matcher:
    if condition.any is not None:
        matchers = [_compile(inner, timezone) for inner in condition.any]
        return lambda view: any(matcher(view) for matcher in matchers)
    if condition.all is not None:
        return compile_conditions(condition.all, timezone=timezone)
    if condition.negate is not None:
        negated = _compile(condition.negate, timezone)
        return lambda view: not negated(view)
    return _compile_test(condition, timezone)


def _compile_test(condition: Condition, timezone: tzinfo) -> Matcher:
    path = None if condition.path is None else parse_path(condition.path)
    if path is None or path.root != "event" or condition.op is None:
        raise ValueError("only tests of event.* can be decided by an event alone")
    if condition.op == ConditionOperator.IS_ANNIVERSARY:
        return lambda view: _month_day(view.read(path), timezone) in anniversary_days(view.received_on(timezone))
    expected = _instants(condition.value) if path.kind is FieldKind.INSTANT else condition.value
    test = _TESTS[ConditionOperator(condition.op)](expected)
    return lambda view: test(view.read(path))


def compile_value_test(op: str, value: Any) -> Callable[[Any], bool]:
    """A comparison with a value, as one function of what is compared: JSON, a number, a string, or None for nothing."""
    return _TESTS[ConditionOperator(op)](value)


def equality_of(condition: Condition) -> tuple[Path, Hashable] | None:
    """The field of an event that has to be one value, and that value's stand-in; None for any other condition.

    It holds of an event exactly when `stand_in(view, path)` is that.
    """
    path = None if condition.path is None else parse_path(condition.path)
    if path is None or path.root != "event" or path.kind is FieldKind.INSTANT or condition.op != ConditionOperator.EQ:
        return None
    return path, _comparable(condition.value)


def stand_in(view: EventView, path: Path) -> Hashable:
    """What the path leads to, as something to look up."""
    return _comparable(view.read(path))  # type: ignore[no-any-return]


def _walk(value: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list):
            value = _element(value, key)
        else:
            return None
    return value


def _element(array: list[Any], key: str) -> Any:
    if _INDEX.fullmatch(key) is None:
        return None
    index = int(key)
    within = -_INDEX_LIMIT <= index < _INDEX_LIMIT and -len(array) <= index < len(array)
    return array[index] if within else None


def _comparable(value: Any) -> Any:
    """A hashable stand-in, equal for two JSON values exactly when they are the same JSON (true is not 1)."""
    match value:
        case bool():
            return ("boolean", value)
        case float():
            return Decimal(repr(value))
        case list():
            return ("array", tuple(_comparable(item) for item in value))
        case dict():
            return ("object", frozenset((key, _comparable(item)) for key, item in value.items()))
        case _:
            return value


def _instants(value: Any) -> Any:
    match value:
        case str():
            return parse_instant(value)
        case list():
            return [_instants(item) for item in value]
        case _:
            return value


def _month_day(value: Any, timezone: tzinfo) -> str | None:
    """MM-DD of an instant in the time zone; of a string, the date it starts with, as it is written."""
    if isinstance(value, datetime):
        return value.astimezone(timezone).strftime("%m-%d")
    found = _DATE.fullmatch(value) if isinstance(value, str) else None
    return found.group(1) if found else None


def _equals(expected: Any) -> _Test:
    comparable = _comparable(expected)
    return lambda value: bool(_comparable(value) == comparable)


def _is_in(expected: Sequence[Any]) -> _Test:
    comparables = frozenset(_comparable(item) for item in expected)
    return lambda value: _comparable(value) in comparables


def _contains(expected: Any) -> _Test:
    comparable = _comparable(expected)

    def test(value: Any) -> bool:
        if isinstance(value, str):
            return isinstance(expected, str) and expected in value
        return isinstance(value, list) and any(_comparable(item) == comparable for item in value)

    return test


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any], _Test]:
    def build(expected: Any) -> _Test:
        comparable = _comparable(expected)
        same_kind = _kind(comparable)
        return lambda value: _kind(value) is same_kind and compare(value, comparable)

    return build


def _kind(value: Any) -> type | None:
    """Number, string or instant: what GT and its kin can put in order."""
    match value:
        case bool():
            return None
        case int() | Decimal():
            return Decimal
        case str():
            return str
        case datetime():
            return datetime
        case _:
            return None


def _on_strings(compare: Callable[[str, str], bool]) -> Callable[[Any], _Test]:
    return lambda expected: lambda value: isinstance(value, str) and compare(value, expected)


def _opposite(build: Callable[[Any], _Test]) -> Callable[[Any], _Test]:
    def opposite(expected: Any) -> _Test:
        test = build(expected)
        return lambda value: not test(value)

    return opposite


def _exists(_: Any) -> _Test:
    return lambda value: value is not None


_TESTS: dict[ConditionOperator, Callable[[Any], _Test]] = {
    ConditionOperator.EQ: _equals,
    ConditionOperator.NE: _opposite(_equals),
    ConditionOperator.GT: _ordered(lambda value, expected: value > expected),
    ConditionOperator.GTE: _ordered(lambda value, expected: value >= expected),
    ConditionOperator.LT: _ordered(lambda value, expected: value < expected),
    ConditionOperator.LTE: _ordered(lambda value, expected: value <= expected),
    ConditionOperator.IN: _is_in,
    ConditionOperator.NOT_IN: _opposite(_is_in),
    ConditionOperator.CONTAINS: _contains,
    ConditionOperator.STARTS_WITH: _on_strings(str.startswith),
    ConditionOperator.ENDS_WITH: _on_strings(str.endswith),
    ConditionOperator.EXISTS: _exists,
    ConditionOperator.NOT_EXISTS: _opposite(_exists),
}
