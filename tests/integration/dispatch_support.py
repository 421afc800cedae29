"""What the tests of the dispatcher share: projects with deliveries, dispatchers with a memory channel, and the lane."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

from db.database import Database
from db.deliveries import read_attempts, read_deliveries
from db.delivery_records import AttemptRecord, DeliveryRecord, NewDelivery
from engine.announcements import Announcement
from engine.dispatch.dispatcher import Dispatcher
from engine.dispatch.ledger import create_deliveries
from engine.dispatch.values import DEFAULT_PROVIDER_SCHEDULE, Channel, DeliveryStatus
from tests.integration.log_support import make_project
from tests.peers.memory_channel import MemoryChannel

START = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOST = "https://shop.example:443"

ENQUEUE_MANY = """
    INSERT INTO deliveries (
        project_id, delivery_id, channel, status, dispatch_key, content, retry_schedule, created_at, next_attempt_at
    )
    SELECT $1, gen_random_uuid(), 'WEBHOOK', 'QUEUED', $3, '{}', '{2,8}', $4, $4
    FROM generate_series(1, $2)
"""


@dataclass
class TestClock:
    """Business time that stands still until it is moved."""

    __test__ = False
    at: datetime = START

    def now(self) -> datetime:
        return self.at

    def advance(self, **duration: float) -> None:
        self.at += timedelta(**duration)


@dataclass
class Desk:
    """A database, a clock, one repeatable and one non-repeatable channel, and the dispatchers that use them."""

    database: Database
    clock: TestClock = field(default_factory=TestClock)
    webhook: MemoryChannel = field(default_factory=lambda: MemoryChannel(Channel.WEBHOOK, repeatable=True))
    push: MemoryChannel = field(default_factory=lambda: MemoryChannel(Channel.PUSH, repeatable=False))
    announced: list[Announcement] = field(default_factory=list)

    def dispatcher(self, **options: Any) -> Dispatcher:
        works = {Channel.WEBHOOK: self.webhook, Channel.PUSH: self.push}
        return Dispatcher(self.database, works, self.clock, self.announced.append, **options)

    async def project(self) -> UUID:
        return await make_project(self.database)

    async def enqueue(self, project_id: UUID, count: int = 1, **fields: Any) -> list[UUID]:
        """Make deliveries as a mutation does, due now; webhooks to one host unless said otherwise."""
        made = [new_delivery(self.clock.now(), **fields) for _ in range(count)]
        async with self.database.transaction() as connection:
            await create_deliveries(connection, project_id=project_id, deliveries=made, now=self.clock.now())
        return [each.delivery_id for each in made]

    async def enqueue_many(self, project_id: UUID, count: int, *, dispatch_key: str = HOST) -> None:
        """Many at once, without the log."""
        async with self.database.connection() as connection:
            await connection.execute(ENQUEUE_MANY, project_id, count, dispatch_key, self.clock.now())

    async def drain(self, dispatcher: Dispatcher, *project_ids: UUID) -> None:
        """Drain, and wait until everything is settled."""
        await asyncio.gather(*(dispatcher.drain(project_id) for project_id in project_ids))
        await dispatcher.settled()

    async def delivery(self, project_id: UUID, delivery_id: UUID) -> DeliveryRecord:
        async with self.database.connection() as connection:
            (found,) = await read_deliveries(connection, project_id=project_id, delivery_ids=[delivery_id])
        return found

    async def attempts(self, project_id: UUID, delivery_id: UUID) -> list[AttemptRecord]:
        async with self.database.connection() as connection:
            return await read_attempts(connection, project_id=project_id, delivery_ids=[delivery_id])

    async def statuses(self, project_id: UUID) -> dict[str, int]:
        async with self.database.connection() as connection:
            rows = await connection.fetch(
                "SELECT status, count(*) FROM deliveries WHERE project_id = $1 GROUP BY status", project_id
            )
        return {row["status"]: row["count"] for row in rows}

    async def steps(self, project_id: UUID) -> dict[UUID, list[str]]:
        """The statuses that each delivery went through, from its lane, which must be dense and joined up."""
        async with self.database.connection() as connection:
            return await checked_steps(connection, project_id)

    async def events(self, project_id: UUID) -> Counter[str]:
        async with self.database.connection() as connection:
            rows = await connection.fetch(
                "SELECT event_type, count(*) FROM events WHERE project_id = $1 GROUP BY event_type", project_id
            )
        return Counter({row["event_type"]: row["count"] for row in rows})

    async def end_leases(self, project_id: UUID) -> None:
        """As if the time of every lease were over."""
        async with self.database.connection() as connection:
            await connection.execute(
                "UPDATE deliveries SET lease_until = clock_timestamp() - interval '1 s'"
                " WHERE project_id = $1 AND lease_until IS NOT NULL",
                project_id,
            )


@asynccontextmanager
async def open_desk(url: str, **options: Any) -> AsyncIterator[Desk]:
    database = Database(url, **options)
    await database.connect()
    try:
        yield Desk(database)
    finally:
        await database.disconnect()


def new_delivery(
    now: datetime,
    *,
    channel: Channel = Channel.WEBHOOK,
    dispatch_key: str | None = None,
    retry_schedule: Sequence[int] = DEFAULT_PROVIDER_SCHEDULE,
    **fields: Any,
) -> NewDelivery:
    return NewDelivery(
        delivery_id=uuid7(),
        channel=channel,
        status=DeliveryStatus.QUEUED,
        dispatch_key=dispatch_key or (HOST if channel is Channel.WEBHOOK else "apns"),
        content=fields.pop("content", "{}"),
        retry_schedule=tuple(retry_schedule),
        created_at=now,
        next_attempt_at=fields.pop("next_attempt_at", now),
        **fields,
    )


async def checked_steps(connection: asyncpg.Connection, project_id: UUID) -> dict[UUID, list[str]]:
    rows = await connection.fetch(
        "SELECT seq, delivery_id, from_status, to_status FROM delivery_transitions WHERE project_id = $1 ORDER BY seq",
        project_id,
    )
    head = await connection.fetchval("SELECT head FROM heads WHERE project_id = $1 AND lane = 2", project_id)
    assert [row["seq"] for row in rows] == list(range(1, head + 1))
    steps: dict[UUID, list[str]] = {}
    for row in rows:
        before = steps.setdefault(row["delivery_id"], [])
        assert row["from_status"] == (before[-1] if before else None)
        before.append(row["to_status"])
    stored = await connection.fetch("SELECT delivery_id, status FROM deliveries WHERE project_id = $1", project_id)
    assert {row["delivery_id"]: row["status"] for row in stored} == {key: each[-1] for key, each in steps.items()}
    return steps


async def until(condition: Callable[[], bool], *, seconds: float = 10) -> None:
    """Wait for something that must happen."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
