"""The property that matters most: whatever fails, each subscriber receives exactly what the table holds, in order.

Several gateways, writers that delay, roll back and die between COMMIT and announcement, a Valkey that is restarted,
paused, flushed and cut, PostgreSQL backends that are terminated, gateways that vanish, subscribers with random filters,
with slow sinks and with renderings that sometimes wait, that drop and come back elsewhere with their last cursor; some
follow events, some the transitions of deliveries, some the updates of runs. Afterwards what each of them received is
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
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest
from uuid_utils.compat import uuid7

from db.database import Database
from db.delivery_filters import EVERY_DELIVERY, DeliveryFilter
from db.delivery_records import NewDelivery
from db.events import append_events, read_events_by_seq
from db.filters import EVERYTHING, Condition, EventFilter
from db.records import Lane, NewEvent
from db.run_filters import EVERY_RUN, RunFilter
from db.workflow_records import NewRunUpdate
from engine.announcements import Announcement
from engine.cursors import Cursor
from engine.dispatch.ledger import create_deliveries, record
from engine.dispatch.status import transition_of
from engine.errors import Unavailable
from engine.lanes import DELIVERIES, EVENTS, RUNS, LaneKind
from engine.live.broadcast import Broadcast
from engine.workers.relay import Relay
from launch.embedded import EmbeddedValkey
from tests.integration.delivery_support import new_delivery
from tests.integration.log_support import make_project, new_event
from tests.integration.run_support import new_run_update
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
LONG_RENDERINGS = 0.03
"""Of the renderings that wait, how many wait for longer than the others: what follows them queues up meanwhile."""

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


DELIVERY_FILTERS = (
    EVERY_DELIVERY,
    DeliveryFilter(channels=("SMS",)),
    DeliveryFilter(statuses=("CANCELLED", "FAILED")),
    DeliveryFilter(user_id="ann", event_types=("order.*",)),
    DeliveryFilter(endpoint_id=UUID(int=1)),
    DeliveryFilter(user_id="nobody"),
)
RUN_FILTERS = (
    EVERY_RUN,
    RunFilter(statuses=("COMPLETED", "FAILED")),
    RunFilter(workflow_id=UUID(int=1)),
    RunFilter(user_id="ann", statuses=("RUNNING",)),
    RunFilter(user_id="nobody"),
)
LANE_FILTERS = {EVENTS: FILTERS, DELIVERIES: DELIVERY_FILTERS, RUNS: RUN_FILTERS}


class World:
    """Everything that runs, and all that went wrong with it."""

    def __init__(self, database_url: str, redis: EmbeddedValkey) -> None:
        self.random = random.Random(SEED)
        self.database_url = database_url
        self.redis = redis
        self.gateways: list[Gateway] = []
        self.projects: list[UUID] = []
        self.made: dict[UUID, list[NewDelivery]] = {}
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
        # Saying goodbye to a backend that was terminated just now is an error, and closes the pool all the same.
        with suppress(*DATABASE_ERRORS):
            await gateway.database.disconnect()


class UnevenRendering(Rendering):
    """Waits for what an item needs from elsewhere, and sometimes long: for a database that is away for a moment."""

    def __init__(self, world: World, *, delay: float | None) -> None:
        super().__init__(delay=delay)
        self._world = world

    async def _later(self, payload: bytes, delay: float) -> bytes:
        lot = self._world.random.random()
        return await super()._later(payload, delay if lot > LONG_RENDERINGS else self._world.random.uniform(0, 0.1))


class Subscriber:
    """One client for its whole life: many connections, one position."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.project_id = world.random.choice(world.projects)
        self.kind: LaneKind[Any, Any] = world.random.choice([EVENTS, EVENTS, DELIVERIES, RUNS])
        self.item_filter = world.random.choice(LANE_FILTERS[self.kind])
        self.rendering = UnevenRendering(world, delay=world.random.choice([None, None, 0.0, 0.002]))
        self.rendering.key = (number % 3, self.rendering._delay)
        self.received: list[int] = []
        self.start: int | None = 0 if world.random.random() < 0.5 else None
        self.cursor = None if self.start is None else self._cursor(0)

    async def live(self) -> None:
        while await self.world.sleep(0, 0.2):
            gateway = self.world.random.choice(self.world.gateways)
            await self._connect(gateway, lambda: self.world.sleep(0.05, 3))

    async def finish(self, gateway: Gateway, head: int) -> None:
        """Come back once more, and stay until everything has arrived."""

        async def until_caught_up() -> None:
            async with asyncio.timeout(SETTLE_SECONDS):
                while self._position(self.cursor_now()) < head:  # noqa: ASYNC110
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
                self.project_id,
                sink,
                kind=self.kind,
                item_filter=self.item_filter,
                after=self.cursor,
                rendering=self.rendering,
            )
        except Unavailable:
            self.world.did["join unavailable"] += 1
            return
        self.world.did["joined"] += 1
        self.cursor = self.cursor or sink.announced[0]
        if self.start is None:
            self.start = self._position(self.cursor)
        await stay()
        self.member.leave()
        self._note(sink)

    def _cursor(self, seq: int) -> str:
        return CODEC.encode(Cursor(self.kind.cursor, self.project_id, 1, (seq,)))

    def _position(self, cursor: str) -> int:
        return int(CODEC.decode(cursor, project_id=self.project_id, kinds=frozenset({self.kind.cursor})).key[0])

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
        append = world.random.choice(
            [_append_events, _append_events, _make_deliveries, _cancel_deliveries, _change_runs]
        )
        try:
            announcements = await _commit_or_roll_back(world, gateway, project_id, append)
        except DATABASE_ERRORS:
            world.did["append failed"] += 1
            continue
        for announcement in announcements:
            asyncio.get_running_loop().call_later(
                world.random.choice([0, 0, 0, 0.01, 0.1]), _announce, world, gateway, announcement
            )


