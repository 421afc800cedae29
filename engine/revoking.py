"""Telling every gateway that credentials are good no more, through the log of the system project.

Guarantees: the event and what it tells of are one transaction. The log's head is the very last lock of it. Leaves to
others: announcing after the commit, and acting on it (engine.live.revocations).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from uuid import UUID

import msgspec

from db.events import append_events
from db.records import SYSTEM_PROJECT, Lane, NewEvent
from engine.announcements import Announcement

if TYPE_CHECKING:
    import asyncpg


class Revocation(StrEnum):
    """What happened to the credentials; the value is the type of the event."""

    API_KEY_REVOKED = "api_key.revoked"
    SESSION_ENDED = "session.ended"
    MEMBER_REMOVED = "member.removed"
    MEMBER_TOKEN_REVOKED = "member_token.revoked"  # noqa: S105


PROPERTY: Final = {
    Revocation.API_KEY_REVOKED: "apiKeyId",
    Revocation.SESSION_ENDED: "sessionId",
    Revocation.MEMBER_REMOVED: "memberId",
    Revocation.MEMBER_TOKEN_REVOKED: "memberTokenId",
}
"""Which property of the event names the credential."""


async def append_revocations(
    connection: asyncpg.Connection, what: Revocation, credential_ids: Sequence[UUID]
) -> tuple[Announcement, ...]:
    """Append to the log, as the last thing that the caller's transaction locks. Announce what is returned after it.

    Announced as a range: hubs read the events themselves from the log.
    """
    if not credential_ids:
        return ()
    events = [_event(what, each) for each in credential_ids]
    result = await append_events(connection, project_id=SYSTEM_PROJECT, batch_token=secrets.randbits(63), events=events)
    return (Announcement(SYSTEM_PROJECT, Lane.EVENTS, result.epoch, min(result.seqs), max(result.seqs)),)


def _event(what: Revocation, credential_id: UUID) -> NewEvent:
    return NewEvent(
        key=f"{what}:{credential_id}",
        module=what.partition(".")[0],
        event_type=what.value,
        timestamp=None,
        user_id=None,
        anonymous_id=None,
        properties=msgspec.json.encode({PROPERTY[what]: str(credential_id)}).decode(),
        context="{}",
    )
