"""Consents: what people have agreed to, one row per person and purpose. No row means that nothing was ever said.

Leaves to others: what a state allows, the events of a change (`engine.consent`), and committing. Whoever reads here to
decide about a send holds the person's profile (`db.profiles.share_profiles`): a row that is not there cannot be locked.
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

_SQL = statements("consents")


class ConsentRecord(msgspec.Struct, frozen=True):
    """What a person said about a purpose. `source` is where, in the words of whoever recorded it."""

    project_id: UUID
    user_id: str
    purpose: str
    state: str
    source: str
    updated_at: datetime


async def read_consents(
    connection: asyncpg.Connection, *, project_id: UUID, user_ids: Sequence[str], purposes: Sequence[str]
) -> list[ConsentRecord]:
    """What people said, locked FOR SHARE, by user id and purpose; absent where nothing was said."""
    rows = await connection.fetch(_SQL["share_consents"], project_id, user_ids, purposes)
    return [ConsentRecord(**dict(row.items())) for row in rows]


async def read_consents_of_people(
    connection: asyncpg.Connection, *, project_id: UUID, user_ids: Sequence[str]
) -> list[ConsentRecord]:
    """What people said, by user id and purpose, without locks."""
    rows = await connection.fetch(_SQL["read_consents_of_people"], project_id, user_ids)
    return [ConsentRecord(**dict(row.items())) for row in rows]


async def write_consent(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    user_id: str,
    purpose: str,
    state: str,
    source: str,
    now: datetime,
) -> None:
    """Set what a person says. The caller has locked the profile."""
    await connection.execute(_SQL["write_consent"], project_id, user_id, purpose, state, source, now)
