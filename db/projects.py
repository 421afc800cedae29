"""Organizations and their projects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from db.records import ProjectRecord
from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("projects")


async def insert_organization(connection: asyncpg.Connection, *, organization_id: UUID, name: str, region: str) -> None:
    """Make an organization. `region` is `us` or `eu`. Raises `asyncpg.UniqueViolationError` for an id that is taken."""
    await connection.execute(_SQL["insert_organization"], organization_id, name, region)


async def find_region(connection: asyncpg.Connection, *, organization_id: UUID) -> str | None:
    """Where an organization's data is kept, `us` or `eu`; None for an unknown one."""
    region: str | None = await connection.fetchval(_SQL["find_region"], organization_id)
    return region


async def insert_project(
    connection: asyncpg.Connection, *, project_id: UUID, organization_id: UUID, name: str, region: str, salt: bytes
) -> ProjectRecord:
    """Make a project and the heads of its lanes. `region` is `us` or `eu`, `salt` at least 16 random bytes."""
    row = await connection.fetchrow(_SQL["insert_project"], project_id, organization_id, name, region, salt)
    return _record(row)


async def read_project(connection: asyncpg.Connection, *, project_id: UUID) -> ProjectRecord | None:
    """One project, or None."""
    found = await read_projects(connection, project_ids=[project_id])
    return found[0] if found else None


async def read_projects(connection: asyncpg.Connection, *, project_ids: Sequence[UUID]) -> list[ProjectRecord]:
    """Projects by id; unknown ones are absent."""
    return [_record(row) for row in await connection.fetch(_SQL["read_projects"], project_ids)]


async def list_projects(connection: asyncpg.Connection, *, organization_id: UUID) -> list[ProjectRecord]:
    """All projects of an organization, oldest first."""
    return [_record(row) for row in await connection.fetch(_SQL["list_projects"], organization_id)]


def _record(row: Mapping[str, Any]) -> ProjectRecord:
    return ProjectRecord(**row)
