"""Sending finished deliveries again, one or many.

Guarantees: a replay adds attempts to the same delivery, with its event id, and starts its schedule of retries again. A
replay in bulk is of a set that is fixed, and counted, when it is accepted; every delivery of the set is queued exactly
once, but for those that changed in between (replayed by somebody else, bounced): they are left as they are. It goes in
chunks, each one transaction that also says how far the replay has come: whatever dies, the next worker goes on from
there, and no two are at one replay at once. Who asked for a replay stands in the audit log.
Leaves to others: who may, sending, and finding the projects whose replays are to be carried on.

The first chunk is done when the replay is accepted, the rest by workers, in `continue_replays`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.database import Database
from db.deliveries import lock_deliveries, read_deliveries
from db.delivery_changes import find_unchanged, lock_finished, requeue_deliveries
from db.delivery_filters import DeliveryFilter
from db.delivery_records import DeliveryRecord, NewTransition
from db.profiles import share_profiles
from db.push_reservations import release_unsent
from db.replays import (
    ReplayProgress,
    ReplaySet,
    count_unfinished_replays,
    find_replayable,
    insert_replay,
    lock_replay,
    move_replay,
    read_replay_set,
)
from db.send_batches import read_batch_deliveries
from engine.announcements import Announcement
from engine.audit import Audit
from engine.clock import Clock
from engine.dispatch.ledger import record
from engine.dispatch.sending import SHOWN_DELIVERIES
from engine.dispatch.status import PENDING
from engine.dispatch.values import Channel, DeliveryStatus, SuppressedReason
from engine.node_ids import NodeKind, write_node_id
from engine.transactions import run_transaction
from engine.work import Work, WorkKind

if TYPE_CHECKING:
    import asyncpg

CHUNK = 1_000
"""Deliveries per transaction: some 100 ms, for which the project's heads are held only at the end."""
MAX_UNFINISHED_REPLAYS = 10
"""Of one project: each is carried on after those before it, so more would only wait."""
REPLAYED_BY_DEFAULT = (DeliveryStatus.FAILED, DeliveryStatus.DEAD_LETTERED, DeliveryStatus.UNCERTAIN)
"""What a bulk replay is of when its filter names no status."""
FINISHED = frozenset(DeliveryStatus) - PENDING - {DeliveryStatus.SENDING}
"""What can be sent again: nothing is left to be done about it."""

_NODES = {
    "ids": NodeKind.DELIVERY,
    "batch_id": NodeKind.BATCH,
    "workflow_id": NodeKind.WORKFLOW,
    "workflow_run_id": NodeKind.WORKFLOW_RUN,
    "endpoint_id": NodeKind.WEBHOOK_ENDPOINT,
}
"""What the ids in a filter are of."""
_API_NAME = re.compile(r"_(\w)")

Announce = Callable[[Announcement], None]
Wake = Callable[[Work], None]


class Replayed(msgspec.Struct, frozen=True):
    """It is queued again."""

    delivery: DeliveryRecord


class NotReplayable(msgspec.Struct, frozen=True):
    """It is still on its way (`status`), or its person was erased."""

    status: str
    is_erased: bool = False


class BulkReplay(msgspec.Struct, frozen=True):
    """A replay that was accepted: how many it is of, and the first `SHOWN_DELIVERIES` of them."""

    batch_id: UUID
    replayed: int
    deliveries: tuple[DeliveryRecord, ...]


class TooManyReplays(msgspec.Struct, frozen=True):
    """The project has `MAX_UNFINISHED_REPLAYS` that are not finished."""


class _TooMany(Exception):
    """Rolls an acceptance back."""


class _Chunk(msgspec.Struct, frozen=True):
    """What one transaction has queued."""

    announcements: tuple[Announcement, ...]
    shown: tuple[DeliveryRecord, ...] = ()


