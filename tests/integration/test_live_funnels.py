"""Funnels that are followed: what is pushed is what a query answers, counted once for all, when it may differ."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import msgspec
import orjson
import pytest
from graphql import ExecutionResult
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app import GatewaySession
from engine.analytics.live import LiveFunnelStats
from engine.node_ids import NodeKind, write_node_id
from tests.integration.graphql_support import Gateway, Tenant, open_gateway
from transport.application import LiveSource
from transport.execution.service import GraphQLRequest

REPORT = """{ entered completed conversionRate steps { count medianSecondsFromPrevious p90SecondsFromPrevious }
  groups { value isOther steps { count } } previous { entered } }"""
FOLLOW = (
    f"subscription ($input: FunnelInput!, $every: Int) {{ funnelUpdates(input: $input, intervalMs: $every) {REPORT} }}"
)
ASK = f"query ($input: FunnelInput!) {{ funnel(input: $input) {REPORT} }}"
BATCH = "mutation ($input: TrackBatchInput!) { trackBatch(input: $input) { accepted } }"
DEAR = {"path": "event.properties.n", "op": "GT", "value": 0}
INPUT: dict[str, Any] = {
    "steps": [{"eventType": "a"}, {"eventType": "b", "where": [DEAR]}],
    "period": "P30D",
}
EVERY = 250
EXAMPLES = int(os.environ.get("SENDORA_ANALYTICS_EXAMPLES", "8"))
"""Each waits for some intervals."""


@pytest.fixture
async def gateway(database_url: str, redis_url: str) -> AsyncIterator[Gateway]:
    async with open_gateway(database_url, redis_url) as opened:
        yield opened


class Reports:
    """What one subscriber was sent."""

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        self._source = source

    async def next(self) -> Any:
        async with asyncio.timeout(10):
            response = orjson.loads(await anext(self._source))
        return response["data"]["funnelUpdates"] if "errors" not in response else response["errors"]


@asynccontextmanager
async def following(tenant: Tenant, *, every: int = EVERY, **given: Any) -> AsyncIterator[Reports]:
    source = await subscribe(tenant, every=every, **given)
    assert not isinstance(source, LiveSource | ExecutionResult), source
    try:
        yield Reports(source)
    finally:
        await source.aclose()  # type: ignore[attr-defined]


async def subscribe(tenant: Tenant, *, every: int, **given: Any) -> Any:
    service = tenant.gateway.service
    variables = msgspec.Raw(orjson.dumps({"input": {**INPUT, **given}, "every": every}))
    session = GatewaySession(tenant.gateway.services, tenant.gateway.revocations, tenant.viewer)
    prepared = await service.prepare(GraphQLRequest(query=FOLLOW, variables=variables), session)
    assert not isinstance(prepared, list), prepared
    return await service.subscribe(prepared, session)


def stats(gateway: Gateway) -> LiveFunnelStats:
    return gateway.services.live_funnels.stats()


async def test_the_report_comes_at_once_and_again_when_it_has_changed(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    async with following(shop) as reports:
        assert [step["count"] for step in (await reports.next())["steps"]] == [0, 0]

        await shop.track(eventType="a", userId="ada")
        assert [step["count"] for step in (await reports.next())["steps"]] == [1, 0]
        await shop.track(eventType="b", userId="ada", properties={"n": 1})
        assert [step["count"] for step in (await reports.next())["steps"]] == [1, 1]
    async with asyncio.timeout(5):
        while stats(gateway).followed:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_equal_inputs_are_counted_once_and_an_event_that_cannot_matter_not_at_all(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    async with following(shop) as one, following(shop, groupBy=None) as other:
        assert await one.next() == await other.next()
        assert stats(gateway) == LiveFunnelStats(followed=1, counted=1)

        # Of another type, without what the step asks for, and too long ago.
        await shop.track(eventType="c", userId="ada")
        await shop.track(eventType="b", userId="ada", properties={"n": 0})
        await shop.track(eventType="a", userId="ada", timestamp="2020-01-01T00:00:00Z")
        await asyncio.sleep(2 * EVERY / 1000)
        assert stats(gateway).counted == 1

        await shop.track(eventType="a", userId="ada")
        assert await one.next() == await other.next()
        assert stats(gateway).counted == 2


async def test_people_who_merge_change_a_funnel_that_does_not_ask_for_the_event(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    await shop.track(eventType="a", anonymousId="phone")
    await shop.track(eventType="a", userId="ada")
    async with following(shop) as reports:
        assert (await reports.next())["entered"] == 2
        await shop.track(eventType="signed.in", anonymousId="phone", userId="ada")
        assert (await reports.next())["entered"] == 1


@st.composite
def questions(draw: st.DrawFn) -> dict[str, Any]:
    """A funnel, as an input that is to be followed."""
    first, second = {"eventType": "a"}, {"eventType": "b", "where": [DEAR] if draw(st.booleans()) else []}
    steps = [first, second, {"eventType": draw(st.sampled_from("ac"))}][: draw(st.integers(2, 3))]
    return {
        "steps": steps,
        "period": "P30D",
        "order": draw(st.sampled_from(["ORDERED", "STRICT", "UNORDERED"])),
        "compare": draw(st.booleans()),
        **draw(st.sampled_from([{}, {"groupBy": "event.properties.n"}, {"groupBy": "profile.traits.plan"}])),
        **draw(st.sampled_from([{}, {"holdConstant": "event.properties.n"}, {"exclude": [{"eventType": "c"}]}])),
    }


@st.composite
def happenings(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Events of few people and types, before and in the period; `ago` is in days."""
    event = st.fixed_dictionaries(
        {
            "eventType": st.sampled_from("abc"),
            "userId": st.sampled_from([None, "ada", "eve"]),
            "anonymousId": st.sampled_from(["p", "q"]),
            "ago": st.floats(0, 65),
            "properties": st.fixed_dictionaries({"n": st.integers(0, 2)}),
            "traits": st.sampled_from([None, {"plan": "free"}, {"plan": "team"}]),
        }
    )
    return draw(st.lists(event, min_size=1, max_size=6))


