"""The doorbell's message: what the log tells the hubs through Redis after a commit. It carries no truth of its own."""

from __future__ import annotations

from uuid import UUID

import msgspec

from db.records import EventRecord, Lane

MAX_ANNOUNCEMENT_BYTES = 256 * 1024
"""Over this only the range is announced and hubs read the log: Redis copies every message to every gateway."""


class Announcement(msgspec.Struct, frozen=True, array_like=True):
    """Items `first` to `last` of a lane are committed. `events` holds them all, or is empty when they are too large.

    `first` is `last + 1` when only the head is told (the relay's repair).
    """

    project_id: UUID
    lane: Lane
    epoch: int
    first: int
    last: int
    events: tuple[EventRecord, ...] = ()


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Announcement)


def channel_of(project_id: UUID) -> str:
    """The Redis channel that carries every lane of a project."""
    return f"sendora:project:{project_id}"


def encode(announcement: Announcement) -> bytes:
    """JSON, without the items where they would pass `MAX_ANNOUNCEMENT_BYTES`."""
    if sum(len(event.properties) + len(event.context) for event in announcement.events) <= MAX_ANNOUNCEMENT_BYTES:
        message = _encoder.encode(announcement)
        if len(message) <= MAX_ANNOUNCEMENT_BYTES:
            return message
    return _encoder.encode(msgspec.structs.replace(announcement, events=()))


def decode(message: bytes) -> Announcement:
    """Raises `msgspec.DecodeError` for anything else than an announcement."""
    return _decoder.decode(message)
