"""The hub: one per gateway, it keeps a `Feed` of every project that somebody here watches.

Guarantees: each watched feed gets each item once and in order; a loss is made good from the log 30–50 ms after it
shows, while Redis is away within two seconds, and while PostgreSQL is away as soon as it is back. A project costs one
broadcaster subscription while watched and nothing otherwise; while Redis is well a feed at rest costs no SQL.
Leaves to others: who gets which item (cohorts), and replaying what is older than the ring (pages).
Stops when `stop` is awaited: feeds end silently, their followers are told nothing.

How a loss shows: an announcement ahead of what was delivered, a head-only one from the relay, a gap of the broadcaster
(Redis was away: heads are read once). While it is away the heads of all watched projects are polled in one statement.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any
from uuid import UUID

import msgspec

from db.database import Database
from db.events import read_event_page
from db.heads import read_heads
from db.records import EventPage, HeadRecord, Lane
from engine.announcements import Announcement, channel_of, decode
from engine.backoff import Backoff
from engine.errors import Unavailable
from engine.live.broadcast import Broadcast, Gap, Mailbox, Message
from engine.live.feed import Feed, Need
from engine.live.ring import RingQuota
from engine.tasks import end_tasks

REORDER_WAIT = 0.03
"""Seconds: two gateways that commit one after the other announce up to this much out of order."""
HEAD_WAIT = 0.05
"""Seconds after the relay's announcement of a head: longer than the wait above, so that it never reads in its place."""
POLL_INTERVAL = 0.5
"""Seconds between readings of heads while Redis is away: with 1.3 s to notice it, streams are less than 2 s late."""
LINGER = 2.0
"""Seconds for which a project is still followed after its last watcher left: clients reconnect."""
GAP_PAGE = 200
"""Items per page of a gap. At 64 KiB an item that is 13 MB at worst."""
GAP_QUERIES = 2
"""Gaps that are read at once: enough to hide a round trip, few enough to leave the pool to requests."""
FIRST_RETRY = 0.05
LAST_RETRY = 1.0
"""Seconds between attempts while PostgreSQL is away."""
RING_QUOTA_BYTES = 64 * 1024 * 1024
RING_BYTES = 4 * 1024 * 1024
RING_ITEMS = 2_000
"""Bounds of recent items: of all projects together, and of each."""
STATS_HEADS = 100
"""How many projects are named in the statistics: each is a time series somewhere."""

_logger = logging.getLogger(__name__)


class HubStats(msgspec.Struct, frozen=True):
    """What a gateway's hub does now. `lag` is the largest number of items announced but not delivered yet."""

    watched_projects: int
    streams: int
    cohorts: int
    catching_up: int
    delivered: int
    lag: int
    heads: dict[UUID, int]


class StreamCounters:
    """What `streams` does, counted where it happens."""

    __slots__ = ("catching_up", "cohorts", "delivered", "streams")

    def __init__(self) -> None:
        self.streams = 0
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


