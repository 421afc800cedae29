"""Who speaks: credentials become a `Viewer`. An API key, an end user's session, or a member of the organization.

Guarantees: credentials of another region are refused without a look-up; what was revoked or has ended is refused as
soon as the log of revocations has told of it, and keys and members' tokens at most `KEY_MAX_AGE` later without that
log; a token that is good is kept in memory as long as its look-up is believed, and nothing but its hash anywhere
else; how long a wrong one takes says nothing of how near it is to a good one, because what is kept is found by a keyed
hash of all of it. A session is INGEST whatever comes with it, and opens one project.
Leaves to others: what a viewer may do (resolvers.permissions), ending what one has open (engine.live.revocations),
what access tokens are (engine.accounts.access_tokens). Never stops: it holds no task and no connection.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Hashable
from datetime import UTC, datetime, timedelta
from enum import IntEnum, StrEnum
from time import monotonic
from typing import Final, Protocol
from uuid import UUID

import msgspec

from db.api_keys import find_api_key, touch_api_keys
from db.database import Database
from db.members import KnownMember, find_member, touch_member_token
from db.projects import list_projects, read_project
from db.records import SYSTEM_PROJECT, ApiKeyRecord, ProjectRecord
from engine.errors import Unauthenticated
from engine.look_ups import LookUps

KEY_MAX_AGE = timedelta(seconds=60)
"""How long a look-up is believed: the bound on a lost revocation, and how exact `lastUsedAt` is."""

MAX_CACHED_KEYS = 10_000
"""About 1 KB each. A deployment has some keys per project; a flood of made-up tokens is never cached at all."""

LOOK_UPS_AT_ONCE = 2
"""A flood of made-up tokens gets these connections of the pool, and no more."""

MEMBER_TOKEN_PREFIX: Final = "mt_"  # noqa: S105

_TOKEN: Final = re.compile(r"(sk|pk)_([a-z]{2})_(dev|prod)_[A-Za-z0-9_-]{43}")
_MEMBER_TOKEN: Final = re.compile(r"mt_([a-z]{2})_[A-Za-z0-9_-]{43}")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


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
    """Who asks, in which project, with which role. Who comes with a session is INGEST, and reads its own person.

    `api_key` is also there when it came along with a session, which then speaks. `member` is somebody of the dashboard.
    """

    project: ProjectRecord
    api_key: ApiKeyRecord | None
    role: Role
    session: UserSession | None = None
    member: KnownMember | None = None

    @property
    def project_id(self) -> UUID:
        return self.project.project_id

    @property
    def actor(self) -> str:
        """Who it is, in the audit log and the log of consent."""
        if self.session is not None:
            return f"user:{self.session.user_id}"
        if self.member is not None:
            return f"member:{self.member.email}"
        return "nobody" if self.api_key is None else f"api_key:{self.api_key.prefix}"

    @property
    def holder(self) -> UUID:
        """Whose credentials these are: equal for equal ones. What is bounded counts by it."""
        if self.session is not None:
            return self.session.session_id
        if self.member is not None:
            return self.member.member_id
        return self.project_id if self.api_key is None else self.api_key.api_key_id

    def bucket(self, network: str | None) -> Hashable:
        """Whose points its operations take, where `network` is what it comes from.

        An account has one bucket however often it signs in. What anybody can have for nothing, anonymous sessions and
        the keys that lie open in apps, is told apart by where it comes from: making more of it gives no more, and
        whoever uses it up does so at one place.
        """
        session = self.session
        if session is not None:
            return (self.project_id, network) if session.anonymous else (self.project_id, "user", session.user_id)
        if self.api_key is not None and self.api_key.kind == ApiKeyKind.PUBLISHABLE:
            return (self.api_key.api_key_id, network)
        return self.holder

    @property
    def credentials(self) -> tuple[tuple[UUID, str], ...]:
        """The ids of all that can be revoked or end, each with what its holder is then told."""
        found: list[tuple[UUID, str]] = []
        if self.api_key is not None:
            found.append((self.api_key.api_key_id, "This API key has been revoked."))
        if self.session is not None:
            found.append((self.session.session_id, SESSION_ENDED))
        if self.member is not None:
            found.append((self.member.member_id, MEMBER_REMOVED))
            found.append((self.member.member_token_id, MEMBER_TOKEN_REVOKED))
        return tuple(found)

    @property
    def expires_at(self) -> datetime | None:
        """When the credentials expire, in UTC; None for an API key, which never does."""
        if self.session is not None:
            return self.session.expires_at
        return None if self.member is None else self.member.expires_at


SESSION_ENDED: Final = "This session has ended: sign in again."
MEMBER_REMOVED: Final = "This person is no member of the organization any more."
MEMBER_TOKEN_REVOKED: Final = "This member token has been revoked."  # noqa: S105
MEMBER_TOKEN_EXPIRED: Final = "This member token has expired: make another one."  # noqa: S105


class Claims(Protocol):
    """What an access token says; `engine.accounts.access_tokens.AccessClaims` is one."""

    @property
    def project_id(self) -> UUID: ...

    @property
    def session_id(self) -> UUID: ...

    @property
    def user_id(self) -> str: ...

    @property
    def anonymous(self) -> bool: ...

    @property
    def expires_at(self) -> datetime: ...


class AccessTokenReader(Protocol):
    """Reads access tokens; `engine.accounts.access_tokens.AccessTokens` is one."""

    async def read(self, token: str) -> Claims:
        """What a token says. Raises `Unauthenticated`."""


class RevocationLog(Protocol):
    """What is known of revoked credentials; `engine.live.revocations.Revocations` is one."""

    def revoked(self, credential_id: UUID) -> bool: ...

    def on_revoked_any(self, callback: Callable[[UUID], None]) -> object: ...


class _Known(msgspec.Struct, frozen=True):
    """A key, as the viewer whom it makes, and as the one it makes in a browser. Whoever is told of a revocation later
    forgets it."""

    api_key: ApiKeyRecord
    viewer: Viewer
    in_browser: Viewer
    is_revoked: bool


class Identities:
    """Turns credentials into viewers, with bounded caches of look-ups; concurrent look-ups of one token are one."""

    def __init__(
        self,
        database: Database,
        *,
        region: str,
        revocations: RevocationLog | None = None,
        access_tokens: AccessTokenReader | None = None,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        """Without `access_tokens` no session is taken. `now` is what members' tokens expire by."""
        self._database = database
        self._region = region
        self._revocations = revocations
        self._access_tokens = access_tokens
        self._now = now or _utc_now
        self._look_ups = asyncio.Semaphore(LOOK_UPS_AT_ONCE)
        self._keys = LookUps(self._look_up_key, max_age=KEY_MAX_AGE, max_entries=MAX_CACHED_KEYS, clock=clock)
        self._members = LookUps(self._look_up_member, max_age=KEY_MAX_AGE, max_entries=MAX_CACHED_KEYS, clock=clock)
        self._projects = LookUps(self._look_up_project, max_age=KEY_MAX_AGE, max_entries=MAX_CACHED_KEYS, clock=clock)
        if revocations is not None:
            revocations.on_revoked_any(self.forget)

    async def viewer_of(self, token: str, *, from_browser: bool = False) -> Viewer:
        """The viewer whom an API key names. `from_browser`: an `Origin` came with it.

        Raises `Unauthenticated`, in words that never repeat the token.
        """
        known = self._keys.known(token)
        if known is None:
            self._check_shape(token)
            known = await self._keys.find(token)
        return _admitted(known, from_browser=from_browser)

    def known_viewer(self, token: str, *, from_browser: bool) -> Viewer | None:
        """The same without waiting, for a key that was looked up a moment ago; None for any other."""
        known = self._keys.known(token)
        return None if known is None else _admitted(known, from_browser=from_browser)

    async def viewer_of_bearer(self, token: str, *, project: str | None, api_key: str | None = None) -> Viewer:
        """The viewer whom a bearer token names: an end user's session, or a member.

        `project` is the uuid that came in `X-Sendora-Project`. An API key may come along with a session, and names the
        project too. Raises `Unauthenticated`, in words that never repeat a token.
        """
        if token.startswith(MEMBER_TOKEN_PREFIX):
            return await self._viewer_of_member(token, _read_project_id(project))
        return await self._viewer_of_session(token, _read_project_id(project), api_key)

    def forget(self, credential_id: UUID) -> None:
        """Drop what is cached of a key, a member or a member's token."""
        self._keys.forget(lambda known: known.api_key.api_key_id == credential_id)
        self._members.forget(lambda known: credential_id in (known.member_id, known.member_token_id))

    async def _viewer_of_session(self, token: str, project_id: UUID | None, api_key: str | None) -> Viewer:
        if self._access_tokens is None:
            raise Unauthenticated("Sessions of end users are not taken here.")
        claims = await self._access_tokens.read(token)
        if self._is_revoked(claims.session_id):
            raise Unauthenticated(SESSION_ENDED)
        key = None if api_key is None else (await self.viewer_of(api_key)).api_key
        if project_id is None and key is None:
            raise Unauthenticated("Say which project: send its uuid in X-Sendora-Project, or its key in x-api-key.")
        named = {project_id or claims.project_id, claims.project_id if key is None else key.project_id}
        if named != {claims.project_id}:
            raise Unauthenticated("This session is of another project than X-Sendora-Project or x-api-key names.")
        project = await self._project(claims.project_id)
        if project is None:
            raise Unauthenticated("The project of this session is not known.")
        session = UserSession(claims.session_id, claims.user_id, claims.anonymous, claims.expires_at)
        return Viewer(project, key, Role.INGEST, session=session)

    async def _viewer_of_member(self, token: str, project_id: UUID | None) -> Viewer:
        member = self._members.known(token)
        if member is None:
            self._check_member_shape(token)
            member = await self._members.find(token)
        if self._is_revoked(member.member_id):
            raise Unauthenticated(MEMBER_REMOVED)
        if self._is_revoked(member.member_token_id):
            raise Unauthenticated(MEMBER_TOKEN_REVOKED)
        if member.expires_at <= self._now():
            raise Unauthenticated(MEMBER_TOKEN_EXPIRED)
        if project_id is None:
            # Enough to see which projects there are. Nothing is changed in one that nobody chose.
            project, role = await self._first_project(member.organization_id), Role.VIEWER
        else:
            project, role = await self._project(project_id), Role[member.role]
        if project is None or project.organization_id != member.organization_id:
            raise Unauthenticated("This organization has no such project: see X-Sendora-Project.")
        return Viewer(project, None, role, member=member)

    def _check_shape(self, token: str) -> None:
        shape = _TOKEN.fullmatch(token)
        if shape is None:
            raise Unauthenticated("This is not an API key: one starts with sk_ or pk_.")
        self._check_region("API key", shape[2])

    def _check_member_shape(self, token: str) -> None:
        shape = _MEMBER_TOKEN.fullmatch(token)
        if shape is None:
            raise Unauthenticated("This is not a member token: one starts with mt_.")
        self._check_region("member token", shape[1])

    def _check_region(self, what: str, region: str) -> None:
        if region != self._region:
            raise Unauthenticated(
                f"This {what} belongs to region {region}, and this is region {self._region}: "
                "send the request to that region's address."
            )

    def _is_revoked(self, credential_id: UUID) -> bool:
        return self._revocations is not None and self._revocations.revoked(credential_id)

    async def _project(self, project_id: UUID) -> ProjectRecord | None:
        try:
            return self._projects.known(project_id) or await self._projects.find(project_id)
        except LookupError:
            return None

    async def _first_project(self, organization_id: UUID) -> ProjectRecord | None:
        async with self._look_ups, self._database.connection() as connection:
            projects = await list_projects(connection, organization_id=organization_id)
        return projects[0] if projects else None

    async def _look_up_key(self, token: str) -> _Known:
        async with self._look_ups, self._database.connection() as connection:
            api_key = await find_api_key(connection, token_hash=hash_token(token))
            if api_key is None:
                raise Unauthenticated("This API key is not known.")
            project = await read_project(connection, project_id=api_key.project_id)
            if project is None:
                raise LookupError("an API key without its project")
            await touch_api_keys(connection, api_key_ids=[api_key.api_key_id])
        outside, inside = (
            Viewer(project, api_key, effective_role(api_key, from_browser=in_browser)) for in_browser in (False, True)
        )
        is_revoked = api_key.revoked_at is not None or self._is_revoked(api_key.api_key_id)
        return _Known(api_key, outside, inside, is_revoked)

    async def _look_up_member(self, token: str) -> KnownMember:
        async with self._look_ups, self._database.connection() as connection:
            member = await find_member(connection, token_hash=hash_token(token))
            if member is None:
                raise Unauthenticated("This member token is not known, or good no more.")
            await touch_member_token(connection, member_token_id=member.member_token_id)
        return member

    async def _look_up_project(self, project_id: UUID) -> ProjectRecord:
        async with self._look_ups, self._database.connection() as connection:
            project = await read_project(connection, project_id=project_id)
        if project is None or project_id == SYSTEM_PROJECT:
            raise LookupError("no such project")
        return project


