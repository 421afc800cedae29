"""kill -9 of workers at any moment while events flow: membership is what the conditions say, each change said once.

A gateway, two workers, PostgreSQL and Valkey as processes. People do things, and windows of a few seconds are left,
while workers die and are started again, one or both at once. In the end what is kept is compared with what the
conditions say, the audiences lane with what is kept, the log's events with the lane, and what a client was shown that
followed `audienceChanges` of each audience with the lane.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.acceptance.chaos.deployment import Deployment
from tests.acceptance.chaos_workflows.journeys import open_client, track
from tests.acceptance.running import eventually
from tests.peers.__main__ import Client

WORKER = ("-m", "tests.acceptance.chaos_workflows.worker_with_short_lease")
SEED = 5
PEOPLE = 60
BATCHES = 150
BATCH = 10
PAUSE_SECONDS = 0.05
KILLS: tuple[tuple[float, tuple[int, ...]], ...] = ((0.6, (0,)), (1.1, (1,)), (0.4, (0, 1)), (1.3, (1, 0)), (0.7, (0,)))
"""Seconds after the one before, and the workers that die: random moments, as far as what they do is concerned."""
WINDOW_SECONDS = 3
SETTLE_SECONDS = 60.0
SAVE = (
    "mutation ($input: SaveAudienceInput!) { saveAudience(input: $input) { audience { id } userErrors { message } } }"
)
MEMBERS = """query ($id: ID!) { node(id: $id) { ... on Audience {
  size members(first: 100) { edges { node { userId } } } } } }"""
CHANGES = "subscription ($id: ID!) { audienceChanges(audienceId: $id) { node { userId entered } } }"


def happened(event_type: str, at_least: int, **count: Any) -> dict[str, Any]:
    return {"events": {"eventType": event_type, **count}, "op": "GTE", "value": at_least}


AUDIENCES: dict[str, list[dict[str, Any]]] = {
    "Pros": [{"path": "profile.traits.plan", "op": "EQ", "value": "pro"}],
    "Busy": [happened("order.placed", 2, withinSeconds=WINDOW_SECONDS)],
    "Quiet": [happened("page.viewed", 1), {"not": happened("order.*", 1, withinSeconds=WINDOW_SECONDS)}],
    "Spenders": [happened("order.placed", 500, sum="event.properties.amount")],
    "Strangers": [{"not": happened("order.placed", 1)}],
    "Even": [{"any": [{"events": {"eventType": "page.viewed"}, "op": "IN", "value": list(range(0, 200, 2))}]}],
}


def event(chance: random.Random) -> dict[str, Any]:
    """Something that somebody does."""
    who = f"user-{chance.randrange(PEOPLE)}"
    match chance.randrange(4):
        case 0:
            return {"eventType": "user.identified", "userId": who, "traits": {"plan": chance.choice(["pro", "free"])}}
        case 1:
            return {"eventType": "page.viewed", "userId": who}
    return {"eventType": "order.placed", "userId": who, "properties": {"amount": chance.randrange(120)}}


class Watcher:
    """A client that follows every audience over one socket."""

    def __init__(self, ids: dict[str, str]) -> None:
        self.shown: defaultdict[str, list[tuple[str, bool]]] = defaultdict(list)
        self._ids = ids

    @asynccontextmanager
    async def watching(self, deployment: Deployment) -> AsyncIterator[None]:
        url = f"ws://127.0.0.1:{deployment.gateways[0].port}/graphql"
        async with connect(url, subprotocols=[Subprotocol("graphql-transport-ws")]) as socket:
            await socket.send(
                json.dumps({"type": "connection_init", "payload": {"x-api-key": deployment.keys.secret_key}})
            )
            assert json.loads(await socket.recv())["type"] == "connection_ack"
            for name, node_id in self._ids.items():
                payload = {"query": CHANGES, "variables": {"id": node_id}}
                await socket.send(json.dumps({"type": "subscribe", "id": name, "payload": payload}))
            reading = asyncio.create_task(self._read(socket))
            try:
                yield
            finally:
                reading.cancel()

    async def _read(self, socket: ClientConnection) -> None:
        async for message in socket:
            frame = json.loads(message)
            if frame["type"] == "next" and (item := frame["payload"]["data"]["audienceChanges"])["node"] is not None:
                self.shown[frame["id"]].append((item["node"]["userId"], item["node"]["entered"]))


class Chaos:
    """One run of everything."""

    def __init__(self, deployment: Deployment, client: Client, connection: asyncpg.Connection) -> None:
        self.deployment = deployment
        self.client = client
        self.connection = connection
        self.project_id = UUID(deployment.keys.project_id)
        self.killed = 0

    async def save(self) -> dict[str, str]:
        ids = {}
        for name, where in AUDIENCES.items():
            saved = await self.client.run(SAVE, input={"name": name, "where": where})
            ids[name] = saved["saveAudience"]["audience"]["id"]
        await self._until("SELECT NOT EXISTS (SELECT FROM audiences WHERE project_id = $1 AND is_building)")
        return ids

    async def live(self) -> None:
        chance = random.Random(SEED)
        async with asyncio.TaskGroup() as tasks:
            killing = tasks.create_task(self._kill())
            for _ in range(BATCHES):
                await track(self.client, [event(chance) for _ in range(BATCH)])
                await asyncio.sleep(PAUSE_SECONDS)
            await killing

    async def settle(self) -> None:
        """Until the log has been followed to its head, and nobody is due, nor will be: every window has been left."""
        await asyncio.sleep(WINDOW_SECONDS)
        await self._until(
            """SELECT f.position = h.head AND NOT EXISTS (SELECT FROM audience_rechecks WHERE project_id = $1)
            FROM log_followers AS f JOIN heads AS h ON h.project_id = f.project_id AND h.lane = 1
            WHERE f.project_id = $1 AND f.follower = 'audiences'"""
        )

    async def kept(self) -> set[tuple[str, str]]:
        rows = await self.connection.fetch(
            """SELECT a.name, m.user_id FROM audience_members AS m JOIN audiences AS a USING (project_id, audience_id)
            WHERE m.project_id = $1""",
            self.project_id,
        )
        return {(row["name"], row["user_id"]) for row in rows}

    async def asked(self, ids: dict[str, str]) -> set[tuple[str, str]]:
        """What the conditions say."""
        found = set()
        for name, node_id in ids.items():
            audience = (await self.client.run(MEMBERS, id=node_id))["node"]
            members = [edge["node"]["userId"] for edge in audience["members"]["edges"]]
            assert audience["size"] == len(members)
            found |= {(name, user_id) for user_id in members}
        return found

    async def changes(self) -> dict[str, list[tuple[str, bool]]]:
        """The lane, by audience."""
        rows = await self.connection.fetch(
            """SELECT a.name, c.user_id, c.entered FROM audience_changes AS c JOIN audiences AS a
            USING (project_id, audience_id) WHERE c.project_id = $1 ORDER BY c.seq""",
            self.project_id,
        )
        found: defaultdict[str, list[tuple[str, bool]]] = defaultdict(list)
        for row in rows:
            found[row["name"]].append((row["user_id"], row["entered"]))
        return found

    async def said(self) -> Counter[tuple[str, str, bool]]:
        """The events of the log about it."""
        rows = await self.connection.fetch(
            """SELECT properties ->> 'audienceName' AS name, user_id, event_type = 'audience.entered' AS entered
            FROM events WHERE project_id = $1 AND event_type LIKE 'audience.%'""",
            self.project_id,
        )
        return Counter((row["name"], row["user_id"], row["entered"]) for row in rows)

    async def _kill(self) -> None:
        for seconds, victims in KILLS:
            await asyncio.sleep(seconds)
            workers = [self.deployment.workers[victim] for victim in victims]
            for worker in workers:
                worker.end()
                self.killed += 1
            for worker in workers:
                worker.launch()

    async def _until(self, question: str) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        while not await self.connection.fetchval(question, self.project_id):
            assert time.monotonic() < deadline, question
            await asyncio.sleep(0.1)


async def test_membership_is_exact_and_each_change_said_once_although_workers_are_killed(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, gateways=1, workers=2, worker=WORKER)
    try:
        await deployment.open()
        connection = await asyncpg.connect(deployment.postgres.url)
        try:
            async with open_client(deployment) as client:
                chaos = Chaos(deployment, client, connection)
                ids = await chaos.save()
                watcher = Watcher(ids)
                async with watcher.watching(deployment):
                    await chaos.live()
                    await chaos.settle()
                    lane = await chaos.changes()
                    count = sum(map(len, lane.values()))
                    await eventually(
                        lambda: sum(map(len, watcher.shown.values())) >= count, seconds=SETTLE_SECONDS, what="changes"
                    )
                kept, asked, said = await chaos.kept(), await chaos.asked(ids), await chaos.said()
        finally:
            await connection.close()
    finally:
        deployment.close()

    assert chaos.killed == sum(len(victims) for _, victims in KILLS)
    assert kept == asked
    assert len(kept) > PEOPLE // 2
    assert watcher.shown == lane
    changes = [(name, user_id, entered) for name, items in lane.items() for user_id, entered in items]
    assert said == Counter(changes)
    # Each change turns the one before it, from being in none to what is kept.
    latest: dict[tuple[str, str], bool] = {}
    for name, user_id, entered in changes:
        assert latest.get((name, user_id), False) is not entered
        latest[(name, user_id)] = entered
    assert {pair for pair, is_member in latest.items() if is_member} == kept
    assert len(changes) > BATCHES
    assert [line for part in deployment.parts for line in part.logged_errors()] == []
