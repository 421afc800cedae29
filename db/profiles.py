"""Profiles: everyone whom an event named. The append makes and changes them; here they are read, and made.

When a person was last seen is looked up in the log by index, so that an event needs no write to its person's row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.conditions import condition_sql
from db.filters import Condition
from db.records import CappedCount, ProfileList, ProfileRecord
from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

COUNT_CAP = 10_000
"""Counting further would cost more than the number is worth to a reader."""

_SQL = statements("profiles")
_SEARCHED = "p.user_id", "p.traits ->> 'email'", "p.traits ->> 'name'"

ProfileKey = tuple[datetime, UUID]
"""What the list of profiles is sorted by: `created_at` and `profile_id`, newest first."""


async def read_profiles_by_user(
    connection: asyncpg.Connection, *, project_id: UUID, user_ids: Sequence[str]
) -> list[ProfileRecord]:
    """The profiles of some users, in any order; unknown users are absent."""
    return [profile_of(row) for row in await connection.fetch(_SQL["read_profiles_by_user"], project_id, user_ids)]


async def read_profiles(
    connection: asyncpg.Connection, *, project_id: UUID, profile_ids: Sequence[UUID]
) -> list[ProfileRecord]:
    """Profiles by id, in any order; unknown ones and other projects' are absent."""
    return [profile_of(row) for row in await connection.fetch(_SQL["read_profiles"], project_id, profile_ids)]


async def share_profiles(connection: asyncpg.Connection, *, project_id: UUID, user_ids: Sequence[str]) -> set[str]:
    """Lock profiles FOR SHARE, in the order of their user ids; gives those that are there.

    Until the transaction ends they cannot be erased, and nobody who locks them (`lock_profiles`) can change what
    depends on them: consents, frequency caps.
    """
    return {row["user_id"] for row in await connection.fetch(_SQL["share_profiles"], project_id, user_ids)}


async def lock_profiles(connection: asyncpg.Connection, *, project_id: UUID, user_ids: Sequence[str]) -> set[str]:
    """Lock profiles FOR NO KEY UPDATE, in the order of their user ids; gives those that are there."""
    return {row["user_id"] for row in await connection.fetch(_SQL["lock_profiles"], project_id, user_ids)}


async def ensure_profile(connection: asyncpg.Connection, *, project_id: UUID, user_id: str, profile_id: UUID) -> None:
    """Make a person known who is not yet, so that there is a row to lock."""
    await connection.execute(_SQL["ensure_profile"], project_id, user_id, profile_id)


async def list_profiles(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    limit: int,
    after: ProfileKey | None = None,
    before: ProfileKey | None = None,
    from_end: bool = False,
    where: Sequence[Condition] = (),
    search: str | None = None,
    now: datetime | None = None,
) -> ProfileList:
    """Up to `limit` profiles, newest first, between two keys in that order; `from_end` takes the last ones instead.

    `search` is any part of the user id or of the traits `email` and `name`. `now` is what conditions look back from.
    """
    parameters: list[Any] = [project_id, limit + 1]
    tests = [
        _bound("<", after, parameters),
        _bound(">", before, parameters),
        _matching(where, search, now or datetime.now(UTC), parameters),
    ]
    order = "ASC" if from_end else "DESC"
    text = f"""
        SELECT page.*, seen.timestamp AS last_seen_at
        FROM (
            SELECT p.project_id, p.profile_id, p.user_id, p.anonymous, p.traits, p.created_at
            FROM profiles AS p
            WHERE p.project_id = $1 AND {" AND ".join(tests)}
            ORDER BY p.created_at {order}, p.profile_id {order}
            LIMIT $2
        ) AS page
        LEFT JOIN LATERAL (
            SELECT e.timestamp FROM events AS e
            WHERE e.project_id = page.project_id AND e.user_id = page.user_id
            ORDER BY e.seq DESC
            LIMIT 1
        ) AS seen ON true
        ORDER BY page.created_at {order}, page.profile_id {order}"""  # noqa: S608
    found = [profile_of(row) for row in await connection.fetch(text, *parameters)]
    page = found[:limit]
    return ProfileList(tuple(reversed(page)) if from_end else tuple(page), has_more=len(found) > limit)


async def count_profiles(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    where: Sequence[Condition] = (),
    search: str | None = None,
    now: datetime | None = None,
) -> CappedCount:
    """How many profiles match, counted no further than `COUNT_CAP`."""
    parameters: list[Any] = [project_id, COUNT_CAP + 1]
    text = f"""
        SELECT count(*) FROM (
            SELECT FROM profiles AS p
            WHERE p.project_id = $1 AND {_matching(where, search, now or datetime.now(UTC), parameters)}
            LIMIT $2
        ) AS counted"""  # noqa: S608
    counted: int = await connection.fetchval(text, *parameters)
    return CappedCount(min(counted, COUNT_CAP), is_capped=counted > COUNT_CAP)


def _bound(operator: str, key: ProfileKey | None, parameters: list[Any]) -> str:
    if key is None:
        return "true"
    parameters.extend(key)
    first = len(parameters) - 1
    return f"(p.created_at, p.profile_id) {operator} (${first}, ${first + 1})"


def _matching(where: Sequence[Condition], search: str | None, now: datetime, parameters: list[Any]) -> str:
    conditions = (
        condition_sql(where, parameters, table="profiles", alias="p", now=now, project="$1") if where else "true"
    )
    if search is None:
        return conditions
    parameters.append(search)
    searched = " OR ".join(f"strpos(lower({column}), lower(${len(parameters)})) > 0" for column in _SEARCHED)
    return f"{conditions} AND ({searched})"


def profile_of(row: Mapping[str, Any]) -> ProfileRecord:
    """A row of a statement that reads people."""
    return ProfileRecord(
        row["project_id"],
        row["profile_id"],
        row["user_id"],
        row["anonymous"],
        msgspec.Raw(row["traits"].encode()),
        row["created_at"],
        row["last_seen_at"],
    )
