"""Followers: what follows from each event is written once and in order, whatever crashes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from db.database import Database
from db.delivery_records import NewDelivery
from db.events import append_events
from db.followers import ensure_follower, read_followed_projects, spare_disk
from db.heads import read_heads
from db.records import EventRecord, Lane
from db.statements import statements
from engine.announcements import Announcement
from engine.clock import DatabaseClock
from engine.dispatch.ledger import create_deliveries
from engine.lanes import EVENTS
from engine.retention import trim_project
from engine.work import Work, WorkKind
from engine.workers import followers
from engine.workers.followers import LEASE, NOTHING, Follower, Reacted, Reaction
from tests.integration.log_support import make_project, new_event, open_database

NAME = "tests"


class Told:
    """What a follower announced, and whom it woke."""

    def __init__(self) -> None:
        self.announced: list[Announcement] = []
        self.woken: list[Work] = []


async def one_each(
    connection: asyncpg.Connection, *, project_id: UUID, items: Sequence[EventRecord], now: datetime
) -> Reacted:
    deliveries = [delivery(event, now) for event in items]
    announcements = await create_deliveries(connection, project_id=project_id, deliveries=deliveries, now=now)
    return Reacted(announcements, (Work(WorkKind.DELIVERIES, project_id),))


def delivery(event: EventRecord, now: datetime) -> NewDelivery:
    return NewDelivery(
        delivery_id=uuid7(),
        channel="WEBHOOK",
        status="QUEUED",
        dispatch_key="https://example.com:443",
        content="{}",
        retry_schedule=(2, 8),
        created_at=now,
        next_attempt_at=now,
        event_seq=event.seq,
        event_type=event.event_type,
    )


def make_follower(
    database: Database, react: Reaction[EventRecord] = one_each, told: Told | None = None
) -> Follower[EventRecord]:
    heard = told or Told()
    return Follower(
        NAME,
        EVENTS,
        react,
        database=database,
        clock=DatabaseClock(database),
        announce=heard.announced.append,
        wake=heard.woken.append,
    )


async def append(database: Database, project_id: UUID, count: int) -> None:
    async with database.transaction() as connection:
        head = next(h for h in await read_heads(connection, project_ids=[project_id]) if h.lane == Lane.EVENTS).head
        events = [new_event(f"k{head + number}") for number in range(1, count + 1)]
        await append_events(connection, project_id=project_id, batch_token=head + 1, events=events)


async def begin(database: Database, project_id: UUID) -> None:
    async with database.transaction() as connection:
        await ensure_follower(connection, project_id=project_id, follower=NAME, lane=Lane.EVENTS)


async def followed(database: Database, project_id: UUID) -> list[int]:
    """The seqs that took effect, in the order of the deliveries lane."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT d.event_seq FROM delivery_transitions AS t JOIN deliveries AS d USING (project_id, delivery_id)"
            " WHERE t.project_id = $1 ORDER BY t.seq",
            project_id,
        )
    return [row["event_seq"] for row in rows]


