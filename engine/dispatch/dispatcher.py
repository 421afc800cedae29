"""The dispatcher: one per worker process; takes what is due of a project, sends it, writes down what became of it.

Guarantees: a delivery is sent only after the commit that made it SENDING under our lease, only while enough of that
lease is left for the whole attempt, and settled only under it; so two workers never make the same attempt, and what a
dead one held is decided by `take_over`. No connection is held during an attempt. Whatever hangs or is overloaded delays
nobody else: attempts run in lanes (engine.dispatch.lanes), and what finds its lane full stays in the table, uncounted.
A project whose lane was full is drained on as soon as there is room, without anybody asking.

Leaves to others: calling `drain` for what is due now and `take_over` for leases that have ended (the sweeper's finders
are in db.dispatch); what a channel does; everything about the wire.
Stops with `stop`: no more claims; what is under way is finished and written, what was not begun is given back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgspec

from db.database import Database
from db.failures import is_passing
from db.push_tokens import is_token_of_owner
from engine.announcements import Announcement
from engine.channels.base import (
    SEND_TIMEOUT,
    Accepted,
    ChannelWork,
    Deferred,
    Outcome,
    Rejected,
    Unknown,
)
from engine.clock import Clock
from engine.dispatch import takeover
from engine.dispatch.claims import CLAIM_LIMIT, INTERNAL_ERROR, Claimed, Claims, Round
from engine.dispatch.lanes import LANE_LIMIT, PROCESS_LIMIT, Answer, Lanes, Slot
from engine.dispatch.neighbours import Neighbours
from engine.dispatch.settlement import Ended, Settlement
from engine.dispatch.values import Channel, DeliveryError, DeliveryStatus
from engine.tasks import end_tasks

LEASE = timedelta(seconds=60)
"""An attempt, and then time to write its outcome even through the restart of a PostgreSQL."""
LEASE_MARGIN = timedelta(seconds=10)
"""What must be left of a lease besides the attempt itself when it begins: for writing its outcome."""
DRAIN_SECONDS = 2.0
"""A drain that has more to do then lets its caller go, and goes on by itself: a job must not last for ever."""
REFILL_SECONDS = 0.005
"""How long a place in a lane stays free before it is filled again: many become free together, one claim fills them."""
CONTENDED_SECONDS = 0.005
"""Until we look again at a project that another worker is claiming for, or that deliveries were given back to. About
half of what a claim takes: so that a worker that claims without a pause does not keep the others out."""
BEGIN_AT_ONCE = 8
"""Attempts begun in one turn of the event loop: with more, whatever else is ready waits for longer."""
STOP_RESERVE = timedelta(seconds=3)
"""Of the grace in `stop`, for writing outcomes."""

ATTEMPT_SECONDS = (SEND_TIMEOUT + timedelta(seconds=1)).total_seconds()
"""A channel keeps `SEND_TIMEOUT` by itself; one that does not is cut off."""
OWNER_SURE_SECONDS = 0.5
"""How long after a claim nobody asks again whose the device is: half of what a device takeover waits for sends."""
NEEDED_SECONDS = ATTEMPT_SECONDS + LEASE_MARGIN.total_seconds()
"""An attempt with less of its lease left is not begun."""

_TIMED_OUT = DeliveryError("Timeout", "There was no answer in time. The message may have arrived.", permanent=False)
_CUT_OFF = DeliveryError(
    "WorkerStopped", "The worker stopped before there was an answer. The message may have arrived.", permanent=False
)

_logger = logging.getLogger(__name__)


class DispatcherStats(msgspec.Struct, frozen=True, kw_only=True):
    """Now: attempts under way, deliveries claimed and not settled, breakers that are not closed. Since the start:
    deliveries by the status that settling gave them, outcomes that came after their lease, settlements tried again.
    """

    sending: int
    held: int
    open_breakers: int
    settled: Mapping[DeliveryStatus, int]
    late: int
    retries: int


class Dispatcher:
    """Dispatches for one process. `announce` is called after each commit and must not block."""

    def __init__(
        self,
        database: Database,
        works: Mapping[Channel, ChannelWork],
        clock: Clock,
        announce: Callable[[Announcement], None],
        *,
        lease: timedelta = LEASE,
        lane_limit: int = LANE_LIMIT,
        process_limit: int = PROCESS_LIMIT,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if lease.total_seconds() <= NEEDED_SECONDS:
            raise ValueError("the lease is too short for an attempt and writing its outcome")
        self._database = database
        self._works = works
        self._clock = clock
        self._announce = announce
        self._monotonic = monotonic
        self._lanes = Lanes(lane_limit=lane_limit, process_limit=process_limit, monotonic=monotonic)
        self._neighbours = Neighbours(monotonic)
        self._lease_seconds = lease.total_seconds()
        self._claims = Claims(works=works, lanes=self._lanes, lease=lease, monotonic=monotonic)
        # Half of the connections each at most, so that neither can starve the other.
        share = max(1, database.max_size // 2)
        self._claimers = asyncio.Semaphore(share)
        self._settlement = Settlement(
            database, works, clock, announce, self._on_settled, writers=share, monotonic=monotonic
        )
        self._lined_up: dict[Slot, Claimed] = {}
        self._beginnings: dict[str, None] = {}
        self._sends: set[asyncio.Task[None]] = set()
        self._drains: dict[UUID, asyncio.Task[bool]] = {}
        self._again: set[UUID] = set()
        self._refills: dict[str, asyncio.TimerHandle] = {}
        self._recalls: dict[UUID, asyncio.TimerHandle] = {}
        self._stopping = False

    async def drain(self, project_id: UUID) -> None:
        """Claim and hand on what is due, until nothing is, there is no room, or `DRAIN_SECONDS` have passed.

        Attempts go on after it has returned, and so does draining, by itself, where there is more. Raises what the
        database raises; then nothing goes on by itself. A cancelled caller ends the drain; what it has claimed is sent.
        """
        if self._stopping:
            return
        if project_id in self._drains:
            self._again.add(project_id)
            return
        task = self._start_drain(project_id)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await end_tasks([task])
            raise

    async def step(self, project_id: UUID, *, after: str = "", limit: int = CLAIM_LIMIT) -> Round:
        """One round: claim up to `limit` deliveries, behind a dispatch key, and begin to send them."""
        async with self._claimers:
            return await self._claim(project_id, after, limit)

    async def take_over(self, project_id: UUID, limit: int = takeover.TAKE_OVER_LIMIT) -> int:
        """Decide about deliveries whose lease has ended; returns how many. Call again while it is `limit`."""
        async with self._database.transaction() as connection:
            taken = await takeover.take_over(connection, project_id=project_id, now=self._clock.now(), limit=limit)
        for announcement in taken.announcements:
            self._announce(announcement)
        if taken.due:
            self._recall(project_id, 0.0)
        return taken.count

    async def settled(self) -> None:
        """Return when nothing is being claimed, sent or written any more."""
        while (
            self._drains
            or self._sends
            or self._beginnings
            or self._refills
            or self._recalls
            or self._settlement.tasks()
        ):
            waited = [*self._drains.values(), *self._sends, *self._settlement.tasks()]
            if waited:
                await asyncio.wait(waited)
            else:
                await asyncio.sleep(REFILL_SECONDS)

    async def stop(self, grace: timedelta) -> None:
        """Claim no more, let attempts end and be written; after `grace`, what is left is take-over's."""
        self._stopping = True
        ends_at = self._monotonic() + grace.total_seconds()
        for timer in (*self._refills.values(), *self._recalls.values()):
            timer.cancel()
        self._refills.clear()
        self._recalls.clear()
        self._give_back(self._lined_up.values())
        self._lined_up.clear()
        await self._wait([*self._drains.values()], ends_at)
        await self._wait([*self._sends], ends_at - STOP_RESERVE.total_seconds())
        # An attempt that is cut off says so: nobody knows whether it was made.
        await end_tasks([*self._drains.values(), *self._sends])
        finishing = asyncio.create_task(self._settlement.finish(), name="settlement finish")
        await self._wait([finishing], ends_at)
        await end_tasks([finishing, *self._settlement.tasks()])

    def stats(self) -> DispatcherStats:
        """For metrics."""
        return DispatcherStats(
            sending=self._lanes.sending,
            held=self._lanes.held,
            open_breakers=self._lanes.open_breakers(),
            settled=MappingProxyType(dict(self._settlement.counts)),
            late=self._settlement.late,
            retries=self._settlement.retries,
        )

    # Draining.

    def _start_drain(self, project_id: UUID) -> asyncio.Task[bool]:
        task = asyncio.create_task(self._drain(project_id), name=f"drain {project_id}")
        self._drains[project_id] = task
        task.add_done_callback(lambda done: self._drain_ended(project_id, done))
        return task

    async def _drain(self, project_id: UUID) -> bool:
        """Whether it ended only because its time was over."""
        ends_at = self._monotonic() + DRAIN_SECONDS
        after, full = "", set[str]()
        while not self._stopping:
            self._again.discard(project_id)
            limit = self._neighbours.round_limit(project_id, CLAIM_LIMIT)
            found = await self.step(project_id, after=after, limit=limit)
            if found.candidates and not found.full_keys:
                self._neighbours.sent_little(project_id)
            if found.is_contended or (found.candidates and not found.count):
                self._recall(project_id, CONTENDED_SECONDS)
                return False
            full.update(found.full_keys)
            if self._monotonic() > ends_at:
                return True
            if found.next_key is None and not found.is_cut_short and not self._has_more(project_id, full):
                return False
            after = found.next_key or ""
            if not after:
                full.clear()
        return False

    def _has_more(self, project_id: UUID, full: set[str]) -> bool:
        """Whether there is something to claim right now; what there is no room for waits for its turn."""
        if project_id in self._again or any(self._lanes.room(project_id, key) for key in full):
            return True
        self._lanes.wait(project_id, full)
        return False

    def _drain_ended(self, project_id: UUID, task: asyncio.Task[bool]) -> None:
        del self._drains[project_id]
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            _logger.warning("drain.failed", extra={"project_id": str(project_id), "reason": type(error).__name__})
        elif task.result() or project_id in self._again:
            self._recall(project_id, 0.0)

    def _recall(self, project_id: UUID, delay: float) -> None:
        """Drain a project by ourselves, soon."""
        if not self._stopping and project_id not in self._recalls:
            timer = asyncio.get_running_loop().call_later(delay, self._drain_again, project_id)
            self._recalls[project_id] = timer

    def _drain_again(self, project_id: UUID) -> None:
        del self._recalls[project_id]
        if project_id in self._drains:
            self._again.add(project_id)
        else:
            self._start_drain(project_id)

    def _refill_soon(self, lane: str) -> None:
        if not self._stopping and lane not in self._refills:
            self._refills[lane] = asyncio.get_running_loop().call_later(REFILL_SECONDS, self._refill, lane)

    def _refill(self, lane: str) -> None:
        del self._refills[lane]
        for project_id in self._lanes.called(lane):
            self._recall(project_id, 0.0)

    # Claiming.

    async def _claim(self, project_id: UUID, after: str, limit: int) -> Round:
        """Claim; what cannot be prepared or written is found by halving, and put off alone."""
        try:
            return await self._try_claim(project_id, after, limit)
        except _ClaimFailed as failure:
            if len(failure.delivery_ids) > 1:
                return await self._claim(project_id, after, len(failure.delivery_ids) // 2)
            names = {"project_id": str(project_id), "delivery_id": str(failure.delivery_ids[0])}
            _logger.error("claim.failed", extra=names, exc_info=failure.__cause__)
            return await self._try_claim(project_id, after, 1, faulty=failure.delivery_ids)

    async def _try_claim(self, project_id: UUID, after: str, limit: int, faulty: Sequence[UUID] = ()) -> Round:
        """One round. Every place taken for it is given back, or goes with what was claimed.

        Without a transaction around it its last statement is the commit. What is found to need one is found anew.
        """
        in_transaction = self._claims.needs_transaction(project_id)
        places: dict[UUID, Slot] = {}
        tentative: list[Claimed] = []
        claimed: Sequence[Claimed] = ()
        is_begun = False
        try:
            async with self._database.transaction() if in_transaction else self._database.connection() as connection:
                found = await self._claims.select(
                    connection, project_id=project_id, now=self._clock.now(), after=after, limit=limit, places=places
                )
                if found.candidates and (in_transaction or not found.needs_transaction):
                    found = await self._claims.claim(
                        connection, found, places=places, faulty=faulty, tentative=tentative
                    )
                    claimed = found.claimed
                    if not in_transaction:
                        # It is committed. Giving the connection back takes some turns of a busy event loop.
                        is_begun = True
                        self._begin_round(found)
            if not is_begun:
                is_begun = True
                self._begin_round(found)
        except Exception as error:
            if is_begun:
                raise
            if not in_transaction and is_passing(error):
                claimed = tentative
            self._give_back(claimed)
            if claimed or not places or is_passing(error):
                raise
            raise _ClaimFailed(tuple(places)) from error
        except BaseException:
            if not is_begun:
                claimed = claimed if in_transaction else tentative
                self._give_back(claimed)
            raise
        finally:
            for delivery_id in places.keys() - {each.delivery.delivery_id for each in claimed}:
                self._leave_lane(places[delivery_id], "unused")
                self._lanes.leave_process(places[delivery_id])
        if found.needs_transaction and not in_transaction:
            return await self._try_claim(project_id, after, limit, faulty)
        return found

    def _give_back(self, claimed: Iterable[Claimed]) -> None:
        """Their commit may have been made, or not: if it was, they are QUEUED again."""
        for each in claimed:
            self._leave_lane(each.slot, "unused")
            self._settlement.add(Ended(each, None, self._clock.now()))

    # Sending.

    def _begin_round(self, found: Round) -> None:
        """Announce what was committed, and send what was claimed."""
        for announcement in found.announcements:
            self._announce(announcement)
        self._line_up(found.claimed)

    def _line_up(self, claimed: Sequence[Claimed]) -> None:
        """Send them as soon as their lanes have a place."""
        if self._stopping:
            self._give_back(claimed)
            return
        for each in claimed:
            self._lined_up[each.slot] = each
            self._lanes.line_up(each.slot)
        for lane in {each.slot.lane for each in claimed}:
            self._begin(lane)

    def _begin(self, lane: str) -> None:
        """Begin what a lane has a place for, a few in each turn of the event loop."""
        if not self._beginnings:
            asyncio.get_running_loop().call_soon(self._begin_some)
        self._beginnings[lane] = None

    def _begin_some(self) -> None:
        """One of each lane in turn."""
        left = 0 if self._stopping else BEGIN_AT_ONCE
        while self._beginnings and left:
            lane = next(iter(self._beginnings))
            del self._beginnings[lane]
            for slot in self._lanes.begin(lane, 1):
                task = asyncio.create_task(self._send(self._lined_up.pop(slot)))
                self._sends.add(task)
                task.add_done_callback(self._sends.discard)
                self._beginnings[lane] = None
                left -= 1
        if self._stopping:
            self._beginnings.clear()
        elif self._beginnings:
            asyncio.get_running_loop().call_soon(self._begin_some)

    async def _send(self, claimed: Claimed) -> None:
        """One attempt, if it may still be made."""
        at, began = self._clock.now(), self._monotonic()
        outcome: Outcome | None = None
        if (
            not self._stopping
            and claimed.lease.ends_at - began >= NEEDED_SECONDS
            and self._lanes.may_send(claimed.slot)
            and await self._is_still_owned(claimed, began)
        ):
            outcome = await self._attempt(claimed)
        duration_ms = round((self._monotonic() - began) * 1000)
        self._leave_lane(claimed.slot, _answer(outcome))
        self._settlement.add(Ended(claimed, outcome, at, duration_ms))

    async def _is_still_owned(self, claimed: Claimed, now: float) -> bool:
        """Whether a device that was claimed some time ago still belongs to whom the message is for.

        Only a round of claims decides; what is doubtful is given back to one. Younger claims are waited for by whoever
        moves a device to somebody else (`engine.push.in_flight`).
        """
        delivery, age = claimed.delivery, self._lease_seconds - (claimed.lease.ends_at - now)
        if delivery.push_token_id is None or delivery.owner_generation is None or age < OWNER_SURE_SECONDS:
            return True
        try:
            async with self._database.connection() as connection:
                return await is_token_of_owner(
                    connection,
                    project_id=delivery.project_id,
                    push_token_id=delivery.push_token_id,
                    owner_generation=delivery.owner_generation,
                )
        except Exception as error:
            _logger.warning("send.owner_unknown", extra={"reason": type(error).__name__})
            return False

    async def _attempt(self, claimed: Claimed) -> Outcome:
        """What a channel answers. Whatever goes wrong in it, the request may have gone out."""
        work = self._works[Channel(claimed.delivery.channel)]
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                return await work.send(claimed.message)
        except TimeoutError:
            return Unknown(error=_TIMED_OUT)
        except asyncio.CancelledError:
            return Unknown(error=_CUT_OFF)
        except Exception:
            names = {"delivery_id": str(claimed.delivery.delivery_id), "channel": claimed.delivery.channel}
            _logger.exception("send.failed", extra=names)
            return Unknown(error=INTERNAL_ERROR)

    def _leave_lane(self, slot: Slot, answer: Answer) -> None:
        self._lanes.leave_lane(slot, answer)
        self._begin(slot.lane)
        self._refill_soon(slot.lane)

    def _on_settled(self, ended: Sequence[Ended]) -> None:
        for each in ended:
            self._lanes.leave_process(each.claimed.slot)
        self._refill_soon(ended[0].claimed.slot.lane)
        if any(each.outcome is None for each in ended):
            self._recall(ended[0].claimed.delivery.project_id, CONTENDED_SECONDS)

    async def _wait(self, tasks: Sequence[asyncio.Task[Any]], ends_at: float) -> None:
        if tasks:
            await asyncio.wait(tasks, timeout=max(0.0, ends_at - self._monotonic()))


class _ClaimFailed(Exception):
    """A round whose deliveries could not be prepared or written, for no passing reason."""

    def __init__(self, delivery_ids: tuple[UUID, ...]) -> None:
        super().__init__(f"{len(delivery_ids)} deliveries could not be claimed")
        self.delivery_ids = delivery_ids


def _answer(outcome: Outcome | None) -> Answer:
    """What an outcome says of the host or account."""
    match outcome:
        case None:
            return "unused"
        case Accepted() | Rejected() | Deferred(is_account=False):
            return "answered"
        case Deferred() | Unknown():
            return "failed"