Append = Callable[[World, asyncpg.Connection, UUID, int], Awaitable[Sequence[Announcement]]]


async def _commit_or_roll_back(
    world: World, gateway: Gateway, project_id: UUID, append: Append
) -> Sequence[Announcement]:
    async with gateway.database.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        announcements = await append(world, connection, project_id, world.random.choice([1, 1, 1, 2, 5, 60]))
        await asyncio.sleep(world.random.choice([0, 0, 0.003, 0.02]))
        if world.random.random() < 0.1:
            await transaction.rollback()
            world.did["rolled back"] += 1
            return ()
        await transaction.commit()
    for announcement in announcements:
        world.did[f"items of {announcement.lane.name}"] += len(announcement.items)
    return announcements


async def _append_events(
    world: World, connection: asyncpg.Connection, project_id: UUID, count: int
) -> Sequence[Announcement]:
    events = [_random_event(world) for _ in range(count)]
    result = await append_events(connection, project_id=project_id, batch_token=secrets.randbits(62), events=events)
    records = await read_events_by_seq(connection, project_id=project_id, seqs=result.seqs)
    first, last = records[0].seq, records[-1].seq
    return [Announcement(project_id, Lane.EVENTS, result.epoch, first, last, tuple(records))]


async def _make_deliveries(
    world: World, connection: asyncpg.Connection, project_id: UUID, count: int
) -> Sequence[Announcement]:
    """With the events that the taxonomy has names for, in the same transaction."""
    deliveries = [_random_delivery(world) for _ in range(count)]
    world.made.setdefault(project_id, []).extend(deliveries)
    return await create_deliveries(connection, project_id=project_id, deliveries=deliveries, now=datetime.now(UTC))


async def _cancel_deliveries(
    world: World, connection: asyncpg.Connection, project_id: UUID, count: int
) -> Sequence[Announcement]:
    """Transitions alone, of some that were made (or rolled back: the lane does not look)."""
    made = world.made.get(project_id, [])
    transitions = [transition_of(each, before="QUEUED", after="CANCELLED") for each in made[-count:]]
    return await record(connection, project_id=project_id, transitions=transitions, events=[], now=datetime.now(UTC))


