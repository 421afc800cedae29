"""Writing down what became of attempts: gathered per project, a round of them in one transaction.

Guarantees: an outcome is written with its attempt, transition and events, or not at all; only by whoever still holds
the delivery's lease (the fence: a row that was taken over meanwhile keeps what take-over decided, but the attempt is
kept, in place of the one that take-over assumed). What passes by itself (deadlocks, a restarting database) is tried
again until the last lease of the round has ended; from then on take-over decides. One delivery whose outcome cannot be
processed does not stop the others of its round. A project has one such transaction under way; announcements come after
its commit.

`ChannelWork.settle` may see an outcome more than once (when the answer to a COMMIT was lost), and outcomes of lost
leases too: what they say of an address is true all the same. So its events need keys of their own.
Leaves to others: the places that deliveries hold (`on_settled`), and when to stop waiting.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.database import Database
from db.deliveries import hold_deliveries
from db.delivery_records import NewTransition
from db.dispatch import SettlementWrite, write_settlements
from db.failures import is_passing
from db.records import NewEvent
from engine.announcements import Announcement
from engine.backoff import Backoff
from engine.channels.base import Accepted, Answer, ChannelWork, Outcome, Settled
from engine.clock import Clock
from engine.dispatch.announcing import announcements_of
from engine.dispatch.claims import Claimed
from engine.dispatch.ledger import record
from engine.dispatch.retry import Plan, Verdict, judge
from engine.dispatch.status import event_of, transition_of
from engine.dispatch.values import Channel, DeliveryError, DeliveryStatus

if TYPE_CHECKING:
    import asyncpg

GATHER_SECONDS = 0.005
"""How long the first outcome of a round waits for others: less than a commit takes."""
ROUND_LIMIT = 100
"""Outcomes in one transaction: more than come while one is written. With more another project waits for longer."""
MAX_BODY_BYTES = 4096
MAX_TEXT_CHARACTERS = 2000
"""Of a provider's words. Cut here, whatever a channel lets through."""
FIRST_RETRY = 0.05
LAST_RETRY = 1.0
"""Seconds between tries of one transaction."""

_logger = logging.getLogger(__name__)


class Ended(msgspec.Struct, frozen=True, eq=False):
    """An attempt that has ended. `outcome` is None when it was not made: then the delivery is given back.

    `at` is business time, when it began.
    """

    claimed: Claimed
    outcome: Outcome | None
    at: datetime
    duration_ms: int = 0


class _Gathering:
    """What waits for a project's next round, and the task that makes the rounds."""

    def __init__(self) -> None:
        self.waiting: deque[Ended] = deque()
        self.is_full = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def take(self) -> list[Ended]:
        taken = [self.waiting.popleft() for _ in range(min(len(self.waiting), ROUND_LIMIT))]
        if len(self.waiting) < ROUND_LIMIT:
            self.is_full.clear()
        return taken


