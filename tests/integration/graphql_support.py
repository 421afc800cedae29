"""What the tests of the schema share: a gateway's services over a real PostgreSQL, and operations run in process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import msgspec
import orjson
from argon2 import PasswordHasher
from graphql import ExecutionResult

from app import GatewayApplication, GatewaySession
from db.database import Database
from engine.accounts.access_tokens import AccessTokens
from engine.accounts.passwords import Passwords
from engine.accounts.sessions import Accounts
from engine.accounts.signing_keys import SigningKeys
from engine.analytics.live import LiveFunnels
from engine.analytics.pool import AnalyticsPool
from engine.announcements import Announcement
from engine.audit import OPERATOR, Audit
from engine.clock import DatabaseClock
from engine.cursors import CursorCodec
from engine.egress import Egress
from engine.identity import ApiKeyKind, Identities, Role, Viewer
from engine.live.broadcast import Broadcast
from engine.live.hub import Hub
from engine.live.revocations import Revocations
from engine.live.streams import Streams
from engine.log import EventLog
from engine.members import NewMember, add_member
from engine.project_settings import ProjectSettingsCache
from engine.provisioning import create_api_key, create_organization, create_project
from engine.rate_limits import RateLimits
from engine.reading import Readers
from engine.signatures import Signatures
from engine.trusted_documents import TrustedDocuments
from engine.vault import Vault
from engine.work import Work
from resolvers.context import Services
from resolvers.loaders import Lookups
from schema import build_schema
from transport.application import LiveSource, Membership
from transport.execution.documents import Documents
from transport.execution.service import GraphQLRequest, GraphQLService

REGION = "us"
SECRET = b"a secret of tests, long enough for it"
CHEAP_HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
"""Passwords of tests are no secrets."""
NOBODY = "redis://127.0.0.1:1"
"""A Redis that is never connected to: these tests follow nothing."""


@dataclass
class Gateway:
    """One process's services, what it announced and woke workers for, and who it knows."""

    services: Services
    identities: Identities
    revocations: Revocations
    service: GraphQLService
    access_tokens: AccessTokens
    announced: list[Announcement] = field(default_factory=list)
    woken: list[Work] = field(default_factory=list)

    @property
    def audit(self) -> Audit:
        """Whoever runs this deployment, now."""
        return Audit(OPERATOR, self.services.clock.now())

    async def tenant(self, name: str = "shop") -> Tenant:
        """An organization of its own, with one project and an ADMIN key."""
        database = self.services.database
        organization_id = await create_organization(
            database, name=f"{name} Ltd", region=REGION, deployment_region=REGION
        )
        made = await create_project(database, organization_id=organization_id, name=name, audit=self.audit)
        viewer = await self.identities.viewer_of(made.first_key.token)
        return Tenant(self, viewer, made.first_key.token)


