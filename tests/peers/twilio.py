"""Twilio's API on loopback: basic auth, the form and its fields checked as Twilio does, and signed status callbacks.

It accepts whatever is well-formed. What a number shall be answered instead is put in `TwilioPeer.scripts`: a list of
actions, used up one by one; then it is accepted again. `report` calls a message's StatusCallback as Twilio would.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

ACCOUNT_SID = "AC" + "0123456789abcdef" * 2
AUTH_TOKEN = "the auth token of a test account"
_FIELDS = {"To", "From", "MessagingServiceSid", "Body", "StatusCallback"}


class Refusal(msgspec.Struct, frozen=True):
    """An error of Twilio's, in its JSON."""

    code: int
    status: int = 400
    headers: tuple[tuple[str, str], ...] = ()


class Plain(msgspec.Struct, frozen=True):
    """An answer that is not Twilio's: a proxy's page."""

    status: int
    body: str = "<html>Bad gateway</html>"


class TakeAndHangUp(msgspec.Struct, frozen=True):
    """The message is taken, and the connection ends without an answer."""


class TakeAndStall(msgspec.Struct, frozen=True):
    """The message is taken, and no answer ever comes."""


Action = Refusal | Plain | TakeAndHangUp | TakeAndStall


class TakenMessage(msgspec.Struct, frozen=True):
    """A message that Twilio has."""

    sid: str
    form: dict[str, str]


class TwilioPeer:
    """Use `running`. `attempts` counts requests per number, refused ones included."""

    def __init__(self, *, account_sid: str = ACCOUNT_SID, auth_token: str = AUTH_TOKEN) -> None:
        self.account_sid = account_sid
        self.auth_token = auth_token
        self.url = ""
        self.messages: list[TakenMessage] = []
        self.attempts: defaultdict[str, int] = defaultdict(int)
        self.scripts: defaultdict[str, list[Action]] = defaultdict(list)
        self._stopping = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def running(cls, **options: Any) -> AsyncIterator[TwilioPeer]:
        peer = cls(**options)
        app = web.Application()
        app.router.add_post("/2010-04-01/Accounts/{account}/Messages.json", peer._create)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        peer.url = f"http://{host}:{port}"
        try:
            yield peer
        finally:
            peer._stopping.set()
            await runner.cleanup()

    def settings(self, **changes: Any) -> dict[str, Any]:
        """For `configureProvider`."""
        return {"accountSid": self.account_sid, "from": "+14155550100", "baseUrl": self.url, **changes}

    def secrets(self) -> dict[str, Any]:
        """For `configureProvider`."""
        return {"authToken": self.auth_token}

    async def _create(self, request: web.Request) -> web.StreamResponse:
        if not self._is_authorized(request):
            return _error(Refusal(20003, 401))
        if request.match_info["account"] != self.account_sid:
            return _error(Refusal(20404, 404))
        if request.content_type != "application/x-www-form-urlencoded":
            return _error(Refusal(20001, 415))
        form = {name: str(value) for name, value in (await request.post()).items()}
        problem = _problem(form)
        if problem is not None:
            return _error(Refusal(problem))
        self.attempts[form["To"]] += 1
        script = self.scripts[form["To"]]
        return await self._act(request, form, script.pop(0) if script else None)

    async def _act(self, request: web.Request, form: dict[str, str], action: Action | None) -> web.StreamResponse:
        match action:
            case Refusal():
                return _error(action, to=form["To"])
            case Plain():
                return web.Response(status=action.status, text=action.body, content_type="text/html")
        message = TakenMessage(f"SM{len(self.messages):032x}", form)
        self.messages.append(message)
        if isinstance(action, TakeAndHangUp) and request.transport is not None:
            request.transport.abort()
        if isinstance(action, TakeAndStall):
            await self._stopping.wait()
        answer = {
            "sid": message.sid,
            "status": "queued",
            "num_segments": "1",
            "to": form["To"],
            "body": form["Body"],
            "error_code": None,
            "error_message": None,
        }
        return web.json_response(answer, status=201)

    def _is_authorized(self, request: web.Request) -> bool:
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        expected = f"{self.account_sid}:{self.auth_token}"
        return scheme == "Basic" and b64decode(credentials).decode() == expected

    def callback(self, message: TakenMessage, status: str, error_code: int | None = None) -> dict[str, str]:
        """The form that a status callback carries."""
        form = {
            "AccountSid": self.account_sid,
            "MessageSid": message.sid,
            "SmsSid": message.sid,
            "MessageStatus": status,
            "SmsStatus": status,
            "To": message.form["To"],
            "From": message.form.get("From", ""),
            "ApiVersion": "2010-04-01",
        }
        return form if error_code is None else {**form, "ErrorCode": str(error_code)}

    def sign(self, url: str, form: dict[str, str]) -> str:
        """As Twilio's documentation says: the URL as it was given, then names and values sorted by name."""
        signed = url + "".join(name + form[name] for name in sorted(form))
        return b64encode(hmac.new(self.auth_token.encode(), signed.encode(), hashlib.sha1).digest()).decode()

    async def report(
        self, message: TakenMessage, status: str, error_code: int | None = None, *, reach: tuple[str, str] | None = None
    ) -> int:
        """Call a message's StatusCallback; returns what it answered. `reach` replaces one beginning of the URL by
        another, as a proxy in front would."""
        url = message.form["StatusCallback"]
        form = self.callback(message, status, error_code)
        headers = {"X-Twilio-Signature": self.sign(url, form), "User-Agent": "TwilioProxy/1.1"}
        called = url if reach is None else url.replace(*reach, 1)
        async with aiohttp.ClientSession() as session, session.post(called, data=form, headers=headers) as response:
            return response.status


def _problem(form: dict[str, str]) -> int | None:
    """The code of what is wrong with a form."""
    if set(form) - _FIELDS:
        return 20001
    if not form.get("To", "").startswith("+"):
        return 21211
    if not form.get("Body"):
        return 21602
    if len(form["Body"]) > 1600:
        return 21617
    if "From" not in form and "MessagingServiceSid" not in form:
        return 21603
    return None


def _error(refusal: Refusal, *, to: str = "") -> web.Response:
    body = {
        "code": refusal.code,
        # Twilio's own sentences quote the number.
        "message": f"The number {to} cannot be used.",
        "more_info": f"https://www.twilio.com/docs/errors/{refusal.code}",
        "status": refusal.status,
    }
    return web.json_response(body, status=refusal.status, headers=dict(refusal.headers))
