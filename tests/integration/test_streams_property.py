"""The property that matters most: whatever fails, each subscriber receives exactly what the table holds, in order.

Several gateways, writers that delay, roll back and die between COMMIT and announcement, a Valkey that is restarted,
paused, flushed and cut, PostgreSQL backends that are terminated, gateways that vanish, subscribers with random filters
and slow sinks that drop and come back elsewhere with their last cursor. Afterwards what each of them received is
compared with the table, filtered by SQL (not by the code under test): nothing lost, nothing twice, nothing disordered,
nothing that was never committed.

SENDORA_PROPERTY_SECONDS (default 20) runs it longer, SENDORA_PROPERTY_SEED repeats a run's choices.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from uuid import UUID

import asyncpg
import msgspec
import pytest

from db.database import Database
from db.events import append_events, read_event_page, read_events_by_seq
from db.filters import EVERYTHING, Condition, EventFilter
from db.records import EventRecord, Lane, NewEvent
from engine.announcements import Announcement
from engine.cursors import Cursor, CursorKind
from engine.errors import Unavailable
from engine.live.broadcast import Broadcast
from engine.workers.relay import Relay
from launch.embedded import EmbeddedValkey
from tests.integration.log_support import make_project, new_event
from tests.integration.stream_support import CODEC, Gateway, RecordingSink, Rendering

SECONDS = float(os.environ.get("SENDORA_PROPERTY_SECONDS", "20"))
SEED = int(os.environ.get("SENDORA_PROPERTY_SEED", secrets.randbits(32)))
GATEWAYS = 3
PROJECTS = 2
WRITERS = 5
SUBSCRIBERS = 30
SETTLE_SECONDS = 40.0 + 2 * SECONDS
"""Renderings that wait 2 ms for each item take longer to catch up than the events took to be written."""
SINK_BOUNDS = (None, None, 1, 5, 40)
"""After how many items a sink is full."""

DATABASE_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""What asyncpg raises on a connection whose backend was terminated, depending on the moment."""

TYPES = ("order.placed", "order.paid", "push.sent", "push.failed", "page.viewed")
USERS = ("ann", "bob", "eve", None)
FILTERS = (
    EVERYTHING,
    EventFilter(event_types=("order.*",)),
    EventFilter(event_types=("*.failed", "page.viewed")),
    EventFilter(event_types=("push.sent",), user_id="ann"),
    EventFilter(user_id="bob"),
    EventFilter(modules=("shop",)),
    EventFilter(user_id="nobody"),
    EventFilter(where=(Condition(path="event.properties.amount", op="GT", value=50),)),
)


class World:
    """Everything that runs, and all that went wrong with it."""

    def __init__(self, database_url: str, redis: EmbeddedValkey) -> None:
        self.random = random.Random(SEED)
        self.database_url = database_url
        self.redis = redis
        self.gateways: list[Gateway] = []
        self.projects: list[UUID] = []
        self.did: Counter[str] = Counter()
        self.violations: list[str] = []
        self.over = asyncio.Event()

    async def sleep(self, least: float, most: float) -> bool:
        """Wait a random while; False when it is all over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.random.uniform(least, most)):
                await self.over.wait()
        return not self.over.is_set()

    async def open_gateway(self) -> Gateway:
        database = Database(self.database_url, min_size=1, max_size=6)
        broadcast = Broadcast(self.redis.url)
        await _persist(database.connect)
        await broadcast.connect()
        gateway = Gateway(database, broadcast, linger=self.random.choice([0.0, 0.2, 2.0]))
        await gateway.hub.start()
        return gateway

    async def close_gateway(self, gateway: Gateway) -> None:
        await gateway.streams.stop()
        await gateway.hub.stop()
        await gateway.broadcast.disconnect()
        await gateway.database.disconnect()


class Subscriber:
    """One client for its whole life: many connections, one position."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.project_id = world.random.choice(world.projects)
        self.event_filter = world.random.choice(FILTERS)
        self.rendering = Rendering(delay=world.random.choice([None, None, 0.0, 0.002]))
        self.rendering.key = (number % 3, self.rendering._delay)
        self.received: list[int] = []
        self.start: int | None = 0 if world.random.random() < 0.5 else None
        self.cursor = None if self.start is None else _cursor(self.project_id, 0)

    async def live(self) -> None:
        while await self.world.sleep(0, 0.2):
            gateway = self.world.random.choice(self.world.gateways)
            await self._connect(gateway, lambda: self.world.sleep(0.05, 3))

    async def finish(self, gateway: Gateway, head: int) -> None:
        """Come back once more, and stay until everything has arrived."""

        async def until_caught_up() -> None:
            async with asyncio.timeout(SETTLE_SECONDS):
                while _position(self.project_id, self.cursor_now()) < head:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

        await self._connect(gateway, until_caught_up, bounds=(None, 100))

    def cursor_now(self) -> str:
        return self.member.cursor

    async def _connect(
        self, gateway: Gateway, stay: Callable[[], Awaitable[object]], *, bounds: tuple[int | None, ...] = SINK_BOUNDS
    ) -> None:
        sink = RecordingSink(bound=self.world.random.choice(bounds), pause=0.003)
        try:
            self.member = await gateway.subscribe(
                self.project_id, sink, item_filter=self.event_filter, after=self.cursor, rendering=self.rendering
            )
        except Unavailable:
            self.world.did["join unavailable"] += 1
            return
        self.world.did["joined"] += 1
        self.cursor = self.cursor or sink.announced[0]
        if self.start is None:
            self.start = _position(self.project_id, self.cursor)
        await stay()
        self.member.leave()
        self._note(sink)

    def _note(self, sink: RecordingSink) -> None:
        self.received += sink.seqs
        self.world.violations += sink.violations
        if sink.error is not None:
            self.world.violations.append(f"ended by {sink.error!r}")
        # A client comes back with the cursor of its last item, or with a later one from a keep-alive.
        if self.world.random.random() < 0.5:
            self.cursor = self.member.cursor
        elif sink.cursors:
            self.cursor = sink.cursors[-1]