async def _change_runs(
    world: World, connection: asyncpg.Connection, project_id: UUID, count: int
) -> Sequence[Announcement]:
    """Updates of runs, with steps and without; sometimes an event in the same transaction, as a runner has it."""
    updates = [_random_run_update(world) for _ in range(count)]
    events = [_random_event(world)] if world.random.random() < 0.3 else []
    return await record(
        connection,
        project_id=project_id,
        transitions=[],
        events=events,
        run_updates=updates,
        now=datetime.now(UTC),
    )


def _announce(world: World, gateway: Gateway, announcement: Announcement) -> None:
    match world.random.random():
        case lot if lot < 0.1:
            world.did["never announced"] += 1
            return
        case lot if lot < 0.2:
            announcement = msgspec.structs.replace(announcement, items=())
    times = 2 if world.random.random() < 0.05 else 1
    for _ in range(times):
        gateway.broadcast.announce(announcement)


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
    while await world.sleep(0.5, 4):
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

    heads = await _heads(database_url)
    async with asyncio.TaskGroup() as tasks:
        for subscriber in subscribers:
            gateway = world.random.choice(world.gateways)
            tasks.create_task(subscriber.finish(gateway, heads[subscriber.project_id, subscriber.kind.lane]))
    faults = [fault for subscriber in subscribers for fault in await _compare(database_url, subscriber)]
    relay_over.set()
    await relay
    await relay_broadcast.disconnect()
    await relay_database.disconnect()
    for gateway in world.gateways:
        await world.close_gateway(gateway)

    received = Counter[Lane]()
    for subscriber in subscribers:
        received[subscriber.kind.lane] += len(subscriber.received)
    record_property("did", dict(world.did))
    print(f"received {received}; {dict(world.did)}")
    assert world.violations == []
    assert faults == []
    assert min(received[kind.lane] for kind in LANE_FILTERS) > 100
    for what in (
        "items of EVENTS",
        "items of DELIVERIES",
        "items of RUNS",
        "rolled back",
        "never announced",
        "backends terminated",
        "joined",
    ):
        assert world.did[what] > 0, what


async def _compare(database_url: str, subscriber: Subscriber) -> list[str]:
    connection = await asyncpg.connect(database_url)
    try:
        expected, after = [], subscriber.start or 0
        while True:
            page = await subscriber.kind.read_page(
                connection,
                project_id=subscriber.project_id,
                after=after,
                limit=10_000,
                item_filter=subscriber.item_filter,
            )
            expected += [item.seq for item in page.items]
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
    counts = f"lost {len(lost)}, twice {len(twice)}, invented {len(invented)}"
    return [
        f"{subscriber.kind.lane.name} {subscriber.item_filter} {subscriber.rendering.key} from {subscriber.start}"
        f" {counts}: {lost[:9]} {twice[:9]} {invented[:9]}"
    ]


async def _heads(database_url: str) -> dict[tuple[UUID, Lane], int]:
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch("SELECT project_id, lane, head FROM heads")
    finally:
        await connection.close()
    return {(row["project_id"], Lane(row["lane"])): row["head"] for row in rows}


def _random_event(world: World) -> NewEvent:
    return new_event(
        secrets.token_hex(8),
        event_type=world.random.choice(TYPES),
        module=world.random.choice(["shop", "analytics"]),
        user_id=world.random.choice(USERS),
        properties=msgspec.json.encode({"amount": world.random.randrange(100)}).decode(),
    )


def _random_delivery(world: World) -> NewDelivery:
    status = world.random.choice(["QUEUED", "QUEUED", "FAILED"])
    return new_delivery(
        datetime.now(UTC),
        delivery_id=uuid7(),
        status=status,
        channel=world.random.choice(["PUSH", "SMS"]),
        user_id=world.random.choice(USERS),
        event_type=world.random.choice([None, *TYPES]),
        endpoint_id=world.random.choice([None, UUID(int=1), UUID(int=2)]),
    )


def _random_run_update(world: World) -> NewRunUpdate:
    return new_run_update(
        datetime.now(UTC),
        workflow_id=UUID(int=world.random.choice([1, 2])),
        user_id=world.random.choice(USERS),
        status=world.random.choice(["RUNNING", "RUNNING", "COMPLETED", "FAILED"]),
        step=world.random.choice([None, '{"label":"one","number":1}']),
    )


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
