"""Events and conditions for hypothesis: hostile, and aimed at each other so that they meet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from hypothesis import strategies as st

from db.records import EventRecord

PROJECT = UUID(int=7)

_KEYS = """a b 0 -1 1 +0 01 a.b back\\slash quo"te' $1 {a,b} é % NULL 🎈 '||now()||'"""
_STRINGS = """a A ab b 10 9 é z $1 % _ \\ " true null ﬀ🎈 ';"""
_DATES = "2024-02-29 2000-02-29T10:00:00Z 2000-02-28 1990-05-01 1990-05-011 05-01"

KEYS = st.sampled_from([*_KEYS.split(), " 1", "two words", "\n"])
STRINGS = st.sampled_from([*_STRINGS.split(), "", "\n", "'; DROP TABLE events; --"]) | st.sampled_from(
    [*_DATES.split(), "1990-05-01 x", "1990-05-01\n"]
)
NUMBERS = st.sampled_from(
    [0, 1, -1, 2, 10, 2**53 + 1, 2**63, 2**64 - 1, -(2**63), 0.0, -0.0, 1.0, 0.1, 0.5, 1e22, 1e300, 5e-324, -1.5]
)
STORED_NUMBERS = NUMBERS | st.sampled_from(
    [
        Decimal("0.10000000000000001"),
        Decimal("9007199254740993.0"),
        Decimal("1e22"),
        Decimal("1e400"),
        Decimal("1e-400"),
    ]
)
SCALARS = st.none() | st.booleans() | NUMBERS | STRINGS
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
STORED_JSON = st.recursive(
    st.none() | st.booleans() | STORED_NUMBERS | STRINGS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=10,
)
STORED_OBJECTS = st.dictionaries(KEYS, STORED_JSON, min_size=1, max_size=4)
INSTANTS = st.sampled_from(
    [
        "2026-02-28T12:00:00Z",
        "2024-02-28T12:00:00Z",
        "2024-02-29T00:00:00+00:00",
        "2026-05-01T01:00:00+02:00",
        "2026-05-01T00:00:00.000001Z",
    ]
)
COLUMNS: dict[str, st.SearchStrategy[Any]] = {
    "event.eventType": STRINGS,
    "event.module": STRINGS,
    "event.key": STRINGS,
    "event.userId": STRINGS,
    "event.anonymousId": STRINGS,
    "event.seq": NUMBERS,
    "event.timestamp": INSTANTS,
    "event.receivedAt": INSTANTS,
}
EQUALITY, MEMBERSHIP = ["EQ", "NE"], ["IN", "NOT_IN"]
ORDER, EXISTENCE = ["GT", "GTE", "LT", "LTE"], ["EXISTS", "NOT_EXISTS"]
ON_STRINGS = ["CONTAINS", "STARTS_WITH", "ENDS_WITH"]

_encoder = msgspec.json.Encoder(decimal_format="number")


@st.composite
def events(draw: st.DrawFn) -> EventRecord:
    names = STRINGS.filter(bool)
    instants = INSTANTS.map(lambda text: datetime.fromisoformat(text).astimezone(UTC))
    return EventRecord(
        project_id=PROJECT,
        seq=draw(st.sampled_from([1, 2, 10, 2**53 + 1])),
        key=draw(names),
        module=draw(names),
        event_type=draw(names),
        timestamp=draw(instants),
        received_at=draw(instants),
        user_id=draw(st.none() | STRINGS),
        anonymous_id=draw(st.none() | STRINGS),
        properties=msgspec.Raw(_encoder.encode(draw(STORED_OBJECTS))),
        context=msgspec.Raw(_encoder.encode(draw(STORED_OBJECTS))),
    )


@st.composite
def meetings(draw: st.DrawFn) -> tuple[EventRecord, list[dict[str, Any]]]:
    """An event, and one or two conditions on what is in it or just beside it."""
    event = draw(events())
    tests = json_tests(event) | json_tests(event) | column_tests()
    conditions = st.recursive(
        tests,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=2).map(lambda some: {"any": some}),
            st.lists(inner, min_size=1, max_size=2).map(lambda some: {"all": some}),
            inner.map(lambda one: {"not": one}),
        ),
        max_leaves=3,
    )
    return event, draw(st.lists(conditions, min_size=1, max_size=2))


