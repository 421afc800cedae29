"""Erasing a person: one transaction over everything that is kept of them.

Guarantees: with the commit nothing is left that says who they were: not in a table, not in a lane, not in what is
under way, which finds nothing to go on with. What stays says nothing of them: holes in the lanes, hashes of the keys of
their events (so that an SDK that tries again does not bring them back), hashes of addresses that nothing more is sent
to, the log of consent without its names, and a receipt with counts and a keyed hash. The same transaction appends
`consent.erasure_completed`, which names nobody, ends their sessions, and tells every gateway to forget what it holds.

How: whoever writes about a person holds their profile or the row that they write to, so erasure locks the profile and
then takes rows in the order of locks. What needs neither (events of clients, webhooks about them) takes a head of a
lane last: so a second sweep is made under all heads, for what came in between (`engine.erasure.sweeping`). Whoever
waits for a head meanwhile looks for tombstones once it has it (`engine.workers.followers`), or makes the person anew
(an event that a client sends of somebody who was erased is the first of somebody new).

Erasing somebody who is gone gives the receipt that there is. Leaves to others: who may, and forgetting
(`engine.live.forgetting`).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.database import Database
from db.erasure import (
    ErasureRecord,
    PersonRecord,
    find_erasure,
    insert_erasure,
    insert_stand_in,
    is_known,
    lock_heads,
    lock_people,
    read_aliases,
    read_heir,
)
from db.events import append_events
from db.heads import read_heads
from db.personal_records import PersonIds
from db.projects import read_project
from db.records import SYSTEM_PROJECT, Lane, NewEvent, ProjectRecord
from engine.announcements import Announcement
from engine.audit import record_change
from engine.dispatch.ledger import record
from engine.erasure.persons import know_person
from engine.erasure.sweeping import Sweep
from engine.errors import NotFound, UserError
from engine.events import MAX_ID_CHARACTERS
from engine.live.forgetting import PERSON_ERASED
from engine.node_ids import NodeKind, write_node_id
from engine.revoking import Revocation, append_revocations
from engine.transactions import run_transaction

if TYPE_CHECKING:
    import asyncpg

COMPLETED = "consent.erasure_completed"
MODULE = "consent"
ERASED = "profile.erased"
"""The action in the audit log."""
MAX_REASON_CHARACTERS = 500
"""A sentence or two; it is kept in the audit log."""
RETRY_FOR = timedelta(seconds=60)
"""Erasing somebody with hundreds of thousands of events takes seconds; one deadlock must not be the end of it."""
_SEPARATORS = re.compile(r"[\s().\-/]")
"""What may stand between the digits of a phone number."""
_WHO = ("input", "userId")


class ErasureRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to erase, why, and who says so (`Viewer.actor`)."""

    user_id: str
    reason: str
    actor: str


class Receipt(msgspec.Struct, frozen=True):
    """What an erasure removed. `user_id` is as it was asked for: it is stored nowhere."""

    user_id: str
    profile_id: UUID
    erased_at: datetime
    removed: msgspec.Raw


class _Refused(Exception):
    """Rolls an erasure back."""

    def __init__(self, error: UserError) -> None:
        super().__init__(error.code)
        self.error = error


def check_request(request: ErasureRequest) -> tuple[UserError, ...]:
    """What is wrong with a request, whoever it is about. Pure."""
    errors = []
    if not 1 <= len(request.user_id) <= MAX_ID_CHARACTERS or "\0" in request.user_id:
        errors.append(UserError(f"A user id has 1 to {MAX_ID_CHARACTERS} characters without NUL.", "INVALID", _WHO))
    reason = request.reason.strip()
    if not 1 <= len(reason) <= MAX_REASON_CHARACTERS or "\0" in reason:
        message = f"Say why, in 1 to {MAX_REASON_CHARACTERS} characters: it is kept in the audit log."
        errors.append(UserError(message, "INVALID", ("input", "reason")))
    return tuple(errors)


def hash_person(salt: bytes, user_id: str) -> bytes:
    """What a receipt knows a person by: nobody without the project's salt can try out ids on it."""
    return hmac.digest(salt, user_id.encode(), hashlib.sha256)


async def erase_person(
    database: Database,
    announce: Callable[[Announcement], None],
    *,
    project_id: UUID,
    request: ErasureRequest,
    now: datetime,
) -> Receipt | UserError:
    """Erase somebody. `request` was found right. `now` is business time. Raises `Unavailable`."""
    erasure_id = uuid7()
    try:
        receipt, announcements = await run_transaction(
            database,
            lambda connection: _erase(connection, project_id, request, erasure_id, now),
            retry_for=RETRY_FOR,
        )
    except _Refused as refused:
        return refused.error
    for announcement in announcements:
        announce(announcement)
    return receipt


