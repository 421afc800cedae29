"""Resend's API on loopback: the key is checked, idempotency is as documented, errors and limits come by script.

`ResendPeer.replies` holds answers to give next, one by one; then mails are accepted again. Started by itself it prints
its URL.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import msgspec
from aiohttp import web


class Reply(msgspec.Struct, frozen=True):
    """An answer instead of the usual one. `accepts`: the mail is taken, whatever is answered. `drops`: nothing is."""

    status: int = 200
    name: str = ""
    message: str = ""
    headers: Mapping[str, str] = {}
    accepts: bool = False
    drops: bool = False


class ResendPeer:
    """`accepted` are the mails that were taken, each once, by their ids."""

    def __init__(self, api_key: str) -> None:
        self.accepted: dict[str, dict[str, Any]] = {}
        self.requests: list[web.BaseRequest] = []
        self.replies: list[Reply] = []
        self.url = ""
        self._api_key = api_key
        self._by_key: dict[str, tuple[bytes, str]] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        body = await request.read()
        refusal = self._refusal(request, body)
        if refusal is not None:
            return refusal
        reply = self.replies.pop(0) if self.replies else None
        if reply is not None and not reply.accepts:
            return self._answer(request, reply)
        message_id = self._accept(request, body)
        return web.json_response({"id": message_id}) if reply is None else self._answer(request, reply)

    def _refusal(self, request: web.Request, body: bytes) -> web.Response | None:
        if request.headers.get("Authorization") != f"Bearer {self._api_key}":
            return _error(401, "invalid_api_key", "API key is invalid")
        if not request.headers.get("User-Agent"):
            return _error(403, "validation_error", "User-Agent header is missing")
        mail = json.loads(body)
        for name in ("from", "to", "subject"):
            if not mail.get(name):
                return _error(422, "missing_required_field", f"The `{name}` field is missing.")
        key = request.headers.get("Idempotency-Key", "")
        if not 1 <= len(key) <= 256:
            return _error(400, "invalid_idempotency_key", "The key must be between 1-256 chars")
        if key in self._by_key and self._by_key[key][0] != body:
            return _error(409, "invalid_idempotent_request", "Same idempotency key used with a different payload")
        return None

    def _accept(self, request: web.Request, body: bytes) -> str:
        key = request.headers["Idempotency-Key"]
        if key not in self._by_key:
            message_id = str(uuid4())
            self._by_key[key] = body, message_id
            self.accepted[message_id] = json.loads(body)
        return self._by_key[key][1]

    def _answer(self, request: web.Request, reply: Reply) -> web.Response:
        if reply.drops:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return _error(reply.status, reply.name, reply.message, reply.headers)


def _error(status: int, name: str, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"statusCode": status, "name": name, "message": message}, status=status, headers=headers)


@asynccontextmanager
async def resend_peer(*, api_key: str = "re_test", port: int = 0) -> AsyncIterator[ResendPeer]:
    """Listens on 127.0.0.1."""
    peer = ResendPeer(api_key)
    application = web.Application()
    application.router.add_post("/emails", peer.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    peer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield peer
    finally:
        await runner.cleanup()


async def _serve() -> None:
    async with resend_peer(port=2526) as peer:
        print(peer.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
