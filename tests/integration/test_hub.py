"""The hub when Redis or PostgreSQL is away, and what it costs when nothing happens."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any
from uuid import uuid4

import asyncpg
import redis.asyncio

from db.database import Database
from db.heads import advance_epoch
from db.records import Lane
from engine.announcements import Announcement, channel_of
from engine.errors import CursorExpired
from engine.lanes import EVENTS
from launch.embedded import EmbeddedValkey
from tests.integration.log_support import make_project, new_event
from tests.integration.stream_support import RecordingSink, open_gateway, until


class CountingDatabase(Database):
    """Counts the connections that are taken from it: one per statement of the hub."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.taken = 0

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        self.taken += 1
        async with super().connection() as connection:
            yield connection


async def test_while_redis_is_away_streams_go_on_at_most_two_seconds_late(
    database_url: str, own_redis: EmbeddedValkey
) -> None:
    async with open_gateway(database_url, own_redis.url) as gateway:
        project_id = await make_project(gateway.database)
        sink = RecordingSink()
        await gateway.subscribe(project_id, sink)
        own_redis.stop()

        for seq in range(1, 4):
            began = monotonic()
            await gateway.append_many(project_id, 1)
            await sink.until_count(seq)
            assert monotonic() - began < 2.0

        own_redis.start()
        await until(lambda: gateway.broadcast.connected)
        await gateway.append_many(project_id, 2)
        await sink.until_count(5)
        assert sink.seqs == [1, 2, 3, 4, 5]


async def test_a_paused_redis_delays_streams_by_less_than_two_seconds(
    database_url: str, own_redis: EmbeddedValkey
) -> None:
    async with open_gateway(database_url, own_redis.url) as gateway:
        project_id = await make_project(gateway.database)
        sink = RecordingSink()
        await gateway.subscribe(project_id, sink)
        assert own_redis.process is not None
        own_redis.process.send_signal(signal.SIGSTOP)
        try:
            began = monotonic()
            await gateway.append_many(project_id, 1)
            await sink.until_count(1)
            assert monotonic() - began < 2.0
        finally:
            own_redis.process.send_signal(signal.SIGCONT)


async def test_a_stream_can_be_opened_while_redis_is_away(database_url: str, own_redis: EmbeddedValkey) -> None:
    own_redis.stop()
    async with open_gateway(database_url, own_redis.url) as gateway:
        project_id = await make_project(gateway.database)
        sink = RecordingSink()
        await gateway.subscribe(project_id, sink)

        await gateway.append_many(project_id, 2)

        await sink.until_count(2)
        assert sink.seqs == [1, 2]


async def test_what_was_never_announced_arrives_when_the_connection_to_redis_is_made_again(
    database_url: str, own_redis: EmbeddedValkey
) -> None:
    async with open_gateway(database_url, own_redis.url) as gateway:
        project_id = await make_project(gateway.database)
        sink = RecordingSink()
        await gateway.subscribe(project_id, sink)
        await gateway.append_many(project_id, 1, announce=False)
        await asyncio.sleep(0.3)
        assert sink.seqs == []

        admin = redis.asyncio.Redis.from_url(own_redis.url)
        await admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await admin.aclose()

        await sink.until_count(1, within=3)
        assert sink.seqs == [1]


async def test_all_watched_heads_are_polled_in_one_statement(database_url: str, own_redis: EmbeddedValkey) -> None:
    database = CountingDatabase(database_url, max_size=6)
    async with open_gateway(database_url, own_redis.url, database=database) as gateway:
        for _ in range(20):
            await gateway.subscribe(await make_project(database), RecordingSink())
        own_redis.stop()
        await until(lambda: not gateway.broadcast.connected)
        await asyncio.sleep(0.1)
        before = database.taken

        await asyncio.sleep(1.6)

        assert 2 <= database.taken - before <= 4


