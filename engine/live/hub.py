"""The hub: one per gateway, it keeps a `Feed` of every lane of a project that somebody here watches.

Guarantees: each watched feed gets each item once and in order; a loss is made good from the log 30–50 ms after it
shows, while Redis is away within two seconds, and while PostgreSQL is away as soon as it is back. A project costs one
broadcaster subscription while watched, whatever its lanes, and nothing otherwise; an announcement of a lane that nobody
here watches costs a look; while Redis is well a feed at rest costs no SQL.
Leaves to others: who gets which item (cohorts), and replaying what is older than the ring (pages).
Stops when `stop` is awaited: feeds end silently, their followers are told nothing.

How a loss shows: an announcement ahead of what was delivered, a head-only one from the relay, a gap of the broadcaster
(Redis was away: heads are read once). While it is away the heads of all watched projects are polled
(`engine.live.heads`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

import msgspec

from db.database import Database
from db.records import HeadRecord, Lane
from engine.announcements import Announcement, channel_of, decode, lane_of
from engine.backoff import Backoff
from engine.errors import Unavailable
from engine.lanes import LaneKind, LanePage
from engine.live.broadcast import Broadcast, Gap, Mailbox, Message
from engine.live.feed import MAX_EARLY, Feed, Need
from engine.live.heads import FIRST_RETRY, LAST_RETRY, HeadReader, Heads
from engine.live.ring import RingQuota
from engine.tasks import end_tasks

REORDER_WAIT = 0.03
"""Seconds: two gateways that commit one after the other announce up to this much out of order."""
HEAD_WAIT = 0.05
"""Seconds after the relay's announcement of a head: longer than the wait above, so that it never reads in its place."""
LINGER = 2.0
"""Seconds for which a project is still followed after its last watcher left: clients reconnect."""
GAP_PAGE = 200
"""Items per page of a gap. At 64 KiB an item that is 13 MB at worst."""
GAP_QUERIES = 2
"""Gaps that are read at once: enough to hide a round trip, few enough to leave the pool to requests."""
RING_QUOTA_BYTES = 64 * 1024 * 1024
RING_BYTES = 4 * 1024 * 1024
RING_ITEMS = 2_000
"""Bounds of recent items: of all feeds together, and of each."""
STATS_HEADS = 100
"""How many projects are named in the statistics: each is a time series somewhere."""

_logger = logging.getLogger(__name__)


class HubStats(msgspec.Struct, frozen=True):
    """What a gateway's hub does now. `lag` is the largest number of items announced but not delivered yet.

    `heads` is where the events lane of watched projects stands.
    """

    watched_projects: int
    streams: int
    cohorts: int
    catching_up: int
    delivered: int
    lag: int
    heads: dict[UUID, int]


class StreamCounters:
    """What `streams` does, counted where it happens."""

    __slots__ = ("catching_up", "cohorts", "delivered", "rendering", "streams")

    def __init__(self) -> None:
        self.streams = 0
        self.rendering = 0
        self.cohorts = 0
        self.catching_up = 0
        self.delivered = 0


class Watch:
    """One watcher's hold on a feed. The feed goes on while anybody holds it."""

    def __init__(self, feed: Feed, release: Callable[[], None]) -> None:
        self.feed = feed
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """Let go. Safe to call more than once."""
        release, self._release = self._release, None
        if release is not None:
            release()


class _Subscription:
    """A project's place at the broadcaster, which all of its watched lanes share."""

    def __init__(self, project_id: UUID) -> None:
        self.project_id = project_id
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.running: asyncio.Task[None] | None = None
        self.lanes: dict[Lane, _Watched] = {}


class _Watched:
    """A feed with what keeps it going. `unheard` is what came before it stood anywhere."""

    def __init__(self, feed: Feed, subscription: _Subscription) -> None:
        self.feed = feed
        self.subscription = subscription
        self.watchers = 0
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.unheard: deque[Message] = deque(maxlen=MAX_EARLY)
        self.starting: asyncio.Task[None] | None = None
        self.healing: asyncio.Task[None] | None = None
        self.lingering: asyncio.TimerHandle | None = None

    @property
    def is_current(self) -> bool:
        """Whether it is still followed."""
        return self.subscription.lanes.get(self.feed.kind.lane) is self


