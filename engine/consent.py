"""Consent: what a person's word allows, and what changing it means.

Guarantees: DENIED and REVOKED always block; nothing said follows the project's policy, which is to allow in region us
and to refuse in region eu, unless it has chosen. A change waits for sends that are being dispatched to this person, and
those that are dispatched after it see it; it is in the log of consent and in the audit log with what changed.
Lock order: the person, their consents, the end of the project's chain. Leaves to others: appending the event that a
change gives (`engine.dispatch.ledger.record`), committing and announcing.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from uuid_utils import uuid7

from db.consent_changes import ConsentChangeRecord
from db.consents import read_consents, write_consent
from db.profiles import lock_profiles
from db.records import NewEvent
from engine.audit import record_change
from engine.consent_log import add_change

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


_EVENT_TYPES = {
    ConsentState.GRANTED: "consent.granted",
    ConsentState.DENIED: "consent.revoked",
    ConsentState.REVOKED: "consent.revoked",
    ConsentState.UNKNOWN: "consent.reset",
}
CONSENT_EVENTS = frozenset(_EVENT_TYPES.values())
"""What the log says when somebody's consent has changed."""


def allows_unknown(region: str) -> bool:
    """What a project does about people who have said nothing, unless it has chosen (`engine.project_settings`)."""
    return region in _REGIONS_THAT_ALLOW_UNKNOWN


def allows(state: ConsentState, *, unknown_allowed: bool) -> bool:
    """Whether somebody who said this may be sent to."""
    return state is ConsentState.GRANTED or (state is ConsentState.UNKNOWN and unknown_allowed)


class ConsentChanged(msgspec.Struct, frozen=True):
    """A change that was recorded, and the event to append for it."""

    change: ConsentChangeRecord
    event: NewEvent


async def set_consent(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    user_id: str,
    purpose: ConsentPurpose,
    state: ConsentState,
    source: str,
    actor: str,
    now: datetime,
) -> ConsentChanged | None:
    """Record what a person says, in the caller's transaction; None when the same was said before.

    `source` is where it was said, `actor` who recorded it (`Viewer.actor`, or `engine.audit.SYSTEM`). Noted in the log
    of consent and in the audit log. `now` is business time.
    """
    await lock_profiles(connection, project_id=project_id, user_ids=[user_id])
    said = await read_consents(connection, project_id=project_id, user_ids=[user_id], purposes=[purpose])
    before = ConsentState(said[0].state) if said else ConsentState.UNKNOWN
    if before is state:
        return None
    await write_consent(
        connection, project_id=project_id, user_id=user_id, purpose=purpose, state=state, source=source, now=now
    )
    change = await add_change(
        connection,
        project_id=project_id,
        user_id=user_id,
        purpose=purpose,
        from_state=before,
        to_state=state,
        source=source,
        actor=actor,
        now=now,
    )
    event = consent_event(user_id=user_id, purpose=purpose, before=before, after=state, source=source, now=now)
    await record_change(
        connection,
        project_id=project_id,
        actor=actor,
        action=event.event_type,
        subject=f"user:{user_id}",
        before={"purpose": purpose, "state": before},
        after={"purpose": purpose, "state": state, "source": source},
        now=now,
        user_id=user_id,
    )
    return ConsentChanged(change, event)


def consent_event(
    *,
    user_id: str,
    purpose: ConsentPurpose,
    before: ConsentState,
    after: ConsentState,
    source: str,
    now: datetime,
) -> NewEvent:
    """The canonical event of a change."""
    properties = {"purpose": purpose, "from": before, "to": after, "source": source}
    return NewEvent(
        key=str(uuid7()),
        module=MODULE,
        event_type=_EVENT_TYPES[after],
        timestamp=now,
        user_id=user_id,
        anonymous_id=None,
        properties=msgspec.json.encode(properties).decode(),
        context="{}",
    )
