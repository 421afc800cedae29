"""Cohorts: all subscribers of a lane of a project who get the same bytes for the same items.

Guarantees: an item is matched once per cohort, executed and encoded once per (audience, rendering), and its bytes go to
every member in order: in the same turn of the loop where rendering needs no waiting, else as soon as it is done.
A rendering that was waited for and holds errors goes to those who waited for it, and is made anew for who comes later.
A member whose sink is full leaves the live cohort at its own position and costs nothing until it catches up
(streams). Leaves to others: where items come from (feed) and catching up.
Stops with its last member; it has no task while rendering is synchronous.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from engine.cursors import Cursor, CursorCodec
from engine.errors import CursorExpired
from engine.filter_index import FilterIndex
from engine.lanes import LaneRecord
from engine.live.feed import Feed
from engine.live.hub import StreamCounters
from engine.live.items import Item, Output, Rendering, StreamItem
from engine.live.ring import Ring, RingQuota

MAX_RENDERING = 256
"""Items of a cohort that may wait for their rendering; beyond it its members catch up from the log instead."""
LOG_REPLACED = "The log was replaced since this position (a restore): start again, without a cursor."

_logger = logging.getLogger(__name__)


class Sink(Protocol):
    """See `transport.application.Sink`."""

    def deliver(self, payload: bytes, cursor: str) -> bool: ...

    async def drained(self) -> None: ...

    def announce(self, cursor: str) -> None: ...

    def fail(self, error: BaseException) -> None: ...

    def complete(self) -> None: ...


class _Rendered(NamedTuple):
    """An item and its rendering, held until its turn: the item itself may not keep what comes out."""

    item: Item
    payload: bytes | asyncio.Future[bytes]


class Member:
    """One subscriber: live in its cohort, or catching up at a position of its own. A `Membership` for the transport."""

    __slots__ = ("_release", "catching_up", "caught_up", "cohort", "deliver", "left", "live", "position", "sink")

    def __init__(self, cohort: Cohort, sink: Sink, *, position: int, release: Callable[[Member], None]) -> None:
        self.cohort = cohort
        self.sink = sink
        self.deliver: Callable[[bytes, str], bool] = sink.deliver
        self.position = position
        self.live = False
        self.left = False
        self.catching_up: asyncio.Task[None] | None = None
        self.caught_up = 0
        """Items that it has been given outside the live cohort; the cohort counts the others, once for all members."""
        self._release = release

    @property
    def delivered(self) -> int:
        """Items so far."""
        return self.caught_up + self.cohort.sent if self.live else self.caught_up

    @property
    def cursor(self) -> str:
        """Everything up to here has been handed to the sink or was not for it."""
        return self.cohort.streams.cursor_at(self.reached)

    @property
    def reached(self) -> int:
        """The position itself."""
        return max(self.position, self.cohort.position) if self.live else self.position

    def leave(self) -> None:
        """Stop: the sink is not touched afterwards."""
        if self.left:
            return
        self.cohort.detach(self, self.reached)
        self.left = True
        self.deliver = _deliver_nothing
        if self.catching_up is not None:
            self.catching_up.cancel()
        self._release(self)

    def fail(self, error: BaseException) -> None:
        """End with an error."""
        if not self.left:
            self.leave()
            self.sink.fail(error)


def _deliver_nothing(_payload: bytes, _cursor: str) -> bool:
    return True


class Cohort:
    """Members who share audience, rendering and filter."""

    def __init__(self, streams: LaneStreams, key: Hashable, output: Output, item_filter: Any) -> None:
        self.streams = streams
        self.key = key
        self.output = output
        self.item_filter = item_filter
        self.filter_key = streams.kind.matching.key(item_filter)
        self.size = 0
        self.sent = 0
        """Items that went to all who were live."""
        self.ring: Ring[Item] = Ring(streams.quota, floor=streams.position)
        self._live: dict[Member, None] = {}
        self._snapshot: tuple[Member, ...] | None = ()
        self._waiting: deque[_Rendered] = deque()
        self._drainer: asyncio.Task[None] | None = None

    @property
    def position(self) -> int:
        """What every live member has been given, or was not for it. Past it everything waits that is for them."""
        return self._waiting[0].item.seq - 1 if self._waiting else self.streams.position

    def attach(self, member: Member) -> None:
        """Make a member live that has reached the cohort's position (or is already past it)."""
        member.live = True
        member.caught_up -= self.sent
        self._live[member] = None
        self._snapshot = None

    def detach(self, member: Member, position: int) -> None:
        """Take a member out of the live ones; it stands at `position` then.

        With the last one goes what waits: nothing is queued while nobody is live, so whoever attached to a queue that
        was left standing would miss what had come in between.
        """
        if member.live:
            member.position = position
            member.live = False
            member.caught_up += self.sent
            del self._live[member]
            self._snapshot = None
            if not self._live:
                self._stop_waiting()

    def advance(self, item: Item) -> None:
        """The next item that the filter matches."""
        self.ring.append(item.seq, item, self.streams.kind.rendered_bytes(item.record))
        if not self._live:
            return
        try:
            payload = item.render()
        except Exception as error:
            self._fail(error)
            return
        if isinstance(payload, bytes) and not self._waiting:
            self._send(item.seq, payload, item.cursor)
        else:
            self._wait_for(_Rendered(item, payload))

    def fail_all(self, error: BaseException) -> None:
        """End every live member with an error."""
        for member in tuple(self._live):
            member.fail(error)

    def forget(self) -> None:
        """Keep no item any more. What live members wait for is on its way to them."""
        self.ring.restart(self.streams.position)

    def close(self) -> None:
        """The last member has left."""
        self._stop_waiting()
        self.ring.close()

    def _send(self, seq: int, payload: bytes, cursor: str) -> None:
        """The hot loop: this runs once per subscriber and item."""
        members = self._snapshot
        if members is None:
            members = self._snapshot = tuple(self._live)
        self.sent += 1
        full = [member for member in members if seq > member.position and not member.deliver(payload, cursor)]
        self.streams.counters.delivered += len(members)
        for member in full:
            if not member.left:
                self.detach(member, seq)
                self.streams.catch_up(member)

    def _wait_for(self, rendered: _Rendered) -> None:
        self._waiting.append(rendered)
        if len(self._waiting) > MAX_RENDERING:
            self._shed()
        elif self._drainer is None or self._drainer.done():
            self._drainer = asyncio.create_task(self._drain(), name="cohort-rendering")

    def _stop_waiting(self) -> None:
        """Nobody is live: who will be must not have to wait for renderings that were for others."""
        self._waiting.clear()
        drainer, self._drainer = self._drainer, None
        if drainer is not None:
            drainer.cancel()

    async def _drain(self) -> None:
        while self._waiting:
            item, payload = self._waiting[0]
            try:
                if not isinstance(payload, bytes):
                    payload = await asyncio.shield(payload)
            except Exception as error:
                self._fail(error)
                return
            self._send(item.seq, payload, item.cursor)
            # The queue has gone where this has made the last live reader full, or leave.
            if self._waiting:
                self._waiting.popleft()

    def _shed(self) -> None:
        """Rendering cannot keep up: hold nothing, and let each member read on from where it is."""
        position = self.position
        members = tuple(self._live)
        for member in members:
            self.detach(member, max(member.position, position))
        for member in members:
            self.streams.catch_up(member)

    def _fail(self, error: Exception) -> None:
        _logger.error("cohort.rendering_failed", exc_info=error)
        self.fail_all(error)


