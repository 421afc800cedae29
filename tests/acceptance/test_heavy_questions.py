"""Questions that are as dear as they can be, many at once: neither writers nor streams of their own project notice."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.acceptance.gateway_client import FOLLOW, PROMISE, Gateway, heartbeat, open_socket
from tests.acceptance.test_heavy_reads import fill

ASKERS = 12
"""More than are answered at a time, and than wait in turn."""
DEAREST_FUNNEL = """query ($input: FunnelInput!) { funnel(input: $input) { entered } }"""
INPUT: dict[str, Any] = {
    "steps": [{"eventType": "*"} for _ in range(20)],
    "order": "UNORDERED",
    "period": "P30D",
    "groupBy": "event.properties.amount",
    "compare": True,
}


async def test_a_projects_dearest_questions_stall_neither_ingest_nor_streams(gateway: Gateway) -> None:
    key = await gateway.make_project()
    await fill(gateway, key)
    writes, arrivals = [], []

    async with heartbeat(gateway), open_socket(gateway, key) as socket:
        await socket.subscribe("1", FOLLOW, filter={"eventTypes": ["beside.questions"]})
        await socket.position("1")
        asked = [asyncio.create_task(gateway.ask(DEAREST_FUNNEL, key=key, input=INPUT)) for _ in range(ASKERS)]
        while not all(each.done() for each in asked):
            started = time.perf_counter()
            seq = (await gateway.track(key=key, eventType="beside.questions", userId="ada"))["event"]["seq"]
            writes.append(time.perf_counter() - started)
            assert (await socket.receive())["payload"]["data"]["eventStream"]["node"]["seq"] == seq
            arrivals.append(time.perf_counter() - started)

    assert len(writes) > 1
    assert max(writes) < PROMISE
    assert max(arrivals) < PROMISE
    for each in asked:
        codes = {error["extensions"]["code"] for error in each.result().json.get("errors", [])}
        assert codes <= {"TIMEOUT", "RATE_LIMITED"}