async def _erase(
    connection: asyncpg.Connection, project_id: UUID, request: ErasureRequest, erasure_id: UUID, now: datetime
) -> tuple[Receipt, tuple[Announcement, ...]]:
    project = await read_project(connection, project_id=project_id)
    if project is None:
        raise NotFound("There is no such project.")
    person_hash = hash_person(project.salt, request.user_id)
    stood = {head.lane: head.head for head in await read_heads(connection, project_ids=[project_id])}
    profile = await _lock_person(connection, project_id, request.user_id)
    if profile is None:
        # Also after a COMMIT whose answer was lost.
        earlier = await find_erasure(connection, project_id=project_id, person_hash=person_hash)
        if earlier is None:
            raise _Refused(UserError("This project knows nobody of this user id.", "NOT_FOUND", _WHO))
        return Receipt(request.user_id, earlier.profile_id, earlier.erased_at, earlier.removed), ()
    person = await _know(connection, project, profile.user_id)
    if _names(request.reason, person):
        message = "The reason is kept, so it must not name the person: leave out their ids, email and phone."
        raise _Refused(UserError(message, "INVALID", ("input", "reason")))

    sweep = Sweep(connection, person)
    await sweep.remove()
    await lock_heads(connection, project_id=project_id)
    # Whoever links a device to somebody holds the head alone: one may have become theirs since.
    await sweep.remove_late(await _devices_of(connection, person), since=stood)
    await sweep.remove_profiles()

    removed = msgspec.Raw(msgspec.json.encode(_shown(sweep.counts)))
    erasure = ErasureRecord(project_id, erasure_id, person_hash, profile.profile_id, now, removed)
    await insert_erasure(connection, erasure)
    await _note(connection, erasure, request)
    announcements = await record(
        connection, project_id=project_id, transitions=(), events=[_completed(erasure)], now=now
    )
    # The log of the system project, whose head is the very last lock.
    told = await append_revocations(connection, Revocation.SESSION_ENDED, sweep.ended)
    told += await _tell_gateways(connection, erasure)
    return Receipt(request.user_id, profile.profile_id, now, removed), (*announcements, *told)


async def _lock_person(connection: asyncpg.Connection, project_id: UUID, user_id: str) -> PersonRecord | None:
    """The profile, locked; None for somebody of whom nothing is known. Who has other rows only is given a profile."""
    found = await lock_people(connection, project_id=project_id, user_ids=[user_id])
    # Not before: whoever takes somebody over holds their profile, and may just have been waited for.
    if await read_heir(connection, project_id=project_id, user_id=user_id) is not None:
        message = "This user was taken over by another one: erase that one, and all that was this one's goes with it."
        raise _Refused(UserError(message, "STATE", _WHO))
    if not found and await is_known(connection, project_id=project_id, user_id=user_id):
        await insert_stand_in(connection, project_id=project_id, profile_id=uuid7(), user_id=user_id)
        found = await lock_people(connection, project_id=project_id, user_ids=[user_id])
    return found[0] if found else None


async def _know(connection: asyncpg.Connection, project: ProjectRecord, user_id: str) -> PersonIds:
    async def lock(user_ids: Sequence[str]) -> list[msgspec.Raw]:
        # Users who were taken over have a profile again where somebody went on using their ids.
        people = await lock_people(connection, project_id=project.project_id, user_ids=user_ids)
        return [each.traits for each in people]

    return await know_person(connection, project, user_id, lock)


async def _devices_of(connection: asyncpg.Connection, person: PersonIds) -> list[str]:
    """What is linked to any of their ids now."""
    return [
        each.alias
        for user_id in person.user_ids
        for each in await read_aliases(connection, project_id=person.project_id, user_id=user_id)
        if each.kind == "ANONYMOUS_ID"
    ]


def _names(reason: str, person: PersonIds) -> bool:
    """Whether a text holds an id or an address of the person, as a word of its own."""
    text, bare = reason.lower(), _SEPARATORS.sub("", reason.lower())
    ids = (*person.user_ids, *person.anonymous_ids, *person.addresses)
    if any(re.search(rf"(?<!\w){re.escape(value.lower())}(?!\w)", text) for value in ids):
        return True
    return any(_SEPARATORS.sub("", each).lstrip("+") in bare for each in person.addresses if each.startswith("+"))


def _shown(counts: Counter[str]) -> dict[str, int]:
    """In camel case, without what there was none of."""
    return {_camel(kind): count for kind, count in sorted(counts.items()) if count}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(each.capitalize() for each in rest)


async def _note(connection: asyncpg.Connection, erasure: ErasureRecord, request: ErasureRequest) -> None:
    await record_change(
        connection,
        project_id=erasure.project_id,
        actor=request.actor,
        action=ERASED,
        subject=write_node_id(NodeKind.PROFILE, erasure.profile_id),
        before=None,
        after={"reason": request.reason.strip(), "personHash": erasure.person_hash.hex()},
        now=erasure.erased_at,
    )


def _completed(erasure: ErasureRecord) -> NewEvent:
    properties = {
        "profileId": write_node_id(NodeKind.PROFILE, erasure.profile_id),
        "personHash": erasure.person_hash.hex(),
    }
    return _event(f"{COMPLETED}:{erasure.erasure_id.hex}", MODULE, COMPLETED, properties, erasure.erased_at)


async def _tell_gateways(connection: asyncpg.Connection, erasure: ErasureRecord) -> tuple[Announcement, ...]:
    """That they forget what they hold of the project."""
    properties = {"projectId": str(erasure.project_id)}
    event = _event(f"{PERSON_ERASED}:{erasure.erasure_id}", "person", PERSON_ERASED, properties, None)
    result = await append_events(
        connection, project_id=SYSTEM_PROJECT, batch_token=secrets.randbits(63), events=[event]
    )
    return (Announcement(SYSTEM_PROJECT, Lane.EVENTS, result.epoch, result.seqs[0], result.seqs[0]),)


def _event(key: str, module: str, event_type: str, properties: dict[str, str], at: datetime | None) -> NewEvent:
    return NewEvent(
        key=key,
        module=module,
        event_type=event_type,
        timestamp=at,
        user_id=None,
        anonymous_id=None,
        properties=msgspec.json.encode(properties).decode(),
        context="{}",
    )
