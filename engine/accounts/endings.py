"""Telling every gateway that sessions ended, in the transaction that ends them.

Guarantees: whoever follows the log of the system project learns of each ended session once. Its head is the last lock
of all: only COMMIT may follow. Leaves to others: acting on it (`engine.live.revocations`), and announcing what is
returned after the commit.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.events import append_events
from db.records import SYSTEM_PROJECT, Lane, NewEvent
from engine.announcements import Announcement

if TYPE_CHECKING:
    import asyncpg

MODULE = "session"
ENDED = "session.ended"


async def tell_ended(connection: asyncpg.Connection, session_ids: Sequence[UUID]) -> tuple[Announcement, ...]:
    """Append that sessions ended; nothing when there are none."""
    if not session_ids:
        return ()
    result = await append_events(
        connection,
        project_id=SYSTEM_PROJECT,
        batch_token=secrets.randbits(63),
        events=[_ended(session_id) for session_id in session_ids],
    )
    return (Announcement(SYSTEM_PROJECT, Lane.EVENTS, result.epoch, min(result.seqs), max(result.seqs)),)


def _ended(session_id: UUID) -> NewEvent:
    return NewEvent(
        key=f"{ENDED}:{session_id}",
        module=MODULE,
        event_type=ENDED,
        timestamp=None,
        user_id=None,
        anonymous_id=None,
        properties=msgspec.json.encode({"sessionId": str(session_id)}).decode(),
        context="{}",
    )