class Replays:
    """Replays for one process. `announce` and `wake` are called after each commit; they never block.

    `chunk` is how many deliveries one transaction takes.
    """

    def __init__(self, database: Database, clock: Clock, announce: Announce, wake: Wake, *, chunk: int = CHUNK) -> None:
        self._database = database
        self._clock = clock
        self._announce = announce
        self._wake = wake
        self._chunk = chunk

    async def replay_one(self, *, project_id: UUID, delivery_id: UUID, audit: Audit) -> Replayed | NotReplayable | None:
        """Queue a delivery again; None where the project has no such delivery. Raises `Unavailable`."""
        batch_id = uuid7()
        result, announcements = await run_transaction(
            self._database, lambda connection: _replay_one(connection, project_id, delivery_id, batch_id, audit)
        )
        self._tell(project_id, announcements)
        return result

    async def begin(
        self, *, project_id: UUID, delivery_filter: DeliveryFilter, found: ReplaySet, audit: Audit
    ) -> BulkReplay | TooManyReplays | None:
        """Accept a replay of what `read_replay_set` found for this filter and do its first chunk; None for nothing.

        Raises `Unavailable`.
        """
        if found.last is None:
            return None
        batch_id, now = uuid7(), audit.now
        progress = ReplayProgress(delivery_filter, found.head, found.last)

        async def action(connection: asyncpg.Connection) -> _Chunk | None:
            if await _is_of_nobody(connection, project_id, delivery_filter):
                return None
            made = await insert_replay(
                connection,
                project_id=project_id,
                batch_id=batch_id,
                replayed=found.deliveries,
                progress=progress,
                now=now,
            )
            if not made:
                return await _chunk_of_lost_answer(connection, project_id, batch_id)
            if await count_unfinished_replays(connection, project_id=project_id) > MAX_UNFINISHED_REPLAYS:
                raise _TooMany
            await _note_bulk(connection, audit, project_id, batch_id, delivery_filter, found.deliveries)
            return await _replay_chunk(connection, project_id, batch_id, progress, now, limit=self._chunk, shown=True)

        try:
            done = await run_transaction(self._database, action)
        except _TooMany:
            return TooManyReplays()
        if done is None:
            return None
        self._tell(project_id, done.announcements)
        if found.deliveries > self._chunk:
            self._wake(Work(WorkKind.REPLAYS, project_id))
        return BulkReplay(batch_id, found.deliveries, done.shown)

    async def go_on(self, *, project_id: UUID) -> bool:
        """Do one chunk of the project's oldest replay. False: there is none, or other workers are at all of them.

        Raises `Unavailable`.
        """
        now = self._clock.now()
        done = await run_transaction(
            self._database, lambda connection: _go_on(connection, project_id, now, limit=self._chunk)
        )
        if done is None:
            return False
        self._tell(project_id, done.announcements)
        return True

    def _tell(self, project_id: UUID, announcements: tuple[Announcement, ...]) -> None:
        for announcement in announcements:
            self._announce(announcement)
        if announcements:
            self._wake(Work(WorkKind.DELIVERIES, project_id))


async def continue_replays(database: Database, clock: Clock, announce: Announce, wake: Wake, project_id: UUID) -> bool:
    """Do one chunk of a project's replays; call it again while it says True."""
    return await Replays(database, clock, announce, wake).go_on(project_id=project_id)


async def _replay_one(
    connection: asyncpg.Connection, project_id: UUID, delivery_id: UUID, batch_id: UUID, audit: Audit
) -> tuple[Replayed | NotReplayable | None, tuple[Announcement, ...]]:
    now = audit.now
    locked = await lock_deliveries(connection, project_id=project_id, delivery_ids=[delivery_id])
    if not locked:
        return None, ()
    delivery = locked[0]
    if delivery.batch_id == batch_id:
        # A COMMIT whose answer was lost has queued it already.
        return Replayed(delivery), ()
    if delivery.suppressed_reason == SuppressedReason.ERASED:
        return NotReplayable(delivery.status, is_erased=True), ()
    if delivery.status not in FINISHED:
        return NotReplayable(delivery.status), ()
    await insert_replay(connection, project_id=project_id, batch_id=batch_id, replayed=1, progress=None, now=now)
    transitions = await lock_finished(connection, project_id=project_id, delivery_ids=[delivery_id], batch_id=batch_id)
    await _requeue(connection, project_id, batch_id, transitions, now)
    queued = await read_deliveries(connection, project_id=project_id, delivery_ids=[delivery_id])
    await audit.note(
        connection,
        "delivery.replayed",
        write_node_id(NodeKind.DELIVERY, delivery_id),
        project_id=project_id,
        before={"status": delivery.status},
        after={"status": queued[0].status},
    )
    announcements = await record(connection, project_id=project_id, transitions=transitions, events=[], now=now)
    return Replayed(queued[0]), announcements


