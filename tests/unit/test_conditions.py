"""What a condition says about one event, operator by operator."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest

from db.filters import Condition, EventCount
from db.records import EventRecord
from engine.conditions import EventView, compile_conditions, matches, parse_conditions

PROPERTIES = {
    "amount": 42,
    "ratio": 0.1,
    "coupon": "SPRING10",
    "nothing": None,
    "paid": True,
    "items": [{"sku": "A-1"}, {"sku": "B-2", "size": None}],
    "tags": ["new", "sale", 7, None],
    "utm.source": "mail",
    "back\\slash": 1,
    "12": {"0": "key, not index"},
    "birthday": "1990-02-28",
    "leap": "2000-02-29T10:00:00Z",
}


def event(properties: dict[str, Any] | bytes = PROPERTIES, **overrides: Any) -> EventRecord:
    raw = properties if isinstance(properties, bytes) else json.dumps(properties).encode()
    fields: dict[str, Any] = {
        "project_id": UUID(int=1),
        "seq": 5,
        "key": "order-1",
        "module": "analytics",
        "event_type": "order.placed",
        "timestamp": datetime(2026, 5, 1, 12, tzinfo=UTC),
        "received_at": datetime(2026, 5, 1, 12, 0, 1, tzinfo=UTC),
        "user_id": "ada",
        "anonymous_id": None,
        "properties": msgspec.Raw(raw),
        "context": msgspec.Raw(b'{"page":{"path":"/cart"}}'),
    }
    return EventRecord(**{**fields, **overrides})


def holds(path: str, op: str, *value: Any, of: EventRecord | None = None) -> bool:
    test = {"path": path, "op": op, **({"value": value[0]} if value else {})}
    parsed = parse_conditions([test], roots=frozenset({"event"}), path=("where",))
    return matches(parsed, event() if of is None else of)


@pytest.mark.parametrize(
    ("path", "op", "value", "expected"),
    [
        ("amount", "EQ", 42, True),
        ("amount", "EQ", 42.0, True),  # by value
        ("amount", "EQ", "42", False),  # never converted
        ("paid", "EQ", 1, False),  # true is not 1
        ("ratio", "EQ", 0.1, True),
        ("items.1", "EQ", {"size": None, "sku": "B-2"}, True),  # the order of keys means nothing
        ("tags", "EQ", ["sale", "new", 7, None], False),  # the order of elements does
        ("nothing", "EQ", None, True),
        ("missing", "EQ", None, True),
        ("amount", "EQ", None, False),
        ("missing", "NE", "x", True),
        ("nothing", "NE", None, False),
        ("amount", "GT", 41.5, True),
        ("amount", "GT", 42, False),
        ("amount", "GTE", 42, True),
        ("amount", "LT", "50", False),  # a number is never before a string
        ("coupon", "LT", "a", True),  # capitals first: by code point
        ("coupon", "LTE", "SPRING10", True),
        ("paid", "GTE", 0, False),
        ("missing", "LT", 1, False),
        ("coupon", "IN", ["x", "SPRING10"], True),
        ("coupon", "IN", [], False),
        ("missing", "IN", [None], True),
        ("amount", "NOT_IN", [1, 42.0], False),
        ("missing", "NOT_IN", [1], True),
        ("coupon", "CONTAINS", "RING", True),
        ("coupon", "CONTAINS", "ring", False),
        ("coupon", "CONTAINS", 10, False),
        ("tags", "CONTAINS", "sale", True),
        ("tags", "CONTAINS", "sal", False),  # whole elements
        ("tags", "CONTAINS", 7.0, True),
        ("items", "CONTAINS", {"sku": "A-1"}, True),
        ("items", "CONTAINS", {"sku": "B-2"}, False),  # not a part of an element
        ("amount", "CONTAINS", 4, False),
        ("coupon", "STARTS_WITH", "SPR", True),
        ("coupon", "ENDS_WITH", "10", True),
        ("amount", "STARTS_WITH", "4", False),
    ],
)
def test_a_property_is_compared(path: str, op: str, value: Any, expected: bool) -> None:
    assert holds(f"event.properties.{path}", op, value) is expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("event.properties.amount", True),
        ("event.properties.nothing", False),  # null is nothing
        ("event.properties.amount.deeper", False),
        ("event.properties.items.0.sku", True),
        ("event.properties.items.-1.sku", True),  # the last
        ("event.properties.items.2", False),
        ("event.properties.items.1.size", False),
        ("event.properties.items.first", False),
        ("event.properties.items.99999999999999999999", False),
        (r"event.properties.utm\.source", True),
        ("event.properties.utm.source", False),
        (r"event.properties.back\\slash", True),
        ("event.properties.12.0", True),
        ("event.context.page.path", True),
        ("event.userId", True),
        ("event.anonymousId", False),
        ("event.properties", True),
    ],
)
def test_a_path_leads_somewhere_or_to_nothing(path: str, expected: bool) -> None:
    assert holds(path, "EXISTS") is expected
    assert holds(path, "NOT_EXISTS") is not expected


@pytest.mark.parametrize(
    ("path", "op", "value"),
    [
        ("event.eventType", "STARTS_WITH", "order."),
        ("event.module", "EQ", "analytics"),
        ("event.key", "ENDS_WITH", "-1"),
        ("event.seq", "LTE", 5.5),
        ("event.userId", "IN", ["bob", "ada"]),
        ("event.anonymousId", "EQ", None),
        ("event.timestamp", "EQ", "2026-05-01T14:00:00+02:00"),  # as instants, whatever the offset
        ("event.timestamp", "IN", ["2026-05-01T12:00:00Z"]),
        ("event.receivedAt", "GT", "2026-05-01T12:00:00Z"),
    ],
)
def test_a_field_of_the_envelope_is_compared(path: str, op: str, value: Any) -> None:
    assert holds(path, op, value) is True


def test_numbers_are_told_apart_beyond_what_a_float_can_hold() -> None:
    stored = event(b'{"id": 9007199254740993, "ratio": 0.10000000000000001}')

    assert holds("event.properties.id", "EQ", 9007199254740993, of=stored) is True
    assert holds("event.properties.id", "EQ", 9007199254740992, of=stored) is False
    assert holds("event.properties.ratio", "EQ", 0.1, of=stored) is False
    assert holds("event.properties.ratio", "GT", 0.1, of=stored) is True


@pytest.mark.parametrize(
    ("received_at", "birthday", "leap"),
    [
        (datetime(2026, 2, 28, 12, tzinfo=UTC), True, True),  # no 29th this year
        (datetime(2026, 3, 1, 12, tzinfo=UTC), False, False),
        (datetime(2024, 2, 28, 12, tzinfo=UTC), True, False),
        (datetime(2024, 2, 29, 12, tzinfo=UTC), False, True),
    ],
)
def test_an_anniversary_is_of_the_day_the_event_was_received(received_at: datetime, birthday: bool, leap: bool) -> None:
    received = event(received_at=received_at)

    assert holds("event.properties.birthday", "IS_ANNIVERSARY", of=received) is birthday
    assert holds("event.properties.leap", "IS_ANNIVERSARY", of=received) is leap
    assert holds("event.properties.amount", "IS_ANNIVERSARY", of=received) is False


def test_an_anniversary_follows_the_persons_time_zone() -> None:
    late = event(
        {"birthday": "1990-05-02"},
        received_at=datetime(2026, 5, 1, 23, tzinfo=UTC),
        timestamp=datetime(2025, 5, 1, 22, 30, tzinfo=UTC),
    )
    conditions = parse_conditions(
        [{"path": f"event.{path}", "op": "IS_ANNIVERSARY"} for path in ("properties.birthday", "timestamp")],
        roots=frozenset({"event"}),
        path=("where",),
    )

    assert matches(conditions, late, timezone=ZoneInfo("Europe/Berlin")) is True
    assert matches(conditions, late) is False


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ([], True),
        ([{"path": "event.seq", "op": "EQ", "value": 5}, {"path": "event.seq", "op": "EQ", "value": 6}], False),
        ([{"any": [{"path": "event.seq", "op": "EQ", "value": seq} for seq in (6, 5)]}], True),
        ([{"all": [{"path": "event.seq", "op": "EQ", "value": seq} for seq in (6, 5)]}], False),
        ([{"not": {"path": "event.seq", "op": "EQ", "value": 6}}], True),
        ([{"not": {"any": [{"not": {"path": "event.seq", "op": "EXISTS"}}]}}], True),
    ],
)
def test_conditions_combine(condition: list[dict[str, Any]], expected: bool) -> None:
    assert matches(parse_conditions(condition, roots=frozenset({"event"}), path=("where",)), event()) is expected


def test_json_is_decoded_only_when_a_condition_looks_inside() -> None:
    unreadable = event(b"not JSON")

    assert holds("event.eventType", "EQ", "order.placed", of=unreadable) is True
    with pytest.raises(msgspec.DecodeError):
        holds("event.properties.a", "EXISTS", of=unreadable)


def test_many_matchers_share_one_decoding() -> None:
    view = EventView(event())
    compiled = [
        compile_conditions(
            parse_conditions(
                [{"path": "event.properties.amount", "op": "EQ", "value": amount}],
                roots=frozenset({"event"}),
                path=("where",),
            )
        )
        for amount in (41, 42)
    ]

    answers = [matcher(view) for matcher in compiled]
    view.event = event(b"not JSON")

    assert answers == [False, True]
    assert compiled[1](view) is True


@pytest.mark.parametrize(
    "undecidable",
    [
        Condition(path="profile.traits.plan", op="EQ", value="pro"),
        Condition(events=EventCount("order.placed", ("order.placed",)), op="GT", value=1),
    ],
)
def test_what_an_event_alone_cannot_decide_is_refused(undecidable: Condition) -> None:
    with pytest.raises(ValueError, match=r"only tests of event\.\*"):
        compile_conditions([undecidable])
