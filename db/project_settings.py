"""What a project has chosen for itself as a whole. No row means the defaults.

Leaves to others: what UNKNOWN consent means where nothing was chosen (`engine.project_settings`), and committing.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("project_settings")


class ProjectSettingsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`allow_unknown_consent` None follows the region; zones are names of the IANA's, locales BCP 47 tags."""

    region: str
    require_signed_identity: bool = False
    allow_unknown_consent: bool | None = None
    default_timezone: str = "UTC"
    default_locale: str = "en"
    require_trusted_documents: bool = False


async def read_project_settings(connection: asyncpg.Connection, *, project_id: UUID) -> ProjectSettingsRecord | None:
    """A project's settings, or the defaults; None for an unknown project."""
    return _record(await connection.fetchrow(_SQL["read_project_settings"], project_id))


async def lock_project_settings(
    connection: asyncpg.Connection, *, project_id: UUID, now: datetime
) -> ProjectSettingsRecord | None:
    """The same, made if need be, and locked until the transaction ends."""
    await connection.execute(_SQL["insert_project_settings"], project_id, now)
    return _record(await connection.fetchrow(_SQL["lock_project_settings"], project_id))


async def write_project_settings(
    connection: asyncpg.Connection, *, project_id: UUID, settings: ProjectSettingsRecord, now: datetime
) -> None:
    """Replace settings that the caller has locked. The region stays."""
    await connection.execute(
        _SQL["write_project_settings"],
        project_id,
        settings.require_signed_identity,
        settings.allow_unknown_consent,
        settings.default_timezone,
        settings.default_locale,
        settings.require_trusted_documents,
        now,
    )


def _record(row: Any) -> ProjectSettingsRecord | None:
    if row is None:
        return None
    return ProjectSettingsRecord(**{name: value for name, value in row.items() if value is not None})
