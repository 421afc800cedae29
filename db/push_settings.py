"""A project's settings for push: quiet hours and frequency caps. No row means the defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("push_settings")


class PushSettingsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Hours of the recipient's day, 0 to 23, and messages per person. None is not set."""

    quiet_hours_start_local: int | None = None
    quiet_hours_end_local: int | None = None
    defer_in_quiet_hours: bool = True
    freq_cap_per_user_per_day: int | None = None
    freq_cap_per_user_per_hour: int | None = None

    @property
    def has_caps(self) -> bool:
        """Whether sends have to be counted before they are made."""
        return self.freq_cap_per_user_per_day is not None or self.freq_cap_per_user_per_hour is not None


async def read_push_settings(connection: asyncpg.Connection, *, project_id: UUID) -> PushSettingsRecord:
    """The project's settings, or the defaults."""
    row = await connection.fetchrow(_SQL["read_push_settings"], project_id)
    return PushSettingsRecord() if row is None else PushSettingsRecord(**dict(row.items()))


async def lock_push_settings(connection: asyncpg.Connection, *, project_id: UUID) -> PushSettingsRecord:
    """The same, made if need be, and locked until the transaction ends."""
    await connection.execute(_SQL["insert_push_settings"], project_id)
    row = await connection.fetchrow(_SQL["lock_push_settings"], project_id)
    return PushSettingsRecord(**dict(row.items()))


async def write_push_settings(
    connection: asyncpg.Connection, *, project_id: UUID, settings: PushSettingsRecord
) -> None:
    """Replace settings that the caller has locked."""
    await connection.execute(
        _SQL["write_push_settings"],
        project_id,
        settings.quiet_hours_start_local,
        settings.quiet_hours_end_local,
        settings.defer_in_quiet_hours,
        settings.freq_cap_per_user_per_day,
        settings.freq_cap_per_user_per_hour,
    )
