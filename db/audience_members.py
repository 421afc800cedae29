"""Who belonged to audiences when it was last looked at, and when people have to be looked at again.

Guarantees: `evaluate` gives what the conditions say now; `read_people` and `read_counted` what one needs to say it
without asking again; everything else here keeps and reads what was found. What is
kept is written only by who holds the project's follower `audiences` (`hold_follower`, or its position's own lock).
Whoever opened the transaction commits it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

import msgspec

from db.condition_times import Turn, next_change_sql
from db.conditions import condition_sql, like_pattern
from db.events import event_of
from db.filters import Condition
from db.profiles import profile_of
from db.records import EventRecord, ProfileRecord
from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

MAX_DUE_LOOKED_AT = 10_000
"""Due rows in which projects are looked for at once, the longest due first."""

Pair: TypeAlias = tuple[UUID, str]
"""An audience and a person."""

_SQL = statements("audience_members")


class Kept(msgspec.Struct, frozen=True):
    """What is kept of a person: some of the audiences to which they belong, and when to look at them again."""

    audience_ids: Set[UUID]
    recheck_at: datetime | None


class KnownPerson(msgspec.Struct, frozen=True):
    """A person as of a head of the log, and what is kept of them for all audiences.

    `said` is what they said about consent, by purpose in lower case. It and when they were last seen are there when
    they were asked for.
    """

    profile: ProfileRecord
    said: Mapping[str, str]
    kept: Kept


class KnownPeople(msgspec.Struct, frozen=True):
    """Some people, all as of one head of the log; who is not there is absent."""

    head: int
    people: tuple[KnownPerson, ...]


class CountedTypes(msgspec.Struct, frozen=True):
    """Types of events that are counted, by name or wildcard, and from when on, if not from the beginning."""

    names: tuple[str, ...]
    since: datetime | None


class AudienceRevisions(msgspec.Struct, frozen=True):
    """Which audiences a project has, as of which revisions, by id; and where its log begins: epoch and first seq."""

    revisions: tuple[tuple[UUID, int], ...]
    log_start: tuple[int, int]


class BuildingAudience(msgspec.Struct, frozen=True):
    """An audience for which everybody past `built_up_to` is still to be looked at; if it `is_deleted`, forgotten."""

    audience_id: UUID
    conditions: str
    built_up_to: str | None
    is_deleted: bool


async def evaluate(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    conditions: Sequence[Condition],
    user_ids: Sequence[str],
    now: datetime,
) -> list[Turn]:
    """What conditions say about some people; who is not there is absent."""
    parameters: list[Any] = [project_id, user_ids]
    text = f"""
        SELECT p.user_id,
            {condition_sql(conditions, parameters, table="profiles", alias="p", now=now, project="$1")} AS is_member,
            {next_change_sql(conditions, parameters, alias="p", now=now, project="$1")} AS recheck_at
        FROM unnest(CAST($2 AS text[])) AS asked (user_id)
        CROSS JOIN LATERAL (
            SELECT found.* FROM profiles AS found
            WHERE found.project_id = $1 AND found.user_id = asked.user_id
            LIMIT 1
        ) AS p"""  # noqa: S608
    rows = await connection.fetch(text, *parameters)
    return [Turn(row["user_id"], row["is_member"], row["recheck_at"]) for row in rows]


async def hold_follower(connection: asyncpg.Connection, *, project_id: UUID, follower: str) -> None:
    """Take the lock under which what is kept of a project is written. First in its transaction."""
    await connection.execute(_SQL["hold_follower"], project_id, follower)


async def read_audience_revisions(connection: asyncpg.Connection, *, project_id: UUID) -> AudienceRevisions:
    """A project's audiences and their revisions."""
    rows = await connection.fetch(_SQL["read_audience_revisions"], project_id)
    revisions = tuple((row["audience_id"], row["revision"]) for row in rows)
    return AudienceRevisions(revisions, (rows[0]["epoch"], rows[0]["first_seq"]) if rows else (0, 0))


async def find_newcomers(
    connection: asyncpg.Connection, *, project_id: UUID, user_ids: Sequence[str], since_seq: int
) -> set[str]:
    """Those of some people whom no event before a position names."""
    rows = await connection.fetch(_SQL["find_newcomers"], project_id, user_ids, since_seq)
    return {row["user_id"] for row in rows}


async def read_people(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    user_ids: Sequence[str],
    with_last_seen: bool = False,
    with_consent: bool = False,
) -> KnownPeople:
    """Some people, and what is kept of them."""
    rows = await connection.fetch(_SQL["read_people"], project_id, user_ids, with_last_seen, with_consent)
    people = tuple(
        KnownPerson(
            profile_of(row),
            {} if row["said"] is None else msgspec.json.decode(row["said"]),
            Kept(frozenset(row["audience_ids"]), row["recheck_at"]),
        )
        for row in rows
    )
    return KnownPeople(rows[0]["head"] if rows else 0, people)