@dataclass
class Tenant:
    """Somebody with a key, and what their key can run."""

    gateway: Gateway
    viewer: Viewer | None
    token: str = ""

    @property
    def project_id(self) -> UUID:
        assert self.viewer is not None
        return self.viewer.project_id

    async def as_role(self, role: Role, kind: ApiKeyKind = ApiKeyKind.SECRET) -> Tenant:
        """The same project through another key."""
        made = await create_api_key(
            self.gateway.services.database,
            project_id=self.project_id,
            name=f"{role.name} key",
            kind=kind,
            role=role,
            audit=self.gateway.audit,
        )
        return Tenant(self.gateway, await self.gateway.identities.viewer_of(made.token), made.token)

    async def as_session(self, user_id: str, *, session_id: UUID | None = None, api_key: str | None = None) -> Tenant:
        """An end user of the same project, as their access token says."""
        gateway = self.gateway
        issued = await gateway.access_tokens.issue(
            project_id=self.project_id, session_id=session_id or uuid4(), user_id=user_id, anonymous=False
        )
        viewer = await gateway.identities.viewer_of_bearer(issued.token, project=str(self.project_id), api_key=api_key)
        return Tenant(gateway, viewer, issued.token)

    async def as_member(self, role: Role) -> Tenant:
        """Somebody new of the same organization, who has chosen the same project."""
        assert self.viewer is not None
        gateway, project = self.gateway, self.viewer.project
        audit, email = Audit(OPERATOR, gateway.services.clock.now()), f"{role.name}@{uuid4().hex}.example.com"
        async with gateway.services.database.transaction() as connection:
            made = await add_member(connection, audit, project=project, email=email, role=role)
        assert isinstance(made, NewMember), made
        viewer = await gateway.identities.viewer_of_bearer(made.first.token, project=str(self.project_id))
        return Tenant(gateway, viewer, made.first.token)

    async def run(self, document: str, **variables: Any) -> Any:
        """The response, as a client decodes it. The request goes the whole way but for the wire."""
        gateway = self.gateway
        request = GraphQLRequest(query=document, variables=msgspec.Raw(orjson.dumps(variables)))
        session = GatewaySession(gateway.services, gateway.revocations, self.viewer)
        prepared = await gateway.service.prepare(request, session)
        if isinstance(prepared, list):
            return orjson.loads(gateway.service.encode(prepared))
        response = orjson.loads(gateway.service.encode(await gateway.service.execute(prepared, session)))
        response.pop("extensions", None)  # what it cost, and how much is left, is nothing of the answer
        return response

    async def data(self, document: str, **variables: Any) -> Any:
        """The data; there must be no errors."""
        response = await self.run(document, **variables)
        assert "errors" not in response, response
        return response["data"]

    async def codes(self, document: str, **variables: Any) -> list[str]:
        """The codes of all errors."""
        response = await self.run(document, **variables)
        return [error["extensions"]["code"] for error in response.get("errors", [])]

    async def refusal(self, document: str, **variables: Any) -> str | None:
        """The code with which a subscription is refused before it begins, or None."""
        service = self.gateway.service
        session = GatewaySession(self.gateway.services, self.gateway.revocations, self.viewer)
        prepared = await service.prepare(_request(document, variables), session)
        assert not isinstance(prepared, list), prepared
        source = await service.subscribe(prepared, session)
        if not isinstance(source, ExecutionResult):
            return None
        response = orjson.loads(service.encode(source))
        code: str = response["errors"][0]["extensions"]["code"]
        return code

    async def first(self, document: str, **variables: Any) -> Any:
        """The first response of a subscription that replays nothing."""
        service = self.gateway.service
        session = GatewaySession(self.gateway.services, self.gateway.revocations, self.viewer)
        prepared = await service.prepare(_request(document, variables), session)
        assert not isinstance(prepared, list), prepared
        source = await service.subscribe(prepared, session)
        assert isinstance(source, AsyncGenerator), source
        async with aclosing(source):
            return orjson.loads(await anext(source))

    async def follow(self, document: str, **variables: Any) -> Follower:
        """Open a stream, from now on or from `after`. Raises what its client would be told."""
        service = self.gateway.service
        session = GatewaySession(self.gateway.services, self.gateway.revocations, self.viewer)
        prepared = await service.prepare(_request(document, variables), session)
        assert not isinstance(prepared, list), prepared
        source = await service.subscribe(prepared, session)
        assert isinstance(source, LiveSource), source
        follower = Follower()
        follower.membership = await source.join(service.rendering(prepared, session), follower)
        return follower

    async def track(self, **event: Any) -> Any:
        """Store one event; returns it."""
        payload = (await self.data(TRACK, input={"event": {"eventType": "order.placed", **event}}))["track"]
        assert payload["userErrors"] == []
        return payload["event"]


def _request(document: str, variables: dict[str, Any]) -> GraphQLRequest:
    return GraphQLRequest(query=document, variables=msgspec.Raw(orjson.dumps(variables)))


