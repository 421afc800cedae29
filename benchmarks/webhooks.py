"""How fast do webhooks leave one worker, how soon does a single one, and does a backlog of another project delay it?

Data: `--deliveries` (default 10,000) events of about 300 bytes, tracked in batches of 1,000, each one delivery to one
endpoint; then `--singles` (default 100) test webhooks one after the other; then the same while another project has
`--backlog` (default 100,000) rows queued, which the worker sends at the same time to the same machine.

Shows: deliveries a second from the first arrival to the last, beside a bare aiohttp loop with 64 posts under way that
sends the same bodies with as many headers to the same receiver (goal: at least 0.4 of it); enqueue to arrival of single
deliveries, p50 and p90 in ms (goal: p50 under 20); and how many times longer that takes beside the backlog (goal: 2).
Counts only when every delivery arrived exactly once.

Command: `python -m benchmarks.webhooks [--deliveries 10000] [--singles 100] [--backlog 100000]`
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import orjson

from benchmarks.harness import ROOT, BenchmarkError, Gateway, Server, gateway, peer

BATCH = 1_000
UNDER_WAY = 64
"""Posts at once of the bare loop: as many as a worker has to one host."""
SAVE_ENDPOINT = """mutation ($url: String!) {
  saveWebhookEndpoint(input: {url: $url, events: ["bench.*"], allowPlainHttp: true}) {
    endpoint { id } userErrors { message } } }"""
TRACK = """mutation ($input: TrackBatchInput!) {
  trackBatch(input: $input) { accepted userErrors { message } } }"""
TEST = """mutation ($id: ID!) {
  sendTestWebhook(endpointId: $id, eventType: "order.placed") { delivery { id } userErrors { message } } }"""
CREATE_PROJECT = 'mutation { createProject(name: "backlog") { token project { uuid } userErrors { message } } }'
BACKLOG = """
    INSERT INTO deliveries (project_id, delivery_id, channel, status, endpoint_id, dispatch_key, content,
        retry_schedule, created_at, next_attempt_at, event_type)
    SELECT $1, gen_random_uuid(), 'WEBHOOK', 'QUEUED', $2, $3,
        jsonb_build_object('eventId', 'backlog_' || number, 'body', '{"type": "bench.queued"}'), '{2,8}', now(), now(),
        'bench.queued'
    FROM generate_series(1, $4::integer) AS number"""


class Api:
    """GraphQL over one keep-alive connection."""

    def __init__(self, server: Gateway, session: aiohttp.ClientSession, key: str) -> None:
        self._url = f"http://127.0.0.1:{server.port}/graphql"
        self._session = session
        self._headers = {"x-api-key": key, "content-type": "application/json"}

    async def run(self, query: str, **variables: Any) -> Any:
        """The data of the one root field; it must have no errors."""
        body = orjson.dumps({"query": query, "variables": variables})
        async with self._session.post(self._url, data=body, headers=self._headers) as response:
            answer = orjson.loads(await response.read())
        if "errors" in answer or (payload := next(iter(answer["data"].values())))["userErrors"]:
            raise BenchmarkError(str(answer))
        return payload


async def run(server: Gateway, receiver: Server, deliveries: int, singles: int, backlog: int) -> None:
    """All three questions, on one stack."""
    async with aiohttp.ClientSession() as session:
        api = Api(server, session, server.key)
        url = f"http://127.0.0.1:{receiver.port}/hook"
        endpoint = (await api.run(SAVE_ENDPOINT, url=url))["endpoint"]["id"]
        await measure_throughput(api, session, receiver, url, deliveries)
        idle = await measure_singles(api, session, receiver, endpoint, singles)
        print(f"enqueue to arrival, idle: p50 {idle[0]:.1f} ms, p90 {idle[1]:.1f} ms")
        other = await api.run(CREATE_PROJECT)
        await fill(server, session, other, url, backlog)
        busy = await measure_singles(api, session, receiver, endpoint, singles)
        left = await count_queued(server, other["project"]["uuid"])
        print(
            f"beside {backlog:,} queued rows of another project: p50 {busy[0]:.1f} ms, p90 {busy[1]:.1f} ms, "
            f"{busy[0] / idle[0]:.2f} × idle; {left:,} of them still queued at the end"
        )
        if not left:
            raise BenchmarkError("the backlog was gone before the measurement ended: make it larger")


async def measure_throughput(
    api: Api, session: aiohttp.ClientSession, receiver: Server, url: str, deliveries: int
) -> None:
    """One worker, then the bare loop."""
    for start in range(0, deliveries, BATCH):
        events = [event(number) for number in range(start, min(start + BATCH, deliveries))]
        await api.run(TRACK, input={"events": events})
    arrivals = await wait_for(session, receiver, deliveries)
    took = arrivals[-1][1] - arrivals[0][1]
    bare = await bare_loop(url, deliveries)
    await wait_for(session, receiver, deliveries)
    print(
        f"webhooks by one worker: {deliveries / took:,.0f}/s; a bare aiohttp loop: {deliveries / bare:,.0f}/s; "
        f"{bare / took:.2f} of it"
    )


async def bare_loop(url: str, count: int) -> float:
    """Seconds for as many posts without anything around them."""
    numbers = iter(range(count))
    connector = aiohttp.TCPConnector(limit=UNDER_WAY)

    async def post_on(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            headers = {"content-type": "application/json", "webhook-id": f"bare_{number}", **PADDING}
            async with session.post(url, data=orjson.dumps(event(number)), headers=headers) as response:
                await response.read()

    async with aiohttp.ClientSession(connector=connector) as session:
        started = time.perf_counter()
        await asyncio.gather(*(post_on(session) for _ in range(UNDER_WAY)))
        return time.perf_counter() - started


PADDING = {f"x-padding-{number}": "0" * 64 for number in range(6)}
"""As many header lines as a signed webhook has."""


async def measure_singles(
    api: Api, session: aiohttp.ClientSession, receiver: Server, endpoint: str, count: int
) -> tuple[float, float]:
    """p50 and p90 from the mutation's request to the arrival, in ms, one at a time."""
    delays = []
    for _ in range(count):
        started = time.perf_counter()
        await api.run(TEST, id=endpoint)
        arrived = None
        while arrived is None:
            arrived = next(
                (at for key, at in await take_seen(session, receiver) if not key.startswith("backlog_")), None
            )
            await asyncio.sleep(0.002)
        delays.append((arrived - started) * 1000)
        await asyncio.sleep(0.02)
    delays.sort()
    return delays[len(delays) // 2], delays[len(delays) * 9 // 10]


async def fill(server: Gateway, session: aiohttp.ClientSession, other: dict[str, Any], url: str, count: int) -> None:
    """Queue rows of another project, straight into its table."""
    endpoint = await Api(server, session, other["token"]).run(SAVE_ENDPOINT, url=url)
    connection = await asyncpg.connect(server.database_url)
    try:
        endpoint_id = UUID(hex=endpoint["endpoint"]["id"].partition("_")[2])
        key = url.removesuffix("/hook")
        await connection.execute(BACKLOG, UUID(other["project"]["uuid"]), endpoint_id, key, count)
    finally:
        await connection.close()


async def count_queued(server: Gateway, project_id: str) -> int:
    """Rows that are still to be sent."""
    connection = await asyncpg.connect(server.database_url)
    try:
        query = "SELECT count(*) FROM deliveries WHERE project_id = $1 AND status = 'QUEUED'"
        left: int = await connection.fetchval(query, UUID(project_id))
        return left
    finally:
        await connection.close()


async def wait_for(session: aiohttp.ClientSession, receiver: Server, count: int) -> list[tuple[str, float]]:
    """The arrivals, once all are there, each once."""
    arrivals: list[tuple[str, float]] = []
    async with asyncio.timeout(120):
        while len(arrivals) < count:
            await asyncio.sleep(0.1)
            arrivals += await take_seen(session, receiver)
    if len({key for key, _ in arrivals}) != count:
        raise BenchmarkError("a delivery arrived twice, or not at all")
    return arrivals


async def take_seen(session: aiohttp.ClientSession, receiver: Server) -> Sequence[tuple[str, float]]:
    """What came since the last time."""
    async with session.get(f"http://127.0.0.1:{receiver.port}/seen") as response:
        return [(key, at) for key, at in orjson.loads(await response.read())]


def event(number: int) -> dict[str, Any]:
    """About 300 bytes."""
    return {
        "id": f"bench-{number}",
        "eventType": "bench.delivered",
        "userId": f"user-{number % 100}",
        "properties": {"number": number, "padding": "x" * 150},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deliveries", type=int, default=10_000)
    parser.add_argument("--singles", type=int, default=100)
    parser.add_argument("--backlog", type=int, default=100_000)
    arguments = parser.parse_args()
    command = [sys.executable, ROOT / "benchmarks" / "peers" / "receiver.py"]
    with gateway(SENDORA_EGRESS_ALLOW="127.0.0.0/8") as server, peer("receiver", command) as receiver:
        asyncio.run(run(server, receiver, arguments.deliveries, arguments.singles, arguments.backlog))


if __name__ == "__main__":
    main()
