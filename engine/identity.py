"""Who speaks: a token becomes a `Viewer`.

Guarantees: a token of another region is refused without a look-up; a revoked key is refused as soon as the log of
revocations has told of it, and at most `KEY_MAX_AGE` later without that log; nothing but its hash is kept of a token.
Leaves to others: what a viewer may do (resolvers.permissions), ending what one has open (engine.live.revocations).
Never stops: it holds no task and no connection.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from time import monotonic
from typing import Final, Protocol
from uuid import UUID

import msgspec

from db.api_keys import find_api_key, touch_api_keys
from db.database import Database
from db.projects import read_project
from db.records import ApiKeyRecord, ProjectRecord
from engine.errors import Unauthenticated

KEY_MAX_AGE = timedelta(seconds=60)
"""How long a look-up is believed: the bound on a lost revocation, and how exact `lastUsedAt` is."""

MAX_CACHED_KEYS = 10_000
"""About 1 KB each. A deployment has some keys per project; a flood of made-up tokens is never cached at all."""

LOOK_UPS_AT_ONCE = 2
"""A flood of made-up tokens gets these connections of the pool, and no more."""

_TOKEN: Final = re.compile(r"(sk|pk)_([a-z]{2})_(dev|prod)_[A-Za-z0-9_-]{43}")


class Role(IntEnum):
    """What a viewer may do; each includes those before it."""

    INGEST = 1
    VIEWER = 2
    EDITOR = 3
    ADMIN = 4


class ApiKeyKind(StrEnum):
    """Where a key may live: in an app, or on a server only."""

    PUBLISHABLE = "PUBLISHABLE"
    SECRET = "SECRET"  # noqa: S105


class KeyEnvironment(StrEnum):
    """What a key is for. Both see the same data; it stands in the token, so that nobody mistakes one for the other."""

    DEV = "DEV"
    PROD = "PROD"


class UserSession(msgspec.Struct, frozen=True):
    """The session of an end user of the host app, as the access token says. `expires_at` is the token's, in UTC."""

    session_id: UUID
    user_id: str
    anonymous: bool
    expires_at: datetime


class Viewer(msgspec.Struct, frozen=True):
    """Who asks, in which project, with which role. Who comes with a session is INGEST, and reads its own person."""

    project: ProjectRecord
    api_key: ApiKeyRecord | None
    role: Role
    session: UserSession | None = None

    @property
    def project_id(self) -> UUID:
        return self.project.project_id

    @property
    def actor(self) -> str:
        """Who it is, in the audit log and the log of consent."""
        if self.session is not None:
            return f"user:{self.session.user_id}"
        return "nobody" if self.api_key is None else f"api_key:{self.api_key.prefix}"


class RevocationLog(Protocol):
    """What is known of revoked keys; `engine.live.revocations.Revocations` is one."""

    def revoked(self, api_key_id: UUID) -> bool: ...

    def on_revoked_any(self, callback: Callable[[UUID], None]) -> object: ...


class _Known(msgspec.Struct, frozen=True):
    project: ProjectRecord
    api_key: ApiKeyRecord
    looked_up_at: float


class Identities:
    """Turns tokens into viewers, with a bounded cache of look-ups; concurrent look-ups of one token are one."""

    def __init__(
        self,
        database: Database,
        *,
        region: str,
        revocations: RevocationLog | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._database = database
        self._region = region
        self._revocations = revocations
        self._clock = clock
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._looking: dict[bytes, asyncio.Task[_Known]] = {}
        self._look_ups = asyncio.Semaphore(LOOK_UPS_AT_ONCE)
        if revocations is not None:
            revocations.on_revoked_any(self.forget)

    async def viewer_of(self, token: str, *, from_browser: bool = False) -> Viewer:
        """The viewer whom a token names. `from_browser`: an `Origin` came with it.

        Raises `Unauthenticated`, in words that never repeat the token.
        """
        self._check_shape(token)
        token_hash = hash_token(token)
        known = self._cached(token_hash) or await self._look_up_once(token_hash)
        if known.api_key.revoked_at is not None or self._is_revoked(known.api_key.api_key_id):
            raise Unauthenticated("This API key has been revoked.")
        return Viewer(known.project, known.api_key, effective_role(known.api_key, from_browser=from_browser))

    def forget(self, api_key_id: UUID) -> None:
        """Drop what is cached of a key."""
        for token_hash in [each for each, known in self._known.items() if known.api_key.api_key_id == api_key_id]:
            del self._known[token_hash]

    def _check_shape(self, token: str) -> None:
        shape = _TOKEN.fullmatch(token)
        if shape is None:
            raise Unauthenticated("This is not an API key: one starts with sk_ or pk_.")
        if shape[2] != self._region:
            raise Unauthenticated(
                f"This API key belongs to region {shape[2]}, and this is region {self._region}: "
                "send the request to that region's address."
            )

    def _cached(self, token_hash: bytes) -> _Known | None:
        known = self._known.get(token_hash)
        if known is None or self._clock() - known.looked_up_at > KEY_MAX_AGE.total_seconds():
            return None
        return known

    def _is_revoked(self, api_key_id: UUID) -> bool:
        return self._revocations is not None and self._revocations.revoked(api_key_id)

    async def _look_up_once(self, token_hash: bytes) -> _Known:
        """Shielded, so that one caller who goes away does not take the answer from the others."""
        task = self._looking.get(token_hash)
        if task is None:
            task = asyncio.create_task(self._look_up(token_hash))
            self._looking[token_hash] = task
            task.add_done_callback(lambda done: self._looked_up(token_hash, done))
        return await asyncio.shield(task)

    def _looked_up(self, token_hash: bytes, done: asyncio.Task[_Known]) -> None:
        """Also takes note of an error that nobody waited for any more."""
        self._looking.pop(token_hash, None)
        if not done.cancelled():
            done.exception()

    async def _look_up(self, token_hash: bytes) -> _Known:
        looked_up_at = self._clock()
        async with self._look_ups, self._database.connection() as connection:
            api_key = await find_api_key(connection, token_hash=token_hash)
            if api_key is None:
                self._known.pop(token_hash, None)
                raise Unauthenticated("This API key is not known.")
            project = await read_project(connection, project_id=api_key.project_id)
            if project is None:
                raise LookupError("an API key without its project")
            await touch_api_keys(connection, api_key_ids=[api_key.api_key_id])
        known = _Known(project, api_key, looked_up_at)
        self._remember(token_hash, known)
        return known

    def _remember(self, token_hash: bytes, known: _Known) -> None:
        self._known[token_hash] = known
        self._known.move_to_end(token_hash)
        if len(self._known) > MAX_CACHED_KEYS:
            self._known.popitem(last=False)


def hash_token(token: str) -> bytes:
    """SHA-256: a token is random, so nothing slower would add anything."""
    return hashlib.sha256(token.encode()).digest()


def effective_role(api_key: ApiKeyRecord, *, from_browser: bool) -> Role:
    """The role that a key has on this connection: a publishable key in a browser is never more than INGEST."""
    if api_key.kind == ApiKeyKind.PUBLISHABLE and from_browser:
        return Role.INGEST
    return Role[api_key.role]


_SCOPES = {
    Role.INGEST: ("events:write", "profiles:identify"),
    Role.VIEWER: ("events:read", "event-types:read", "profiles:read", "streams:read"),
    Role.EDITOR: (),
    Role.ADMIN: ("api-keys:manage", "projects:create"),
}


def scopes_of(role: Role) -> tuple[str, ...]:
    """What a role may do, in words for people: those of the roles it includes come first."""
    return tuple(scope for each in Role if each <= role for scope in _SCOPES[each])
