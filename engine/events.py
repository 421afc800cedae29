"""From what a client sent to what the log may store: the checks of one event, and what is done to it first.

Guarantees, for everything it lets through: PostgreSQL can hold it, it takes at most `MAX_EVENT_BYTES`, its JSON is
nested at most `MAX_DEPTH` deep, no client address is in `context.ip`, and `SERVERS_OWN` is not in its context. What it
refuses comes with a `UserError` whose path leads to the offending part; a neighbour in the same batch is not touched.
Leaves to others: whether the caller may write at all, and whether the bytes are JSON (their decoder saw to that; the
log refuses the rest singly).

A thousand of these run per request. So the bytes of a whole batch are first searched for what could be wrong at all,
and only where something is found each event is taken apart.
"""

from __future__ import annotations

import hmac
import re
import socket
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from uuid_utils import uuid7

from db.records import NewEvent
from engine.errors import UserError
from engine.json_limits import MAX_DEPTH, find_problem, is_suspect

MAX_EVENT_BYTES = 64 * 1024
"""Of one event, as UTF-8 JSON: a thousand of them still fit into memory many times over."""
MAX_KEY_CHARACTERS = 128
MAX_ID_CHARACTERS = 256
"""Of user and anonymous ids. As UTF-8 they must fit into a row of an index, about 2,700 bytes together."""
MAX_TYPE_BYTES = 200
"""As UTF-8, which is how an index holds it. Names of other systems (`Page Viewed`) are accepted as they are."""
MAX_MODULE_CHARACTERS = 64
FIRST_YEAR = 1970
LAST_YEAR = 2099
"""Beyond these a timestamp is a mistake of the client's (seconds taken for milliseconds, an empty date)."""
IP_HASH_CHARACTERS = 16
"""64 bits tell the networks of one project apart; more would only help who has stolen the salt."""
IPV4_NETWORK_BYTES = 3
IPV6_NETWORK_BYTES = 6
"""/24 and /48: what is commonly held not to single out a household."""

IDENTIFIED = "user.identified"
IDENTITY_MODULE = "identity"

SERVERS_OWN = ("cause", "depth")
"""Of a context: what an event follows from, and how far. Only events that the server makes say so (`delivery_event` of
`engine.dispatch.status`); what a client says is left out, or it could decide what its events start."""

_IN_TYPE = r"[^*\x00-\x1f\x7f\ud800-\udfff]"
_EVENT_TYPE = re.compile(rf"(?!\s){_IN_TYPE}+(?<!\s)")
_MODULE = re.compile(r"[A-Za-z0-9_-]+")
_IPV4_IN_IPV6 = bytes(10) + b"\xff\xff"
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode


class EventDraft(msgspec.Struct, frozen=True):
    """One event as a client sent it. `properties`, `context` and `traits` are JSON objects, as their UTF-8 bytes."""

    event_type: str
    module: str = "analytics"
    key: str | None = None
    timestamp: datetime | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    properties: bytes = b"{}"
    context: bytes = b"{}"
    traits: bytes | None = None


class _EventError(Exception):
    """Ends the checks of one event."""

    def __init__(self, message: str, *path: str) -> None:
        super().__init__(message)
        self.error = UserError(message, "INVALID", path)


def normalise(drafts: Sequence[EventDraft], *, salt: bytes) -> list[NewEvent | UserError]:
    """What the log may store, in the order of the drafts, or why not. Paths are relative to the event.

    Events without a key get one (a UUIDv7). `traits` become part of `context.traits`. `salt` is the project's.
    """
    suspect = is_suspect(b"".join(_texts(drafts)))
    return [_normalise(draft, salt, suspect=suspect) for draft in drafts]


def hash_ip(address: str, *, salt: bytes) -> str | None:
    """A keyed hash of the network that an IP address is in, as hexadecimal digits; None for anything else.

    It tells whether two events came from one network of a project, and nothing without the project's salt.
    """
    network = _network(address)
    if network is None:
        return None
    return hmac.digest(salt, network, "sha256").hex()[:IP_HASH_CHARACTERS]


def _texts(drafts: Sequence[EventDraft]) -> list[bytes]:
    texts = [draft.properties for draft in drafts]
    texts += [draft.context for draft in drafts]
    texts += [draft.traits for draft in drafts if draft.traits is not None]
    return texts


def _normalise(draft: EventDraft, salt: bytes, *, suspect: bool) -> NewEvent | UserError:
    try:
        _check_names(draft)
        _check_size(draft)
        for text, name in ((draft.properties, "properties"), (draft.context, "context"), (draft.traits, "traits")):
            if text is not None and text != b"{}":
                _check_json(text, name, suspect=suspect)
        context, traits = _context_and_traits(draft, salt)
        return NewEvent(
            key=draft.key if draft.key is not None else str(uuid7()),
            module=draft.module,
            event_type=draft.event_type,
            timestamp=_timestamp(draft.timestamp),
            user_id=draft.user_id,
            anonymous_id=draft.anonymous_id,
            properties=draft.properties.decode(),
            context=context.decode(),
            traits=traits if draft.user_id is not None else None,
        )
    except _EventError as refused:
        return refused.error
    except (UnicodeDecodeError, msgspec.DecodeError):
        return UserError("The event's JSON is malformed.", "INVALID", ())


