"""Accounts with providers at rest: sealed, read as they were stored, made once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest

from db.database import Database
from db.providers import list_providers, read_providers
from engine.providers.credentials import (
    lock_credentials,
    make_secrets_once,
    read_credentials,
    store_credentials,
)
from engine.providers.refusals import note_provider_error
from engine.providers.values import ProviderKind
from engine.vault import CannotOpen, Vault
from tests.integration.log_support import make_project, open_database

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
VAULT = Vault(b"a secret of tests, long enough for it")


@pytest.fixture
async def database(module_database_url: str) -> AsyncIterator[Database]:
    async with open_database(module_database_url) as opened:
        yield opened


async def store(database: Database, project_id: UUID, *, secrets: dict[str, str]) -> UUID:
    async with database.transaction() as connection:
        held = await lock_credentials(connection, VAULT, project_id=project_id, kind=ProviderKind.TWILIO, now=NOW)
        changed = msgspec.structs.replace(held, settings={"from": "+14155550100"}, secrets=secrets)
        await store_credentials(connection, VAULT, changed, project_id=project_id, now=NOW)
        return held.provider_id


async def test_what_is_stored_is_read_and_its_secrets_are_nowhere_in_the_row(database: Database) -> None:
    project_id = await make_project(database)
    provider_id = await store(database, project_id, secrets={"authToken": "very secret"})

    async with database.connection() as connection:
        found = await read_credentials(connection, VAULT, project_id=project_id, kinds=["TWILIO", "SMTP"])
        row = await connection.fetchval("SELECT string_agg(providers::text, '') FROM providers")

    assert list(found) == ["TWILIO"]
    twilio = found[ProviderKind.TWILIO]
    assert (twilio.provider_id, twilio.settings, twilio.secrets) == (
        provider_id,
        {"from": "+14155550100"},
        {"authToken": "very secret"},
    )
    assert "very secret" not in repr(twilio)
    assert b"very secret".hex() not in row


async def test_a_change_gives_another_version_even_within_one_instant(database: Database) -> None:
    project_id = await make_project(database)
    versions = []
    for token in ("one", "two", "three"):
        await store(database, project_id, secrets={"authToken": token})
        async with database.connection() as connection:
            found = await read_credentials(connection, VAULT, project_id=project_id, kinds=["TWILIO"])
        versions.append(found["TWILIO"].version)

    assert versions == sorted(set(versions))


async def test_another_project_sees_nothing_and_could_not_open_it(database: Database) -> None:
    project_id, other = await make_project(database), await make_project(database)
    provider_id = await store(database, project_id, secrets={"authToken": "very secret"})

    async with database.connection() as connection:
        assert await read_credentials(connection, VAULT, project_id=other, kinds=list(ProviderKind)) == {}
        assert await read_providers(connection, project_id=other, provider_ids=[provider_id]) == []
        await connection.execute("UPDATE providers SET project_id = $1 WHERE provider_id = $2", other, provider_id)
        with pytest.raises(CannotOpen):
            await read_credentials(connection, VAULT, project_id=other, kinds=["TWILIO"])


async def test_secrets_that_the_server_makes_are_made_once(database: Database) -> None:
    project_id = await make_project(database)

    async def make(name: str) -> object:
        async with database.transaction() as connection:
            made = await make_secrets_once(
                connection, VAULT, project_id=project_id, kind="WEB_PUSH", secrets={"privateKey": name}, now=NOW
            )
        return made.secrets["privateKey"]

    made = await asyncio.gather(*(make(str(number)) for number in range(6)))

    assert len(set(made)) == 1


async def test_an_error_is_noted_without_a_new_version_and_a_change_forgets_it(database: Database) -> None:
    project_id = await make_project(database)
    provider_id = await store(database, project_id, secrets={"authToken": "one"})

    async with database.connection() as connection:
        [before] = await list_providers(connection, project_id=project_id)
        await note_provider_error(connection, project_id, provider_id, "Twilio refused the auth token.\0" + "x" * 600)
        [noted] = await list_providers(connection, project_id=project_id)
    await store(database, project_id, secrets={"authToken": "two"})
    async with database.connection() as connection:
        [changed] = await list_providers(connection, project_id=project_id)

    assert noted.last_error is not None
    assert noted.last_error.startswith("Twilio refused the auth token.x")
    assert len(noted.last_error) == 500
    assert noted.updated_at == before.updated_at
    assert changed.last_error is None
