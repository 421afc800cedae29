"""The audit log: who changed what, what it was before and what it is now.

Guarantees: an entry and the change that it tells of are one transaction; nothing that is secret comes in, because
whoever records a change hands in what may be shown, and what looks like a secret all the same is masked. Leaves to
others: committing, and who may read it (resolvers.audit).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.audit_entries import AuditEntryRecord, insert_audit_entry

if TYPE_CHECKING:
    import asyncpg

SYSTEM = "system"
"""The actor of what nobody asked for: a schedule, a provider's report, a limit that was reached."""


async def record_change(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    actor: str,
    action: str,
    subject: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    now: datetime,
    user_id: str | None = None,
) -> None:
    """Note a change, in the caller's transaction.

    `actor` is `Viewer.actor` or `SYSTEM`; `action` is object.past_tense_verb; `subject` is the node id of what was
    changed, or `user:<user id>`. `before` is None for what is new, `after` for what is gone. `user_id` names the person
    whom it is about, so that erasure finds it. `now` is business time.
    """
    await insert_audit_entry(
        connection,
        AuditEntryRecord(
            project_id=project_id,
            audit_entry_id=uuid7(),
            at=now,
            actor=actor,
            action=action,
            subject=subject,
            before=_text(before),
            after=_text(after),
            user_id=user_id,
        ),
    )


def _text(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
