"""Suppressions: addresses that nothing more is sent to, whoever they belong to.

An address is written in lower case for email, in E.164 for SMS. Of people who were erased nothing is kept but a hash of
their addresses, under which these stay suppressed (`db.erasure.hash_suppressions`). Leaves to others: committing, and
what the events of a suppression are.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("suppressions")


class SuppressionRecord(msgspec.Struct, frozen=True):
    """A suppressed address. `reason` is UNSUBSCRIBED or BOUNCED; `delivery_id` is what it followed from."""

    project_id: UUID
    channel: str
    address: str
    reason: str
    delivery_id: UUID | None
    created_at: datetime


class NewSuppression(msgspec.Struct, frozen=True):
    """An address to suppress."""

    address: str
    reason: str
    delivery_id: UUID | None = None


async def read_suppressions(
    connection: asyncpg.Connection, *, project_id: UUID, channel: str, addresses: Sequence[str]
) -> list[SuppressionRecord]:
    """The suppressed ones of some addresses, locked FOR SHARE."""
    rows = await connection.fetch(_SQL["share_suppressions"], project_id, channel, addresses)
    return [SuppressionRecord(**dict(row.items())) for row in rows]


async def insert_suppressions(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    channel: str,
    suppressions: Sequence[NewSuppression],
    now: datetime,
) -> list[str]:
    """Suppress addresses, each named once; returns those that were not suppressed before."""
    rows = await connection.fetch(
        _SQL["insert_suppressions"],
        project_id,
        channel,
        [each.address for each in suppressions],
        [each.reason for each in suppressions],
        [each.delivery_id for each in suppressions],
        now,
    )
    return [row["address"] for row in rows]
