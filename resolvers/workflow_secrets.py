"""The secret that the webhooks of a project's workflow steps are signed with. ADMIN alone is shown one."""

from __future__ import annotations

from engine.identity import Role
from engine.workflows.signing import RotatedSecret, rotate_step_secret
from resolvers.audit import audit_of
from resolvers.context import Context
from resolvers.permissions import require


async def rotate_workflow_secret(ctx: Context, *, grace_seconds: int) -> RotatedSecret:
    """Another secret for the project's steps."""
    viewer = require(ctx, Role.ADMIN)
    services = ctx.services
    return await rotate_step_secret(
        services.database,
        services.vault,
        project_id=viewer.project_id,
        grace_seconds=grace_seconds,
        audit=audit_of(ctx, viewer),
    )
