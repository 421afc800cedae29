"""Audiences: groups of people that conditions describe, and who belongs to one as things stand.

Guarantees: whether somebody belongs is decided by `db.conditions` over the rows as the statement sees them. Whoever
opened the transaction commits it.

Where a statement is composed here, its text is made of constants; whatever a caller supplies is a parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.conditions import condition_sql
from db.filters import Condition
from db.profiles import profile_of
from db.records import CappedCount, ProfileRecord
from db.statements import statements

if TYPE_CHECKING:
    from collections.abc import Mapping

    import asyncpg

COUNT_CAP = 10_000
"""How far a list's count goes; the size of an audience is counted to its end."""

_SQL = statements("audiences")


class AudienceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A group of people. `conditions` is the JSON of a list of conditions, as clients write them."""

    project_id: UUID
    audience_id: UUID
    name: str
    conditions: msgspec.Raw
    created_at: datetime
    updated_at: datetime


async def insert_audience(
    connection: asyncpg.Connection, *, project_id: UUID, audience_id: UUID, name: str, conditions: str, now: datetime
) -> AudienceRecord:
    """Make an audience. Raises `asyncpg.UniqueViolationError` for a taken name."""
    return _audience_of(
        await connection.fetchrow(_SQL["insert_audience"], project_id, audience_id, name, conditions, now)
    )


async def lock_audience(
    connection: asyncpg.Connection, *, project_id: UUID, audience_id: UUID
) -> AudienceRecord | None:
    """An audience, locked until the transaction ends."""
    row = await connection.fetchrow(_SQL["lock_audience"], project_id, audience_id)
    return None if row is None else _audience_of(row)


async def share_audiences(
    connection: asyncpg.Connection, *, project_id: UUID, audience_ids: Sequence[UUID]
) -> set[UUID]:
    """Those of some audiences that are there; until the transaction ends they cannot be deleted."""
    rows = await connection.fetch(_SQL["share_audiences"], project_id, audience_ids)
    return {row["audience_id"] for row in rows}


async def update_audience(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    audience_id: UUID,
    name: str,
    conditions: str,
    now: datetime,
) -> AudienceRecord:
    """Replace an audience that the transaction has locked. Raises `asyncpg.UniqueViolationError` for a taken name."""
    values = (project_id, audience_id, name, conditions, now)
    return _audience_of(await connection.fetchrow(_SQL["update_audience"], *values))


async def find_audience_names(
    connection: asyncpg.Connection, *, project_id: UUID, names: Sequence[str]
) -> dict[str, UUID]:
    """Whose some names are; those that nobody has are absent."""
    rows = await connection.fetch(_SQL["find_audience_names"], project_id, names)
    return {row["name"]: row["audience_id"] for row in rows}


async def delete_audience(
    connection: asyncpg.Connection, *, project_id: UUID, audience_id: UUID, now: datetime
) -> None:
    """Take an audience that the transaction has locked out of every list."""
    await connection.execute(_SQL["delete_audience"], project_id, audience_id, now)


async def read_audiences(
    connection: asyncpg.Connection, *, project_id: UUID, audience_ids: Sequence[UUID]
) -> list[AudienceRecord]:
    """Audiences by id, in any order; unknown ones are absent."""
    rows = await connection.fetch(_SQL["read_audiences"], project_id, audience_ids)
    return [_audience_of(row) for row in rows]


async def read_audiences_ever(
    connection: asyncpg.Connection, *, project_id: UUID, audience_ids: Sequence[UUID]
) -> list[AudienceRecord]:
    """Audiences by id, those that were deleted included: what was said of them still has a name."""
    rows = await connection.fetch(_SQL["read_audiences_ever"], project_id, audience_ids)
    return [_audience_of(row) for row in rows]


async def read_audiences_of_people(
    connection: asyncpg.Connection, *, project_id: UUID, user_ids: Sequence[str]
) -> list[tuple[str, AudienceRecord]]:
    """Who of some people belonged to what when it was last looked at, by the name of the audience."""
    rows = await connection.fetch(_SQL["read_audiences_of_people"], project_id, user_ids)
    return [(row["user_id"], _audience_of(row)) for row in rows]


async def read_all_audiences(connection: asyncpg.Connection, *, project_id: UUID) -> list[AudienceRecord]:
    """Every audience of a project, by name: as many as a project may have."""
    return [_audience_of(row) for row in await connection.fetch(_SQL["read_all_audiences"], project_id)]


async def list_audiences(
    connection: asyncpg.Connection, *, project_id: UUID, after: str | None, search: str | None, limit: int
) -> list[AudienceRecord]:
    """Up to `limit` audiences by name, byte by byte. `search` is any part of the name, in any case."""
    rows = await connection.fetch(_SQL["list_audiences"], project_id, after, search, limit)
    return [_audience_of(row) for row in rows]


async def hold_audiences(connection: asyncpg.Connection, *, project_id: UUID) -> None:
    """Let nobody else make or rename an audience of a project until the transaction ends."""
    await connection.execute(_SQL["hold_audiences"], project_id)


async def count_audiences(connection: asyncpg.Connection, *, project_id: UUID) -> int:
    """How many audiences a project has."""
    counted: int = await connection.fetchval(_SQL["count_audiences"], project_id)
    return counted


async def find_workflows_of_audience(
    connection: asyncpg.Connection, *, project_id: UUID, audience_id: UUID, limit: int
) -> list[str]:
    """The names of up to `limit` workflows that are on and start for the members of an audience."""
    rows = await connection.fetch(_SQL["find_workflows_of_audience"], project_id, str(audience_id), limit)
    return [row["name"] for row in rows]


async def find_insights_of_audience(
    connection: asyncpg.Connection, *, project_id: UUID, node_id: str, limit: int
) -> list[str]:
    """The names of up to `limit` insights that ask about the members of an audience, given by its node id."""
    rows = await connection.fetch(_SQL["find_insights_of_audience"], project_id, node_id, limit)
    return [row["name"] for row in rows]


async def find_members(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    conditions: Sequence[Condition],
    user_ids: Sequence[str],
    now: datetime,
) -> set[str]:
    """Those of some people who meet the conditions. `now` is what the conditions look back from."""
    parameters: list[Any] = [project_id, user_ids]
    text = f"""
        SELECT p.user_id
        FROM profiles AS p
        WHERE p.project_id = $1 AND p.user_id = ANY ($2)
            AND {_met(conditions, now, parameters)}"""  # noqa: S608
    return {row["user_id"] for row in await connection.fetch(text, *parameters)}


async def page_members(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    conditions: Sequence[Condition],
    after_user_id: str | None,
    limit: int,
    now: datetime,
) -> list[str]:
    """Up to `limit` people who meet the conditions, by user id, after one: fewer than that are the last ones."""
    parameters: list[Any] = [project_id, after_user_id or "", limit]
    text = f"""
        SELECT p.user_id
        FROM profiles AS p
        WHERE p.project_id = $1 AND p.user_id > $2
            AND {_met(conditions, now, parameters)}
        ORDER BY p.user_id
        LIMIT $3"""  # noqa: S608
    return [row["user_id"] for row in await connection.fetch(text, *parameters)]


async def list_members(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    conditions: Sequence[Condition],
    after_user_id: str | None,
    limit: int,
    now: datetime,
) -> list[ProfileRecord]:
    """As `page_members`, with all that is known of them."""
    parameters: list[Any] = [project_id, after_user_id or "", limit]
    text = f"""
        SELECT page.*, seen.timestamp AS last_seen_at
        FROM (
            SELECT p.project_id, p.profile_id, p.user_id, p.anonymous, p.traits, p.created_at
            FROM profiles AS p
            WHERE p.project_id = $1 AND p.user_id > $2
                AND {_met(conditions, now, parameters)}
            ORDER BY p.user_id
            LIMIT $3
        ) AS page
        LEFT JOIN LATERAL (
            SELECT e.timestamp FROM events AS e
            WHERE e.project_id = page.project_id AND e.user_id = page.user_id
            ORDER BY e.seq DESC
            LIMIT 1
        ) AS seen ON true
        ORDER BY page.user_id"""  # noqa: S608
    return [profile_of(row) for row in await connection.fetch(text, *parameters)]


async def count_members(
    connection: asyncpg.Connection, *, project_id: UUID, conditions: Sequence[Condition], now: datetime
) -> int:
    """How many people meet the conditions, exactly."""
    parameters: list[Any] = [project_id]
    text = f"""
        SELECT count(*) FROM profiles AS p
        WHERE p.project_id = $1 AND {_met(conditions, now, parameters)}"""  # noqa: S608
    counted: int = await connection.fetchval(text, *parameters)
    return counted


async def count_some_members(
    connection: asyncpg.Connection, *, project_id: UUID, conditions: Sequence[Condition], now: datetime
) -> CappedCount:
    """How many people meet the conditions, counted no further than `COUNT_CAP`."""
    parameters: list[Any] = [project_id, COUNT_CAP + 1]
    text = f"""
        SELECT count(*) FROM (
            SELECT FROM profiles AS p
            WHERE p.project_id = $1 AND {_met(conditions, now, parameters)}
            LIMIT $2
        ) AS counted"""  # noqa: S608
    counted: int = await connection.fetchval(text, *parameters)
    return CappedCount(min(counted, COUNT_CAP), is_capped=counted > COUNT_CAP)


def _met(conditions: Sequence[Condition], now: datetime, parameters: list[Any]) -> str:
    return condition_sql(conditions, parameters, table="profiles", alias="p", now=now, project="$1")


def _audience_of(row: Mapping[str, Any]) -> AudienceRecord:
    values = {name: row[name] for name in AudienceRecord.__struct_fields__}
    return AudienceRecord(**{**values, "conditions": msgspec.Raw(row["conditions"].encode())})
