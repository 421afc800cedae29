"""Ollama's HTTP API on loopback: what `POST /api/chat` checks, refuses and answers, in one piece or as a stream.

It answers as an obedient model would: yes where it is told to say yes or no, JSON where JSON is asked for, else a
sentence. What is to come instead is put in `OllamaPeer.script`: a list of actions, used up one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

from tests.peers.web_server import serving

MODEL = "llama3.2"
CREATED_AT = "2026-05-01T12:00:00.000000Z"
MAX_SHOWN_CHARACTERS = 40
"""Of a prompt, in the answer to it."""
_ROLES = {"system", "user", "assistant", "tool"}


class Says(msgspec.Struct, frozen=True):
    """The model's words, which need not obey; `done_reason` is `length` when it was cut off."""

    text: str
    done_reason: str = "stop"


class Fails(msgspec.Struct, frozen=True):
    """An error of Ollama's, in its JSON, or a page of a proxy in front of it."""

    status: int
    error: str = "something went wrong"
    is_page: bool = False


class Raw(msgspec.Struct, frozen=True):
    """Any bytes with status 200."""

    body: bytes


class Stalls(msgspec.Struct, frozen=True):
    """No answer ever comes; after `begun` bytes of one, if there are any."""

    begun: bytes = b""


class HangsUp(msgspec.Struct, frozen=True):
    """The connection ends without an answer."""


Action = Says | Fails | Raw | Stalls | HangsUp


class OllamaPeer:
    """Use `running`. `asked` holds the bodies of all requests that were well-formed; `under_way` counts those that have
    no answer yet, `most_under_way` as many as there were at once. `arrivals` is released for each of them."""

    def __init__(self, *, api_key: str | None = None, models: frozenset[str] = frozenset({MODEL})) -> None:
        self.api_key = api_key
        self.models = models
        self.url = ""
        self.asked: list[dict[str, Any]] = []
        self.script: list[Action] = []
        self.under_way = 0
        self.most_under_way = 0
        self.arrivals = asyncio.Semaphore(0)
        self._stopping = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def running(cls, **options: Any) -> AsyncIterator[OllamaPeer]:
        peer = cls(**options)
        app = web.Application()
        app.router.add_post("/api/chat", peer._chat)
        async with serving(app) as port:
            peer.url = f"http://127.0.0.1:{port}"
            try:
                yield peer
            finally:
                peer._stopping.set()

    def settings(self, **changes: Any) -> dict[str, Any]:
        """For `configureProvider`."""
        return {"baseUrl": self.url, "model": MODEL, **changes}

    def secrets(self) -> dict[str, Any]:
        """For `configureProvider`."""
        return {} if self.api_key is None else {"apiKey": self.api_key}

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await self._answer(request)
        finally:
            self.under_way -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self.api_key is not None and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return _error(Fails(401, "unauthorized"))
        try:
            chat: Any = msgspec.json.decode(await request.read())
        except msgspec.DecodeError as error:
            return _error(Fails(400, str(error)))
        problem = _problem(chat)
        if problem is not None:
            return _error(Fails(400, problem))
        if chat["model"] not in self.models:
            return _error(Fails(404, f"model '{chat['model']}' not found"))
        self.asked.append(chat)
        self.arrivals.release()
        return await self._act(request, chat, self.script.pop(0) if self.script else Says(_obedient(chat)))

    async def _act(self, request: web.Request, chat: dict[str, Any], action: Action) -> web.StreamResponse:
        match action:
            case Fails():
                return _error(action)
            case Raw():
                return web.Response(body=action.body, content_type="application/json")
            case Says():
                return await _say(request, chat, action)
            case HangsUp():
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
        if action.begun:
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            await response.write(action.begun)
        await self._stopping.wait()
        return web.Response()


def _problem(chat: Any) -> str | None:
    """What Ollama would say of a request."""
    if not isinstance(chat, dict) or not chat.get("model"):
        return "model is required"
    messages = chat.get("messages", [])
    if not all(isinstance(each, dict) and each.get("role") in _ROLES for each in messages):
        return "invalid role"
    if not all(isinstance(each.get("content", ""), str) for each in messages):
        return "json: cannot unmarshal content into Go value of type string"
    if chat.get("format") not in (None, "", "json") and not isinstance(chat["format"], dict):
        return "invalid format"
    if not isinstance(chat.get("options", {}), dict):
        return "invalid options"
    return None


def _obedient(chat: dict[str, Any]) -> str:
    system = " ".join(each["content"] for each in chat["messages"] if each["role"] == "system")
    prompt = " ".join(each["content"] for each in chat["messages"] if each["role"] == "user")
    if chat.get("format") == "json":
        return msgspec.json.encode({"answer": prompt[:MAX_SHOWN_CHARACTERS]}).decode()
    return "yes" if "yes or no" in system else f"An answer to: {prompt[:MAX_SHOWN_CHARACTERS]}"


async def _say(request: web.Request, chat: dict[str, Any], said: Says) -> web.StreamResponse:
    known = {"model": chat["model"], "created_at": CREATED_AT}
    ending = {"done": True, "done_reason": said.done_reason, "total_duration": 1, "eval_count": 1}
    if chat.get("stream") is False:
        return web.json_response({**known, "message": {"role": "assistant", "content": said.text}, **ending})
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    for text, rest in ((said.text, {"done": False}), ("", ending)):
        line = {**known, "message": {"role": "assistant", "content": text}, **rest}
        await response.write(msgspec.json.encode(line) + b"\n")
    return response


def _error(refusal: Fails) -> web.Response:
    if refusal.is_page:
        return web.Response(status=refusal.status, text="<html>Bad gateway</html>", content_type="text/html")
    return web.json_response({"error": refusal.error}, status=refusal.status)
