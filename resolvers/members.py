"""Members of the viewer's organization and their tokens. Only a member who is ADMIN may see or change them: members
reach all of the organization's projects, and a key opens one."""

from __future__ import annotations

from typing import TypeVar
from uuid import UUID

from db.members import MemberRecord, MemberTokenRecord
from engine import members
from engine.errors import UserError
from engine.identity import Role
from engine.members import NewMember, NewMemberToken, ShownMember
from engine.node_ids import NodeKind, parse_node_id
from resolvers.audit import audit_of
from resolvers.context import Context
from resolvers.permissions import require_member

R = TypeVar("R")
Outcome = tuple[R | None, tuple[UserError, ...]]
"""What a mutation changed, or why it changed nothing."""


async def list_members(ctx: Context) -> tuple[ShownMember, ...]:
    """All members of the organization, oldest first."""
    viewer = require_member(ctx, Role.ADMIN)
    async with ctx.services.database.connection() as connection:
        return await members.read_members(
            connection, organization_id=viewer.project.organization_id, now=ctx.services.clock.now()
        )


async def add_member(ctx: Context, *, email: str, role: Role) -> Outcome[NewMember]:
    """Somebody new, with a first token."""
    viewer = require_member(ctx, Role.ADMIN)
    async with ctx.services.database.transaction() as connection:
        made = await members.add_member(
            connection, audit_of(ctx, viewer), project=viewer.project, email=email, role=role
        )
    return (None, (made,)) if isinstance(made, UserError) else (made, ())


async def remove_member(ctx: Context, *, node_id: str) -> Outcome[MemberRecord]:
    """End a member, and within a second what is open under their tokens."""
    viewer = require_member(ctx, Role.ADMIN)
    async with ctx.services.database.transaction() as connection:
        ended = await members.end_member(
            connection, audit_of(ctx, viewer), project=viewer.project, member_id=_uuid(node_id, NodeKind.MEMBER)
        )
    if isinstance(ended, UserError):
        return None, (ended,)
    member, announcements = ended
    for announcement in announcements:
        ctx.services.announce(announcement)
    return member, ()


async def create_member_token(ctx: Context, *, member_node_id: str) -> Outcome[NewMemberToken]:
    """Another token of a member."""
    viewer = require_member(ctx, Role.ADMIN)
    member_id = _uuid(member_node_id, NodeKind.MEMBER)
    async with ctx.services.database.transaction() as connection:
        made = await members.add_member_token(
            connection, audit_of(ctx, viewer), project=viewer.project, member_id=member_id
        )
    return (None, (made,)) if isinstance(made, UserError) else (made, ())


async def revoke_member_token(ctx: Context, *, node_id: str) -> Outcome[MemberTokenRecord]:
    """End a token, and within a second what is open under it."""
    viewer = require_member(ctx, Role.ADMIN)
    token_id = _uuid(node_id, NodeKind.MEMBER_TOKEN)
    async with ctx.services.database.transaction() as connection:
        ended = await members.end_member_token(
            connection, audit_of(ctx, viewer), project=viewer.project, member_token_id=token_id
        )
    if isinstance(ended, UserError):
        return None, (ended,)
    token, announcements = ended
    for announcement in announcements:
        ctx.services.announce(announcement)
    return token, ()


def _uuid(node_id: str, kind: NodeKind) -> UUID | None:
    parsed = parse_node_id(node_id)
    return parsed.uuid if parsed is not None and parsed.kind is kind else None
