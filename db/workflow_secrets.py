"""What the webhooks of a project's workflows are signed with, sealed.

Guarantees: every function is one statement in the caller's transaction; there is at most one secret without an end.
Leaves to others: sealing, how many may be active (`engine.workflows.signing`), and committing. Times are business time.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("workflow_secrets")


class WorkflowSecretRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A secret that signs."""

    secret_id: UUID
    sealed_secret: bytes


async def read_workflow_secrets(
    connection: asyncpg.Connection, *, project_id: UUID, now: datetime
) -> list[WorkflowSecretRecord]:
    """Those that are active, the oldest first."""
    rows = await connection.fetch(_SQL["read_workflow_secrets"], project_id, now)
    return [WorkflowSecretRecord(**dict(row.items())) for row in rows]


async def insert_workflow_secret(
    connection: asyncpg.Connection, *, project_id: UUID, secret_id: UUID, sealed_secret: bytes, now: datetime
) -> bool:
    """Add the newest; False when there is one without an end already. Waits for whoever is about to add one."""
    added = await connection.fetchval(_SQL["insert_workflow_secret"], project_id, secret_id, sealed_secret, now)
    return added is not None


async def expire_workflow_secrets(connection: asyncpg.Connection, *, project_id: UUID, at: datetime) -> None:
    """End those that would sign for longer."""
    await connection.execute(_SQL["expire_workflow_secrets"], project_id, at)


async def delete_expired_workflow_secrets(connection: asyncpg.Connection, *, project_id: UUID, now: datetime) -> None:
    """Forget those that have ended."""
    await connection.execute(_SQL["delete_expired_workflow_secrets"], project_id, now)


async def lock_workflow_secrets(connection: asyncpg.Connection, *, project_id: UUID) -> bool:
    """Let nobody else rotate them until the transaction ends; whether there is such a project."""
    return await connection.fetchval(_SQL["lock_workflow_secrets"], project_id) is not None
