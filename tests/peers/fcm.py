"""Firebase Cloud Messaging on loopback: API v1, and the OAuth token endpoint that verifies a service account's
assertions.

It accepts whatever is well-formed. What a registration token shall be answered instead is put in `FcmPeer.scripts`: a
list of answers, used up one by one; then it is accepted again.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import defaultdict
from contextlib import AsyncExitStack
from functools import cache
from typing import Any
from uuid import uuid4

import jwt
import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.peers.web_server import serving

AUDIENCE = "https://oauth2.googleapis.com/token"
"""What google-auth signs for, whatever the token endpoint's address is."""
SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
MAX_PAYLOAD_BYTES = 4096
_FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_RESERVED = re.compile(r"from|message_type|(google|gcm).*")


class Answer(msgspec.Struct, frozen=True):
    """An answer of FCM's: `code` is in the details, as Google has it; `body` is sent instead of all that."""

    status: int = 200
    code: str | None = None
    message: str = "Refused."
    fields: tuple[str, ...] = ()
    rpc_status: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: str | None = None


class HangUp(msgspec.Struct, frozen=True):
    """The connection ends without an answer."""


class Stall(msgspec.Struct, frozen=True):
    """No answer, ever."""


Action = Answer | HangUp | Stall


@cache
def _service_account_key() -> rsa.RSAPrivateKey:
    """Takes up to a second: one is enough for all peers of a process."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class FcmPeer:
    """One Firebase project with one service account."""

    def __init__(self, *, project_id: str = "demo-shop", expires_in: int = 3600, port: int = 0) -> None:
        self.project_id = project_id
        self.expires_in = expires_in
        self.scripts: defaultdict[str, list[Action]] = defaultdict(list)
        self.accepted: list[dict[str, Any]] = []
        self.requests = 0
        self.token_requests = 0
        self.token_answers: list[web.Response] = []
        self.token_gate: asyncio.Event | None = None
        self.access_tokens: set[str] = set()
        self._key = _service_account_key()
        self._email = f"firebase-adminsdk@{project_id}.iam.gserviceaccount.com"
        self._port = port
        self._arrived = asyncio.Condition()
        self._ending = asyncio.Event()
        self._stack = AsyncExitStack()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def service_account(self) -> str:
        """The JSON file, as the Firebase console gives it; the token endpoint is this peer's."""
        pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        return json.dumps(
            {
                "type": "service_account",
                "project_id": self.project_id,
                "private_key_id": "1" * 40,
                "private_key": pem,
                "client_email": self._email,
                "client_id": "1" * 21,
                "token_uri": f"{self.url}/token",
            }
        )

    async def __aenter__(self) -> FcmPeer:
        application = web.Application()
        application.router.add_post("/token", self._give_token)
        application.router.add_post("/v1/projects/{project}/messages:send", self._take_message)
        self._port = await self._stack.enter_async_context(serving(application, self._port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ending.set()
        await self._stack.aclose()

    def revoke_access_tokens(self) -> None:
        """Those given so far are refused from now on."""
        self.access_tokens.clear()

    async def token_arrivals(self, count: int) -> None:
        """Wait until so many tokens were asked for."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: self.token_requests >= count)

    async def _give_token(self, request: web.Request) -> web.StreamResponse:
        self.token_requests += 1
        async with self._arrived:
            self._arrived.notify_all()
        if self.token_gate is not None:
            await self.token_gate.wait()
        if self.token_answers:
            return self.token_answers.pop(0)
        form = await request.post()
        if form.get("grant_type") != GRANT_TYPE or not self._is_ours(str(form.get("assertion", ""))):
            return web.json_response(
                {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, status=400
            )
        token = f"ya29.{uuid4().hex}"
        self.access_tokens.add(token)
        return web.json_response({"access_token": token, "expires_in": self.expires_in, "token_type": "Bearer"})

    def _is_ours(self, assertion: str) -> bool:
        try:
            claims = jwt.decode(
                assertion,
                self._key.public_key(),
                algorithms=["RS256"],
                audience=AUDIENCE,
                issuer=self._email,
                options={"require": ["iat", "exp", "aud", "iss"]},
            )
        except jwt.PyJWTError:
            return False
        return claims.get("scope") == SCOPE and claims["exp"] <= time.time() + 3600 + 60

    async def _take_message(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or token not in self.access_tokens:
            return _respond(Answer(401, message="Invalid credentials.", rpc_status="UNAUTHENTICATED"))
        if request.match_info["project"] != self.project_id:
            return _respond(Answer(403, message="Permission denied.", rpc_status="PERMISSION_DENIED"))
        body = await request.json()
        message = body.get("message", {})
        script = self.scripts.get(message.get("token", ""))
        action: Action = script.pop(0) if script else _judge(body)
        if isinstance(action, HangUp) and request.transport is not None:
            request.transport.close()
        if not isinstance(action, Answer):
            await self._ending.wait()
            return web.Response()
        if action.status != 200:
            return _respond(action)
        self.accepted.append(message)
        name = f"projects/{self.project_id}/messages/0:{len(self.accepted)}"
        return web.json_response({"name": name}) if action.body is None else web.Response(text=action.body)


def _judge(body: Any) -> Answer:
    """As Google: the fields' types, reserved keys, sizes."""
    message = body["message"]
    if not message.get("token"):
        return Answer(400, "INVALID_ARGUMENT", "The registration token is not a valid FCM registration token")
    data = message.get("data", {})
    for number, (key, value) in enumerate(data.items()):
        if not isinstance(value, str):
            return Answer(
                400,
                message=f"Invalid value at 'message.data[{number}].value'",
                fields=(f"message.data[{number}].value",),
            )
        if _RESERVED.fullmatch(key):
            return Answer(400, "INVALID_ARGUMENT", "Invalid data payload key", fields=("message.data",))
    ttl = message.get("android", {}).get("ttl", "0s")
    if not re.fullmatch(r"\d+s", ttl) or int(ttl[:-1]) > 2_419_200:
        return Answer(400, "INVALID_ARGUMENT", "Invalid ttl", fields=("message.android.ttl",))
    if message.get("android", {}).get("priority") not in {None, "NORMAL", "HIGH"}:
        return Answer(400, message="Invalid priority", fields=("message.android.priority",))
    texts = [*data.items(), *message.get("notification", {}).items()]
    if sum(len(key.encode()) + len(value.encode()) for key, value in texts) > MAX_PAYLOAD_BYTES:
        return Answer(400, "INVALID_ARGUMENT", "Android message is too big")
    return Answer()


def _respond(answer: Answer) -> web.Response:
    if answer.body is not None:
        return web.Response(status=answer.status, text=answer.body, headers=dict(answer.headers))
    details: list[dict[str, Any]] = []
    if answer.code is not None:
        details.append({"@type": _FCM_ERROR, "errorCode": answer.code})
    if answer.fields:
        violations = [{"field": field, "description": answer.message} for field in answer.fields]
        details.append({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations})
    error: dict[str, Any] = {
        "code": answer.status,
        "message": answer.message,
        "status": answer.rpc_status or "INVALID_ARGUMENT",
    }
    if details:
        error["details"] = details
    return web.json_response({"error": error}, status=answer.status, headers=dict(answer.headers))
