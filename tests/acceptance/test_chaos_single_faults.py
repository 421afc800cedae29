"""One fault at a time, over the wire: what a user would see of it, and how soon it is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from itertools import count
from typing import Any

import aiohttp
import pytest

from tests.acceptance.chaos.clients import (
    STREAM,
    WHOLE_STREAM,
    Ended,
    Item,
    Position,
    Stream,
    open_event_source,
    open_event_stream,
    open_socket_stream,
)
from tests.acceptance.chaos.deployment import Deployment, Gateway
from tests.acceptance.chaos.events import LARGE
from tests.acceptance.chaos.revocations import CREATE, REVOKE
from tests.acceptance.chaos.writers import TRACK, TRACK_BATCH
from tests.acceptance.running import eventually

LATE_SECONDS = 2.5
"""Two seconds are promised while Redis is away; the rest is for a machine that does other things too."""
PROMPT_SECONDS = 1.0
"""Far more than it takes while all is well, and less than any timer that would heal it otherwise."""
MAX_GROWTH_BYTES = 64 * 1024 * 1024
"""Rings and queues of a gateway under this much; what was sent to the client that does not read is more."""

_numbers = count(1)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Two gateways; each test leaves them, Redis and PostgreSQL running."""
    deployment = Deployment(tmp_path_factory.mktemp("deployment"))
    try:
        asyncio.run(deployment.open())
        yield deployment
    finally:
        deployment.close()


@pytest.fixture
async def client(deployment: Deployment) -> AsyncIterator[Client]:
    """All is well, and somebody writes."""
    await deployment_is_well(deployment)
    async with aiohttp.ClientSession(headers={"x-api-key": deployment.keys.secret_key}) as session:
        yield Client(session, deployment)


class Client:
    """Writes, and remembers when each event was acknowledged."""

    def __init__(self, session: aiohttp.ClientSession, deployment: Deployment) -> None:
        self._session = session
        self.deployment = deployment
        self.gateways: Sequence[Gateway] = deployment.gateways
        self.key = deployment.keys.secret_key
        self.acknowledged_at: dict[str, float] = {}

    async def ask(self, document: str, variables: dict[str, Any], *, gateway: int = 0) -> dict[str, Any]:
        """The data of one operation."""
        body = {"query": document, "variables": variables}
        async with asyncio.timeout(10), self._session.post(self.gateways[gateway].url, json=body) as response:
            answer = await response.json()
        assert "errors" not in answer, answer
        data: dict[str, Any] = answer["data"]
        return data

    async def track(self, *, gateway: int = 0, user: str = "ann") -> str:
        """One event; its id."""
        event = {"id": f"single-{next(_numbers)}", "eventType": "order.placed", "userId": user}
        payload = (await self.ask(TRACK, {"event": event}, gateway=gateway))["track"]
        assert payload["userErrors"] == []
        assert payload["duplicate"] is False
        self.acknowledged_at[event["id"]] = time.monotonic()
        return event["id"]

    async def track_large(self, number: int) -> list[str]:
        """Large events in one batch; their ids."""
        padding = {"padding": "x" * LARGE}
        events: list[dict[str, Any]] = [
            {"id": f"single-{next(_numbers)}", "eventType": "page.viewed", "userId": "ann", "context": padding}
            for _ in range(number)
        ]
        payload = (await self.ask(TRACK_BATCH, {"events": events}))["trackBatch"]
        assert payload["accepted"] == number, payload
        now = time.monotonic()
        self.acknowledged_at |= {event["id"]: now for event in events}
        return [event["id"] for event in events]

    def watch(self, gateway: int, *, after: str | None = None, slow: bool = False) -> Any:
        """A stream of everything over a WebSocket."""
        port, document = self.gateways[gateway].port, WHOLE_STREAM if slow else STREAM
        return open_socket_stream(port, self.key, event_filter=None, after=after, document=document, slow=slow)


