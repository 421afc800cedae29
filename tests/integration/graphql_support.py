"""What the tests of the schema share: a gateway's services over a real PostgreSQL, and operations run in process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import orjson

from app import GatewayApplication, GatewaySession
from db.database import Database
from engine.announcements import Announcement
from engine.broadcast import Broadcast
from engine.cursors import CursorCodec
from engine.hub import Hub
from engine.identity import ApiKeyKind, Identities, Role, Viewer
from engine.log import EventLog
from engine.provisioning import create_api_key, create_organization, create_project
from engine.streams import EventStreams
from engine.revocations import Revocations
from resolvers.context import Services
from schema import build_schema
from transport.execution import GraphQLRequest, GraphQLService

REGION = "us"
NOBODY = "redis://127.0.0.1:1"
"""A Redis that is never connected to: these tests follow nothing."""


@dataclass
class Gateway:
    """One process's services, what it announced, and who it knows."""

    services: Services
    identities: Identities
    revocations: Revocations
    service: GraphQLService
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

    async def run(self, document: str, **variables: Any) -> Any:
        """The response, as a client decodes it. The request goes the whole way but for the wire."""
        gateway = self.gateway
        request = GraphQLRequest(query=document, variables=msgspec.Raw(orjson.dumps(variables)))
        prepared = await gateway.service.prepare(request)
        if isinstance(prepared, list):
            return orjson.loads(gateway.service.encode(prepared))
        session = GatewaySession(gateway.services, gateway.revocations, self.viewer)
        return orjson.loads(gateway.service.encode(await gateway.service.execute(prepared, session)))

    async def data(self, document: str, **variables: Any) -> Any:
        """The data; there must be no errors."""
        response = await self.run(document, **variables)
        assert "errors" not in response, response
        return response["data"]

    async def codes(self, document: str, **variables: Any) -> list[str]:
        """The codes of all errors."""
        response = await self.run(document, **variables)
        return [error["extensions"]["code"] for error in response.get("errors", [])]

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


@asynccontextmanager
async def open_gateway(database_url: str, redis_url: str = NOBODY) -> AsyncIterator[Gateway]:
    database = Database(database_url, max_size=6)
    await database.connect()
    announced: list[Announcement] = []
    cursors = CursorCodec(b"a secret of tests, long enough for it")
    log = EventLog(database, announced.append)
    hub = Hub(database, Broadcast(redis_url))
    revocations = Revocations(hub, database)
    identities = Identities(database, region=REGION, revocations=revocations)
    services = Services(
        database=database,
        log=log,
        streams=EventStreams(hub, database, cursors),
        cursors=cursors,
        announce=announced.append,
        region=REGION,
    )
    application = GatewayApplication(build_schema()._schema, services, identities, revocations)
    try:
        yield Gateway(services, identities, revocations, GraphQLService(application), announced)
    finally:
        await log.close()
        await database.disconnect()
