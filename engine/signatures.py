"""Signatures of user ids: how an app's server says that whoever holds this app is that person.

A signature is HMAC-SHA256 of the user id's UTF-8 bytes under the project's identity secret (its text, as it was shown),
in hexadecimal digits. Guarantees: compared in constant time with all secrets that are valid; a secret is shown once,
sealed at rest, and never in a log; a rotation holds everywhere within a second (`MAX_AGE`), and the old secret to the
end of its grace. Leaves to others: who needs a signature (`resolvers.naming`).
"""

from __future__ import annotations

import hmac
import logging
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.database import Database
from db.identity_secrets import (
    delete_expired_identity_secrets,
    expire_identity_secrets,
    insert_identity_secret,
    read_identity_secrets,
)
from db.project_settings import lock_project_settings
from engine.audit import Audit
from engine.clock import Clock
from engine.errors import UserError
from engine.look_ups import LookUps
from engine.node_ids import NodeKind, write_node_id
from engine.transactions import run_transaction
from engine.vault import CannotOpen, Vault

if TYPE_CHECKING:
    import asyncpg

MAX_AGE = timedelta(seconds=1)
"""How long a gateway believes what it read of a project's secrets."""
MAX_CACHED_PROJECTS = 10_000
MAX_GRACE_SECONDS = 2_592_000
"""Thirty days, as with webhooks: whoever has not deployed by then has forgotten it."""
MAX_SECRETS = 10
"""That are valid at once: each is tried with each signature."""
SECRET_PREFIX = "ids_"  # noqa: S105
SECRET_BYTES = 32
_DIGEST_BYTES = 32

_logger = logging.getLogger(__name__)


class _Valid(msgspec.Struct, frozen=True):
    """A secret in the open. It never leaves this module."""

    secret: bytes
    expires_at: datetime | None


class Signatures:
    """Verifies signatures, for one gateway."""

    def __init__(
        self, database: Database, vault: Vault, clock: Clock, *, monotonic_clock: Callable[[], float] = monotonic
    ) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock
        self._look_ups = LookUps(self._look_up, max_age=MAX_AGE, max_entries=MAX_CACHED_PROJECTS, clock=monotonic_clock)

    async def verify(self, project_id: UUID, user_id: str, signature: str) -> bool:
        """Whether it is `user_id`'s under a secret of the project that is valid now."""
        found = self._look_ups.known(project_id)
        valid = await self._look_ups.find(project_id) if found is None else found
        now = self._clock.now()
        return matches(user_id, signature, [each.secret for each in valid if _lasts(each, now)])

    async def _look_up(self, project_id: UUID) -> tuple[_Valid, ...]:
        async with self._database.connection() as connection:
            records = await read_identity_secrets(connection, project_id=project_id, now=self._clock.now())
        found = []
        for record in records:
            try:
                secret = self._vault.open(
                    record.sealed_secret,
                    project_id=project_id,
                    purpose=identity_secret_purpose(record.identity_secret_id),
                )
            except CannotOpen:
                _logger.error("identity_secret.unreadable", extra={"project_id": str(project_id)})
                continue
            found.append(_Valid(secret, record.expires_at))
        return tuple(found)


def sign(user_id: str, secret: str) -> str:
    """What an app's server does. Pure."""
    return hmac.digest(secret.encode(), user_id.encode("utf-8", "surrogatepass"), "sha256").hex()


def matches(user_id: str, signature: str, valid: Sequence[bytes]) -> bool:
    """Whether a signature is right under one of the secrets. All are tried, so that time tells nothing. Pure."""
    try:
        given = bytes.fromhex(signature) if len(signature) == 2 * _DIGEST_BYTES else b""
    except ValueError:
        given = b""
    message = user_id.encode("utf-8", "surrogatepass")
    found = [hmac.compare_digest(hmac.digest(secret, message, "sha256"), given) for secret in valid]
    return any(found)


def identity_secret_purpose(identity_secret_id: UUID) -> str:
    """What it is sealed for."""
    return f"identity_secret:{identity_secret_id}"


async def rotate_identity_secret(
    database: Database, vault: Vault, *, project_id: UUID, grace_seconds: int, audit: Audit
) -> str | UserError:
    """Make the next secret and return it, this once. Those before it hold until the grace is over, none longer than it
    would have; with no grace all of them end now, which is what to do about one that others know."""
    if not 0 <= grace_seconds <= MAX_GRACE_SECONDS:
        return UserError(f"graceSeconds is 0 to {MAX_GRACE_SECONDS}.", "INVALID", ("graceSeconds",))
    identity_secret_id, secret = uuid7(), SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    sealed = vault.seal(secret.encode(), project_id=project_id, purpose=identity_secret_purpose(identity_secret_id))

    async def rotate(connection: asyncpg.Connection) -> UserError | None:
        await lock_project_settings(connection, project_id=project_id, now=audit.now)
        ends = audit.now + timedelta(seconds=grace_seconds)
        held = await read_identity_secrets(connection, project_id=project_id, now=audit.now)
        if any(each.identity_secret_id == identity_secret_id for each in held):
            # The COMMIT before was answered by nobody.
            return None
        if grace_seconds and len(held) >= MAX_SECRETS:
            message = f"{MAX_SECRETS} secrets are valid: wait until one has ended, or rotate without grace."
            return UserError(message, "LIMIT_EXCEEDED", ())
        await expire_identity_secrets(connection, project_id=project_id, at=ends)
        await delete_expired_identity_secrets(connection, project_id=project_id, now=audit.now)
        await insert_identity_secret(
            connection,
            project_id=project_id,
            identity_secret_id=identity_secret_id,
            sealed_secret=sealed,
            now=audit.now,
        )
        await audit.note(
            connection,
            "identity_secret.rotated",
            write_node_id(NodeKind.PROJECT, project_id),
            project_id=project_id,
            before={"count": len(held)},
            after={"count": 1 + (len(held) if grace_seconds else 0), "graceSeconds": grace_seconds},
        )
        return None

    refused = await run_transaction(database, rotate)
    return secret if refused is None else refused


def _lasts(each: _Valid, now: datetime) -> bool:
    return each.expires_at is None or each.expires_at > now
