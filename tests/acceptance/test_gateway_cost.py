"""What operations cost on a running gateway: said in every answer, the same over all transports, paid by streams."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.acceptance.gateway_client import FOLLOW, TRACK, TRACK_BATCH, Gateway, open_event_source, open_socket

LIMIT, RESTORE = 500_000, 50_000
RATE_LIMIT = "{ viewer { rateLimit { limit remaining restoreRate cost } } }"
PAGE = "events(first: %d, filter: { eventTypes: [%s] }) { edges { cursor } }"


def cost_in(answer: Any) -> dict[str, int]:
    """What an answer says of its cost. The bucket's part must be there."""
    cost: dict[str, int] = answer["extensions"]["cost"]
    assert (cost["limit"], cost["restoreRate"]) == (LIMIT, RESTORE)
    assert 0 <= cost["remaining"] <= LIMIT
    return cost


async def fresh_key(gateway: Gateway) -> str:
    return (await gateway.make_key("EDITOR"))[1]


async def test_an_answer_says_what_it_asked_for_and_what_it_came_to(gateway: Gateway) -> None:
    await gateway.track(eventType="cost.told")
    document = "{" + PAGE % (50, '"cost.told"') + "}"

    cost = cost_in((await gateway.ask(document)).json)

    assert (cost["requested"], cost["actual"]) == (51, 2)


async def test_a_page_size_in_a_variable_costs_what_it_holds(gateway: Gateway) -> None:
    document = "query ($n: Int) { events(first: $n) { edges { cursor } } }"

    costs = [cost_in((await gateway.ask(document, n=n)).json)["requested"] for n in (1, 7, 100, None)]

    assert costs == [2, 8, 101, 21]


async def test_batches_are_paid_by_their_events_whichever_way_they_come(gateway: Gateway) -> None:
    events = [{"eventType": "cost.batch"}] * 21
    whole = "mutation ($input: TrackBatchInput!) { trackBatch(input: $input) { accepted } }"

    single = cost_in((await gateway.ask(TRACK, event=events[0])).json)
    listed = cost_in((await gateway.ask(TRACK_BATCH, events=events)).json)
    compiled = cost_in((await gateway.ask(whole, input={"events": events})).json)

    assert (single["requested"], listed["requested"], compiled["requested"]) == (1, 3, 3)


async def test_all_transports_say_the_same(gateway: Gateway) -> None:
    told = []
    told.append((await gateway.ask("{ viewer { role } }")).json)
    async with open_socket(gateway) as socket:
        await socket.subscribe("1", "{ viewer { role } }")
        told.append((await socket.receive())["payload"])
    async with open_event_source(gateway, "{ viewer { role } }") as source:
        told.append(await source.item())

    for answer in told:
        cost = cost_in(answer)
        assert (cost["requested"], cost["actual"]) == (1, 1)
        assert answer["data"] == {"viewer": {"role": "ADMIN"}}


async def test_what_is_no_operation_and_who_has_no_bucket_is_told_nothing(gateway: Gateway) -> None:
    assert "extensions" not in (await gateway.ask("{ nope }")).json
    assert "extensions" not in (await gateway.ask("{ __typename }", key=None)).json


async def test_a_viewer_sees_what_is_left(gateway: Gateway) -> None:
    key = await fresh_key(gateway)

    answer = (await gateway.ask(RATE_LIMIT, key=key)).json

    rate_limit = answer["data"]["viewer"]["rateLimit"]  # type: ignore[index]
    assert rate_limit.pop("remaining") in range(LIMIT - 1, LIMIT + 1)
    assert rate_limit == {"limit": LIMIT, "restoreRate": RESTORE, "cost": 1}


async def test_an_operation_that_fails_gets_nothing_back(gateway: Gateway) -> None:
    key = (await gateway.make_key("INGEST"))[1]

    cost = cost_in((await gateway.ask("{ events(first: 100) { edges { cursor } } }", key=key)).json)

    assert (cost["requested"], cost["actual"]) == (101, 101)


async def test_items_of_streams_carry_no_cost_and_are_paid_when_the_stream_ends(gateway: Gateway) -> None:
    key = await fresh_key(gateway)
    event_type = "cost.streamed"
    dear = "subscription ($f: EventFilter) { eventStream(filter: $f) { cursor node { profile { %s } } } }"
    inside = "timeline(first: 100) { edges { node { profile { timeline(first: 100) { edges { cursor } } } } } }"
    async with open_socket(gateway, key) as socket:
        await socket.subscribe("1", dear % inside, f={"eventTypes": [event_type]})
        await socket.position("1")
        batch = [{"eventType": event_type, "userId": f"streamed-{number}"} for number in range(200)]
        await gateway.data(TRACK_BATCH, events=batch)
        items = [await socket.receive(within=20) for _ in range(200)]
        before = (await gateway.data(RATE_LIMIT, key=key))["viewer"]["rateLimit"]["remaining"]
        await socket.send({"id": "1", "type": "complete"})
        await socket.subscribe("2", RATE_LIMIT)
        after = (await socket.receive())["payload"]["data"]["viewer"]["rateLimit"]["remaining"]

    assert all(set(item["payload"]) == {"data"} for item in items)
    # 200 items of a hundredth of 10,101 points each, of which some may have been paid and restored already
    assert after < before <= LIMIT


async def test_an_empty_bucket_ends_no_stream_and_loses_no_item(gateway: Gateway) -> None:
    key = (await gateway.make_key("VIEWER"))[1]
    event_type = "cost.unpaid"
    nobody = 'profile(userId: "nobody") { timeline(first: 98) { edges { node { profile { %s } } } } }'
    page = nobody % "timeline(first: 98) { edges { cursor } }"
    refusing = f"{{ a: {page} b: {page} viewer {{ project {{ apiKeys {{ id }} }} }} }}"
    async with open_socket(gateway, key) as socket:
        await socket.subscribe("1", FOLLOW, filter={"eventTypes": [event_type]})
        await socket.position("1")
        refused = False
        while not refused:
            answers = await asyncio.gather(*(gateway.ask(refusing, key=key) for _ in range(20)))
            refused = any(answer.status == 429 for answer in answers)
        await gateway.data(TRACK_BATCH, events=[{"eventType": event_type}] * 50)
        items = [await socket.receive() for _ in range(50)]

    seqs = [item["payload"]["data"]["eventStream"]["node"]["seq"] for item in items]
    assert seqs == sorted(set(seqs))
    assert len(seqs) == 50
