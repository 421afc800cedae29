"""Replays in bulk: the set of deliveries that one is of, and how far it has come.

The set is fixed by a position of the deliveries lane: what matches the filter as of that position. Since every change
of a delivery is a transition, a delivery without a later one is still what it was then.

Where a statement is composed here, its text is made of constants; whatever a caller supplies is a parameter.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.delivery_filters import DeliveryFilter, delivery_filter_sql
from db.records import Lane
from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("replays")
_REPLAYABLE = "d.suppressed_reason IS DISTINCT FROM 'ERASED'"
"""Of a person who was erased nothing is left that could be sent."""


class ReplaySet(msgspec.Struct, frozen=True):
    """What matches a filter at the position `head` of the deliveries lane; `last` is the greatest id of them."""

    head: int
    deliveries: int
    last: UUID | None


class ReplayProgress(msgspec.Struct, frozen=True):
    """A replay that is not finished: the set, and the id up to which it is done."""

    delivery_filter: DeliveryFilter
    head: int
    last: UUID
    after: UUID | None = None


class UnfinishedReplay(msgspec.Struct, frozen=True):
    """A replay to be carried on, locked by the caller."""

    batch_id: UUID
    progress: ReplayProgress


_progress = msgspec.json.Decoder(ReplayProgress)


async def read_replay_set(
    connection: asyncpg.Connection, *, project_id: UUID, delivery_filter: DeliveryFilter
) -> ReplaySet:
    """Count, exactly, what a replay would be of, and say as of when: both from one snapshot."""
    parameters: list[Any] = [project_id, Lane.DELIVERIES]
    text = f"""
        SELECT h.head, counted.deliveries, counted.last
        FROM heads AS h
        CROSS JOIN LATERAL (
            SELECT count(*) AS deliveries, max(CAST(d.delivery_id AS text) COLLATE "C") AS last
            FROM deliveries AS d
            WHERE d.project_id = h.project_id AND {_REPLAYABLE}
                AND {delivery_filter_sql(delivery_filter, parameters)}
        ) AS counted
        WHERE h.project_id = $1 AND h.lane = $2"""  # noqa: S608
    row = await connection.fetchrow(text, *parameters)
    return ReplaySet(row["head"], row["deliveries"], None if row["last"] is None else UUID(row["last"]))


async def find_replayable(
    connection: asyncpg.Connection, *, project_id: UUID, progress: ReplayProgress, limit: int
) -> list[UUID]:
    """The next deliveries of a replay, by id, up to `limit`: fewer than that are the last ones.

    Some may have changed since the set was fixed: lock them, then leave those out.
    """
    parameters: list[Any] = [project_id, limit, progress.after, progress.last]
    text = f"""
        SELECT d.delivery_id
        FROM deliveries AS d
        WHERE d.project_id = $1 AND d.delivery_id <= $4 AND ($3::uuid IS NULL OR d.delivery_id > $3)
            AND {_REPLAYABLE} AND {delivery_filter_sql(progress.delivery_filter, parameters)}
        ORDER BY d.delivery_id
        LIMIT $2"""  # noqa: S608
    return [row["delivery_id"] for row in await connection.fetch(text, *parameters)]


async def insert_replay(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    batch_id: UUID,
    replayed: int,
    progress: ReplayProgress | None,
    now: datetime,
) -> bool:
    """Insert a replay's batch; False where it is there already. `now` is business time."""
    made = await connection.fetchval(_SQL["insert_replay"], project_id, batch_id, replayed, _encode(progress), now)
    return made is not None


async def lock_replay(connection: asyncpg.Connection, *, project_id: UUID) -> UnfinishedReplay | None:
    """The oldest unfinished replay of a project that nobody else is at, locked until the transaction ends."""
    row = await connection.fetchrow(_SQL["lock_replay"], project_id)
    return None if row is None else UnfinishedReplay(row["batch_id"], _progress.decode(row["progress"]))


async def move_replay(
    connection: asyncpg.Connection, *, project_id: UUID, batch_id: UUID, progress: ReplayProgress | None
) -> None:
    """Say how far a replay has come; None when it is finished."""
    await connection.execute(_SQL["move_replay"], project_id, batch_id, _encode(progress))


async def count_unfinished_replays(connection: asyncpg.Connection, *, project_id: UUID) -> int:
    """How many replays of a project wait to be carried on."""
    replays: int = await connection.fetchval(_SQL["count_unfinished_replays"], project_id)
    return replays


async def find_replaying_projects(connection: asyncpg.Connection) -> list[UUID]:
    """The projects that have a replay to carry on."""
    return [row["project_id"] for row in await connection.fetch(_SQL["find_replaying_projects"])]


def _encode(progress: ReplayProgress | None) -> str | None:
    return None if progress is None else msgspec.json.encode(progress).decode()
