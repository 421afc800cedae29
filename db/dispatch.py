"""Claiming due deliveries, ending their attempts, and finding what is due or was left behind.

Guarantees: every function is one statement in the caller's transaction; locks of deliveries are taken in the order of
their ids. Leases are the database's real time, everything else is business time and handed in. Leaves to others: the
transitions that belong into the same transaction (`engine.dispatch.ledger`), and committing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import UUID

import msgspec

from db.deliveries import column, delivery_of
from db.delivery_records import DeliveryRecord
from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

LOST_CODE = "WorkerLost"
"""The error of an attempt whose worker never said what became of it."""

T = TypeVar("T")

_SQL = statements("dispatch")


class PendingKey(msgspec.Struct, frozen=True):
    """A dispatch key that deliveries of a project wait for. `is_due`: for some of them it is time."""

    dispatch_key: str
    is_due: bool


class ClaimWrite(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a candidate: SENDING, SCHEDULED (`next_attempt_at`), SUPPRESSED or FAILED.

    It is written only if the delivery still is as `read`. `payload` is JSON text.
    """

    read: DeliveryRecord
    status: str
    next_attempt_at: datetime | None = None
    suppressed_reason: str | None = None
    payload: str | None = None
    variant: str | None = None
    locale: str | None = None
    repeatable: bool = False
    error_code: str | None = None
    error_message: str | None = None
    error_permanent: bool | None = None
    error_hint: str | None = None