@st.composite
def json_tests(draw: st.DrawFn, event: EventRecord) -> dict[str, Any]:
    field = draw(st.sampled_from(["properties", "context"]))
    place = draw(st.sampled_from(list(_places(json.loads(bytes(getattr(event, field)))))))
    keys, found = place
    strayed = draw(st.sampled_from([keys, keys, keys, (*keys, "a"), (*keys, "0"), (*keys[:-1], "b")]))
    path = ".".join([f"event.{field}", *(key.replace("\\", "\\\\").replace(".", "\\.") for key in strayed)])
    operators = [*EQUALITY, *MEMBERSHIP, *ORDER, *EXISTENCE, *ON_STRINGS, "IS_ANNIVERSARY", "IS_ANNIVERSARY"]
    return draw(_tests(path, operators, _near(found)))


@st.composite
def column_tests(draw: st.DrawFn) -> dict[str, Any]:
    path, values = draw(st.sampled_from(list(COLUMNS.items())))
    operators = [*EQUALITY, *MEMBERSHIP, *ORDER, *EXISTENCE]
    if values is STRINGS:
        operators += ON_STRINGS
    if values is INSTANTS:
        operators += ["IS_ANNIVERSARY"]
    return draw(_tests(path, operators, values | st.none()))


@st.composite
def _tests(draw: st.DrawFn, path: str, operators: list[str], values: st.SearchStrategy[Any]) -> dict[str, Any]:
    op = draw(st.sampled_from(operators))
    test: dict[str, Any] = {"path": path, "op": op}
    if op in MEMBERSHIP:
        test["value"] = draw(st.lists(values, max_size=3))
    elif op in ORDER:
        fallback = COLUMNS.get(path, NUMBERS | STRINGS)
        test["value"] = _or_else(draw, values, _is_ordered, fallback)
    elif op in ("STARTS_WITH", "ENDS_WITH"):
        test["value"] = _or_else(draw, values, lambda value: isinstance(value, str), STRINGS)
    elif op == "CONTAINS":
        test["value"] = _or_else(draw, values, lambda value: value is not None, STRINGS)
    elif op in EQUALITY:
        test["value"] = draw(values)
    return test


def _or_else(draw: st.DrawFn, values: st.SearchStrategy[Any], wanted: Any, fallback: st.SearchStrategy[Any]) -> Any:
    value = draw(values)
    return value if wanted(value) else draw(fallback)


def _is_ordered(value: Any) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def _places(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every place inside the JSON, with what is there; elements of arrays under several spellings of their index."""
    yield keys, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _places(item, (*keys, key))
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _places(item, (*keys, str(index)))
            for spelling in (str(index - len(value)), f"+{index}", f" {index}", f"0{index}", f"{index} "):
                yield (*keys, spelling), item


def _near(found: Any) -> st.SearchStrategy[Any]:
    """What is there, something like it, or something else."""
    near: list[Any] = []
    if isinstance(found, str):
        near = [found[:1], found[1:], found[-1:], found[1:-1], found + "a", found.swapcase()]
    elif isinstance(found, bool):
        near = [int(found), not found]
    elif isinstance(found, int):
        near = [float(found), min(found + 1, 2**64 - 1), str(found), bool(found)]
    elif isinstance(found, float) and found not in (float("inf"),):
        near = [found * 2, str(found), int(found) if abs(found) < 2**63 else 0]
    elif isinstance(found, list):
        near = [*found, found[::-1], found[:1]]
    elif isinstance(found, dict):
        near = [*found.values(), dict(reversed(found.items())), *found]
    exact = [] if found == float("inf") else [found]
    usable = [value for value in (*exact, *exact, *near) if _is_sendable(value)]
    return st.sampled_from(usable) | JSON if usable else JSON


def _is_sendable(value: Any) -> bool:
    """JSON with an Infinity in it is none; 1e400 becomes one when json.loads reads it."""
    return "Infinity" not in json.dumps(value)
