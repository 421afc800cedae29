"""Streams of any lane: what a subscribe resolver hands to the transport.

Guarantees: a subscriber gets every item past its starting position that its filter matches, once and in order of seq,
whatever Redis, PostgreSQL, its own speed and the other subscribers do; or its stream ends with an error that says so
(CURSOR_EXPIRED when retention overtook it or the log was replaced). Its cursor is its position also when none matched.
Leaves to others: sockets, execution and encoding (the transport's `Rendering` and `Sink`), rights (the resolver's
`audience`), and ending streams of revoked keys.
Stops when `stop` is awaited: readers that are catching up end where they are, and none begins; what is live gets what
the hub still hears; nobody joins any more.

A member is live in its cohort (cohorts), or it catches up: a task of its own that waits for its sink to drain,
takes encoded items from the cohort's ring or shared pages (pages), and attaches again when it has come up to the
cohort, with no await between the last look and attaching.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from typing import Any, TypeVar
from uuid import UUID

from db.database import Database
from db.records import HeadRecord, Lane
from engine.backoff import Backoff
from engine.cursors import Cursor, CursorCodec, CursorKind
from engine.errors import CursorExpired, NotFound, RateLimited, Unavailable
from engine.lanes import LaneKind
from engine.live.cohorts import LOG_REPLACED, LaneStreams, Member, Sink
from engine.live.hub import Hub, Watch
from engine.live.items import Item, Rendering, StreamItem
from engine.live.pages import PAGE_ITEMS, Page, Pages
from engine.live.ring import RingQuota
from engine.tasks import end_tasks

MAX_STREAMS_PER_PROJECT = 20_000
"""Open streams of one project in one gateway, unless set otherwise: about 40 KB each with their sockets."""
JOIN_TIMEOUT = 10.0
"""Seconds that a new stream waits for PostgreSQL before the client is told to come back."""
FIRST_RETRY = 0.05
LAST_RETRY = 1.0
"""Seconds between attempts at a page while PostgreSQL is away."""
RENDER_AHEAD = 64
"""Items whose rendering begins while an earlier one is waited for: one statement instead of as many, and short enough
that beginning them does not keep the loop for long."""
MAX_RENDERING = 2_000
"""Renderings that are waited for, of all streams together, beyond which nobody renders ahead."""
RING_QUOTA_BYTES = 32 * 1024 * 1024
RING_BYTES = 1024 * 1024
RING_ITEMS = 512
"""Bounds of encoded recent items: of all cohorts together, and of each."""

_logger = logging.getLogger(__name__)


R = TypeVar("R")
F = TypeVar("F")


class StreamSource:
    """One subscribe call's `LiveSource`."""

    def __init__(
        self,
        streams: Streams,
        kind: LaneKind[Any, Any],
        project_id: UUID,
        *,
        item_filter: Any,
        audience: Hashable,
        after: str | None,
        convert: Callable[[StreamItem[Any]], object],
    ) -> None:
        self.audience = audience
        self.kind = kind
        self.project_id = project_id
        self.item_filter = item_filter
        self.convert = convert
        self._streams = streams
        self._after = after

    async def join(self, rendering: Rendering, sink: Sink, *, after: str | None = None) -> Member:
        """See `transport.application.LiveSource.join`.

        Raises `CursorInvalid`, `CursorExpired`, `NotFound`, `RateLimited` or `Unavailable`.
        """
        return await self._streams._join(self, rendering, sink, self._after if after is None else after)

    def __aiter__(self) -> AsyncIterator[object]:
        raise TypeError("a stream is joined, not iterated")


