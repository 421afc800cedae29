"""Signed positions. A client can only hand back what it was given, in the project that gave it.

A cursor holds kind, project, epoch and one or more numbers (the seq of each lane, or a list's sort key), and a keyed
BLAKE2b tag over all of it. It reveals nothing else and expires only with the log.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from enum import IntEnum
from struct import Struct
from struct import error as StructError  # noqa: N812
from uuid import UUID

import msgspec

from engine.errors import CursorInvalid

TAG_BYTES = 12
"""96 bits: forging one takes about 2^96 tries, and the server sees each of them."""

_HEADER = Struct(">B16sI")


class CursorKind(IntEnum):
    """What a position is a position of."""

    HEAD = 0
    EVENTS = 1
    DELIVERIES = 2
    RUNS = 3
    AUDIENCES = 4
    PROFILES = 5
    EVENT_TYPES = 6
    DELIVERY_LIST = 7
    WEBHOOK_ENDPOINTS = 8
    PUSH_TOKENS = 9
    TEMPLATES = 10
    WORKFLOWS = 11
    RUN_LIST = 12
    AUDIENCE_LIST = 13
    AUDIENCE_MEMBERS = 14
    INSIGHT_LIST = 15
    AUDIT_LOG = 16
    CONSENT_LOG = 17
    TRUSTED_DOCUMENTS = 17
    EXPORT = 18


class Cursor(msgspec.Struct, frozen=True):
    """A position. `key` is what its list is sorted by; for a lane its seq, for HEAD the seq of all four lanes."""

    kind: CursorKind
    project_id: UUID
    epoch: int
    key: tuple[int | str, ...]


class CursorCodec:
    """Writes and reads cursors under one secret, which all gateways of a deployment share."""

    def __init__(self, secret: bytes) -> None:
        self._key = hashlib.blake2b(secret, digest_size=32, person=b"sendora-cursor").digest()

    def encode(self, cursor: Cursor) -> str:
        """URL-safe text without padding."""
        body = _HEADER.pack(cursor.kind, cursor.project_id.bytes, cursor.epoch) + msgspec.msgpack.encode(cursor.key)
        return urlsafe_b64encode(self._tag(body) + body).rstrip(b"=").decode()

    def decode(self, text: str, *, project_id: UUID, kinds: frozenset[CursorKind]) -> Cursor:
        """Raises `CursorInvalid` for a forged cursor, one of another project, and one of another kind of list."""
        try:
            raw = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
            tag, body = raw[:TAG_BYTES], raw[TAG_BYTES:]
            if not hmac.compare_digest(tag, self._tag(body)):
                raise ValueError
            kind, project, epoch = _HEADER.unpack_from(body)
            key = msgspec.msgpack.decode(body[_HEADER.size :], type=tuple[int | str, ...])
            cursor = Cursor(CursorKind(kind), UUID(bytes=project), epoch, key)
        except (ValueError, StructError, msgspec.DecodeError):
            raise CursorInvalid(
                "This cursor was not issued here: hand back a cursor exactly as you received it."
            ) from None
        if cursor.project_id != project_id:
            raise CursorInvalid("This cursor belongs to another project.")
        if cursor.kind not in kinds:
            raise CursorInvalid("This cursor belongs to another list or stream.")
        return cursor

    def _tag(self, body: bytes) -> bytes:
        return hashlib.blake2b(body, digest_size=TAG_BYTES, key=self._key).digest()
