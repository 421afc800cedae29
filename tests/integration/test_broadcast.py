"""The broadcaster against a real Valkey that is really stopped, paused and started again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from uuid import uuid4

import pytest
import redis.asyncio

from db.records import Lane
from engine.announcements import Announcement, channel_of, decode
from engine.live.broadcast import QUEUE_MESSAGES, Broadcast, Gap, Mailbox, Message
from launch.embedded import EmbeddedValkey
from tests.integration.stream_support import until

CHANNEL = "news"


@asynccontextmanager
async def open_broadcast(url: str) -> AsyncIterator[Broadcast]:
    broadcast = Broadcast(url)
    await broadcast.connect()
    try:
        yield broadcast
    finally:
        await broadcast.disconnect()


async def next_message(mailbox: Mailbox, *, within: float = 5.0) -> Message:
    async with asyncio.timeout(within):
        return await mailbox.get()


async def next_gap(mailbox: Mailbox, *, within: float = 5.0) -> None:
    async with asyncio.timeout(within):
        while not isinstance(await mailbox.get(), Gap):
            pass


async def subscribed_channels(url: str) -> set[str]:
    client = redis.asyncio.Redis.from_url(url)
    try:
        return {name.decode() for name in await client.pubsub_channels("*")} - {"sendora:heartbeat"}
    finally:
        await client.aclose()


async def test_bytes_arrive_as_they_are_over_a_unix_socket(redis_url: str) -> None:
    assert redis_url.startswith("unix://")
    async with open_broadcast(redis_url) as broadcast, broadcast.subscribe(CHANNEL) as mailbox:
        await broadcast.publish(CHANNEL, b"\xff\xfe\x00 not UTF-8")
        await broadcast.publish(CHANNEL, "grüß".encode())

        assert (await next_message(mailbox)).message == b"\xff\xfe\x00 not UTF-8"
        assert (await next_message(mailbox)).message == "grüß".encode()


async def test_a_password_and_a_database_in_a_tcp_url_are_used(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path / "redis", tcp=True)
    server.start()
    try:
        admin = redis.asyncio.Redis.from_url(server.url)
        await admin.config_set("requirepass", "se cret/1")
        await admin.aclose()
        address = server.url.rpartition("@")[2].removeprefix("redis://").rstrip("/")
        async with (
            open_broadcast(f"redis://:se%20cret%2F1@{address.partition('/')[0]}/3") as broadcast,
            broadcast.subscribe(CHANNEL) as mailbox,
        ):
            assert broadcast.connected
            await broadcast.publish(CHANNEL, b"in")
            assert (await next_message(mailbox)).message == b"in"
    finally:
        server.stop()


async def test_a_wrong_password_is_not_connected_and_not_an_error(own_redis: EmbeddedValkey) -> None:
    admin = redis.asyncio.Redis.from_url(own_redis.url)
    await admin.config_set("requirepass", "right")
    await admin.aclose()
    async with open_broadcast(own_redis.url.replace("unix://", "unix://:wrong@")) as broadcast:
        assert not broadcast.connected


@pytest.mark.parametrize("url", ["http://localhost", "memory://", "redis://localhost:port"])
def test_a_url_that_is_no_redis_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"^((?!localhost).)*$"):
        Broadcast(url)


async def test_subscribers_hear_again_after_redis_restarts_and_are_told_of_the_gap(own_redis: EmbeddedValkey) -> None:
    async with open_broadcast(own_redis.url) as broadcast, broadcast.subscribe(CHANNEL) as mailbox:
        own_redis.stop()
        await until(lambda: not broadcast.connected)
        await asyncio.sleep(1)
        own_redis.start()
        back = monotonic()

        assert isinstance(await next_message(mailbox), Gap)

        assert monotonic() - back < 1.0
        assert broadcast.connected
        await broadcast.publish(CHANNEL, b"after")
        assert (await next_message(mailbox)).message == b"after"


async def test_who_subscribes_while_redis_is_away_gets_in_at_once_and_a_gap_later(own_redis: EmbeddedValkey) -> None:
    async with open_broadcast(own_redis.url) as broadcast:
        own_redis.stop()
        await until(lambda: not broadcast.connected)

        async with asyncio.timeout(0.5), broadcast.subscribe(CHANNEL) as mailbox:
            pass
        async with broadcast.subscribe(CHANNEL) as mailbox:
            own_redis.start()
            assert isinstance(await next_message(mailbox), Gap)
            await broadcast.publish(CHANNEL, b"after")
            assert (await next_message(mailbox)).message == b"after"


async def test_a_gateway_starts_without_redis_and_finds_it_later(own_redis: EmbeddedValkey) -> None:
    own_redis.stop()
    async with open_broadcast(own_redis.url) as broadcast, broadcast.subscribe(CHANNEL) as mailbox:
        assert not broadcast.connected
        own_redis.start()
        assert isinstance(await next_message(mailbox), Gap)
        assert broadcast.connected


async def test_a_paused_redis_is_noticed_and_the_way_back_is_a_gap(own_redis: EmbeddedValkey) -> None:
    async with open_broadcast(own_redis.url) as broadcast, broadcast.subscribe(CHANNEL) as mailbox:
        health: list[bool] = []
        broadcast.on_health(health.append)
        assert own_redis.process is not None
        own_redis.process.send_signal(signal.SIGSTOP)
        paused = monotonic()
        try:
            await until(lambda: not broadcast.connected)
            assert monotonic() - paused < 1.9
        finally:
            own_redis.process.send_signal(signal.SIGCONT)

        await next_gap(mailbox)
        assert health == [False, True]


async def test_a_connection_that_is_cut_comes_back_with_a_gap(own_redis: EmbeddedValkey) -> None:
    async with open_broadcast(own_redis.url) as broadcast, broadcast.subscribe(CHANNEL) as mailbox:
        admin = redis.asyncio.Redis.from_url(own_redis.url)
        await admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await admin.aclose()

        assert isinstance(await next_message(mailbox), Gap)


async def test_ten_first_subscribers_at_once_all_hear(redis_url: str) -> None:
    async with open_broadcast(redis_url) as broadcast:
        ready, heard = asyncio.Barrier(11), []

        async def listen(number: int) -> None:
            async with broadcast.subscribe(CHANNEL) as mailbox:
                await ready.wait()
                heard.append((number, (await next_message(mailbox)).message))

        listeners = [asyncio.create_task(listen(number)) for number in range(10)]
        await ready.wait()
        await broadcast.publish(CHANNEL, b"to all")
        await asyncio.gather(*listeners)

        assert sorted(heard) == [(number, b"to all") for number in range(10)]
        await until_unsubscribed(redis_url)


@pytest.mark.parametrize("turns", range(6))
async def test_a_first_subscriber_cancelled_anywhere_takes_nothing_from_the_others(redis_url: str, turns: int) -> None:
    async with open_broadcast(redis_url) as broadcast:

        async def listen() -> Message:
            async with broadcast.subscribe(CHANNEL) as mailbox:
                return await next_message(mailbox)

        first, second = asyncio.create_task(listen()), asyncio.create_task(listen())
        for _ in range(turns):
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await until(lambda: broadcast.connected)
        while not second.done():
            await broadcast.publish(CHANNEL, b"still here")
            await asyncio.sleep(0.01)

        assert (await second).message == b"still here"
        await until_unsubscribed(redis_url)


async def test_a_lone_subscriber_cancelled_anywhere_leaves_no_subscription(redis_url: str) -> None:
    async with open_broadcast(redis_url) as broadcast:

        async def listen() -> None:
            async with broadcast.subscribe(CHANNEL) as mailbox:
                await mailbox.get()

        for turns in range(8):
            task = asyncio.create_task(listen())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        await until_unsubscribed(redis_url)
        async with broadcast.subscribe(CHANNEL) as mailbox:
            await broadcast.publish(CHANNEL, b"works")
            assert (await next_message(mailbox)).message == b"works"


async def test_a_thousand_rounds_of_subscribing_leave_nothing_behind(redis_url: str) -> None:
    async with open_broadcast(redis_url) as broadcast:
        for number in range(1_000):
            message = str(number).encode()
            async with broadcast.subscribe(CHANNEL) as mailbox:
                await broadcast.publish(CHANNEL, message)
                assert (await next_message(mailbox)).message == message

        await until_unsubscribed(redis_url)


async def test_a_slow_reader_holds_a_bounded_queue_and_finds_a_gap(redis_url: str) -> None:
    async with open_broadcast(redis_url) as broadcast, broadcast.subscribe(CHANNEL) as slow:
        for _ in range(20):
            await broadcast._redis.publisher.publish([(CHANNEL, b"x" * 100)] * 1_000)
        async with broadcast.subscribe("end") as end:
            await broadcast.publish("end", b"")
            await next_message(end)

        assert len(slow) <= QUEUE_MESSAGES
        assert isinstance(await next_message(slow), Gap)


async def test_a_reader_of_large_messages_is_bounded_by_bytes() -> None:
    mailbox = Mailbox(max_messages=1_000, max_bytes=1_000, channel=CHANNEL)
    for _ in range(4):
        mailbox.put(Message(CHANNEL, b"x" * 300))
    assert len(mailbox) == 1
    assert isinstance(await mailbox.get(), Gap)


async def test_announcing_never_blocks_and_is_heard(redis_url: str) -> None:
    project_id = uuid4()
    announcement = Announcement(project_id, Lane.EVENTS, 1, 8, 7)
    async with open_broadcast(redis_url) as broadcast, broadcast.subscribe(channel_of(project_id)) as mailbox:
        broadcast.announce(announcement)

        assert decode((await next_message(mailbox)).message) == announcement


async def test_announcing_without_redis_drops_and_works_again_afterwards(own_redis: EmbeddedValkey) -> None:
    project_id = uuid4()
    async with open_broadcast(own_redis.url) as broadcast, broadcast.subscribe(channel_of(project_id)) as mailbox:
        own_redis.stop()
        began = monotonic()
        for seq in range(1, 2_001):
            broadcast.announce(Announcement(project_id, Lane.EVENTS, 1, seq + 1, seq))
        assert monotonic() - began < 0.5
        await until(lambda: broadcast.dropped_announcements > 0)
        own_redis.start()
        await next_gap(mailbox)

        async def announce_until_heard() -> None:
            while True:
                broadcast.announce(Announcement(project_id, Lane.EVENTS, 1, 5_001, 5_000))
                await asyncio.sleep(0.05)

        announcing = asyncio.create_task(announce_until_heard())
        while decode((await next_message(mailbox)).message).last != 5_000:
            pass
        announcing.cancel()


async def until_unsubscribed(url: str) -> None:
    async with asyncio.timeout(5):
        while CHANNEL in await subscribed_channels(url):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
