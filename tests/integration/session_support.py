"""What the tests of signing in share: an app's key, its users, and a look at what is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import msgspec

from db.events import read_event_page
from db.records import SYSTEM_PROJECT
from engine.accounts import sign_in
from engine.accounts.sessions import Accounts, Authenticated
from engine.accounts.sign_in import SignIn
from engine.identity import ApiKeyKind, Role, Viewer
from tests.integration.graphql_support import Gateway, Tenant, open_gateway

PASSWORD = "correct horse battery"
AUTH = """
  session { userId anonymous accessToken refreshToken expiresAt }
  retiredAnonUserId retiredProfileId
  userErrors { code path message }
"""
ANONYMOUS = f"mutation ($input: SignInAnonymouslyInput!) {{ signInAnonymously(input: $input) {{ {AUTH} }} }}"
SIGN_UP = f"mutation ($input: SignUpInput!) {{ signUp(input: $input) {{ {AUTH} }} }}"
SIGN_IN = f"mutation ($input: SignInInput!) {{ signIn(input: $input) {{ {AUTH} }} }}"
REFRESH = f"mutation ($token: String!) {{ refreshSession(refreshToken: $token) {{ {AUTH} }} }}"
SIGN_OUT = f"mutation ($token: String!) {{ signOut(refreshToken: $token) {{ {AUTH} }} }}"


@dataclass
class App:
    """A host app with a publishable key, whose backend looks on with an ADMIN one."""

    gateway: Gateway
    backend: Tenant
    key: Tenant

    @property
    def accounts(self) -> Accounts:
        return self.gateway.services.accounts

    async def anonymous(self, **given: Any) -> Any:
        return (await self.key.data(ANONYMOUS, input=given))["signInAnonymously"]

    async def sign_up(self, email: str, **given: Any) -> Any:
        return (await self.key.data(SIGN_UP, input={"email": email, "password": PASSWORD, **given}))["signUp"]

    async def sign_in(self, email: str, **given: Any) -> Any:
        return (await self.key.data(SIGN_IN, input={"email": email, "password": PASSWORD, **given}))["signIn"]

    async def refresh(self, token: str) -> Any:
        return (await self.key.data(REFRESH, token=token))["refreshSession"]

    async def sign_out(self, token: str) -> Any:
        return (await self.key.data(SIGN_OUT, token=token))["signOut"]

    async def sign_in_from(self, email: str, password: str, client: str) -> Authenticated:
        """As over the network, from an address."""
        assert self.key.viewer is not None
        asked = SignIn(email=email, password=password, client=client)
        return await sign_in.sign_in(self.accounts, self.key.viewer.project, asked)

    async def person(self, access_token: str) -> Viewer:
        """Whom an access token speaks for."""
        return await self.gateway.identities.viewer_of_bearer(access_token, project=str(self.key.project_id))

    async def events(self, *event_types: str) -> list[tuple[str, str | None, dict[str, Any]]]:
        """Of the project's log: type, user id, properties."""
        async with self.gateway.services.database.connection() as connection:
            page = await read_event_page(connection, project_id=self.key.project_id, after=0, limit=1000)
        return [
            (event.event_type, event.user_id, decoded(event.properties))
            for event in page.events
            if not event_types or event.event_type in event_types
        ]

    async def ended_sessions(self) -> list[str]:
        """What gateways were told of, in order."""
        async with self.gateway.services.database.connection() as connection:
            page = await read_event_page(connection, project_id=SYSTEM_PROJECT, after=0, limit=1000)
        return [decoded(event.properties)["sessionId"] for event in page.events if event.event_type == "session.ended"]

    async def rows(self, statement: str, *arguments: Any) -> list[dict[str, Any]]:
        async with self.gateway.services.database.connection() as connection:
            return [dict(row.items()) for row in await connection.fetch(statement, *arguments)]

    async def dump(self) -> str:
        """Everything that is stored, as text."""
        async with self.gateway.services.database.connection() as connection:
            return await dump(connection)


async def dump(connection: asyncpg.Connection) -> str:
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    texts = [
        await connection.fetchval(f"SELECT coalesce(string_agg(t::text, chr(10)), '') FROM \"{row['tablename']}\" AS t")
        for row in tables
    ]
    return "\n".join(texts)


def decoded(raw: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(raw)
    return found


@asynccontextmanager
async def open_app(database_url: str, redis_url: str | None = None, **options: Any) -> AsyncIterator[App]:
    async with open_gateway(database_url, redis_url, **options) as gateway:
        backend = await gateway.tenant()
        yield App(gateway, backend, await backend.as_role(Role.INGEST, ApiKeyKind.PUBLISHABLE))
