"""Making organizations, projects and keys, and revoking keys.

Guarantees: a token leaves this module once, when it is made, and only its hash is stored; a revocation and the event
that tells every gateway of it are one transaction. Everything of an organization is in its region, which its tokens
begin with; a deployment makes organizations of its own region only. Leaves to others: who may (resolvers.permissions),
and acting on a revocation (engine.live.revocations).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.api_keys import insert_api_key, read_api_keys
from db.api_keys import revoke_api_key as mark_revoked
from db.database import Database
from db.projects import find_region, insert_organization, insert_project, read_project
from db.records import ApiKeyRecord, ProjectRecord
from engine.announcements import Announcement
from engine.audit import Audit
from engine.identity import ApiKeyKind, KeyEnvironment, Role, hash_token
from engine.node_ids import NodeKind, write_node_id
from engine.revoking import Revocation, append_revocations

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


class WrongRegion(Exception):
    """An organization is to be made where it could not be reached."""


async def create_organization(database: Database, *, name: str, region: str, deployment_region: str) -> UUID:
    """Make an organization in a region, `us` or `eu`, for ever; returns its id. Raises `WrongRegion`."""
    if region != deployment_region:
        raise WrongRegion(
            f"This deployment keeps the data of region {deployment_region}, and this organization is to be of region "
            f"{region}: make it on a deployment of that region."
        )
    organization_id = uuid7()
    async with database.connection() as connection:
        await insert_organization(connection, organization_id=organization_id, name=name, region=region)
    return organization_id


async def create_project(
    database: Database, *, organization_id: UUID, name: str, audit: Audit, asked_in: UUID | None = None
) -> NewProject:
    """Make a project and its first key, in the region of its organization, in one transaction.

    Its audit log begins with it; so does an entry of the project in which it was asked for, if there is one.
    """
    async with database.transaction() as connection:
        region = await find_region(connection, organization_id=organization_id)
        if region is None:
            raise LookupError("a project without an organization")
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
        for project_id in (project.project_id, asked_in):
            if project_id is not None:
                await audit.note_node(
                    connection,
                    NodeKind.PROJECT,
                    project.project_id,
                    project_id=project_id,
                    before=None,
                    after={"name": name, "firstKey": _shown(first_key.api_key)},
                )
    return NewProject(project, first_key)


async def create_api_key(
    database: Database,
    *,
    project_id: UUID,
    name: str,
    kind: ApiKeyKind,
    role: Role,
    audit: Audit,
    environment: KeyEnvironment = KeyEnvironment.PROD,
) -> NewApiKey:
    """Make a key. A publishable one is never ADMIN: the database refuses it."""
    async with database.transaction() as connection:
        project = await read_project(connection, project_id=project_id)
        if project is None:
            raise LookupError("a key without a project")
        made = await _insert_key(
            connection,
            project_id=project_id,
            region=project.region,
            name=name,
            kind=kind,
            role=role,
            environment=environment,
        )
        await audit.note_node(
            connection,
            NodeKind.API_KEY,
            made.api_key.api_key_id,
            project_id=project_id,
            before=None,
            after=_shown(made.api_key),
        )
    return made


async def revoke_api_key(
    database: Database, announce: Callable[[Announcement], None], *, project_id: UUID, api_key_id: UUID, audit: Audit
) -> ApiKeyRecord | None:
    """Revoke a key and tell every gateway. None when the project has no such key; revoking again changes nothing."""
    announcements: tuple[Announcement, ...] = ()
    async with database.transaction() as connection:
        is_news = await mark_revoked(connection, project_id=project_id, api_key_id=api_key_id)
        found = await read_api_keys(connection, project_id=project_id, api_key_ids=[api_key_id])
        if is_news:
            shown = _shown(found[0])
            await audit.note(
                connection,
                "api_key.revoked",
                write_node_id(NodeKind.API_KEY, api_key_id),
                project_id=project_id,
                before={**shown, "revokedAt": None},
                after=shown,
            )
            announcements = await append_revocations(connection, Revocation.API_KEY_REVOKED, [api_key_id])
    for announcement in announcements:
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


def _shown(api_key: ApiKeyRecord) -> dict[str, Any]:
    """A key as the audit log has it."""
    return {
        "name": api_key.name,
        "kind": api_key.kind,
        "environment": api_key.environment,
        "role": api_key.role,
        "prefix": api_key.prefix,
        "revokedAt": api_key.revoked_at,
    }
