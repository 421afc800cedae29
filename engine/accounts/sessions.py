"""Sessions: families of refresh tokens, each good once, and the access tokens that go with them.

Guarantees: a session lasts `SESSION_LIFETIME` from its last use; a refresh token that comes back a second time ends its
whole family, because two have it by then; a refresh whose COMMIT was left unanswered is found again, not repeated.
Whatever ends a session tells every gateway in the same transaction. Locks: users, sessions, heads, the system's head.
Leaves to others: who may have a session (`engine.accounts.sign_in`), and refusing what access tokens of ended sessions
still ask for (`engine.live.revocations`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.database import Database
from db.sessions import FoundSession, end_sessions, find_session, insert_session, lock_session, rotate_refresh_token
from engine.accounts.access_tokens import AccessTokens, Signer
from engine.accounts.passwords import Passwords
from engine.accounts.refresh_tokens import RefreshToken, make_refresh_token, read_refresh_token
from engine.announcements import Announcement
from engine.clock import Clock
from engine.errors import UserError
from engine.revoking import Revocation, append_revocations
from engine.transactions import run_transaction
from engine.vault import Vault

if TYPE_CHECKING:
    import asyncpg

SESSION_LIFETIME = timedelta(days=60)
"""Since its last use: who comes back every other month stays signed in."""
SIGNED_OUT, TOKEN_REUSED = "SIGNED_OUT", "TOKEN_REUSED"
TAKEN_OVER, UPGRADED = "TAKEN_OVER", "UPGRADED"


@dataclass(frozen=True, slots=True)
class Accounts:
    """What all sign-ins of one process share. `announce` never blocks; `region` is `us` or `eu`."""

    database: Database
    tokens: AccessTokens
    passwords: Passwords
    vault: Vault
    announce: Callable[[Announcement], None]
    clock: Clock
    region: str


class IssuedSession(msgspec.Struct, frozen=True):
    """A session with tokens just made. `expires_at` is the access token's."""

    user_id: str
    anonymous: bool
    access_token: str
    refresh_token: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"IssuedSession(user_id={self.user_id})"


class Authenticated(msgspec.Struct, frozen=True):
    """What became of a sign-in or a refresh. `retired_*` are those of an anonymous user who was taken over."""

    session: IssuedSession | None = None
    errors: tuple[UserError, ...] = ()
    retired_user_id: str | None = None
    retired_profile_id: UUID | None = None


class NewSession(msgspec.Struct, frozen=True):
    """A session that is about to be made: everything that takes time was done before its transaction begins."""

    session_id: UUID
    token: RefreshToken
    signer: Signer
    now: datetime

    async def insert(
        self, connection: asyncpg.Connection, *, project_id: UUID, user_id: str, anonymous: bool, device_id: str | None
    ) -> None:
        """Make it."""
        await insert_session(
            connection,
            project_id=project_id,
            session_id=self.session_id,
            user_id=user_id,
            anonymous=anonymous,
            device_id=device_id,
            now=self.now,
            expires_at=self.now + SESSION_LIFETIME,
            token_hash=self.token.token_hash,
        )

    def issued(self, *, project_id: UUID, user_id: str, anonymous: bool) -> IssuedSession:
        """Its tokens, for whom it was made."""
        return _issued(self.signer, self.token, self.session_id, project_id, user_id, self.now, anonymous=anonymous)


class Ended(msgspec.Struct, frozen=True):
    """Why a refresh token is good for nothing, and what to announce."""

    error: UserError
    announcements: tuple[Announcement, ...] = ()


