"""Members of organizations and their tokens. Only the hash of a token is here; who may do what is decided above."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("members")


class MemberRecord(msgspec.Struct, frozen=True):
    """Somebody who works with an organization's projects. `email` is in lower case, `role` VIEWER, EDITOR or ADMIN."""

    organization_id: UUID
    member_id: UUID
    email: str
    role: str
    created_at: datetime


class MemberTokenRecord(msgspec.Struct, frozen=True):
    """A token of a member without its secret: `prefix` is what may be shown."""

    member_token_id: UUID
    organization_id: UUID
    member_id: UUID
    prefix: str
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None


class KnownMember(msgspec.Struct, frozen=True):
    """Whose token it is, and until when it is good."""

    organization_id: UUID
    member_id: UUID
    email: str
    role: str
    member_token_id: UUID
    expires_at: datetime


async def insert_member(
    connection: asyncpg.Connection, *, organization_id: UUID, member_id: UUID, email: str, role: str, now: datetime
) -> MemberRecord | None:
    """Make a member; None where the organization has one with this address."""
    row = await connection.fetchrow(_SQL["insert_member"], organization_id, member_id, email, role, now)
    return None if row is None else MemberRecord(**row)


async def list_members(connection: asyncpg.Connection, *, organization_id: UUID, limit: int) -> list[MemberRecord]:
    """The members of an organization, oldest first."""
    return [MemberRecord(**row) for row in await connection.fetch(_SQL["list_members"], organization_id, limit)]


async def hold_organization(connection: asyncpg.Connection, *, organization_id: UUID) -> bool:
    """Whether there is such an organization: its members stay as they are until the transaction ends."""
    return await connection.fetchval(_SQL["hold_organization"], organization_id) is not None


async def remove_member(
    connection: asyncpg.Connection, *, organization_id: UUID, member_id: UUID, now: datetime
) -> None:
    """End a member and every token that is left."""
    await connection.execute(_SQL["remove_member"], organization_id, member_id, now)


async def insert_member_token(
    connection: asyncpg.Connection,
    *,
    token_hash: bytes,
    member_token_id: UUID,
    organization_id: UUID,
    member_id: UUID,
    prefix: str,
    now: datetime,
    expires_at: datetime,
) -> MemberTokenRecord:
    """Make a token of a member. `token_hash` is SHA-256 of the whole token."""
    row = await connection.fetchrow(
        _SQL["insert_member_token"],
        token_hash,
        member_token_id,
        organization_id,
        member_id,
        prefix,
        now,
        expires_at,
    )
    return MemberTokenRecord(**row)


async def list_member_tokens(
    connection: asyncpg.Connection, *, organization_id: UUID, member_ids: Sequence[UUID], now: datetime
) -> list[MemberTokenRecord]:
    """The tokens of these members that are good still, oldest first."""
    rows = await connection.fetch(_SQL["list_member_tokens"], organization_id, member_ids, now)
    return [MemberTokenRecord(**row) for row in rows]


async def revoke_member_token(
    connection: asyncpg.Connection, *, organization_id: UUID, member_token_id: UUID, now: datetime
) -> MemberTokenRecord | None:
    """End a token. None when it is unknown there or was revoked before."""
    row = await connection.fetchrow(_SQL["revoke_member_token"], organization_id, member_token_id, now)
    return None if row is None else MemberTokenRecord(**row)


async def find_member(connection: asyncpg.Connection, *, token_hash: bytes) -> KnownMember | None:
    """Whose token it is: of somebody who is a member still, with a token that is not revoked."""
    row = await connection.fetchrow(_SQL["find_member"], token_hash)
    return None if row is None else KnownMember(**row)


async def touch_member_token(connection: asyncpg.Connection, *, member_token_id: UUID) -> None:
    """Note that a token is in use; written at most once a minute."""
    await connection.execute(_SQL["touch_member_token"], member_token_id)
