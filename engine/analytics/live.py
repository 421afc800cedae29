"""Funnels that are followed: the report at once, and again whenever it has changed.

Guarantees: what is pushed is what a query answers at that moment; equal inputs of a project share one computation,
which follows the events lane and begins again after events that may matter, at most once per interval; an event of a
type, with properties or of a time that the funnel does not ask for costs it nothing. Time passing alone is looked at
every `RECHECK`. Who reads slowly keeps nothing waiting: the newest report replaces those that were not read.
An event may matter to a funnel that asks about its type, to every funnel that looks at whole people (STRICT, traits,
counts, audiences), and, where it tells for the first time whose an anonymous id is, to all of the project.
Leaves to others: rights, sockets, encoding.
Stops when `stop` is awaited: whoever follows is told to come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from db.analytics_terms import Step, reads_people
from db.failures import is_passing
from db.filters import EVERYTHING, EventFilter
from db.funnels import FunnelOrder
from db.records import EventRecord
from engine.analytics.funnels import FunnelQuestion, FunnelReport, answer_funnel, read_funnel_input
from engine.analytics.pool import AnalyticsPool
from engine.clock import Clock
from engine.errors import GatewayError, RateLimited, Unavailable
from engine.filter_index import FilterIndex
from engine.lanes import EVENTS
from engine.live.feed import Feed
from engine.live.hub import Hub
from engine.tasks import end_tasks

MAX_FUNNELS = 50
"""Different ones of one project that are followed in one gateway: each may ask the database once per interval."""
RECHECK = timedelta(seconds=60)
"""A period that ends now moves on, and with it who is in it: a day's worth of events leaves in 1,440 steps."""
START_TIMEOUT_SECONDS = 10.0
DEVICE_TAKEOVER = "auth.device_takeover"
"""Whatever another user did is somebody's from then on."""
ERASURE_COMPLETED = "consent.erasure_completed"
"""Whatever that person did counts no more."""
MAX_KNOWN_IDS = 50_000
"""Anonymous ids of one project that are known to be somebody's. Beyond it they are learnt anew."""
_INPUT = ("input",)

_logger = logging.getLogger(__name__)

Key: TypeAlias = tuple[UUID, bytes, timedelta]
"""Project, input, interval."""


class LiveFunnelStats(msgspec.Struct, frozen=True):
    """How many are followed, and how often any was counted."""

    followed: int
    counted: int


class LiveFunnels:
    """All followed funnels of a gateway. Belongs to one event loop."""

    def __init__(self, hub: Hub, pool: AnalyticsPool, clock: Clock) -> None:
        self.hub = hub
        self.pool = pool
        self.clock = clock
        self.counted = 0
        self._funnels: dict[Key, _LiveFunnel] = {}
        self._followed: dict[Feed, _FollowedLane] = {}
        self._ended: set[asyncio.Task[None]] = set()
        self._stopped = False

    def stats(self) -> LiveFunnelStats:
        """What it does now."""
        return LiveFunnelStats(len(self._funnels), self.counted)

    async def follow(
        self, project_id: UUID, given: Mapping[str, Any], interval: timedelta
    ) -> AsyncGenerator[FunnelReport, None]:
        """The reports on a FunnelInput that was found right. Raises what counting raises, and `RateLimited`."""
        funnel = self._join(project_id, given, interval)
        seen = 0
        try:
            while True:
                report, seen = await funnel.newer_than(seen)
                yield report
        finally:
            self._leave(funnel)

    async def stop(self) -> None:
        """End everything that runs."""
        self._stopped = True
        funnels = list(self._funnels.values())
        for funnel in funnels:
            funnel.fail(_stopping())
        await end_tasks([*(funnel.running for funnel in funnels), *self._ended])

    def lane_of(self, feed: Feed) -> _FollowedLane:
        """What tells a project's funnels of events."""
        lane = self._followed.get(feed)
        if lane is None:
            lane = self._followed[feed] = _FollowedLane()
            feed.followers.append(lane)
        return lane

    def close_if_idle(self, feed: Feed) -> None:
        """Nobody may listen any more."""
        lane = self._followed.get(feed)
        if lane is not None and not lane.funnels:
            feed.followers.remove(lane)
            del self._followed[feed]

    def _join(self, project_id: UUID, given: Mapping[str, Any], interval: timedelta) -> _LiveFunnel:
        if self._stopped:
            raise _stopping()
        key = (project_id, _canonical(given), interval)
        funnel = self._funnels.get(key)
        if funnel is None or funnel.error is not None:
            if sum(each.project_id == project_id for each in self._funnels.values()) >= MAX_FUNNELS:
                raise RateLimited(f"This project follows {MAX_FUNNELS} funnels here already.", retry_after_ms=5_000)
            funnel = self._funnels[key] = _LiveFunnel(self, key, given)
        funnel.followers += 1
        return funnel

    def _leave(self, funnel: _LiveFunnel) -> None:
        funnel.followers -= 1
        if funnel.followers:
            return
        if self._funnels.get(funnel.key) is funnel:
            del self._funnels[funnel.key]
        funnel.running.cancel()
        self._ended.add(funnel.running)
        funnel.running.add_done_callback(self._ended.discard)


