"""One round of claims: due deliveries of one project become SENDING, or are held back, in one transaction.

Guarantees: the commit of that transaction is the dispatch. What `ChannelWork.prepare` locked and saw (consents, token
owners) still holds when it commits; a delivery is claimed only if it still is as it was when that was decided; nothing
is claimed that has no place reserved in its lane; whatever has no place, or a lane that rests, is passed over and no
attempt is counted. One transaction at a time claims for a project, whatever the number of workers, so none of them
decides about rows that another one takes. Locks: persons (sorted), what the channels lock, deliveries (sorted), heads.

Webhooks lock nothing before they are written, so a round of them needs no transaction around it: reading, deciding and
one statement that writes. Two workers may decide about the same row then, and the one that writes first has it.

Leaves to others: sending what is returned, giving it back where the commit's outcome is not known, and announcing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import msgspec

from db.delivery_records import DeliveryRecord, NewTransition
from db.dispatch import ClaimWrite, PendingKey, find_candidates, lock_persons, write_claims
from db.records import NewEvent
from engine.announcements import Announcement
from engine.channels.base import ChannelWork, Message, Moved, Postpone, Prepared, Ready, Refuse, Suppress
from engine.dispatch.announcing import announcements_of
from engine.dispatch.lanes import FIRST_WINDOW, Lanes, Slot
from engine.dispatch.ledger import record
from engine.dispatch.status import event_of, step_properties, transition_of
from engine.dispatch.values import Channel, DeliveryError, DeliveryStatus

if TYPE_CHECKING:
    import asyncpg

MAX_KEYS = 500
"""Dispatch keys looked at in one round; the next round goes on behind them."""
CLAIM_LIMIT = 64
"""Deliveries in one round: half of what it costs does not depend on it. With more another project waits for longer."""
MAX_KNOWN_PROJECTS = 1_000
"""Whose dispatch keys are remembered: so a round knows of their lanes before it has read them."""
LOCKLESS_CHANNELS = frozenset({Channel.WEBHOOK})
"""Their `prepare` locks nothing. A round of nothing else is written by one statement, a transaction by itself: it takes
three statements one after the other instead of seven, and each waits for its turn in a busy worker."""
FAULTY_POSTPONEMENT = timedelta(minutes=1)
"""What could not even be prepared, by a fault of ours, is looked at again after this."""
SHORTEST_POSTPONEMENT = timedelta(seconds=1)
"""Less would be tried again before anything has changed."""

INTERNAL_ERROR = DeliveryError(
    "InternalError", "Something went wrong on our side. It has been logged with this delivery's id.", permanent=False
)


class Lease(msgspec.Struct, frozen=True):
    """Who may settle what was claimed in one round. `ends_at` is on our monotonic clock, and early."""

    token: UUID
    ends_at: float


class Claimed(msgspec.Struct, frozen=True, eq=False):
    """A delivery that is SENDING for us, with its place."""

    delivery: DeliveryRecord
    message: Message
    slot: Slot
    lease: Lease


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """What a round came to: `count` of its `candidates` were claimed or held back, those were `claimed`.

    `full_keys` may have more due than there was room for. `next_key`: where the next round goes on, or None when all
    keys were seen. `is_contended`: another worker is claiming for the project. `needs_transaction`: its
    candidates are decided about under locks, which have to last until the commit. `at` is business time.
    """

    project_id: UUID
    at: datetime
    candidates: tuple[DeliveryRecord, ...] = ()
    count: int = 0
    claimed: tuple[Claimed, ...] = ()
    full_keys: tuple[str, ...] = ()
    next_key: str | None = None
    is_contended: bool = False
    needs_transaction: bool = False
    announcements: tuple[Announcement, ...] = ()

    @property
    def is_cut_short(self) -> bool:
        """Some of what was found was not decided about: it had changed, or somebody held it."""
        return self.count < len(self.candidates)


class Known(msgspec.Struct, frozen=True):
    """What a project's last round saw: its dispatch keys, and whether it needed a transaction."""

    keys: tuple[str, ...] = ()
    needs_transaction: bool = False


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """What the rounds of a process share. `lease` is how long what they claim is ours."""

    works: Mapping[Channel, ChannelWork]
    lanes: Lanes
    lease: timedelta
    monotonic: Callable[[], float]
    known: dict[UUID, Known] = {}

    async def select(
        self,
        connection: asyncpg.Connection,
        *,
        project_id: UUID,
        now: datetime,
        after: str,
        limit: int,
        places: dict[UUID, Slot],
    ) -> Round:
        """Find due deliveries behind a dispatch key and take places for them, which the caller gives back."""
        known = self.known.get(project_id, Known())
        rooms = {key: self.lanes.room(project_id, key) for key in known.keys}
        limit = min(limit, self.lanes.project_room(project_id))
        default_room = min(limit, FIRST_WINDOW)
        found = await find_candidates(
            connection,
            project_id=project_id,
            now=now,
            after=after,
            max_keys=MAX_KEYS,
            rooms=rooms,
            default_room=default_room,
            limit=limit,
        )
        if found is None:
            return Round(project_id=project_id, at=now, is_contended=True)
        pending, candidates = found
        self._remember(project_id, pending, candidates)
        for candidate in candidates:
            slot = self.lanes.reserve(project_id, candidate.dispatch_key)
            if slot is not None:
                places[candidate.delivery_id] = slot
        # Another project's claim may have taken the places meanwhile, and of keys that were not known nobody asked.
        placeless = {each.dispatch_key for each in candidates if each.delivery_id not in places}
        counts, is_cut = Counter(each.dispatch_key for each in candidates), len(candidates) >= limit
        due = [key.dispatch_key for key in pending if key.is_due]
        return Round(
            project_id=project_id,
            at=now,
            candidates=tuple(candidate for candidate in candidates if candidate.delivery_id in places),
            full_keys=tuple(
                key for key in due if is_cut or counts[key] >= rooms.get(key, default_room) or key in placeless
            ),
            next_key=pending[-1].dispatch_key if len(pending) == MAX_KEYS else None,
            needs_transaction=self.needs_transaction(project_id),
        )

    def needs_transaction(self, project_id: UUID) -> bool:
        """Whether something in a project's last round was decided about under locks."""
        return self.known.get(project_id, Known()).needs_transaction

    def _remember(self, project_id: UUID, pending: Sequence[PendingKey], candidates: Sequence[DeliveryRecord]) -> None:
        needs_transaction = any(each.channel not in LOCKLESS_CHANNELS for each in candidates)
        if len(self.known) >= MAX_KNOWN_PROJECTS:
            self.known.clear()
        self.known[project_id] = Known(tuple(key.dispatch_key for key in pending), needs_transaction)

    async def claim(
        self,
        connection: asyncpg.Connection,
        found: Round,
        *,
        places: Mapping[UUID, Slot],
        faulty: Container[UUID],
        tentative: list[Claimed],
    ) -> Round:
        """Decide about the candidates of a round and write it; all of it takes effect with the commit.

        `tentative` gets what is ours if it does, before anything is written: the answer may get lost.
        What is `faulty` could not be decided about or written before: it is put off. What has moved to another lane is
        left to a round that finds it there.
        """
        sound = [each for each in found.candidates if each.delivery_id not in faulty]
        prepared = await self._decide(connection, found, sound)
        put_off = Postpone(until=found.at + FAULTY_POSTPONEMENT, error=INTERNAL_ERROR)
        decided = [(each, prepared.get(each.delivery_id, put_off)) for each in found.candidates]
        writes = [_write_of(each, it, found.at) for each, it in decided if not isinstance(it, Moved)]
        token, began = uuid4(), self.monotonic()
        after = [_after(write) for write in writes]
        lease = Lease(token, began + self.lease.total_seconds())
        tentative += _claimed(after, prepared, places, lease)
        news = [_news(write, delivery) for write, delivery in zip(writes, after, strict=True)]
        # Where there are events, their head is locked before that of transitions.
        at_once = not any(event for _, event in news)
        if not at_once and not connection.is_in_transaction():
            raise LookupError("a channel without locks has events at its claims: they need a transaction")
        written = await write_claims(
            connection,
            project_id=found.project_id,
            claims=writes,
            now=found.at,
            lease_token=token,
            lease=self.lease,
            with_transitions=at_once,
        )
        done = [each for each in news if each[0].delivery_id in written.items]
        transitions = [transition for transition, _ in done]
        if at_once:
            announcements = announcements_of(found.project_id, written, transitions, found.at)
        else:
            announcements = await record(
                connection,
                project_id=found.project_id,
                transitions=transitions,
                events=[event for _, event in done if event is not None],
                now=found.at,
            )
        return msgspec.structs.replace(
            found,
            count=len(done),
            claimed=tuple(each for each in tentative if each.delivery.delivery_id in written.items),
            announcements=announcements,
        )

    async def _decide(
        self, connection: asyncpg.Connection, found: Round, candidates: Sequence[DeliveryRecord]
    ) -> dict[UUID, Prepared]:
        """What is to become of candidates. Locks what the decisions depend on."""
        groups: dict[str, list[DeliveryRecord]] = {}
        for candidate in candidates:
            groups.setdefault(candidate.channel, []).append(candidate)
        if len(groups) > 1:
            # Each channel locks its own persons, sorted; one channel's after another's would not be.
            persons = {candidate.user_id for candidate in candidates if candidate.user_id is not None}
            await lock_persons(connection, project_id=found.project_id, user_ids=list(persons))
        prepared: dict[UUID, Prepared] = {}
        for channel in sorted(groups):
            prepared |= await self.works[Channel(channel)].prepare(
                connection, project_id=found.project_id, deliveries=groups[channel], now=found.at
            )
        if len(prepared) != len(candidates):
            raise LookupError("a channel did not decide about every delivery that it was asked about")
        return prepared


