"""A browser and its push service on loopback: VAPID is verified as RFC 8292 says, and the text decrypted as a browser
does it.

It accepts whatever is well-formed. What a subscription shall be answered instead is put in `WebPushPeer.scripts`: a
list of answers, used up one by one; then it is accepted again.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import http_ece
import jwt
import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.peers.web_server import serving

MAX_BODY_BYTES = 4096
MAX_VAPID_SECONDS = 24 * 3600
_AUTHORIZATION = re.compile(r"vapid t=([\w.-]+), ?k=([\w-]+)", re.ASCII)
_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")


class Answer(msgspec.Struct, frozen=True):
    """An answer of the push service."""

    status: int
    body: str = ""
    headers: tuple[tuple[str, str], ...] = ()


class HangUp(msgspec.Struct, frozen=True):
    """The connection ends without an answer."""


Action = Answer | HangUp


class Subscription(msgspec.Struct, frozen=True):
    """What `PushSubscription.toJSON()` gives."""

    endpoint: str
    p256dh: str
    auth: str


class ReceivedPush(msgspec.Struct, frozen=True):
    """A message as the service worker sees it, and its request's headers."""

    endpoint: str
    payload: Any
    headers: dict[str, str]


class _Browser(msgspec.Struct, frozen=True):
    key: ec.EllipticCurvePrivateKey
    auth: bytes
    application_server_key: str | None


class WebPushPeer:
    """One push service, and all the browsers that use it."""

    def __init__(self, *, port: int = 0) -> None:
        self.scripts: defaultdict[str, list[Action]] = defaultdict(list)
        self.accepted: list[ReceivedPush] = []
        self.requests = 0
        self.vapid_tokens: Counter[str] = Counter()
        self._browsers: dict[str, _Browser] = {}
        self._gone: set[str] = set()
        self._port = port
        self._stack = AsyncExitStack()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> WebPushPeer:
        application = web.Application(client_max_size=MAX_BODY_BYTES * 4)
        application.router.add_post("/push/{subscription}", self._take_message)
        self._port = await self._stack.enter_async_context(serving(application, self._port))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def subscribe(self, application_server_key: str | None = None, *, name: str = "") -> Subscription:
        """As `pushManager.subscribe`. With a key, messages signed by another one are refused. `name` ends the URL."""
        name = name or uuid4().hex
        browser = _Browser(ec.generate_private_key(ec.SECP256R1()), os.urandom(16), application_server_key)
        self._browsers[name] = browser
        point = browser.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return Subscription(f"{self.url}/push/{name}", _base64(point), _base64(browser.auth))

    def unsubscribe(self, subscription: Subscription) -> None:
        """From now on the service says that it is gone."""
        self._gone.add(_name_of(subscription.endpoint))

    async def _take_message(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        name = request.match_info["subscription"]
        endpoint = f"{self.url}/push/{name}"
        script = self.scripts.get(endpoint)
        action: Action = script.pop(0) if script else await self._judge(name, endpoint, request)
        if isinstance(action, HangUp):
            assert request.transport is not None
            request.transport.close()
            await asyncio.sleep(0)
            return web.Response()
        return web.Response(status=action.status, text=action.body, headers=dict(action.headers))

    async def _judge(self, name: str, endpoint: str, request: web.Request) -> Answer:
        browser = self._browsers.get(name)
        if browser is None:
            return Answer(404)
        if name in self._gone:
            return Answer(410)
        refusal = self._refuse_sender(request.headers.get("Authorization", ""), browser)
        refusal = refusal or _refuse_headers(request)
        if refusal is not None:
            return refusal
        body = await request.read()
        if len(body) > MAX_BODY_BYTES:
            return Answer(413)
        try:
            text = http_ece.decrypt(body, private_key=browser.key, auth_secret=browser.auth, version="aes128gcm")
        except http_ece.ECEException:
            return Answer(400, "undecryptable")
        self.accepted.append(ReceivedPush(endpoint, json.loads(text), dict(request.headers)))
        return Answer(201, headers=(("Location", f"{self.url}/message/{uuid4().hex}"),))

    def _refuse_sender(self, authorization: str, browser: _Browser) -> Answer | None:
        match = _AUTHORIZATION.fullmatch(authorization)
        if match is None:
            return Answer(401, "no VAPID")
        token, key = match.groups()
        self.vapid_tokens[token] += 1
        if browser.application_server_key not in (None, key):
            return Answer(403, "the VAPID credentials do not correspond to those of the subscription")
        try:
            point = urlsafe_b64decode(key + "=" * (-len(key) % 4))
            public_key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
            claims = jwt.decode(
                token,
                public_key,
                algorithms=["ES256"],
                audience=self.url,
                options={"require": ["aud", "exp", "sub"]},
            )
        except (jwt.PyJWTError, ValueError):
            return Answer(403, "bad VAPID token")
        if claims["exp"] > time.time() + MAX_VAPID_SECONDS or not claims["sub"].startswith(("mailto:", "https:")):
            return Answer(403, "bad VAPID claims")
        return None


def _refuse_headers(request: web.Request) -> Answer | None:
    headers = request.headers
    if not headers.get("TTL", "").isdigit():
        return Answer(400, "TTL is missing")
    if headers.get("Urgency", "normal") not in {"very-low", "low", "normal", "high"}:
        return Answer(400, "bad Urgency")
    if "Topic" in headers and not _TOPIC.fullmatch(headers["Topic"]):
        return Answer(400, "bad Topic")
    if headers.get("Content-Encoding") != "aes128gcm":
        return Answer(415, "bad Content-Encoding")
    return None


def _name_of(endpoint: str) -> str:
    return endpoint.rpartition("/")[2]


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")