def _check_names(draft: EventDraft) -> None:
    if not _EVENT_TYPE.fullmatch(draft.event_type) or _bytes_of(draft.event_type) > MAX_TYPE_BYTES:
        raise _EventError(
            f"An event type is a name such as order.placed: 1 to {MAX_TYPE_BYTES} bytes, without control characters,"
            " without * (which stands for any name in filters), and without blanks around it.",
            "eventType",
        )
    if len(draft.module) > MAX_MODULE_CHARACTERS or not _MODULE.fullmatch(draft.module):
        raise _EventError(f"A module is 1 to {MAX_MODULE_CHARACTERS} letters, digits, _ and -.", "module")
    _check_id(draft.key, MAX_KEY_CHARACTERS, "id")
    _check_id(draft.user_id, MAX_ID_CHARACTERS, "userId")
    _check_id(draft.anonymous_id, MAX_ID_CHARACTERS, "anonymousId")


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _check_id(value: str | None, most: int, name: str) -> None:
    if value is None:
        return
    if not 1 <= len(value) <= most:
        raise _EventError(f"{name} must have 1 to {most} characters.", name)
    if "\0" in value:
        raise _EventError(f"{name} contains a NUL character.", name)
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise _EventError(f"{name} contains half of a surrogate pair.", name)


def _check_size(draft: EventDraft) -> None:
    names = (draft.key, draft.event_type, draft.module, draft.user_id, draft.anonymous_id)
    size = len(draft.properties) + len(draft.context) + len(draft.traits or b"")
    size += sum(len(name) if name.isascii() else len(name.encode()) for name in names if name is not None)
    if size > MAX_EVENT_BYTES:
        raise _EventError(f"The event takes {size:,} bytes; the limit is {MAX_EVENT_BYTES:,}.")


def _check_json(text: bytes, name: str, *, suspect: bool) -> None:
    if text[:1] != b"{" and text.lstrip()[:1] != b"{":
        raise _EventError(f"{name} must be a JSON object.", name)
    if suspect or text.count(b"{") + text.count(b"[") > MAX_DEPTH:
        problem = find_problem(text, most_bytes=MAX_EVENT_BYTES)
        if problem is not None:
            raise _EventError(problem.message, name, *problem.path)


def _timestamp(value: datetime | None) -> datetime | None:
    if value is None:
        return None
    if not FIRST_YEAR <= value.year <= LAST_YEAR:
        raise _EventError(f"timestamp must lie in the years {FIRST_YEAR} to {LAST_YEAR}.", "timestamp")
    if value.tzinfo is UTC:
        return value
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _context_and_traits(draft: EventDraft, salt: bytes) -> tuple[bytes, str | None]:
    """The context to store, and the traits to merge into the profile."""
    text = draft.context
    if draft.traits is None and _has_nothing_special(text):
        return text, None
    members = _members.decode(text)
    changed = _hide_address(members, salt)
    changed |= _drop_servers_own(members)
    traits = _merged_traits(members.get("traits"), draft.traits)
    if draft.traits is not None and traits is not None:
        members["traits"] = msgspec.Raw(_encode(traits))
        changed = True
    return _encode(members) if changed else text, _encode(traits).decode() if traits else None


def _has_nothing_special(context: bytes) -> bool:
    """Whether it names nothing that is handled, escapes included. Written out: it runs for each event of a batch."""
    return not (
        b'"ip"' in context
        or b'"traits"' in context
        or b'"cause"' in context
        or b'"depth"' in context
        or b"\\u" in context
    )


def _hide_address(members: dict[str, msgspec.Raw], salt: bytes) -> bool:
    raw = members.get("ip")
    if raw is None:
        return False
    value = msgspec.json.decode(raw)
    members["ip"] = msgspec.Raw(_encode(hash_ip(value, salt=salt) if isinstance(value, str) else None))
    return True


def _drop_servers_own(members: dict[str, msgspec.Raw]) -> bool:
    found = members.keys() & set(SERVERS_OWN)
    for name in found:
        del members[name]
    return bool(found)


def _merged_traits(of_context: msgspec.Raw | None, given: bytes | None) -> dict[str, msgspec.Raw] | None:
    """`given` over those of the context; None where there are neither."""
    merged = _members_of(of_context, "context", "traits")
    if given is not None:
        merged = {**(merged or {}), **(_members_of(given, "traits") or {})}
    return merged


def _members_of(text: bytes | msgspec.Raw | None, *path: str) -> dict[str, msgspec.Raw] | None:
    if text is None or bytes(text).strip() == b"null":
        return None
    try:
        return _members.decode(text)
    except msgspec.ValidationError:
        raise _EventError("traits must be a JSON object.", *path) from None


def _network(address: str) -> bytes | None:
    """The address's network, its family in front; None when the text is no address."""
    try:
        packed = socket.inet_pton(socket.AF_INET, address)
    except (OSError, ValueError):
        try:
            packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
        except (OSError, ValueError):
            return None
    if packed.startswith(_IPV4_IN_IPV6):
        packed = packed[len(_IPV4_IN_IPV6) :]
    return b"4" + packed[:IPV4_NETWORK_BYTES] if len(packed) == 4 else b"6" + packed[:IPV6_NETWORK_BYTES]