def _claimed(
    deliveries: Sequence[DeliveryRecord],
    prepared: Mapping[UUID, Prepared],
    places: Mapping[UUID, Slot],
    lease: Lease,
) -> Iterator[Claimed]:
    for delivery in deliveries:
        decision = prepared.get(delivery.delivery_id)
        if isinstance(decision, Ready):
            yield Claimed(delivery, decision.message, places[delivery.delivery_id], lease)


def _news(write: ClaimWrite, delivery: DeliveryRecord) -> tuple[NewTransition, NewEvent | None]:
    """The transition of a delivery, and its event if there is a name for it."""
    transition = transition_of(
        delivery,
        before=write.read.status,
        after=write.status,
        attempt_number=delivery.attempt_count if write.status == DeliveryStatus.SENDING else None,
        error_code=write.error_code,
    )
    return transition, event_of(delivery, transition, _properties(write))


def _write_of(delivery: DeliveryRecord, prepared: Ready | Suppress | Postpone | Refuse, now: datetime) -> ClaimWrite:
    match prepared:
        case Ready(message=message, payload=payload, variant=variant, locale=locale):
            return ClaimWrite(
                read=delivery,
                status=DeliveryStatus.SENDING,
                payload=payload,
                variant=variant,
                locale=locale,
                repeatable=message.repeatable,
            )
        case Suppress(reason=reason, error=error):
            return _held_back(delivery, DeliveryStatus.SUPPRESSED, error, suppressed_reason=reason)
        case Postpone(until=until, error=error):
            until = max(until, now + SHORTEST_POSTPONEMENT)
            return _held_back(delivery, DeliveryStatus.SCHEDULED, error, next_attempt_at=until)
        case Refuse(error=error):
            return _held_back(delivery, DeliveryStatus.FAILED, error)


