"""The relay: what was committed but never announced reaches the streams."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest
from redis.exceptions import RedisError

from db.records import Lane
from engine.announcements import Announcement, channel_of, decode
from engine.live.broadcast import Broadcast, Mailbox
from engine.workers.relay import Relay
from launch.embedded import EmbeddedValkey
from tests.integration.log_support import make_project
from tests.integration.stream_support import RecordingSink, open_gateway, until


async def hear(mailbox: Mailbox) -> Announcement:
    async with asyncio.timeout(5):
        return decode((await mailbox.get()).message)


async def test_a_head_that_moved_is_announced_once(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        relay = Relay(gateway.database, gateway.broadcast)
        await relay.step()
        async with gateway.broadcast.subscribe(channel_of(project_id)) as mailbox:
            await gateway.append_many(project_id, 3, announce=False)

            assert await relay.step() == 1
            assert await relay.step() == 0

            assert await hear(mailbox) == Announcement(project_id, Lane.EVENTS, 1, 4, 3)
            await gateway.append_many(project_id, 1, announce=False)
            assert await relay.step() == 1
            assert await hear(mailbox) == Announcement(project_id, Lane.EVENTS, 1, 5, 4)


async def test_a_commit_whose_gateway_died_reaches_the_stream_within_two_seconds(
    database_url: str, redis_url: str
) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        sink = RecordingSink()
        await gateway.subscribe(project_id, sink)
        over = asyncio.Event()
        running = asyncio.create_task(Relay(gateway.database, gateway.broadcast).run(over))
        await asyncio.sleep(0.3)
        began = monotonic()

        await gateway.append_many(project_id, 2, announce=False)

        await sink.until_count(2)
        assert monotonic() - began < 2.0
        assert sink.seqs == [1, 2]
        over.set()
        async with asyncio.timeout(1):
            await running


async def test_a_commit_that_took_long_after_its_clock_was_read_is_announced_all_the_same(
    database_url: str, redis_url: str
) -> None:
    async with open_gateway(database_url, redis_url) as gateway, open_gateway(database_url, redis_url) as other:
        project_id = await make_project(gateway.database)
        relay = Relay(gateway.database, gateway.broadcast)
        async with other.database.transaction() as connection:
            await connection.execute(
                "UPDATE heads SET head = 1, changed_at = clock_timestamp() WHERE project_id = $1 AND lane = 1",
                project_id,
            )
            await asyncio.sleep(0.2)
            await relay.step()

        assert await relay.step() == 1


async def test_a_head_that_redis_did_not_take_is_announced_later(
    database_url: str, redis_url: str, own_redis: EmbeddedValkey
) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        project_id = await make_project(gateway.database)
        broadcast = Broadcast(own_redis.url)
        await broadcast.connect()
        relay = Relay(gateway.database, broadcast)
        await relay.step()
        await gateway.append_many(project_id, 1, announce=False)
        own_redis.stop()

        with pytest.raises((RedisError, OSError)):
            await relay.step()

        own_redis.start()
        assert await relay.step() == 1
        await broadcast.disconnect()


async def test_a_relay_outlives_the_absence_of_redis(
    database_url: str, redis_url: str, own_redis: EmbeddedValkey
) -> None:
    async with open_gateway(database_url, own_redis.url) as gateway:
        project_id = await make_project(gateway.database)
        over = asyncio.Event()
        running = asyncio.create_task(Relay(gateway.database, gateway.broadcast, interval=0.05).run(over))
        own_redis.stop()
        await asyncio.sleep(0.3)
        own_redis.start()
        await until(lambda: gateway.broadcast.connected)
        async with gateway.broadcast.subscribe(channel_of(project_id)) as mailbox:
            await gateway.append_many(project_id, 1, announce=False)

            # The head before may be told again, when Redis is back and the test listens already.
            heard = await hear(mailbox)
            while heard.last < 1:
                heard = await hear(mailbox)

            assert heard.last == 1

        over.set()
        await running
