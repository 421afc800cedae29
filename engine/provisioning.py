"""Making organizations, projects and keys, and revoking keys.

Guarantees: a token leaves this module once, when it is made, and only its hash is stored; a revocation and the event
that tells every gateway of it are one transaction. Leaves to others: who may (resolvers.permissions), and acting on a
revocation (engine.live.revocations).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.api_keys import insert_api_key, read_api_keys
from db.api_keys import revoke_api_key as mark_revoked
from db.database import Database
from db.events import append_events
from db.projects import insert_organization, insert_project
from db.records import SYSTEM_PROJECT, ApiKeyRecord, Lane, NewEvent, ProjectRecord
from engine.announcements import Announcement
from engine.identity import ApiKeyKind, KeyEnvironment, Role, hash_token

if TYPE_CHECKING:
    import asyncpg

SECRET_BYTES = 32
"""256 bits: nobody guesses one, and a plain hash of it needs no salt."""
PREFIX_CHARACTERS = 6
"""Of the random part that may be shown: enough to tell keys apart, 218 bits stay secret."""
SALT_BYTES = 32
FIRST_KEY_NAME = "First key"
_TOKEN_PREFIX = {ApiKeyKind.SECRET: "sk", ApiKeyKind.PUBLISHABLE: "pk"}


class NewApiKey(msgspec.Struct, frozen=True):
    """A key just made, with its token, which is shown once."""

    api_key: ApiKeyRecord
    token: str


class NewProject(msgspec.Struct, frozen=True):
    """A project just made, with its first key: SECRET and ADMIN."""

    project: ProjectRecord
    first_key: NewApiKey


async def create_organization(database: Database, *, name: str, region: str) -> UUID:
    """Make an organization in a region, `us` or `eu`, for ever; returns its id."""
    organization_id = uuid7()
    async with database.connection() as connection:
        await insert_organization(connection, organization_id=organization_id, name=name, region=region)
    return organization_id


async def create_project(database: Database, *, organization_id: UUID, name: str, region: str) -> NewProject:
    """Make a project and its first key in one transaction."""
    async with database.transaction() as connection:
        project = await insert_project(
            connection,
            project_id=uuid7(),
            organization_id=organization_id,
            name=name,
            region=region,
            salt=secrets.token_bytes(SALT_BYTES),
        )
        first_key = await _insert_key(
            connection,
            project_id=project.project_id,
            region=region,
            name=FIRST_KEY_NAME,
            kind=ApiKeyKind.SECRET,
            role=Role.ADMIN,
            environment=KeyEnvironment.PROD,
        )
    return NewProject(project, first_key)


async def create_api_key(
    database: Database,
    *,
    project_id: UUID,
    region: str,
    name: str,
    kind: ApiKeyKind,
    role: Role,
    environment: KeyEnvironment = KeyEnvironment.PROD,
) -> NewApiKey:
    """Make a key. A publishable one is never ADMIN: the database refuses it."""
    async with database.connection() as connection:
        return await _insert_key(
            connection, project_id=project_id, region=region, name=name, kind=kind, role=role, environment=environment
        )


async def revoke_api_key(
    database: Database, announce: Callable[[Announcement], None], *, project_id: UUID, api_key_id: UUID
) -> ApiKeyRecord | None:
    """Revoke a key and tell every gateway. None when the project has no such key; revoking again changes nothing."""
    announcement = None
    async with database.transaction() as connection:
        if await mark_revoked(connection, project_id=project_id, api_key_id=api_key_id):
            announcement = await _append_revocation(connection, api_key_id)
        found = await read_api_keys(connection, project_id=project_id, api_key_ids=[api_key_id])
    if announcement is not None:
        announce(announcement)
    return found[0] if found else None


async def _insert_key(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    region: str,
    name: str,
    kind: ApiKeyKind,
    role: Role,
    environment: KeyEnvironment,
) -> NewApiKey:
    stem = f"{_TOKEN_PREFIX[kind]}_{region}_{environment.lower()}_"
    token = stem + secrets.token_urlsafe(SECRET_BYTES)
    api_key = await insert_api_key(
        connection,
        api_key_id=uuid7(),
        project_id=project_id,
        name=name,
        kind=kind.value,
        environment=environment.value,
        role=role.name,
        prefix=token[: len(stem) + PREFIX_CHARACTERS],
        token_hash=hash_token(token),
    )
    return NewApiKey(api_key, token)


async def _append_revocation(connection: asyncpg.Connection, api_key_id: UUID) -> Announcement:
    """Append to the log of revocations. Announced as a range: hubs read the event itself from the log."""
    result = await append_events(
        connection,
        project_id=SYSTEM_PROJECT,
        batch_token=secrets.randbits(63),
        events=[
            NewEvent(
                key=f"api_key.revoked:{api_key_id}",
                module="api_key",
                event_type="api_key.revoked",
                timestamp=None,
                user_id=None,
                anonymous_id=None,
                properties=msgspec.json.encode({"apiKeyId": str(api_key_id)}).decode(),
                context="{}",
            )
        ],
    )
    seq = result.seqs[0]
    return Announcement(SYSTEM_PROJECT, Lane.EVENTS, result.epoch, seq, seq)
