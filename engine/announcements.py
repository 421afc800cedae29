"""The doorbell's message: what the log tells the hubs through Redis after a commit. It carries no truth of its own."""

from __future__ import annotations

from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec

from db.delivery_records import TransitionRecord
from db.records import Lane
from engine.dispatch.filters import RUN_REPORTS, compile_delivery_filter
from engine.lanes import LANE_KINDS, LaneRecord
from engine.work import WorkKind

MAX_ANNOUNCEMENT_BYTES = 256 * 1024
"""Over this only the range is announced and hubs read the log: Redis copies every message to every gateway."""

T = TypeVar("T")
_is_run_report = compile_delivery_filter(RUN_REPORTS)


class Announcement(msgspec.Struct, frozen=True, array_like=True):
    """Items `first` to `last` of a lane are committed. `items` holds them all, or is empty when they are too large.

    `first` is `last + 1` when only the head is told (the relay's repair).
    """

    project_id: UUID
    lane: Lane
    epoch: int
    first: int
    last: int
    items: tuple[LaneRecord, ...] = ()


class _Sent(msgspec.Struct, Generic[T], frozen=True, array_like=True):
    """An announcement as it travels: what its items are is known by its lane."""

    project_id: UUID
    lane: Lane
    epoch: int
    first: int
    last: int
    items: tuple[T, ...] = ()


_LANE_AT = len('["00000000-0000-0000-0000-000000000000",')
"""Where the lane's digit stands in every message: a UUID is always written alike."""
_LANES = {str(lane.value).encode(): lane for lane in Lane}

_encoder = msgspec.json.Encoder()
_decoders: dict[Lane, msgspec.json.Decoder[Any]] = {
    # A lane that nobody can follow is announced by its head alone.
    lane: msgspec.json.Decoder(_Sent[LANE_KINDS[lane].item] if lane in LANE_KINDS else _Sent[Any])  # type: ignore[misc]
    for lane in Lane
}


def channel_of(project_id: UUID) -> str:
    """The Redis channel that carries every lane of a project."""
    return f"sendora:project:{project_id}"


def encode(announcement: Announcement) -> bytes:
    """JSON, without the items where they would pass `MAX_ANNOUNCEMENT_BYTES`."""
    kind = LANE_KINDS.get(announcement.lane)
    if kind is not None and sum(map(kind.json_bytes, announcement.items)) <= MAX_ANNOUNCEMENT_BYTES:
        message = _encoder.encode(announcement)
        if len(message) <= MAX_ANNOUNCEMENT_BYTES:
            return message
    return _encoder.encode(msgspec.structs.replace(announcement, items=()))


def lane_of(message: bytes) -> Lane | None:
    """The lane of a message, without decoding it. None for anything else than an announcement."""
    return _LANES.get(message[_LANE_AT : _LANE_AT + 1])


def decode(message: bytes) -> Announcement:
    """Raises `msgspec.DecodeError` for anything else than an announcement."""
    lane = lane_of(message)
    if lane is None:
        raise msgspec.DecodeError("no announcement")
    return Announcement(*msgspec.structs.astuple(_decoders[lane].decode(message)))


def bell_of(announcement: Announcement) -> WorkKind | None:
    """What workers have to do because of an announcement; None where nobody follows such items."""
    if announcement.lane is Lane.EVENTS:
        return WorkKind.EVENTS
    if any(isinstance(each, TransitionRecord) and _is_run_report(each) for each in announcement.items):
        return WorkKind.RUN_REPORTS
    return None
