"""Members of organizations: people of the dashboard, each with tokens that open all of the organization's projects.

Guarantees: a token leaves this module once, when it is made, and only its hash is stored; removing a member or a token
and the event that tells every gateway of it are one transaction; an organization with members keeps one who is ADMIN.
A member's role never changes, so that nothing that is open under it can be wrong about it: remove the member, and add
them anew. Leaves to others: who may (resolvers.members), announcing, and acting on it (engine.live.revocations).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.members import (
    MemberRecord,
    MemberTokenRecord,
    hold_organization,
    insert_member,
    insert_member_token,
    list_member_tokens,
    list_members,
    remove_member,
    revoke_member_token,
)
from db.records import ProjectRecord
from engine.announcements import Announcement
from engine.audit import Audit
from engine.contacts import Malformed, parse_email
from engine.errors import UserError
from engine.identity import MEMBER_TOKEN_PREFIX, Role, hash_token
from engine.node_ids import NodeKind, write_node_id
from engine.revoking import Revocation, append_revocations

if TYPE_CHECKING:
    import asyncpg

MAX_MEMBERS = 200
"""Of one organization: they are listed at once."""
MAX_TOKENS = 10
"""Of one member, that are good: one for each device, and some to spare."""
TOKEN_LIFETIME = timedelta(days=90)
SECRET_BYTES = 32
"""256 bits: nobody guesses one, and a plain hash of it needs no salt."""
PREFIX_CHARACTERS = 6
"""Of the random part that may be shown."""


class ShownMember(msgspec.Struct, frozen=True):
    """A member with the tokens that are good still."""

    member: MemberRecord
    tokens: tuple[MemberTokenRecord, ...]


class NewMemberToken(msgspec.Struct, frozen=True):
    """A token just made, with what it is made of, which is shown once."""

    record: MemberTokenRecord
    token: str

    def __repr__(self) -> str:
        return f"NewMemberToken(record={self.record})"


class NewMember(msgspec.Struct, frozen=True):
    """A member just made, with the first token."""

    member: MemberRecord
    first: NewMemberToken


async def read_members(
    connection: asyncpg.Connection, *, organization_id: UUID, now: datetime
) -> tuple[ShownMember, ...]:
    """All members of an organization, oldest first."""
    members = await list_members(connection, organization_id=organization_id, limit=MAX_MEMBERS)
    ids = [member.member_id for member in members]
    tokens = await list_member_tokens(connection, organization_id=organization_id, member_ids=ids, now=now)
    return tuple(
        ShownMember(member, tuple(each for each in tokens if each.member_id == member.member_id)) for member in members
    )


async def add_member(
    connection: asyncpg.Connection, audit: Audit, *, project: ProjectRecord, email: str, role: Role
) -> NewMember | UserError:
    """Make a member of a project's organization, with a first token. Noted in that project's audit log."""
    address = parse_email(email)
    if isinstance(address, Malformed):
        return UserError(address.message, "INVALID", ("email",))
    if role is Role.INGEST:
        return UserError("A member is VIEWER, EDITOR or ADMIN: INGEST is for apps.", "INVALID", ("role",))
    if len(await _hold_members(connection, project)) >= MAX_MEMBERS:
        return UserError(f"An organization has at most {MAX_MEMBERS} members.", "LIMIT_EXCEEDED", ("email",))
    member = await insert_member(
        connection,
        organization_id=project.organization_id,
        member_id=uuid7(),
        email=address.lower(),
        role=role.name,
        now=audit.now,
    )
    if member is None:
        return UserError("The organization has a member with this address.", "CONFLICT", ("email",))
    subject, after = write_node_id(NodeKind.MEMBER, member.member_id), _shown(member)
    await audit.note(connection, "member.added", subject, project_id=project.project_id, before=None, after=after)
    return NewMember(member, await _make_token(connection, member, region=project.region, now=audit.now))


async def end_member(
    connection: asyncpg.Connection, audit: Audit, *, project: ProjectRecord, member_id: UUID | None
) -> tuple[MemberRecord, tuple[Announcement, ...]] | UserError:
    """Remove a member and end all tokens. Announce what is returned after the commit."""
    members = await _hold_members(connection, project)
    member = _find(members, member_id)
    if member is None:
        return _no_such_member("id")
    if [each.member_id for each in members if each.role == Role.ADMIN.name] == [member.member_id]:
        return UserError("This is the last ADMIN of the organization: add another one first.", "STATE", ("id",))
    await remove_member(connection, organization_id=member.organization_id, member_id=member.member_id, now=audit.now)
    subject, before = write_node_id(NodeKind.MEMBER, member.member_id), _shown(member)
    await audit.note(connection, "member.removed", subject, project_id=project.project_id, before=before, after=None)
    return member, await append_revocations(connection, Revocation.MEMBER_REMOVED, [member.member_id])


async def add_member_token(
    connection: asyncpg.Connection, audit: Audit, *, project: ProjectRecord, member_id: UUID | None
) -> NewMemberToken | UserError:
    """Another token of a member."""
    member = _find(await _hold_members(connection, project), member_id)
    if member is None:
        return _no_such_member("memberId")
    tokens = await list_member_tokens(
        connection, organization_id=member.organization_id, member_ids=[member.member_id], now=audit.now
    )
    if len(tokens) >= MAX_TOKENS:
        message = f"A member has at most {MAX_TOKENS} tokens that are good: revoke one first."
        return UserError(message, "LIMIT_EXCEEDED", ("memberId",))
    made = await _make_token(connection, member, region=project.region, now=audit.now)
    subject, after = _token_subject(made.record), _shown_token(made.record)
    await audit.note(
        connection, "member_token.created", subject, project_id=project.project_id, before=None, after=after
    )
    return made


async def end_member_token(
    connection: asyncpg.Connection, audit: Audit, *, project: ProjectRecord, member_token_id: UUID | None
) -> tuple[MemberTokenRecord, tuple[Announcement, ...]] | UserError:
    """Revoke a token. Announce what is returned after the commit."""
    revoked = None
    if member_token_id is not None:
        revoked = await revoke_member_token(
            connection,
            organization_id=project.organization_id,
            member_token_id=member_token_id,
            now=audit.now,
        )
    if revoked is None:
        return UserError("The organization has no such token that is good still.", "NOT_FOUND", ("id",))
    subject, before = _token_subject(revoked), _shown_token(revoked)
    await audit.note(
        connection, "member_token.revoked", subject, project_id=project.project_id, before=before, after=None
    )
    return revoked, await append_revocations(connection, Revocation.MEMBER_TOKEN_REVOKED, [revoked.member_token_id])


async def _hold_members(connection: asyncpg.Connection, project: ProjectRecord) -> list[MemberRecord]:
    """The members as they stay until the transaction ends."""
    await hold_organization(connection, organization_id=project.organization_id)
    return await list_members(connection, organization_id=project.organization_id, limit=MAX_MEMBERS)


async def _make_token(
    connection: asyncpg.Connection, member: MemberRecord, *, region: str, now: datetime
) -> NewMemberToken:
    stem = f"{MEMBER_TOKEN_PREFIX}{region}_"
    token = stem + secrets.token_urlsafe(SECRET_BYTES)
    record = await insert_member_token(
        connection,
        token_hash=hash_token(token),
        member_token_id=uuid7(),
        organization_id=member.organization_id,
        member_id=member.member_id,
        prefix=token[: len(stem) + PREFIX_CHARACTERS],
        now=now,
        expires_at=now + TOKEN_LIFETIME,
    )
    return NewMemberToken(record, token)


def _find(members: Sequence[MemberRecord], member_id: UUID | None) -> MemberRecord | None:
    return next((each for each in members if each.member_id == member_id), None)


def _no_such_member(argument: str) -> UserError:
    return UserError("The organization has no such member.", "NOT_FOUND", (argument,))


def _shown(member: MemberRecord) -> dict[str, str]:
    return {"email": member.email, "role": member.role}


def _shown_token(token: MemberTokenRecord) -> dict[str, str]:
    return {"memberId": write_node_id(NodeKind.MEMBER, token.member_id), "prefix": token.prefix}


def _token_subject(token: MemberTokenRecord) -> str:
    return write_node_id(NodeKind.MEMBER_TOKEN, token.member_token_id)
