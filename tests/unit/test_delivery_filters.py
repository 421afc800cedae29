"""Delivery filters in memory: one transition against one filter, and against many through the index."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.delivery_filters import EVERY_DELIVERY, DeliveryFilter
from db.delivery_records import TransitionRecord
from engine.dispatch.filters import (
    DELIVERY_MATCHING,
    compile_delivery_filter,
    delivery_filter_key,
    delivery_places,
)
from engine.filter_index import FilterIndex

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ONE, TWO = UUID(int=1), UUID(int=2)


def make_transition(**fields: Any) -> TransitionRecord:
    defaults: dict[str, Any] = {
        "project_id": UUID(int=7),
        "seq": 1,
        "delivery_id": ONE,
        "from_status": "SENDING",
        "to_status": "FAILED",
        "at": NOON + timedelta(minutes=1),
        "attempt_number": 1,
        "batch_id": ONE,
        "channel": "WEBHOOK",
        "user_id": "ann",
        "workflow_id": None,
        "workflow_run_id": None,
        "endpoint_id": TWO,
        "event_type": "order.placed",
        "error_code": "HTTP_500",
        "created_at": NOON,
    }
    return TransitionRecord(**{**defaults, **fields})


@pytest.mark.parametrize(
    ("delivery_filter", "expected"),
    [
        (EVERY_DELIVERY, True),
        (DeliveryFilter(ids=(TWO, ONE)), True),
        (DeliveryFilter(ids=(TWO,)), False),
        (DeliveryFilter(ids=()), False),
        (DeliveryFilter(batch_id=ONE), True),
        (DeliveryFilter(batch_id=TWO), False),
        (DeliveryFilter(channels=("WEBHOOK",)), True),
        (DeliveryFilter(channels=("PUSH",)), False),
        (DeliveryFilter(statuses=("FAILED",)), True),
        (DeliveryFilter(statuses=("SENDING",)), False),  # where it came from is not asked for
        (DeliveryFilter(user_id="ann"), True),
        (DeliveryFilter(user_id="bob"), False),
        (DeliveryFilter(workflow_id=ONE), False),
        (DeliveryFilter(workflow_run_id=ONE), False),
        (DeliveryFilter(endpoint_id=TWO), True),
        (DeliveryFilter(endpoint_id=ONE), False),
        (DeliveryFilter(event_types=("order.*",)), True),
        (DeliveryFilter(event_types=("order.paid", "*.placed")), True),
        (DeliveryFilter(event_types=("order",)), False),
        (DeliveryFilter(error_codes=("HTTP_500",)), True),
        (DeliveryFilter(error_codes=("Unregistered",)), False),
        (DeliveryFilter(since=NOON), True),  # inclusive, and about when the delivery was made
        (DeliveryFilter(since=NOON + timedelta(microseconds=1)), False),
        (DeliveryFilter(until=NOON), False),  # exclusive
        (DeliveryFilter(until=NOON + timedelta(microseconds=1)), True),
        (DeliveryFilter(of_runs=True), False),
        (DeliveryFilter(user_id="ann", channels=("SMS",)), False),  # all of it must hold
    ],
)
def test_each_field_of_a_filter_decides(delivery_filter: DeliveryFilter, expected: bool) -> None:
    transition = make_transition()
    index: FilterIndex[str, DeliveryFilter, TransitionRecord] = FilterIndex(DELIVERY_MATCHING)
    index.add("it", delivery_filter)

    assert compile_delivery_filter(delivery_filter)(transition) is expected
    assert index.match(transition) == (["it"] if expected else [])


def test_a_delivery_without_an_event_is_of_no_type() -> None:
    transition = make_transition(event_type=None)
    for names in (("order.placed",), ("*",), ("**",)):
        assert not compile_delivery_filter(DeliveryFilter(event_types=names))(transition)


def test_filters_that_say_the_same_have_one_key() -> None:
    assert delivery_filter_key(DeliveryFilter(ids=(ONE, TWO))) == delivery_filter_key(
        DeliveryFilter(ids=(TWO, ONE, TWO))
    )
    assert delivery_filter_key(DeliveryFilter(batch_id=ONE)) != delivery_filter_key(DeliveryFilter(endpoint_id=ONE))
    assert delivery_filter_key(DeliveryFilter(ids=())) != delivery_filter_key(EVERY_DELIVERY)


def test_a_thousand_filters_on_other_batches_are_not_even_looked_at() -> None:
    index: FilterIndex[int, DeliveryFilter, TransitionRecord] = FilterIndex(DELIVERY_MATCHING)
    for number in range(1_000):
        index.add(number, DeliveryFilter(batch_id=UUID(int=number)))

    transition = make_transition(batch_id=UUID(int=321))
    assert index.match(transition) == [321]
    assert len(index._candidates(transition)) == 1
    assert index._candidates(make_transition(batch_id=None)) == {}


def test_what_can_match_nothing_stands_nowhere() -> None:
    assert delivery_places(DeliveryFilter(ids=())) == ()
    assert delivery_places(DeliveryFilter(event_types=())) == ()


ids = st.sampled_from([ONE, TWO])
names = st.sampled_from(["order.placed", "push.sent", "a.b.failed", "order"])
patterns = st.one_of(names, st.sampled_from(["order.*", "*.failed", "*", "*.*", "o*", "**"]))
words = st.sampled_from(["PUSH", "SMS", "FAILED"])
filters = st.builds(
    DeliveryFilter,
    ids=st.none() | st.lists(ids, max_size=2).map(tuple),
    batch_id=st.none() | ids,
    channels=st.none() | st.lists(words, max_size=2).map(tuple),
    user_id=st.none() | words,
    workflow_id=st.none() | ids,
    workflow_run_id=st.none() | ids,
    endpoint_id=st.none() | ids,
    event_types=st.none() | st.lists(patterns, max_size=3).map(tuple),
)


@given(
    st.lists(filters, max_size=12),
    st.builds(
        make_transition,
        delivery_id=ids,
        batch_id=st.none() | ids,
        channel=words,
        user_id=st.none() | words,
        workflow_id=st.none() | ids,
        workflow_run_id=st.none() | ids,
        endpoint_id=st.none() | ids,
        event_type=st.none() | names,
    ),
)
def test_the_index_finds_exactly_what_matches_in_the_order_of_adding(
    delivery_filters: list[DeliveryFilter], transition: TransitionRecord
) -> None:
    index: FilterIndex[int, DeliveryFilter, TransitionRecord] = FilterIndex(DELIVERY_MATCHING)
    for number, delivery_filter in enumerate(delivery_filters):
        index.add(number, delivery_filter)

    expected = [n for n, each in enumerate(delivery_filters) if compile_delivery_filter(each)(transition)]
    assert index.match(transition) == expected
