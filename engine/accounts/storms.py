"""Sign-in storms: many failures for one account, or from one address, slow down whoever goes on.

Guarantees: after `FREE` failures without a pause of `WINDOW`, each further one doubles how long no sign-in of that
subject is looked at, from one second to `LONGEST_BLOCK`; a storm is told of (`auth.signin_storm`) once in a `WINDOW`.
Subjects are kept as keyed hashes. An account that does not exist counts like one that does.
Whoever knows an address can make its owner wait for `LONGEST_BLOCK` at most: that is the price of slowing down guesses
that come from many addresses. Leaves to others: what counts as a failure (`engine.accounts.sign_in`).
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.records import NewEvent
from db.sign_in_failures import block_subject, note_failure, read_blocked_until
from engine.announcements import Announcement
from engine.dispatch.ledger import record
from engine.errors import RateLimited

if TYPE_CHECKING:
    import asyncpg

WINDOW = timedelta(minutes=15)
"""A pause of this length ends a series of failures."""
LONGEST_BLOCK = timedelta(minutes=5)
"""288 guesses a day: nothing against a password that is not among the worst, and an owner can wait for it."""
IPV6_NETWORK_BITS = 64
"""What one subscriber has: they can take any address in it."""
STORM = "auth.signin_storm"


class SubjectKind(StrEnum):
    """What is counted."""

    ACCOUNT = "account"
    ADDRESS = "address"


FREE: Final = {SubjectKind.ACCOUNT: 5, SubjectKind.ADDRESS: 30}
"""Failures that slow nothing down: people mistype, and many of them share the address of an office."""
STORM_AT: Final = {SubjectKind.ACCOUNT: 10, SubjectKind.ADDRESS: 60}
"""From so many on it is a storm."""


class Subject(msgspec.Struct, frozen=True):
    """An account or an address. `key` is a keyed hash of it."""

    kind: SubjectKind
    key: bytes


def subjects_of(salt: bytes, *, email: str | None, client: str | None) -> tuple[Subject, ...]:
    """Whom a sign-in is counted for. `email` is in lower case, `client` the peer's address where it is known."""
    subjects = []
    if email is not None:
        subjects.append(_subject(salt, SubjectKind.ACCOUNT, email))
    network = _network(client)
    if network is not None:
        subjects.append(_subject(salt, SubjectKind.ADDRESS, network))
    return tuple(subjects)


def block_of(kind: SubjectKind, failures: int) -> timedelta | None:
    """For how long no sign-in is looked at after so many failures."""
    beyond = failures - FREE[kind]
    if beyond < 0:
        return None
    # 2 ** 9 seconds are more than the longest block
    return min(timedelta(seconds=2 ** min(beyond, 9)), LONGEST_BLOCK)


async def check_storm(
    connection: asyncpg.Connection, *, project_id: UUID, subjects: Sequence[Subject], now: datetime
) -> None:
    """Raises `RateLimited` while sign-ins of any of the subjects are not looked at."""
    blocked_until = await read_blocked_until(
        connection, project_id=project_id, subjects=[subject.key for subject in subjects]
    )
    _refuse_until(blocked_until, now)


def _refuse_until(blocked_until: datetime | None, now: datetime) -> None:
    if blocked_until is not None and blocked_until > now:
        wait = blocked_until - now
        raise RateLimited(
            "Too many sign-ins have failed: wait before you try again.",
            retry_after_ms=max(1, round(wait.total_seconds() * 1000)),
        )


async def count_failure(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    subjects: Sequence[Subject],
    user_id: str | None,
    now: datetime,
) -> tuple[Announcement, ...]:
    """Count a failure for each subject, in the caller's transaction; returns what to announce after the commit.

    `user_id` is whose account it was, where there is one. `now` is when it was begun. Locks subjects in the order of
    their keys, then the head. Raises `RateLimited` where others failed meanwhile, so that no more is told to whoever
    guesses many times at once than to whoever guesses as often one after the other; then nothing is counted.
    """
    events = []
    for subject in sorted(subjects, key=lambda each: each.key):
        counted = await note_failure(
            connection, project_id=project_id, subject=subject.key, now=now, since=now - WINDOW
        )
        _refuse_until(counted.blocked_until, now)
        is_storm = counted.failures >= STORM_AT[subject.kind]
        is_told = counted.storm_at is not None and counted.storm_at > now - WINDOW
        block = block_of(subject.kind, counted.failures)
        await block_subject(
            connection,
            project_id=project_id,
            subject=subject.key,
            blocked_until=None if block is None else now + block,
            storm_at=now if is_storm and not is_told else counted.storm_at,
        )
        if is_storm and not is_told:
            events.append(_storm(subject, counted.failures, user_id, now))
    return await record(connection, project_id=project_id, transitions=(), events=events, now=now)


def _storm(subject: Subject, failures: int, user_id: str | None, now: datetime) -> NewEvent:
    """The beginning of the hash tells storms apart and says nothing of anybody. An address is no one person's."""
    properties = {"by": subject.kind, "subject": subject.key.hex()[:16], "failures": failures}
    return NewEvent(
        key=f"{STORM}:{uuid7()}",
        module="auth",
        event_type=STORM,
        timestamp=now,
        user_id=user_id if subject.kind is SubjectKind.ACCOUNT else None,
        anonymous_id=None,
        properties=msgspec.json.encode(properties).decode(),
        context="{}",
    )


def _subject(salt: bytes, kind: SubjectKind, value: str) -> Subject:
    return Subject(kind, hmac.digest(salt, f"sign-in {kind}:{value}".encode(), "sha256"))


def _network(client: str | None) -> str | None:
    """An IPv4 address itself; of IPv6 the network of one subscriber."""
    try:
        address = ip_address((client or "").partition("%")[0])
    except ValueError:
        return None
    if not isinstance(address, IPv6Address):
        return str(address)
    mapped = address.ipv4_mapped
    return str(mapped) if mapped is not None else address.packed[: IPV6_NETWORK_BITS // 8].hex()
