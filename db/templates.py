"""Templates: Liquid texts under a name, one name once per project. Whoever opened the transaction commits it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("templates")


class TemplateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A template. Which of its texts it has is up to its channel."""

    project_id: UUID
    template_id: UUID
    name: str
    channel: str
    subject: str | None
    body_html: str | None
    body_text: str | None
    created_at: datetime
    updated_at: datetime


async def insert_template(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    template_id: UUID,
    name: str,
    channel: str,
    subject: str | None,
    body_html: str | None,
    body_text: str | None,
    now: datetime,
) -> TemplateRecord | None:
    """Make a template. None when its name is taken."""
    values = (project_id, template_id, name, channel, subject, body_html, body_text, now)
    row = await connection.fetchrow(_SQL["insert_template"], *values)
    return None if row is None else TemplateRecord(**dict(row.items()))


async def lock_template(
    connection: asyncpg.Connection, *, project_id: UUID, template_id: UUID
) -> TemplateRecord | None:
    """A template, locked until the transaction ends."""
    row = await connection.fetchrow(_SQL["lock_template"], project_id, template_id)
    return None if row is None else TemplateRecord(**dict(row.items()))


async def update_template(connection: asyncpg.Connection, *, changed: TemplateRecord, now: datetime) -> TemplateRecord:
    """Replace a template that the transaction has locked. Raises `asyncpg.UniqueViolationError` for a taken name."""
    row = await connection.fetchrow(
        _SQL["update_template"],
        changed.project_id,
        changed.template_id,
        changed.name,
        changed.channel,
        changed.subject,
        changed.body_html,
        changed.body_text,
        now,
    )
    return TemplateRecord(**dict(row.items()))


async def find_template_name(connection: asyncpg.Connection, *, project_id: UUID, name: str) -> UUID | None:
    """Whose a name is."""
    found: UUID | None = await connection.fetchval(_SQL["find_template_name"], project_id, name)
    return found


async def find_email_templates(
    connection: asyncpg.Connection, *, project_id: UUID, names: Sequence[str]
) -> dict[str, UUID]:
    """The templates for email that some names lead to; other names are absent."""
    rows = await connection.fetch(_SQL["find_email_templates"], project_id, names)
    return {row["name"]: row["template_id"] for row in rows}


async def delete_template(connection: asyncpg.Connection, *, project_id: UUID, template_id: UUID) -> bool:
    """Whether there was one."""
    return await connection.fetchval(_SQL["delete_template"], project_id, template_id) is not None


async def read_templates(
    connection: asyncpg.Connection, *, project_id: UUID, template_ids: Sequence[UUID]
) -> list[TemplateRecord]:
    """Templates by id, in any order; unknown ones are absent."""
    rows = await connection.fetch(_SQL["read_templates"], project_id, template_ids)
    return [TemplateRecord(**dict(row.items())) for row in rows]


async def list_templates(
    connection: asyncpg.Connection, *, project_id: UUID, channel: str | None, after: str | None, limit: int
) -> list[TemplateRecord]:
    """Up to `limit` templates by name, byte by byte."""
    rows = await connection.fetch(_SQL["list_templates"], project_id, channel, after, limit)
    return [TemplateRecord(**dict(row.items())) for row in rows]


async def count_templates(connection: asyncpg.Connection, *, project_id: UUID) -> int:
    """How many templates a project has."""
    counted: int = await connection.fetchval(_SQL["count_templates"], project_id)
    return counted
