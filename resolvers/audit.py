"""The audit log: reading it, and what a change that a viewer makes is noted with. ADMIN alone reads it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from db.audit_entries import AuditEntryRecord, AuditKey
from db.audit_entries import list_audit_entries as read_audit_entry_list
from engine.audit import Audit
from engine.cursors import Cursor, CursorKind
from engine.identity import Role, Viewer
from resolvers.context import Context
from resolvers.filters import check_text
from resolvers.paging import Page, PageArguments, read_window
from resolvers.permissions import require

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


async def list_audit_log(ctx: Context, *, arguments: PageArguments, subject: str | None) -> Page[AuditEntryRecord]:
    """A page of what was changed in the project, newest first; with `subject` of one thing or person only."""
    viewer = require(ctx, Role.ADMIN)
    codec, project_id = ctx.services.cursors, viewer.project_id
    window = read_window(arguments, codec, project_id=project_id, kind=CursorKind.AUDIT_LOG)
    check_text(subject, "subject")
    async with ctx.reading(project_id) as connection:
        found = await read_audit_entry_list(
            connection,
            project_id=project_id,
            subject=subject,
            after=_key(window.after),
            before=_key(window.before),
            from_end=window.from_end,
            limit=window.limit,
        )
    cursors = tuple(codec.encode(_cursor(entry)) for entry in found.entries)
    return window.page(found.entries, cursors, has_more=found.has_more)


def audit_of(ctx: Context, viewer: Viewer) -> Audit:
    """What changes that this viewer makes now are noted with."""
    return Audit(viewer.actor, ctx.services.clock.now())


def _cursor(entry: AuditEntryRecord) -> Cursor:
    at = (entry.at - _BEGINNING) // _MICROSECOND
    return Cursor(CursorKind.AUDIT_LOG, entry.project_id, 0, (at, entry.audit_entry_id.hex))


def _key(cursor: Cursor | None) -> AuditKey | None:
    if cursor is None:
        return None
    at, audit_entry_id = cursor.key
    return _BEGINNING + int(at) * _MICROSECOND, UUID(hex=str(audit_entry_id))
