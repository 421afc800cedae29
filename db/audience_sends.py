"""Sends to audiences that are made in parts: what is sent, and how far each has come.

They are batches (`db.send_batches`) with a progress and a time, in business time, at which to go on; finished ones have
neither. Whoever opened the transaction commits it.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("audience_sends")


class AudienceSend(msgspec.Struct, frozen=True, kw_only=True):
    """A send to the members of an audience, and how far it has come.

    `content` is the JSON of what each delivery asks for. `conditions` is the JSON of what the audience asked for when
    it began; None before. Members up to `after` have theirs, `page` are taken at once. `taken_users` and
    `taken_addresses` (in lower case) were named besides the audience and have got theirs.
    """

    audience_id: UUID
    content: msgspec.Raw
    page: int
    conditions: str | None = None
    after: str | None = None
    taken_users: tuple[str, ...] = ()
    taken_addresses: tuple[str, ...] = ()


class UnfinishedSend(msgspec.Struct, frozen=True):
    """A send to go on with, locked by the caller. `kind` is its channel."""

    batch_id: UUID
    kind: str
    send: AudienceSend


_decoder = msgspec.json.Decoder(AudienceSend)


async def move_audience_send(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    batch_id: UUID,
    send: AudienceSend | None,
    continue_at: datetime | None,
) -> None:
    """Say how far a send has come and when to go on; None and None when it is finished."""
    progress = None if send is None else msgspec.json.encode(send).decode()
    await connection.execute(_SQL["move_audience_send"], project_id, batch_id, progress, continue_at)


async def lock_audience_send(
    connection: asyncpg.Connection, *, project_id: UUID, now: datetime
) -> UnfinishedSend | None:
    """The send that has waited longest and that nobody else is at, locked until the transaction ends."""
    row = await connection.fetchrow(_SQL["lock_audience_send"], project_id, now)
    return None if row is None else UnfinishedSend(row["batch_id"], row["kind"], _decoder.decode(row["progress"]))


async def count_unfinished_audience_sends(connection: asyncpg.Connection, *, project_id: UUID) -> int:
    """How many wait to be gone on with, now or later."""
    sends: int = await connection.fetchval(_SQL["count_unfinished_audience_sends"], project_id)
    return sends


async def find_audience_sends(connection: asyncpg.Connection, *, now: datetime) -> list[UUID]:
    """The projects that have one to go on with."""
    return [row["project_id"] for row in await connection.fetch(_SQL["find_audience_sends"], now)]
