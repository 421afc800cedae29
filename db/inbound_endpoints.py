"""Inbound endpoints: where other services send to, each with a sealed secret.

Guarantees: every function is one statement in the caller's transaction. Leaves to others: sealing, and committing.
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

_SQL = statements("inbound_endpoints")


class InboundEndpointRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An inbound endpoint. What it accepts becomes an event of `event_type`."""

    project_id: UUID
    endpoint_id: UUID
    name: str
    verifier: str
    sealed_secret: bytes
    event_type: str
    created_at: datetime


async def insert_inbound_endpoint(
    connection: asyncpg.Connection, endpoint: InboundEndpointRecord, *, most: int
) -> InboundEndpointRecord | None:
    """None when the project has `most` of them already; two at once may make one more."""
    row = await connection.fetchrow(
        _SQL["insert_inbound_endpoint"],
        endpoint.project_id,
        endpoint.endpoint_id,
        endpoint.name,
        endpoint.verifier,
        endpoint.sealed_secret,
        endpoint.event_type,
        endpoint.created_at,
        most,
    )
    return _optional(row)


async def lock_inbound_endpoint(
    connection: asyncpg.Connection, *, project_id: UUID, endpoint_id: UUID
) -> InboundEndpointRecord | None:
    """An endpoint of a project, locked until the transaction ends."""
    return _optional(await connection.fetchrow(_SQL["lock_inbound_endpoint"], project_id, endpoint_id))


async def update_inbound_endpoint(
    connection: asyncpg.Connection, endpoint: InboundEndpointRecord
) -> InboundEndpointRecord | None:
    """Replace everything but when it was made; None when there is no such endpoint."""
    row = await connection.fetchrow(
        _SQL["update_inbound_endpoint"],
        endpoint.project_id,
        endpoint.endpoint_id,
        endpoint.name,
        endpoint.verifier,
        endpoint.sealed_secret,
        endpoint.event_type,
    )
    return _optional(row)


async def delete_inbound_endpoint(connection: asyncpg.Connection, *, project_id: UUID, endpoint_id: UUID) -> bool:
    """Whether there was one."""
    return await connection.fetchval(_SQL["delete_inbound_endpoint"], project_id, endpoint_id) is not None


async def list_inbound_endpoints(connection: asyncpg.Connection, *, project_id: UUID) -> list[InboundEndpointRecord]:
    """All of a project's, oldest first: no more than the engine lets it have."""
    return [_endpoint(row) for row in await connection.fetch(_SQL["list_inbound_endpoints"], project_id)]


async def read_inbound_endpoints(
    connection: asyncpg.Connection, *, project_id: UUID, endpoint_ids: Sequence[UUID]
) -> list[InboundEndpointRecord]:
    """Endpoints by their ids, in no order; unknown ones are absent."""
    return [_endpoint(row) for row in await connection.fetch(_SQL["read_inbound_endpoints"], project_id, endpoint_ids)]


async def find_inbound_endpoint(connection: asyncpg.Connection, *, endpoint_id: UUID) -> InboundEndpointRecord | None:
    """Whose endpoint this is: for requests, whose address names nothing else. Their signature is checked after."""
    return _optional(await connection.fetchrow(_SQL["find_inbound_endpoint"], endpoint_id))


def _optional(row: Mapping[str, Any] | None) -> InboundEndpointRecord | None:
    return None if row is None else _endpoint(row)


def _endpoint(row: Mapping[str, Any]) -> InboundEndpointRecord:
    return InboundEndpointRecord(**dict(row.items()))
