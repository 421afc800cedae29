"""The one URL of GraphQL: what arrives there goes to the transport that speaks its protocol.

A WebSocket goes to the WebSocket transport. An HTTP request goes to the event-stream transport if it belongs to a
reserved stream (PUT, DELETE, a token) or if the client prefers `text/event-stream`; to the explorer if a browser asks
for a page; otherwise to plain HTTP. Each of them is an ASGI application that is handed in, so this module knows none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from transport.http.front import header_map
from transport.http.negotiation import EVERYTHING, MediaType, choose_media_type

STREAM_METHODS = ("PUT", "DELETE")
"""Of the single connection mode of GraphQL over SSE: reserve a stream, stop an operation on it."""

STREAM_TOKEN_HEADER = "x-graphql-event-stream-token"  # noqa: S105, the name of a header
STREAM_TOKEN_PARAMETER = b"token="


class GraphQLEndpoint:
    """ASGI application for `/graphql`."""

    def __init__(
        self,
        *,
        http: ASGIApp,
        websocket: ASGIApp,
        event_stream: ASGIApp,
        explorer: ASGIApp | None = None,
        wants_page: Callable[[str, str], bool] = lambda _method, _accept: False,
    ) -> None:
        self._http = http
        self._websocket = websocket
        self._event_stream = event_stream
        self._explorer = explorer
        self._wants_page = wants_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._transport(scope)(scope, receive, send)

    def _transport(self, scope: Scope) -> ASGIApp:
        if scope["type"] == "websocket":
            return self._websocket
        headers = header_map(scope)
        method, accept = scope["method"], headers.get("accept")
        if is_stream_request(method, headers, scope["query_string"]):
            return self._event_stream
        if self._explorer and accept and self._wants_page(method, accept):
            return self._explorer
        return self._http


def is_stream_request(method: str, headers: Mapping[str, str], query_string: bytes) -> bool:
    """Whether a request is GraphQL over SSE: of its single connection mode, or answered by a stream of its own."""
    if method in STREAM_METHODS or STREAM_TOKEN_HEADER in headers:
        return True
    if query_string.startswith(STREAM_TOKEN_PARAMETER) or b"&" + STREAM_TOKEN_PARAMETER in query_string:
        return True
    return choose_media_type(headers.get("accept"), EVERYTHING) is MediaType.EVENT_STREAM