class LaneStreams:
    """Everybody who streams one lane of one project here: the feed's follower. Exists while it has members."""

    def __init__(
        self,
        feed: Feed,
        *,
        cursors: CursorCodec,
        quota: RingQuota,
        counters: StreamCounters,
        catch_up: Callable[[Member], None],
    ) -> None:
        self.feed = feed
        self.kind = feed.kind
        self.position = feed.last
        self.quota = quota
        self.counters = counters
        self.catch_up = catch_up
        self.members: set[Member] = set()
        self._cursors = cursors
        self._cursor_memo: tuple[int, int, str] = (-1, -1, "")
        self._cohorts: dict[Hashable, Cohort] = {}
        self._outputs: dict[Hashable, Output] = {}
        self._index: FilterIndex[Cohort, Any, Any] = FilterIndex(feed.kind.matching)
        feed.followers.append(self)

    @property
    def project_id(self) -> UUID:
        """The project."""
        return self.feed.project_id

    def cohort(
        self,
        *,
        audience: Hashable,
        rendering: Rendering,
        item_filter: Any,
        convert: Callable[[StreamItem[Any]], object],
    ) -> Cohort:
        """The cohort of these, made where it is new. Raises `ValueError` for a filter that an item cannot decide."""
        output_key = (audience, rendering.key)
        key = (output_key, self.kind.matching.key(item_filter))
        cohort = self._cohorts.get(key)
        if cohort is None:
            output = self._outputs.get(output_key) or Output(self.kind, output_key, rendering, convert, self.counters)
            cohort = Cohort(self, key, output, item_filter)
            self._index.add(cohort, item_filter)
            self._cohorts[key] = cohort
            self._outputs[output_key] = output
            output.cohorts += 1
            self.counters.cohorts += 1
        return cohort

    def add(self, member: Member) -> None:
        """A member has joined; it is attached, or catches up, by whoever made it."""
        self.members.add(member)
        member.cohort.size += 1

    def remove(self, member: Member) -> None:
        """A member has left. Its cohort goes with its last one."""
        self.members.discard(member)
        member.cohort.size -= 1
        if member.cohort.size == 0:
            self._remove_cohort(member.cohort)

    def close(self) -> None:
        """The last member has left."""
        self.feed.followers.remove(self)

    def cursor_at(self, position: int) -> str:
        """The signed position, computed once for all who stand there."""
        epoch = self.feed.epoch
        if self._cursor_memo[:2] != (epoch, position):
            cursor = Cursor(self.kind.cursor, self.project_id, epoch, (position,))
            self._cursor_memo = (epoch, position, self._cursors.encode(cursor))
        return self._cursor_memo[2]

    def advance(self, records: Sequence[LaneRecord], reached: int) -> None:
        """See `Follower`."""
        for record in records:
            try:
                cohorts = self._index.match(record)
            except Exception as error:
                _logger.error("streams.matching_failed", exc_info=error)
                self._fail_all(error)
                cohorts = []
            if cohorts:
                self._offer(record, cohorts)
            self.position = record.seq
        self.position = reached

    def expire(self) -> None:
        """See `Follower`."""
        self.position = self.feed.last
        self._fail_all(CursorExpired(LOG_REPLACED))

    def forget(self) -> None:
        """Keep no item any more. Who reads on from before finds them in the log, if they are there."""
        for cohort in self._cohorts.values():
            cohort.forget()

    def _fail_all(self, error: Exception) -> None:
        for member in tuple(self.members):
            member.fail(error)

    def _remove_cohort(self, cohort: Cohort) -> None:
        del self._cohorts[cohort.key]
        self._index.remove(cohort, cohort.item_filter)
        cohort.close()
        self.counters.cohorts -= 1
        cohort.output.cohorts -= 1
        if cohort.output.cohorts == 0:
            del self._outputs[cohort.output.key]

    def _offer(self, record: LaneRecord, cohorts: list[Cohort]) -> None:
        cursor = self.cursor_at(record.seq)
        items: dict[Any, Item] = {}
        for cohort in cohorts:
            item = items.get(cohort.output)
            if item is None:
                item = items[cohort.output] = Item(record, cursor, cohort.output)
            cohort.advance(item)