class Hub:
    """Feeds of the watched lanes of projects. Belongs to one event loop."""

    def __init__(self, database: Database, broadcast: Broadcast, *, linger: float = LINGER) -> None:
        self.counters = StreamCounters()
        self._database = database
        self._broadcast = broadcast
        self._linger = linger
        self._subscriptions: dict[UUID, _Subscription] = {}
        self._quota = RingQuota(total_bytes=RING_QUOTA_BYTES, ring_bytes=RING_BYTES, ring_items=RING_ITEMS)
        self._heads = HeadReader(database, broadcast, watched=self._subscriptions, stand=self._stand)
        self._gap_queries = asyncio.Semaphore(GAP_QUERIES)

    async def start(self) -> None:
        """Begin. The broadcast has been connected, whether or not Redis is there."""
        self._heads.start()

    async def stop(self) -> None:
        """End all feeds."""
        tasks = [task for watched in self._all_watched() for task in self._take_down(watched)]
        tasks += [each.running for each in self._subscriptions.values() if each.running is not None]
        self._subscriptions.clear()
        await end_tasks(tasks)
        await self._heads.stop()

    def stats(self) -> HubStats:
        """Cheap enough for every scrape."""
        feeds = [watched.feed for watched in self._all_watched()]
        logs = [feed for feed in feeds if feed.kind.lane is Lane.EVENTS]
        return HubStats(
            watched_projects=len(self._subscriptions),
            streams=self.counters.streams,
            cohorts=self.counters.cohorts,
            catching_up=self.counters.catching_up,
            delivered=self.counters.delivered,
            lag=max((feed.announced - feed.last for feed in feeds), default=0),
            heads={feed.project_id: feed.last for feed in logs[:STATS_HEADS]},
        )

    async def watch(self, project_id: UUID, kind: LaneKind[Any, Any]) -> Watch:
        """Follow a lane of a project. Returns when its feed stands at the head, subscribed.

        Waits as long as PostgreSQL is away: put a limit around it. Raises `LookupError` for an unknown project.
        """
        subscription = self._subscriptions.get(project_id) or self._subscribe(project_id)
        watched = subscription.lanes.get(kind.lane) or self._begin(subscription, kind)
        watched.watchers += 1
        watch = Watch(watched.feed, lambda: self._let_go(watched))
        try:
            await asyncio.shield(watched.started)
        except BaseException:
            watch.release()
            raise
        return watch

    def forget(self, project_id: UUID) -> None:
        """Drop recent items of a project: somebody was erased."""
        subscription = self._subscriptions.get(project_id)
        for watched in () if subscription is None else subscription.lanes.values():
            if watched.started.done():
                watched.feed.forget()
            if watched.feed.behind:
                self._heal(watched, 0)

    async def read_head(self, project_id: UUID, lane: Lane) -> HeadRecord:
        """As `HeadReader.read`."""
        return await self._heads.read(project_id, lane)

    def _all_watched(self) -> list[_Watched]:
        return [watched for each in self._subscriptions.values() for watched in each.lanes.values()]

    def _subscribe(self, project_id: UUID) -> _Subscription:
        subscription = self._subscriptions[project_id] = _Subscription(project_id)
        subscription.running = self._spawn(self._run(subscription), f"project-{project_id}")
        return subscription

    def _begin(self, subscription: _Subscription, kind: LaneKind[Any, Any]) -> _Watched:
        watched = _Watched(Feed(subscription.project_id, kind, self._quota), subscription)
        subscription.lanes[kind.lane] = watched
        watched.starting = self._spawn(self._start_feed(watched), f"feed-{subscription.project_id}")
        return watched

    def _let_go(self, watched: _Watched) -> None:
        watched.watchers -= 1
        if watched.watchers == 0 and watched.is_current:
            if watched.lingering is not None:
                watched.lingering.cancel()
            loop = asyncio.get_running_loop()
            watched.lingering = loop.call_later(self._linger, self._end_if_unwatched, watched)

    def _end_if_unwatched(self, watched: _Watched) -> None:
        if watched.watchers == 0:
            self._end(watched)

    def _end(self, watched: _Watched) -> None:
        """End a feed, and its project's subscription with the last one."""
        if not watched.is_current:
            return
        self._take_down(watched)
        subscription = watched.subscription
        if not subscription.lanes:
            del self._subscriptions[subscription.project_id]
            if subscription.running is not None:
                subscription.running.cancel()

    def _take_down(self, watched: _Watched) -> list[asyncio.Task[None]]:
        del watched.subscription.lanes[watched.feed.kind.lane]
        tasks = [task for task in (watched.starting, watched.healing) if task is not None]
        for task in tasks:
            task.cancel()
        if watched.lingering is not None:
            watched.lingering.cancel()
        if not watched.started.done():
            watched.started.set_exception(Unavailable("This gateway is stopping.", retry_after_ms=1000))
            watched.started.exception()
        watched.feed.ring.close()
        return tasks

    async def _run(self, subscription: _Subscription) -> None:
        """A subscription's life."""
        async with self._broadcast.subscribe(channel_of(subscription.project_id)) as mailbox:
            subscription.begun.set_result(None)
            await self._follow(subscription, mailbox)

    async def _start_feed(self, watched: _Watched) -> None:
        """Read the head once subscribed, so that nothing falls between; then hear what came in the meantime."""
        feed = watched.feed
        await asyncio.shield(watched.subscription.begun)
        try:
            feed.start(await self.read_head(feed.project_id, feed.kind.lane))
        except LookupError as error:
            watched.started.set_exception(error)
            self._end(watched)
            return
        watched.started.set_result(None)
        while watched.unheard:
            self._hear(watched, watched.unheard.popleft())

    async def _follow(self, subscription: _Subscription, mailbox: Mailbox) -> None:
        while True:
            self._receive(subscription, await mailbox.get())
            # One announcement may have gone to thousands: let their sockets, and other projects, have a turn.
            await asyncio.sleep(0)

    def _receive(self, subscription: _Subscription, message: Message) -> None:
        """Give a message to the feed that it is for, or a gap to all of them."""
        if isinstance(message, Gap):
            for watched in list(subscription.lanes.values()):
                self._hear(watched, message)
            return
        lane = lane_of(message.message)
        if lane is None:
            _logger.warning("hub.unreadable_announcement", extra={"channel": message.channel})
        elif (concerned := subscription.lanes.get(lane)) is not None:
            self._hear(concerned, message)

    def _hear(self, watched: _Watched, message: Message) -> None:
        if not watched.started.done():
            watched.unheard.append(message)
            return
        if isinstance(message, Gap):
            self._heads.want(watched.feed.project_id)
            return
        try:
            announcement = decode(message.message)
        except msgspec.DecodeError:
            _logger.warning("hub.unreadable_announcement", extra={"channel": message.channel})
            return
        if announcement.lane == watched.feed.kind.lane and announcement.project_id == watched.feed.project_id:
            self._observe(watched, announcement)

    def _observe(self, watched: _Watched, announcement: Announcement) -> None:
        match watched.feed.observe(announcement):
            case Need.HEAD:
                self._heads.want(watched.feed.project_id)
            case Need.GAP_SOON:
                self._heal(watched, REORDER_WAIT)
            case Need.GAP_LATER:
                self._heal(watched, HEAD_WAIT)
            case Need.GAP_NOW:
                self._heal(watched, 0)

    def _heal(self, watched: _Watched, delay: float) -> None:
        """One reader per feed: what is announced while it waits or reads is its business too."""
        if watched.healing is None or watched.healing.done():
            watched.healing = self._spawn(self._read_gap(watched, delay), f"gap-{watched.feed.project_id}")

    async def _read_gap(self, watched: _Watched, delay: float) -> None:
        await asyncio.sleep(delay)
        feed, backoff = watched.feed, Backoff(first=FIRST_RETRY, cap=LAST_RETRY)
        while feed.behind:
            since, announced = feed.last, feed.announced
            try:
                page = await self._read_page(feed, since)
            except Exception as error:
                _logger.warning("hub.gap_unreadable", extra={"reason": type(error).__name__})
                await backoff.wait()
            else:
                feed.accept(page, since=since, announced=announced)
                await asyncio.sleep(0)

    async def _read_page(self, feed: Feed, after: int) -> LanePage[Any]:
        kind = feed.kind
        async with self._gap_queries, self._database.connection() as connection:
            return await kind.read_page(
                connection, project_id=feed.project_id, after=after, limit=GAP_PAGE, item_filter=kind.everything
            )

    def _stand(self) -> Callable[[Heads], None]:
        """Where feeds stand before heads are read; what it gives tells them what was found."""
        since = {watched: watched.feed.last for watched in self._all_watched() if watched.started.done()}

        def tell(heads: Heads) -> None:
            for watched, position in since.items():
                known = heads.get(watched.feed.project_id, {}).get(watched.feed.kind.lane)
                if known is not None and watched.is_current:
                    self._tell_head(watched, known, position)

        return tell

    def _tell_head(self, watched: _Watched, head: HeadRecord, since: int) -> None:
        if watched.feed.observe_head(head, since=since) is Need.GAP_NOW:
            self._heal(watched, 0)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(_report_failure)
        return task


def _report_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _logger.error("hub.task_failed", exc_info=error, extra={"task": task.get_name()})
