"""Filters in memory: one event against one filter, and against many through the index."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.filters import EVERYTHING, Condition, EventFilter
from db.records import EventRecord
from engine.conditions import EventView
from engine.filter_index import FilterIndex
from engine.filters import EVENT_MATCHING, compile_filter, filter_key, index_places

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def make_event(**fields: Any) -> EventRecord:
    defaults: dict[str, Any] = {
        "project_id": UUID(int=7),
        "seq": 1,
        "key": "k1",
        "module": "shop",
        "event_type": "order.placed",
        "timestamp": NOON,
        "received_at": NOON,
        "user_id": "ann",
        "anonymous_id": None,
        "properties": msgspec.Raw(b'{"amount":70}'),
        "context": msgspec.Raw(b"{}"),
    }
    return EventRecord(**{**defaults, **fields})


def matches(event_filter: EventFilter, event: EventRecord) -> bool:
    return compile_filter(event_filter)(EventView(event))


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("order.placed", "order.placed", True),
        ("order.placed", "order.placed2", False),
        ("push.*", "push.sent", True),
        ("push.*", "push.", True),
        ("push.*", "push", False),
        ("push.*", "pushy.sent", False),
        ("push.*", "push.token.expired", True),
        ("*.failed", "push.failed", True),
        ("*.failed", "a.b.failed", True),
        ("*.failed", "failed", False),
        ("*", "anything at all", True),
        ("a*a", "a", False),  # the two ends may not overlap
        ("a*a", "aa", True),
        ("a*b*c", "a-c-b-c", True),
        ("a*b*c", "a-c-b", False),
        ("**", "x", True),
        ("a.%", "a.b", False),  # SQL's own wildcards are ordinary characters
        ("a._", "a.b", False),
        ("a.(b|c)", "a.b", False),
        ("*\n*", "a\nb", True),
    ],
)
def test_wildcards_in_event_types(pattern: str, name: str, expected: bool) -> None:
    assert matches(EventFilter(event_types=(pattern,)), make_event(event_type=name)) is expected


def test_a_pattern_made_to_backtrack_is_decided_at_once() -> None:
    event = make_event(event_type="a" * 199 + "b")
    began = perf_counter()
    assert not matches(EventFilter(event_types=("*a" * 60 + "*c",)), event)
    assert perf_counter() - began < 0.1


@pytest.mark.parametrize(
    ("event_filter", "expected"),
    [
        (EVERYTHING, True),
        (EventFilter(event_types=()), False),
        (EventFilter(event_types=("order.placed", "push.*")), True),
        (EventFilter(modules=("shop",)), True),
        (EventFilter(modules=()), False),
        (EventFilter(user_id="ann"), True),
        (EventFilter(user_id="bob"), False),
        (EventFilter(anonymous_id="ann"), False),
        (EventFilter(keys=("k0", "k1")), True),
        (EventFilter(keys=("k0",)), False),
        (EventFilter(since=NOON), True),  # inclusive
        (EventFilter(since=NOON + timedelta(microseconds=1)), False),
        (EventFilter(until=NOON), False),  # exclusive
        (EventFilter(until=NOON + timedelta(microseconds=1)), True),
        (EventFilter(where=(Condition(path="event.properties.amount", op="GTE", value=70),)), True),
        (EventFilter(where=(Condition(path="event.properties.amount", op="GT", value=70),)), False),
        (EventFilter(user_id="ann", modules=("push",)), False),  # all of it must hold
    ],
)
def test_each_field_of_a_filter_decides(event_filter: EventFilter, expected: bool) -> None:
    event = make_event()
    index: FilterIndex[str, EventFilter, EventRecord] = FilterIndex(EVENT_MATCHING)
    index.add("it", event_filter)

    assert matches(event_filter, event) is expected
    assert index.match(event) == (["it"] if expected else [])


def test_conditions_that_an_event_cannot_decide_are_refused() -> None:
    with pytest.raises(ValueError, match="event"):
        compile_filter(EventFilter(where=(Condition(path="profile.traits.plan", op="EQ", value="pro"),)))


def test_filters_that_say_the_same_have_one_key() -> None:
    assert filter_key(EventFilter(event_types=("a", "b"))) == filter_key(EventFilter(event_types=("b", "a", "b")))
    assert filter_key(EventFilter(event_types=("a",))) != filter_key(EventFilter(modules=("a",)))
    assert filter_key(EventFilter(event_types=())) != filter_key(EVERYTHING)
    true, one = (EventFilter(where=(Condition(path="event.properties.x", op="EQ", value=v),)) for v in (True, 1))
    assert filter_key(true) != filter_key(one)


def test_a_removed_filter_is_not_found_and_leaves_nothing() -> None:
    index: FilterIndex[str, EventFilter, EventRecord] = FilterIndex(EVENT_MATCHING)
    several = EventFilter(event_types=("order.placed", "push.*", "*.failed"))
    index.add("one", several)
    index.add("two", several)

    index.remove("one", several)
    assert index.match(make_event()) == ["two"]
    index.remove("two", several)

    assert index.match(make_event()) == []
    assert index._places == {}
    assert index._orders == {}


def test_a_thousand_filters_on_other_users_are_not_even_looked_at() -> None:
    index: FilterIndex[int, EventFilter, EventRecord] = FilterIndex(EVENT_MATCHING)
    for number in range(1_000):
        index.add(number, EventFilter(user_id=f"user-{number}"))

    assert index.match(make_event(user_id="user-321")) == [321]
    assert len(index._candidates(make_event(user_id="user-321"))) == 1
    assert index._candidates(make_event(user_id="stranger")) == {}


names = st.sampled_from(["order.placed", "order.paid", "push.sent", "push.failed", "order", "a.b.failed", "", "."])
patterns = st.one_of(
    names, st.sampled_from(["order.*", "*.failed", "*", "*.*", "a.*.failed", "*d", "o*", "**", "a.b.*"])
)
words = st.sampled_from(["x", "y", "z"])
filters = st.builds(
    EventFilter,
    event_types=st.none() | st.lists(patterns, max_size=3).map(tuple),
    modules=st.none() | st.lists(words, max_size=2).map(tuple),
    user_id=st.none() | words,
    anonymous_id=st.none() | words,
    keys=st.none() | st.lists(words, max_size=2).map(tuple),
)


@given(
    st.lists(filters, max_size=12),
    st.builds(
        make_event,
        event_type=names,
        module=words,
        user_id=st.none() | words,
        anonymous_id=st.none() | words,
        key=words,
    ),
)
def test_the_index_finds_exactly_what_matches_in_the_order_of_adding(
    event_filters: list[EventFilter], event: EventRecord
) -> None:
    index: FilterIndex[int, EventFilter, EventRecord] = FilterIndex(EVENT_MATCHING)
    for number, event_filter in enumerate(event_filters):
        index.add(number, event_filter)

    assert index.match(event) == [n for n, each in enumerate(event_filters) if matches(each, event)]


def test_what_can_match_nothing_stands_nowhere() -> None:
    assert index_places(EventFilter(event_types=())) == ()
    assert index_places(EventFilter(keys=())) == ()