async def write(world: World) -> None:
    """Append in transactions that take their time, are rolled back, and are announced late, out of order or never."""
    while await world.sleep(0, 0.02):
        gateway, project_id = world.random.choice(world.gateways), world.random.choice(world.projects)
        events = [_random_event(world) for _ in range(world.random.choice([1, 1, 1, 2, 5, 60]))]
        try:
            records, epoch = await _commit_or_roll_back(world, gateway, project_id, events)
        except DATABASE_ERRORS:
            world.did["append failed"] += 1
            continue
        if records:
            asyncio.get_running_loop().call_later(
                world.random.choice([0, 0, 0, 0.01, 0.1]), _announce, world, gateway, project_id, epoch, records
            )


async def _commit_or_roll_back(
    world: World, gateway: Gateway, project_id: UUID, events: list[NewEvent]
) -> tuple[list[EventRecord], int]:
    async with gateway.database.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        result = await append_events(connection, project_id=project_id, batch_token=secrets.randbits(62), events=events)
        records = await read_events_by_seq(connection, project_id=project_id, seqs=result.seqs)
        await asyncio.sleep(world.random.choice([0, 0, 0.003, 0.02]))
        if world.random.random() < 0.1:
            await transaction.rollback()
            world.did["rolled back"] += 1
            return [], 0
        await transaction.commit()
    world.did["events"] += len(events)
    return records, result.epoch


def _announce(world: World, gateway: Gateway, project_id: UUID, epoch: int, records: list[EventRecord]) -> None:
    first, last = records[0].seq, records[-1].seq
    match world.random.random():
        case lot if lot < 0.1:
            world.did["never announced"] += 1
            return
        case lot if lot < 0.2:
            records = []
    times = 2 if world.random.random() < 0.05 else 1
    for _ in range(times):
        gateway.broadcast.announce(Announcement(project_id, Lane.EVENTS, epoch, first, last, tuple(records)))


async def disturb_redis(world: World) -> None:
    """Restart it, pause it, empty it, cut every connection."""
    while await world.sleep(0.3, 2):
        match world.random.choice(["restart", "pause", "flush", "cut"]):
            case "restart":
                await asyncio.to_thread(world.redis.stop)
                await world.sleep(0, 1.5)
                _start_here(world.redis)
                world.did["redis restarted"] += 1
            case "pause":
                assert world.redis.process is not None
                world.redis.process.send_signal(signal.SIGSTOP)
                await world.sleep(0.1, 2.5)
                world.redis.process.send_signal(signal.SIGCONT)
                world.did["redis paused"] += 1
            case "flush":
                await _command(world, "FLUSHALL")
            case "cut":
                await _command(world, "CLIENT", "KILL", "TYPE", "pubsub")


async def disturb_postgres(world: World) -> None:
    """Terminate some backends."""
    while await world.sleep(0.5, 3):
        with suppress(asyncpg.PostgresError, OSError):
            connection = await asyncpg.connect(world.database_url)
            killed = await connection.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < $1",
                world.random.choice([0.1, 0.5, 1.0]),
            )
            world.did["backends terminated"] += len(killed)
            await connection.close()


async def replace_gateways(world: World) -> None:
    """Take a gateway away, with whatever it had not announced yet, and put a new one in its place."""
    while await world.sleep(2, 5):
        place = world.random.randrange(GATEWAYS)
        old, world.gateways[place] = world.gateways[place], await world.open_gateway()
        await world.close_gateway(old)
        world.did["gateways replaced"] += 1


