"""Keeping what a device registered.

Guarantees: nobody has more active devices than a send should go to; who registers one too many loses the one that has
not registered for longest, with its event, in the same transaction. Leaves to others: what may be registered
(`engine.push.registration`), committing, and announcing what is returned.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.push_tokens import (
    TOO_MANY_DEVICES,
    NewPushToken,
    PushTokenRecord,
    find_owner_of_device,
    give_up_excess_tokens,
    register_push_token,
)
from db.records import NewEvent
from db.takeovers import is_push_in_flight
from engine.announcements import Announcement
from engine.dispatch.ledger import record
from engine.node_ids import NodeKind, write_node_id
from engine.push.in_flight import PushInFlight

if TYPE_CHECKING:
    import asyncpg

INVALIDATED = "push.token_invalidated"


async def register_device(
    connection: asyncpg.Connection, *, project_id: UUID, new: NewPushToken, is_last_try: bool, now: datetime
) -> tuple[PushTokenRecord, tuple[Announcement, ...]]:
    """Make a token, or bring back the one that is there. Raises `PushInFlight` where something is being sent to a
    device of somebody else until now, unless it `is_last_try`."""
    before = await find_owner_of_device(connection, project_id=project_id, token=new.token)
    registered = await register_push_token(connection, project_id=project_id, new=new, now=now)
    if (
        before is not None
        and before != registered.user_id
        and not is_last_try
        and await is_push_in_flight(
            connection, project_id=project_id, user_id=before, push_token_ids=[registered.push_token_id]
        )
    ):
        raise PushInFlight
    if registered.user_id is None:
        return registered, ()
    events = await give_up_excess_devices(connection, project_id=project_id, user_id=registered.user_id, now=now)
    return registered, await record(connection, project_id=project_id, transitions=(), events=events, now=now)


async def give_up_excess_devices(
    connection: asyncpg.Connection, *, project_id: UUID, user_id: str, now: datetime
) -> list[NewEvent]:
    """Give up what a user has more than a send should go to; returns the events to append."""
    given_up = await give_up_excess_tokens(connection, project_id=project_id, user_id=user_id)
    return [_given_up(push_token_id, user_id, now) for push_token_id in sorted(given_up)]


def _given_up(push_token_id: UUID, user_id: str, now: datetime) -> NewEvent:
    """Once for each time it was given up."""
    properties = {"pushTokenId": write_node_id(NodeKind.PUSH_TOKEN, push_token_id), "reason": TOO_MANY_DEVICES}
    return NewEvent(
        key=f"{INVALIDATED}:{push_token_id.hex}:{now.timestamp()}",
        module="push",
        event_type=INVALIDATED,
        timestamp=None,
        user_id=user_id,
        anonymous_id=None,
        properties=msgspec.json.encode(properties).decode(),
        context="{}",
    )
