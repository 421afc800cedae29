"""What a project has chosen for itself as a whole: signatures, UNKNOWN consent, default zone and locale, documents.

Guarantees: a change holds everywhere within a second. Gateways, which ask with every request, believe what they read
for `MAX_AGE` (no notice is needed, so none can be lost); workers, and whoever decides in a transaction about consent,
read it there (`read_settings`). Leaves to others: enforcing what it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.database import Database
from db.project_settings import (
    ProjectSettingsRecord,
    lock_project_settings,
    read_project_settings,
    write_project_settings,
)
from engine.audit import Audit
from engine.consent import allows_unknown
from engine.errors import NotFound, UserError
from engine.look_ups import LookUps
from engine.node_ids import NodeKind, write_node_id
from engine.push.locales import is_locale
from engine.push.quiet_hours import find_zone
from engine.transactions import run_transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

MAX_AGE = timedelta(seconds=1)
"""How long a gateway believes what it read: one look-up by primary key a second for a project that is busy."""
MAX_CACHED_PROJECTS = 10_000
"""Some 200 bytes each."""


class ProjectSettings(msgspec.Struct, frozen=True, kw_only=True):
    """As they hold: what was never chosen has its default. `unknown_allowed` is what UNKNOWN consent means."""

    require_signed_identity: bool
    unknown_allowed: bool
    default_timezone: str
    default_locale: str
    require_trusted_documents: bool


def settings_of(record: ProjectSettingsRecord) -> ProjectSettings:
    """Pure."""
    chosen = record.allow_unknown_consent
    return ProjectSettings(
        require_signed_identity=record.require_signed_identity,
        unknown_allowed=allows_unknown(record.region) if chosen is None else chosen,
        default_timezone=record.default_timezone,
        default_locale=record.default_locale,
        require_trusted_documents=record.require_trusted_documents,
    )


async def read_settings(connection: asyncpg.Connection, *, project_id: UUID) -> ProjectSettings:
    """As they are now. Raises `LookupError` for an unknown project."""
    record = await read_project_settings(connection, project_id=project_id)
    if record is None:
        raise LookupError("unknown project")
    return settings_of(record)


class ProjectSettingsCache:
    """For one gateway."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = monotonic) -> None:
        self._database = database
        self._look_ups = LookUps(self._look_up, max_age=MAX_AGE, max_entries=MAX_CACHED_PROJECTS, clock=clock)

    async def read(self, project_id: UUID) -> ProjectSettings:
        """As they were at most `MAX_AGE` ago. Raises `NotFound` for an unknown project."""
        return self._look_ups.known(project_id) or await self._look_ups.find(project_id)

    async def _look_up(self, project_id: UUID) -> ProjectSettings:
        async with self._database.connection() as connection:
            record = await read_project_settings(connection, project_id=project_id)
        if record is None:
            raise NotFound("There is no such project.")
        return settings_of(record)


async def update_settings(
    database: Database, *, project_id: UUID, given: Mapping[str, Any], audit: Audit
) -> ProjectSettings | tuple[UserError, ...]:
    """Change what is given, by the names of the input: what is absent stays, None goes back to the default.

    Settings of an unknown project are refused with `NotFound`; errors mean that nothing was changed.
    """
    errors = check_settings(given)
    if errors:
        return errors

    async def change(connection: asyncpg.Connection) -> ProjectSettings:
        held = await lock_project_settings(connection, project_id=project_id, now=audit.now)
        if held is None:
            raise NotFound("There is no such project.")
        changed = msgspec.structs.replace(held, **_changes(given))
        if changed != held:
            await write_project_settings(connection, project_id=project_id, settings=changed, now=audit.now)
            await audit.note(
                connection,
                "project_settings.updated",
                write_node_id(NodeKind.PROJECT, project_id),
                project_id=project_id,
                before=_shown(held),
                after=_shown(changed),
            )
        return settings_of(changed)

    return await run_transaction(database, change)


def check_settings(given: Mapping[str, Any]) -> tuple[UserError, ...]:
    """Why settings cannot be these, by the names of the input. Pure."""
    errors = []
    zone, locale = given.get("defaultTimezone"), given.get("defaultLocale")
    if zone is not None and find_zone(zone) is None:
        message = "defaultTimezone must be a time zone of the IANA database, e.g. Europe/Berlin."
        errors.append(UserError(message, "INVALID", ("input", "defaultTimezone")))
    if locale is not None and not is_locale(locale):
        message = "defaultLocale must be a BCP 47 tag, e.g. pt-BR."
        errors.append(UserError(message, "INVALID", ("input", "defaultLocale")))
    return tuple(errors)


_FIELDS = {
    "requireSignedIdentity": "require_signed_identity",
    "allowUnknownConsent": "allow_unknown_consent",
    "defaultTimezone": "default_timezone",
    "defaultLocale": "default_locale",
    "requireTrustedDocuments": "require_trusted_documents",
}
_DEFAULTS = ProjectSettingsRecord(region="")


def _changes(given: Mapping[str, Any]) -> dict[str, Any]:
    """By the names of the record."""
    return {
        field: getattr(_DEFAULTS, field) if given[name] is None else given[name]
        for name, field in _FIELDS.items()
        if name in given
    }


def _shown(record: ProjectSettingsRecord) -> dict[str, Any]:
    """For the audit log, by the names of the input."""
    return {name: getattr(record, field) for name, field in _FIELDS.items()}
