"""Conditions as clients write them: checked and frozen on the way in, given back in the same shape on the way out.

What passes can be evaluated in memory and in SQL without an error, whatever is stored: every impossible test (an
operator that its field or value can never satisfy, a path that names nothing) is refused here, in a sentence that
leads to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from db.condition_terms import FieldKind, Path, PathError, parse_instant, parse_path
from db.filters import Condition, ConditionOperator, EventCount
from engine.errors import BadUserInput
from engine.taxonomy import expand_names

MAX_DEPTH = 8
"""Levels of any, all, not and events. People nest two or three; each costs a frame in Python and a bracket in SQL."""

MAX_CONDITIONS = 200
"""Conditions in one list, inner ones included: what one statement or one event may cost."""

MAX_LIST_VALUES = 1000
"""Values of IN and NOT_IN, as many as a batch has events."""

MAX_STRING_CHARACTERS = 8192
"""Of one string in a value. An event is at most 64 KiB."""

MAX_EVENT_TYPE_CHARACTERS = 200
"""Of the name or wildcard of a count: no stored name is longer."""

MAX_VALUE_DEPTH = 16
"""Levels of arrays and objects in a value."""

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1
"""What JSON readers take for an integer without losing digits."""

MAX_WITHIN_SECONDS = 2**31 - 1
"""What an Int of GraphQL holds: 68 years."""

_EQUALITY = frozenset({ConditionOperator.EQ, ConditionOperator.NE})
_MEMBERSHIP = frozenset({ConditionOperator.IN, ConditionOperator.NOT_IN})
_ORDER = frozenset({ConditionOperator.GT, ConditionOperator.GTE, ConditionOperator.LT, ConditionOperator.LTE})
_EXISTENCE = frozenset({ConditionOperator.EXISTS, ConditionOperator.NOT_EXISTS})
_AFFIXES = frozenset({ConditionOperator.STARTS_WITH, ConditionOperator.ENDS_WITH})
_ON_STRINGS = _AFFIXES | {ConditionOperator.CONTAINS}
_WITHOUT_VALUE = _EXISTENCE | {ConditionOperator.IS_ANNIVERSARY}

_OPERATORS_OF = {
    FieldKind.JSON: frozenset(ConditionOperator),
    FieldKind.STRING: _EQUALITY | _MEMBERSHIP | _ORDER | _EXISTENCE | _ON_STRINGS,
    FieldKind.CONSENT: _EQUALITY | _MEMBERSHIP | _EXISTENCE,
    FieldKind.NUMBER: _EQUALITY | _MEMBERSHIP | _ORDER | _EXISTENCE,
    FieldKind.BOOLEAN: _EQUALITY | _MEMBERSHIP | _EXISTENCE,
    FieldKind.INSTANT: _EQUALITY | _MEMBERSHIP | _ORDER | _EXISTENCE | {ConditionOperator.IS_ANNIVERSARY},
}
_OPERATORS_OF_COUNTS = _EQUALITY | _MEMBERSHIP | _ORDER
_FORMS = ("path", "events", "any", "all", "not")
_KEYS = frozenset({*_FORMS, "op", "value"})
_COUNT_KEYS = frozenset({"eventType", "where", "withinSeconds", "sum"})


class InvalidCondition(BadUserInput):
    """A condition that can never work. `path` leads to the offending part of the input; the message names it too."""

    def __init__(self, path: tuple[str, ...], reason: str) -> None:
        super().__init__(f"{'.'.join(path)} {reason}.", path=path)


def parse_conditions(
    inputs: Sequence[Mapping[str, Any]], *, roots: frozenset[str], path: tuple[str, ...]
) -> tuple[Condition, ...]:
    """Freeze a list of ConditionInput, given as mappings with the names of GraphQL; leave out keys that were not given.

    `roots` (of "event", "profile", "run", "events") says what may be tested here, "events" being counts of events.
    `path` leads to the list, for messages. Raises `InvalidCondition`.
    """
    return _Reader(roots).read_list(inputs, path, depth=1)


def unparse_conditions(conditions: Sequence[Condition]) -> list[dict[str, Any]]:
    """The conditions as JSON of the shape of their input, fit to be sent back."""
    return [_unparse(condition) for condition in conditions]


class _Reader:
    """Reads one list of conditions; counts them, inner ones included."""

    def __init__(self, roots: frozenset[str]) -> None:
        self._roots = roots
        self._count = 0

    def read_list(self, inputs: Any, path: tuple[str, ...], *, depth: int) -> tuple[Condition, ...]:
        if isinstance(inputs, str | Mapping) or not isinstance(inputs, Sequence):
            raise InvalidCondition(path, "must be a list of conditions")
        return tuple(self._read(value, (*path, str(index)), depth) for index, value in enumerate(inputs))

    def _read(self, value: Any, path: tuple[str, ...], depth: int) -> Condition:
        self._check_bounds(path, depth)
        given = _given(value, _KEYS, path)
        forms = [name for name in _FORMS if given.get(name) is not None]
        if len(forms) != 1:
            found = f", not {len(forms)} ({', '.join(forms)})" if forms else ""
            raise InvalidCondition(path, f"must have exactly one of path, events, any, all and not{found}")
        if forms[0] in ("path", "events"):
            return self._read_test(given, path, depth)
        return self._read_group(forms[0], given, path, depth)

    def _check_bounds(self, path: tuple[str, ...], depth: int) -> None:
        self._count += 1
        if self._count > MAX_CONDITIONS:
            raise InvalidCondition(path, f"is one condition too many: send at most {MAX_CONDITIONS}")
        if depth > MAX_DEPTH:
            raise InvalidCondition(path, f"is nested too deeply: use at most {MAX_DEPTH} levels")

    def _read_group(self, form: str, given: Mapping[str, Any], path: tuple[str, ...], depth: int) -> Condition:
        for name in ("op", "value"):
            if given.get(name) is not None:
                raise InvalidCondition((*path, name), f"does not go with {form}: move it into a condition with a path")
        if form == "not":
            return Condition(negate=self._read(given["not"], (*path, "not"), depth + 1))
        inner = self.read_list(given[form], (*path, form), depth=depth + 1)
        if not inner:
            raise InvalidCondition((*path, form), "is empty: give it at least one condition, or leave it out")
        return Condition(any=inner) if form == "any" else Condition(all=inner)

    def _read_test(self, given: Mapping[str, Any], path: tuple[str, ...], depth: int) -> Condition:
        op = _read_operator(given, path)
        if given.get("events") is not None:
            count = self._read_count(given["events"], (*path, "events"), depth)
            _check_count_value(op, given, path)
            return Condition(events=count, op=op, value=given["value"])
        field = self._read_path(given["path"], (*path, "path"))
        _check_value(field, op, given, path)
        return Condition(path=given["path"], op=op, value=None if op in _WITHOUT_VALUE else given["value"])

    def _read_path(self, text: Any, path: tuple[str, ...]) -> Path:
        field = _parsed_path(text, path)
        if field.root not in self._roots:
            allowed = [f"{root}.*" for root in sorted(self._roots - {"events"})]
            raise InvalidCondition(path, f"cannot read {field.root}.* here: use {' or '.join(allowed) or 'events'}")
        return field

    def _read_count(self, value: Any, path: tuple[str, ...], depth: int) -> EventCount:
        if "events" not in self._roots:
            raise InvalidCondition(path, "counts events, which is not possible here: test a path instead")
        given = _given(value, _COUNT_KEYS, path)
        roots, self._roots = self._roots, frozenset({"event"})
        inner = given.get("where")
        where = () if inner is None else self.read_list(inner, (*path, "where"), depth=depth + 1)
        self._roots = roots
        event_type = _read_event_type(given, path)
        return EventCount(
            event_type=event_type,
            event_types=expand_names((event_type,)),
            where=where,
            within_seconds=_read_within_seconds(given, path),
            sum=_read_sum(given, path),
        )


def _given(value: Any, names: frozenset[str], path: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidCondition(path, "must be an object")
    unknown = sorted(str(name) for name in value if name not in names)
    if unknown:
        raise InvalidCondition((*path, unknown[0]), f"is not known: use {', '.join(sorted(names))}")
    return value


def _read_operator(given: Mapping[str, Any], path: tuple[str, ...]) -> str:
    op = given.get("op")
    if op is None:
        raise InvalidCondition((*path, "op"), "is missing: say how to compare, e.g. EQ")
    if not isinstance(op, str) or op not in ConditionOperator.__members__:
        raise InvalidCondition((*path, "op"), f"must be one of {', '.join(ConditionOperator)}")
    return str(ConditionOperator(op))


def _parsed_path(text: Any, path: tuple[str, ...]) -> Path:
    _check_string(text, path)
    try:
        return parse_path(text)
    except PathError as error:
        raise InvalidCondition(path, str(error)) from None


def _read_event_type(given: Mapping[str, Any], path: tuple[str, ...]) -> str:
    event_type = given.get("eventType")
    _check_string(event_type, (*path, "eventType"))
    if not event_type:
        raise InvalidCondition((*path, "eventType"), "is empty: name an event, or use a wildcard such as order.*")
    if len(event_type) > MAX_EVENT_TYPE_CHARACTERS:
        raise InvalidCondition((*path, "eventType"), f"is longer than {MAX_EVENT_TYPE_CHARACTERS} characters")
    return str(event_type)


def _read_within_seconds(given: Mapping[str, Any], path: tuple[str, ...]) -> int | None:
    seconds = given.get("withinSeconds")
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 1 <= seconds <= MAX_WITHIN_SECONDS:
        raise InvalidCondition((*path, "withinSeconds"), f"must be a whole number from 1 to {MAX_WITHIN_SECONDS}")
    return seconds


def _read_sum(given: Mapping[str, Any], path: tuple[str, ...]) -> str | None:
    text = given.get("sum")
    if text is None:
        return None
    field = _parsed_path(text, (*path, "sum"))
    if field.root != "event" or field.kind is not FieldKind.JSON or not field.keys:
        raise InvalidCondition((*path, "sum"), "must lead to a property of the event, e.g. event.properties.amount")
    return str(text)


def _check_count_value(op: str, given: Mapping[str, Any], path: tuple[str, ...]) -> None:
    if op not in _OPERATORS_OF_COUNTS:
        raise InvalidCondition((*path, "op"), f"cannot compare a count: use {_listing(_OPERATORS_OF_COUNTS)}")
    where = (*path, "value")
    values = _list_value(given, where) if op in _MEMBERSHIP else [given.get("value")]
    for value in values:
        if not _is_number(value):
            raise InvalidCondition(where, "must be a number, or a list of numbers for IN and NOT_IN")
        _check_json(value, where)


def _check_value(field: Path, op: str, given: Mapping[str, Any], path: tuple[str, ...]) -> None:
    allowed = _OPERATORS_OF[field.kind]
    if op not in allowed:
        raise InvalidCondition((*path, "op"), f"cannot test {given['path']}: use {_listing(allowed)}")
    where = (*path, "value")
    if op in _WITHOUT_VALUE:
        if given.get("value") is not None:
            raise InvalidCondition(where, f"does not go with {op}: leave it out")
        return
    if "value" not in given:
        raise InvalidCondition(where, f"is missing: say what to compare with, or use {' or '.join(sorted(_EXISTENCE))}")
    values = _list_value(given, where) if op in _MEMBERSHIP else [given["value"]]
    for value in values:
        _check_json(value, where)
        _check_type(field.kind, op, value, where)


def _list_value(given: Mapping[str, Any], path: tuple[str, ...]) -> list[Any]:
    values = given.get("value")
    if not isinstance(values, list):
        raise InvalidCondition(path, "must be a list for IN and NOT_IN")
    if len(values) > MAX_LIST_VALUES:
        raise InvalidCondition(path, f"has {len(values)} entries: send at most {MAX_LIST_VALUES}")
    return values


def _check_type(kind: FieldKind, op: str, value: Any, path: tuple[str, ...]) -> None:
    if value is None:
        if op not in _EQUALITY | _MEMBERSHIP:
            raise InvalidCondition(path, f"cannot be null with {op}: use EXISTS or NOT_EXISTS to test for nothing")
        return
    if op in _AFFIXES and not isinstance(value, str):
        raise InvalidCondition(path, f"must be a string for {op}")
    if op in _ORDER and not (_is_number(value) or isinstance(value, str)):
        raise InvalidCondition(path, f"must be a number or a string for {op}")
    if not _fits(kind, value):
        wanted = "an ISO 8601 instant with its offset, e.g. 2026-05-01T12:00:00Z"
        raise InvalidCondition(path, f"must be {wanted if kind is FieldKind.INSTANT else kind.value} for this path")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fits(kind: FieldKind, value: Any) -> bool:
    match kind:
        case FieldKind.JSON:
            return True
        case FieldKind.STRING | FieldKind.CONSENT:
            return isinstance(value, str)
        case FieldKind.NUMBER:
            return _is_number(value)
        case FieldKind.BOOLEAN:
            return isinstance(value, bool)
        case FieldKind.INSTANT:
            return isinstance(value, str) and parse_instant(value) is not None


def _check_json(value: Any, path: tuple[str, ...], depth: int = 0) -> None:
    """Refuse what PostgreSQL could not store, since it could not compare with it either."""
    if depth > MAX_VALUE_DEPTH:
        raise InvalidCondition(path, f"is nested too deeply: use at most {MAX_VALUE_DEPTH} levels")
    match value:
        case str():
            _check_string(value, path)
        case int() if not MIN_INTEGER <= value <= MAX_INTEGER:
            raise InvalidCondition(path, "has a number beyond 64 bits")
        case float() if not math.isfinite(value):
            raise InvalidCondition(path, "has a number that JSON cannot write")
        case list():
            for item in value:
                _check_json(item, path, depth + 1)
        case dict():
            for key, item in value.items():
                _check_string(key, path)
                _check_json(item, path, depth + 1)
        case None | bool() | int() | float():
            pass
        case _:
            raise InvalidCondition(path, "must be JSON")


def _check_string(value: Any, path: tuple[str, ...]) -> None:
    if not isinstance(value, str):
        raise InvalidCondition(path, "must be a string")
    if len(value) > MAX_STRING_CHARACTERS:
        raise InvalidCondition(path, f"is longer than {MAX_STRING_CHARACTERS} characters")
    if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidCondition(path, "has a NUL character or half of a surrogate pair, which no stored value can hold")


def _listing(operators: frozenset[ConditionOperator]) -> str:
    return ", ".join(op for op in ConditionOperator if op in operators)


def _unparse(condition: Condition) -> dict[str, Any]:
    if condition.any is not None:
        return {"any": unparse_conditions(condition.any)}
    if condition.all is not None:
        return {"all": unparse_conditions(condition.all)}
    if condition.negate is not None:
        return {"not": _unparse(condition.negate)}
    tested = {"path": condition.path} if condition.events is None else {"events": _unparse_count(condition.events)}
    value = {} if condition.op in _WITHOUT_VALUE else {"value": condition.value}
    return {**tested, "op": condition.op, **value}


def _unparse_count(count: EventCount) -> dict[str, Any]:
    optional = {
        "where": unparse_conditions(count.where) or None,
        "withinSeconds": count.within_seconds,
        "sum": count.sum,
    }
    return {"eventType": count.event_type, **{name: value for name, value in optional.items() if value is not None}}
