"""What a project has chosen for itself as a whole, and the secret that its apps' servers sign user ids with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import UserError
from engine.identity import Role
from engine.project_settings import ProjectSettings, read_settings, update_settings
from engine.signatures import rotate_identity_secret
from resolvers.audit import audit_of
from resolvers.context import Context
from resolvers.permissions import require


async def read_project_settings(ctx: Context) -> ProjectSettings:
    """As they are now."""
    viewer = require(ctx, Role.VIEWER)
    async with ctx.services.database.connection() as connection:
        return await read_settings(connection, project_id=viewer.project_id)


async def update_project_settings(
    ctx: Context, *, given: Mapping[str, Any]
) -> tuple[ProjectSettings | None, tuple[UserError, ...]]:
    """Change what is given: absent stays, null goes back to the default. `given` has the names of the input."""
    viewer = require(ctx, Role.ADMIN)
    changed = await update_settings(
        ctx.services.database, project_id=viewer.project_id, given=given, audit=audit_of(ctx, viewer)
    )
    return (changed, ()) if isinstance(changed, ProjectSettings) else (None, changed)


async def rotate_secret(ctx: Context, *, grace_seconds: int) -> tuple[str | None, tuple[UserError, ...]]:
    """The new secret, this once."""
    viewer = require(ctx, Role.ADMIN)
    made = await rotate_identity_secret(
        ctx.services.database,
        ctx.services.vault,
        project_id=viewer.project_id,
        grace_seconds=grace_seconds,
        audit=audit_of(ctx, viewer),
    )
    return (made, ()) if isinstance(made, str) else (None, (made,))
