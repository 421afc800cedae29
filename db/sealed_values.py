"""What is sealed at rest, wherever it is kept: for sealing it anew under another key."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("sealed_values")


class SealedValue(msgspec.Struct, frozen=True):
    """`place` is what has it: provider, webhook_secret, workflow_secret, inbound_endpoint, sender_domain, …

    `name` is what its purpose is made of, and what tells it from others of its place where `id` is None.
    """

    place: str
    project_id: UUID
    id: UUID | None
    name: str
    sealed: bytes


async def list_sealed_values(connection: asyncpg.Connection) -> list[SealedValue]:
    """Of all projects, by place, project and id."""
    return [SealedValue(**dict(row.items())) for row in await connection.fetch(_SQL["list_sealed_values"])]


async def replace_sealed_value(connection: asyncpg.Connection, *, value: SealedValue, sealed: bytes) -> bool:
    """Write what it is sealed to now. False when somebody has changed it meanwhile."""
    known_by = value.name if value.id is None else value.id
    status: str = await connection.execute(
        _SQL[f"reseal_{value.place}"], value.project_id, known_by, value.sealed, sealed
    )
    return status == "UPDATE 1"
