"""A project's settings for push, and the public half of its Web Push key pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.push_settings import (
    PushSettingsRecord,
    lock_push_settings,
    write_push_settings,
)
from db.push_settings import (
    read_push_settings as read_record,
)
from engine.errors import UserError
from engine.identity import Role
from engine.node_ids import NodeKind, write_node_id
from engine.push.vapid import read_vapid, vapid_keys
from engine.transactions import run_transaction
from resolvers.audit import audit_of
from resolvers.context import Context
from resolvers.permissions import require

if TYPE_CHECKING:
    import asyncpg

LAST_HOUR = 23
MAX_CAP = 1_000_000
"""Messages to one person in a day: as good as no cap."""

_HOURS = {
    "quietHoursStartLocal": "quiet_hours_start_local",
    "quietHoursEndLocal": "quiet_hours_end_local",
}
_CAPS = {
    "freqCapPerUserPerDay": "freq_cap_per_user_per_day",
    "freqCapPerUserPerHour": "freq_cap_per_user_per_hour",
}


class ShownSettings(msgspec.Struct, frozen=True):
    """The settings of a project that the viewer may see."""

    project_id: UUID
    record: PushSettingsRecord


async def read_push_settings(ctx: Context) -> ShownSettings:
    """The project's settings, or the defaults."""
    viewer = require(ctx, Role.VIEWER)
    async with ctx.services.database.connection() as connection:
        return ShownSettings(viewer.project_id, await read_record(connection, project_id=viewer.project_id))


async def update_push_settings(
    ctx: Context, *, given: Mapping[str, Any]
) -> tuple[ShownSettings | None, tuple[UserError, ...]]:
    """Change what is given, and note it in the audit log: absent stays, null clears. `given` has the names of the
    input."""
    viewer = require(ctx, Role.EDITOR)
    errors = (*_check(given, _HOURS, least=0, most=LAST_HOUR), *_check(given, _CAPS, least=1, most=MAX_CAP))
    if errors:
        return None, errors
    changes, audit = _changes(given), audit_of(ctx, viewer)

    async def change(connection: asyncpg.Connection) -> PushSettingsRecord:
        held = await lock_push_settings(connection, project_id=viewer.project_id)
        changed = msgspec.structs.replace(held, **changes)
        await write_push_settings(connection, project_id=viewer.project_id, settings=changed)
        await audit.note(
            connection,
            "push_settings.updated",
            write_node_id(NodeKind.PROJECT, viewer.project_id),
            project_id=viewer.project_id,
            before=_shown(held),
            after=_shown(changed),
        )
        return changed

    return ShownSettings(viewer.project_id, await run_transaction(ctx.services.database, change)), ()


async def read_vapid_public_key(ctx: Context, *, project_id: UUID) -> str:
    """The key that a browser subscribes with. The pair is made if there is none yet."""
    require(ctx, Role.VIEWER)
    services = ctx.services

    async def read(connection: asyncpg.Connection) -> str:
        account = await read_vapid(connection, services.vault, project_id=project_id, now=services.clock.now())
        return vapid_keys(account).public_key

    return await run_transaction(services.database, read)


def _check(given: Mapping[str, Any], names: Mapping[str, str], *, least: int, most: int) -> tuple[UserError, ...]:
    return tuple(
        UserError(f"{name} must lie between {least} and {most:,}.", "INVALID", ("input", name))
        for name in names
        if given.get(name) is not None and not least <= given[name] <= most
    )


def _shown(settings: PushSettingsRecord) -> dict[str, Any]:
    """Settings as the audit log has them."""
    fields = {**_HOURS, "deferInQuietHours": "defer_in_quiet_hours", **_CAPS}
    return {name: getattr(settings, field) for name, field in fields.items()}


def _changes(given: Mapping[str, Any]) -> dict[str, Any]:
    """By the names of the record. What puts off or holds back goes back to its default when it is cleared."""
    changes = {field: given[name] for name, field in (_HOURS | _CAPS).items() if name in given}
    if "deferInQuietHours" in given:
        defers = given["deferInQuietHours"]
        changes["defer_in_quiet_hours"] = PushSettingsRecord().defer_in_quiet_hours if defers is None else defers
    return changes
