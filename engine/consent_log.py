"""The log of consent: a chain that nobody can alter unseen, and that erasure does not break.

Guarantees: each change is bound to all before it by SHA-256; of the person it holds a commitment only, the hash of what
is personal with a random salt, so that without the salt nothing can be found out by guessing; `verify` finds a change
that was altered, taken out, put in, exchanged or cut off at the end. docs/consent.md has the bytes, for whoever wants
to verify it without this program. Leaves to others: who may add (`engine.consent`), and committing.

What a chain alone cannot show is that all of it was made anew by whoever holds the database. Note its end elsewhere,
and hand that in: a later chain has it among its changes.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.consent_changes import (
    ChainEnd,
    ConsentChangeRecord,
    begin_consent_chain,
    insert_consent_change,
    lock_consent_chain,
    move_consent_chain,
    read_consent_chain,
    scan_consent_changes,
)

if TYPE_CHECKING:
    import asyncpg

SALT_BYTES = 32
NO_HASH = bytes(32)
"""What stands for the hash before the first change."""
PAGE_CHANGES = 1_000
"""Changes that `verify` reads at once: some 500 kB."""
COMMITMENT_TAG = b"sendora consent commitment 1"
CHANGE_TAG = b"sendora consent change 1"
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Sound(msgspec.Struct, frozen=True):
    """The chain holds. `end` is None where nothing was ever said; `erased` changes have lost their person."""

    end: ChainEnd | None
    erased: int

    def __str__(self) -> str:
        if self.end is None:
            return "sound, nothing was ever said"
        seq, digest = self.end.seq, self.end.hash.hex()
        return f"sound, {seq} changes, {self.erased} of them erased; ends with {seq}:{digest}"


class Broken(msgspec.Struct, frozen=True):
    """The chain breaks at a change, or where one should be."""

    seq: int
    reason: str

    def __str__(self) -> str:
        return f"broken at change {self.seq}: {self.reason}"


def commitment_of(*, salt: bytes, user_id: str, source: str, actor: str) -> bytes:
    """Of what is personal. Pure."""
    return _digest([COMMITMENT_TAG, salt, user_id.encode(), source.encode(), actor.encode()])


def hash_of(change: ConsentChangeRecord, *, previous: bytes) -> bytes:
    """Of everything of a change that stays, and so of all changes before. Pure."""
    at = (change.at - _BEGINNING) // _MICROSECOND
    return _digest(
        [
            CHANGE_TAG,
            previous,
            change.project_id.bytes,
            change.seq.to_bytes(8),
            change.consent_change_id.bytes,
            change.purpose.encode(),
            change.from_state.encode(),
            change.to_state.encode(),
            at.to_bytes(8, signed=True),
            change.commitment,
        ]
    )


async def add_change(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    user_id: str,
    purpose: str,
    from_state: str,
    to_state: str,
    source: str,
    actor: str,
    now: datetime,
) -> ConsentChangeRecord:
    """Add to the log, in the caller's transaction; nobody else can until it ends. `now` is business time."""
    salt = secrets.token_bytes(SALT_BYTES)
    draft = ConsentChangeRecord(
        project_id=project_id,
        seq=1,
        consent_change_id=uuid7(),
        user_id=user_id,
        source=source,
        actor=actor,
        salt=salt,
        purpose=purpose,
        from_state=from_state,
        to_state=to_state,
        at=now,
        commitment=commitment_of(salt=salt, user_id=user_id, source=source, actor=actor),
        hash=NO_HASH,
    )
    change = await _link(connection, draft)
    await insert_consent_change(connection, change)
    return change


async def verify(
    connection: asyncpg.Connection, *, project_id: UUID, anchor: ChainEnd | None = None, page: int = PAGE_CHANGES
) -> Sound | Broken:
    """Walk a project's chain from its start, page by page, beside whoever adds to it.

    `anchor` is where it ended once, as somebody noted it elsewhere.
    """
    noted: list[tuple[ChainEnd, str]] = []
    known = await read_consent_chain(connection, project_id=project_id)
    if known is not None:
        noted.append((known, "the chain is said to end here with another hash"))
    if anchor is not None:
        noted.append((anchor, "its hash is another than was noted"))
    end, erased, is_more = ChainEnd(0, NO_HASH), 0, True
    while is_more:
        changes = await scan_consent_changes(connection, project_id=project_id, after=end.seq, limit=page)
        for change in changes:
            fault = _fault(change, end) or _contradiction(change, noted)
            if fault is not None:
                return Broken(end.seq + 1, fault)
            end, erased = ChainEnd(change.seq, change.hash), erased + (change.salt is None)
        is_more = len(changes) == page
    furthest = max((each.seq for each, _ in noted), default=0)
    if furthest > end.seq:
        return Broken(end.seq + 1, f"the chain had come to {furthest}, and this change is not there")
    now_known = await read_consent_chain(connection, project_id=project_id)
    if end.seq > (0 if now_known is None else now_known.seq):
        return Broken(end.seq, "the chain is said to end before this change")
    return Sound(end if end.seq else None, erased)


async def _link(connection: asyncpg.Connection, draft: ConsentChangeRecord) -> ConsentChangeRecord:
    """The change at the end of the chain, which is moved there."""
    project_id = draft.project_id
    end = await lock_consent_chain(connection, project_id=project_id)
    if end is None:
        first = msgspec.structs.replace(draft, hash=hash_of(draft, previous=NO_HASH))
        if await begin_consent_chain(connection, project_id=project_id, first_hash=first.hash):
            return first
        end = await lock_consent_chain(connection, project_id=project_id)
        if end is None:
            raise AssertionError("a chain that was begun is there")
    numbered = msgspec.structs.replace(draft, seq=end.seq + 1)
    change = msgspec.structs.replace(numbered, hash=hash_of(numbered, previous=end.hash))
    await move_consent_chain(connection, project_id=project_id, end=ChainEnd(change.seq, change.hash))
    return change


def _contradiction(change: ConsentChangeRecord, noted: Iterable[tuple[ChainEnd, str]]) -> str | None:
    return next((why for end, why in noted if end.seq == change.seq and end.hash != change.hash), None)


def _fault(change: ConsentChangeRecord, before: ChainEnd) -> str | None:
    """Why a change cannot follow; None when it does."""
    if change.seq != before.seq + 1:
        return f"the next change that is there is {change.seq}"
    if hash_of(change, previous=before.hash) != change.hash:
        return "its hash is not that of what it says and of the change before"
    if change.salt is None or change.user_id is None or change.source is None or change.actor is None:
        return None
    committed = commitment_of(salt=change.salt, user_id=change.user_id, source=change.source, actor=change.actor)
    return None if committed == change.commitment else "it commits to another person, source or actor than it names"


def _digest(fields: Iterable[bytes]) -> bytes:
    """SHA-256 of fields, each after its length in four bytes, so that no two lists of fields are one text."""
    return hashlib.sha256(b"".join(len(field).to_bytes(4) + field for field in fields)).digest()