class _LiveFunnel:
    """One funnel, its newest report, and the task that counts it."""

    def __init__(self, owner: LiveFunnels, key: Key, given: Mapping[str, Any]) -> None:
        self.key = key
        self.project_id = key[0]
        self.followers = 0
        self.error: BaseException | None = None
        self.may_differ = asyncio.Event()
        self._owner = owner
        self._given = given
        self._interval = key[2].total_seconds()
        self._report: FunnelReport | None = None
        self._version = 0
        self._changed = asyncio.Event()
        self.running = asyncio.create_task(self._run(), name="live-funnel")

    async def newer_than(self, version: int) -> tuple[FunnelReport, int]:
        """The newest report, once there is one after `version`. Raises what ended it."""
        while self.error is None and self._version == version:
            await self._changed.wait()
        if self.error is not None or self._report is None:
            raise self.error or _stopping()
        return self._report, self._version

    def fail(self, error: BaseException) -> None:
        """End it for all who follow."""
        self.error = error
        self._changed.set()

    async def _run(self) -> None:
        try:
            await self._count_while_followed()
        except TimeoutError:
            self.fail(Unavailable("The database cannot be reached now: try again.", retry_after_ms=1_000))
        except Exception as error:
            if not isinstance(error, GatewayError):
                _logger.exception("live_funnels.counting_failed")
            self.fail(error)

    async def _count_while_followed(self) -> None:
        filters = filters_of(self._ask(self._owner.clock.now()), self._given)
        async with asyncio.timeout(START_TIMEOUT_SECONDS):
            watch = await self._owner.hub.watch(self.project_id, EVENTS)
        lane = self._owner.lane_of(watch.feed)
        lane.add(self, filters)
        try:
            await self._keep_counting()
        finally:
            lane.remove(self)
            self._owner.close_if_idle(watch.feed)
            watch.release()

    async def _keep_counting(self) -> None:
        while True:
            self.may_differ.clear()
            try:
                self._publish(await self._count())
            except Exception as error:
                if not _passes(error):
                    raise
                self.may_differ.set()
            await asyncio.sleep(self._interval)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RECHECK.total_seconds()):
                    await self.may_differ.wait()

    async def _count(self) -> FunnelReport:
        now = self._owner.clock.now()
        async with self._owner.pool.connection(self.project_id) as connection:
            self._owner.counted += 1
            return await answer_funnel(connection, project_id=self.project_id, asked=self._ask(now), now=now)

    def _ask(self, now: datetime) -> FunnelQuestion:
        return read_funnel_input(self._given, now=now)

    def _publish(self, report: FunnelReport) -> None:
        if self._report is not None and _same(report, self._report):
            return
        self._report = report
        self._version += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class _FollowedLane:
    """Tells the funnels of one project which of them an event may matter to. A `Follower` of the feed."""

    def __init__(self) -> None:
        self.funnels: dict[_LiveFunnel, Sequence[EventFilter]] = {}
        self._index: FilterIndex[tuple[_LiveFunnel, int], EventFilter, EventRecord] = FilterIndex(EVENTS.matching)
        self._known_ids: set[str] = set()

    def add(self, funnel: _LiveFunnel, filters: Sequence[EventFilter]) -> None:
        self.funnels[funnel] = filters
        for number, event_filter in enumerate(filters):
            self._index.add((funnel, number), event_filter)

    def remove(self, funnel: _LiveFunnel) -> None:
        for number, event_filter in enumerate(self.funnels.pop(funnel)):
            self._index.remove((funnel, number), event_filter)

    def advance(self, records: Sequence[EventRecord], reached: int) -> None:  # noqa: ARG002
        """See `Follower`."""
        for record in records:
            if record.event_type == ERASURE_COMPLETED:
                self._forget()
            self._match(record)
            if record.user_id is not None and record.anonymous_id is not None:
                self._learn(record.anonymous_id)
            if record.event_type == DEVICE_TAKEOVER:
                self._all_may_differ()

    def _match(self, record: EventRecord) -> None:
        try:
            for funnel, _ in self._index.match(record):
                funnel.may_differ.set()
        except Exception:
            _logger.exception("live_funnels.matching_failed")
            self._all_may_differ()

    def expire(self) -> None:
        """See `Follower`."""
        self._forget()

    def _forget(self) -> None:
        """Somebody was erased, or the log is another one: anything may differ, and nobody is known any more."""
        self._known_ids.clear()
        self._all_may_differ()

    def _learn(self, anonymous_id: str) -> None:
        if anonymous_id in self._known_ids:
            return
        if len(self._known_ids) >= MAX_KNOWN_IDS:
            self._known_ids.clear()
        self._known_ids.add(anonymous_id)
        self._all_may_differ()

    def _all_may_differ(self) -> None:
        for funnel in self.funnels:
            funnel.may_differ.set()