async def test_what_a_resuming_client_received_equals_the_table(
    database_url: str, own_redis: EmbeddedValkey, record_property: pytest.RecordProperty
) -> None:
    print(f"seed {SEED}")
    world = World(database_url, own_redis)
    world.gateways = [await world.open_gateway() for _ in range(GATEWAYS)]
    world.projects = [await make_project(world.gateways[0].database) for _ in range(PROJECTS)]
    subscribers = [Subscriber(world, number) for number in range(SUBSCRIBERS)]
    relay_database, relay_broadcast = Database(database_url, min_size=1, max_size=2), Broadcast(own_redis.url)
    await relay_database.connect()
    await relay_broadcast.connect()
    relay_over = asyncio.Event()
    relay = asyncio.create_task(Relay(relay_database, relay_broadcast).run(relay_over))

    async with asyncio.TaskGroup() as tasks:
        for work in (disturb_redis, disturb_postgres, replace_gateways, *[write] * WRITERS):
            tasks.create_task(work(world))
        for subscriber in subscribers:
            tasks.create_task(subscriber.live())
        await asyncio.sleep(SECONDS)
        world.over.set()

    tables = {project_id: await _heads(database_url, project_id) for project_id in world.projects}
    async with asyncio.TaskGroup() as tasks:
        for subscriber in subscribers:
            gateway = world.random.choice(world.gateways)
            tasks.create_task(subscriber.finish(gateway, tables[subscriber.project_id]))
    faults = [fault for subscriber in subscribers for fault in await _compare(database_url, subscriber)]
    relay_over.set()
    await relay
    await relay_broadcast.disconnect()
    await relay_database.disconnect()
    for gateway in world.gateways:
        await world.close_gateway(gateway)

    received = sum(len(subscriber.received) for subscriber in subscribers)
    record_property("did", dict(world.did))
    print(f"received {received}; {dict(world.did)}")
    assert world.violations == []
    assert faults == []
    assert received > 100
    for what in ("events", "rolled back", "never announced", "backends terminated", "joined"):
        assert world.did[what] > 0, what


async def _compare(database_url: str, subscriber: Subscriber) -> list[str]:
    connection = await asyncpg.connect(database_url)
    try:
        expected, after = [], subscriber.start or 0
        while True:
            page = await read_event_page(
                connection,
                project_id=subscriber.project_id,
                after=after,
                limit=10_000,
                event_filter=subscriber.event_filter,
            )
            expected += [event.seq for event in page.events]
            after = page.reached
            if after >= page.head.head:
                break
    finally:
        await connection.close()
    if subscriber.received == expected:
        return []
    lost = sorted(set(expected) - set(subscriber.received))
    twice = [seq for seq, times in Counter(subscriber.received).items() if times > 1]
    invented = sorted(set(subscriber.received) - set(expected))
    return [f"{subscriber.event_filter} lost {lost[:9]} twice {twice[:9]} invented {invented[:9]}"]


async def _heads(database_url: str, project_id: UUID) -> int:
    connection = await asyncpg.connect(database_url)
    try:
        return int(await connection.fetchval("SELECT head FROM heads WHERE project_id = $1 AND lane = 1", project_id))
    finally:
        await connection.close()


def _random_event(world: World) -> NewEvent:
    return new_event(
        secrets.token_hex(8),
        event_type=world.random.choice(TYPES),
        module=world.random.choice(["shop", "analytics"]),
        user_id=world.random.choice(USERS),
        properties=msgspec.json.encode({"amount": world.random.randrange(100)}).decode(),
    )


def _cursor(project_id: UUID, seq: int) -> str:
    return CODEC.encode(Cursor(CursorKind.EVENTS, project_id, 1, (seq,)))


def _position(project_id: UUID, cursor: str) -> int:
    return int(CODEC.decode(cursor, project_id=project_id, kinds=frozenset({CursorKind.EVENTS})).key[0])


def _start_here(redis: EmbeddedValkey) -> None:
    """In this thread: a child is ended with the thread that started it."""
    redis.start()


async def _command(world: World, *words: str) -> None:
    import redis.asyncio

    client = redis.asyncio.Redis.from_url(world.redis.url)
    with suppress(redis.exceptions.RedisError, OSError):
        await client.execute_command(*words)
        world.did[f"redis {words[0].lower()}"] += 1
    await client.aclose()


async def _persist(action: Callable[[], Awaitable[object]]) -> None:
    """Try until a disturbed PostgreSQL lets us in."""
    while True:
        try:
            await action()
            return
        except DATABASE_ERRORS:
            await asyncio.sleep(0.05)