async def read_kept(
    connection: asyncpg.Connection, *, project_id: UUID, audience_id: UUID, user_ids: Sequence[str]
) -> dict[str, Kept]:
    """What is kept of each of some people for one audience."""
    rows = await connection.fetch(_SQL["read_kept"], project_id, audience_id, user_ids)
    only = frozenset([audience_id])
    return {row["user_id"]: Kept(only if row["is_member"] else frozenset(), row["recheck_at"]) for row in rows}


async def read_counted(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    after: Sequence[tuple[str, int]],
    up_to: int,
    types: CountedTypes,
    limit: int,
) -> list[list[EventRecord]]:
    """The counted events of some people after a seq of each, up to one, at most `limit` of each, by seq."""
    rows = await connection.fetch(
        _SQL["read_counted"],
        project_id,
        [user_id for user_id, _ in after],
        [seq for _, seq in after],
        up_to,
        [name for name in types.names if "*" not in name],
        [like_pattern(name) for name in types.names if "*" in name],
        types.since,
        limit,
    )
    found: list[list[EventRecord]] = [[] for _ in after]
    for row in rows:
        found[row["ordinal"] - 1].append(event_of(row))
    return found


async def hold_people(connection: asyncpg.Connection, *, project_id: UUID, user_ids: Sequence[str]) -> set[str]:
    """Those of some people, in order, who are there; until the transaction ends they cannot be erased, but change."""
    return {row["user_id"] for row in await connection.fetch(_SQL["hold_people"], project_id, user_ids)}


async def insert_members(
    connection: asyncpg.Connection, *, project_id: UUID, pairs: Sequence[Pair], now: datetime
) -> None:
    """Keep that people belong to audiences from `now` on."""
    await connection.execute(_SQL["insert_members"], project_id, *_columns(pairs), now)


async def delete_members(connection: asyncpg.Connection, *, project_id: UUID, pairs: Sequence[Pair]) -> None:
    """Keep that people do not belong any more."""
    await connection.execute(_SQL["delete_members"], project_id, *_columns(pairs))


async def write_rechecks(connection: asyncpg.Connection, *, project_id: UUID, times: Mapping[str, datetime]) -> None:
    """Say when people are to be looked at again."""
    await connection.execute(_SQL["write_rechecks"], project_id, list(times), list(times.values()))


async def delete_rechecks(connection: asyncpg.Connection, *, project_id: UUID, user_ids: Sequence[str]) -> None:
    """Say that people need not be looked at again."""
    await connection.execute(_SQL["delete_rechecks"], project_id, user_ids)


async def find_rechecks(connection: asyncpg.Connection, *, project_id: UUID, now: datetime, limit: int) -> list[str]:
    """The people who are due to be looked at, the longest due first."""
    return [row["user_id"] for row in await connection.fetch(_SQL["find_rechecks"], project_id, now, limit)]


async def find_recheck_projects(connection: asyncpg.Connection, *, now: datetime) -> list[UUID]:
    """Projects with somebody who is due to be looked at."""
    rows = await connection.fetch(_SQL["find_recheck_projects"], now, MAX_DUE_LOOKED_AT)
    return [row["project_id"] for row in rows]


async def find_building_projects(connection: asyncpg.Connection) -> list[UUID]:
    """The projects with an audience to build or to forget."""
    return [row["project_id"] for row in await connection.fetch(_SQL["find_building_projects"])]


async def lock_building(connection: asyncpg.Connection, *, project_id: UUID) -> BuildingAudience | None:
    """An audience of a project to build or to forget, locked until the transaction ends."""
    row = await connection.fetchrow(_SQL["lock_building"], project_id)
    return None if row is None else BuildingAudience(**dict(row.items()))


async def move_building(
    connection: asyncpg.Connection, *, project_id: UUID, audience_id: UUID, built_up_to: str | None
) -> None:
    """Say how far that is done; None when it is."""
    is_building = built_up_to is not None
    await connection.execute(_SQL["move_building"], project_id, audience_id, built_up_to, is_building)


async def page_people(connection: asyncpg.Connection, *, project_id: UUID, after: str | None, limit: int) -> list[str]:
    """People by user id, after one."""
    rows = await connection.fetch(_SQL["page_people"], project_id, after or "", limit)
    return [row["user_id"] for row in rows]


async def page_members(
    connection: asyncpg.Connection, *, project_id: UUID, audience_id: UUID, after: str | None, limit: int
) -> list[str]:
    """People who are kept as belonging to an audience, by user id, after one."""
    rows = await connection.fetch(_SQL["page_members"], project_id, audience_id, after or "", limit)
    return [row["user_id"] for row in rows]


async def rebuild_audiences(connection: asyncpg.Connection, *, project_id: UUID) -> None:
    """Have everybody looked at anew: something changed that no event says."""
    await connection.execute(_SQL["rebuild_audiences"], project_id)


def _columns(pairs: Sequence[Pair]) -> tuple[list[UUID], list[str]]:
    return [audience_id for audience_id, _ in pairs], [user_id for _, user_id in pairs]
