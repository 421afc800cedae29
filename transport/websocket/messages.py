"""The messages of `graphql-transport-ws`, as its PROTOCOL.md has them: read and validated, or written as JSON text.

Reading is total: any text gives a message or `InvalidMessage` with a reason that fits into a close frame. It guarantees
nothing about the operation inside a subscribe message beyond the types of its members; that is the execution's part.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import orjson

SUBPROTOCOL = "graphql-transport-ws"

_SHOWN_CHARACTERS = 40
"""How much of a client's own value is repeated in a reason."""


class InvalidMessage(Exception):
    """The client broke the protocol: close with 4400 and this text as the reason."""


class ConnectionInit(msgspec.Struct, frozen=True):
    """Asks for the connection. `payload` is where browsers put their credentials."""

    payload: dict[str, Any] | None


class Ping(msgspec.Struct, frozen=True):
    """`payload` is JSON text of an object, to be sent back as it came."""

    payload: bytes | None


class Pong(msgspec.Struct, frozen=True):
    """Answers a ping, or comes unasked as a sign of life."""


class Subscribe(msgspec.Struct, frozen=True):
    """`payload` is the JSON text of `{"query": …}`, of the right types throughout."""

    id: str
    payload: bytes


class Complete(msgspec.Struct, frozen=True):
    """The client has lost interest in an operation."""

    id: str


Message = ConnectionInit | Ping | Pong | Subscribe | Complete


_NOTHING = msgspec.Raw(b"null")


class _Envelope(msgspec.Struct):
    type: msgspec.Raw = _NOTHING
    id: msgspec.Raw = _NOTHING
    payload: msgspec.Raw = _NOTHING


class _SubscribePayload(msgspec.Struct):
    query: str | None = None
    documentId: str | None = None  # noqa: N815, the wire's name
    operationName: str | None = None  # noqa: N815
    variables: msgspec.Raw = _NOTHING
    extensions: dict[str, msgspec.Raw] | None = None


_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_payload = msgspec.json.Decoder(_SubscribePayload).decode


def read_message(text: str) -> Message:
    """What a client sent. Raises `InvalidMessage` for everything that PROTOCOL.md does not allow it to send."""
    try:
        envelope = _decode_envelope(text)
    except msgspec.ValidationError:
        raise InvalidMessage("A message must be a JSON object") from None
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        message = _with_half_a_surrogate_pair(text)
        if message is None:
            raise InvalidMessage("A message must be well-formed JSON, and not nested too deep") from None
        return message
    kind = _value(envelope.type, "type")
    if not isinstance(kind, str):
        raise InvalidMessage("A message must have a 'type' that is a string")
    match kind:
        case "subscribe":
            identifier = _identifier(envelope.id, kind)
            return Subscribe(identifier, _subscribe_payload(envelope.payload))
        case "complete":
            return Complete(_identifier(envelope.id, kind))
        case "ping":
            return Ping(bytes(envelope.payload) if _object(envelope.payload, kind) is not None else None)
        case "pong":
            _object(envelope.payload, kind)
            return Pong()
        case "connection_init":
            return ConnectionInit(_object(envelope.payload, kind))
        case "connection_ack" | "next" | "error":
            raise InvalidMessage(f"A '{kind}' message is the server's to send")
        case _:
            raise InvalidMessage(f"Unknown message type '{kind[:_SHOWN_CHARACTERS]}'")


def next_prefix(identifier: str) -> bytes:
    """What goes before the response in a next message; `}` goes after it."""
    return b'{"id":' + orjson.dumps(identifier) + b',"type":"next","payload":'


def error_message(identifier: str, errors: bytes) -> bytes:
    """`errors` is a JSON array of formatted GraphQL errors."""
    return b'{"id":' + orjson.dumps(identifier) + b',"type":"error","payload":' + errors + b"}"


def complete_message(identifier: str) -> bytes:
    """The operation has ended by itself."""
    return b'{"id":' + orjson.dumps(identifier) + b',"type":"complete"}'


def ping_message(positions: dict[str, str]) -> bytes:
    """`positions` maps the id of each live stream to its cursor; with none the payload is left out."""
    return orjson.dumps({"type": "ping", "payload": positions} if positions else {"type": "ping"})


def pong_message(payload: bytes | None) -> bytes:
    """Sends back what the ping carried."""
    return b'{"type":"pong"}' if payload is None else b'{"type":"pong","payload":' + payload + b"}"


def _value(raw: msgspec.Raw, name: str) -> Any:
    try:
        return orjson.loads(bytes(raw))
    except orjson.JSONDecodeError:
        raise InvalidMessage(f"The '{name}' of a message must be well-formed JSON, its numbers finite") from None


def _identifier(raw: msgspec.Raw, kind: str) -> str:
    value = _value(raw, "id")
    if not isinstance(value, str) or not value:
        raise InvalidMessage(f"A '{kind}' message must have an 'id' that is a non-empty string")
    return value


def _object(raw: msgspec.Raw, kind: str) -> dict[str, Any] | None:
    value = _value(raw, "payload")
    if value is not None and not isinstance(value, dict):
        raise InvalidMessage(f"The 'payload' of a '{kind}' message must be an object, null or absent")
    return value


def _subscribe_payload(raw: msgspec.Raw) -> bytes:
    if not bytes(raw).startswith(b"{"):
        raise InvalidMessage("The 'payload' of a 'subscribe' message must be an object")
    try:
        payload = _decode_payload(raw)
    except msgspec.ValidationError as error:
        raise InvalidMessage(_wrong_member(str(error))) from None
    except (msgspec.DecodeError, RecursionError):
        raise InvalidMessage("The 'payload' of a 'subscribe' message must be well-formed JSON") from None
    if not bytes(payload.variables).startswith((b"{", b"null")):
        raise InvalidMessage("The 'variables' of a 'subscribe' message must be an object, null or absent")
    is_named = payload.documentId is not None or "persistedQuery" in (payload.extensions or {})
    if payload.query is None and not is_named:
        raise InvalidMessage("The 'query' of a 'subscribe' message must be a string")
    return bytes(raw)


def _with_half_a_surrogate_pair(text: str) -> Subscribe | None:
    """A subscribe message that is well-formed but for half of a surrogate pair somewhere in its payload.

    A client's program makes one when it cuts a text in the middle of an emoji. RFC 8259 §8.2 lets it be JSON, so it is
    the operation's fault, not the socket's: whoever reads the payload as a request refuses it.
    """
    if not _SURROGATE_ESCAPE.search(text):
        return None
    try:
        message = json.loads(text)
        identifier, payload = message["id"], message["payload"]
        if message["type"] == "subscribe" and isinstance(payload, dict) and identifier and identifier.encode():
            return Subscribe(identifier, json.dumps(payload).encode())
    except (ValueError, RecursionError, TypeError, LookupError, AttributeError):
        pass
    return None


def _wrong_member(detail: str) -> str:
    """msgspec says where: "Expected `str | null`, got `int` - at `$.query`"."""
    member = detail.rpartition("`$.")[2].rstrip("`")
    wanted = "an object, null or absent" if member == "extensions" else "a string, null or absent"
    return f"The '{member}' of a 'subscribe' message must be {'a string' if member == 'query' else wanted}"