class Streams:
    """All streams of a gateway. Belongs to one event loop."""

    def __init__(
        self,
        hub: Hub,
        database: Database,
        cursors: CursorCodec,
        *,
        max_streams_per_project: int = MAX_STREAMS_PER_PROJECT,
    ) -> None:
        self.pages = Pages(database)
        self._hub = hub
        self._cursors = cursors
        self._max_streams = max_streams_per_project
        self._quota = RingQuota(total_bytes=RING_QUOTA_BYTES, ring_bytes=RING_BYTES, ring_items=RING_ITEMS)
        self._open: Counter[UUID] = Counter()
        self._lanes: dict[tuple[UUID, Lane], LaneStreams] = {}
        self._watches: dict[Member, Watch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    def follow(
        self,
        kind: LaneKind[R, F],
        project_id: UUID,
        *,
        item_filter: F,
        audience: Hashable,
        after: str | None,
        convert: Callable[[StreamItem[R]], object],
    ) -> StreamSource:
        """A lane of a project from a cursor on, or from now on. `convert` makes an item what the root field returns.

        `item_filter` must be one that an item alone can decide (`kind.matching.compile` takes it).
        """
        return StreamSource(
            self, kind, project_id, item_filter=item_filter, audience=audience, after=after, convert=convert
        )

    def forget(self, project_id: UUID) -> None:
        """Drop what is kept of a project's items and of what was rendered of them: somebody was erased."""
        for lane in Lane:
            self.pages.forget(project_id, lane)
            streams = self._lanes.get((project_id, lane))
            if streams is not None:
                streams.forget()

    async def stop(self) -> None:
        """End everything that runs."""
        self._stopped = True
        await end_tasks(self._tasks)
        await self.pages.stop()

    async def _join(self, source: StreamSource, rendering: Rendering, sink: Sink, after: str | None) -> Member:
        project_id = source.project_id
        cursor = None
        if after is not None:
            kinds = frozenset({CursorKind.HEAD, source.kind.cursor})
            cursor = self._cursors.decode(after, project_id=project_id, kinds=kinds)
        self._admit(project_id)
        watch: Watch | None = None
        try:
            async with asyncio.timeout(JOIN_TIMEOUT):
                watch = await self._hub.watch(project_id, source.kind)
                self._check_running()
                position = await self._starting_position(watch, cursor)
            self._check_running()
            return self._enter(source, rendering, sink, watch, position)
        except BaseException as error:
            self._give_up_seat(project_id)
            if watch is not None:
                watch.release()
            raise _worded(error) from None

    def _admit(self, project_id: UUID) -> None:
        self._check_running()
        if self._open[project_id] >= self._max_streams:
            raise RateLimited(
                f"This project has {self._max_streams} open streams here already: close some.", retry_after_ms=5_000
            )
        self._open[project_id] += 1
        self._hub.counters.streams += 1

    def _check_running(self) -> None:
        if self._stopped:
            raise Unavailable("This gateway is stopping.", retry_after_ms=1_000)

    def _give_up_seat(self, project_id: UUID) -> None:
        self._hub.counters.streams -= 1
        self._open[project_id] -= 1
        if self._open[project_id] == 0:
            del self._open[project_id]

    async def _starting_position(self, watch: Watch, cursor: Cursor | None) -> int | None:
        """Where the cursor stands, checked against the log; None for the head at the moment of entering."""
        if cursor is None:
            return None
        feed = watch.feed
        lane = feed.kind.lane
        position = int(cursor.key[lane - 1 if cursor.kind is CursorKind.HEAD else 0])
        if not (cursor.epoch == feed.epoch and feed.ring.covers(position) and position <= feed.last):
            _check_position(cursor, position, await self._hub.read_head(feed.project_id, lane))
        return position

    def _enter(
        self, source: StreamSource, rendering: Rendering, sink: Sink, watch: Watch, position: int | None
    ) -> Member:
        """Become a member and start. No await from here on, so nothing can fall between."""
        streams = self._lanes.get((source.project_id, source.kind.lane)) or self._open_lane(watch)
        try:
            cohort = streams.cohort(
                audience=source.audience,
                rendering=rendering,
                item_filter=source.item_filter,
                convert=source.convert,
            )
        except ValueError:
            self._close_lane_if_empty(streams)
            raise
        start = streams.position if position is None else position
        member = Member(cohort, sink, position=start, release=self._release)
        streams.add(member)
        self._watches[member] = watch
        sink.announce(streams.cursor_at(start))
        if not member.left:
            self._attach_or_catch_up(member)
        return member

    def _open_lane(self, watch: Watch) -> LaneStreams:
        streams = LaneStreams(
            watch.feed,
            cursors=self._cursors,
            quota=self._quota,
            counters=self._hub.counters,
            catch_up=self._catch_up,
        )
        self._lanes[streams.project_id, streams.kind.lane] = streams
        return streams

    def _close_lane_if_empty(self, streams: LaneStreams) -> None:
        key = (streams.project_id, streams.kind.lane)
        if not streams.members and self._lanes.get(key) is streams:
            del self._lanes[key]
            streams.close()
            self.pages.forget(*key)

    def _release(self, member: Member) -> None:
        streams = member.cohort.streams
        streams.remove(member)
        self._give_up_seat(streams.project_id)
        self._watches.pop(member).release()
        self._close_lane_if_empty(streams)

    def _attach_or_catch_up(self, member: Member) -> None:
        if member.position >= member.cohort.position:
            member.cohort.attach(member)
        else:
            self._catch_up(member)

    def _catch_up(self, member: Member) -> None:
        if self._stopped:
            return
        task = asyncio.create_task(self._run_catch_up(member), name="catch-up")
        member.catching_up = task
        self._tasks.add(task)
        self._hub.counters.catching_up += 1
        task.add_done_callback(self._caught_up)

    def _caught_up(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._hub.counters.catching_up -= 1

    async def _run_catch_up(self, member: Member) -> None:
        try:
            await self._read_on(member)
        except CursorExpired as error:
            member.catching_up = None
            member.fail(error)
        except Exception as error:
            _logger.exception("streams.catch_up_failed")
            member.catching_up = None
            member.fail(error)

    async def _read_on(self, member: Member) -> None:
        """From the member's position up to its cohort's, then attach: between the last look and that is no await."""
        cohort = member.cohort
        await member.sink.drained()
        while not member.left and member.position < cohort.position:
            await self._read_some(member)
            # A sink that is always ready must not keep the loop for itself.
            await asyncio.sleep(0)
        if not member.left:
            member.catching_up = None
            cohort.attach(member)

    async def _read_some(self, member: Member) -> None:
        """Hand over some next items; where the sink is full let go of them and wait: who is slow holds nothing."""
        items, reached = await self._next_items(member)
        if await _hand_over(member, items):
            member.position = max(member.position, reached)
        elif not member.left:
            del items
            await member.sink.drained()

    async def _next_items(self, member: Member) -> tuple[Sequence[Item], int]:
        """Some next items, and where the member stands after the last of them."""
        cohort, streams = member.cohort, member.cohort.streams
        if cohort.ring.covers(member.position):
            items = cohort.ring.after(member.position, PAGE_ITEMS)
            return items, items[-1].seq if len(items) == PAGE_ITEMS else streams.position
        page = await self._read_page(member)
        if page.head is not None:
            _check_floor(streams.feed.epoch, member.position, page.head)
        return page.items(cohort), page.reached

    async def _read_page(self, member: Member) -> Page:
        backoff = Backoff(first=FIRST_RETRY, cap=LAST_RETRY)
        while True:
            try:
                return await self.pages.read(member.cohort, member.position)
            except Exception as error:
                _logger.warning("streams.page_unreadable", extra={"reason": type(error).__name__})
                await backoff.wait()


async def _hand_over(member: Member, items: Sequence[Item]) -> bool:
    """Deliver what lies past the member's position. False: its sink is full, or it has left."""
    begun: deque[bytes | asyncio.Future[bytes]] = deque()
    for place, item in enumerate(items):
        if item.seq <= member.position:
            continue
        payload = begun.popleft() if begun else item.render()
        if not isinstance(payload, bytes):
            if not begun:
                begun = _render_ahead(items[place + 1 : place + 1 + RENDER_AHEAD])
            payload = await asyncio.shield(payload)
        if member.left:
            return False
        accepted = member.deliver(payload, item.cursor)
        member.position = item.seq
        member.caught_up += 1
        member.cohort.streams.counters.delivered += 1
        if not accepted or member.left:
            return False
    return True


def _render_ahead(items: Sequence[Item]) -> deque[bytes | asyncio.Future[bytes]]:
    """Begin renderings that have to be waited for, so that what they wait for is asked for together."""
    begun: deque[bytes | asyncio.Future[bytes]] = deque()
    for item in items:
        if item.output.counters.rendering >= MAX_RENDERING:
            break
        try:
            begun.append(item.render())
        except Exception:
            # It fails again when it is its turn, and then its stream is told.
            break
    return begun


def _check_position(cursor: Cursor, position: int, head: HeadRecord) -> None:
    """Raises `CursorExpired` unless the log can be read on from a client's position."""
    if position > head.head:
        raise CursorExpired("This position is beyond the end of the log: start again, without a cursor.")
    _check_floor(cursor.epoch, position, head)


def _check_floor(epoch: int, position: int, head: HeadRecord) -> None:
    if epoch != head.epoch:
        raise CursorExpired(LOG_REPLACED)
    if position + 1 < head.first_seq:
        raise CursorExpired("What followed this position has been removed by retention: start again, without a cursor.")


def _worded(error: BaseException) -> BaseException:
    """An error of joining as the client is to read it."""
    if isinstance(error, TimeoutError):
        return Unavailable("The database cannot be reached now: try again.", retry_after_ms=1_000)
    if type(error) is LookupError:
        return NotFound("This project does not exist.")
    return error
