"""Who belongs to an audience, asked as things stand: nothing is remembered, so no answer is older than its question.

Guarantees: the answer is that of the conditions over the rows that the caller's transaction sees, at `now`. An audience
that was deleted, or is another project's, has no members. Leaves to others: locking people, whose traits may change as
soon as they were looked at, and noticing that somebody came or left (`engine.audiences.following`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from db.audiences import AudienceRecord, find_members, read_audiences
from db.audiences import page_members as read_member_page
from db.filters import Condition
from engine.audiences.conditions import conditions_of

if TYPE_CHECKING:
    import asyncpg


async def members_among(
    connection: asyncpg.Connection, *, project_id: UUID, audience_id: UUID, user_ids: Iterable[str], now: datetime
) -> set[str]:
    """Those of some people who belong to an audience."""
    audience = await find_audience(connection, project_id=project_id, audience_id=audience_id)
    asked = sorted(set(user_ids))
    if audience is None or not asked:
        return set()
    return await find_members(
        connection, project_id=project_id, conditions=conditions_of(audience), user_ids=asked, now=now
    )


async def page_members(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    conditions: Sequence[Condition],
    after_user_id: str | None,
    limit: int,
    now: datetime,
) -> list[str]:
    """Up to `limit` people who meet the conditions, by user id, after one: fewer than that are the last ones.

    Whoever goes through an audience page by page meets everybody once who belongs to it throughout.
    """
    return await read_member_page(
        connection,
        project_id=project_id,
        conditions=conditions,
        after_user_id=after_user_id,
        limit=limit,
        now=now,
    )


async def find_audience(
    connection: asyncpg.Connection, *, project_id: UUID, audience_id: UUID
) -> AudienceRecord | None:
    """An audience that was not deleted."""
    found = await read_audiences(connection, project_id=project_id, audience_ids=[audience_id])
    return found[0] if found else None
