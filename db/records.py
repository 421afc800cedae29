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
    """A person. `last_seen_at` is the timestamp of the newest event in the log that carries the user id."""

    project_id: UUID
    profile_id: UUID
    user_id: str
    anonymous: bool
    traits: msgspec.Raw
    created_at: datetime
    last_seen_at: datetime
