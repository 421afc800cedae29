"""What comes out is what went in: JSON of any shape, instants, numbers, live and replayed."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.acceptance.gateway_client import FOLLOW, TRACK_BATCH, Gateway, open_event_source, open_socket

EXAMPLES = 25
BATCH = 20
"""Values per example: a round trip carries as many as it can."""

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
numbers = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15),
    st.sampled_from(
        [0, -1, 2**53, 2**53 + 1, 0.1, 1 / 3, 1e-7, 5e-324, 1.7976931348623157e308, 1e22, 123456789.123456789]
    ),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)
objects = st.dictionaries(texts, values, max_size=6)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """Hypothesis calls plain functions."""
    with asyncio.Runner() as runner:
        yield runner


def same(sent: object, received: object) -> bool:
    """Equal as JSON: the same types, members in any order, numbers of the same value to the last bit."""
    if isinstance(sent, dict):
        return (
            isinstance(received, dict)
            and sent.keys() == received.keys()
            and all(same(value, received[name]) for name, value in sent.items())
        )
    if isinstance(sent, list):
        return isinstance(received, list) and len(sent) == len(received) and all(map(same, sent, received))
    if isinstance(sent, bool) or sent is None or isinstance(sent, str):
        return type(sent) is type(received) and sent == received
    assert isinstance(sent, int | float)
    if isinstance(received, bool) or not isinstance(received, int | float):
        return False
    if isinstance(sent, int):
        return isinstance(received, int) and sent == received
    return math.isclose(sent, received, rel_tol=0, abs_tol=0)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(batch=st.lists(objects, min_size=1, max_size=BATCH))
def test_properties_are_the_same_live_replayed_and_listed(
    gateway: Gateway, runner: asyncio.Runner, batch: list[dict[str, Any]]
) -> None:
    live, replayed, by_socket, listed = runner.run(follow(gateway, batch))

    assert all(map(same, batch, [node["properties"] for node in live]))
    assert live == replayed == by_socket == listed


async def follow(gateway: Gateway, batch: list[dict[str, Any]]) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """The events as a stream that was open has them, one that replays, a socket, and a list."""
    user = f"values-{uuid4()}"
    event_filter = {"userId": user}
    events = [{"eventType": "value.sent", "userId": user, "properties": value} for value in batch]
    after = await gateway.head()
    async with open_event_source(gateway, FOLLOW, filter=event_filter) as source:
        assert "id" in (await source.frame() or {})
        stored = (await gateway.data(TRACK_BATCH, events=events))["trackBatch"]
        assert stored["userErrors"] == []
        live = [(await source.item())["data"]["eventStream"]["node"] for _ in batch]
    async with open_event_source(gateway, FOLLOW, filter=event_filter, after=after) as source:
        replayed = [(await source.item())["data"]["eventStream"]["node"] for _ in batch]
    async with open_socket(gateway) as socket:
        await socket.subscribe("1", FOLLOW, filter=event_filter, after=after)
        by_socket = [(await socket.receive())["payload"]["data"]["eventStream"]["node"] for _ in batch]
    fields = FOLLOW[FOLLOW.index("node {") :].removesuffix("}\n}").strip()
    document = (
        f"query ($f: EventFilter) {{ events(first: 100, order: OLDEST_FIRST, filter: $f) {{ edges {{ {fields} }} }} }}"
    )
    edges = (await gateway.data(document, f=event_filter))["events"]["edges"]
    return live, replayed, by_socket, [edge["node"] for edge in edges]


async def test_traits_and_context_come_back_as_they_were(gateway: Gateway) -> None:
    value = {
        "ü": ["😀", "\u2028", '"\\'],
        "n": [1.0, 1, -0.5, 1e21, 2**63 - 1],
        "deep": json.loads("[" * 60 + "]" * 60),
    }

    event = (await gateway.track(eventType="value.sent", userId="values", context=value, traits=value))["event"]
    profile = (await gateway.data('{ profile(userId: "values") { traits } }'))["profile"]

    assert same({**value, "traits": value}, event["context"])
    assert same(value, profile["traits"])


async def test_the_order_of_members_makes_no_other_event(gateway: Gateway) -> None:
    """A retry by a client that sorts its members otherwise is still the same event."""
    first = await gateway.track(id="ordered", eventType="value.sent", properties={"a": 1, "b": {"c": 2, "d": 3}})
    again = await gateway.track(id="ordered", eventType="value.sent", properties={"b": {"d": 3, "c": 2}, "a": 1})

    assert (first["duplicate"], again["duplicate"]) == (False, True)
    assert first["event"] == again["event"]


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ("2026-05-01T12:00:00Z", "2026-05-01T12:00:00Z"),
        ("2026-05-01T12:00:00+00:00", "2026-05-01T12:00:00Z"),
        ("2026-05-01T14:00:00.5+02:00", "2026-05-01T12:00:00.500000Z"),
        ("2026-05-01T00:30:00-11:30", "2026-05-01T12:00:00Z"),
        ("1970-01-01T00:00:00.000001Z", "1970-01-01T00:00:00.000001Z"),
        ("2099-12-31T23:59:59.999999Z", "2099-12-31T23:59:59.999999Z"),
        ("2026-05-01T12:00:00.123456789Z", "2026-05-01T12:00:00.123457Z"),
    ],
)
async def test_an_instant_comes_back_in_utc_with_a_z(gateway: Gateway, sent: str, received: str) -> None:
    after = await gateway.head()

    event = (await gateway.track(eventType="time.told", timestamp=sent))["event"]
    async with open_event_source(gateway, FOLLOW, after=after) as source:
        streamed = (await source.item())["data"]["eventStream"]["node"]

    assert event["timestamp"] == streamed["timestamp"] == received
    assert event["receivedAt"] == streamed["receivedAt"]
    assert event["receivedAt"].endswith("Z")


async def test_every_instant_of_the_schema_ends_in_z(gateway: Gateway) -> None:
    identifier, _ = await gateway.make_key()
    await gateway.track(eventType="time.told", userId="timely")
    data = await gateway.data(
        """query ($id: ID!) {
          profile(userId: "timely") { createdAt lastSeenAt }
          node(id: $id) { ... on ApiKey { createdAt } }
          viewer { project { createdAt apiKeys { createdAt } } apiKey { createdAt lastUsedAt } }
          eventTypes(search: "time.told") { edges { node { lastSeenAt } } }
        }""",
        id=identifier,
    )

    instants = [value for name, value in leaves(data) if name.endswith("At") and value is not None]
    assert len(instants) >= 7
    assert all(value.endswith("Z") for value in instants)


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Name and value of everything that is no container."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, name)
    else:
        yield name, value


async def test_big_integers_are_numbers_of_json(gateway: Gateway) -> None:
    answer = await gateway.ask(
        'mutation { track(input: { event: { eventType: "number.told" } }) { event { seq } } }',
    )
    counted = await gateway.ask('{ eventTypes(search: "number.told") { edges { node { count } } } }')

    assert answer.body.startswith(b'{"data":{"track":{"event":{"seq":')
    assert answer.body.removeprefix(b'{"data":{"track":{"event":{"seq":').partition(b"}")[0].isdigit()
    assert counted.json["data"] == {"eventTypes": {"edges": [{"node": {"count": 1}}]}}
