"""Sends that count against frequency caps: one row per delivery and batch, counted once per person, message and batch.

A delivery's batch is what made it, or the replay that queued it again: so each replay counts, and the devices and the
attempts of one do not. Guarantees: what was held back, put off, cancelled or failed does not count, whatever was
reserved for it. Leaves to others: locking the persons' profiles before they count (`db.profiles.lock_profiles`), so
that two who count and reserve take turns; releasing what came to nothing before a replay (`release_unsent`); what the
caps are; and deleting what no window reaches any more (`db.housekeeping`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
UNSENT = ("SCHEDULED", "SUPPRESSED", "CANCELLED", "FAILED")
"""Statuses of deliveries that nobody was disturbed by."""

_SQL = statements("push_reservations")


class SendCount(msgspec.Struct, frozen=True):
    """What counts against a person's caps. `sends` are those of the messages asked for: message, and batch."""

    in_hour: int = 0
    in_day: int = 0
    sends: frozenset[tuple[UUID, UUID | None]] = frozenset()


class Reservation(msgspec.Struct, frozen=True):
    """A delivery that counts from now on."""

    delivery_id: UUID
    batch_id: UUID | None
    user_id: str
    message_id: UUID


async def count_sends(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    user_ids: Sequence[str],
    message_ids: Sequence[UUID],
    now: datetime,
) -> Mapping[str, SendCount]:
    """What counts in the hour and in the day before `now`, by user; absent where nothing does."""
    rows = await connection.fetch(_SQL["count_sends"], project_id, user_ids, now - HOUR, now - DAY, message_ids, UNSENT)
    return {
        row["user_id"]: SendCount(
            row["in_hour"], row["in_day"], frozenset(zip(row["message_ids"], row["batch_ids"], strict=True))
        )
        for row in rows
    }


async def reserve_sends(
    connection: asyncpg.Connection, *, project_id: UUID, reservations: Sequence[Reservation], now: datetime
) -> None:
    """Count deliveries from `now` on."""
    if not reservations:
        return
    ordered = sorted(reservations, key=lambda each: each.delivery_id)
    await connection.execute(
        _SQL["reserve_sends"],
        project_id,
        [each.delivery_id for each in ordered],
        [each.batch_id for each in ordered],
        [each.user_id for each in ordered],
        [each.message_id for each in ordered],
        now,
    )


async def release_unsent(connection: asyncpg.Connection, *, project_id: UUID, delivery_ids: Sequence[UUID]) -> None:
    """Of deliveries that are about to be queued again: what was reserved for those that came to nothing."""
    await connection.execute(_SQL["release_unsent"], project_id, delivery_ids, UNSENT)
