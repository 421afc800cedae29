"""Deliveries through the schema: lists, what one shows, and cancelling."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.deliveries import lock_deliveries
from db.records import Lane
from engine.dispatch.status import PENDING
from engine.dispatch.values import DeliveryStatus, EmailContent, PushContent, PushNotification, SmsContent
from engine.identity import Role
from engine.node_ids import NodeKind, write_node_id
from tests.integration.delivery_support import attempts_made, fill_deliveries, make_delivery, node_id
from tests.integration.graphql_support import Gateway, Tenant, open_gateway

LIST = """query ($first: Int, $after: Cursor, $last: Int, $before: Cursor, $filter: DeliveryFilter) {
  deliveries(first: $first, after: $after, last: $last, before: $before, filter: $filter) {
    edges { cursor node { id } }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
    totalCount
    totalCountIsCapped
  }
}"""
CANCEL = """mutation ($id: ID!) {
  cancelDelivery(id: $id) {
    delivery { id status nextAttemptAt finishedAt } userErrors { code path message }
  }
}"""


def ids(data: Any) -> list[str]:
    return [edge["node"]["id"] for edge in data["deliveries"]["edges"]]


async def listed(shop: Tenant, **delivery_filter: Any) -> list[str]:
    return ids(await shop.data(LIST, first=100, filter=delivery_filter))


async def transitions(shop: Tenant, delivery_id: UUID) -> list[tuple[str | None, str]]:
    async with shop.gateway.services.database.connection() as connection:
        rows = await connection.fetch(
            "SELECT from_status, to_status FROM delivery_transitions WHERE project_id = $1 AND delivery_id = $2 "
            "ORDER BY seq",
            shop.project_id,
            delivery_id,
        )
    return [(row["from_status"], row["to_status"]) for row in rows]


async def test_a_delivery_shows_all_of_itself(shop: Tenant, gateway: Gateway) -> None:
    event = await shop.track(userId="ada", traits={"plan": "pro"})
    now = gateway.services.clock.now()
    batch_id = uuid4()
    delivery_id = await make_delivery(
        shop,
        status="FAILED",
        user_id="ada",
        event_seq=1,
        batch_id=batch_id,
        variant="B",
        locale="de",
        error_code="BadDeviceToken",
        error_message="The token is not one.",
        error_permanent=True,
        error_hint="Check the environment.",
        attempt_count=2,
        finished_at=now,
        scheduled_for=now - timedelta(hours=1),
    )
    await attempts_made(shop, delivery_id, "Throttled", "BadDeviceToken")
    document = """query ($id: ID!) { node(id: $id) { ... on Delivery {
      id batchId channel status suppressedReason userId recipient profile { traits } event { id } payload variant
      locale error { code message permanent hint } attemptCount createdAt scheduledFor nextAttemptAt sentAt
      deliveredAt openedAt clickedAt finishedAt
      attempts { number durationMs statusCode responseBody signatureHeader error { code permanent hint } }
    } } }"""
    found = (await shop.data(document, id=node_id(delivery_id)))["node"]

    attempt = {"durationMs": 12, "statusCode": 500, "responseBody": "oops", "signatureHeader": "t=1,v1=ab"}
    assert found.pop("createdAt")
    assert found.pop("scheduledFor")
    assert found.pop("finishedAt")
    assert found == {
        "id": node_id(delivery_id),
        "batchId": write_node_id(NodeKind.BATCH, batch_id),
        "channel": "PUSH",
        "status": "FAILED",
        "suppressedReason": None,
        "userId": "ada",
        "recipient": None,
        "profile": {"traits": {"plan": "pro"}},
        "event": {"id": event["id"]},
        "payload": {
            "push": {"title": "Hi", "body": "there"},
        },
        "variant": "B",
        "locale": "de",
        "error": {
            "code": "BadDeviceToken",
            "message": "The token is not one.",
            "permanent": True,
            "hint": "Check the environment.",
        },
        "attemptCount": 2,
        "nextAttemptAt": None,
        "sentAt": None,
        "deliveredAt": None,
        "openedAt": None,
        "clickedAt": None,
        "attempts": [
            {"number": 1, **attempt, "error": {"code": "Throttled", "permanent": False, "hint": None}},
            {"number": 2, **attempt, "error": {"code": "BadDeviceToken", "permanent": False, "hint": None}},
        ],
    }


async def test_a_delivery_leads_to_its_endpoint_and_to_its_device(shop: Tenant) -> None:
    endpoint_id, push_token_id, project_id = uuid4(), uuid4(), shop.project_id
    async with shop.gateway.services.database.connection() as connection:
        await connection.execute(
            """INSERT INTO webhook_endpoints (project_id, endpoint_id, url, events, signature_scheme, retry_schedule,
                                              created_at)
               VALUES ($1, $2, 'https://shop.example/in', '{*}', 'HEX', '{2}', now())""",
            project_id,
            endpoint_id,
        )
        await connection.execute(
            """INSERT INTO push_tokens (project_id, push_token_id, platform, environment, token, registered_at)
               VALUES ($1, $2, 'IOS', 'SANDBOX', 'ab', now())""",
            project_id,
            push_token_id,
        )
    await make_delivery(shop, endpoint_id=endpoint_id, push_token_id=push_token_id)
    document = "{ deliveries { edges { node { endpoint { url deliveries { totalCount } } pushToken { platform } } } } }"
    assert (await shop.data(document))["deliveries"]["edges"][0]["node"] == {
        "endpoint": {"url": "https://shop.example/in", "deliveries": {"totalCount": 1}},
        "pushToken": {"platform": "IOS"},
    }


async def test_an_endpoint_lists_its_own_deliveries_whatever_the_filter_says(shop: Tenant) -> None:
    endpoint_id, other = uuid4(), uuid4()
    async with shop.gateway.services.database.connection() as connection:
        await connection.execute(
            """INSERT INTO webhook_endpoints (project_id, endpoint_id, url, events, signature_scheme, retry_schedule,
                                              created_at)
               VALUES ($1, $2, 'https://shop.example/in', '{*}', 'HEX', '{2}', now())""",
            shop.project_id,
            endpoint_id,
        )
    mine = node_id(await make_delivery(shop, channel="WEBHOOK", content="{}", endpoint_id=endpoint_id))
    await make_delivery(shop, channel="WEBHOOK", content="{}", endpoint_id=other)
    document = """query ($id: ID!, $filter: DeliveryFilter) { node(id: $id) { ... on WebhookEndpoint {
      deliveries(filter: $filter) { edges { node { id } } } } } }"""
    own, foreign = (write_node_id(NodeKind.WEBHOOK_ENDPOINT, each) for each in (endpoint_id, other))
    for delivery_filter, expected in (({}, [mine]), ({"endpointId": own}, [mine]), ({"endpointId": foreign}, [])):
        assert ids((await shop.data(document, id=own, filter=delivery_filter))["node"]) == expected


async def test_the_payload_is_what_was_sent_once_that_is_known(shop: Tenant) -> None:
    await make_delivery(shop, status="SENT", payload='{"aps": {"alert": "Hi Ada"}}')
    data = await shop.data("{ deliveries { edges { node { payload } } } }")
    assert data["deliveries"]["edges"][0]["node"]["payload"] == {"aps": {"alert": "Hi Ada"}}


async def test_a_webhook_shows_neither_its_secret_nor_the_values_of_its_headers(shop: Tenant) -> None:
    content = (
        '{"eventId":"evt_1","body":"{}","url":"https://shop.example/in","sealedSecret":"c2VhbGVk",'
        '"headers":{"Authorization":"Bearer hunter2"}}'
    )
    await make_delivery(shop, channel="WEBHOOK", content=content)
    data = await shop.data("{ deliveries { edges { node { payload } } } }")
    assert data["deliveries"]["edges"][0]["node"]["payload"] == {
        "eventId": "evt_1",
        "body": "{}",
        "url": "https://shop.example/in",
        "headers": {"Authorization": "***"},
    }


async def test_what_a_delivery_leads_to_costs_one_statement_each_however_many_there_are(
    shop: Tenant, gateway: Gateway
) -> None:
    for number in range(8):
        await shop.track(userId=f"user{number}")
        delivery_id = await make_delivery(
            shop, user_id=f"user{number}", event_seq=number + 1, endpoint_id=uuid4(), push_token_id=uuid4()
        )
        await attempts_made(shop, delivery_id, "E1", None)
    statements = 0
    read = gateway.services.database.connection

    def counting() -> Any:
        nonlocal statements
        statements += 1
        return read()

    gateway.services.database.connection = counting  # type: ignore[method-assign]
    for selection, needed in (
        ("id", 1),
        ("id attempts { number }", 2),
        ("profile { userId }", 2),
        ("event { seq }", 2),
        ("endpoint { url }", 2),
        ("pushToken { platform }", 2),
        ("attempts { number } profile { userId } event { seq } endpoint { url } pushToken { platform }", 6),
    ):
        statements = 0
        data = await shop.data(f"{{ deliveries {{ edges {{ node {{ {selection} }} }} }} }}")
        assert len(data["deliveries"]["edges"]) == 8
        assert statements == needed, selection


async def test_deliveries_come_newest_first_and_are_counted_up_to_10_000(shop: Tenant) -> None:
    made = [node_id(await make_delivery(shop)) for _ in range(5)]
    data = await shop.data(LIST, first=3)
    assert ids(data) == made[:1:-1]
    connection = data["deliveries"]
    assert (connection["totalCount"], connection["totalCountIsCapped"]) == (5, False)
    assert (connection["pageInfo"]["hasNextPage"], connection["pageInfo"]["hasPreviousPage"]) == (True, False)
    await fill_deliveries(shop, 10_001)
    connection = (await shop.data(LIST, first=1))["deliveries"]
    assert (connection["totalCount"], connection["totalCountIsCapped"]) == (10_000, True)
    assert await shop.codes(LIST, first=0) == ["BAD_USER_INPUT"]


async def test_paging_either_way_in_any_steps_sees_each_delivery_once(shop: Tenant) -> None:
    for number in range(17):
        await make_delivery(shop, channel="SMS" if number % 3 else "EMAIL")

    async def forward(step: int, delivery_filter: Any) -> list[str]:
        seen: list[str] = []
        after = None
        while True:
            data = await shop.data(LIST, first=step, after=after, filter=delivery_filter)
            seen += ids(data)
            if not data["deliveries"]["pageInfo"]["hasNextPage"]:
                return seen
            after = data["deliveries"]["pageInfo"]["endCursor"]

    async def backward(step: int, delivery_filter: Any) -> list[str]:
        seen: list[str] = []
        before = None
        while True:
            data = await shop.data(LIST, last=step, before=before, filter=delivery_filter)
            seen = ids(data) + seen
            if not data["deliveries"]["pageInfo"]["hasPreviousPage"]:
                return seen
            before = data["deliveries"]["pageInfo"]["startCursor"]

    for delivery_filter, count in ((None, 17), ({"channels": ["SMS"]}, 11), ({"channels": ["PUSH"]}, 0)):
        expected = ids(await shop.data(LIST, first=100, filter=delivery_filter))
        assert len(expected) == count
        for step in (1, 4, 17, 20):
            assert await forward(step, delivery_filter) == expected
            assert await backward(step, delivery_filter) == expected


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_a_page_is_the_part_of_the_list_between_its_positions(
    module_database_url: str, data: st.DataObject
) -> None:
    async with open_gateway(module_database_url) as gateway:
        shop = await gateway.tenant()
        count = data.draw(st.integers(1, 7))
        for _ in range(count):
            await make_delivery(shop)
        edges = (await shop.data(LIST, first=100))["deliveries"]["edges"]
        place = st.none() | st.integers(0, count - 1)
        for _ in range(4):
            after, before = data.draw(place), data.draw(place)
            size, from_end = data.draw(st.integers(1, 8)), data.draw(st.booleans())
            between = edges[0 if after is None else after + 1 : count if before is None else before]
            expected = between[-size:] if from_end else between[:size]
            page = await shop.data(
                LIST,
                after=None if after is None else edges[after]["cursor"],
                before=None if before is None else edges[before]["cursor"],
                **({"last": size} if from_end else {"first": size}),
            )
            assert page["deliveries"]["edges"] == expected


async def test_each_field_of_the_filter_narrows_the_list(shop: Tenant, gateway: Gateway) -> None:
    now = gateway.services.clock.now()
    batch, endpoint, workflow, run = uuid4(), uuid4(), uuid4(), uuid4()
    wanted = node_id(
        await make_delivery(
            shop,
            channel="EMAIL",
            status="FAILED",
            user_id="ada",
            batch_id=batch,
            endpoint_id=endpoint,
            workflow_id=workflow,
            workflow_run_id=run,
            event_type="order.placed",
            error_code="550",
            created_at=now - timedelta(hours=1),
        )
    )
    other = node_id(await make_delivery(shop, user_id="bob", event_type="push.sent"))
    fits: dict[str, Any] = {
        "ids": [wanted],
        "batchId": write_node_id(NodeKind.BATCH, batch),
        "channels": ["EMAIL"],
        "statuses": ["FAILED", "SENT"],
        "userId": "ada",
        "endpointId": write_node_id(NodeKind.WEBHOOK_ENDPOINT, endpoint),
        "eventTypes": ["order.*"],
        "errorCodes": ["550"],
        "until": (now - timedelta(minutes=1)).isoformat(),
    }
    for name, value in fits.items():
        assert await listed(shop, **{name: value}) == [wanted], name
    assert await listed(shop, **fits) == [wanted]
    assert await listed(shop, since=(now - timedelta(minutes=1)).isoformat()) == [other]
    assert await listed(shop, statuses=[]) == []
    for name, value in {"ids": ["evt_x"], "batchId": wanted, "userId": "\0", "endpointId": ""}.items():
        assert await shop.codes(LIST, filter={name: value}) == ["BAD_USER_INPUT"], name


async def test_a_person_has_their_own_deliveries(shop: Tenant) -> None:
    await shop.track(userId="ada")
    mine = [node_id(await make_delivery(shop, user_id="ada", channel=channel)) for channel in ("SMS", "PUSH")]
    await make_delivery(shop, user_id="bob")
    document = """query ($first: Int, $after: Cursor, $filter: DeliveryFilter) { profile(userId: "ada") {
      deliveries(first: $first, after: $after, filter: $filter) { totalCount edges { cursor node { id } } } } }"""

    async def read(**arguments: Any) -> tuple[list[str], int]:
        found = (await shop.data(document, **arguments))["profile"]
        return ids(found), found["deliveries"]["totalCount"]

    assert await read() == (mine[::-1], 2)
    assert await read(filter={"channels": ["SMS"]}) == (mine[:1], 1)
    assert await read(filter={"userId": "ada"}) == (mine[::-1], 2)
    assert await read(filter={"userId": "bob"}) == ([], 0)
    cursor = (await shop.data(document, first=1))["profile"]["deliveries"]["edges"][0]["cursor"]
    assert (await read(after=cursor))[0] == mine[:1]


async def test_a_cursor_of_another_list_is_invalid(shop: Tenant) -> None:
    await shop.track(userId="ada")
    await make_delivery(shop)
    own = (await shop.data(LIST))["deliveries"]["edges"][0]["cursor"]
    event = (await shop.data("{ events { edges { cursor } } }"))["events"]["edges"][0]["cursor"]
    head = (await shop.data("{ viewer { project { head } } }"))["viewer"]["project"]["head"]
    assert await shop.codes(LIST, after=own) == []
    for cursor in (event, head, "x"):
        assert await shop.codes(LIST, after=cursor) == ["CURSOR_INVALID"]
    assert await shop.codes("query ($a: Cursor) { events(after: $a) { totalCount } }", a=own) == ["CURSOR_INVALID"]


@pytest.mark.parametrize("status", sorted(PENDING))
async def test_what_is_pending_is_cancelled_at_once(shop: Tenant, gateway: Gateway, status: str) -> None:
    delivery_id = await make_delivery(shop, status=status, user_id="ada")
    gateway.announced.clear()
    payload = (await shop.data(CANCEL, id=node_id(delivery_id)))["cancelDelivery"]
    assert payload["userErrors"] == []
    assert payload["delivery"].pop("finishedAt")
    assert payload["delivery"] == {"id": node_id(delivery_id), "status": "CANCELLED", "nextAttemptAt": None}
    assert (await transitions(shop, delivery_id))[-1] == (status, "CANCELLED")
    assert [announcement.lane for announcement in gateway.announced] == [Lane.EVENTS, Lane.DELIVERIES]
    events = await shop.data('{ events(filter: {eventTypes: ["push.cancelled"]}) { edges { node { userId } } } }')
    assert [edge["node"] for edge in events["events"]["edges"]] == [{"userId": "ada"}]


@pytest.mark.parametrize("status", sorted(set(DeliveryStatus) - PENDING))
async def test_what_is_sent_or_done_is_not_cancelled(shop: Tenant, gateway: Gateway, status: str) -> None:
    delivery_id = await make_delivery(shop, status=status)
    before = await transitions(shop, delivery_id)
    gateway.announced.clear()
    payload = (await shop.data(CANCEL, id=node_id(delivery_id)))["cancelDelivery"]
    assert payload["delivery"] is None
    assert [(error["code"], error["path"]) for error in payload["userErrors"]] == [("STATE", ["id"])]
    assert f"This delivery is {status}:" in payload["userErrors"][0]["message"]
    assert await listed(shop, statuses=[status]) == [node_id(delivery_id)]
    assert await transitions(shop, delivery_id) == before
    assert gateway.announced == []


async def test_a_delivery_that_is_not_there_is_not_cancelled(shop: Tenant) -> None:
    for unknown in (node_id(uuid4()), "evt_x", "", "\0"):
        payload = (await shop.data(CANCEL, id=unknown))["cancelDelivery"]
        assert payload["delivery"] is None
        assert [(error["code"], error["path"]) for error in payload["userErrors"]] == [("NOT_FOUND", ["id"])]


async def test_a_dispatch_that_came_first_wins_over_cancelling(shop: Tenant, gateway: Gateway) -> None:
    """It holds the row until it has said SENDING."""
    project_id, delivery_id = shop.project_id, await make_delivery(shop)
    async with gateway.services.database.transaction() as connection:
        await lock_deliveries(connection, project_id=project_id, delivery_ids=[delivery_id])
        cancelling = asyncio.create_task(shop.data(CANCEL, id=node_id(delivery_id)))
        while not await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid)))"
        ):
            pass
        await connection.execute(
            "UPDATE deliveries SET status = 'SENDING', next_attempt_at = NULL, lease_token = gen_random_uuid(), "
            "lease_until = now() WHERE project_id = $1 AND delivery_id = $2",
            project_id,
            delivery_id,
        )
    payload = (await cancelling)["cancelDelivery"]
    assert [error["code"] for error in payload["userErrors"]] == ["STATE"]
    assert "SENDING" in payload["userErrors"][0]["message"]


async def test_a_viewer_sees_deliveries_and_changes_none(shop: Tenant) -> None:
    delivery_id = await make_delivery(shop)
    viewer = await shop.as_role(Role.VIEWER)
    assert await listed(viewer) == [node_id(delivery_id)]
    assert await viewer.codes(CANCEL, id=node_id(delivery_id)) == ["FORBIDDEN"]
    ingest = await shop.as_role(Role.INGEST)
    assert await ingest.codes(LIST) == ["FORBIDDEN"]


async def test_what_is_to_be_sent_is_shown_in_the_words_of_the_api(shop: Tenant) -> None:
    template_id = UUID(int=5)
    mail = EmailContent(template_id=template_id, from_address="a@shop.example", vars={"x": 1}, is_system=True)
    push = PushContent(message_id=UUID(int=6), push=PushNotification("Hello", "there"), is_test=True)
    await make_delivery(shop, channel="EMAIL", content=text(mail), recipient="ada@example.com")
    await make_delivery(shop, channel="PUSH", content=text(push))
    await make_delivery(shop, channel="SMS", content=text(SmsContent(body="Hi")), recipient="+14155550100")

    shown = await shop.data("{ deliveries { edges { node { channel payload } } } }")

    assert {edge["node"]["channel"]: edge["node"]["payload"] for edge in shown["deliveries"]["edges"]} == {
        "EMAIL": {
            "to": "ada@example.com",
            "from": "a@shop.example",
            "templateId": write_node_id(NodeKind.TEMPLATE, template_id),
            "vars": {"x": 1},
        },
        "PUSH": {"push": {"title": "Hello", "body": "there"}},
        "SMS": {"to": "+14155550100", "body": "Hi"},
    }


def text(content: EmailContent | PushContent | SmsContent) -> str:
    return msgspec.json.encode(content).decode()
