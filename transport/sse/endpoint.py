"""GraphQL over server-sent events, both modes of the graphql-sse protocol, as an ASGI application.

Distinct connections: GET or POST with `Accept: text/event-stream` is one operation, and its response is the stream.
`id:` of each item of a live stream is its cursor, and `Last-Event-ID` is taken as the place to go on from: an
EventSource that can send headers resumes by itself. That of browsers cannot, and so cannot authenticate, because keys
never go into the query string. Errors found before execution are a `next` event like any other result, because
EventSource cannot read the body of a refused request; a request that is no GraphQL request at all, or whose credentials
are wrong, is refused with its status.

Single connection: PUT reserves a response and gives a token; a request with the token and `Accept: text/event-stream`
opens it; POST (or GET) with the token and `extensions.operationId` starts an operation, is answered 202, and sends its
results into the response; DELETE with `operationId` stops it. A `Last-Event-ID` on the request that starts an operation
is the place to go on from. All requests of one token must reach the process that issued it; between the processes of
one machine `homes` sees to that.

No other site can make a browser do any of it: PUT, DELETE, JSON bodies and the token's header need a preflight, GET is
checked as in `transport/http/front.py`, and a token cannot be guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
from graphql import GraphQLError, OperationType

from transport.application import Application
from transport.errors import RequestError, formatted
from transport.execution.requests import GraphQLRequest, read_parameters
from transport.execution.service import GraphQLService, Prepared
from transport.http.front import (
    HTTPRefusedError,
    Observe,
    Receive,
    Scope,
    Send,
    check_content,
    check_origin,
    client_of,
    header_map,
    read_body,
    url_parameters,
)
from transport.http.negotiation import EVERYTHING, MediaType, choose_media_type, parse_accept
from transport.http.statuses import StatusProfile, headers_of_errors, status_of_errors, status_of_request_error
from transport.request_ids import RequestTrace, enter
from transport.sse.event_stream import Channel
from transport.sse.forwarding import Homes, Unreachable, forward
from transport.sse.reservations import owner_of
from transport.sse.streams import EventStreams, StreamPolicy, not_found
from transport.websocket.server import EXTENSION

TOKEN_HEADER = "x-graphql-event-stream-token"  # noqa: S105, the name of a header
TOKEN_PARAMETER = "token"  # noqa: S105, the name of a parameter

_ALLOW = (b"allow", b"GET, POST, PUT, DELETE")


@dataclass(frozen=True, slots=True)
class _Exchange:
    """One request and the way to answer it."""

    method: str
    headers: Mapping[str, str]
    parameters: Mapping[str, str]
    client: str | None
    channel: Channel
    trace: RequestTrace

    @property
    def token(self) -> str | None:
        return self.headers.get(TOKEN_HEADER) or self.parameters.get(TOKEN_PARAMETER) or None

    @property
    def after(self) -> str | None:
        return self.headers.get("last-event-id") or None

    @property
    def wants_stream(self) -> bool:
        return choose_media_type(self.headers.get("accept"), EVERYTHING) is MediaType.EVENT_STREAM

    async def answer(
        self, status: int, body: bytes = b"", content_type: bytes | None = None, *headers: tuple[bytes, bytes]
    ) -> None:
        """A response that is no stream."""
        described = () if content_type is None else ((b"content-type", content_type + b"; charset=utf-8"),)
        length = (b"content-length", str(len(body)).encode())
        common = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
        headers = (*described, length, self.trace.header, *common, *headers)
        start = {"type": "http.response.start", "status": status, "headers": headers}
        await self.channel.send(start)
        await self.channel.send({"type": "http.response.body", "body": body})

    async def refuse(self, status: int, errors: list[GraphQLError], *headers: tuple[bytes, bytes]) -> None:
        """A GraphQL response without data."""
        headers = (*headers, *headers_of_errors(status, errors))
        body = orjson.dumps({"errors": formatted(errors)})
        await self.answer(status, body, b"application/json", *headers)


class EventStreamTransport:
    """The ASGI application for requests that are answered by streams, or that concern one."""

    def __init__(
        self,
        service: GraphQLService,
        application: Application,
        *,
        policy: StreamPolicy | None = None,
        profile: StatusProfile = StatusProfile.AUDITS,
        observe: Observe | None = None,
        homes: Homes | None = None,
    ) -> None:
        self._service = service
        self._application = application
        self._profile = profile
        self.streams = EventStreams(service, policy, observe, homes)
        self._homes = homes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        channel = Channel(receive, send, scope["extensions"][EXTENSION])
        headers = header_map(scope)
        trace = RequestTrace.of(headers)
        enter(trace)
        exchange = _Exchange(scope["method"], headers, {}, client_of(scope), channel, trace)
        try:
            await self._respond(exchange, scope)
        finally:
            trace.is_over = True

    async def _respond(self, exchange: _Exchange, scope: Scope) -> None:
        try:
            exchange = replace(exchange, parameters=url_parameters(scope["query_string"]))
            home = self._homes and exchange.token and exchange.method != "PUT" and self._homes.elsewhere(exchange.token)
            await (self._forward(exchange, scope, home) if home else self._route(exchange))
        except HTTPRefusedError as refusal:
            await exchange.refuse(refusal.status, [refusal.error], *refusal.headers)
        except RequestError as error:
            await exchange.refuse(status_of_request_error(error, self._profile), [error.as_graphql_error()])

    async def _forward(self, exchange: _Exchange, scope: Scope, home: Path) -> None:
        body = await read_body(exchange.headers, exchange.channel.receive, self._service.limits.body_bytes)
        try:
            await forward(scope, body, exchange.channel, home)
        except Unreachable:
            raise not_found() from None

    async def _route(self, exchange: _Exchange) -> None:
        match exchange.method:
            case "PUT":
                await self._reserve(exchange)
            case "DELETE":
                await self._cancel(exchange)
            case "GET" | "POST" if exchange.token is None:
                await self._distinct(exchange)
            case "GET" | "POST" if exchange.wants_stream:
                await self._open(exchange)
            case "GET" | "POST":
                await self._submit(exchange)
            case _:
                raise HTTPRefusedError(405, "Use GET, POST, PUT or DELETE.", _ALLOW)

    async def _distinct(self, exchange: _Exchange) -> None:
        request = await self._read(exchange)
        try:
            session = await self._application.open_session(exchange.headers, None, client=exchange.client)
        except Exception as error:
            await self._refuse(exchange, [self._service.error(error)])
            return
        prepared = await self._service.prepare(request, session)
        _check_method(prepared, exchange.method)
        await self.streams.respond(prepared, session, exchange.channel, after=exchange.after)

    async def _reserve(self, exchange: _Exchange) -> None:
        """Always a new token: graphql-sse sends its last one along when it reconnects, often before we saw it leave."""
        if not _takes_text(exchange.headers.get("accept")):
            raise HTTPRefusedError(406, "The token is text/plain.")
        try:
            session = await self._application.open_session(exchange.headers, None, client=exchange.client)
        except Exception as error:
            await self._refuse(exchange, [self._service.error(error)])
            return
        token = self.streams.reserve(session, owner=owner_of(exchange.headers), client=exchange.client)
        await exchange.answer(201, token.encode(), b"text/plain")

    async def _open(self, exchange: _Exchange) -> None:
        await self.streams.open(exchange.token or "", exchange.channel, owner=owner_of(exchange.headers))

    async def _submit(self, exchange: _Exchange) -> None:
        reservation = self.streams.find(exchange.token or "", owner=owner_of(exchange.headers))
        request = await self._read(exchange)
        prepared = await self._service.prepare(request, reservation.session)
        _check_method(prepared, exchange.method)
        if not isinstance(prepared, Prepared):
            await self._refuse(exchange, prepared)
            return
        operation_id = (request.extensions or {}).get("operationId")
        self.streams.submit(reservation, operation_id, prepared, after=exchange.after)
        await exchange.answer(202)

    async def _cancel(self, exchange: _Exchange) -> None:
        reservation = self.streams.find(exchange.token or "", owner=owner_of(exchange.headers))
        self.streams.cancel(reservation, exchange.parameters.get("operationId"))
        await exchange.answer(200)

    async def _read(self, exchange: _Exchange) -> GraphQLRequest:
        if exchange.method == "GET":
            if exchange.token is None:
                check_origin(exchange.headers)
            return read_parameters(exchange.parameters)
        check_content(exchange.headers)
        return await self._service.read(
            await read_body(exchange.headers, exchange.channel.receive, self._service.limits.body_bytes)
        )

    async def _refuse(self, exchange: _Exchange, errors: list[GraphQLError]) -> None:
        await exchange.refuse(status_of_errors(errors, MediaType.GRAPHQL_RESPONSE, self._profile), errors)


def _check_method(prepared: Prepared | list[GraphQLError], method: str) -> None:
    if isinstance(prepared, Prepared) and prepared.kind is OperationType.MUTATION and method == "GET":
        raise HTTPRefusedError(405, "Mutations are sent by POST.", (b"allow", b"POST"))


def _takes_text(accept: str | None) -> bool:
    """Whether `text/plain` is acceptable. graphql-sse sends `*/*`."""
    if accept is None:
        return True
    covering = [
        media_range for media_range in parse_accept(accept) if _covers_text(media_range.type, media_range.subtype)
    ]
    return bool(covering) and max(covering, key=lambda found: (found.type != "*", found.subtype != "*")).quality > 0


def _covers_text(main: str, sub: str) -> bool:
    return (main, sub) in (("*", "*"), ("text", "*"), ("text", "plain"))
