"""Lists that are as dear as the limits allow, many at once, by one project: another one's writers must not notice."""

from __future__ import annotations

import asyncio
import time

from tests.acceptance.gateway_client import PROMISE, Gateway, heartbeat

PEOPLE = 500
BATCHES = 10
ATTACKERS = 8
ALIASES = 20
COUNT_FOR_EVERYBODY = """
  a%d: profiles(
    first: 100
    where: [{ events: { eventType: "*", sum: "event.properties.amount" }, op: GT, value: %d }]
  ) { totalCount }"""


async def fill(gateway: Gateway, key: str) -> None:
    for batch in range(BATCHES):
        events = [
            {"eventType": "order.placed", "userId": f"u{(batch * 1000 + n) % PEOPLE}", "properties": {"amount": n}}
            for n in range(1000)
        ]
        document = "mutation ($events: [EventInput!]!) { trackBatch(input: { events: $events }) { accepted } }"
        assert (await gateway.data(document, key=key, events=events))["trackBatch"]["accepted"] == 1000


async def test_a_projects_dearest_lists_make_no_other_project_wait(gateway: Gateway) -> None:
    attacker = await gateway.make_project()
    await fill(gateway, attacker)
    document = "{" + "".join(COUNT_FOR_EVERYBODY % (n, n) for n in range(ALIASES)) + "}"

    async with heartbeat(gateway):
        attacks = [asyncio.create_task(gateway.ask(document, key=attacker)) for _ in range(ATTACKERS)]
        waits = []
        while not all(attack.done() for attack in attacks):
            started = time.perf_counter()
            await gateway.track(eventType="order.placed", userId="somebody else")
            await gateway.data("{ events(first: 1) { totalCount } }")
            waits.append(time.perf_counter() - started)

    assert len(waits) > 1
    assert max(waits) < PROMISE
    for attack in attacks:
        codes = {error["extensions"]["code"] for error in attack.result().json.get("errors", [])}
        assert codes <= {"TIMEOUT", "RATE_LIMITED"}
