"""Sends that count against frequency caps: one row per delivery, counted once per person and message.

Guarantees: a delivery that was held back, put off or cancelled does not count, whatever was reserved for it. Leaves to
others: locking the persons' profiles before they count (`db.profiles.lock_profiles`), so that two who count and reserve
take turns; what the caps are; and deleting what no window reaches any more (`db.housekeeping`).
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

_SQL = statements("push_reservations")


class SendCount(msgspec.Struct, frozen=True):
    """Messages that count against a person's caps. `message_ids` are those asked for that are among them."""

    in_hour: int = 0
    in_day: int = 0
    message_ids: frozenset[UUID] = frozenset()


class Reservation(msgspec.Struct, frozen=True):
    """A delivery that counts from now on."""

    delivery_id: UUID
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
    rows = await connection.fetch(_SQL["count_sends"], project_id, user_ids, now - HOUR, now - DAY, message_ids)
    return {row["user_id"]: SendCount(row["in_hour"], row["in_day"], frozenset(row["message_ids"])) for row in rows}


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
        [each.user_id for each in ordered],
        [each.message_id for each in ordered],
        now,
    )
