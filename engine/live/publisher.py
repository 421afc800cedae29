"""The way out to Redis: announcements, pipelined over connections of their own.

Guarantees: `announce` never blocks, never raises and holds at most `QUEUE_BYTES`. Promises no delivery: what finds the
queue full or Redis away is dropped, and the relay (engine.workers.relay) tells the hubs a second later.
Stops when `stop` is awaited; what is still queued is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from engine.announcements import Announcement, channel_of, encode
from engine.backoff import Backoff
from engine.tasks import end_tasks

QUEUE_BYTES = 8 * 1024 * 1024
"""About a second of a very busy gateway: older news is better read from the log."""
PIPELINE_MESSAGES = 128
"""Four times cheaper than one by one; more adds latency and saves nothing."""
MAX_CONNECTIONS = 4
TIMEOUT_SECONDS = 1.0
"""For a connection, a free slot and an answer. A Redis slower than this is away."""

_logger = logging.getLogger(__name__)


class Publisher:
    """Publishes under the URL that redis-py reads. Belongs to one event loop."""

    def __init__(self, url: str) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=TIMEOUT_SECONDS,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            # Once: a connection that a restart has cut is made again. Published twice is harmless.
            retry=Retry(NoBackoff(), 1),
        )
        self._redis: Redis = Redis.from_pool(pool)
        self._queue: deque[tuple[str, bytes]] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0

    def start(self) -> None:
        """Begin publishing what is announced."""
        self._task = asyncio.create_task(self._run(), name="redis-publisher")

    async def stop(self) -> None:
        """End at once and close the connections."""
        await end_tasks([self._task])
        self._task = None
        await self._redis.aclose()

    def announce(self, announcement: Announcement) -> None:
        """Queue an announcement, or drop it when the queue is full."""
        self.publish_soon(channel_of(announcement.project_id), encode(announcement))

    def publish_soon(self, channel: str, message: bytes) -> None:
        """Queue a message, or drop it when the queue is full."""
        if self._queued_bytes >= QUEUE_BYTES:
            self.dropped += 1
            return
        self._queue.append((channel, message))
        self._queued_bytes += len(message)
        self._wake.set()

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Publish (channel, message) pairs in order. Raises `RedisError`, `OSError` or `TimeoutError`."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for channel, message in messages:
                pipeline.publish(channel, message)
            await pipeline.execute()

    async def _run(self) -> None:
        backoff = Backoff(first=0.05, cap=1.0)
        while True:
            await self._wake.wait()
            try:
                await self.publish(self._take())
            except (RedisError, OSError, TimeoutError) as error:
                _logger.info("redis.publish_failed", extra={"reason": type(error).__name__})
                self._clear()
                await backoff.wait()
            else:
                backoff.reset()

    def _take(self) -> list[tuple[str, bytes]]:
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), PIPELINE_MESSAGES))]
        self._queued_bytes -= sum(len(message) for _, message in batch)
        if not self._queue:
            self._wake.clear()
        return batch

    def _clear(self) -> None:
        """After a failure: by the time Redis is back, hubs will have read what these would tell."""
        self.dropped += len(self._queue)
        self._queue.clear()
        self._queued_bytes = 0
        self._wake.clear()
