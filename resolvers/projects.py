"""The viewer's project, its position and its keys, and making and revoking keys and projects."""

from __future__ import annotations

from typing import TypeVar
from uuid import UUID

from db.api_keys import list_api_keys as read_api_key_list
from db.projects import list_projects as read_project_list
from db.records import ApiKeyRecord, Lane, ProjectRecord
from engine import provisioning
from engine.cursors import Cursor, CursorKind
from engine.errors import UserError
from engine.identity import ApiKeyKind, KeyEnvironment, Role, Viewer
from engine.node_ids import NodeKind, parse_node_id
from engine.provisioning import NewApiKey, NewProject
from resolvers.audit import audit_of
from resolvers.context import Context
from resolvers.permissions import require

MAX_NAME_CHARACTERS = 100
"""Of a project or a key: fits on one line of a dashboard."""

R = TypeVar("R")
Outcome = tuple[R | None, tuple[UserError, ...]]
"""What a mutation changed, or why it changed nothing."""


def read_viewer(ctx: Context) -> Viewer:
    """Who asks."""
    return require(ctx, Role.INGEST)


def read_own_key(ctx: Context) -> ApiKeyRecord | None:
    """The key that asks; None where a member or a session does, also if a key comes along."""
    viewer = require(ctx, Role.INGEST)
    if viewer.session is not None or viewer.member is not None:
        return None
    return require(ctx, Role.VIEWER).api_key


async def list_projects(ctx: Context) -> list[ProjectRecord]:
    """What the viewer reaches of its organization, oldest first: all for a member, one for everybody else."""
    viewer = require(ctx, Role.INGEST)
    if viewer.member is None:
        return [viewer.project]
    async with ctx.services.database.connection() as connection:
        return await read_project_list(connection, organization_id=viewer.project.organization_id)


async def read_head_first(ctx: Context) -> None:
    """Read the project's position now, so that whatever is read later holds at least what `Project.head` says."""
    viewer = require(ctx, Role.VIEWER)
    await ctx.heads(viewer.project_id)


async def read_head(ctx: Context, *, project_id: UUID) -> str:
    """The position of all lanes of a project that the viewer has been given."""
    require(ctx, Role.VIEWER)
    heads = await ctx.heads(project_id)
    key = tuple(heads[lane].head for lane in Lane)
    return ctx.services.cursors.encode(Cursor(CursorKind.HEAD, project_id, heads[Lane.EVENTS].epoch, key))


async def list_api_keys(ctx: Context, *, project_id: UUID) -> list[ApiKeyRecord]:
    """The keys of a project that the viewer has been given, revoked ones included, oldest first."""
    require(ctx, Role.ADMIN)
    async with ctx.services.database.connection() as connection:
        return await read_api_key_list(connection, project_id=project_id)


async def create_project(ctx: Context, *, name: str) -> Outcome[NewProject]:
    """A project beside the viewer's, in the same organization, with its first key."""
    viewer = require(ctx, Role.ADMIN)
    errors = _check_name(name)
    if errors:
        return None, errors
    made = await provisioning.create_project(
        ctx.services.database,
        organization_id=viewer.project.organization_id,
        name=name.strip(),
        audit=audit_of(ctx, viewer),
        asked_in=viewer.project_id,
    )
    return made, ()


async def create_api_key(
    ctx: Context, *, name: str, kind: ApiKeyKind, role: Role, environment: KeyEnvironment | None
) -> Outcome[NewApiKey]:
    """A key of the viewer's project."""
    viewer = require(ctx, Role.ADMIN)
    errors = (*_check_name(name), *_check_role(kind, role))
    if errors:
        return None, errors
    made = await provisioning.create_api_key(
        ctx.services.database,
        project_id=viewer.project_id,
        name=name.strip(),
        kind=kind,
        role=role,
        environment=environment or KeyEnvironment.PROD,
        audit=audit_of(ctx, viewer),
    )
    return made, ()


async def revoke_api_key(ctx: Context, *, node_id: str) -> Outcome[ApiKeyRecord]:
    """End a key of the viewer's project, its own included. Revoking twice is revoking once."""
    viewer = require(ctx, Role.ADMIN)
    parsed = parse_node_id(node_id)
    revoked = None
    if parsed is not None and parsed.kind is NodeKind.API_KEY:
        revoked = await provisioning.revoke_api_key(
            ctx.services.database,
            ctx.services.announce,
            project_id=viewer.project_id,
            api_key_id=parsed.uuid,
            audit=audit_of(ctx, viewer),
        )
    if revoked is None:
        return None, (UserError("This project has no such API key.", "NOT_FOUND", ("id",)),)
    return revoked, ()


def _check_name(name: str) -> tuple[UserError, ...]:
    if not 1 <= len(name.strip()) <= MAX_NAME_CHARACTERS:
        return (UserError(f"A name has 1 to {MAX_NAME_CHARACTERS} characters.", "INVALID", ("name",)),)
    if "\0" in name:
        return (UserError("A name cannot hold a NUL character.", "INVALID", ("name",)),)
    return ()


def _check_role(kind: ApiKeyKind, role: Role) -> tuple[UserError, ...]:
    if kind is ApiKeyKind.PUBLISHABLE and role is Role.ADMIN:
        return (UserError("A publishable key is never ADMIN: it is in the hands of everyone.", "INVALID", ("role",)),)
    return ()
