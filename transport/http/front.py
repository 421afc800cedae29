"""GraphQL over HTTP: one request, one response.

Follows the GraphQL-over-HTTP specification with all of its SHOULDs and MAYs. A request is checked from the outside in,
and the first thing that is wrong answers it: method, `Accept`, `Content-Type` and encoding, the body's size while it is
being read, its shape, the caller, the document. Nothing runs before all of that has passed.

Safe against other origins without tokens: a body must be `application/json`, which browsers only send after a
preflight; GET runs queries only, and not when the browser says that another site sent it, unless a header shows that
there was a preflight.

Left to others: streams (`transport/sse/endpoint.py`), slow clients (`transport/http/server.py`), and who the caller is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any
from urllib.parse import parse_qsl

from graphql import ExecutionResult, GraphQLError, OperationType

from transport.application import Application, Session
from transport.errors import BAD_USER_INPUT, RETRY_AFTER_MS, RequestError, code_of
from transport.execution.requests import GraphQLRequest, read_parameters
from transport.execution.service import GraphQLService, Prepared
from transport.http.negotiation import MediaType, choose_media_type, is_json
from transport.http.statuses import (
    StatusProfile,
    headers_of_errors,
    status_of_errors,
    status_of_request_error,
    status_of_result,
)
from transport.request_ids import RequestTrace, enter

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

Observe = Callable[[str, str, str, float], None]
"""`observe(transport, operation, outcome, seconds)`: operation is query, mutation, subscription or unknown; outcome is
"ok" or the code of the first error."""

PREFLIGHTED_HEADERS = (
    "x-api-key",
    "authorization",
    "graphql-require-preflight",
    "apollo-require-preflight",
    "x-apollo-operation-name",
)
"""A browser sends any of these to another origin only after asking that origin."""

MAX_PARAMETERS = 32
"""In a URL. Four have a meaning; clients add a few of their own."""

UNKNOWN_OPERATION = "unknown"


class HTTPRefusedError(Exception):
    """A request that is answered with this status and nothing else."""

    def __init__(
        self,
        status: int,
        message: str,
        *headers: tuple[bytes, bytes],
        code: str = BAD_USER_INPUT,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        passes = {} if retry_after_ms is None else {RETRY_AFTER_MS: retry_after_ms}
        self.error = GraphQLError(message, extensions={"code": code, **passes})


@dataclass(slots=True)
class _Exchange:
    """One request on its way to its response, as far as it has been understood."""

    method: str
    headers: Mapping[str, str]
    client: str | None
    media_type: MediaType = MediaType.JSON
    operation: str = UNKNOWN_OPERATION


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    outcome: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


class GraphQLHTTP:
    """The ASGI application for requests that are answered at once."""

    def __init__(
        self,
        service: GraphQLService,
        application: Application,
        *,
        profile: StatusProfile = StatusProfile.AUDITS,
        observe: Observe | None = None,
    ) -> None:
        self._service = service
        self._application = application
        self._profile = profile
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        exchange = _Exchange(scope["method"], header_map(scope), client_of(scope))
        trace = RequestTrace.of(exchange.headers)
        enter(trace)
        try:
            answer = await self._answer(exchange, scope, receive)
            await _send(answer, exchange.media_type, trace, send)
        finally:
            trace.is_over = True
        if self._observe:
            self._observe("http", exchange.operation, answer.outcome, perf_counter() - started)

    async def _answer(self, exchange: _Exchange, scope: Scope, receive: Receive) -> _Answer:
        try:
            request = await self._read(exchange, scope, receive)
            session = await self._application.open_session(exchange.headers, None, client=exchange.client)
            return await self._run(exchange, request, session)
        except HTTPRefusedError as refusal:
            return self._failure(refusal.status, [refusal.error], *refusal.headers)
        except RequestError as error:
            return self._failure(status_of_request_error(error, self._profile), [error.as_graphql_error()])
        except Exception as error:
            errors = [self._service.error(error)]
            return self._failure(status_of_errors(errors, exchange.media_type, self._profile), errors)

    async def _read(self, exchange: _Exchange, scope: Scope, receive: Receive) -> GraphQLRequest:
        check_method(exchange.method)
        exchange.media_type = negotiated(exchange.headers)
        if exchange.method == "GET":
            check_origin(exchange.headers)
            return read_parameters(url_parameters(scope["query_string"]))
        check_content(exchange.headers)
        return await self._service.read(await read_body(exchange.headers, receive, self._service.limits.body_bytes))

    async def _run(self, exchange: _Exchange, request: GraphQLRequest, session: Session) -> _Answer:
        prepared = await self._service.prepare(request, session)
        if not isinstance(prepared, Prepared):
            return self._failure(status_of_errors(prepared, exchange.media_type, self._profile), prepared)
        exchange.operation = prepared.kind.value
        check_operation(prepared.kind, exchange.method)
        result = await self._service.execute(prepared, session)
        return _Answer(
            status_of_result(result, exchange.media_type, self._profile),
            self._service.encode(result),
            _outcome(result),
        )

    def _failure(self, status: int, errors: list[GraphQLError], *headers: tuple[bytes, bytes]) -> _Answer:
        headers = (*headers, *headers_of_errors(status, errors))
        return _Answer(status, self._service.encode(errors), code_of(errors[0]), headers)


def header_map(scope: Scope) -> dict[str, str]:
    """The request's headers by lower-case name; those sent more than once are joined as RFC 9110 §5.2 says."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def client_of(scope: Scope) -> str | None:
    """The IP address that the request came from."""
    client = scope.get("client")
    return client[0] if client else None


