"""How long from an event that moves somebody to audienceChanges, at a steady rate with a hundred audiences?

Data: `--audiences` (default 100) audiences of one project, of five kinds in turn: at least n orders over an amount
within some days, a sum of amounts within some days, a trait, a count of another event, and people who never did
something; and one more that is followed: whoever reached a level within 30 days. `--rate` (default 500) single events
a second from `--callers` (default 64) keep-alive connections for `--seconds` (default 20): of 25 events one is another
person reaching that level, one merges a trait, the rest are orders and views of `--people` (default 5,000) people. All
of them have been seen before.

Shows: p50, p90, p99 and worst in ms from writing the request to reading the frame (goal: p99 under 1,000), the rate
that was really reached, and what an event costs the worker and PostgreSQL in µs of CPU. Counts only when everybody who
reached the level arrived exactly once.

Command: `python -m benchmarks.audiences [--rate 500] [--callers 64] [--seconds 20] [--audiences 100] [--people 5000]`
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

import aiohttp
import asyncpg
import orjson

from benchmarks.harness import BenchmarkError, Gateway, gateway
from benchmarks.latency import Schedule
from benchmarks.webhooks import cpu_seconds

WARM_UP_SECONDS = 3
PATIENCE_SECONDS = 60
BATCH = 1_000
TRACK_BATCH = "mutation ($input: TrackBatchInput!) { trackBatch(input: $input) { accepted userErrors { message } } }"
TRACK = "mutation ($input: TrackInput!) { track(input: $input) { event { seq } userErrors { message } } }"
SAVE = (
    "mutation ($input: SaveAudienceInput!) { saveAudience(input: $input) { audience { id } userErrors { message } } }"
)
CHANGES = "subscription ($id: ID!) { audienceChanges(audienceId: $id) { node { userId entered } } }"
DAY = 86_400


def conditions(number: int) -> list[dict[str, Any]]:
    """What audience `number` asks for."""
    within = (1 + number % 30) * DAY
    match number % 5:
        case 0:
            over = [{"path": "event.properties.amount", "op": "GT", "value": number}]
            counted = {"eventType": "order.placed", "where": over, "withinSeconds": within}
            return [{"events": counted, "op": "GTE", "value": 1 + number % 4}]
        case 1:
            summed = {"eventType": "order.*", "sum": "event.properties.amount", "withinSeconds": within}
            return [{"events": summed, "op": "GT", "value": 50 * number}]
        case 2:
            return [{"path": f"profile.traits.trait{number % 10}", "op": "EQ", "value": number}]
        case 3:
            return [{"events": {"eventType": f"other.{number}"}, "op": "GTE", "value": 1}]
    return [{"not": {"events": {"eventType": "app.uninstalled"}, "op": "GTE", "value": 1}}]


def event(number: int, people: int) -> dict[str, Any]:
    """Event `number` of the stream."""
    match number % 25:
        case 0:
            return {"eventType": "level.reached", "userId": f"mover-{number}"}
        case 1:
            traits = {f"trait{number % 10}": number % 100}
            return {"eventType": "profile.changed", "userId": f"user-{number % people}", "traits": traits}
        case kind:
            name = "order.placed" if kind % 2 else "page.viewed"
            return {
                "eventType": name,
                "userId": f"user-{number * 7919 % people}",
                "properties": {"amount": number % 120, "currency": "EUR"},
            }


class Arrivals:
    """When whom was said to have entered."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}

    async def read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """For ever."""
        async for message in socket:
            frame = orjson.loads(message.data)
            if frame["type"] == "ping":
                await socket.send_str('{"type":"pong"}')
            if frame["type"] != "next":
                continue
            node = frame["payload"]["data"]["audienceChanges"]["node"]
            if node["userId"] in self.at or not node["entered"]:
                raise BenchmarkError(f"{node['userId']} arrived twice")
            self.at[node["userId"]] = time.perf_counter()


