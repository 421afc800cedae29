"""Which endpoints hear of which events, and what they are sent."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from db.records import EventRecord
from db.webhook_endpoints import WebhookSubscription
from engine.node_ids import write_event_id
from engine.taxonomy import ALIASES, CANONICAL, expand_names
from engine.webhooks.bodies import event_body, sample_body
from engine.webhooks.follower import NEVER_SENT, depth_of, match_events
from engine.wildcards import fits, split_pattern

PROJECT, ORGANIZATION = UUID(int=7), UUID(int=8)
AT = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
NAMES = (
    "order.placed",
    "order.paid",
    "push.failed",
    "email.sent",
    "auth.signed_up",
    "user.signed_up",
    "webhook.delivery_dead_lettered",
    "webhook.endpoint_disabled",
    "a",
    "",
)
PATTERNS = (*NAMES, "*", "order.*", "*.failed", "*.signed_up", "o*d", "**", "*er*", "auth.*", "webhook.*", "nothing.*")


def event(event_type: str = "order.placed", *, seq: int = 5, context: str = "{}", **values: Any) -> EventRecord:
    known: dict[str, Any] = {
        "project_id": PROJECT,
        "seq": seq,
        "key": "k-1",
        "module": "analytics",
        "event_type": event_type,
        "timestamp": AT,
        "received_at": AT,
        "user_id": "ada",
        "anonymous_id": None,
        "properties": msgspec.Raw(b'{"b":1.0,"a":["\xc3\xbc"]}'),
        "context": msgspec.Raw(context.encode()),
    }
    return EventRecord(**{**known, **values})


def subscription(*events: str, after_seq: int = 0) -> WebhookSubscription:
    return WebhookSubscription(
        endpoint_id=uuid7(), url="https://hooks.example.com/x", events=events, retry_schedule=(2,), after_seq=after_seq
    )


def wants(one: WebhookSubscription, item: EventRecord) -> bool:
    """What the follower promises, said without an index."""
    return (
        any(fits(item.event_type, split_pattern(pattern)) for pattern in expand_names(one.events))
        and item.seq > one.after_seq
        and item.event_type not in NEVER_SENT
    )


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=4), st.integers(0, 9)), max_size=8),
    st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, 10)), max_size=8),
)
def test_each_event_goes_to_whoever_wants_it_and_to_nobody_else(
    wanted: list[tuple[list[str], int]], happened: list[tuple[str, int]]
) -> None:
    subscriptions = tuple(subscription(*names, after_seq=after) for names, after in wanted)
    events = [event(name, seq=seq) for name, seq in happened]
    expected = [(item, [one for one in subscriptions if wants(one, item)]) for item in events]
    assert match_events(subscriptions, events) == [(item, found) for item, found in expected if found]


def test_the_whole_taxonomy_can_be_subscribed_to() -> None:
    everything = (subscription("*"),)
    events = [event(name) for name in (*CANONICAL, *ALIASES)]
    matched = {item.event_type for item, _ in match_events(everything, events)}
    assert matched == {*CANONICAL, *ALIASES} - NEVER_SENT
    for name in matched:
        assert match_events((subscription(name),), [event(name)])


def test_either_name_of_an_alias_is_the_same_type() -> None:
    for alias, canonical in ALIASES.items():
        assert match_events((subscription(alias),), [event(canonical)])
        assert match_events((subscription(canonical),), [event(alias)])


def test_two_endpoints_with_the_same_patterns_are_two() -> None:
    both = (subscription("order.*"), subscription("order.*"))
    assert match_events(both, [event()]) == [(event(), list(both))]


@pytest.mark.parametrize(
    ("context", "depth"),
    [
        ("{}", 0),
        ('{"depth":3}', 3),
        ('{"x":{"depth":3}}', 0),
        ('{"depth":-3}', 0),
        ('{"depth":"3"}', 0),
        ('{"depth":3.5}', 0),
        ('{"depth":true}', 0),
        ('{"depth":null}', 0),
        ('{"depth":{"a":1}}', 0),
        ('{"depth":18446744073709551615}', 18446744073709551615),
    ],
)
def test_a_depth_is_a_whole_number_or_none(context: str, depth: int) -> None:
    assert depth_of(event(context=context)) == depth


def test_a_body_is_the_events_envelope_and_the_same_each_time() -> None:
    event_id, body = event_body(event(context='{"ip":"x"}'), organization_id=ORGANIZATION)
    assert event_id == write_event_id(PROJECT, 5)
    assert "." not in event_id
    assert body == event_body(event(context='{"ip":"x"}'), organization_id=ORGANIZATION)[1]
    assert body == (
        f'{{"id":"{event_id}","type":"order.placed","timestamp":"2026-11-21T12:00:00.123456Z","data":'
        f'{{"id":"{event_id}","seq":5,"orgId":"{ORGANIZATION}","projectId":"{PROJECT}","key":"k-1",'
        '"module":"analytics","eventType":"order.placed","timestamp":"2026-11-21T12:00:00.123456Z",'
        '"receivedAt":"2026-11-21T12:00:00.123456Z","userId":"ada","anonymousId":null,'
        '"properties":{"b":1.0,"a":["ü"]},"context":{"ip":"x"}}}'
    )


def test_a_large_event_is_sent_whole() -> None:
    large = msgspec.json.encode({"text": "x" * 60_000})
    _, body = event_body(event(properties=msgspec.Raw(large)), organization_id=ORGANIZATION)
    assert msgspec.json.decode(body)["data"]["properties"] == {"text": "x" * 60_000}


def test_a_sample_has_the_same_shape_and_says_that_it_is_one() -> None:
    _, real = event_body(event(), organization_id=ORGANIZATION)
    sample_id, sample = sample_body(
        "order.placed", test_id=uuid7(), organization_id=ORGANIZATION, project_id=PROJECT, now=AT
    )
    parsed = msgspec.json.decode(sample)
    assert parsed.keys() == msgspec.json.decode(real).keys()
    assert parsed["data"].keys() == msgspec.json.decode(real)["data"].keys()
    assert parsed["data"]["context"] == {"test": True}
    assert parsed["id"] == parsed["data"]["id"] == sample_id
    assert "." not in sample_id
