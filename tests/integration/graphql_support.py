"""What the tests of the schema share: a gateway's services over a real PostgreSQL, and operations run in process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from graphql import ExecutionResult, execute, parse, validate

from db.database import Database
from engine.announcements import Announcement
from engine.cursors import CursorCodec
from engine.hub import Hub
from engine.broadcast import Broadcast
from engine.identity import ApiKeyKind, Identities, Role, Viewer
from engine.log import EventLog
from engine.provisioning import create_api_key, create_organization, create_project
from engine.streams import EventStreams
from resolvers.context import Context, Services
from schema import build_schema

REGION = "us"
NOBODY = "redis://127.0.0.1:1"
"""A Redis that is never connected to: these tests follow nothing."""


@dataclass
class Gateway:
    """One process's services, what it announced, and who it knows."""

    services: Services
    identities: Identities
    announced: list[Announcement] = field(default_factory=list)

    async def tenant(self, name: str = "shop") -> Tenant:
        """An organization of its own, with one project and an ADMIN key."""
        database = self.services.database
        organization_id = await create_organization(database, name=f"{name} Ltd")
        made = await create_project(database, organization_id=organization_id, name=name, region=REGION)
        viewer = await self.identities.viewer_of(made.first_key.token)
        return Tenant(self, viewer, made.first_key.token)


@dataclass
class Tenant:
    """Somebody with a key, and what their key can run."""

    gateway: Gateway
    viewer: Viewer | None
    token: str = ""

    async def as_role(self, role: Role, kind: ApiKeyKind = ApiKeyKind.SECRET) -> Tenant:
        """The same project through another key."""
        assert self.viewer is not None
        made = await create_api_key(
            self.gateway.services.database,
            project_id=self.viewer.project_id,
            region=REGION,
            name=f"{role.name} key",
            kind=kind,
            role=role,
        )
        return Tenant(self.gateway, await self.gateway.identities.viewer_of(made.token), made.token)

    async def run(self, document: str, **variables: Any) -> ExecutionResult:
        """Validate and execute, as the transport does."""
        schema = build_schema()._schema
        parsed = parse(document)
        errors = validate(schema, parsed)
        if errors:
            return ExecutionResult(None, errors)
        result = execute(
            schema, parsed, context_value=Context(self.gateway.services, self.viewer), variable_values=variables
        )
        return result if isinstance(result, ExecutionResult) else await result

    async def data(self, document: str, **variables: Any) -> Any:
        """The data, as a client decodes it; there must be no errors."""
        result = await self.run(document, **variables)
        assert result.errors is None, result.errors
        return orjson.loads(orjson.dumps(result.data))

    async def codes(self, document: str, **variables: Any) -> list[str]:
        """The codes of all errors, and the class of those that nobody gave a code."""
        result = await self.run(document, **variables)
        return [code_of(error) for error in result.errors or []]

    async def track(self, **event: Any) -> Any:
        """Store one event; returns it."""
        payload = (await self.data(TRACK, input={"event": {"eventType": "order.placed", **event}}))["track"]
        assert payload["userErrors"] == []
        return payload["event"]


TRACK = """mutation ($input: TrackInput!) {
  track(input: $input) {
    duplicate
    event { id seq orgId projectId key module eventType timestamp receivedAt userId anonymousId properties context }
    userErrors { code message path }
  }
}"""


def code_of(error: Any) -> str:
    """As the transport words it: a coded error's code, INTERNAL with its class for one that is ours."""
    original = error.original_error
    if original is None or original.__class__.__name__ == "GraphQLError":
        return "BAD_REQUEST"
    return getattr(original, "code", f"INTERNAL {original!r}")


@asynccontextmanager
async def open_gateway(database_url: str, redis_url: str = NOBODY) -> AsyncIterator[Gateway]:
    database = Database(database_url, max_size=6)
    await database.connect()
    announced: list[Announcement] = []
    cursors = CursorCodec(b"a secret of tests, long enough for it")
    log = EventLog(database, announced.append)
    services = Services(
        database=database,
        log=log,
        streams=EventStreams(Hub(database, Broadcast(redis_url)), database, cursors),
        cursors=cursors,
        announce=announced.append,
        region=REGION,
    )
    try:
        yield Gateway(services, Identities(database, region=REGION), announced)
    finally:
        await log.close()
        await database.disconnect()