def check_method(method: str) -> None:
    """Raise `HTTPRefusedError` (405) unless it is GET or POST."""
    if method not in ("GET", "POST"):
        raise HTTPRefusedError(405, "Send GraphQL requests by POST, or queries by GET.", (b"allow", b"GET, POST"))


def negotiated(headers: Mapping[str, str]) -> MediaType:
    """The media type to answer in. Raises `HTTPRefusedError` (406) if the client takes none of ours."""
    media_type = choose_media_type(headers.get("accept"))
    if media_type is None:
        raise HTTPRefusedError(406, "Answers are application/graphql-response+json or application/json.")
    return media_type


def check_origin(headers: Mapping[str, str]) -> None:
    """Raise `HTTPRefusedError` (403) if a page of another site made the browser send this without asking first."""
    if headers.get("sec-fetch-site", "").lower() != "cross-site":
        return
    if not any(name in headers for name in PREFLIGHTED_HEADERS):
        raise HTTPRefusedError(403, "Another site may not send this request without a preflight.", code="FORBIDDEN")


def check_content(headers: Mapping[str, str]) -> None:
    """Raise `HTTPRefusedError` (415) unless the body is plain JSON in UTF-8."""
    if not is_json(headers.get("content-type")):
        raise HTTPRefusedError(415, "The Content-Type must be application/json, in UTF-8.")
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise HTTPRefusedError(415, "Compressed bodies are not accepted.", (b"accept-encoding", b"identity"))


def check_operation(kind: OperationType, method: str) -> None:
    """Raise `HTTPRefusedError` if this operation does not go over a single response, or not by this method."""
    if kind is OperationType.SUBSCRIPTION:
        raise HTTPRefusedError(400, "Subscriptions need a WebSocket or `Accept: text/event-stream`.")
    if kind is OperationType.MUTATION and method == "GET":
        raise HTTPRefusedError(405, "Mutations are sent by POST.", (b"allow", b"POST"))


async def read_body(headers: Mapping[str, str], receive: Receive, limit: int) -> bytes:
    """The body of the request, of at most `limit` bytes.

    Raises `HTTPRefusedError`: 413 as soon as it is known to be longer, whatever its length was said to be, and 400 if
    the client leaves in the middle of it.
    """
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        return body
    pieces = bytearray()
    while message["type"] == "http.request":
        pieces += message.get("body", b"")
        if len(pieces) > limit:
            raise _too_large(limit)
        if not message.get("more_body"):
            return bytes(pieces)
        message = await receive()
    raise HTTPRefusedError(400, "The body ended early.")


def url_parameters(query_string: bytes) -> dict[str, str]:
    """The parameters of a URL. Raises `RequestError` if they are no UTF-8, too many, or one is given twice."""
    try:
        pairs = parse_qsl(
            query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except ValueError:
        raise RequestError(f"A URL may have at most {MAX_PARAMETERS} parameters, all of them in UTF-8.") from None
    parameters = dict(pairs)
    if len(parameters) < len(pairs):
        raise RequestError("A parameter of the URL is given twice.")
    return parameters


def _too_large(limit: int) -> HTTPRefusedError:
    return HTTPRefusedError(413, f"The body may be at most {limit} bytes long.", code="COST_EXCEEDED")


def _outcome(result: ExecutionResult) -> str:
    return code_of(result.errors[0]) if result.errors else "ok"


_CONTENT_TYPES = {media_type: f"{media_type.value}; charset=utf-8".encode() for media_type in MediaType}
_COMMON_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"vary", b"Accept"),
    (b"x-content-type-options", b"nosniff"),
)


async def _send(answer: _Answer, media_type: MediaType, trace: RequestTrace, send: Send) -> None:
    headers = [
        (b"content-type", _CONTENT_TYPES[media_type]),
        (b"content-length", str(len(answer.body)).encode()),
        trace.header,
        *_COMMON_HEADERS,
        *answer.headers,
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
