"""Inbound endpoints: making, changing, deleting and listing them."""

from __future__ import annotations

import msgspec

from db.inbound_endpoints import InboundEndpointRecord
from db.inbound_endpoints import list_inbound_endpoints as read_endpoint_list
from engine.errors import UserError
from engine.identity import Role
from engine.inbound.endpoints import EndpointDraft, change_endpoint, create_endpoint, delete_endpoint, endpoint_url
from engine.node_ids import NodeKind, parse_node_id
from resolvers.audit import audit_of
from resolvers.context import Context
from resolvers.permissions import require


class ShownEndpoint(msgspec.Struct, frozen=True):
    """An endpoint and where it is reached."""

    record: InboundEndpointRecord
    url: str


async def list_endpoints(ctx: Context) -> list[ShownEndpoint]:
    """All of the project's, oldest first."""
    viewer = require(ctx, Role.VIEWER)
    async with ctx.services.database.connection() as connection:
        records = await read_endpoint_list(connection, project_id=viewer.project_id)
    return [show(ctx, record) for record in records]


async def save(
    ctx: Context, *, node_id: str | None, draft: EndpointDraft
) -> tuple[ShownEndpoint | None, tuple[UserError, ...]]:
    """Make an endpoint, or change the one that is named."""
    viewer = require(ctx, Role.ADMIN)
    services, project_id, audit = ctx.services, viewer.project_id, audit_of(ctx, viewer)
    if node_id is None:
        record, errors = await create_endpoint(
            services.database, services.vault, draft, project_id=project_id, audit=audit
        )
    else:
        parsed = parse_node_id(node_id)
        if parsed is None or parsed.kind is not NodeKind.INBOUND_ENDPOINT:
            return None, (_unknown("input", "id"),)
        record, errors = await change_endpoint(
            services.database, services.vault, draft, project_id=project_id, endpoint_id=parsed.uuid, audit=audit
        )
    ctx.forget_reads()
    return None if record is None else show(ctx, record), errors


async def delete(ctx: Context, *, node_id: str) -> tuple[str | None, tuple[UserError, ...]]:
    """Delete an endpoint; gives its node id."""
    viewer = require(ctx, Role.ADMIN)
    parsed = parse_node_id(node_id)
    deleted = False
    if parsed is not None and parsed.kind is NodeKind.INBOUND_ENDPOINT:
        deleted = await delete_endpoint(
            ctx.services.database, project_id=viewer.project_id, endpoint_id=parsed.uuid, audit=audit_of(ctx, viewer)
        )
    if not deleted:
        return None, (_unknown("id"),)
    ctx.forget_reads()
    return node_id, ()


def show(ctx: Context, record: InboundEndpointRecord) -> ShownEndpoint:
    """An endpoint of the viewer's project."""
    require(ctx, Role.VIEWER)
    return ShownEndpoint(record, endpoint_url(ctx.services.public_url, record.endpoint_id))


def _unknown(*path: str) -> UserError:
    return UserError("This project has no such endpoint.", "NOT_FOUND", path)