async def test_what_is_pushed_last_is_what_a_query_answers(gateway: Gateway) -> None:
    loop = asyncio.get_running_loop()

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(asked=questions(), batches=st.lists(happenings(), min_size=1, max_size=3))
    def check(asked: dict[str, Any], batches: list[list[dict[str, Any]]]) -> None:
        asyncio.run_coroutine_threadsafe(_follow(gateway, asked, batches), loop).result(60)

    await asyncio.to_thread(check)


async def _follow(gateway: Gateway, asked: dict[str, Any], batches: list[list[dict[str, Any]]]) -> None:
    """What is pushed comes to be what is answered, after every batch."""
    shop, now = await gateway.tenant(), gateway.services.clock.now()
    async with following(shop, **asked) as reports:
        pushed = await reports.next()
        for batch in batches:
            events = [
                {key: value for key, value in given.items() if key != "ago" and value is not None}
                | {"timestamp": (now - timedelta(days=given["ago"])).isoformat()}
                for given in batch
            ]
            await shop.data(BATCH, input={"events": events})
            answered = (await shop.data(ASK, input=asked))["funnel"]
            while pushed != answered:
                pushed = await reports.next()


async def test_what_is_wrong_is_said_before_anything_is_followed(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    for wrong in ({"every": 249}, {"steps": INPUT["steps"][:1]}, {"period": "soon"}):
        refused = await subscribe(shop, **{"every": EVERY, **wrong})
        assert isinstance(refused, ExecutionResult)
        assert [error.extensions["code"] for error in refused.errors or ()] == ["BAD_USER_INPUT"]
    async with following(shop, audienceId=write_node_id(NodeKind.AUDIENCE, uuid4())) as reports:
        assert [error["extensions"]["code"] for error in await reports.next()] == ["BAD_USER_INPUT"]


async def test_whoever_follows_a_stopping_gateway_is_told_to_come_back(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    async with following(shop) as reports:
        await reports.next()
        await gateway.services.live_funnels.stop()
        assert [error["extensions"]["code"] for error in await reports.next()] == ["UNAVAILABLE"]
