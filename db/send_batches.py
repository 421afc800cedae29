"""Batches: one row for each send or replay that was asked for.

Guarantees: of several that ask under one idempotency key one makes the batch; the others wait for its transaction and
are told of its batch. Leaves to others: committing, and what a batch holds.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

import msgspec

from db.deliveries import delivery_of
from db.delivery_records import DeliveryRecord
from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("send_batches")


class BatchCounts(msgspec.Struct, frozen=True):
    """The deliveries of a batch, as of its acceptance."""

    queued: int = 0
    scheduled: int = 0
    suppressed: int = 0


class Claimed(msgspec.Struct, frozen=True):
    """The batch is the caller's to make, in this transaction."""

    batch_id: UUID


class Existing(msgspec.Struct, frozen=True):
    """It was made before. `same_request`: it was asked for in the same words."""

    batch_id: UUID
    same_request: bool
    counts: BatchCounts


Claim: TypeAlias = Claimed | Existing


async def claim_batch(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    batch_id: UUID,
    kind: str,
    idempotency_key: str | None,
    request_hash: bytes,
    now: datetime,
) -> Claim:
    """Insert a batch unless its key was used before. `now` is business time.

    Asked again with the same `batch_id` (after a COMMIT that was left unanswered) it gives the batch of that try.
    """
    made = await connection.fetchval(
        _SQL["insert_batch"], project_id, batch_id, kind, idempotency_key, request_hash, now
    )
    if made is not None:
        return Claimed(batch_id)
    row = await connection.fetchrow(_SQL["find_batch"], project_id, batch_id, idempotency_key)
    return Existing(
        row["batch_id"],
        same_request=row["kind"] == kind and row["request_hash"] == request_hash,
        counts=BatchCounts(row["queued"], row["scheduled"], row["suppressed"]),
    )


async def set_batch_counts(
    connection: asyncpg.Connection, *, project_id: UUID, batch_id: UUID, counts: BatchCounts
) -> None:
    """Keep the counts for those who ask again under the same key."""
    await connection.execute(
        _SQL["set_batch_counts"], project_id, batch_id, counts.queued, counts.scheduled, counts.suppressed
    )


async def read_batch_deliveries(
    connection: asyncpg.Connection, *, project_id: UUID, batch_id: UUID, limit: int
) -> list[DeliveryRecord]:
    """The first deliveries of a batch, as they are now, in the order in which they were made."""
    return [
        delivery_of(row) for row in await connection.fetch(_SQL["read_batch_deliveries"], project_id, batch_id, limit)
    ]
