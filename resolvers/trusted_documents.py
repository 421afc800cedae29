"""Trusted documents: listing, registering and forgetting them. Whoever may register may run anything: ADMIN."""

from __future__ import annotations

from collections.abc import Sequence

from db.trusted_documents import DocumentKey, TrustedDocumentRecord
from db.trusted_documents import list_trusted_documents as read_document_list
from engine.cursors import Cursor, CursorKind
from engine.errors import UserError
from engine.identity import Role
from engine.trusted_documents import NOT_FOUND, GivenDocument, Outcome, delete_document, parse_document_id
from engine.trusted_documents import save_documents as keep_documents
from resolvers.audit import audit_of
from resolvers.context import Context
from resolvers.paging import Page, PageArguments, read_window
from resolvers.permissions import require


async def list_trusted_documents(ctx: Context, *, arguments: PageArguments) -> Page[TrustedDocumentRecord]:
    """A page of the project's documents, by name."""
    viewer = require(ctx, Role.VIEWER)
    codec, project_id = ctx.services.cursors, viewer.project_id
    window = read_window(arguments, codec, project_id=project_id, kind=CursorKind.TRUSTED_DOCUMENTS)
    async with ctx.reading(project_id) as connection:
        found = await read_document_list(
            connection, project_id=project_id, after=_key(window.after), limit=window.limit + 1
        )
    records = tuple(found[: window.limit])
    cursors = tuple(codec.encode(_cursor(each)) for each in records)
    return window.page(records, cursors, has_more=len(found) > window.limit)


async def save_documents(ctx: Context, *, given: Sequence[GivenDocument]) -> Outcome:
    """Register documents, all or none."""
    viewer = require(ctx, Role.ADMIN)
    services = ctx.services
    return await keep_documents(
        services.database,
        project_id=viewer.project_id,
        given=given,
        complaints=services.document_complaints,
        audit=audit_of(ctx, viewer),
    )


async def delete(ctx: Context, *, document_id: str) -> tuple[str | None, tuple[UserError, ...]]:
    """Forget a document; gives its id."""
    viewer = require(ctx, Role.ADMIN)
    document_hash = parse_document_id(document_id)
    if document_hash is None:
        return None, (UserError(NOT_FOUND, "NOT_FOUND", ("id",)),)
    errors = await delete_document(
        ctx.services.database, project_id=viewer.project_id, document_hash=document_hash, audit=audit_of(ctx, viewer)
    )
    ctx.services.trusted_documents.forget(viewer.project_id, document_hash)
    return (None, errors) if errors else (document_id, ())


def _cursor(record: TrustedDocumentRecord) -> Cursor:
    key = (record.name, record.document_hash.hex())
    return Cursor(CursorKind.TRUSTED_DOCUMENTS, record.project_id, 0, key)


def _key(cursor: Cursor | None) -> DocumentKey | None:
    if cursor is None:
        return None
    name, document_hash = cursor.key
    return str(name), bytes.fromhex(str(document_hash))
