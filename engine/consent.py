"""Consent: what a person's word allows, and what changing it means.

Guarantees: DENIED and REVOKED always block; nothing said follows the project's policy, which is to allow in region us
and to refuse in region eu. A change waits for sends that are being dispatched to this person, and those that are
dispatched after it see it. Leaves to others: appending the event that a change gives (`engine.dispatch.ledger.record`),
committing and announcing.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from uuid_utils import uuid7

from db.consents import read_consents, write_consent
from db.profiles import lock_profiles
from db.records import NewEvent

if TYPE_CHECKING:
    import asyncpg

MODULE = "consent"
_REGIONS_THAT_ALLOW_UNKNOWN = frozenset({"us"})


class ConsentPurpose(StrEnum):
    """What consent is given for."""

    EMAIL = "EMAIL"
    PUSH = "PUSH"
    SMS = "SMS"
    ANALYTICS = "ANALYTICS"
    WORKFLOWS = "WORKFLOWS"


class ConsentState(StrEnum):
    """What a person said."""

    GRANTED = "GRANTED"
    DENIED = "DENIED"
    REVOKED = "REVOKED"
    UNKNOWN = "UNKNOWN"


def allows_unknown(region: str) -> bool:
    """What a project does about people who have said nothing."""
    return region in _REGIONS_THAT_ALLOW_UNKNOWN


def allows(state: ConsentState, *, unknown_allowed: bool) -> bool:
    """Whether somebody who said this may be sent to."""
    return state is ConsentState.GRANTED or (state is ConsentState.UNKNOWN and unknown_allowed)


async def set_consent(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    user_id: str,
    purpose: ConsentPurpose,
    state: ConsentState,
    source: str,
    now: datetime,
) -> NewEvent | None:
    """Record what a person says, in the caller's transaction; returns the event to append. `now` is business time.

    None when the same was said before, or when it becomes UNKNOWN, which the taxonomy has no name for.
    """
    await lock_profiles(connection, project_id=project_id, user_ids=[user_id])
    said = await read_consents(connection, project_id=project_id, user_ids=[user_id], purposes=[purpose])
    before = ConsentState(said[0].state) if said else ConsentState.UNKNOWN
    if before is state:
        return None
    await write_consent(
        connection, project_id=project_id, user_id=user_id, purpose=purpose, state=state, source=source, now=now
    )
    return consent_event(user_id=user_id, purpose=purpose, before=before, after=state, source=source, now=now)


def consent_event(
    *,
    user_id: str,
    purpose: ConsentPurpose,
    before: ConsentState,
    after: ConsentState,
    source: str,
    now: datetime,
) -> NewEvent | None:
    """The canonical event of a change."""
    if after is ConsentState.UNKNOWN:
        return None
    properties = {"purpose": purpose, "from": before, "to": after, "source": source}
    return NewEvent(
        key=str(uuid7()),
        module=MODULE,
        event_type="consent.granted" if after is ConsentState.GRANTED else "consent.revoked",
        timestamp=now,
        user_id=user_id,
        anonymous_id=None,
        properties=msgspec.json.encode(properties).decode(),
        context="{}",
    )
