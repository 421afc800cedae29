"""Redis pub/sub behind broadcaster's interface, with a backend and a `Broadcast` of ours.

Guarantees: a subscription lives as long as its block, whatever Redis does; where messages may have been lost (Redis
restarted, a queue overflowed) its reader gets a `Gap` instead. Any number of tasks may be the first to subscribe to a
channel at once, and any of them may be cancelled at any point. Payloads are bytes. All queues are bounded.
Leaves to others: making good what a gap lost (the log is the truth), and what the bytes mean.
Stops when `disconnect` is awaited.

broadcaster's own Redis backend and `Broadcast.subscribe` fail on each of these points; only its shape is kept.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import broadcaster
from broadcaster import BroadcastBackend

from engine.announcements import Announcement, bell_of, channel_of, encode
from engine.live.publisher import Publisher
from engine.live.redis_pubsub import PubSubConnection, parse_redis_url
from engine.tasks import end_tasks
from engine.work import CHANNEL as WORK_CHANNEL
from engine.work import Work, encode_work

CONNECT_WAIT = 1.0
"""Seconds that `connect` waits for Redis. A gateway starts without it, and polls."""
INBOX_MESSAGES = 20_000
INBOX_BYTES = 64 * 1024 * 1024
"""What may wait between the socket and the subscriptions: many turns of the loop."""
QUEUE_MESSAGES = 1_000
QUEUE_BYTES = 4 * 1024 * 1024
"""What may wait for one reader: catching up from the log is cheaper than holding more."""


class Message(broadcaster.Event):
    """One published message. `message` holds bytes."""

    message: bytes  # type: ignore[assignment]

    def __init__(self, channel: str, message: bytes) -> None:
        super().__init__(channel, message)  # type: ignore[arg-type]


class Gap(Message):
    """Messages of this channel may have been lost before this point. On the backend, of every channel."""

    def __init__(self, channel: str = "") -> None:
        super().__init__(channel, b"")


class Mailbox:
    """A bounded queue for one reader. What does not fit replaces everything by one gap."""

    def __init__(self, *, max_messages: int, max_bytes: int, channel: str = "") -> None:
        self._messages: deque[Message] = deque()
        self._bytes = 0
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._channel = channel
        self._reader: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Message) -> None:
        """Never blocks."""
        if len(self._messages) >= self._max_messages or self._bytes + len(message.message) > self._max_bytes:
            self._messages.clear()
            self._bytes = 0
            message = Gap(self._channel)
        self._messages.append(message)
        self._bytes += len(message.message)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def get(self) -> Message:
        """The next message, in order. For one task at a time."""
        while not self._messages:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        message = self._messages.popleft()
        self._bytes -= len(message.message)
        return message

    async def __aiter__(self) -> AsyncIterator[Message]:
        while True:
            yield await self.get()


class RedisBackend(BroadcastBackend):
    """broadcaster's backend interface over one supervised connection for reading and a publisher."""

    def __init__(self, url: str) -> None:
        self.publisher = Publisher(url)
        self._health_callbacks: dict[object, Callable[[bool], None]] = {}
        self._inbox = Mailbox(max_messages=INBOX_MESSAGES, max_bytes=INBOX_BYTES)
        self._connection = PubSubConnection(
            parse_redis_url(url), on_message=self._receive, on_gap=self._mark_gap, on_health=self._tell_health
        )

    @property
    def connected(self) -> bool:
        """Whether Redis answers pings and every channel is subscribed to."""
        return self._connection.connected

    async def connect(self) -> None:
        """Returns without an error while Redis is away."""
        self.publisher.start()
        await self._connection.start(wait=CONNECT_WAIT)

    async def disconnect(self) -> None:
        await self._connection.stop()
        await self.publisher.stop()

    async def subscribe(self, group: str) -> None:
        """Returns when acknowledged, or at once while Redis is away: a gap follows then."""
        await self._connection.subscribe(group)

    async def unsubscribe(self, group: str) -> None:
        self.drop(group)

    def drop(self, channel: str) -> None:
        """`unsubscribe` without waiting for anything."""
        self._connection.unsubscribe(channel)

    async def publish(self, channel: str, message: bytes) -> None:
        """Raises `RedisError`, `OSError` or `TimeoutError`."""
        await self.publisher.publish([(channel, message)])

    async def next_published(self) -> Message:
        """The next message, or a gap in all channels."""
        return await self._inbox.get()

    def on_health(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """Call `callback(connected)` at each change. Returns the function that forgets it."""
        token = object()
        self._health_callbacks[token] = callback

        def forget() -> None:
            self._health_callbacks.pop(token, None)

        return forget

    def _receive(self, channel: str, payload: bytes) -> None:
        self._inbox.put(Message(channel, payload))

    def _mark_gap(self) -> None:
        self._inbox.put(Gap())

    def _tell_health(self, connected: bool) -> None:
        for callback in list(self._health_callbacks.values()):
            callback(connected)


class _Channel:
    """A channel that somebody reads. The task belongs to it, not to the first reader, who may be cancelled."""

    def __init__(self, subscribing: asyncio.Task[None]) -> None:
        self.subscribing = subscribing
        self.readers: set[Mailbox] = set()


class Broadcast(broadcaster.Broadcast):
    """Many readers per channel, one Redis subscription. Belongs to one event loop."""

    def __init__(self, url: str) -> None:
        self._redis = RedisBackend(url)
        super().__init__(backend=self._redis)
        self._channels: dict[str, _Channel] = {}

    @property
    def connected(self) -> bool:
        """Whether Redis answers pings and every channel is subscribed to."""
        return self._redis.connected

    @property
    def dropped_announcements(self) -> int:
        """How many announcements found the queue full or Redis away, since the start."""
        return self._redis.publisher.dropped

    def on_health(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """Call `callback(connected)` at each change. Returns the function that forgets it."""
        return self._redis.on_health(callback)

    async def disconnect(self) -> None:
        await end_tasks([self._listener_task])
        await self._redis.disconnect()

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[Mailbox]:  # type: ignore[override]
        """Read a channel: from here on every message, or a `Gap`.

        Entered when Redis has acknowledged the subscription, or at once while it is away (a gap follows).
        """
        mailbox = Mailbox(max_messages=QUEUE_MESSAGES, max_bytes=QUEUE_BYTES, channel=channel)
        entry = self._channels.get(channel)
        if entry is None:
            entry = self._channels[channel] = _Channel(asyncio.create_task(self._redis.subscribe(channel)))
        entry.readers.add(mailbox)
        try:
            await asyncio.shield(entry.subscribing)
            yield mailbox
        finally:
            self._leave(channel, entry, mailbox)

    def announce(self, announcement: Announcement) -> None:
        """Tell the hubs of a commit, and workers what follows from it. Never blocks, never raises; may be lost, and
        then the relay and the sweeper tell."""
        self._redis.publisher.announce(announcement)
        bell = bell_of(announcement)
        if bell is not None:
            self.wake(Work(bell, announcement.project_id))

    def wake(self, work: Work) -> None:
        """Tell workers that there is something to do: never blocks, may get lost."""
        self._redis.publisher.publish_soon(WORK_CHANNEL, encode_work(work))

    async def publish_announcements(self, announcements: list[Announcement]) -> None:
        """Tell the hubs, and know that Redis has taken it. Raises `RedisError`, `OSError` or `TimeoutError`."""
        await self._redis.publisher.publish([(channel_of(each.project_id), encode(each)) for each in announcements])

    def _leave(self, channel: str, entry: _Channel, mailbox: Mailbox) -> None:
        """Synchronous, so that a cancelled reader cannot leave half of it undone."""
        entry.readers.discard(mailbox)
        if not entry.readers:
            entry.subscribing.cancel()
            del self._channels[channel]
            self._redis.drop(channel)

    async def _listener(self) -> None:
        while True:
            event = await self._redis.next_published()
            if isinstance(event, Gap):
                self._tell_gap()
            elif event.channel in self._channels:
                for mailbox in self._channels[event.channel].readers:
                    mailbox.put(event)

    def _tell_gap(self) -> None:
        for channel, entry in self._channels.items():
            for mailbox in entry.readers:
                mailbox.put(Gap(channel))
