"""Taking a person out of the database, table by table. What is taken where: `engine.erasure.registry`.

Guarantees: whatever is removed from a lane leaves a tombstone, whatever was an event the hash of its key; rows that
others lock are locked in a statement of its own before what belongs to them is removed, so that nothing that was
written while this one waited is overlooked. Bounded: where a person may have any number of rows, a call takes some.
Leaves to others: the order, calling again until nothing is left, and committing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.records import Lane
from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("erasure")


class PersonRecord(msgspec.Struct, frozen=True):
    """A profile that is locked. `traits` is a JSON object."""

    user_id: str
    profile_id: UUID
    traits: msgspec.Raw


class AliasRecord(msgspec.Struct, frozen=True):
    """An id that stands for a user. `kind` is ANONYMOUS_ID or USER_ID."""

    kind: str
    alias: str


class ErasureRecord(msgspec.Struct, frozen=True):
    """A receipt. `removed` is a JSON object of counts."""

    project_id: UUID
    erasure_id: UUID
    person_hash: bytes
    profile_id: UUID
    erased_at: datetime
    removed: msgspec.Raw


class LockedSession(msgspec.Struct, frozen=True):
    """A session. `is_open`: somebody may still come with it."""

    session_id: UUID
    is_open: bool


class RemovedDeliveries(msgspec.Struct, frozen=True):
    """How many rows, by kind, and the batches that they were of."""

    counts: dict[str, int]
    batch_ids: tuple[UUID, ...]


async def read_heir(connection: asyncpg.Connection, *, project_id: UUID, user_id: str) -> str | None:
    """Who took a user over; None where nobody did."""
    heir: str | None = await connection.fetchval(_SQL["read_heir"], project_id, user_id)
    return heir


async def read_aliases(connection: asyncpg.Connection, *, project_id: UUID, user_id: str) -> list[AliasRecord]:
    """The ids that stand for a user."""
    rows = await connection.fetch(_SQL["read_aliases"], project_id, user_id)
    return [AliasRecord(row["kind"], row["alias"]) for row in rows]


async def lock_people(
    connection: asyncpg.Connection, *, project_id: UUID, user_ids: Sequence[str]
) -> list[PersonRecord]:
    """Lock the profiles of some users against everybody who holds them; gives those that are there."""
    rows = await connection.fetch(_SQL["lock_people"], project_id, user_ids)
    return [PersonRecord(row["user_id"], row["profile_id"], msgspec.Raw(row["traits"].encode())) for row in rows]


async def insert_stand_in(connection: asyncpg.Connection, *, project_id: UUID, profile_id: UUID, user_id: str) -> None:
    """Make a profile for somebody who has none."""
    await connection.execute(_SQL["insert_stand_in"], project_id, profile_id, user_id)


async def is_known(connection: asyncpg.Connection, *, project_id: UUID, user_id: str) -> bool:
    """Whether anything but a profile names a user."""
    known: bool = await connection.fetchval(_SQL["is_known"], project_id, user_id)
    return known


async def read_addresses(connection: asyncpg.Connection, *, project_id: UUID, user_ids: Sequence[str]) -> list[str]:
    """Where some users were reached or signed in, in lower case."""
    return [row["address"] for row in await connection.fetch(_SQL["read_addresses"], project_id, user_ids)]


async def remove_of_users(
    connection: asyncpg.Connection, statement: str, *, project_id: UUID, user_ids: Sequence[str]
) -> int:
    """Run a statement that takes users; how many rows it changed."""
    status: str = await connection.execute(_SQL[statement], project_id, user_ids)
    return int(status.rpartition(" ")[2])


async def remove_failures(connection: asyncpg.Connection, *, project_id: UUID, subjects: Sequence[bytes]) -> int:
    """Remove what was counted of sign-ins that failed, by hashes of accounts."""
    status: str = await connection.execute(_SQL["remove_failures"], project_id, subjects)
    return int(status.rpartition(" ")[2])


async def lock_sessions(
    connection: asyncpg.Connection, *, project_id: UUID, user_ids: Sequence[str]
) -> list[LockedSession]:
    """Lock the sessions of some users, and those that they took over."""
    rows = await connection.fetch(_SQL["lock_sessions"], project_id, user_ids)
    return [LockedSession(row["session_id"], row["is_open"]) for row in rows]


async def remove_by_id(
    connection: asyncpg.Connection, statement: str, *, project_id: UUID, ids: Sequence[UUID]
) -> dict[str, int]:
    """Remove what is locked, with what belongs to it: sessions, push tokens or runs. How many rows, by kind."""
    return _counts(await connection.fetchrow(_SQL[statement], project_id, ids))


async def lock_push_tokens(connection: asyncpg.Connection, *, project_id: UUID, user_ids: Sequence[str]) -> list[UUID]:
    """Lock the devices of some users."""
    return _ids(await connection.fetch(_SQL["lock_push_tokens"], project_id, user_ids))


async def blank_sends_in_progress(
    connection: asyncpg.Connection, *, project_id: UUID, user_ids: Sequence[str], addresses: Sequence[str]
) -> None:
    """Take users and addresses out of sends to audiences that are not finished."""
    await connection.execute(_SQL["blank_sends_in_progress"], project_id, user_ids, addresses)


async def lock_some(
    connection: asyncpg.Connection, statement: str, *, project_id: UUID, value: str, after: UUID, limit: int
) -> list[UUID]:
    """Lock up to `limit` runs or deliveries after one of them, of a user or to an address."""
    return _ids(await connection.fetch(_SQL[statement], project_id, value, after, limit))


async def lock_all(
    connection: asyncpg.Connection, statement: str, *, project_id: UUID, values: Sequence[Any]
) -> list[UUID]:
    """Lock the runs or deliveries that follow from runs or events."""
    return _ids(await connection.fetch(_SQL[statement], project_id, values))


async def lock_late(connection: asyncpg.Connection, statement: str, *, project_id: UUID, since: int) -> list[UUID]:
    """Lock runs or deliveries that moved after a position of their lane, and that follow from an erased event."""
    return _ids(await connection.fetch(_SQL[statement], project_id, since))


async def remove_deliveries(
    connection: asyncpg.Connection, *, project_id: UUID, delivery_ids: Sequence[UUID]
) -> RemovedDeliveries:
    """Remove deliveries that are locked, with everything about them."""
    row = await connection.fetchrow(_SQL["remove_deliveries"], project_id, delivery_ids)
    counts = {name: row[name] for name in row.keys() if name != "batch_ids"}  # noqa: SIM118 (a row iterates over values)
    return RemovedDeliveries(counts, tuple(row["batch_ids"]))


async def remove_batches(
    connection: asyncpg.Connection, *, project_id: UUID, batch_ids: Sequence[UUID], values: Sequence[str]
) -> int:
    """Remove batches that have no deliveries left; of the others forget idempotency keys that hold one of `values`."""
    status: str = await connection.execute(_SQL["remove_batches"], project_id, batch_ids)
    await connection.execute(_SQL["blank_batches"], project_id, batch_ids, values)
    return int(status.rpartition(" ")[2])


async def find_events(
    connection: asyncpg.Connection, statement: str, *, project_id: UUID, value: str, after: int, limit: int
) -> list[int]:
    """Where up to `limit` events stand after a position: of a user, or of nobody under an anonymous id."""
    return [row["seq"] for row in await connection.fetch(_SQL[statement], project_id, value, after, limit)]


async def find_late_events(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    user_ids: Sequence[str],
    anonymous_ids: Sequence[str],
    since: int,
) -> list[int]:
    """Where the events of some users and anonymous ids stand after a position near the end of the log."""
    rows = await connection.fetch(_SQL["find_late_events"], project_id, user_ids, anonymous_ids, since)
    return [row["seq"] for row in rows]


async def remove_events(connection: asyncpg.Connection, *, project_id: UUID, seqs: Sequence[int]) -> int:
    """Remove events; what is left of them is a hole in the lane and a hash of their keys. Gives how many."""
    removed: int = await connection.fetchval(_SQL["remove_events"], project_id, seqs)
    return removed


async def remove_memberships(
    connection: asyncpg.Connection, *, project_id: UUID, user_ids: Sequence[str]
) -> dict[str, int]:
    """Remove what is known of users as members of audiences. How many rows, by kind."""
    return _counts(await connection.fetchrow(_SQL["remove_memberships"], project_id, user_ids))


async def hash_suppressions(connection: asyncpg.Connection, *, project_id: UUID, addresses: Sequence[str]) -> int:
    """Keep nothing of suppressed addresses but a hash, under which they stay suppressed."""
    hashed: int = await connection.fetchval(_SQL["hash_suppressions"], project_id, addresses)
    return hashed


async def lock_heads(connection: asyncpg.Connection, *, project_id: UUID) -> dict[Lane, int]:
    """Lock the heads of all lanes: nobody else writes to them until the transaction ends."""
    return {Lane(row["lane"]): row["head"] for row in await connection.fetch(_SQL["lock_heads"], project_id)}


async def insert_erasure(connection: asyncpg.Connection, erasure: ErasureRecord) -> None:
    """Keep a receipt."""
    await connection.execute(
        _SQL["insert_erasure"],
        erasure.project_id,
        erasure.erasure_id,
        erasure.person_hash,
        erasure.profile_id,
        erasure.erased_at,
        bytes(erasure.removed).decode(),
    )


async def find_erasure(connection: asyncpg.Connection, *, project_id: UUID, person_hash: bytes) -> ErasureRecord | None:
    """The last receipt of a person."""
    row = await connection.fetchrow(_SQL["find_erasure"], project_id, person_hash)
    if row is None:
        return None
    return ErasureRecord(**{**dict(row.items()), "removed": msgspec.Raw(row["removed"].encode())})


async def find_tombstones(
    connection: asyncpg.Connection, *, project_id: UUID, lane: Lane, seqs: Sequence[int]
) -> list[int]:
    """Of some items of a lane those that were erased."""
    return [row["seq"] for row in await connection.fetch(_SQL["find_tombstones"], project_id, lane, seqs)]


async def trim_tombstones(connection: asyncpg.Connection, *, project_id: UUID, lane: Lane, first_seq: int) -> None:
    """Delete the tombstones below a lane's floor, where nobody reads any more."""
    await connection.execute(_SQL["delete_tombstones_before"], project_id, lane, first_seq)


def _ids(rows: Sequence[Any]) -> list[UUID]:
    return [row[0] for row in rows]


def _counts(row: Any) -> dict[str, int]:
    return dict(row.items())