def filters_of(asked: FunnelQuestion, given: Mapping[str, Any]) -> list[EventFilter]:
    """The events that may matter to a funnel: those that any of the filters matches. Pure."""
    funnel = asked.funnel
    counted = (*funnel.steps, *funnel.exclude)
    whole_people = (
        funnel.order is FunnelOrder.STRICT
        or asked.audience_id is not None
        or (funnel.group is not None and funnel.group.root == "profile")
        or any(reads_people(step.where) for step in counted)
    )
    if whole_people:
        return [EVERYTHING]
    since = (asked.period.before() if asked.compare else asked.period).since
    return [_filter_of(step, since, given.get("until")) for step in _different(counted)]


def _filter_of(step: Step, since: datetime, until: datetime | None) -> EventFilter:
    return EventFilter(event_types=step.event_types, since=since, until=until, where=step.where)


def _different(steps: Iterable[Step]) -> list[Step]:
    found: dict[bytes, Step] = {}
    for step in steps:
        found.setdefault(msgspec.json.encode((step.event_types, step.where)), step)
    return list(found.values())


def _canonical(given: Mapping[str, Any]) -> bytes:
    said = {name: value for name, value in given.items() if value is not None}
    return msgspec.json.encode(said, order="sorted")


def _same(one: FunnelReport, other: FunnelReport) -> bool:
    """Whether they say the same, whenever they were made."""
    return _timeless(one, other.as_of) == _timeless(other, other.as_of)


def _timeless(report: FunnelReport, as_of: datetime) -> FunnelReport:
    previous = None if report.previous is None else _timeless(report.previous, as_of)
    return msgspec.structs.replace(report, as_of=as_of, previous=previous)


def _passes(error: BaseException) -> bool:
    return isinstance(error, RateLimited | Unavailable | TimeoutError) or is_passing(error)


def _stopping() -> Unavailable:
    return Unavailable("This gateway is stopping.", retry_after_ms=1_000)
