"""Who changed what: entries of the audit log. What is secret is masked above, before it comes here."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("audit_entries")


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
