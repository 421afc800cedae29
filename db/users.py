"""End users of host apps who have, or had once, a session; and their profiles, as far as signing in changes them.

Guarantees: every function is one statement in the caller's transaction, which locks profiles before users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("users")


class UserRecord(msgspec.Struct, frozen=True):
    """A user; anonymous without `email`. `totp_step` is the time step of the last code that was taken."""

    user_id: str
    email: str | None
    password_hash: str | None
    sealed_totp_secret: bytes | None
    totp_confirmed_at: datetime | None
    totp_step: int | None
    recovery_code_hashes: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"UserRecord(user_id={self.user_id})"


async def insert_user(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    user_id: str,
    email: str | None,
    password_hash: str | None,
    now: datetime,
) -> None:
    """Make a user. Raises `asyncpg.UniqueViolationError` where the address is somebody's."""
    await connection.execute(_SQL["insert_user"], project_id, user_id, email, password_hash, now)


async def find_user_by_email(connection: asyncpg.Connection, *, project_id: UUID, email: str) -> UserRecord | None:
    """`email` is in lower case."""
    return _optional(await connection.fetchrow(_SQL["find_user_by_email"], project_id, email))


async def lock_users(
    connection: asyncpg.Connection, *, project_id: UUID, user_ids: Sequence[str]
) -> dict[str, UserRecord]:
    """Lock users in the order of their ids; gives those that are there, by id."""
    return {row["user_id"]: _record(row) for row in await connection.fetch(_SQL["lock_users"], project_id, user_ids)}


async def upgrade_user(
    connection: asyncpg.Connection, *, project_id: UUID, user_id: str, email: str, password_hash: str, now: datetime
) -> None:
    """Let an anonymous user sign in by name. Raises `asyncpg.UniqueViolationError` where the address is somebody's."""
    await connection.execute(_SQL["upgrade_user"], project_id, user_id, email, password_hash, now)


async def replace_password_hash(
    connection: asyncpg.Connection, *, project_id: UUID, user_id: str, before: str, after: str
) -> None:
    """Keep the same password as another hash."""
    await connection.execute(_SQL["replace_password_hash"], project_id, user_id, before, after)


async def begin_totp(connection: asyncpg.Connection, *, project_id: UUID, user_id: str, sealed_secret: bytes) -> bool:
    """Keep a second factor to be confirmed. False while one is in use."""
    status: str = await connection.execute(_SQL["begin_totp"], project_id, user_id, sealed_secret)
    return status == "UPDATE 1"


async def confirm_totp(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    user_id: str,
    step: int,
    recovery_code_hashes: Sequence[bytes],
    now: datetime,
) -> bool:
    """Ask for the second factor from now on. False where there is none to confirm."""
    status: str = await connection.execute(
        _SQL["confirm_totp"], project_id, user_id, now, step, list(recovery_code_hashes)
    )
    return status == "UPDATE 1"


async def end_totp(connection: asyncpg.Connection, *, project_id: UUID, user_id: str) -> None:
    """Forget the second factor."""
    await connection.execute(_SQL["end_totp"], project_id, user_id)


async def spend_totp_step(connection: asyncpg.Connection, *, project_id: UUID, user_id: str, step: int) -> bool:
    """Take the code of a time step as used. False where it, or a later one, was."""
    return await connection.fetchval(_SQL["spend_totp_step"], project_id, user_id, step) is not None


async def spend_recovery_code(
    connection: asyncpg.Connection, *, project_id: UUID, user_id: str, code_hash: bytes
) -> bool:
    """Take a recovery code as used. False where it is none, or was used."""
    return await connection.fetchval(_SQL["spend_recovery_code"], project_id, user_id, code_hash) is not None


async def delete_user(connection: asyncpg.Connection, *, project_id: UUID, user_id: str) -> None:
    """Delete a user."""
    await connection.execute(_SQL["delete_user"], project_id, user_id)


async def insert_profile(
    connection: asyncpg.Connection, *, project_id: UUID, profile_id: UUID, user_id: str, anonymous: bool, now: datetime
) -> None:
    """Make the profile of a new user, unless it is there."""
    await connection.execute(_SQL["insert_profile"], project_id, profile_id, user_id, anonymous, now)


async def make_profile_known(connection: asyncpg.Connection, *, project_id: UUID, user_id: str) -> None:
    """Say that a person is not anonymous any more."""
    await connection.execute(_SQL["make_profile_known"], project_id, user_id)


async def fill_in_traits(connection: asyncpg.Connection, *, project_id: UUID, retired: str, heir: str) -> None:
    """Give `heir` the traits of `retired` that nobody ever said of `heir`; none of them where they do not fit."""
    await connection.execute(_SQL["fill_in_traits"], project_id, retired, heir)


async def delete_profile(connection: asyncpg.Connection, *, project_id: UUID, user_id: str) -> UUID | None:
    """Delete a person's profile; gives its id."""
    profile_id: UUID | None = await connection.fetchval(_SQL["delete_profile"], project_id, user_id)
    return profile_id


def _optional(row: Mapping[str, Any] | None) -> UserRecord | None:
    return None if row is None else _record(row)


def _record(row: Mapping[str, Any]) -> UserRecord:
    values = dict(row.items())
    values["recovery_code_hashes"] = tuple(values["recovery_code_hashes"])
    return UserRecord(**values)
