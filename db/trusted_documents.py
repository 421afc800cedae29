"""Trusted documents: GraphQL documents that a project's clients may name by their hash. The caller commits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

DocumentKey = tuple[str, bytes]
"""What lists are sorted by: name and hash."""

_SQL = statements("trusted_documents")


class TrustedDocumentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A document. `document_hash` is the SHA-256 of its text in UTF-8."""

    project_id: UUID
    document_hash: bytes
    name: str
    document: str
    created_at: datetime


class NewTrustedDocument(msgspec.Struct, frozen=True):
    """A document that is to be kept."""

    document_hash: bytes
    name: str
    document: str


async def read_trusted_document(
    connection: asyncpg.Connection, *, project_id: UUID, document_hash: bytes
) -> str | None:
    """The text of a document."""
    found: str | None = await connection.fetchval(_SQL["read_trusted_document"], project_id, document_hash)
    return found


async def save_trusted_documents(
    connection: asyncpg.Connection, *, project_id: UUID, documents: Sequence[NewTrustedDocument], now: datetime
) -> list[TrustedDocumentRecord]:
    """Keep documents, no hash among them twice. Those that are there already only take their new name."""
    rows = await connection.fetch(
        _SQL["save_trusted_documents"],
        project_id,
        [each.document_hash for each in documents],
        [each.name for each in documents],
        [each.document for each in documents],
        now,
    )
    return [TrustedDocumentRecord(**dict(row.items())) for row in rows]


async def lock_trusted_documents(
    connection: asyncpg.Connection, *, project_id: UUID, document_hashes: Sequence[bytes]
) -> list[TrustedDocumentRecord]:
    """Which of these the project has, locked until the transaction ends."""
    rows = await connection.fetch(_SQL["lock_trusted_documents"], project_id, document_hashes)
    return [TrustedDocumentRecord(**dict(row.items())) for row in rows]


async def delete_trusted_document(
    connection: asyncpg.Connection, *, project_id: UUID, document_hash: bytes
) -> TrustedDocumentRecord | None:
    """The document that was deleted."""
    row = await connection.fetchrow(_SQL["delete_trusted_document"], project_id, document_hash)
    return None if row is None else TrustedDocumentRecord(**dict(row.items()))


async def list_trusted_documents(
    connection: asyncpg.Connection, *, project_id: UUID, after: DocumentKey | None, limit: int
) -> list[TrustedDocumentRecord]:
    """Up to `limit` documents by name and hash."""
    name, document_hash = after or (None, None)
    rows = await connection.fetch(_SQL["list_trusted_documents"], project_id, name, document_hash, limit)
    return [TrustedDocumentRecord(**dict(row.items())) for row in rows]


async def count_trusted_documents(connection: asyncpg.Connection, *, project_id: UUID) -> int:
    """How many documents a project has."""
    counted: int = await connection.fetchval(_SQL["count_trusted_documents"], project_id)
    return counted
