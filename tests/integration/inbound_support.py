"""The routes of `inbound` behind a real HTTP server on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal

import aiohttp
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp

from engine.email.unsubscribe import UnsubscribeTokens
from inbound import InboundServices, routes

TOKENS = UnsubscribeTokens(b"a secret of tests, long enough for it")
PUBLIC_URL = "http://gateway.test"
"""What `tests.integration.graphql_support` says of itself: signatures are over it, whatever host is dialled."""


class HttpResponse(msgspec.Struct, frozen=True):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class InboundServer:
    """Served. `url` is where."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    async def request(self, method: str, url: str, **options: Any) -> HttpResponse:
        """To the server, whether `url` is a path or begins with `PUBLIC_URL`."""
        path = url.removeprefix(PUBLIC_URL)
        async with self._session.request(method, self.url + path, **options) as response:
            return HttpResponse(response.status, response.headers, await response.read())

    async def post(self, url: str, body: Any = b"", headers: Mapping[str, str] | None = None) -> HttpResponse:
        return await self.request("POST", url, data=body, headers=headers)


@asynccontextmanager
async def serve_inbound(services: InboundServices) -> AsyncIterator[InboundServer]:
    """Until the block ends."""
    async with serve_app(Starlette(routes=routes(services, TOKENS)), lifespan="off") as server:
        yield server


@asynccontextmanager
async def serve_app(app: ASGIApp, *, lifespan: Literal["on", "off"]) -> AsyncIterator[InboundServer]:
    """Any application, in this process, until the block ends."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, lifespan=lifespan, log_config=None)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    ticking = asyncio.create_task(server.main_loop())
    try:
        async with aiohttp.ClientSession() as session:
            yield InboundServer(f"http://127.0.0.1:{port}", session)
    finally:
        server.should_exit = True
        await ticking
        await server.shutdown()
