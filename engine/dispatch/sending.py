"""Accepting a send: what sendPush, sendEmail and sendSms have in common.

Guarantees: a batch with all its deliveries, their events and their transitions is one transaction; under one
idempotency key there is one batch, however often it is asked for and whatever becomes of the connection, and whoever
asks again in the same words gets the same answer. Then it is announced, and workers are woken.
Leaves to others: which deliveries there are to make, and sending them (`engine.dispatch.dispatcher`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.database import Database
from db.delivery_records import DeliveryRecord, NewDelivery
from db.send_batches import BatchCounts, Existing, claim_batch, read_batch_deliveries, set_batch_counts
from engine.announcements import Announcement
from engine.clock import Clock
from engine.dispatch.ledger import create_deliveries
from engine.dispatch.values import DeliveryStatus
from engine.errors import UserError
from engine.transactions import run_transaction
from engine.work import Work, WorkKind

if TYPE_CHECKING:
    import asyncpg

MAX_RECIPIENTS = 1000
"""People and addresses in one send: as many as one transaction makes in some tens of milliseconds."""
MAX_BATCH_BYTES = 64 * 1024 * 1024
"""Of the contents of one send's deliveries together: each has its own, and one statement takes them all."""
MAX_AHEAD = timedelta(days=366)
"""How far ahead a send may be scheduled."""
SHOWN_DELIVERIES = 100
"""Deliveries in an answer: as many as a page has items."""
MAX_KEY_CHARACTERS = 128
"""Of an idempotency key, as of an event's."""

MakeDeliveries = Callable[["asyncpg.Connection", UUID, datetime], Awaitable[Sequence[NewDelivery]]]
"""What a send consists of, given its transaction, batch id and business time. May raise `SendRefused`."""


class SendRefused(Exception):
    """Nothing of this send is made."""

    def __init__(self, *errors: UserError) -> None:
        super().__init__("; ".join(error.code for error in errors))
        self.errors = errors


class SentBatch(msgspec.Struct, frozen=True):
    """A send that was accepted, now or before. `deliveries` are the first `SHOWN_DELIVERIES`, by id."""

    batch_id: UUID
    deliveries: tuple[DeliveryRecord, ...]
    counts: BatchCounts


class _Made(msgspec.Struct, frozen=True):
    """What one try has committed, and what is still to be told."""

    batch: SentBatch
    announcements: tuple[Announcement, ...]
    is_due: bool


class Sending:
    """Accepts sends for one process. `announce` and `wake` are called after the commit; they never block."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        announce: Callable[[Announcement], None],
        wake: Callable[[Work], None],
    ) -> None:
        self._database = database
        self._clock = clock
        self._announce = announce
        self._wake = wake

    async def send(
        self, *, project_id: UUID, kind: str, idempotency_key: str | None, request: object, make: MakeDeliveries
    ) -> SentBatch:
        """Accept a send. `request` is what was asked for, without the key, as a value that JSON can hold.

        Raises `SendRefused`: what `make` says, or CONFLICT for a key that was used for another request.
        """
        batch_id = uuid7()
        digest = hash_request(kind, request)

        async def action(connection: asyncpg.Connection) -> _Made:
            now = self._clock.now()
            claim = await claim_batch(
                connection,
                project_id=project_id,
                batch_id=batch_id,
                kind=kind,
                idempotency_key=idempotency_key,
                request_hash=digest,
                now=now,
            )
            if isinstance(claim, Existing):
                return await _existing(connection, project_id, claim)
            return await _make(connection, project_id, batch_id, now, make)

        made = await run_transaction(self._database, action)
        for announcement in made.announcements:
            self._announce(announcement)
        if made.is_due:
            self._wake(Work(WorkKind.DELIVERIES, project_id))
        return made.batch


def check_idempotency_key(key: str | None, *path: str) -> tuple[UserError, ...]:
    """Why a key cannot be one."""
    if key is None or (1 <= len(key) <= MAX_KEY_CHARACTERS and key.isprintable()):
        return ()
    message = f"An idempotency key has 1 to {MAX_KEY_CHARACTERS} characters, and no control characters."
    return (UserError(message, "INVALID", path),)


def check_schedule(scheduled_for: datetime | None, now: datetime) -> tuple[UserError, ...]:
    """Why something cannot wait until then."""
    if scheduled_for is None or scheduled_for <= now + MAX_AHEAD:
        return ()
    message = f"Something may be scheduled at most {MAX_AHEAD.days} days ahead."
    return (UserError(message, "INVALID", ("input", "scheduledFor")),)


def check_size(content_bytes: int) -> None:
    """Raises `SendRefused` for what one send's deliveries cannot hold together."""
    if content_bytes > MAX_BATCH_BYTES:
        message = (
            f"This much text to this many is too much for one send ({MAX_BATCH_BYTES // 1024**2} MiB in all): keep the "
            "text in a template, or name fewer people at once."
        )
        raise SendRefused(UserError(message, "LIMIT_EXCEEDED", ("input", "userIds")))


def hash_request(kind: str, request: object) -> bytes:
    """Tells whether two requests are the same: neither the order of keys in objects nor anything unsaid matters."""
    return hashlib.sha256(kind.encode() + b"\n" + msgspec.json.encode(request, order="deterministic")).digest()


def count_deliveries(deliveries: Sequence[NewDelivery]) -> BatchCounts:
    """By status; what failed at once is in none of them."""
    found = Counter(delivery.status for delivery in deliveries)
    return BatchCounts(found[DeliveryStatus.QUEUED], found[DeliveryStatus.SCHEDULED], found[DeliveryStatus.SUPPRESSED])


async def _make(
    connection: asyncpg.Connection, project_id: UUID, batch_id: UUID, now: datetime, make: MakeDeliveries
) -> _Made:
    deliveries = await make(connection, batch_id, now)
    check_size(sum(len(each.content.encode()) for each in deliveries))
    counts = count_deliveries(deliveries)
    await set_batch_counts(connection, project_id=project_id, batch_id=batch_id, counts=counts)
    announcements = await create_deliveries(connection, project_id=project_id, deliveries=deliveries, now=now)
    # Not read back: the heads are locked.
    first = sorted(deliveries, key=lambda each: each.delivery_id)[:SHOWN_DELIVERIES]
    shown = tuple(_as_made(project_id, each) for each in first)
    is_due = any(each.next_attempt_at is not None and each.next_attempt_at <= now for each in deliveries)
    return _Made(SentBatch(batch_id, shown, counts), announcements, is_due)


async def _existing(connection: asyncpg.Connection, project_id: UUID, claim: Existing) -> _Made:
    if not claim.same_request:
        message = "This idempotency key was used for another request: send this one under a key of its own."
        raise SendRefused(UserError(message, "CONFLICT", ("input", "idempotencyKey")))
    shown = await read_batch_deliveries(
        connection, project_id=project_id, batch_id=claim.batch_id, limit=SHOWN_DELIVERIES
    )
    return _Made(SentBatch(claim.batch_id, tuple(shown), claim.counts), (), is_due=claim.counts.queued > 0)


def _as_made(project_id: UUID, new: NewDelivery) -> DeliveryRecord:
    """The row of a delivery that was just inserted."""
    values = {**msgspec.structs.asdict(new), "content": msgspec.Raw(new.content.encode())}
    return DeliveryRecord(
        project_id=project_id,
        **values,
        payload=None,
        attempt_count=0,
        schedule_offset=0,
        provider_message_id=None,
        sent_at=None,
        delivered_at=None,
        opened_at=None,
        clicked_at=None,
        repeatable=False,
    )
