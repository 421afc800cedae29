"""How long from an event that moves somebody to audienceChanges, at a steady rate with a hundred audiences?

Data: `--audiences` (default 100) audiences of one project, of ten kinds in turn: counts with and without windows and
`where`, sums with and without windows, traits, consent, any, not, and both nested; two of a hundred hold for whoever is
new. And one more that is followed: whoever reached a level within 30 days. `--people` (default 50,000) people are known
before. `--rate` (default 500) single events a second from `--callers` (default 64) keep-alive connections for
`--seconds` (default 30): of 25 events one is another known person reaching that level, one merges a trait, the rest are
orders and views, of which `--new` of a hundred (default 5) are of people of whom nothing was heard before.

Shows: p50, p90, p99 and worst in ms from writing the request to reading the frame (goal: p99 under 1,000), the rate
that was really reached, how many moved in all, and what an event costs the worker and PostgreSQL in µs of CPU: with no
audience (the log, and its other followers), and with all of them. Counts only when everybody who reached the level
arrived exactly once.

Command: `python -m benchmarks.audiences [--rate 500] [--callers 64] [--seconds 30] [--audiences 100] [--people 50000]
[--new 5]`; `--new 90` is the case in which nearly everybody is new
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import asyncpg
import orjson

from benchmarks.harness import BenchmarkError, Gateway, gateway
from benchmarks.latency import Schedule
from benchmarks.webhooks import cpu_seconds

WARM_UP_SECONDS = 3
PATIENCE_SECONDS = 120
BATCH = 1_000
TRACK_BATCH = "mutation ($input: TrackBatchInput!) { trackBatch(input: $input) { accepted userErrors { message } } }"
TRACK = "mutation ($input: TrackInput!) { track(input: $input) { event { seq } userErrors { message } } }"
SAVE = (
    "mutation ($input: SaveAudienceInput!) { saveAudience(input: $input) { audience { id } userErrors { message } } }"
)
CHANGES = "subscription ($id: ID!) { audienceChanges(audienceId: $id) { node { userId entered } } }"
DAY = 86_400
FOR_NEWCOMERS = 9
"""Of fifty audiences, the one to which everybody belongs until they do something."""
BARE_SECONDS = 8
"""For which the same is sent while there is no audience."""


def conditions(number: int) -> list[dict[str, Any]]:
    """What audience `number` asks for."""
    within = {"withinSeconds": (1 + number % 30) * DAY}
    ordered = happened("order.placed", 2 + number % 5, **within)
    match number % 10:
        case 0:
            over = [{"path": "event.properties.amount", "op": "GT", "value": number}]
            return [happened("order.placed", 1 + number % 4, where=over, **within)]
        case 1:
            return [happened("order.*", 50 * number, sum="event.properties.amount", **within)]
        case 2:
            return [trait(number)]
        case 3:
            return [happened(f"other.{number}", 1)]
        case 4:
            return [ordered, {"not": happened("app.uninstalled", 1, withinSeconds=30 * DAY)}]
        case 5:
            agreed = {"path": "profile.consent.push", "op": "NE", "value": "REVOKED"}
            return [agreed, happened("page.viewed", 2 + number % 5, **within)]
        case 6:
            return [happened("order.placed", 50 * number, sum="event.properties.amount")]
        case 7:
            return [{"any": [trait(number), happened("order.placed", 3 + number % 4)]}]
        case 8:
            return [happened("page.viewed", 2 + number // 10), {"not": {"any": [ordered, trait(number)]}}]
    never = {"not": happened("app.uninstalled", 1)}
    return [never] if number % 50 == FOR_NEWCOMERS else [never, ordered]


def happened(event_type: str, at_least: int, **count: Any) -> dict[str, Any]:
    """A count, or a sum."""
    return {"events": {"eventType": event_type, **count}, "op": "GTE", "value": at_least}


def trait(number: int) -> dict[str, Any]:
    """A trait that one of so many has."""
    return {"path": f"profile.traits.trait{number % 10}", "op": "EQ", "value": number}


def event(number: int, people: int, new: int) -> dict[str, Any]:
    """Event `number` of the stream."""
    match number % 25:
        case 0:
            return {"eventType": "level.reached", "userId": f"user-{number // 25}"}
        case 1:
            traits = {f"trait{number % 10}": number % 100}
            return {"eventType": "profile.changed", "userId": f"user-{number % people}", "traits": traits}
        case kind:
            who = f"new-{number}" if number * 37 % 100 < new else f"user-{number * 7919 % people}"
            properties = {"amount": number % 120, "currency": "EUR"}
            name = "order.placed" if kind % 2 else "page.viewed"
            return {"eventType": name, "userId": who, "properties": properties}


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


async def run(server: Gateway, *, rate: int, callers: int, seconds: int, audiences: int, people: int, new: int) -> None:
    """Introduce people, save the audiences, follow one, track at the given rate, report."""
    connector = aiohttp.TCPConnector(limit=callers + 2)
    async with aiohttp.ClientSession(connector=connector, headers=server.headers) as session:
        stream = Stream(server, session, rate, callers, people, new)
        bare = await stream.cost(BARE_SECONDS)
        # Those that ask for something done have nobody to look at yet: building all of them would take minutes.
        kinds = sorted(range(audiences), key=lambda number: number % 50 == FOR_NEWCOMERS)
        early = [number for number in kinds if number % 50 != FOR_NEWCOMERS]
        for number in early:
            await save(server, session, f"Audience {number}", conditions(number))
        node_id = await save(server, session, "Level", [happened("level.reached", 1, withinSeconds=30 * DAY)])
        await built(server)
        await introduce(server, session, people)
        for number in kinds[len(early) :]:
            await save(server, session, f"Audience {number}", conditions(number))
        await built(server)
        before = await moves(server)
        arrivals = Arrivals()
        url = f"ws://127.0.0.1:{server.port}/graphql"
        async with session.ws_connect(url, protocols=["graphql-transport-ws"], headers=server.headers) as socket:
            await subscribe(socket, node_id)
            reading = asyncio.create_task(arrivals.read(socket))
            await stream.send(WARM_UP_SECONDS)
            await arrived(arrivals, stream.sent, reading)
            costs = await stream.cost(seconds, lambda: arrived(arrivals, stream.sent, reading))
            reading.cancel()
        moved = await moves(server) - before
    delays = sorted((arrivals.at[user_id] - at) * 1000 for user_id, at in stream.sent.items())
    p50, p90, p99 = (delays[int(len(delays) * part)] for part in (0.5, 0.9, 0.99))
    print(
        f"event to audienceChanges at {stream.reached:.0f} events/s with {audiences + 1} audiences, {people} people "
        f"and {new} % new: p50 {p50:.0f} ms, p90 {p90:.0f} ms, p99 {p99:.0f} ms, worst {delays[-1]:.0f} ms of "
        f"{len(delays)} changes ({moved} in all)"
    )
    for what, (worker, postgres) in (("no audience", bare), ("all of them", costs)):
        print(f"CPU for each event with {what}: worker {worker:.0f} µs, PostgreSQL {postgres:.0f} µs")


class Stream:
    """The events, going on where they were; `sent` holds who is to arrive of those that were sent last."""

    def __init__(
        self, server: Gateway, session: aiohttp.ClientSession, rate: int, callers: int, people: int, new: int
    ) -> None:
        self._server = server
        self._session = session
        self._rate = rate
        self._callers = callers
        self._people = people
        self._new = new
        self._first = 0
        self.sent: dict[str, float] = {}
        self.reached = 0.0

    async def cost(
        self, seconds: int, settled: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(1)
    ) -> tuple[float, float]:
        """Send for so long; µs of CPU for each event, of the worker and of PostgreSQL, until all is settled."""
        before = cpu_seconds(self._server)
        await self.send(seconds)
        await settled()
        worker, postgres = (b - a for a, b in zip(before, cpu_seconds(self._server), strict=True))
        return worker / (self._rate * seconds) * 1e6, postgres / (self._rate * seconds) * 1e6

    async def send(self, seconds: int) -> None:
        """At the given rate."""
        self.sent.clear()
        schedule = Schedule(time.perf_counter(), self._rate, self._rate * seconds)
        started = time.perf_counter()
        await asyncio.gather(*(self._call(schedule) for _ in range(self._callers)))
        self.reached = self._rate * seconds / (time.perf_counter() - started)
        self._first += self._rate * seconds

    async def _call(self, schedule: Schedule) -> None:
        """One caller: waits for its turn, tracks, and notes who is to arrive."""
        while (due := schedule.take()) is not None:
            number = self._first + schedule.taken
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            given = event(number, self._people, self._new)
            at = time.perf_counter()
            if given["eventType"] == "level.reached":
                self.sent[given["userId"]] = at
            await post(self._server, self._session, TRACK, {"event": given})


async def moves(server: Gateway) -> int:
    """How many changes there were."""
    connection = await asyncpg.connect(server.database_url)
    try:
        count: int = await connection.fetchval("SELECT count(*) FROM audience_changes")
        return count
    finally:
        await connection.close()


async def introduce(server: Gateway, session: aiohttp.ClientSession, people: int) -> None:
    """Let everybody be seen."""
    for start in range(0, people, BATCH):
        names = [f"user-{number}" for number in range(start, min(start + BATCH, people))]
        events = [{"eventType": "app.opened", "userId": name} for name in names]
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
    # As autovacuum does once a minute: what follows is planned for what there is.
    await connection.execute("ANALYZE")
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
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--audiences", type=int, default=100)
    parser.add_argument("--people", type=int, default=50_000)
    parser.add_argument("--new", type=int, default=5)
    arguments = parser.parse_args()
    with gateway() as server:
        asyncio.run(run(server, **vars(arguments)))


if __name__ == "__main__":
    main()
