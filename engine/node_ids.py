"""Node ids: a prefix that says what it is, then what finds it. Opaque to clients, unique across projects.

An event's id holds its project and seq, so that the log needs neither a column nor an index for it.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from enum import StrEnum
from struct import Struct
from uuid import UUID

import msgspec

_EVENT = Struct(">16sQ")
_EVENT_TEXT = re.compile(r"[A-Za-z0-9_-]{32}")
_UUID_TEXT = re.compile(r"[0-9a-f]{32}")
MAX_SEQ = 2**63 - 1


class NodeKind(StrEnum):
    """What a node id is of; the value is its prefix."""

    EVENT = "evt"
    PROFILE = "prf"
    PROJECT = "prj"
    ORGANIZATION = "org"
    API_KEY = "key"
    DELIVERY = "dlv"
    BATCH = "bat"
    PUSH_TOKEN = "ptk"  # noqa: S105
    PROVIDER = "prv"
    TEMPLATE = "tpl"
    SENDER_DOMAIN = "dom"
    WEBHOOK_ENDPOINT = "whe"
    WEBHOOK_SECRET = "whs"  # noqa: S105
    INBOUND_ENDPOINT = "inb"
    WORKFLOW = "wfl"
    WORKFLOW_RUN = "run"
    AUDIENCE = "aud"
    INSIGHT = "ins"
    BOARD = "brd"
    MEMBER = "mem"
    MEMBER_TOKEN = "mtk"  # noqa: S105
    AUDIT_ENTRY = "adt"
    CONSENT_CHANGE = "cch"


class NodeId(msgspec.Struct, frozen=True):
    """A parsed node id. For an event `uuid` is its project and `seq` its number in the log."""

    kind: NodeKind
    uuid: UUID
    seq: int = 0


def write_node_id(kind: NodeKind, uuid: UUID) -> str:
    """The id of anything but an event."""
    return f"{kind.value}_{uuid.hex}"


def write_event_id(project_id: UUID, seq: int) -> str:
    """The id of an event: 24 bytes, so base64 without padding."""
    return "evt_" + urlsafe_b64encode(_EVENT.pack(project_id.bytes, seq)).decode("ascii")


def parse_node_id(text: str) -> NodeId | None:
    """None for anything that was never given out as a node id, other spellings of one included."""
    prefix, _, body = text.partition("_")
    if prefix == NodeKind.EVENT:
        return _parse_event(body)
    if prefix not in NodeKind.__members__.values() or _UUID_TEXT.fullmatch(body) is None:
        return None
    return NodeId(NodeKind(prefix), UUID(hex=body))


def _parse_event(body: str) -> NodeId | None:
    if _EVENT_TEXT.fullmatch(body) is None:
        return None
    project, seq = _EVENT.unpack(urlsafe_b64decode(body))
    return NodeId(NodeKind.EVENT, UUID(bytes=project), seq) if 0 < seq <= MAX_SEQ else None