async def expire_leases(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("UPDATE log_followers SET lease_until = lease_until - interval '1 hour'")


async def test_each_event_takes_effect_once_from_where_following_began(module_database_url: str) -> None:
    async with open_database(module_database_url) as database:
        project_id = await make_project(database)
        await append(database, project_id, 3)
        await begin(database, project_id)
        await begin(database, project_id)
        await append(database, project_id, followers.PAGE_ITEMS + 50)
        told = Told()
        follower = make_follower(database, told=told)

        await follower.follow(project_id)
        await follower.follow(project_id)

        assert await followed(database, project_id) == list(range(4, followers.PAGE_ITEMS + 54))
        lanes = {announcement.lane for announcement in told.announced}
        assert Lane.DELIVERIES in lanes
        assert told.woken[0] == Work(WorkKind.DELIVERIES, project_id)
        async with database.connection() as connection:
            projects = await read_followed_projects(connection, follower=NAME, lane=Lane.EVENTS)
        assert [(each.project_id, each.is_behind) for each in projects] == [(project_id, False)]


async def test_a_project_that_nobody_follows_is_left_alone(module_database_url: str) -> None:
    async with open_database(module_database_url) as database:
        project_id = await make_project(database)
        await append(database, project_id, 1)

        await make_follower(database).follow(project_id)

        assert await followed(database, project_id) == []


@pytest.mark.parametrize("crash_at", range(1, 12))
async def test_a_crash_anywhere_neither_loses_nor_repeats(module_database_url: str, crash_at: int) -> None:
    """The worker is thrown away at its n-th statement, for every n; another one goes on."""
    async with open_database(module_database_url) as database:
        project_id = await make_project(database)
        await begin(database, project_id)
        await append(database, project_id, 5)
        await _crash(make_follower(database), project_id, crash_at)
        await expire_leases(database)

        await make_follower(database).follow(project_id)

        assert await followed(database, project_id) == [1, 2, 3, 4, 5]


async def _crash(follower: Follower[EventRecord], project_id: UUID, at: int) -> None:
    """Run to the n-th wait of the whole coroutine, then cancel, which rolls back what is open as a lost worker does."""
    task = asyncio.create_task(follower.follow(project_id))
    for _ in range(at * 3):
        await asyncio.sleep(0.0005)
        if task.done():
            break
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_worker_that_was_stopped_and_goes_on_later_writes_nothing(module_database_url: str) -> None:
    async with open_database(module_database_url) as database:
        project_id = await make_project(database)
        await begin(database, project_id)
        await append(database, project_id, 2)
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def wait_before_reading(project: UUID, position: int) -> object:
            page = await read_page(project, position)
            reached.set()
            await go_on.wait()
            return page

        stopped = make_follower(database)
        read_page = stopped._read_page
        stopped._read_page = wait_before_reading  # type: ignore[assignment, method-assign]
        task = asyncio.create_task(stopped.follow(project_id))
        await reached.wait()
        await expire_leases(database)
        await make_follower(database).follow(project_id)
        go_on.set()
        await task

        assert await followed(database, project_id) == [1, 2]


async def test_two_workers_at_once_follow_once(module_database_url: str) -> None:
    async with open_database(module_database_url) as database:
        project_id = await make_project(database)
        await begin(database, project_id)
        await append(database, project_id, 500)

        await asyncio.gather(*(make_follower(database).follow(project_id) for _ in range(4)))
        await make_follower(database).follow(project_id)

        assert await followed(database, project_id) == list(range(1, 501))


async def test_a_reaction_that_fails_moves_nothing(module_database_url: str) -> None:
    async def fail(
        connection: asyncpg.Connection, *, project_id: UUID, items: Sequence[EventRecord], now: datetime
    ) -> Reacted:
        raise KeyError("a fault of ours")

    async with open_database(module_database_url) as database:
        project_id = await make_project(database)
        await begin(database, project_id)
        await append(database, project_id, 2)
        with pytest.raises(KeyError):
            await make_follower(database, fail).follow(project_id)
        await expire_leases(database)

        await make_follower(database).follow(project_id)

        assert await followed(database, project_id) == [1, 2]


async def test_a_lease_waits_for_no_disk_and_what_follows_from_events_does(module_database_url: str) -> None:
    async def settings_of(statement: str, *arguments: object) -> list[str]:
        """What the commit of a statement is subject to, and that of the next one."""
        async with open_database(module_database_url, max_size=1) as database:
            async with database.transaction() as connection:
                await connection.fetchval(statement, *arguments)
                within = await connection.fetchval("SHOW synchronous_commit")
            async with database.connection() as connection:
                return [within, await connection.fetchval("SHOW synchronous_commit")]

    async with open_database(module_database_url) as database:
        project_id = await make_project(database)
        await begin(database, project_id)
    token, sql = uuid7(), statements("followers")
    named = (project_id, NAME, Lane.EVENTS, token)

    assert await settings_of(sql["lease_follower"], *named, LEASE) == ["off", "on"]
    assert await settings_of(sql["advance_follower"], *named, 0, 0) == ["on", "on"]
    assert await settings_of(sql["release_follower"], *named) == ["off", "on"]


async def test_only_a_page_from_which_nothing_follows_waits_for_no_disk(
    module_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[str] = []

    async def nothing(
        connection: asyncpg.Connection, *, project_id: UUID, items: Sequence[EventRecord], now: datetime
    ) -> Reacted:
        return NOTHING

    async def spare(connection: asyncpg.Connection) -> None:
        await spare_disk(connection)
        waits.append(await connection.fetchval("SHOW synchronous_commit"))

    monkeypatch.setattr(followers, "spare_disk", spare)
    async with open_database(module_database_url, max_size=1) as database:
        project_id = await make_project(database)
        await begin(database, project_id)
        await append(database, project_id, 1)
        await make_follower(database, nothing).follow(project_id)
        assert waits == ["off"]
        async with database.connection() as connection:
            assert await connection.fetchval("SHOW synchronous_commit") == "on"
        await append(database, project_id, 1)
        await make_follower(database).follow(project_id)
        assert waits == ["off"]


async def test_retention_keeps_what_a_follower_has_not_read(module_database_url: str) -> None:
    async with open_database(module_database_url) as database:
        project_id = await make_project(database)
        await append(database, project_id, 2)
        await begin(database, project_id)
        await append(database, project_id, 2)

        assert await trim_project(database, project_id=project_id, older_than=timedelta()) == 2

        await make_follower(database).follow(project_id)
        assert await followed(database, project_id) == [3, 4]
        assert await trim_project(database, project_id=project_id, older_than=timedelta()) == 2
