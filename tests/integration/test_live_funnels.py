"""Funnels that are followed: what is pushed is what a query answers, counted once for all, when it may differ."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import msgspec
import orjson
import pytest
from graphql import ExecutionResult

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
INPUT: dict[str, Any] = {
    "steps": [
        {"eventType": "a"},
        {"eventType": "b", "where": [{"path": "event.properties.n", "op": "GT", "value": 0}]},
    ],
    "period": "P30D",
}
EVERY = 250


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
    prepared = await service.prepare(GraphQLRequest(query=FOLLOW, variables=variables))
    assert not isinstance(prepared, list), prepared
    return await service.subscribe(
        prepared, GatewaySession(tenant.gateway.services, tenant.gateway.revocations, tenant.viewer)
    )


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


async def test_what_is_pushed_last_is_what_a_query_answers(gateway: Gateway) -> None:
    shop, chance = await gateway.tenant(), random.Random(7)
    asked = {**INPUT, "groupBy": "event.properties.n", "compare": True, "order": "UNORDERED"}
    now = gateway.services.clock.now()
    async with following(shop, **asked) as reports:
        pushed = await reports.next()
        for _ in range(5):
            events = [
                {
                    "eventType": chance.choice("abc"),
                    "userId": chance.choice([None, "ada", "eve"]),
                    "anonymousId": chance.choice(["p", "q"]),
                    "timestamp": (now - timedelta(days=chance.randrange(50))).isoformat(),
                    "properties": {"n": chance.randrange(3)},
                }
                for _ in range(chance.randrange(1, 6))
            ]
            await shop.data(BATCH, input={"events": events})
            answered = (await shop.data(ASK, input=asked))["funnel"]
            while pushed != answered:
                pushed = await reports.next()


async def test_what_is_wrong_is_said_before_anything_is_followed(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    for given in ({"every": 249}, {"steps": INPUT["steps"][:1]}, {"period": "soon"}):
        refused = await subscribe(shop, **{"every": EVERY, **given})
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