async def run(server: Gateway, *, rate: int, callers: int, seconds: int, audiences: int, people: int) -> None:
    """Save the audiences, follow one, track at the given rate, report."""
    connector = aiohttp.TCPConnector(limit=callers + 2)
    async with aiohttp.ClientSession(connector=connector, headers=server.headers) as session:
        await introduce(server, session, people, last=rate * (WARM_UP_SECONDS + seconds))
        for number in range(audiences):
            await save(server, session, f"Audience {number}", conditions(number))
        reached = {"eventType": "level.reached", "withinSeconds": 30 * DAY}
        node_id = await save(server, session, "Level", [{"events": reached, "op": "GTE", "value": 1}])
        await built(server)
        arrivals, sent = Arrivals(), {}
        url = f"ws://127.0.0.1:{server.port}/graphql"
        async with session.ws_connect(url, protocols=["graphql-transport-ws"], headers=server.headers) as socket:
            await subscribe(socket, node_id)
            reading = asyncio.create_task(arrivals.read(socket))
            first = 0
            for duration in (WARM_UP_SECONDS, seconds):
                sent.clear()
                before = cpu_seconds(server)
                schedule = Schedule(time.perf_counter(), rate, rate * duration)
                started = time.perf_counter()
                await asyncio.gather(*(call(server, session, schedule, first, people, sent) for _ in range(callers)))
                took = time.perf_counter() - started
                await arrived(arrivals, sent, reading)
                first += rate * duration
            costs = [(b - a) / (rate * seconds) * 1e6 for a, b in zip(before, cpu_seconds(server), strict=True)]
            reading.cancel()
    delays = sorted((arrivals.at[user_id] - at) * 1000 for user_id, at in sent.items())
    p50, p90, p99 = (delays[int(len(delays) * part)] for part in (0.5, 0.9, 0.99))
    print(
        f"event to audienceChanges at {rate * seconds / took:.0f} events/s with {audiences + 1} audiences: "
        f"p50 {p50:.0f} ms, p90 {p90:.0f} ms, p99 {p99:.0f} ms, worst {delays[-1]:.0f} ms of {len(delays)} changes"
    )
    print(f"CPU for each event: worker {costs[0]:.0f} µs, PostgreSQL {costs[1]:.0f} µs")


async def introduce(server: Gateway, session: aiohttp.ClientSession, people: int, *, last: int) -> None:
    """Let everybody be seen who will do something."""
    names = [f"user-{number}" for number in range(people)] + [f"mover-{number}" for number in range(0, last + 25, 25)]
    for start in range(0, len(names), BATCH):
        events = [{"eventType": "page.viewed", "userId": name} for name in names[start : start + BATCH]]
        await post(server, session, TRACK_BATCH, {"events": events})


async def save(server: Gateway, session: aiohttp.ClientSession, name: str, where: list[dict[str, Any]]) -> str:
    """Its node id."""
    node_id: str = (await post(server, session, SAVE, {"name": name, "where": where}))["audience"]["id"]
    return node_id


async def post(server: Gateway, session: aiohttp.ClientSession, query: str, given: dict[str, Any]) -> Any:
    """The one root field of a mutation; it must have no errors."""
    body = orjson.dumps({"query": query, "variables": {"input": given}})
    url, headers = f"http://127.0.0.1:{server.port}/graphql", {"content-type": "application/json"}
    async with session.post(url, data=body, headers=headers) as response:
        answer = orjson.loads(await response.read())
    if "errors" in answer or (payload := next(iter(answer["data"].values())))["userErrors"]:
        raise BenchmarkError(str(answer))
    return payload


async def built(server: Gateway) -> None:
    """Wait until everybody was looked at for every audience."""
    connection = await asyncpg.connect(server.database_url)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while await connection.fetchval("SELECT count(*) FROM audiences WHERE is_building"):
        if time.monotonic() > deadline:
            raise BenchmarkError("the audiences were not built")
        await asyncio.sleep(0.1)
    await connection.close()


async def subscribe(socket: aiohttp.ClientWebSocketResponse, node_id: str) -> None:
    """Follow an audience; from then on nothing is missed."""
    await socket.send_json({"type": "connection_init"})
    if (await socket.receive_json())["type"] != "connection_ack":
        raise BenchmarkError("the connection was refused")
    payload = {"query": CHANGES, "variables": {"id": node_id}}
    await socket.send_json({"type": "subscribe", "id": "1", "payload": payload})
    await asyncio.sleep(1)


async def call(
    server: Gateway,
    session: aiohttp.ClientSession,
    schedule: Schedule,
    first: int,
    people: int,
    sent: dict[str, float],
) -> None:
    """One caller: waits for its turn, tracks, and notes who is to arrive."""
    while (due := schedule.take()) is not None:
        number = first + schedule.taken
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        given = event(number, people)
        at = time.perf_counter()
        if given["eventType"] == "level.reached":
            sent[given["userId"]] = at
        await post(server, session, TRACK, {"event": given})


async def arrived(arrivals: Arrivals, sent: dict[str, float], reading: asyncio.Task[None]) -> None:
    """Wait until everybody has."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while missing := sent.keys() - arrivals.at.keys():
        if reading.done():
            await reading
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{len(missing)} of {len(sent)} did not arrive")
        await asyncio.sleep(0.05)


def main() -> None:
    """One run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--audiences", type=int, default=100)
    parser.add_argument("--people", type=int, default=5_000)
    arguments = parser.parse_args()
    with gateway() as server:
        asyncio.run(run(server, **vars(arguments)))


if __name__ == "__main__":
    main()
