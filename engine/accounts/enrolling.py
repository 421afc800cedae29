"""Adding a second factor to an account, and taking it away.

Guarantees: nothing is asked for at sign-in before a first code has shown that the app has the secret; secret and
recovery codes are shown once; what is in use can only be taken away with a code; wrong codes are counted like wrong
passwords, so that nobody who has found an open app can try them all. Locks: users, failures, heads.
Leaves to others: asking for codes (`engine.accounts.sign_in`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from db.records import NewEvent, ProjectRecord
from db.users import UserRecord, begin_totp, end_totp, lock_users
from db.users import confirm_totp as write_confirmed
from engine.accounts.second_factor import (
    TimeStep,
    hash_recovery_code,
    make_recovery_codes,
    make_secret,
    read_code,
    spend,
    totp_purpose,
)
from engine.accounts.sessions import Accounts
from engine.accounts.storms import check_storm, count_failure, subjects_of
from engine.announcements import Announcement
from engine.dispatch.ledger import record
from engine.errors import UserError
from engine.transactions import run_transaction

ENROLLED = "auth.mfa_enrolled"
MAX_CODE_CHARACTERS = 64

_NO_ACCOUNT = UserError("Only whoever signed up with an email address can have a second factor.", "STATE", ())
_IN_USE = UserError("A second factor is in use: disable it first.", "STATE", ())
_NOT_BEGUN = UserError("There is no second factor to confirm: call enrollTotp first.", "STATE", ())
_NOT_IN_USE = UserError("No second factor is in use.", "STATE", ())
_WRONG = UserError("This code is wrong, or was used before: wait for the next one.", "INVALID_CREDENTIALS", ("code",))


class EnrolledTotp(msgspec.Struct, frozen=True):
    """What an authenticator app is given, once."""

    secret: str | None = None
    uri: str | None = None
    errors: tuple[UserError, ...] = ()

    def __repr__(self) -> str:
        return "EnrolledTotp()"


class ConfirmedTotp(msgspec.Struct, frozen=True):
    """What stands in for a lost device, once."""

    recovery_codes: tuple[str, ...] = ()
    errors: tuple[UserError, ...] = ()

    def __repr__(self) -> str:
        return "ConfirmedTotp()"


async def enroll_totp(accounts: Accounts, project: ProjectRecord, *, user_id: str) -> EnrolledTotp:
    """Make a secret. Asking again before it is confirmed makes another one."""
    project_id = project.project_id

    async def begin(connection: asyncpg.Connection) -> EnrolledTotp:
        user = await _lock(connection, project_id, user_id)
        if user is None or user.email is None:
            return EnrolledTotp(errors=(_NO_ACCOUNT,))
        made = make_secret(issuer=project.name, account=user.email)
        sealed = accounts.vault.seal(made.secret.encode(), project_id=project_id, purpose=totp_purpose(user_id))
        if not await begin_totp(connection, project_id=project_id, user_id=user_id, sealed_secret=sealed):
            return EnrolledTotp(errors=(_IN_USE,))
        return EnrolledTotp(made.secret, made.uri)

    return await run_transaction(accounts.database, begin)


async def confirm_totp(accounts: Accounts, project: ProjectRecord, *, user_id: str, code: str) -> ConfirmedTotp:
    """Ask for codes from now on. Raises `RateLimited` after many wrong ones."""
    project_id, now = project.project_id, accounts.clock.now()
    codes = make_recovery_codes()

    async def confirm(
        connection: asyncpg.Connection, user: UserRecord
    ) -> tuple[UserError | None, tuple[Announcement, ...]]:
        if user.totp_confirmed_at is not None:
            return _IN_USE, ()
        if user.sealed_totp_secret is None:
            return _NOT_BEGUN, ()
        proof = read_code(accounts.vault, user, code[:MAX_CODE_CHARACTERS], project_id=project_id, now=now)
        if not isinstance(proof, TimeStep):
            return _WRONG, ()
        await write_confirmed(
            connection,
            project_id=project_id,
            user_id=user_id,
            step=proof.step,
            recovery_code_hashes=[hash_recovery_code(each) for each in codes],
            now=now,
        )
        event = _enrolled(user_id, now)
        return None, await record(connection, project_id=project_id, transitions=(), events=[event], now=now)

    error = await _with_code(accounts, project, user_id, now, confirm)
    return ConfirmedTotp(codes) if error is None else ConfirmedTotp(errors=(error,))


async def disable_totp(accounts: Accounts, project: ProjectRecord, *, user_id: str, code: str) -> tuple[UserError, ...]:
    """Ask for codes no more. Raises `RateLimited` after many wrong ones."""
    project_id, now = project.project_id, accounts.clock.now()

    async def disable(
        connection: asyncpg.Connection, user: UserRecord
    ) -> tuple[UserError | None, tuple[Announcement, ...]]:
        if user.totp_confirmed_at is None:
            return _NOT_IN_USE, ()
        proof = read_code(accounts.vault, user, code[:MAX_CODE_CHARACTERS], project_id=project_id, now=now)
        if proof is None or not await spend(connection, project_id=project_id, user_id=user_id, proof=proof):
            return _WRONG, ()
        await end_totp(connection, project_id=project_id, user_id=user_id)
        return None, ()

    error = await _with_code(accounts, project, user_id, now, disable)
    return () if error is None else (error,)


async def _with_code(
    accounts: Accounts,
    project: ProjectRecord,
    user_id: str,
    now: datetime,
    action: Callable[[asyncpg.Connection, UserRecord], Awaitable[tuple[UserError | None, tuple[Announcement, ...]]]],
) -> UserError | None:
    """Run `action` on the locked user; a wrong code counts as a failure of the account, in the same transaction."""
    project_id = project.project_id

    async def attempt(connection: asyncpg.Connection) -> tuple[UserError | None, tuple[Announcement, ...]]:
        user = await _lock(connection, project_id, user_id)
        if user is None or user.email is None:
            return _NO_ACCOUNT, ()
        subjects = subjects_of(project.salt, email=user.email, client=None)
        await check_storm(connection, project_id=project_id, subjects=subjects, now=now)
        error, said = await action(connection, user)
        if error is _WRONG:
            said = await count_failure(connection, project_id=project_id, subjects=subjects, user_id=user_id, now=now)
        return error, said

    error, said = await run_transaction(accounts.database, attempt)
    for announcement in said:
        accounts.announce(announcement)
    return error


async def _lock(connection: asyncpg.Connection, project_id: UUID, user_id: str) -> UserRecord | None:
    return (await lock_users(connection, project_id=project_id, user_ids=[user_id])).get(user_id)


def _enrolled(user_id: str, now: datetime) -> NewEvent:
    return NewEvent(
        key=f"{ENROLLED}:{user_id}:{now.timestamp()}",
        module="auth",
        event_type=ENROLLED,
        timestamp=now,
        user_id=user_id,
        anonymous_id=None,
        properties=msgspec.json.encode({"method": "totp"}).decode(),
        context="{}",
    )