async def refresh_session(accounts: Accounts, *, project_id: UUID, refresh_token: str) -> Authenticated:
    """Replace a refresh token by the next one. The only change together with an error: a family that ends."""
    path = ("refreshToken",)
    given = read_refresh_token(refresh_token, region=accounts.region, path=path)
    if isinstance(given, UserError):
        return Authenticated(errors=(given,))
    signer, following, now = await accounts.tokens.signer(), make_refresh_token(accounts.region), accounts.clock.now()

    async def rotate(connection: asyncpg.Connection) -> FoundSession | Ended:
        if made := await find_session(connection, project_id=project_id, token_hash=following.token_hash):
            return made
        found = await lock_found(connection, project_id=project_id, token_hash=given.token_hash)
        refused = await refuse_session(connection, found, project_id=project_id, path=path, now=now)
        if found is None or refused is not None:
            return refused or _unknown(path)
        await rotate_refresh_token(
            connection,
            project_id=project_id,
            session_id=found.session_id,
            before=given.token_hash,
            after=following.token_hash,
            now=now,
            expires_at=now + SESSION_LIFETIME,
        )
        return found

    outcome = await run_transaction(accounts.database, rotate)
    if isinstance(outcome, Ended):
        _announce(accounts, outcome.announcements)
        return Authenticated(errors=(outcome.error,))
    user_id, anonymous = outcome.user_id, outcome.anonymous
    return Authenticated(_issued(signer, following, outcome.session_id, project_id, user_id, now, anonymous=anonymous))


async def sign_out(accounts: Accounts, *, project_id: UUID, refresh_token: str) -> tuple[UserError, ...]:
    """End the session of a refresh token. One that has ended stays so."""
    path = ("refreshToken",)
    given = read_refresh_token(refresh_token, region=accounts.region, path=path)
    if isinstance(given, UserError):
        return (given,)
    now = accounts.clock.now()

    async def end(connection: asyncpg.Connection) -> tuple[Announcement, ...] | Ended:
        found = await lock_found(connection, project_id=project_id, token_hash=given.token_hash)
        if found is None:
            return _unknown(path)
        ended = await end_sessions(
            connection, project_id=project_id, session_ids=[found.session_id], reason=SIGNED_OUT, now=now
        )
        return await append_revocations(connection, Revocation.SESSION_ENDED, ended)

    outcome = await run_transaction(accounts.database, end)
    if isinstance(outcome, Ended):
        return (outcome.error,)
    _announce(accounts, outcome)
    return ()


async def lock_found(connection: asyncpg.Connection, *, project_id: UUID, token_hash: bytes) -> FoundSession | None:
    """The session of a refresh token, locked, as it is now."""
    found = await find_session(connection, project_id=project_id, token_hash=token_hash)
    if found is None:
        return None
    await lock_session(connection, project_id=project_id, session_id=found.session_id)
    return await find_session(connection, project_id=project_id, token_hash=token_hash)


async def refuse_session(
    connection: asyncpg.Connection,
    found: FoundSession | None,
    *,
    project_id: UUID,
    path: tuple[str, ...],
    now: datetime,
) -> Ended | None:
    """Why nobody goes on with a session, which is locked, by the token that it was found by; None when they may.

    A token that was used before ends its family, in the caller's transaction, whose last lock that takes.
    """
    if found is None:
        return _unknown(path)
    if found.ended_at is not None or found.expires_at <= now:
        return Ended(UserError("This session is over: sign in again.", "INVALID_CREDENTIALS", path))
    if found.used_at is None:
        return None
    ended = await end_sessions(
        connection, project_id=project_id, session_ids=[found.session_id], reason=TOKEN_REUSED, now=now
    )
    error = UserError(
        "This refresh token was used before, so somebody else may have it: its session is over. Sign in again.",
        "INVALID_CREDENTIALS",
        path,
    )
    return Ended(error, await append_revocations(connection, Revocation.SESSION_ENDED, ended))


def _unknown(path: tuple[str, ...]) -> Ended:
    return Ended(UserError("This refresh token is not known in this project.", "INVALID_CREDENTIALS", path))


def _issued(
    signer: Signer,
    token: RefreshToken,
    session_id: UUID,
    project_id: UUID,
    user_id: str,
    now: datetime,
    *,
    anonymous: bool,
) -> IssuedSession:
    access = signer.issue(project_id=project_id, session_id=session_id, user_id=user_id, anonymous=anonymous, now=now)
    return IssuedSession(user_id, anonymous, access.token, token.token, access.expires_at)


def _announce(accounts: Accounts, announcements: tuple[Announcement, ...]) -> None:
    for announcement in announcements:
        accounts.announce(announcement)