class Follower:
    """A subscriber that reads at once and keeps everything."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[Any] = asyncio.Queue()
        self.announced: list[str] = []
        self.ended: list[BaseException | None] = []
        self.membership: Membership | None = None

    def deliver(self, payload: bytes, cursor: str) -> bool:
        self.items.put_nowait((orjson.loads(payload), cursor))
        return True

    async def drained(self) -> None:
        return

    def announce(self, cursor: str) -> None:
        self.announced.append(cursor)

    def fail(self, error: BaseException) -> None:
        self.ended.append(error)

    def complete(self) -> None:
        self.ended.append(None)

    async def next(self) -> Any:
        """The next item's response, within five seconds."""
        async with asyncio.timeout(5):
            return (await self.items.get())[0]


TRACK = """mutation ($input: TrackInput!) {
  track(input: $input) {
    duplicate
    event { id seq orgId projectId key module eventType timestamp receivedAt userId anonymousId properties context }
    userErrors { code message path }
  }
}"""


@asynccontextmanager
async def open_gateway(
    database_url: str,
    redis_url: str | None = None,
    *,
    egress: Egress | None = None,
    clock: DatabaseClock | None = None,
) -> AsyncIterator[Gateway]:
    """With `redis_url` its streams are live; without, nothing follows. `egress` may allow peers on loopback."""
    async with AsyncExitStack() as stack:
        database = Database(database_url, max_size=6)
        await database.connect()
        stack.push_async_callback(database.disconnect)
        broadcast = Broadcast(redis_url or NOBODY)
        hub = Hub(database, broadcast)
        if redis_url is not None:
            await broadcast.connect()
            stack.push_async_callback(broadcast.disconnect)
            await hub.start()
            stack.push_async_callback(hub.stop)
        announced: list[Announcement] = []

        def announce(announcement: Announcement) -> None:
            announced.append(announcement)
            broadcast.announce(announcement)

        tell = announced.append if redis_url is None else announce
        log = EventLog(database, tell)
        stack.push_async_callback(log.close)
        cursors = CursorCodec(SECRET)
        streams = Streams(hub, database, cursors)
        stack.push_async_callback(streams.stop)
        revocations = Revocations(hub, database)
        clock = clock or DatabaseClock(database)
        await stack.enter_async_context(clock.running())
        access_tokens = AccessTokens(
            SigningKeys(database, Vault(SECRET), clock), clock, region=REGION, issuer="http://gateway.test"
        )
        identities = Identities(
            database, region=REGION, revocations=revocations, access_tokens=access_tokens, now=clock.now
        )
        woken: list[Work] = []
        readers = Readers(database)
        analytics = AnalyticsPool(database)
        live_funnels = LiveFunnels(hub, analytics, clock)
        stack.push_async_callback(live_funnels.stop)
        project_settings = ProjectSettingsCache(database)
        schema = build_schema()._schema
        documents = Documents(schema)
        services = Services(
            database=database,
            lookups=Lookups(database, readers),
            readers=readers,
            analytics=analytics,
            live_funnels=live_funnels,
            log=log,
            streams=streams,
            cursors=cursors,
            announce=tell,
            clock=clock,
            vault=Vault(SECRET),
            egress=egress or Egress(),
            wake=woken.append,
            public_url="http://gateway.test",
            spf_mechanism="include:_spf.gateway.test",
            signatures=Signatures(database, Vault(SECRET), clock),
            rate_limits=RateLimits(redis_url or NOBODY),
            project_settings=project_settings,
            trusted_documents=TrustedDocuments(database, project_settings),
            document_complaints=documents.complaints,
            schema_for_all=None,
            accounts=Accounts(
                database=database,
                tokens=access_tokens,
                passwords=Passwords(CHEAP_HASHER),
                vault=Vault(SECRET),
                announce=tell,
                clock=clock,
                region=REGION,
            ),
        )
        application = GatewayApplication(schema, services, identities, revocations)
        service = GraphQLService(application, documents=documents)
        yield Gateway(services, identities, revocations, service, access_tokens, announced, woken)
