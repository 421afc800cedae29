"""Apple's push service on loopback: HTTP/2 with ALPN over TLS, provider tokens verified, requests checked as Apple
does.

It accepts whatever is well-formed. What a device token shall be answered instead is put in `ApnsPeer.scripts`: a list
of actions, used up one by one; then it is accepted again.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter, defaultdict
from typing import Any, cast
from uuid import UUID

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RequestReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from tests.peers.authority import Authority

MAX_PAYLOAD_BYTES = 4096
TOKEN_SECONDS = 3600
_PATH = re.compile(r"/3/device/([0-9A-Fa-f]+)")
_PUSH_TYPES = {"alert", "background", "voip", "complication", "fileprovider", "mdm", "liveactivity", "location"}


class Reply(msgspec.Struct, frozen=True):
    """An answer. With `reason` None it has no body, unless `body` gives one. `max_streams` is said before it."""

    status: int = 200
    reason: str | None = None
    timestamp: int | None = None
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    with_apns_id: bool = True
    max_streams: int | None = None


class Reset(msgspec.Struct, frozen=True):
    """RST_STREAM."""

    code: int = ErrorCodes.INTERNAL_ERROR


class GoAway(msgspec.Struct, frozen=True):
    """GOAWAY: `last` streams up to this one count as processed; those are answered after it, or never."""

    includes_this: bool = False
    answers: bool = True


class Stall(msgspec.Struct, frozen=True):
    """No answer, ever."""


class Hold(msgspec.Struct, frozen=True):
    """Accepted when `ApnsPeer.release` is called."""


class HangUp(msgspec.Struct, frozen=True):
    """The connection ends without a word."""


class Flood(msgspec.Struct, frozen=True):
    """No answer, but pings without end."""


Action = Reply | Reset | GoAway | Stall | Hold | HangUp | Flood


class ApnsKey:
    """A provider's key: the .p8 text, and what Apple keeps of it."""

    def __init__(self, *, key_id: str = "KEYID12345", team_id: str = "TEAMID1234") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.p8 = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        self.public_key = self._key.public_key()
        self.key_id = key_id
        self.team_id = team_id


class ReceivedPush(msgspec.Struct, frozen=True):
    """A request as it came."""

    device_token: str
    headers: dict[str, str]
    payload: Any
    body: bytes