class Settlement:
    """Writes outcomes for one process. `writers` bounds its transactions at once."""

    def __init__(
        self,
        database: Database,
        works: Mapping[Channel, ChannelWork],
        clock: Clock,
        announce: Callable[[Announcement], None],
        on_settled: Callable[[Sequence[Ended]], None],
        *,
        writers: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._works = works
        self._clock = clock
        self._announce = announce
        self._on_settled = on_settled
        self._writers = asyncio.Semaphore(writers)
        self._monotonic = monotonic
        self._gatherings: dict[UUID, _Gathering] = {}
        self._is_hurried = False
        self.counts: dict[DeliveryStatus, int] = {}
        self.late = 0
        self.retries = 0

    def add(self, ended: Ended) -> None:
        """Write this soon. Never blocks."""
        project_id = ended.claimed.delivery.project_id
        gathering = self._gatherings.get(project_id)
        if gathering is None:
            gathering = self._gatherings[project_id] = _Gathering()
            gathering.task = asyncio.create_task(self._run(project_id, gathering), name=f"settle {project_id}")
        gathering.waiting.append(ended)
        if self._is_hurried or len(gathering.waiting) >= ROUND_LIMIT:
            gathering.is_full.set()

    async def finish(self) -> None:
        """Return when everything is written or given up. Nobody waits for company any more."""
        self._is_hurried = True
        while self._gatherings:
            for gathering in self._gatherings.values():
                gathering.is_full.set()
            await asyncio.wait([each.task for each in self._gatherings.values() if each.task is not None])

    def tasks(self) -> list[asyncio.Task[None]]:
        """The rounds under way, for whoever must end them."""
        return [each.task for each in self._gatherings.values() if each.task is not None]

    async def _run(self, project_id: UUID, gathering: _Gathering) -> None:
        """Make rounds until nothing waits."""
        try:
            await _wait_at_most(gathering.is_full, GATHER_SECONDS)
            while gathering.waiting:
                ended = gathering.take()
                try:
                    async with self._writers:
                        await self._settle(project_id, ended)
                finally:
                    self._on_settled(ended)
        finally:
            del self._gatherings[project_id]

    async def _settle(self, project_id: UUID, ended: Sequence[Ended]) -> None:
        """Write a round; where it cannot be processed, halves of it, down to the one that is to blame."""
        try:
            await self._until_it_passes(project_id, ended, heed=True)
        except Exception as error:
            if is_passing(error):
                _logger.error(
                    "settlement.given_up", extra={"project_id": str(project_id), "reason": type(error).__name__}
                )
            elif len(ended) > 1:
                await self._settle(project_id, ended[: len(ended) // 2])
                await self._settle(project_id, ended[len(ended) // 2 :])
            else:
                _logger.exception("settlement.failed", extra=_names(ended[0]))
                await self._settle_bare(project_id, ended)

    async def _settle_bare(self, project_id: UUID, ended: Sequence[Ended]) -> None:
        """The outcome alone, without what its channel would make of it."""
        try:
            await self._until_it_passes(project_id, ended, heed=False)
        except Exception:
            _logger.exception("settlement.given_up", extra=_names(ended[0]))

    async def _until_it_passes(self, project_id: UUID, ended: Sequence[Ended], *, heed: bool) -> None:
        """Try at least once, and again after whatever passes by itself, while a lease of the round lasts."""
        backoff = Backoff(first=FIRST_RETRY, cap=LAST_RETRY)
        ends_at = max(each.claimed.lease.ends_at for each in ended)
        while True:
            try:
                announcements = await self._write(project_id, ended, heed=heed)
                break
            except Exception as error:
                if not is_passing(error) or self._monotonic() > ends_at:
                    raise
            self.retries += 1
            await backoff.wait()
        for announcement in announcements:
            self._announce(announcement)

    async def _write(self, project_id: UUID, ended: Sequence[Ended], *, heed: bool) -> tuple[Announcement, ...]:
        now = self._clock.now()
        verdicts = [_verdict(each, now) for each in ended]
        writes = [_write_of(each, verdict, now) for each, verdict in zip(ended, verdicts, strict=True)]
        news = [_news(each, verdict) for each, verdict in zip(ended, verdicts, strict=True)]
        async with self._database.transaction() as connection:
            events = await self._heed(connection, project_id, ended, now) if heed else []
            # The head of events is locked before that of transitions.
            at_once = not events and not any(event for _, event in news)
            written = await write_settlements(
                connection, project_id=project_id, settlements=writes, now=now, with_transitions=at_once
            )
            transitions: list[NewTransition] = []
            for each, (transition, event) in zip(ended, news, strict=True):
                if (each.claimed.delivery.delivery_id, each.claimed.lease.token) in written.items:
                    transitions.append(transition)
                    events += event
            if at_once:
                announcements = announcements_of(project_id, written, transitions, now)
            else:
                announcements = await record(
                    connection, project_id=project_id, transitions=transitions, events=events, now=now
                )
        self.late += len(ended) - len(transitions)
        for transition in transitions:
            status = DeliveryStatus(transition.to_status)
            self.counts[status] = self.counts.get(status, 0) + 1
        return announcements

    async def _heed(
        self, connection: asyncpg.Connection, project_id: UUID, ended: Sequence[Ended], now: datetime
    ) -> list[NewEvent]:
        """What outcomes mean beyond their deliveries, channel by channel in one order.

        Of a delivery whose person was erased meanwhile nothing is written: not even that an address is dead. Webhooks
        are about endpoints.
        """
        groups: dict[str, list[Settled]] = {}
        personal = [each.claimed.delivery for each in ended if each.claimed.delivery.channel != Channel.WEBHOOK]
        held = {each.claimed.delivery.delivery_id for each in ended} - {each.delivery_id for each in personal}
        if personal:
            ids = [each.delivery_id for each in personal]
            held |= await hold_deliveries(connection, project_id=project_id, delivery_ids=ids)
        for each in ended:
            delivery = each.claimed.delivery
            if each.outcome is not None and delivery.delivery_id in held:
                groups.setdefault(delivery.channel, []).append(Settled(delivery, each.claimed.message, each.outcome))
        events: list[NewEvent] = []
        for channel in sorted(groups):
            work = self._works[Channel(channel)]
            events += await work.settle(connection, project_id=project_id, settled=groups[channel], now=now)
        return events


def plan_of(claimed: Claimed) -> Plan:
    """Where in its schedule a delivery stands after the attempt that it was claimed for."""
    delivery = claimed.delivery
    return Plan(
        channel=Channel(delivery.channel),
        schedule=delivery.retry_schedule,
        schedule_offset=delivery.schedule_offset,
        attempt_number=delivery.attempt_count,
        repeatable=delivery.repeatable,
    )


def storable(text: str | None, limit: int = MAX_TEXT_CHARACTERS) -> str | None:
    """What PostgreSQL can hold of a provider's text, at most `limit` bytes of it."""
    if text is None:
        return None
    return text.replace("\0", "\ufffd").encode(errors="replace")[:limit].decode(errors="ignore")


def _verdict(ended: Ended, now: datetime) -> Verdict:
    if ended.outcome is None:
        return Verdict(DeliveryStatus.QUEUED, None, now)
    return judge(
        plan_of(ended.claimed),
        ended.outcome,
        now=now,
        jitter=random.random(),  # noqa: S311
    )


def _write_of(ended: Ended, verdict: Verdict, now: datetime) -> SettlementWrite:
    delivery, outcome = ended.claimed.delivery, ended.outcome
    if outcome is None:
        return SettlementWrite(
            delivery_id=delivery.delivery_id,
            lease_token=ended.claimed.lease.token,
            status=verdict.status,
            next_attempt_at=now,
            attempt_count=delivery.attempt_count - 1,
            schedule_offset=delivery.schedule_offset,
            error_code=delivery.error_code,
            error_message=delivery.error_message,
            error_permanent=delivery.error_permanent,
            error_hint=delivery.error_hint,
        )
    answer: Answer = outcome.answer
    error = verdict.error
    return SettlementWrite(
        delivery_id=delivery.delivery_id,
        lease_token=ended.claimed.lease.token,
        status=verdict.status,
        next_attempt_at=verdict.next_attempt_at,
        attempt_count=delivery.attempt_count,
        schedule_offset=delivery.schedule_offset,
        provider_message_id=storable(outcome.provider_message_id) if isinstance(outcome, Accepted) else None,
        error_code=storable(error.code) if error else None,
        error_message=storable(error.message) if error else None,
        error_permanent=error.permanent if error else None,
        error_hint=storable(error.hint) if error else None,
        number=delivery.attempt_count,
        at=ended.at,
        duration_ms=ended.duration_ms,
        status_code=answer.status_code,
        response_body=storable(answer.response_body, MAX_BODY_BYTES),
        signature_header=storable(answer.signature_header),
    )


def _news(ended: Ended, verdict: Verdict) -> tuple[NewTransition, list[NewEvent]]:
    """The transition of a delivery, and its event if there is a name for it."""
    delivery = ended.claimed.delivery
    transition = transition_of(
        delivery,
        before=delivery.status,
        after=verdict.status,
        attempt_number=None if ended.outcome is None else delivery.attempt_count,
        error_code=storable(verdict.error.code) if verdict.error else None,
    )
    event = event_of(delivery, transition, {"attempt": delivery.attempt_count, **error_properties(verdict.error)})
    return transition, [] if event is None else [event]


def error_properties(error: DeliveryError | None) -> dict[str, object]:
    """What an event says of an error."""
    if error is None:
        return {}
    return {"errorCode": storable(error.code), "error": storable(error.message)}


def _names(ended: Ended) -> dict[str, str]:
    delivery = ended.claimed.delivery
    return {"project_id": str(delivery.project_id), "delivery_id": str(delivery.delivery_id)}


async def _wait_at_most(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