class SettlementWrite(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended. `number` is None when it was never made: then no attempt is kept."""

    delivery_id: UUID
    lease_token: UUID
    status: str
    attempt_count: int
    schedule_offset: int
    next_attempt_at: datetime | None = None
    provider_message_id: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    error_permanent: bool | None = None
    error_hint: str | None = None
    number: int | None = None
    at: datetime | None = None
    duration_ms: int = 0
    status_code: int | None = None
    response_body: str | None = None
    signature_header: str | None = None


class Written(msgspec.Struct, Generic[T], frozen=True):
    """What a write took effect for. `epoch` and `first_seq` are of its transitions, where they were written with it:
    those are numbered in the order that was given, without gaps."""

    items: set[T]
    epoch: int | None = None
    first_seq: int = 0


class ExpiredRecord(msgspec.Struct, frozen=True):
    """A delivery that is SENDING under a lease that has ended. `lost_count` counts earlier attempts that were lost."""

    delivery: DeliveryRecord
    lease_token: UUID
    lost_count: int


async def find_candidates(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    now: datetime,
    after: str,
    max_keys: int,
    rooms: Mapping[str, int],
    default_room: int,
    limit: int,
) -> tuple[list[PendingKey], list[DeliveryRecord]] | None:
    """The next dispatch keys after one, sorted, and at most `limit` due deliveries under them, without locks: of each
    key at most its room, fair to keys, oldest first. From here on the caller's transaction alone claims for the
    project; None when another one does. Never waits.
    """
    rows = await connection.fetch(
        _SQL["find_candidates"],
        project_id,
        now,
        after,
        max_keys,
        list(rooms),
        list(rooms.values()),
        default_room,
        limit,
    )
    if not rows[0]["is_mine"]:
        return None
    keys = {row["key"]: row["key_is_due"] for row in rows if row["key"] is not None}
    found = [_candidate_of(row) for row in rows if row["delivery_id"] is not None]
    return [PendingKey(key, keys[key]) for key in sorted(keys)], found


async def lock_persons(connection: asyncpg.Connection, *, project_id: UUID, user_ids: Sequence[str]) -> list[str]:
    """Lock persons, sorted, against changes; returns who there is."""
    rows = await connection.fetch(_SQL["lock_persons"], project_id, user_ids)
    return [row["user_id"] for row in rows]


async def move_deliveries(
    connection: asyncpg.Connection, *, project_id: UUID, endpoint_id: UUID, before: str, after: str, limit: int
) -> None:
    """Give what waits for an endpoint under one dispatch key another one: up to so many, first what is due first.

    Those that somebody holds are passed over.
    """
    await connection.execute(_SQL["move_deliveries"], project_id, endpoint_id, before, after, limit)


async def write_claims(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    claims: Sequence[ClaimWrite],
    now: datetime,
    lease_token: UUID,
    lease: timedelta,
    with_transitions: bool,
) -> Written[UUID]:
    """Write what was decided, and the transitions of it where nothing else is to be said: that locks their head."""
    rows = await connection.fetch(
        _SQL["write_claims"],
        project_id,
        [each.read.delivery_id for each in claims],
        [each.read.status for each in claims],
        [each.read.next_attempt_at for each in claims],
        [each.read.attempt_count for each in claims],
        [each.status for each in claims],
        column(claims, "next_attempt_at"),
        column(claims, "suppressed_reason"),
        column(claims, "payload"),
        column(claims, "variant"),
        column(claims, "locale"),
        [each.repeatable for each in claims],
        column(claims, "error_code"),
        column(claims, "error_message"),
        column(claims, "error_permanent"),
        column(claims, "error_hint"),
        now,
        lease_token,
        lease,
        with_transitions,
    )
    return _written({row["delivery_id"] for row in rows}, rows)


async def write_settlements(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    settlements: Sequence[SettlementWrite],
    now: datetime,
    with_transitions: bool,
) -> Written[tuple[UUID, UUID]]:
    """End attempts; gives the deliveries, each with its lease, that were still held under it. Their transitions are
    written too where nothing else is to be said: that locks their head.

    The others' attempts are kept all the same. One delivery may be among them under several leases.
    """
    rows = await connection.fetch(
        _SQL["write_settlements"],
        project_id,
        [each.delivery_id for each in settlements],
        [each.lease_token for each in settlements],
        [each.status for each in settlements],
        column(settlements, "next_attempt_at"),
        [each.attempt_count for each in settlements],
        [each.schedule_offset for each in settlements],
        column(settlements, "provider_message_id"),
        column(settlements, "error_code"),
        column(settlements, "error_message"),
        column(settlements, "error_permanent"),
        column(settlements, "error_hint"),
        column(settlements, "number"),
        column(settlements, "at"),
        [each.duration_ms for each in settlements],
        column(settlements, "status_code"),
        column(settlements, "response_body"),
        column(settlements, "signature_header"),
        now,
        LOST_CODE,
        with_transitions,
    )
    return _written({(row["delivery_id"], row["lease_token"]) for row in rows}, rows)


async def lock_expired(connection: asyncpg.Connection, *, project_id: UUID, limit: int) -> list[ExpiredRecord]:
    """Deliveries whose lease has ended, locked, sorted by id; those that somebody holds are passed over."""
    expired = []
    for row in await connection.fetch(_SQL["lock_expired"], project_id, limit, LOST_CODE):
        values = dict(row.items())
        lease_token, lost_count = values.pop("lease_token"), values.pop("lost_count")
        expired.append(ExpiredRecord(delivery_of(values), lease_token, lost_count))
    return expired


async def find_expired(connection: asyncpg.Connection, *, limit: int = 10_000) -> list[UUID]:
    """The projects that have deliveries whose lease has ended; of all projects, so it looks at `limit` deliveries."""
    return [row["project_id"] for row in await connection.fetch(_SQL["find_expired"], limit)]


def _candidate_of(row: Mapping[str, Any]) -> DeliveryRecord:
    values = dict(row.items())
    del values["is_mine"], values["key"], values["key_is_due"]
    return delivery_of(values)


def _written(items: set[T], rows: Sequence[Mapping[str, Any]]) -> Written[T]:
    if not rows or rows[0]["epoch"] is None:
        return Written(items)
    return Written(items, rows[0]["epoch"], rows[0]["previous_head"] + 1)


async def find_due_projects(connection: asyncpg.Connection, *, now: datetime) -> list[UUID]:
    """The projects that have deliveries to attempt now, of all projects. Costs a look-up per dispatch key at most."""
    return [row["project_id"] for row in await connection.fetch(_SQL["find_due_projects"], now)]