class ApnsPeer:
    """One environment. `key` and `authority` are made, unless they are shared with another peer."""

    def __init__(
        self,
        *,
        key: ApnsKey | None = None,
        authority: Authority | None = None,
        bundle_id: str = "com.example.shop",
        max_streams: int = 1000,
        withholds_window: bool = False,
        port: int = 0,
    ) -> None:
        self.key = key or ApnsKey()
        self.authority = authority or Authority()
        self.bundle_id = bundle_id
        self.max_streams = max_streams
        self.withholds_window = withholds_window
        self.scripts: defaultdict[str, list[Action]] = defaultdict(list)
        self.accepted: list[ReceivedPush] = []
        self.requests = 0
        self.apns_ids: Counter[str] = Counter()
        self.provider_tokens: Counter[str] = Counter()
        self.revoked: set[str] = set()
        self.connections: set[_Connection] = set()
        self.connections_made = 0
        self.held: list[tuple[_Connection, int, dict[str, str]]] = []
        self._port = port
        self._server: asyncio.Server | None = None
        self._all_lost = asyncio.Event()
        self._all_lost.set()
        self._unacknowledged: list[tuple[_Connection, int, int]] = []

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    @property
    def ca_pem(self) -> str:
        return self.authority.ca_pem

    async def __aenter__(self) -> ApnsPeer:
        context = self.authority.server_context()
        context.set_alpn_protocols(["h2"])
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self._port, ssl=context)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self.connections):
            connection.hang_up()
        await self._server.wait_closed()
        await self._all_lost.wait()

    def release(self) -> None:
        """Accept what is held."""
        for connection, stream_id, headers in self.held:
            connection.reply(stream_id, Reply(), headers)
        self.held.clear()

    def give_window(self) -> None:
        """What was received so far is acknowledged, and from now on what is received."""
        self.withholds_window = False
        for connection, size, stream_id in self._unacknowledged:
            connection.acknowledge(size, stream_id)
        self._unacknowledged.clear()

    def note(self, connection: _Connection) -> None:
        self.connections.add(connection)
        self.connections_made += 1
        self._all_lost.clear()

    def forget(self, connection: _Connection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._all_lost.set()

    def received(self, connection: _Connection, size: int, stream_id: int) -> None:
        if self.withholds_window:
            self._unacknowledged.append((connection, size, stream_id))
        else:
            connection.acknowledge(size, stream_id)

    def refuse_provider_tokens(self) -> None:
        """From now on, those seen so far are refused."""
        self.revoked.update(self.provider_tokens)

    def judge(self, token: str | None, headers: dict[str, str], body: bytes) -> Reply:
        """As Apple: credentials first, then the request."""
        if (refusal := self._refuse_provider(headers.get("authorization", ""))) is not None:
            return refusal
        reason = _refuse_request(token, headers, body, self.bundle_id)
        if reason is not None:
            return Reply(413 if reason == "PayloadTooLarge" else 404 if reason == "BadPath" else 400, reason)
        return Reply()

    def _refuse_provider(self, authorization: str) -> Reply | None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return Reply(403, "MissingProviderToken")
        known = token in self.provider_tokens
        self.provider_tokens[token] += 1
        if token in self.revoked:
            return Reply(403, "ExpiredProviderToken")
        if known:
            return None
        try:
            head = jwt.get_unverified_header(token)
            claims = jwt.decode(
                token,
                self.key.public_key,
                algorithms=["ES256"],
                options={"require": ["iss", "iat"], "verify_iat": False},
            )
        except jwt.PyJWTError:
            return Reply(403, "InvalidProviderToken")
        if head.get("kid") != self.key.key_id or claims["iss"] != self.key.team_id:
            return Reply(403, "InvalidProviderToken")
        if abs(time.time() - claims["iat"]) > TOKEN_SECONDS:
            return Reply(403, "ExpiredProviderToken")
        return None


def _refuse_request(token: str | None, headers: dict[str, str], body: bytes, bundle_id: str) -> str | None:
    push_type = headers.get("apns-push-type", "")
    topic = bundle_id + (".push-type.liveactivity" if push_type == "liveactivity" else "")
    if headers.get(":method") != "POST":
        return "MethodNotAllowed"
    if token is None:
        return "BadPath"
    if push_type not in _PUSH_TYPES:
        return "InvalidPushType"
    if headers.get("apns-topic") != topic:
        return "TopicDisallowed"
    if not _is_uuid(headers.get("apns-id")):
        return "BadMessageId"
    if headers.get("apns-priority", "10") not in {"1", "5"} | ({"10"} if push_type != "background" else set()):
        return "BadPriority"
    if not headers.get("apns-expiration", "0").isdigit():
        return "BadExpirationDate"
    if len(headers.get("apns-collapse-id", "").encode()) > 64:
        return "BadCollapseId"
    if not body:
        return "PayloadEmpty"
    if len(body) > MAX_PAYLOAD_BYTES:
        return "PayloadTooLarge"
    return None


def _is_uuid(text: str | None) -> bool:
    try:
        return text is not None and str(UUID(text)) == text.lower()
    except ValueError:
        return False


class _Connection(asyncio.Protocol):
    def __init__(self, peer: ApnsPeer) -> None:
        self._peer = peer
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._requests: dict[int, tuple[dict[str, str], bytearray]] = {}
        self._transport: asyncio.Transport | None = None
        self._last_stream: int | None = None
        """Said in a GOAWAY: streams behind it are ignored."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._peer.note(self)
        if transport.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            transport.abort()
            return
        self._h2.local_settings = Settings(
            client=False, initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: self._peer.max_streams}
        )
        self._h2.initiate_connection()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._peer.forget(self)

    def data_received(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
        except ProtocolError:
            self.hang_up()
            return
        for event in events:
            self._handle(event)
        self._flush()

    def acknowledge(self, size: int, stream_id: int) -> None:
        self._h2.acknowledge_received_data(size, stream_id)
        self._flush()

    def _flood(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            for number in range(500):
                self._h2.ping(number.to_bytes(8, "big"))
            self._flush()
            asyncio.get_running_loop().call_soon(self._flood)

    def hang_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _handle(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._requests[event.stream_id] = (dict(event.headers), bytearray())
        elif isinstance(event, DataReceived):
            self._peer.received(self, event.flow_controlled_length, event.stream_id)
            if event.stream_id in self._requests:
                self._requests[event.stream_id][1].extend(event.data)
        elif isinstance(event, StreamEnded) and event.stream_id in self._requests:
            self._answer(event.stream_id, *self._requests.pop(event.stream_id))
        elif isinstance(event, StreamReset):
            self._requests.pop(event.stream_id, None)

    def _answer(self, stream_id: int, headers: dict[str, str], body: bytearray) -> None:
        if self._last_stream is not None and stream_id > self._last_stream:
            return
        peer = self._peer
        peer.requests += 1
        peer.apns_ids[headers.get("apns-id", "")] += 1
        match = _PATH.fullmatch(headers.get(":path", ""))
        token = match[1] if match else None
        script = peer.scripts.get(token or "")
        action: Action = script.pop(0) if script else peer.judge(token, headers, bytes(body))
        if (isinstance(action, Reply) and action.status == 200) or isinstance(action, Hold):
            peer.accepted.append(ReceivedPush(token or "", headers, json.loads(body), bytes(body)))
        self._act(action, stream_id, headers)

    def _act(self, action: Action, stream_id: int, headers: dict[str, str]) -> None:
        match action:
            case Reply():
                self.reply(stream_id, action, headers)
            case Reset():
                self._h2.reset_stream(stream_id, action.code)
            case Hold():
                self._peer.held.append((self, stream_id, headers))
            case HangUp():
                self.hang_up()
            case Flood():
                self._flood()
            case GoAway():
                self._go_away(stream_id if action.includes_this else max(stream_id - 2, 0))
                if action.includes_this and action.answers:
                    self.reply(stream_id, Reply(), headers)

    def reply(self, stream_id: int, reply: Reply, request: dict[str, str]) -> None:
        """Nothing, if the client has reset the stream."""
        if reply.max_streams is not None:
            self._h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: reply.max_streams})
        headers = [(":status", str(reply.status)), *reply.headers]
        if reply.with_apns_id:
            headers.append(("apns-id", request.get("apns-id", "").upper()))
        body = reply.body
        if body is None and reply.reason is not None:
            said = {"reason": reply.reason} | ({"timestamp": reply.timestamp} if reply.timestamp else {})
            body = json.dumps(said).encode()
        try:
            self._h2.send_headers(stream_id, headers, end_stream=not body)
            if body:
                self._h2.send_data(stream_id, body, end_stream=True)
        except ProtocolError:
            return
        self._flush()

    def _go_away(self, last_stream_id: int) -> None:
        """h2 ends a connection that says GOAWAY: the streams before it are still answered, so it is kept open."""
        self._last_stream = last_stream_id
        state = self._h2.state_machine.state
        self._h2.close_connection(ErrorCodes.NO_ERROR, b'{"reason":"Shutdown"}', last_stream_id)
        self._h2.state_machine.state = state

    def _flush(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._h2.data_to_send())
