"""Frozen values of the audiences lane of the log."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from db.records import HeadRecord


class NewAudienceChange(msgspec.Struct, frozen=True):
    """An item for the audiences lane: somebody came to belong to an audience, or ceased to."""

    audience_id: UUID
    user_id: str
    entered: bool


class AudienceChangeRecord(msgspec.Struct, frozen=True, array_like=True):
    """An item of the audiences lane; travels in announcements."""

    project_id: UUID
    seq: int
    audience_id: UUID
    user_id: str
    entered: bool
    at: datetime


class AudienceChangePage(msgspec.Struct, frozen=True):
    """Matching changes past a position, oldest first, read in one snapshot together with the head row.

    Every matching change up to and including `reached` is in `changes` or was in an earlier page.
    """

    changes: tuple[AudienceChangeRecord, ...]
    reached: int
    head: HeadRecord


class AudienceFilter(msgspec.Struct, frozen=True):
    """Which changes: of one audience, or of all."""

    audience_id: UUID | None = None


EVERY_AUDIENCE = AudienceFilter()
