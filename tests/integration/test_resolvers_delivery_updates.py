"""deliveryUpdates as a root field: what it takes, where it starts, and what its items show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from uuid_utils.compat import uuid7

from db.deliveries import lock_deliveries
from engine.dispatch.ledger import create_deliveries, record
from engine.dispatch.status import transition_of
from engine.errors import CursorInvalid
from engine.node_ids import NodeKind, write_node_id
from tests.integration.delivery_support import attempts_made, new_delivery, node_id, set_columns
from tests.integration.graphql_support import Follower, Gateway, Tenant, open_gateway
from tests.integration.postgres_proxy import open_proxy

STREAM = """subscription ($filter: DeliveryFilter, $after: Cursor) {
  deliveryUpdates(filter: $filter, after: $after) {
    cursor
    node { from to at attempt { number statusCode error { code } } delivery { id status channel attempts { number } } }
  }
}"""


@pytest.fixture
async def gateway(module_database_url: str, redis_url: str) -> AsyncIterator[Gateway]:
    async with open_gateway(module_database_url, redis_url) as opened:
        yield opened


async def make(tenant: Tenant, count: int = 1, **values: Any) -> list[UUID]:
    """Make deliveries as whoever sends does, and announce them."""
    services = tenant.gateway.services
    now = services.clock.now()
    deliveries = [new_delivery(now, **{"delivery_id": uuid7(), **values}) for _ in range(count)]
    async with services.database.transaction() as connection:
        told = await create_deliveries(connection, project_id=tenant.project_id, deliveries=deliveries, now=now)
    for announcement in told:
        services.announce(announcement)
    return [each.delivery_id for each in deliveries]


async def move(
    tenant: Tenant, delivery_id: UUID, *statuses: str, attempt: int | None = None, error: str | None = None
) -> None:
    """Take a delivery through statuses as a worker does, each announced by itself."""
    project_id, services = tenant.project_id, tenant.gateway.services
    for status in statuses:
        async with services.database.transaction() as connection:
            [row] = await lock_deliveries(connection, project_id=project_id, delivery_ids=[delivery_id])
            sending = status == "SENDING"
            await set_columns(
                connection,
                project_id,
                delivery_id,
                status=status,
                next_attempt_at=services.clock.now() if status in ("QUEUED", "SCHEDULED", "RETRYING") else None,
                lease_token=uuid4() if sending else None,
                lease_until=services.clock.now() if sending else None,
            )
            transition = transition_of(row, before=row.status, after=status, attempt_number=attempt, error_code=error)
            told = await record(
                connection, project_id=project_id, transitions=[transition], events=[], now=services.clock.now()
            )
        for announcement in told:
            services.announce(announcement)


async def updates(follower: Follower, count: int) -> list[Any]:
    found = [await follower.next() for _ in range(count)]
    assert all("errors" not in each for each in found), found
    return [each["data"]["deliveryUpdates"] for each in found]


def steps(edges: list[Any]) -> list[tuple[str | None, str]]:
    return [(edge["node"]["from"], edge["node"]["to"]) for edge in edges]


async def head(tenant: Tenant) -> str:
    found: str = (await tenant.data("{ viewer { project { head } } }"))["viewer"]["project"]["head"]
    return found


async def test_each_step_arrives_live_with_the_delivery_as_it_is_now(shop: Tenant) -> None:
    follower = await shop.follow(STREAM)
    [delivery_id] = await make(shop)
    [made] = await updates(follower, 1)
    assert made["node"] == {
        "from": None,
        "to": "QUEUED",
        "at": made["node"]["at"],
        "attempt": None,
        "delivery": {"id": node_id(delivery_id), "status": "QUEUED", "channel": "PUSH", "attempts": []},
    }
    await move(shop, delivery_id, "SENDING", attempt=1)
    await attempts_made(shop, delivery_id, "Unregistered")
    await move(shop, delivery_id, "FAILED", attempt=1, error="Unregistered")
    begun, failed = await updates(follower, 2)
    assert steps([begun, failed]) == [("QUEUED", "SENDING"), ("SENDING", "FAILED")]
    assert failed["node"]["attempt"] == {"number": 1, "statusCode": 500, "error": {"code": "Unregistered"}}
    assert failed["node"]["delivery"]["status"] == "FAILED"


async def test_a_replay_says_what_was_then_and_shows_the_delivery_as_it_is_now(shop: Tenant) -> None:
    start = await head(shop)
    [delivery_id] = await make(shop)
    await attempts_made(shop, delivery_id, "Timeout", None)
    await move(shop, delivery_id, "SENDING", "RETRYING", attempt=1, error="Timeout")
    await move(shop, delivery_id, "SENDING", "SENT", attempt=2)

    edges = await updates(await shop.follow(STREAM, after=start), 5)

    assert steps(edges) == [
        (None, "QUEUED"),
        ("QUEUED", "SENDING"),
        ("SENDING", "RETRYING"),
        ("RETRYING", "SENDING"),
        ("SENDING", "SENT"),
    ]
    # An attempt that only begins has led to nothing yet, although it is known by now how it ended.
    assert [edge["node"]["attempt"] and edge["node"]["attempt"]["number"] for edge in edges] == [None, None, 1, None, 2]
    assert {edge["node"]["delivery"]["status"] for edge in edges} == {"SENT"}


async def test_every_position_is_a_place_to_go_on_from(shop: Tenant) -> None:
    start = await head(shop)
    # Events and deliveries are counted apart: the head holds a number for each.
    await shop.track(id="one")
    [first] = await make(shop)
    middle = await head(shop)
    [second] = await make(shop)
    both = await updates(await shop.follow(STREAM, after=start), 2)
    assert [edge["node"]["delivery"]["id"] for edge in both] == [node_id(first), node_id(second)]
    followers = [await shop.follow(STREAM, after=after) for after in (middle, both[0]["cursor"])]
    assert [await updates(follower, 1) for follower in followers] == [[both[1]]] * 2
    [third] = await make(shop)
    for follower in followers:
        [live] = await updates(follower, 1)
        assert live["node"]["delivery"]["id"] == node_id(third)
        assert follower.membership is not None
        assert follower.membership.cursor == live["cursor"]


async def test_a_cursor_of_another_stream_is_refused(shop: Tenant) -> None:
    await shop.track(id="one")
    await make(shop)
    event = (await shop.data("{ events { edges { cursor } } }"))["events"]["edges"][0]["cursor"]
    with pytest.raises(CursorInvalid):
        await shop.follow(STREAM, after=event)
    follower = await shop.follow(STREAM)
    with pytest.raises(CursorInvalid):
        await shop.follow("subscription ($a: Cursor) { eventStream(after: $a) { cursor } }", a=follower.announced[0])


async def test_a_filter_lets_only_what_it_says_through(shop: Tenant) -> None:
    batch, endpoint, workflow, run = uuid7(), uuid7(), uuid7(), uuid7()
    [wanted] = await make(shop)
    later = (shop.gateway.services.clock.now() + timedelta(days=1)).isoformat()
    expected: list[tuple[dict[str, Any], int]] = [
        ({}, 4),
        ({"ids": [node_id(wanted)]}, 1),
        ({"batchId": write_node_id(NodeKind.BATCH, batch)}, 1),
        ({"channels": ["SMS"]}, 1),
        ({"statuses": ["FAILED"]}, 1),
        ({"errorCodes": ["NO_PHONE"]}, 1),
        ({"userId": "ann"}, 1),
        ({"endpointId": write_node_id(NodeKind.WEBHOOK_ENDPOINT, endpoint)}, 1),
        ({"workflowId": write_node_id(NodeKind.WORKFLOW, workflow)}, 1),
        ({"workflowRunId": write_node_id(NodeKind.WORKFLOW_RUN, run)}, 1),
        ({"eventTypes": ["user.signed_up"]}, 1),
        ({"eventTypes": ["order.*"]}, 1),
        ({"since": later}, 0),
        ({"until": later}, 4),
        ({"ids": []}, 0),
    ]
    followers = [(await shop.follow(STREAM, filter=each), count) for each, count in expected]
    await move(shop, wanted, "CANCELLED")
    await make(shop, channel="SMS", status="FAILED", next_attempt_at=None, error_code="NO_PHONE", user_id="ann")
    await make(shop, batch_id=batch, endpoint_id=endpoint, event_type="auth.signed_up")
    await make(shop, workflow_id=workflow, workflow_run_id=run, event_type="order.placed")
    everything = await shop.follow(STREAM)
    await make(shop, channel="EMAIL", event_type="other", user_id="last")
    await updates(everything, 1)
    for (follower, count), (delivery_filter, _) in zip(followers, expected, strict=True):
        last = 1 if delivery_filter == {} or "until" in delivery_filter else 0
        await updates(follower, count + last)
        assert follower.items.empty(), delivery_filter


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"ids": ["evt_x"]}, "filter.ids takes ids that begin with dlv_"),
    ({"batchId": "7"}, "filter.batchId takes ids that begin with bat_"),
    ({"workflowId": "dlv_" + "0" * 32}, "filter.workflowId takes ids that begin with wfl_"),
    ({"workflowRunId": ""}, "filter.workflowRunId takes ids that begin with run_"),
    ({"endpointId": "whe_0"}, "filter.endpointId takes ids that begin with whe_"),
    ({"ids": [f"dlv_{n:032x}" for n in range(1_001)]}, "filter.ids has too many entries"),
    ({"eventTypes": ["x" * 201]}, "filter.eventTypes is too long"),
    ({"errorCodes": ["x" * 201]}, "filter.errorCodes is too long"),
    ({"userId": "a\0"}, "filter.userId holds a NUL character"),
    ({"since": "0001-01-01T00:00:00Z"}, "filter.since must lie within"),
]


async def test_a_filter_that_can_never_work_says_what_to_do(shop: Tenant) -> None:
    for delivery_filter, sentence in REFUSED:
        assert await shop.refusal(STREAM, filter=delivery_filter) == "BAD_USER_INPUT"
        document = "query ($filter: DeliveryFilter) { deliveries(filter: $filter) { totalCount } }"
        [error] = (await shop.run(document, filter=delivery_filter))["errors"]
        assert error["message"].startswith(sentence)


async def test_a_burst_costs_a_statement_per_table_not_per_item(shop: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    start = await head(shop)
    for _ in range(2):
        await make(shop, 150)
    database, taken = shop.gateway.services.database, 0
    connection = database.connection

    def counting() -> Any:
        nonlocal taken
        taken += 1
        return connection()

    follower = await shop.follow(STREAM)
    monkeypatch.setattr(database, "connection", counting)
    replayed = await updates(await shop.follow(STREAM, after=start), 300)
    # Two pages, and for each a few bursts of renderings, of a statement for deliveries and one for their attempts.
    assert taken <= 20
    assert len({edge["node"]["delivery"]["id"] for edge in replayed}) == 300

    taken = 0
    await make(shop, 100)
    await updates(follower, 100)
    # One to make them; and the renderings of the burst began together.
    assert taken <= 1 + 4


async def test_an_item_waits_for_a_database_that_is_away(database_url: str, redis_url: str, tmp_path: Path) -> None:
    """The announcement comes through Redis; what the item shows cannot be read for a while. It is late, and whole."""
    async with (
        open_proxy(tmp_path, database_url) as proxy,
        open_gateway(proxy.url, redis_url) as cut_off,
        open_gateway(database_url, redis_url) as gateway,
    ):
        writer = await gateway.tenant()
        reader = Tenant(cut_off, await cut_off.identities.viewer_of(writer.token), writer.token)
        follower = await reader.follow(STREAM)
        proxy.refuses = True
        proxy.cut()

        made = await make(writer, 3)
        await asyncio.sleep(0.3)
        assert follower.items.empty()
        proxy.refuses = False

        arrived = [await asyncio.wait_for(follower.items.get(), 20) for _ in made]

    assert ["errors" in response for response, _ in arrived] == [False, False, False]
    shown = [response["data"]["deliveryUpdates"]["node"]["delivery"]["id"] for response, _ in arrived]
    assert shown == [node_id(each) for each in made]
    assert follower.ended == []
