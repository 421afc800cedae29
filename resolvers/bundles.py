"""Bundles: workflows and audiences as one document, out of a project and into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from engine.errors import NotFound
from engine.identity import Role
from engine.node_ids import NodeKind, parse_node_id
from engine.workflows.bundle_schema import schema_url
from engine.workflows.bundles import Imported, export_bundle, import_bundle
from resolvers.audiences import look_at_everybody
from resolvers.audit import audit_of
from resolvers.context import Context
from resolvers.permissions import require

MAX_ECHO_CHARACTERS = 64
"""Of an id that a client made up, in our answer."""


async def export_workflows(ctx: Context, *, node_ids: Sequence[str] | None) -> dict[str, Any]:
    """Some workflows with their audiences, or everything that there is."""
    viewer = require(ctx, Role.VIEWER)
    workflow_ids = None if node_ids is None else [_workflow_id(node_id) for node_id in node_ids]
    async with ctx.reading(viewer.project_id) as connection:
        return await export_bundle(
            connection,
            project_id=viewer.project_id,
            workflow_ids=workflow_ids,
            schema_url=schema_url(ctx.services.public_url),
        )


async def import_workflows(ctx: Context, *, bundle: Any, is_dry_run: bool) -> Imported:
    """Make what a bundle holds so, or say what would come of it."""
    viewer = require(ctx, Role.EDITOR)
    services = ctx.services
    imported = await import_bundle(
        services.database,
        project_id=viewer.project_id,
        given=bundle,
        egress=services.egress,
        schema_url=schema_url(services.public_url),
        audit=audit_of(ctx, viewer),
        is_dry_run=is_dry_run,
    )
    ctx.forget_reads()
    if imported.audiences and not is_dry_run:
        look_at_everybody(ctx, viewer.project_id)
    return imported


def _workflow_id(node_id: str) -> UUID:
    parsed = parse_node_id(node_id)
    if parsed is None or parsed.kind is not NodeKind.WORKFLOW:
        raise NotFound(f"This project has no workflow {node_id[:MAX_ECHO_CHARACTERS]}.")
    return parsed.uuid