def _held_back(
    delivery: DeliveryRecord,
    status: DeliveryStatus,
    error: DeliveryError | None,
    *,
    next_attempt_at: datetime | None = None,
    suppressed_reason: str | None = None,
) -> ClaimWrite:
    return ClaimWrite(
        read=delivery,
        status=status,
        next_attempt_at=next_attempt_at,
        suppressed_reason=suppressed_reason,
        error_code=error.code if error else None,
        error_message=error.message if error else None,
        error_permanent=error.permanent if error else None,
        error_hint=error.hint if error else None,
    )


def _after(write: ClaimWrite) -> DeliveryRecord:
    """The delivery as the statement left it, in what a settlement or an event asks of it."""
    read, is_sending = write.read, write.status == DeliveryStatus.SENDING
    return msgspec.structs.replace(
        read,
        status=write.status,
        next_attempt_at=write.next_attempt_at,
        suppressed_reason=write.suppressed_reason,
        payload=read.payload if write.payload is None else msgspec.Raw(write.payload.encode()),
        variant=write.variant or read.variant,
        locale=write.locale or read.locale,
        repeatable=write.repeatable,
        attempt_count=read.attempt_count + is_sending,
    )


def _properties(write: ClaimWrite) -> dict[str, object]:
    return step_properties(
        reason=write.suppressed_reason,
        scheduled_for=write.next_attempt_at,
        error_code=write.error_code,
        error_message=write.error_message,
    )