async def test_a_terminated_backend_delays_but_loses_nothing(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        sink = RecordingSink()
        await gateway.subscribe(project_id, sink)
        await gateway.append_many(project_id, 300, announce=False)
        async with open_gateway(database_url, redis_url) as other:
            admin = await asyncpg.connect(database_url)
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await admin.close()
            other.broadcast.announce(Announcement(project_id, Lane.EVENTS, 1, 301, 300))

            await sink.until_count(300)
        assert sink.seqs == list(range(1, 301))


async def test_announcements_of_two_gateways_in_the_wrong_order_cost_no_statement(
    database_url: str, redis_url: str
) -> None:
    database = CountingDatabase(database_url, max_size=6)
    async with (
        open_gateway(database_url, redis_url, database=database) as gateway,
        open_gateway(database_url, redis_url) as writer,
    ):
        project_id = await make_project(writer.database)
        sink = RecordingSink()
        await gateway.subscribe(project_id, sink)
        before = database.taken
        first, second = [
            await writer.append(project_id, *events, announce=False)
            for events in ([new_event("a")], [new_event("b"), new_event("c")])
        ]

        writer.broadcast.announce(Announcement(project_id, Lane.EVENTS, 1, 2, 3, tuple(second)))
        writer.broadcast.announce(Announcement(project_id, Lane.EVENTS, 1, 1, 1, tuple(first)))

        await sink.until_count(3)
        await asyncio.sleep(0.1)
        assert sink.seqs == [1, 2, 3]
        assert database.taken == before


async def test_many_announcements_ahead_of_a_gap_cost_one_reading(database_url: str, redis_url: str) -> None:
    database = CountingDatabase(database_url, max_size=6)
    async with (
        open_gateway(database_url, redis_url, database=database) as gateway,
        open_gateway(database_url, redis_url) as writer,
    ):
        project_id = await make_project(writer.database)
        sink = RecordingSink()
        await gateway.subscribe(project_id, sink)
        before = database.taken
        await writer.append_many(project_id, 1, announce=False)
        for _ in range(20):
            await writer.append_many(project_id, 1)

        await sink.until_count(21)

        assert sink.seqs == list(range(1, 22))
        assert database.taken - before <= 2


async def test_garbage_on_a_channel_is_ignored(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        sink = RecordingSink()
        await gateway.subscribe(project_id, sink)

        for garbage in (b"", b"\xff\x00", b"[]", b'{"a":1}', b"[" * 5_000):
            await gateway.broadcast.publish(channel_of(project_id), garbage)
        # Well formed, and about another project: somebody mixed up the channel.
        await gateway.broadcast.publish_announcements([Announcement(uuid4(), Lane.EVENTS, 1, 1, 1)])
        await gateway.append_many(project_id, 1)

        await sink.until_count(1)
        assert sink.seqs == [1]


async def test_another_epoch_is_seen_while_redis_is_away(database_url: str, own_redis: EmbeddedValkey) -> None:
    async with open_gateway(database_url, own_redis.url) as gateway:
        project_id = await make_project(gateway.database)
        sink = RecordingSink()
        await gateway.subscribe(project_id, sink)
        own_redis.stop()
        async with gateway.database.connection() as connection:
            await advance_epoch(connection, project_id=project_id)

        await sink.until(lambda sink: sink.error is not None)

        assert isinstance(sink.error, CursorExpired)


async def test_a_thousand_projects_watched_at_once_are_read_together(database_url: str, redis_url: str) -> None:
    database = CountingDatabase(database_url, max_size=6)
    async with open_gateway(database_url, redis_url, database=database) as gateway:
        async with database.transaction() as connection:
            organization_id = uuid4()
            await connection.execute(
                "INSERT INTO organizations (organization_id, name, region) VALUES ($1, 'Acme', 'us')", organization_id
            )
            projects = [uuid4() for _ in range(1_000)]
            await connection.execute(
                "INSERT INTO projects (project_id, organization_id, region, name, salt)"
                " SELECT id, $2, 'us', 'p', $3 FROM unnest($1::uuid[]) AS id",
                projects,
                organization_id,
                bytes(32),
            )
            await connection.execute(
                "INSERT INTO heads (project_id, lane) SELECT id, lane FROM unnest($1::uuid[]) AS id"
                " CROSS JOIN generate_series(1, 4) AS lane ON CONFLICT DO NOTHING",
                projects,
            )
        before = database.taken

        watches = await asyncio.gather(*(gateway.hub.watch(project_id, EVENTS) for project_id in projects))

        assert database.taken - before <= 20
        assert gateway.hub.stats().watched_projects == 1_000
        for watch in watches:
            watch.release()


async def test_stats_tell_what_goes_on(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        sink = RecordingSink(bound=2)
        await gateway.subscribe(project_id, sink)
        await gateway.append_many(project_id, 5)
        await sink.until_count(2)

        stats = gateway.hub.stats()

        assert (stats.watched_projects, stats.streams, stats.cohorts) == (1, 1, 1)
        assert (stats.catching_up, stats.delivered, stats.lag) == (1, 2, 0)
        assert stats.heads == {project_id: 5}
