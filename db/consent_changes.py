"""The log of consent: rows that are only ever added, each linked to the one before by its hash.

Guarantees: seqs are 1, 2, 3 … without gaps within a project, because whoever adds one holds the chain's end. Leaves to
others: what is hashed (`engine.consent_log`), and committing. Erasure takes what is personal of a row, and no row.
Where a statement is composed here, its text is made of constants; whatever a caller supplies is a parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("consent_changes")
_COLUMNS = (
    "c.project_id, c.seq, c.consent_change_id, c.user_id, c.source, c.actor, c.salt, c.purpose, c.from_state,"
    " c.to_state, c.at, c.commitment, c.hash"
)


class ConsentChangeRecord(msgspec.Struct, frozen=True):
    """One change. `user_id`, `source`, `actor` and `salt` are None after erasure."""

    project_id: UUID
    seq: int
    consent_change_id: UUID
    user_id: str | None
    source: str | None
    actor: str | None
    salt: bytes | None
    purpose: str
    from_state: str
    to_state: str
    at: datetime
    commitment: bytes
    hash: bytes


class ChainEnd(msgspec.Struct, frozen=True):
    """Where a project's chain ends: the seq and the hash of its last change."""

    seq: int
    hash: bytes


class ConsentChangeFilter(msgspec.Struct, frozen=True):
    """Which changes: of a person, of some purposes, with `since` ≤ at < `until`."""

    user_id: str | None = None
    purposes: tuple[str, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None


class ConsentChangeList(msgspec.Struct, frozen=True):
    """A part of the log, newest first; `has_more`: there are others on the far side."""

    changes: tuple[ConsentChangeRecord, ...]
    has_more: bool


async def lock_consent_chain(connection: asyncpg.Connection, *, project_id: UUID) -> ChainEnd | None:
    """Where the chain ends, locked until the transaction ends; None before its first change."""
    return _end(await connection.fetchrow(_SQL["lock_consent_chain"], project_id))


async def begin_consent_chain(connection: asyncpg.Connection, *, project_id: UUID, first_hash: bytes) -> bool:
    """Begin the chain. False when somebody else has begun it meanwhile, which is committed by then: lock it."""
    return await connection.fetchval(_SQL["begin_consent_chain"], project_id, first_hash) is not None


async def move_consent_chain(connection: asyncpg.Connection, *, project_id: UUID, end: ChainEnd) -> None:
    """Move the end of a chain that the caller has locked."""
    await connection.execute(_SQL["move_consent_chain"], project_id, end.seq, end.hash)


async def insert_consent_change(connection: asyncpg.Connection, change: ConsentChangeRecord) -> None:
    """Add a change, in the transaction that holds the chain's end."""
    await connection.execute(
        _SQL["insert_consent_change"],
        change.project_id,
        change.seq,
        change.consent_change_id,
        change.user_id,
        change.source,
        change.actor,
        change.salt,
        change.purpose,
        change.from_state,
        change.to_state,
        change.at,
        change.commitment,
        change.hash,
    )


async def read_consent_chain(connection: asyncpg.Connection, *, project_id: UUID) -> ChainEnd | None:
    """Where the chain ends; None before its first change."""
    return _end(await connection.fetchrow(_SQL["read_consent_chain"], project_id))


async def scan_consent_changes(
    connection: asyncpg.Connection, *, project_id: UUID, after: int, limit: int
) -> list[ConsentChangeRecord]:
    """Up to `limit` changes after a seq, oldest first."""
    return _records(await connection.fetch(_SQL["scan_consent_changes"], project_id, after, limit))


async def read_consent_changes(
    connection: asyncpg.Connection, *, project_id: UUID, consent_change_ids: Sequence[UUID]
) -> list[ConsentChangeRecord]:
    """Changes by id, in any order; unknown ones are absent."""
    return _records(await connection.fetch(_SQL["read_consent_changes"], project_id, consent_change_ids))


async def find_projects_with_consent(connection: asyncpg.Connection, *, project_id: UUID | None) -> list[UUID]:
    """Projects with a log of consent, or `project_id` if it has one."""
    return [row["project_id"] for row in await connection.fetch(_SQL["find_projects_with_consent"], project_id)]


async def list_consent_changes(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    change_filter: ConsentChangeFilter,
    limit: int,
    after: int | None = None,
    before: int | None = None,
    from_end: bool = False,
) -> ConsentChangeList:
    """Up to `limit` changes newest first, after (so older than) a seq and before another; the last when `from_end`."""
    parameters: list[Any] = [project_id, limit + 1]
    tests = []
    for test, value in (
        ("c.seq <", after),
        ("c.seq >", before),
        ("c.user_id =", change_filter.user_id),
        ("c.at >=", change_filter.since),
        ("c.at <", change_filter.until),
    ):
        if value is not None:
            parameters.append(value)
            tests.append(f" AND {test} ${len(parameters)}")
    if change_filter.purposes is not None:
        parameters.append(change_filter.purposes)
        tests.append(f" AND c.purpose = ANY (${len(parameters)})")
    text = f"""
        SELECT {_COLUMNS} FROM consent_changes AS c
        WHERE c.project_id = $1{"".join(tests)}
        ORDER BY c.seq {"ASC" if from_end else "DESC"}
        LIMIT $2"""  # noqa: S608
    found = _records(await connection.fetch(text, *parameters))
    page = found[:limit]
    return ConsentChangeList(tuple(reversed(page)) if from_end else tuple(page), has_more=len(found) > limit)


def _end(row: Any) -> ChainEnd | None:
    return None if row is None else ChainEnd(row["seq"], row["hash"])


def _records(rows: Sequence[Mapping[str, Any]]) -> list[ConsentChangeRecord]:
    return [ConsentChangeRecord(**dict(row.items())) for row in rows]