class Listener:
    """Reads a stream in the background: what came, and when."""

    def __init__(self, stream: Stream) -> None:
        self.items: list[Item] = []
        self.came_at: dict[str, float] = {}
        self.cursor = ""
        self.end: Ended | None = None
        self.ended_at = 0.0
        self._began = asyncio.Event()
        self._task = asyncio.create_task(self._read(stream))

    @property
    def keys(self) -> list[str]:
        return [item.key for item in self.items]

    async def begun(self) -> Listener:
        """Returns once the gateway has said where the stream begins."""
        async with asyncio.timeout(10):
            await self._began.wait()
        return self

    async def until(self, key: str, *, seconds: float = 10) -> None:
        """Returns once this event has come."""
        await eventually(lambda: key in self.came_at or self.end is not None, seconds=seconds, what=key)
        assert key in self.came_at, self.end

    async def until_ended(self) -> None:
        """Returns once the stream is over."""
        await eventually(lambda: self.end is not None, seconds=5, what="the end of the stream")

    def latest(self, acknowledged_at: dict[str, float]) -> float:
        """By how much the event that came latest came after it was acknowledged."""
        return max(came - acknowledged_at[key] for key, came in self.came_at.items() if key in acknowledged_at)

    async def stop(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _read(self, stream: Stream) -> None:
        try:
            async for arrival in stream.arrivals():
                self.cursor = arrival.cursor
                self._began.set()
                if not isinstance(arrival, Position):
                    self.items.append(arrival)
                    self.came_at[arrival.key] = time.monotonic()
        except Ended as end:
            self.end, self.ended_at = end, time.monotonic()
            self._began.set()


async def deployment_is_well(deployment: Deployment) -> None:
    if not deployment.redis.is_ready():
        await deployment.start_redis()
    for gateway in deployment.gateways:
        await gateway.until_listening(ready=True)


async def paced(action: Callable[[], Awaitable[str]], *, times: int, pause: float) -> list[str]:
    """Do something again and again."""
    done = []
    for _ in range(times):
        done.append(await action())
        await asyncio.sleep(pause)
    return done


async def test_a_gateway_that_starts_without_redis_streams_at_most_two_seconds_late_until_it_comes(
    deployment: Deployment, client: Client
) -> None:
    # Given a gateway that was started while Redis was away
    deployment.kill_redis()
    deployment.gateways[0].end()
    await deployment.gateways[0].until_listening()

    async with client.watch(0) as stream:
        listener = await Listener(stream).begun()
        # When events are tracked on either gateway
        without = [
            *await paced(lambda: client.track(gateway=0), times=5, pause=0.2),
            *await paced(lambda: client.track(gateway=1), times=5, pause=0.2),
        ]
        await listener.until(without[-1])
        late = listener.latest(client.acknowledged_at)
        # And Redis comes
        await deployment.start_redis()
        for gateway in deployment.gateways:
            await gateway.until_listening(ready=True)
        client.acknowledged_at.clear()
        with_redis = await paced(lambda: client.track(gateway=1), times=5, pause=0.1)
        await listener.until(with_redis[-1])
        await listener.stop()

    # Then all of them came once and in order, late at first and at once later
    assert listener.keys == without + with_redis
    assert late < LATE_SECONDS
    assert listener.latest(client.acknowledged_at) < PROMPT_SECONDS


async def test_200_streams_hear_everything_across_a_restart_of_redis(deployment: Deployment, client: Client) -> None:
    async with AsyncExitStack() as stack:
        # Given 200 streams on two gateways
        streams = [await stack.enter_async_context(client.watch(number % 2)) for number in range(200)]
        listeners = [await Listener(stream).begun() for stream in streams]
        # When Redis is killed and comes back while events are tracked
        tracked = asyncio.create_task(paced(client.track, times=40, pause=0.08))
        await asyncio.sleep(0.8)
        await deployment.crash_redis(away=1.0)
        keys = await tracked
        for listener in listeners:
            await listener.until(keys[-1])
            await listener.stop()

    # Then each stream is still the same, and has everything once and in order
    assert [listener.keys for listener in listeners] == [keys] * 200
    assert [listener.end for listener in listeners] == [None] * 200
    assert max(listener.latest(client.acknowledged_at) for listener in listeners) < LATE_SECONDS


async def test_a_client_of_a_killed_gateway_goes_on_at_the_other_one(deployment: Deployment, client: Client) -> None:
    async with client.watch(0) as stream:
        listener = await Listener(stream).begun()
        before = await paced(lambda: client.track(gateway=1), times=3, pause=0)
        await listener.until(before[-1])
        # When its gateway is killed, and events are tracked before it is back
        deployment.gateways[0].end()
        missed = await paced(lambda: client.track(gateway=1), times=3, pause=0)
        await listener.until_ended()

    async with client.watch(1, after=listener.cursor) as stream:
        resumed = await Listener(stream).begun()
        live = await paced(lambda: client.track(gateway=1), times=3, pause=0)
        await resumed.until(live[-1])
        await resumed.stop()

    assert listener.end is not None
    assert listener.end.code == "1006"
    assert listener.keys == before
    assert resumed.keys == missed + live


async def test_a_gateway_that_dies_with_what_it_could_not_announce_leaves_nobody_behind(
    deployment: Deployment, client: Client
) -> None:
    async with client.watch(0) as stream:
        listener = await Listener(stream).begun()
        # Given Redis that takes bytes and does nothing with them
        assert deployment.redis.process is not None
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(deployment.pause_redis(0.4))
            await asyncio.sleep(0.05)
            keys = await paced(lambda: client.track(gateway=1), times=5, pause=0)
            # When the gateway that wrote is killed, and its connections to Redis with it
            deployment.gateways[1].end()
            deployment.kill_redis()
        await deployment.start_redis()
        await listener.until(keys[-1], seconds=LATE_SECONDS)
        await listener.stop()

    assert listener.keys == keys


async def test_event_source_resumes_by_its_last_event_id(deployment: Deployment, client: Client) -> None:
    """As a browser does it: the same request again, with the header that it keeps by itself."""
    keys: list[str] = []
    received: list[str] = []
    last_event_id: str | None = None
    for visit in range(4):
        gateway = client.gateways[visit % 2]
        async with open_event_source(
            gateway.port, client.key, event_filter={"userId": "ann"}, after=None, last_event_id=last_event_id
        ) as stream:
            listener = await Listener(stream).begun()
            keys += await paced(client.track, times=3, pause=0)
            await listener.until(keys[-1])
            if visit == 1:
                # A position without an item counts as well: nothing of what it passed is for this client
                await client.track(user="bob")
            stream.cut()
            await listener.stop()
        received += listener.keys
        last_event_id = listener.cursor
        keys += await paced(client.track, times=2, pause=0)
        await client.track(user="bob")

    assert received == keys[:-2]


async def test_who_never_reads_holds_up_nobody_and_can_still_read_everything_later(
    deployment: Deployment, client: Client
) -> None:
    async with AsyncExitStack() as stack:
        # Given 50 who read and two who do not, on one gateway
        silent = await stack.enter_async_context(client.watch(0, slow=True))
        quiet = await stack.enter_async_context(
            open_event_stream(
                client.gateways[0].port, client.key, event_filter=None, after=None, document=WHOLE_STREAM, slow=True
            )
        )
        streams = [await stack.enter_async_context(client.watch(0)) for _ in range(50)]
        listeners = [await Listener(stream).begun() for stream in streams]
        before = client.gateways[0].resident_bytes()
        # When 20 MB are sent to each of them that asked for it
        keys: list[str] = []
        for _ in range(50):
            keys += await client.track_large(20)
            await asyncio.sleep(0.05)
        for listener in listeners:
            await listener.until(keys[-1])
            await listener.stop()
        grown = client.gateways[0].resident_bytes() - before
        # And they read at last
        late = [Listener(silent), Listener(quiet)]
        for listener in late:
            await listener.until(keys[-1], seconds=20)
            await listener.stop()

    # Then nobody waited for them, the gateway kept nothing for them, and they have everything
    assert max(listener.latest(client.acknowledged_at) for listener in listeners) < PROMPT_SECONDS
    assert [listener.keys for listener in listeners] == [keys] * 50
    assert grown < MAX_GROWTH_BYTES
    assert [listener.keys for listener in late] == [keys, keys]


async def test_large_contexts_do_not_grow_what_a_gateway_keeps_for_who_is_a_little_behind(
    deployment: Deployment, client: Client
) -> None:
    async with AsyncExitStack() as stack:
        # Given clients who each ask in other words, so that nothing is shared between them
        port = client.gateways[0].port
        streams = [
            open_socket_stream(
                port,
                client.key,
                event_filter=None,
                after=None,
                document=WHOLE_STREAM.replace("Watch", f"Watch{number}"),
            )
            for number in range(16)
        ]
        listeners = [await Listener(await stack.enter_async_context(stream)).begun() for stream in streams]
        before = client.gateways[0].resident_bytes()
        # When 12 MB of events come, nearly all of it in their context
        keys: list[str] = []
        for _ in range(30):
            keys += await client.track_large(20)
        for listener in listeners:
            await listener.until(keys[-1], seconds=20)
            await listener.stop()
        grown = client.gateways[0].resident_bytes() - before

    assert [listener.keys for listener in listeners] == [keys] * 16
    assert grown < MAX_GROWTH_BYTES


@pytest.mark.parametrize("redis_is_away", [False, True])
async def test_a_revoked_key_ends_its_streams_on_every_gateway_and_no_others(
    deployment: Deployment, client: Client, redis_is_away: bool
) -> None:
    made = (await client.ask(CREATE, {}))["createApiKey"]
    async with AsyncExitStack() as stack:
        doomed, others = [], []
        for number, gateway in enumerate(client.gateways):
            for open_stream in (open_socket_stream, open_event_stream):
                stream = open_stream(gateway.port, made["token"], event_filter=None, after=None)
                doomed.append(await Listener(await stack.enter_async_context(stream)).begun())
            others.append(await Listener(await stack.enter_async_context(client.watch(number))).begun())
        if redis_is_away:
            deployment.kill_redis()
        # When the key is revoked on the first gateway
        await client.ask(REVOKE, {"id": made["apiKey"]["id"]})
        revoked_at = time.monotonic()
        for listener in doomed:
            await listener.until_ended()
        # Then its streams have ended, everywhere and in time, and it opens none any more
        assert [str(listener.end.code) for listener in doomed if listener.end] == ["4403", "UNAUTHENTICATED"] * 2
        assert max(listener.ended_at - revoked_at for listener in doomed) < 1 + PROMPT_SECONDS / 2
        for gateway in client.gateways:
            with pytest.raises(Ended, match="4403"):
                async with open_socket_stream(gateway.port, made["token"], event_filter=None, after=None):
                    pass
        # And the others go on
        key = await client.track(gateway=1)
        for listener in others:
            await listener.until(key)
            await listener.stop()
        assert [listener.keys for listener in others] == [[key]] * 2


async def test_a_client_that_goes_while_its_key_is_looked_up_leaves_no_error_behind(
    deployment: Deployment, client: Client
) -> None:
    # Given a key that no gateway knows yet, and a database that takes its time
    token = (await client.ask(CREATE, {}))["createApiKey"]["token"]
    gateway = client.gateways[0]
    errors = len(gateway.logged_errors())
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(deployment.pause_postgres(0.5))
        await asyncio.sleep(0.1)
        # When clients ask for a stream and go before they are answered
        for open_stream in (open_socket_stream, open_event_stream) * 3:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05), open_stream(gateway.port, token, event_filter=None, after=None):
                    pytest.fail("answered without the database")
    # Then others are served, and nothing is logged as an error
    async with client.watch(0) as stream:
        listener = await Listener(stream).begun()
        await listener.until(await client.track())
        await listener.stop()
    assert gateway.logged_errors()[errors:] == []
