"""Frozen rows. Arrays, not objects, when encoded: they also travel in announcements."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from uuid import UUID

import msgspec

SYSTEM_PROJECT = UUID(int=0)
"""The project whose events lane is the log of revocations, which every gateway follows."""


class Lane(IntEnum):
    """The dense sequences of a project. Heads are always locked in this order, after every other row."""

    EVENTS = 1
    DELIVERIES = 2
    RUNS = 3
    AUDIENCES = 4


class EventRecord(msgspec.Struct, frozen=True, array_like=True):
    """One stored event. `properties` and `context` are the JSON text itself."""

    project_id: UUID
    seq: int
    key: str
    module: str
    event_type: str
    timestamp: datetime
    received_at: datetime
    user_id: str | None
    anonymous_id: str | None
    properties: msgspec.Raw
    context: msgspec.Raw


class NewEvent(msgspec.Struct, frozen=True):
    """One event to append. `properties`, `context` and `traits` are JSON objects as text; `traits` need a `user_id`."""

    key: str
    module: str
    event_type: str
    timestamp: datetime | None
    user_id: str | None
    anonymous_id: str | None
    properties: str
    context: str
    traits: str | None = None


class AppendResult(msgspec.Struct, frozen=True):
    """Where a batch went: per event its seq, and whether this append, or an earlier try with its token, stored it.

    Fresh seqs rise in the order of the batch, and follow one another unless an earlier try stored a part. `dropped` are
    keys that consent does not allow, `erased` keys whose events were erased: none of them is stored, their seq is 0.
    """

    epoch: int
    received_at: datetime
    seqs: tuple[int, ...]
    fresh: tuple[bool, ...]
    dropped: frozenset[str] = frozenset()
    erased: frozenset[str] = frozenset()


class HeadRecord(msgspec.Struct, frozen=True, array_like=True):
    """Where one lane of one project stands: items `first_seq` to `head` are there; `epoch` changes after a restore."""

    project_id: UUID
    lane: Lane
    head: int
    first_seq: int
    epoch: int


class EventPage(msgspec.Struct, frozen=True):
    """Matching events past a position, oldest first, read in one snapshot together with the head row.

    Every matching event up to and including `reached` is in `events` or was in an earlier page.
    """

    events: tuple[EventRecord, ...]
    reached: int
    head: HeadRecord


class EventList(msgspec.Struct, frozen=True):
    """A page of a list, in the list's order. `has_more`: the range asked for holds more than the page."""

    events: tuple[EventRecord, ...]
    has_more: bool


class CappedCount(msgspec.Struct, frozen=True):
    """How many there are, or the cap when there are more."""

    total: int
    is_capped: bool


class EventTypeRecord(msgspec.Struct, frozen=True):
    """A type of event that a project has seen. `last_seen_at` is the timestamp of the newest (by seq)."""

    project_id: UUID
    event_type: str
    module: str
    count: int
    last_seen_at: datetime


class ProjectRecord(msgspec.Struct, frozen=True):
    """A project with its organization. `salt` is for hashing addresses and never leaves the process."""

    project_id: UUID
    organization_id: UUID
    organization_name: str
    region: str
    name: str
    created_at: datetime
    salt: bytes


class ApiKeyRecord(msgspec.Struct, frozen=True):
    """An API key without its secret: `prefix` is what may be shown, `token_hash` SHA-256 of the whole token."""

    api_key_id: UUID
    project_id: UUID
    name: str
    kind: str
    environment: str
    role: str
    prefix: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


class ProfileRecord(msgspec.Struct, frozen=True):
    """A person. `last_seen_at` is the timestamp of the newest event (by seq) that carries the user id; None once
    retention has taken them all.
    """

    project_id: UUID
    profile_id: UUID
    user_id: str
    anonymous: bool
    traits: msgspec.Raw
    created_at: datetime
    last_seen_at: datetime | None


class ProfileList(msgspec.Struct, frozen=True):
    """A page of profiles, newest first. `has_more`: the range asked for holds more than the page."""

    profiles: tuple[ProfileRecord, ...]
    has_more: bool


class EventTypeList(msgspec.Struct, frozen=True):
    """A page of event types, by name and module. `has_more`: there are more after it."""

    event_types: tuple[EventTypeRecord, ...]
    has_more: bool