def _admitted(known: _Known, *, from_browser: bool) -> Viewer:
    if known.is_revoked:
        raise Unauthenticated("This API key has been revoked.")
    return known.in_browser if from_browser else known.viewer


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _read_project_id(text: str | None) -> UUID | None:
    if text is None:
        return None
    if _UUID.fullmatch(text) is None:
        raise Unauthenticated("X-Sendora-Project takes the uuid of a project.")
    return UUID(text)


def hash_token(token: str) -> bytes:
    """SHA-256: a token is random, so nothing slower would add anything."""
    return hashlib.sha256(token.encode()).digest()


def effective_role(api_key: ApiKeyRecord, *, from_browser: bool) -> Role:
    """The role that a key has on this connection: a publishable key in a browser is never more than INGEST."""
    if api_key.kind == ApiKeyKind.PUBLISHABLE and from_browser:
        return Role.INGEST
    return Role[api_key.role]


_SCOPES = {
    Role.INGEST: ("events:write", "profiles:identify", "sessions:create", "push-tokens:write", "consent:write"),
    Role.VIEWER: (
        "events:read",
        "event-types:read",
        "profiles:read",
        "consent:read",
        "audiences:read",
        "workflows:read",
        "deliveries:read",
        "analytics:read",
        "settings:read",
        "streams:read",
    ),
    Role.EDITOR: (
        "audiences:write",
        "workflows:write",
        "analytics:write",
        "templates:write",
        "webhooks:write",
        "deliveries:write",
        "messages:send",
    ),
    Role.ADMIN: (
        "api-keys:manage",
        "projects:create",
        "providers:manage",
        "settings:write",
        "trusted-documents:write",
        "audit-log:read",
        "profiles:export",
        "profiles:erase",
    ),
}


def scopes_of(role: Role) -> tuple[str, ...]:
    """What a role may do, in words for people: those of the roles it includes come first."""
    return tuple(scope for each in Role if each <= role for scope in _SCOPES[each])