class _Watched:
    """A feed with what keeps it going."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.watchers = 0
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.running: asyncio.Task[None] | None = None
        self.healing: asyncio.Task[None] | None = None
        self.lingering: asyncio.TimerHandle | None = None


class Hub:
    """Feeds of watched projects. Belongs to one event loop."""

    def __init__(self, database: Database, broadcast: Broadcast, *, linger: float = LINGER) -> None:
        self.counters = StreamCounters()
        self._database = database
        self._broadcast = broadcast
        self._linger = linger
        self._watched: dict[UUID, _Watched] = {}
        self._quota = RingQuota(total_bytes=RING_QUOTA_BYTES, ring_bytes=RING_BYTES, ring_items=RING_ITEMS)
        self._wanted_heads: dict[UUID, list[asyncio.Future[HeadRecord]]] = {}
        self._wake = asyncio.Event()
        self._gap_queries = asyncio.Semaphore(GAP_QUERIES)
        self._reading: asyncio.Task[None] | None = None
        self._forget_health: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Begin. The broadcast has been connected, whether or not Redis is there."""
        self._forget_health = self._broadcast.on_health(lambda _connected: self._wake.set())
        self._reading = asyncio.create_task(self._read_heads_for_ever(), name="hub-heads")

    async def stop(self) -> None:
        """End all feeds."""
        self._forget_health()
        tasks = [task for watched in self._watched.values() for task in self._take_down(watched)]
        self._watched.clear()
        await end_tasks([*tasks, self._reading])
        self._reading = None

    def stats(self) -> HubStats:
        """Cheap enough for every scrape."""
        feeds = [watched.feed for watched in self._watched.values()]
        return HubStats(
            watched_projects=len(feeds),
            streams=self.counters.streams,
            cohorts=self.counters.cohorts,
            catching_up=self.counters.catching_up,
            delivered=self.counters.delivered,
            lag=max((feed.announced - feed.last for feed in feeds), default=0),
            heads={feed.project_id: feed.last for feed in feeds[:STATS_HEADS]},
        )

    async def watch(self, project_id: UUID) -> Watch:
        """Follow a project. Returns when its feed stands at the head, subscribed.

        Waits as long as PostgreSQL is away: put a limit around it. Raises `LookupError` for an unknown project.
        """
        watched = self._watched.get(project_id) or self._begin(project_id)
        watched.watchers += 1
        watch = Watch(watched.feed, lambda: self._let_go(watched))
        try:
            await asyncio.shield(watched.started)
        except BaseException:
            watch.release()
            raise
        return watch

    async def read_head(self, project_id: UUID) -> HeadRecord:
        """The head as the database has it after this call began; callers at the same time share one statement.

        Waits as long as PostgreSQL is away: put a limit around it. Raises `LookupError` for an unknown project.
        """
        answer: asyncio.Future[HeadRecord] = asyncio.get_running_loop().create_future()
        self._wanted_heads.setdefault(project_id, []).append(answer)
        self._wake.set()
        return await answer

    def _begin(self, project_id: UUID) -> _Watched:
        watched = _Watched(Feed(project_id, self._quota))
        self._watched[project_id] = watched
        watched.running = self._spawn(self._run(watched), f"feed-{project_id}")
        return watched

    def _let_go(self, watched: _Watched) -> None:
        watched.watchers -= 1
        if watched.watchers == 0 and self._is_current(watched):
            if watched.lingering is not None:
                watched.lingering.cancel()
            loop = asyncio.get_running_loop()
            watched.lingering = loop.call_later(self._linger, self._end_if_unwatched, watched)

    def _end_if_unwatched(self, watched: _Watched) -> None:
        if watched.watchers == 0 and self._is_current(watched):
            self._end(watched)

    def _end(self, watched: _Watched) -> None:
        if self._is_current(watched):
            del self._watched[watched.feed.project_id]
            self._take_down(watched)

    def _take_down(self, watched: _Watched) -> list[asyncio.Task[None]]:
        tasks = [task for task in (watched.running, watched.healing) if task is not None]
        for task in tasks:
            task.cancel()
        if watched.lingering is not None:
            watched.lingering.cancel()
        if not watched.started.done():
            watched.started.set_exception(Unavailable("This gateway is stopping.", retry_after_ms=1000))
            watched.started.exception()
        watched.feed.ring.close()
        return tasks

    def _is_current(self, watched: _Watched) -> bool:
        return self._watched.get(watched.feed.project_id) is watched

    async def _run(self, watched: _Watched) -> None:
        """A feed's life: subscribe, and only then read the head, so that nothing falls between."""
        feed = watched.feed
        async with self._broadcast.subscribe(channel_of(feed.project_id)) as mailbox:
            try:
                feed.start(await self.read_head(feed.project_id))
            except LookupError as error:
                watched.started.set_exception(error)
                self._end(watched)
                return
            watched.started.set_result(None)
            await self._follow(watched, mailbox)

    async def _follow(self, watched: _Watched, mailbox: Mailbox) -> None:
        while True:
            message = await mailbox.get()
            try:
                self._receive(watched, message)
            except msgspec.DecodeError:
                _logger.warning("hub.unreadable_announcement", extra={"channel": message.channel})
            # One announcement may have gone to thousands: let their sockets, and other projects, have a turn.
            await asyncio.sleep(0)

    def _receive(self, watched: _Watched, message: Message) -> None:
        if isinstance(message, Gap):
            self._want_head(watched.feed.project_id)
            return
        announcement = decode(message.message)
        if announcement.lane == Lane.EVENTS and announcement.project_id == watched.feed.project_id:
            self._observe(watched, announcement)

    def _observe(self, watched: _Watched, announcement: Announcement) -> None:
        match watched.feed.observe(announcement):
            case Need.HEAD:
                self._want_head(watched.feed.project_id)
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
                page = await self._read_page(feed.project_id, since)
            except Exception as error:
                _logger.warning("hub.gap_unreadable", extra={"reason": type(error).__name__})
                await backoff.wait()
            else:
                feed.accept(page, since=since, announced=announced)
                await asyncio.sleep(0)

    async def _read_page(self, project_id: UUID, after: int) -> EventPage:
        async with self._gap_queries, self._database.connection() as connection:
            return await read_event_page(connection, project_id=project_id, after=after, limit=GAP_PAGE)

    def _want_head(self, project_id: UUID) -> None:
        self._wanted_heads.setdefault(project_id, [])
        self._wake.set()

    async def _read_heads_for_ever(self) -> None:
        """The only reader of heads: on demand, and every `POLL_INTERVAL` while Redis is away."""
        backoff = Backoff(first=FIRST_RETRY, cap=LAST_RETRY)
        while True:
            if await self._until_heads_are_due():
                try:
                    await self._read_due_heads()
                    backoff.reset()
                except Exception as error:
                    _logger.warning("hub.heads_unreadable", extra={"reason": type(error).__name__})
                    await backoff.wait()

    async def _until_heads_are_due(self) -> bool:
        """Wait; False when there is nothing to read after all."""
        if not self._wanted_heads or not self._wake.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(None if self._broadcast.connected else POLL_INTERVAL):
                    await self._wake.wait()
        self._wake.clear()
        return bool(self._wanted_heads) or not self._broadcast.connected

    async def _read_due_heads(self) -> None:
        if not self._broadcast.connected:
            for project_id in self._watched:
                self._wanted_heads.setdefault(project_id, [])
        if not self._wanted_heads:
            return
        wanted, self._wanted_heads = self._wanted_heads, {}
        since = {project_id: watched.feed.last for project_id, watched in self._watched.items()}
        try:
            async with self._database.connection() as connection:
                heads = await read_heads(connection, project_ids=list(wanted))
        except BaseException:
            self._want_again(wanted)
            raise
        found = {head.project_id: head for head in heads if head.lane == Lane.EVENTS}
        for project_id, answers in wanted.items():
            self._tell_head(project_id, found.get(project_id), answers, since.get(project_id))

    def _want_again(self, wanted: dict[UUID, list[asyncio.Future[HeadRecord]]]) -> None:
        for project_id, answers in wanted.items():
            waiting = [answer for answer in answers if not answer.done()]
            self._wanted_heads.setdefault(project_id, []).extend(waiting)
        self._wake.set()

    def _tell_head(
        self, project_id: UUID, head: HeadRecord | None, answers: list[asyncio.Future[HeadRecord]], since: int | None
    ) -> None:
        watched = self._watched.get(project_id)
        if (
            head is not None
            and since is not None
            and watched is not None
            and watched.started.done()
            and watched.feed.observe_head(head, since=since) is Need.GAP_NOW
        ):
            self._heal(watched, 0)
        for answer in answers:
            if answer.done():
                continue
            if head is None:
                answer.set_exception(LookupError("unknown project"))
            else:
                answer.set_result(head)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(_report_failure)
        return task


def _report_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _logger.error("hub.task_failed", exc_info=error, extra={"task": task.get_name()})