async def _is_of_nobody(connection: asyncpg.Connection, project_id: UUID, delivery_filter: DeliveryFilter) -> bool:
    """Whether the person whose deliveries are asked for was erased since they were found; else erasing them waits."""
    user_id = delivery_filter.user_id
    if user_id is None or await share_profiles(connection, project_id=project_id, user_ids=[user_id]):
        return False
    again = await read_replay_set(connection, project_id=project_id, delivery_filter=delivery_filter)
    return again.last is None


async def _note_bulk(
    connection: asyncpg.Connection,
    audit: Audit,
    project_id: UUID,
    batch_id: UUID,
    delivery_filter: DeliveryFilter,
    deliveries: int,
) -> None:
    """One entry for all of them. It names a person only where the filter did, and then erasure finds it."""
    await audit.note(
        connection,
        "deliveries.replayed",
        write_node_id(NodeKind.BATCH, batch_id),
        project_id=project_id,
        before=None,
        after={"replayed": deliveries, "filter": _shown_filter(delivery_filter)},
        user_id=delivery_filter.user_id,
    )


def _shown_filter(delivery_filter: DeliveryFilter) -> dict[str, Any]:
    """What of a filter was given, as the audit log has it: under its names in the API, with node ids."""
    given = msgspec.structs.asdict(delivery_filter)
    shown = {
        name: _with_node_ids(name, value) for name, value in given.items() if value is not None and value is not False
    }
    return {_API_NAME.sub(lambda found: found[1].upper(), name): value for name, value in shown.items()}


def _with_node_ids(name: str, value: Any) -> Any:
    kind = _NODES.get(name)
    if kind is None:
        return value
    return [write_node_id(kind, each) for each in value] if name == "ids" else write_node_id(kind, value)


async def _go_on(connection: asyncpg.Connection, project_id: UUID, now: datetime, *, limit: int) -> _Chunk | None:
    replay = await lock_replay(connection, project_id=project_id)
    if replay is None:
        return None
    return await _replay_chunk(connection, project_id, replay.batch_id, replay.progress, now, limit=limit)


async def _replay_chunk(
    connection: asyncpg.Connection,
    project_id: UUID,
    batch_id: UUID,
    progress: ReplayProgress,
    now: datetime,
    *,
    limit: int,
    shown: bool = False,
) -> _Chunk:
    """Queue the next deliveries of a replay whose batch is locked, and say how far it has come."""
    ids = await find_replayable(connection, project_id=project_id, progress=progress, limit=limit)
    rest = msgspec.structs.replace(progress, after=ids[-1]) if len(ids) == limit else None
    await move_replay(connection, project_id=project_id, batch_id=batch_id, progress=rest)
    locked = await lock_finished(connection, project_id=project_id, delivery_ids=ids, batch_id=batch_id)
    unchanged = await find_unchanged(connection, project_id=project_id, delivery_ids=ids, since=progress.head)
    transitions = [each for each in locked if each.delivery_id in unchanged]
    await _requeue(connection, project_id, batch_id, transitions, now)
    first = await _first_of(connection, project_id, batch_id) if shown else ()
    announcements = await record(connection, project_id=project_id, transitions=transitions, events=[], now=now)
    return _Chunk(announcements, first)


async def _requeue(
    connection: asyncpg.Connection,
    project_id: UUID,
    batch_id: UUID,
    transitions: Sequence[NewTransition],
    now: datetime,
) -> None:
    """Of pushes that were not sent, what was reserved under frequency caps is given back; what was sent counts on."""
    pushes = [each.delivery_id for each in transitions if each.channel == Channel.PUSH]
    if pushes:
        await release_unsent(connection, project_id=project_id, delivery_ids=pushes)
    ids = [each.delivery_id for each in transitions]
    await requeue_deliveries(connection, project_id=project_id, delivery_ids=ids, batch_id=batch_id, now=now)


async def _chunk_of_lost_answer(connection: asyncpg.Connection, project_id: UUID, batch_id: UUID) -> _Chunk:
    """A COMMIT whose answer was lost has done the chunk; hubs hear of it from the relay."""
    return _Chunk((), await _first_of(connection, project_id, batch_id))


async def _first_of(connection: asyncpg.Connection, project_id: UUID, batch_id: UUID) -> tuple[DeliveryRecord, ...]:
    return tuple(
        await read_batch_deliveries(connection, project_id=project_id, batch_id=batch_id, limit=SHOWN_DELIVERIES)
    )
