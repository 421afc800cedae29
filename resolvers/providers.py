"""A project's accounts with providers: setting them up, taking them away, and what may be known of them."""

from __future__ import annotations

from db.providers import ProviderRecord
from db.providers import list_providers as read_provider_list
from engine.errors import UserError
from engine.identity import Role
from engine.node_ids import NodeKind, parse_node_id
from engine.providers.configuring import ShownProvider, configure_provider, delete_provider, show_provider
from engine.providers.values import ProviderKind
from resolvers.audit import audit_of
from resolvers.context import Context
from resolvers.permissions import require


async def list_providers(ctx: Context) -> list[ShownProvider]:
    """Those that were configured, by kind."""
    viewer = require(ctx, Role.VIEWER)
    async with ctx.services.database.connection() as connection:
        records = await read_provider_list(connection, project_id=viewer.project_id)
    return [show(ctx, record) for record in records]


async def configure(
    ctx: Context, *, kind: ProviderKind, settings: object, secrets: object
) -> tuple[ShownProvider | None, tuple[UserError, ...]]:
    """Set up, or change, the project's account of a kind."""
    viewer = require(ctx, Role.ADMIN)
    services = ctx.services
    record, errors = await configure_provider(
        services.database,
        services.vault,
        services.egress,
        project_id=viewer.project_id,
        kind=kind,
        settings=settings,
        secrets=secrets,
        audit=audit_of(ctx, viewer),
    )
    ctx.forget_reads()
    return None if record is None else show(ctx, record), errors


async def delete(ctx: Context, *, node_id: str) -> tuple[str | None, tuple[UserError, ...]]:
    """Forget an account; gives its node id."""
    viewer = require(ctx, Role.ADMIN)
    parsed = parse_node_id(node_id)
    deleted = False
    if parsed is not None and parsed.kind is NodeKind.PROVIDER:
        services = ctx.services
        deleted = await delete_provider(
            services.database,
            services.vault,
            project_id=viewer.project_id,
            provider_id=parsed.uuid,
            audit=audit_of(ctx, viewer),
        )
    if not deleted:
        return None, (UserError("This project has no such provider.", "NOT_FOUND", ("id",)),)
    ctx.forget_reads()
    return node_id, ()


def show(ctx: Context, record: ProviderRecord) -> ShownProvider:
    """What may be known of an account of the viewer's project."""
    require(ctx, Role.VIEWER)
    return show_provider(ctx.services.vault, record, public_url=ctx.services.public_url)
