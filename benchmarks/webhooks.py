"""How fast do webhooks leave one worker, how soon does a single one, and does a backlog of another project delay it?

Data: `--rounds` (default 3) times `--deliveries` (default 7,000) queued webhooks with bodies of about 300 bytes, each
time after a bare aiohttp loop with 64 posts under way has sent the same bodies with as many headers to the same
receiver and read its answers; then as many events, tracked in batches of 1,000, which a follower makes webhooks of
while they are sent; then `--singles` (default 100) test webhooks one after the other; then the same while another
project has `--backlog` (default 100,000) rows queued, which the worker sends at the same time to the same host. Nothing
is analyzed: the planner knows nothing of rows that are so young.

Shows: deliveries a second from the first arrival to the last, as rows that are queued already and with following,
beside the bare loop's, medians (goal: queued ones at least 0.4 of it), and what each queued one costs the worker and
PostgreSQL in µs of CPU, beside a post of the bare loop; enqueue to arrival of single deliveries, p50 and p90 in ms
(goal: p50 under 20); and how many times longer that takes beside the backlog (goal: 2).
Counts only when every delivery arrived exactly once.

Command: `python -m benchmarks.webhooks [--rounds 3] [--deliveries 7000] [--singles 100] [--backlog 100000]`
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import orjson

from benchmarks.harness import ROOT, BenchmarkError, Gateway, Server, gateway, peer

BATCH = 1_000
UNDER_WAY = 64
"""Posts at once of the bare loop: as many as a worker has to one host."""
SETTLING_SECONDS = 0.3
"""After the last arrival, until its outcome is written."""
SAVE_ENDPOINT = """mutation ($url: String!) {
  saveWebhookEndpoint(input: {url: $url, events: ["bench.*"], allowPlainHttp: true}) {
    endpoint { id } userErrors { message } } }"""
TRACK = """mutation ($input: TrackBatchInput!) {
  trackBatch(input: $input) { accepted userErrors { message } } }"""
TEST = """mutation ($id: ID!) {
  sendTestWebhook(endpointId: $id, eventType: "order.placed") { delivery { id } userErrors { message } } }"""
CREATE_PROJECT = 'mutation { createProject(name: "backlog") { token project { uuid } userErrors { message } } }'
QUEUE = """
    INSERT INTO deliveries (project_id, delivery_id, channel, status, endpoint_id, dispatch_key, content,
        retry_schedule, created_at, next_attempt_at, event_type)
    SELECT $1, gen_random_uuid(), 'WEBHOOK', 'QUEUED', $2, $3,
        jsonb_build_object('eventId', $4 || '_' || given.number, 'body', given.body), '{2,8}', now(), now(),
        'bench.queued'
    FROM unnest(CAST($5 AS text[])) WITH ORDINALITY AS given (body, number)"""


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


async def run(server: Gateway, receiver: Server, *, rounds: int, deliveries: int, singles: int, backlog: int) -> None:
    """All three questions, on one stack."""
    async with aiohttp.ClientSession() as session:
        api = Api(server, session, server.key)
        url = f"http://127.0.0.1:{receiver.port}/hook"
        endpoint = (await api.run(SAVE_ENDPOINT, url=url))["endpoint"]["id"]
        bare, queued, costs = [], [], []
        for number in range(rounds):
            before = time.process_time()
            bare.append(deliveries / await bare_loop(url, deliveries))
            cost = [time.process_time() - before]
            await wait_for(session, receiver, deliveries)
            await queue(server, server.project_id, endpoint, url, f"queued{number}", bodies(deliveries))
            before_all = cpu_seconds(server)
            queued.append(rate_of(await wait_for(session, receiver, deliveries)))
            await asyncio.sleep(SETTLING_SECONDS)
            cost += [after - before for before, after in zip(before_all, cpu_seconds(server), strict=True)]
            costs.append([seconds / deliveries * 1e6 for seconds in cost])
        report("webhooks by one worker, queued already", queued, bare)
        post, worker, postgres = (median(column) for column in zip(*costs, strict=True))
        print(
            f"CPU for each: worker {worker:.0f} µs, PostgreSQL {postgres:.0f} µs; a post of the bare loop {post:.0f} µs"
        )
        await track(api, deliveries)
        report("the same, with following", [rate_of(await wait_for(session, receiver, deliveries))], bare)
        idle = await measure_singles(api, session, receiver, endpoint, singles)
        print(f"enqueue to arrival, idle: p50 {idle[0]:.1f} ms, p90 {idle[1]:.1f} ms")
        other = await api.run(CREATE_PROJECT)
        other_endpoint = (await Api(server, session, other["token"]).run(SAVE_ENDPOINT, url=url))["endpoint"]["id"]
        await queue(server, other["project"]["uuid"], other_endpoint, url, "backlog", bodies(backlog))
        busy = await measure_singles(api, session, receiver, endpoint, singles)
        left = await count_queued(server, other["project"]["uuid"])
        print(
            f"beside {backlog:,} queued rows of another project: p50 {busy[0]:.1f} ms, p90 {busy[1]:.1f} ms, "
            f"{busy[0] / idle[0]:.2f} × idle; {left:,} of them still queued at the end"
        )
        if not left:
            raise BenchmarkError("the backlog was gone before the measurement ended: make it larger")


def cpu_seconds(server: Gateway) -> tuple[float, float]:
    """User and system time so far of our worker and of our PostgreSQL, backends that have ended included."""
    processes: dict[int, tuple[int, str, float]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        ticks = sum(map(int, fields[11:15]))
        processes[int(entry.name)] = (int(fields[1]), command, ticks / os.sysconf("SC_CLK_TCK"))
    supervisor = processes[server.pid][0]
    ours = {pid for pid in processes if supervisor in ancestors(pid, processes)}
    worker = sum(processes[pid][2] for pid in ours if " worker " in processes[pid][1])
    return worker, sum(processes[pid][2] for pid in ours if "postgres" in processes[pid][1])


def ancestors(pid: int, processes: Mapping[int, tuple[int, str, float]]) -> list[int]:
    found = []
    while pid in processes:
        pid = processes[pid][0]
        found.append(pid)
    return found


def report(what: str, rates: list[float], bare: list[float]) -> None:
    """Medians, and each of them for who wants to see the noise."""
    ratio = median(rates) / median(bare)
    print(f"{what}: {listed(rates)}; a bare aiohttp loop: {listed(bare)}; {ratio:.2f} of it")


def listed(rates: list[float]) -> str:
    return f"{median(rates):,.0f}/s ({', '.join(f'{rate:,.0f}' for rate in rates)})"


def rate_of(arrivals: Sequence[tuple[str, float]]) -> float:
    """Arrivals a second, from the first to the last."""
    return len(arrivals) / (arrivals[-1][1] - arrivals[0][1])


async def track(api: Api, count: int) -> None:
    """As many events, which somebody wants."""
    for start in range(0, count, BATCH):
        events = [event(number) for number in range(start, min(start + BATCH, count))]
        await api.run(TRACK, input={"events": events})


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
        arrivals: Sequence[tuple[str, float]] = ()
        while not arrivals:
            await asyncio.sleep(0.01)
            arrivals = await take_seen(session, receiver, "/singles")
        delays.append((arrivals[0][1] - started) * 1000)
        await asyncio.sleep(0.02)
    delays.sort()
    return delays[len(delays) // 2], delays[len(delays) * 9 // 10]


async def queue(server: Gateway, project_id: str, endpoint: str, url: str, name: str, contents: Sequence[str]) -> None:
    """Queue rows straight into the table; the worker finds them within a second."""
    connection = await asyncpg.connect(server.database_url)
    try:
        endpoint_id, key = UUID(hex=endpoint.partition("_")[2]), url.removesuffix("/hook")
        await connection.execute(QUEUE, UUID(project_id), endpoint_id, key, name, contents)
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


async def take_seen(session: aiohttp.ClientSession, receiver: Server, which: str = "") -> Sequence[tuple[str, float]]:
    """What came since the last time."""
    async with session.get(f"http://127.0.0.1:{receiver.port}/seen{which}") as response:
        return [(key, at) for key, at in orjson.loads(await response.read())]


def bodies(count: int) -> list[str]:
    """What the bare loop sends too."""
    return [orjson.dumps(event(number)).decode() for number in range(count)]


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
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--deliveries", type=int, default=7_000)
    parser.add_argument("--singles", type=int, default=100)
    parser.add_argument("--backlog", type=int, default=100_000)
    arguments = parser.parse_args()
    command = [sys.executable, ROOT / "benchmarks" / "peers" / "receiver.py"]
    with gateway(SENDORA_EGRESS_ALLOW="127.0.0.0/8") as server, peer("receiver", command) as receiver:
        asyncio.run(run(server, receiver, **vars(arguments)))


if __name__ == "__main__":
    main()
