"""Who changed what: entries of the audit log, in the order of their times. Whoever opened the transaction commits it.

Leaves to others: masking what is secret, before it comes here.
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

AuditKey = tuple[datetime, UUID]
"""What the log is sorted by."""
ERASED = "user:(erased)"
"""In the place of a person who was erased."""

_SQL = statements("audit_entries")
_NOWHERE = (None, None)


class AuditEntryRecord(msgspec.Struct, frozen=True):
    """One change. `before` and `after` are JSON text, None for what was not there; `user_id` is whom it is about."""

    project_id: UUID
    audit_entry_id: UUID
    at: datetime
    actor: str
    action: str
    subject: str
    before: str | None
    after: str | None
    user_id: str | None


async def insert_audit_entry(connection: asyncpg.Connection, entry: AuditEntryRecord) -> None:
    """Add an entry, in the transaction that changes what it tells of."""
    await connection.execute(
        _SQL["insert_audit_entry"],
        entry.project_id,
        entry.audit_entry_id,
        entry.at,
        entry.actor,
        entry.action,
        entry.subject,
        entry.before,
        entry.after,
        entry.user_id,
    )


class FoundAuditEntries(msgspec.Struct, frozen=True):
    """A part of the log, newest first; `has_more`: there are others on the far side."""

    entries: tuple[AuditEntryRecord, ...]
    has_more: bool


async def list_audit_entries(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    subject: str | None,
    after: AuditKey | None,
    before: AuditKey | None,
    from_end: bool,
    limit: int,
) -> FoundAuditEntries:
    """Up to `limit` entries newest first, between two positions; those at its end when `from_end`."""
    name = "list_audit_entries" + ("" if subject is None else "_of_subject") + ("_backwards" if from_end else "")
    bounds = (*(after or _NOWHERE), *(before or _NOWHERE))
    about = () if subject is None else (subject,)
    rows = await connection.fetch(_SQL[name], project_id, *bounds, limit + 1, *about)
    found = [AuditEntryRecord(**dict(row.items())) for row in rows[:limit]]
    return FoundAuditEntries(tuple(reversed(found) if from_end else found), len(rows) > limit)


async def read_audit_entries(
    connection: asyncpg.Connection, *, project_id: UUID, audit_entry_ids: Sequence[UUID]
) -> list[AuditEntryRecord]:
    """Entries by id, in any order; unknown ones are absent."""
    rows = await connection.fetch(_SQL["read_audit_entries"], project_id, audit_entry_ids)
    return [AuditEntryRecord(**dict(row.items())) for row in rows]


async def erase_person_of_audit_entries(connection: asyncpg.Connection, *, project_id: UUID, user_id: str) -> int:
    """Take a person out of the log; how many entries named them. That something happened, when and by which of the
    others stays; what an entry about the person says of before and after goes.
    """
    erased: int = await connection.fetchval(
        _SQL["erase_person_of_audit_entries"], project_id, user_id, f"user:{user_id}", ERASED
    )
    return erased
