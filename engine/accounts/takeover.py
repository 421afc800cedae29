"""Device takeover: somebody signs in on a device that was anonymous until then, and what it did is theirs.

Guarantees: all of it is the sign-in's transaction, or nothing is. The anonymous sessions end; the device's push tokens
are the person's, with the next owner generation, so that nothing is sent to them any more that was made for the
anonymous user; the anonymous user and their profile are deleted, and what they did stands for the person
(`identity_links`). Whoever asks again with the same token, one after the other or at once, is told the same.

What hangs on the anonymous user goes where it belongs: traits and consents fill in what the person has never said, and
never replace it; runs that go on are the person's; memberships of audiences end, with a change each; deliveries, runs
that are over and events stay as history, under the user id they happened to.

A push that a worker is sending to the device at that very moment is waited for (`engine.push.in_flight`): then it
counts as sent before. One that was only lined up is looked at again before it goes out (`engine.dispatch.dispatcher`).

Locks: the follower `audiences`, profiles, users, sessions, push tokens, runs, consents with their chain. Leaves to
others: the heads (`engine.accounts.sign_in`), and linking the history, for which the number of the event is needed.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.audience_members import delete_rechecks, hold_follower
from db.audience_records import NewAudienceChange
from db.consents import read_consents
from db.profiles import lock_profiles
from db.records import NewEvent
from db.sessions import FoundSession, end_sessions, find_session, lock_sessions
from db.takeovers import (
    is_push_in_flight,
    leave_audiences,
    move_push_tokens,
    move_runs,
    take_consents,
)
from db.users import UserRecord, delete_profile, delete_user, fill_in_traits, lock_users
from engine.accounts.sessions import TAKEN_OVER, UPGRADED, Ended, refuse_session
from engine.audiences.keeping import NAME as AUDIENCES_FOLLOWER
from engine.consent import ConsentPurpose, ConsentState, set_consent
from engine.errors import UserError
from engine.node_ids import NodeKind, write_node_id
from engine.push.in_flight import PushInFlight
from engine.push.registering import give_up_excess_devices

if TYPE_CHECKING:
    import asyncpg

TAKEOVER = "auth.device_takeover"
SOURCE = "device_takeover"
"""Of consents that the person had not given before."""


class Retired(msgspec.Struct, frozen=True):
    """The anonymous user who is the person by now. `profile_id` is None where there was no profile any more."""

    user_id: str
    profile_id: UUID | None
    device_id: str | None


class Takeover(msgspec.Struct, frozen=True):
    """What a takeover has to say: what is appended, and the sessions that ended. All empty when it was made before."""

    retired: Retired
    events: tuple[NewEvent, ...] = ()
    audience_changes: tuple[NewAudienceChange, ...] = ()
    ended: tuple[UUID, ...] = ()


class Held(msgspec.Struct, frozen=True):
    """The locks of a sign-in: the person, and the session of the anonymous token as it is under them."""

    person: UserRecord | None
    found: FoundSession | None


async def hold(connection: asyncpg.Connection, *, project_id: UUID, person: str, token_hash: bytes | None) -> Held:
    """Lock the person, and with an anonymous token what it may be taken over from. The first locks of the sign-in."""
    found = None
    if token_hash is not None:
        found = await find_session(connection, project_id=project_id, token_hash=token_hash)
    if token_hash is None or found is None or found.ended_at is not None:
        users = await lock_users(connection, project_id=project_id, user_ids=[person])
        return Held(users.get(person), found)
    people = sorted({found.user_id, person})
    await hold_follower(connection, project_id=project_id, follower=AUDIENCES_FOLLOWER)
    await lock_profiles(connection, project_id=project_id, user_ids=people)
    users = await lock_users(connection, project_id=project_id, user_ids=people)
    await lock_sessions(connection, project_id=project_id, user_id=found.user_id)
    return Held(users.get(person), await find_session(connection, project_id=project_id, token_hash=token_hash))


async def check_anonymous(
    connection: asyncpg.Connection,
    found: FoundSession | None,
    *,
    project_id: UUID,
    person: str,
    path: tuple[str, ...],
    now: datetime,
) -> Takeover | FoundSession | Ended | None:
    """What an anonymous token means for this person: a takeover that was made before, a session to take over, why
    nothing is done, or None where the anonymous user was this person all along. Of a token, see `refuse_session`."""
    if found is not None and found.ended_reason == TAKEN_OVER and found.taken_over_by == person:
        return Takeover(Retired(found.user_id, found.retired_profile_id, found.device_id))
    if found is not None and found.ended_reason == UPGRADED and found.user_id == person:
        return None
    refused = await refuse_session(connection, found, project_id=project_id, path=path, now=now)
    if found is None or refused is not None:
        return refused
    if not found.anonymous:
        error = UserError(
            "This is the refresh token of a session that is not anonymous: leave it out.", "INVALID_CREDENTIALS", path
        )
        return Ended(error)
    return found


async def take_over(
    connection: asyncpg.Connection,
    found: FoundSession,
    *,
    project_id: UUID,
    heir: str,
    is_last_try: bool,
    now: datetime,
) -> Takeover:
    """Take over the user of an anonymous session, under the locks of `hold`.

    Raises `PushInFlight` where something is being sent to the device, unless it `is_last_try`.
    """
    retired = found.user_id
    session_ids = await lock_sessions(connection, project_id=project_id, user_id=retired)
    moved = await move_push_tokens(connection, project_id=project_id, retired=retired, heir=heir)
    if not is_last_try and await is_push_in_flight(
        connection, project_id=project_id, user_id=retired, push_token_ids=moved
    ):
        raise PushInFlight
    events = []
    if moved:
        events += await give_up_excess_devices(connection, project_id=project_id, user_id=heir, now=now)
    await move_runs(connection, project_id=project_id, retired=retired, heir=heir)
    changes = await _leave_audiences(connection, project_id, retired)
    events += await _take_consents(connection, project_id, retired, heir, now)
    await fill_in_traits(connection, project_id=project_id, retired=retired, heir=heir)
    await delete_user(connection, project_id=project_id, user_id=retired)
    profile_id = await delete_profile(connection, project_id=project_id, user_id=retired)
    ended = await end_sessions(
        connection,
        project_id=project_id,
        session_ids=session_ids,
        reason=TAKEN_OVER,
        now=now,
        taken_over_by=heir,
        retired_profile_id=profile_id,
    )
    gone = Retired(retired, profile_id, found.device_id)
    return Takeover(gone, (_event(gone, heir, len(moved), now), *events), changes, tuple(ended))


async def _take_consents(
    connection: asyncpg.Connection, project_id: UUID, retired: str, heir: str, now: datetime
) -> list[NewEvent]:
    """What the person has said holds, also where it is less than what was said on the device."""
    taken = await take_consents(connection, project_id=project_id, user_id=retired)
    said = await read_consents(connection, project_id=project_id, user_ids=[heir], purposes=list(ConsentPurpose))
    silent = taken.keys() - {each.purpose for each in said}
    events = []
    for purpose in sorted(silent):
        changed = await set_consent(
            connection,
            project_id=project_id,
            user_id=heir,
            purpose=ConsentPurpose(purpose),
            state=ConsentState(taken[purpose]),
            source=SOURCE,
            actor=f"user:{heir}",
            now=now,
        )
        events += [] if changed is None else [changed.event]
    return events


async def _leave_audiences(
    connection: asyncpg.Connection, project_id: UUID, retired: str
) -> tuple[NewAudienceChange, ...]:
    """No event says it: it would be about somebody who is not there any more."""
    left = await leave_audiences(connection, project_id=project_id, user_id=retired)
    await delete_rechecks(connection, project_id=project_id, user_ids=[retired])
    return tuple(NewAudienceChange(audience_id, retired, False) for audience_id in left)


def _event(retired: Retired, heir: str, moved: int, now: datetime) -> NewEvent:
    profile_id = retired.profile_id
    properties = {
        "retiredUserId": retired.user_id,
        "retiredProfileId": None if profile_id is None else write_node_id(NodeKind.PROFILE, profile_id),
        "movedPushTokens": moved,
    }
    return NewEvent(
        # nobody foresees it: an event that a client wrote before under this key would stand in its place
        key=f"{TAKEOVER}:{uuid7()}",
        module="auth",
        event_type=TAKEOVER,
        timestamp=now,
        user_id=heir,
        anonymous_id=None,
        properties=msgspec.json.encode(properties).decode(),
        context="{}",
    )
