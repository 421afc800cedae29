"""The web process: settings → database → hub → schema → routes, opened and closed in one lifespan."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from graphql import GraphQLSchema
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from db.database import Database
from db.failures import is_passing, is_statement_timeout
from engine.accounts.access_tokens import AccessTokens
from engine.accounts.passwords import Passwords
from engine.accounts.sessions import Accounts
from engine.accounts.signing_keys import SigningKeys
from engine.analytics.live import LiveFunnels
from engine.analytics.pool import ACQUIRE_TIMEOUT as ANALYTICS_ACQUIRE_TIMEOUT
from engine.analytics.pool import STATEMENT_TIMEOUT as ANALYTICS_STATEMENT_TIMEOUT
from engine.analytics.pool import AnalyticsPool
from engine.clock import DatabaseClock
from engine.cursors import CursorCodec
from engine.email.domains import txt_look_up
from engine.email.unsubscribe import UnsubscribeTokens
from engine.errors import GatewayError, TimedOut, Unavailable
from engine.garbage import settle_collector
from engine.identity import Identities, KeyEnvironment, Role, Viewer
from engine.live.broadcast import Broadcast
from engine.live.endings import Ending
from engine.live.forgetting import Forgetting
from engine.live.hub import Hub
from engine.live.revocations import Revocations
from engine.live.streams import Streams
from engine.log import EventLog
from engine.project_settings import ProjectSettingsCache
from engine.rate_limits import Account, RateLimits
from engine.reading import POOL_SIZE, Readers
from engine.signatures import Signatures
from engine.trusted_documents import TrustedDocuments
from engine.workflows.bundle_schema import SCHEMA_PATH, bundle_schema
from inbound import routes as inbound_routes
from inbound.jwks import accounts_routes
from resolvers.context import Context, Services
from resolvers.loaders import Lookups
from schema import build_schema, costs
from schema.decoders import DECODERS
from settings import (
    Settings,
    dns_server_of,
    egress_of,
    public_url_of,
    required,
    schema_for_all_of,
    secrets_of,
    spf_mechanism_of,
    vault_of,
)
from telemetry import Metrics, Readings
from transport.application import InputDecoder, PerItem, PublicError, Weights
from transport.clients import network_of
from transport.endpoint import GraphQLEndpoint
from transport.execution.documents import Documents
from transport.execution.limits import Limits
from transport.execution.service import GraphQLService
from transport.explorer import Explorer, ExplorerPage, wants_page
from transport.http.front import PREFLIGHTED_HEADERS, GraphQLHTTP
from transport.http.statuses import StatusProfile
from transport.origins import read_origins
from transport.request_ids import HEADER as REQUEST_ID
from transport.request_ids import TRACEPARENT, WithRequestId
from transport.sse.endpoint import TOKEN_HEADER, EventStreamTransport
from transport.sse.forwarding import Homes
from transport.websocket.endpoint import WebSocketEndpoint, WebSocketPolicy

GRAPHQL_PATH = "/graphql"
API_KEY = "x-api-key"
AUTHORIZATION = "authorization"
PROJECT = "x-sendora-project"
"""Names of the headers, and of the entries in the payload of `connection_init`. Never in a query string."""
CROSS_ORIGIN_HEADERS = (
    "content-type",
    "last-event-id",
    REQUEST_ID,
    TRACEPARENT,
    TOKEN_HEADER,
    PROJECT,
    *PREFLIGHTED_HEADERS,
)
"""What a page of an allowed origin may send: whatever counts as proof of a preflight has to get through one."""
PREFLIGHT_SECONDS = 600
"""How long a browser may remember that it may send these."""
EXPLORER_PAGE = ExplorerPage(
    title="Sendora Gateway",
    key_hint="`make run` prints it, and `.data/keys.json` keeps it as `secretKey`.",
    sample_query="{ viewer { role project { name } } }",
)
SCHEMA_HEADERS = {"Access-Control-Allow-Origin": "*", "Cache-Control": "public, max-age=3600"}
"""It is public, for editors in browsers too."""
RETRY_AFTER_MS = 1_000
"""What a client is told to wait while PostgreSQL is away: about what a restart takes."""
READY_TIMEOUT_SECONDS = 2.0
"""A gateway that cannot reach its servers within this is not ready."""

_logger = logging.getLogger(__name__)


class GatewaySession:
    """One connection's viewer, or nobody's."""

    __slots__ = ("_bucket", "_client", "_revocations", "_services", "_viewer")

    def __init__(
        self, services: Services, revocations: Revocations, viewer: Viewer | None, *, client: str | None = None
    ) -> None:
        self._services = services
        self._revocations = revocations
        self._viewer = viewer
        self._client = client
        self._bucket = None if viewer is None else viewer.bucket(network_of(client))

    @property
    def holder(self) -> UUID | None:
        return None if self._viewer is None else self._viewer.holder

    @property
    def account(self) -> Account | None:
        return None if self._bucket is None else self._services.rate_limits.account(self._bucket)

    @property
    def may_inspect(self) -> bool:
        """Where it depends on who asks: whoever builds on the API, by the key or by the role."""
        for_all, viewer = self._services.schema_for_all, self._viewer
        if for_all is not None or viewer is None:
            return bool(for_all)
        return viewer.role >= Role.EDITOR or (
            viewer.api_key is not None and viewer.api_key.environment == KeyEnvironment.DEV
        )

    async def trusted_document(self, digest: str) -> str | None:
        if self._viewer is None:
            return None
        return await self._services.trusted_documents.find(self._viewer.project_id, bytes.fromhex(digest))

    async def may_run(self, document: str) -> bool:
        """Nobody has no project to run it in. ADMIN may register it, so might as well run it, and can mend things."""
        viewer = self._viewer
        if viewer is None or viewer.role >= Role.ADMIN:
            return True
        return await self._services.trusted_documents.admits(viewer.project_id, document)

    def context(self, cost: int = 0) -> Context:
        return Context(self._services, self._viewer, cost=cost, client=self._client, bucket=self._bucket)

    def on_revoked(self, callback: Callable[[str], None]) -> Callable[[], None]:
        ending = Ending(callback)
        if self._viewer is not None:
            ending.watch(self._revocations, self._viewer, now=self._services.clock.now())
        return ending.forget


class GatewayApplication:
    """The product, as the transport sees it."""

    decoders: Mapping[str, InputDecoder] = DECODERS
    weights = Weights(
        fields={
            **costs.WEIGHTS,
            costs.BATCH_FIELD: PerItem(
                costs.BATCH_ARGUMENT, costs.BATCH_MEMBER, costs.EVENTS_PER_POINT, costs.count_events
            ),
        },
        sizes=costs.SIZES,
        one_of=costs.ONE_OF,
    )

    def __init__(
        self, schema: GraphQLSchema, services: Services, identities: Identities, revocations: Revocations
    ) -> None:
        self.schema = schema
        self._services = services
        self._identities = identities
        self._revocations = revocations

    async def open_session(
        self,
        headers: Mapping[str, str],
        payload: Mapping[str, Any] | None,
        *,
        client: str | None,
    ) -> GatewaySession:
        """Credentials come in headers or, over a WebSocket, in the payload of `connection_init`, by the same names."""
        api_key, bearer = _credential(API_KEY, headers, payload), _bearer(headers, payload)
        viewer = None
        if bearer is not None:
            project = _credential(PROJECT, headers, payload)
            viewer = await self._identities.viewer_of_bearer(bearer, project=project, api_key=api_key)
        elif api_key is not None:
            in_browser = "origin" in headers
            viewer = self._identities.known_viewer(api_key, from_browser=in_browser)
            if viewer is None:
                viewer = await self._identities.viewer_of(api_key, from_browser=in_browser)
        return GatewaySession(self._services, self._revocations, viewer, client=client)

    def describe_error(self, error: BaseException) -> PublicError | None:
        if is_statement_timeout(error):
            error = TimedOut("The database needs too long for this: ask for less, or filter by type or user.")
        elif is_passing(error):
            error = Unavailable("The database does not answer; try again.", retry_after_ms=RETRY_AFTER_MS)
        return PublicError(str(error), error.extensions()) if isinstance(error, GatewayError) else None


class Process:
    """Everything one gateway process holds, opened in order and closed in reverse."""

    def __init__(self, settings: Settings) -> None:
        self.database = Database(
            required(settings.database_url),
            max_size=settings.database_pool_size,
            application_name="sendora-gateway",
        )
        self.reading_database = Database(
            required(settings.database_url), min_size=0, max_size=POOL_SIZE, application_name="sendora-gateway"
        )
        self.analytics_database = Database(
            required(settings.database_url),
            min_size=0,
            max_size=settings.analytics_pool_size,
            application_name="sendora-analytics",
            acquire_timeout=ANALYTICS_ACQUIRE_TIMEOUT,
            statement_timeout=ANALYTICS_STATEMENT_TIMEOUT,
        )
        self.broadcast = Broadcast(required(settings.redis_url))
        self.hub = Hub(self.database, self.broadcast)
        self.revocations = Revocations(self.hub, self.database)
        self.log = EventLog(self.database, self.broadcast.announce)
        self.cursors = CursorCodec(required(settings.secret_key).encode())
        self.streams = Streams(self.hub, self.database, self.cursors)
        self.forgetting = Forgetting(self.hub, self.hub.forget, self.streams.forget)
        self.clock = DatabaseClock(self.database)
        self.signing_keys = SigningKeys(self.database, vault_of(settings), self.clock)
        self.access_tokens = AccessTokens(
            self.signing_keys, self.clock, region=settings.region, issuer=public_url_of(settings)
        )
        self.identities = Identities(
            self.database,
            region=settings.region,
            revocations=self.revocations,
            access_tokens=self.access_tokens,
            now=self.clock.now,
        )
        self.rate_limits = RateLimits(
            required(settings.redis_url), limit=settings.cost_limit, restore_rate=settings.cost_restore
        )
        readers = Readers(self.reading_database)
        analytics = AnalyticsPool(self.analytics_database)
        project_settings = ProjectSettingsCache(self.database)
        schema = build_schema()._schema
        self.documents = Documents(schema, Limits(cost=settings.max_operation_cost))
        self.services = Services(
            database=self.database,
            lookups=Lookups(self.database, readers),
            readers=readers,
            analytics=analytics,
            live_funnels=LiveFunnels(self.hub, analytics, self.clock),
            log=self.log,
            streams=self.streams,
            cursors=self.cursors,
            announce=self.broadcast.announce,
            clock=self.clock,
            vault=vault_of(settings),
            egress=egress_of(settings),
            wake=self.broadcast.wake,
            public_url=public_url_of(settings),
            spf_mechanism=spf_mechanism_of(settings),
            signatures=Signatures(self.database, vault_of(settings), self.clock),
            project_settings=project_settings,
            trusted_documents=TrustedDocuments(self.database, project_settings),
            document_complaints=self.documents.complaints,
            schema_for_all=schema_for_all_of(settings),
            look_up_txt=txt_look_up(dns_server_of(settings)),
            rate_limits=self.rate_limits,
            accounts=Accounts(
                database=self.database,
                tokens=self.access_tokens,
                passwords=Passwords(),
                vault=vault_of(settings),
                announce=self.broadcast.announce,
                clock=self.clock,
                region=settings.region,
            ),
        )
        self.application = GatewayApplication(schema, self.services, self.identities, self.revocations)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open, and close in reverse: what was accepted is finished before the database is let go."""
        if not self.services.egress.guarded:
            _logger.warning("ssrf_guard.off")
        async with AsyncExitStack() as stack:
            await self.database.connect()
            stack.push_async_callback(self.database.disconnect)
            await self.reading_database.connect()
            stack.push_async_callback(self.reading_database.disconnect)
            await self.analytics_database.connect()
            stack.push_async_callback(self.analytics_database.disconnect)
            await stack.enter_async_context(self.clock.running())
            await self.broadcast.connect()
            stack.push_async_callback(self.broadcast.disconnect)
            self.rate_limits.start()
            stack.push_async_callback(self.rate_limits.stop)
            await self.hub.start()
            stack.push_async_callback(self.hub.stop)
            await self.revocations.start()
            stack.callback(self.revocations.stop)
            await self.forgetting.start()
            stack.callback(self.forgetting.stop)
            stack.push_async_callback(self.streams.stop)
            stack.push_async_callback(self.services.live_funnels.stop)
            stack.push_async_callback(self.log.close)
            settle_collector()
            yield

    async def is_ready(self) -> bool:
        """Whether PostgreSQL and Redis both answer."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_SECONDS), self.database.connection() as connection:
                await connection.fetchval("SELECT 1")
        except Exception:
            return False
        return self.broadcast.connected


def create_app(settings: Settings, *, private_path: Path | None = None) -> ASGIApp:
    """The ASGI application of one gateway. Opens nothing before its lifespan begins.

    `private_path` is the Unix socket on which the other gateways of this machine reach this one and no other.
    """
    process = Process(settings)
    metrics = Metrics(
        Readings(
            hub=process.hub.stats,
            log=process.log.stats,
            redis_connected=lambda: process.broadcast.connected,
            dropped_announcements=lambda: process.broadcast.dropped_announcements,
        )
    )
    explorer = Explorer(EXPLORER_PAGE)
    named_explorer = WithRequestId(explorer)
    homes = Homes(private_path, required(settings.secret_key).encode()) if private_path else None
    endpoint = _across_origins(_graphql_endpoint(process, explorer, settings, metrics, homes), settings)
    inbound = inbound_routes(process.services, UnsubscribeTokens(*secrets_of(settings)))
    others = WithRequestId(_other_routes(process, metrics, inbound))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        """GraphQL is reached without a router: it is nearly every request."""
        if scope["type"] != "lifespan" and scope["path"] == GRAPHQL_PATH:
            await endpoint(scope, receive, send)
        elif scope["type"] == "http" and explorer.owns(scope["path"]):
            await named_explorer(scope, receive, send)
        else:
            await others(scope, receive, send)

    return app


def _graphql_endpoint(
    process: Process, explorer: Explorer, settings: Settings, metrics: Metrics, homes: Homes | None
) -> GraphQLEndpoint:
    application = process.application
    service = GraphQLService(application, documents=process.documents)
    profile = StatusProfile[settings.status_profile.name]
    policy = WebSocketPolicy(allowed_origins=read_origins(settings.allowed_origins))
    return GraphQLEndpoint(
        http=GraphQLHTTP(service, application, profile=profile, observe=metrics.observe),
        websocket=WebSocketEndpoint(service, application, policy, metrics.observe),
        event_stream=EventStreamTransport(service, application, profile=profile, observe=metrics.observe, homes=homes),
        explorer=WithRequestId(explorer),
        wants_page=wants_page,
    )


def _across_origins(endpoint: ASGIApp, settings: Settings) -> ASGIApp:
    """Lets pages of the allowed origins read answers. Where none are named, browsers keep them out by themselves."""
    origins = read_origins(settings.allowed_origins)
    if not origins:
        return endpoint
    return CORSMiddleware(
        endpoint,
        allow_origins=sorted(origins),
        allow_methods=("GET", "POST", "PUT", "DELETE"),
        allow_headers=CROSS_ORIGIN_HEADERS,
        expose_headers=(REQUEST_ID, "retry-after"),
        max_age=PREFLIGHT_SECONDS,
    )


def _other_routes(process: Process, metrics: Metrics, inbound: Sequence[Route]) -> Starlette:
    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        ready = await process.is_ready()
        guard = "" if process.services.egress.guarded else "ssrf guard: off\n"
        return PlainTextResponse(("ready\n" if ready else "not ready\n") + guard, status_code=200 if ready else 503)

    async def metrics_text(_request: Request) -> Response:
        return Response(metrics.render(), media_type="text/plain; version=0.0.4")

    schema = json.dumps(bundle_schema(process.services.public_url), indent=2)

    async def workflow_bundle_schema(_request: Request) -> Response:
        return Response(schema, media_type="application/schema+json", headers=SCHEMA_HEADERS)

    async def home(_request: Request) -> Response:
        return RedirectResponse(GRAPHQL_PATH)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with process.running():
            yield

    routes = [
        Route("/", home),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics_text),
        Route(SCHEMA_PATH, workflow_bundle_schema),
        *inbound,
        *accounts_routes(process.signing_keys),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def _credential(name: str, headers: Mapping[str, str], payload: Mapping[str, Any] | None) -> str | None:
    """The header wins where both are given: a proxy may set it."""
    given = headers.get(name)
    if not given and payload:
        given = payload.get(name)
    return given if isinstance(given, str) and given else None


def _bearer(headers: Mapping[str, str], payload: Mapping[str, Any] | None) -> str | None:
    """The token of `Authorization: Bearer`. Other schemes are a proxy's business, and say nothing here."""
    given = _credential(AUTHORIZATION, headers, payload)
    if given is None:
        return None
    scheme, _, token = given.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
