"""The database as `make run` needs it: migrated, with a project, its keys and something to look at.

Guarantees: what `keys.json` says works. Keys that the database does not know (another database, a data folder thrown
away) are replaced by those of a new project; keys that it knows are kept, whatever else changed. A start that was
killed in its middle is taken up again by the next one. Leaves to others: who runs the database (`supervisor.py`).
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from launch.data_folder import DataFolder, Keys
from settings import Settings

if TYPE_CHECKING:
    import asyncpg

ORGANIZATION_NAME = "Demo organization"
PROJECT_NAME = "Demo project"
PUBLISHABLE_KEY_NAME = "First publishable key"


class NewKeys(msgspec.Struct, frozen=True, rename="camel"):
    """A project just made and its tokens, which are nowhere else."""

    project_id: str
    secret_key: str
    publishable_key: str


async def prepare_database(settings: Settings, folder: DataFolder, *, database_url: str, redis_url: str) -> Keys:
    """Migrate, make what is missing, and write `keys.json` with today's URLs.

    Raises `MigrationError`, and `OSError` or `asyncpg.PostgresError` when the database goes away meanwhile.
    """
    import asyncpg

    from db.migrate import migrate

    await migrate(database_url)
    connection = await asyncpg.connect(database_url)
    try:
        keys = folder.read_keys()
        if keys is None or not await _is_known(connection, keys):
            keys = await _make_first_project(settings, database_url)
        keys = msgspec.structs.replace(keys, url=_url(settings), database_url=database_url, redis_url=redis_url)
        folder.write_keys(keys)
        await _add_samples(connection, UUID(keys.project_id))
    finally:
        await connection.close()
    return keys


async def _is_known(connection: asyncpg.Connection, keys: Keys) -> bool:
    """Whether both keys are those of their project here. A revoked one counts: it was revoked on purpose."""
    from db.api_keys import find_api_key
    from engine.identity import hash_token

    for token in (keys.secret_key, keys.publishable_key):
        found = await find_api_key(connection, token_hash=hash_token(token))
        if found is None or str(found.project_id) != keys.project_id:
            return False
    return True


async def make_project(
    database_url: str, *, region: str, deployment_region: str, name: str, organization: str
) -> NewKeys:
    """Make an organization in a region, with one project and its first two keys.

    Raises `WrongRegion` for another region than the deployment's, `OSError` or `asyncpg.PostgresError`.
    """
    from db.database import Database
    from engine.audit import OPERATOR, Audit
    from engine.identity import ApiKeyKind, Role
    from engine.provisioning import create_api_key, create_organization, create_project

    database, audit = Database(database_url, min_size=1, max_size=2), Audit(OPERATOR, datetime.now(UTC))
    await database.connect()
    try:
        organization_id = await create_organization(
            database, name=organization, region=region, deployment_region=deployment_region
        )
        made = await create_project(database, organization_id=organization_id, name=name, audit=audit)
        project_id = made.project.project_id
        publishable = await create_api_key(
            database,
            project_id=project_id,
            name=PUBLISHABLE_KEY_NAME,
            kind=ApiKeyKind.PUBLISHABLE,
            role=Role.INGEST,
            audit=audit,
        )
    finally:
        await database.disconnect()
    return NewKeys(project_id=str(project_id), secret_key=made.first_key.token, publishable_key=publishable.token)


async def _make_first_project(settings: Settings, database_url: str) -> Keys:
    region = settings.region.value
    made = await make_project(
        database_url, region=region, deployment_region=region, name=PROJECT_NAME, organization=ORGANIZATION_NAME
    )
    return Keys(**msgspec.structs.asdict(made), url="", database_url="", redis_url="")


async def _add_samples(connection: asyncpg.Connection, project_id: UUID) -> None:
    """Into an empty log only: that is a first start, or one that was killed before it came this far."""
    from db.heads import read_head
    from db.records import Lane

    if (await read_head(connection, project_id=project_id, lane=Lane.EVENTS)).head > 0:
        return
    from db.events import append_events
    from engine.samples import sample_events

    events = sample_events(datetime.now(UTC))
    async with connection.transaction():
        await append_events(connection, project_id=project_id, batch_token=secrets.randbits(63), events=events)


def _url(settings: Settings) -> str:
    """What a browser on this machine opens."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104, an address, no bind
    return f"http://{host}:{settings.port}"
