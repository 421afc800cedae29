"""eventStream as a root field: what it takes, where it starts, and what its items show."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine.errors import CursorExpired, CursorInvalid
from tests.integration.graphql_support import Gateway, Tenant, open_gateway

STREAM = """subscription ($filter: EventFilter, $after: Cursor) {
  eventStream(filter: $filter, after: $after) {
    cursor
    node { id seq orgId projectId key eventType properties profile { userId traits } }
  }
}"""


@pytest.fixture
async def gateway(database_url: str, redis_url: str) -> AsyncIterator[Gateway]:
    async with open_gateway(database_url, redis_url) as opened:
        yield opened


async def keys_after(tenant: Tenant, after: str, count: int) -> list[str]:
    follower = await tenant.follow(STREAM, after=after)
    found = [(await follower.next())["data"]["eventStream"]["node"]["key"] for _ in range(count)]
    assert follower.membership is not None
    follower.membership.leave()
    return found


async def test_an_item_is_the_event_and_its_cursor_leads_on(shop: Tenant) -> None:
    follower = await shop.follow(STREAM)
    tracked = await shop.track(id="one", userId="ada", traits={"plan": "pro"}, properties={"n": 1})
    await shop.track(id="two")
    edge = (await follower.next())["data"]["eventStream"]
    assert edge["node"] == {
        **{name: tracked[name] for name in ("id", "seq", "orgId", "projectId", "key", "eventType", "properties")},
        "profile": {"userId": "ada", "traits": {"plan": "pro"}},
    }
    assert await keys_after(shop, edge["cursor"], 1) == ["two"]


async def test_every_position_of_the_log_is_a_place_to_start(shop: Tenant) -> None:
    batch = "mutation ($i: TrackBatchInput!) { trackBatch(input: $i) { cursor } }"
    cursor = (await shop.data(batch, i={"events": [{"id": "1", "eventType": "a.b"}]}))["trackBatch"]["cursor"]
    head = (await shop.data("{ viewer { project { head } } }"))["viewer"]["project"]["head"]
    listed = (await shop.data("{ events { edges { cursor } } }"))["events"]["edges"][0]["cursor"]
    await shop.track(id="2")
    for after in (cursor, head, listed):
        assert await keys_after(shop, after, 1) == ["2"]


async def test_a_filter_lets_only_what_it_says_through(shop: Tenant) -> None:
    expected: list[tuple[dict[str, Any], str]] = [
        ({"userId": "bob"}, "bob"),
        ({"eventTypes": ["user.signed_up"]}, "alias"),
        ({"where": [{"path": "event.properties.n", "op": "GT", "value": 5}]}, "large"),
    ]
    followers = [(await shop.follow(STREAM, filter=event_filter), key) for event_filter, key in expected]
    await shop.track(id="other", userId="ada", properties={"n": 5})
    await shop.track(id="bob", userId="bob")
    await shop.track(id="alias", eventType="auth.signed_up")
    await shop.track(id="large", properties={"n": 6})
    for follower, key in followers:
        assert (await follower.next())["data"]["eventStream"]["node"]["key"] == key


@pytest.mark.parametrize(
    "condition",
    [
        {"path": "profile.traits.plan", "op": "EQ", "value": "pro"},
        {"events": {"eventType": "a.b"}, "op": "GTE", "value": 1},
        {"not": {"any": [{"path": "profile.userId", "op": "EXISTS"}]}},
    ],
)
async def test_a_condition_that_the_event_alone_cannot_decide_is_refused(
    shop: Tenant, condition: dict[str, Any]
) -> None:
    assert await shop.refusal(STREAM, filter={"where": [condition]}) == "BAD_USER_INPUT"


async def test_a_cursor_that_leads_nowhere_is_refused_before_anything_is_delivered(
    shop: Tenant, gateway: Gateway
) -> None:
    await shop.track(userId="ada")
    profiles = (await shop.data("{ profiles { edges { cursor } } }"))["profiles"]["edges"][0]["cursor"]
    with pytest.raises(CursorInvalid):
        await shop.follow(STREAM, after=profiles)
    with pytest.raises(CursorInvalid):
        await shop.follow(STREAM, after="forged")
    other = await gateway.tenant("other")
    with pytest.raises(CursorInvalid):
        await other.follow(STREAM, after=await _last_cursor(shop))
    before_the_restore = await _last_cursor(shop)
    async with gateway.services.database.connection() as connection:
        await connection.execute("UPDATE heads SET epoch = epoch + 1")
    with pytest.raises(CursorExpired):
        await shop.follow(STREAM, after=before_the_restore)


async def _last_cursor(tenant: Tenant) -> str:
    cursor: str = (await tenant.data("{ events { edges { cursor } } }"))["events"]["edges"][0]["cursor"]
    return cursor
