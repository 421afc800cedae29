"""The keys that access tokens are signed with (Ed25519): made when first needed, published, and rotated.

Guarantees: there is always one that signs, however many gateways ask for the first at once; a key is published for
`PUBLISHED_AHEAD` before it signs, and until what it signed is over, so that nobody who verifies with a copy of
`/.well-known/jwks.json` meets one that is missing there. A key is `ROTATE_AFTER` old when the next is made. Private
halves are sealed at rest; whoever loses the secret that opens them gets a new key. While the database is away the keys
known last go on.
Leaves to others: what is signed (`engine.accounts.access_tokens`). Never stops: it holds no task and no connection.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from uuid_utils.compat import uuid7

from db.database import Database
from db.failures import is_passing
from db.records import SYSTEM_PROJECT
from db.signing_keys import (
    SigningKeyRecord,
    delete_signing_keys,
    end_signing_keys,
    insert_signing_key,
    lock_signing_keys,
    read_signing_keys,
)
from engine.clock import Clock
from engine.vault import CannotOpen, Vault

if TYPE_CHECKING:
    import asyncpg

ALGORITHM = "EdDSA"
ACCESS_TOKEN_LIFETIME = timedelta(minutes=15)
"""Long enough that refreshing is rare, short enough for whoever verifies without asking us whether a session ended."""
ROTATE_AFTER = timedelta(days=30)
READ_AGAIN_AFTER = timedelta(seconds=60)
"""How old the keys that a gateway knows may be."""
READ_AGAIN_FOR_UNKNOWN = timedelta(seconds=5)
"""Tokens with made-up key ids cost one look-up in this time and no more."""
JWKS_MAX_AGE = timedelta(minutes=5)
"""How long others may keep a copy of the published keys."""
PUBLISHED_AHEAD = timedelta(hours=1)
"""Much longer than any copy of the published keys is kept by those who heed `JWKS_MAX_AGE`."""
PUBLISHED_AFTER = ACCESS_TOKEN_LIFETIME + READ_AGAIN_AFTER + timedelta(minutes=5)
"""Until the last token of a gateway that has not read again yet is over, with room for clocks that differ."""

_logger = logging.getLogger(__name__)


class SigningKey(msgspec.Struct, frozen=True):
    """A key that is published. `private` is None for one that no secret known here opens."""

    key_id: str
    jwk: Mapping[str, str]
    public: Ed25519PublicKey
    private: Ed25519PrivateKey | None
    signs_from: datetime

    def __repr__(self) -> str:
        return f"SigningKey(key_id={self.key_id})"


class SigningKeys:
    """The keys of this deployment, as one process knows them."""

    def __init__(
        self, database: Database, vault: Vault, clock: Clock, *, timer: Callable[[], float] = monotonic
    ) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock
        self._timer = timer
        self._known: dict[str, SigningKey] = {}
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def signing(self) -> tuple[str, Ed25519PrivateKey]:
        """The id and the private half of the key that signs now."""
        await self._keep_fresh(READ_AGAIN_AFTER)
        chosen = choose_signing_key(self._known.values(), now=self._clock.now())
        if chosen is None:
            await self._read_once()
            chosen = choose_signing_key(self._known.values(), now=self._clock.now())
        if chosen is None or chosen.private is None:
            raise LookupError("no key to sign with, although one was just made")
        return chosen.key_id, chosen.private

    async def find(self, key_id: str) -> Ed25519PublicKey | None:
        """The public half of a published key; None when there is none of this id."""
        await self._keep_fresh(READ_AGAIN_AFTER)
        if key_id not in self._known:
            await self._keep_fresh(READ_AGAIN_FOR_UNKNOWN)
        found = self._known.get(key_id)
        return None if found is None else found.public

    async def published(self) -> Sequence[Mapping[str, str]]:
        """All published keys as JSON Web Keys (RFC 8037), those that sign later last."""
        await self._keep_fresh(READ_AGAIN_AFTER)
        return [key.jwk for key in self._known.values()]

    async def _keep_fresh(self, max_age: timedelta) -> None:
        if self._timer() - self._read_at > max_age.total_seconds():
            await self._read_once()

    async def _read_once(self) -> None:
        """Shielded: one reading serves all who wait, and does not end with one of them."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read(), name="signing-keys")
            self._reading.add_done_callback(self._was_read)
        await asyncio.shield(self._reading)

    def _was_read(self, task: asyncio.Task[None]) -> None:
        self._reading = None
        if not task.cancelled():
            task.exception()

    async def _read(self) -> None:
        began, now = self._timer(), self._clock.now()
        try:
            async with self._database.transaction() as connection:
                keys = await self._read_or_make(connection, now)
        except Exception as error:
            if not self._known or not is_passing(error):
                raise
            _logger.warning("signing_keys.unreadable", extra={"reason": type(error).__name__})
        else:
            self._known = {key.key_id: key for key in keys}
        self._read_at = began

    async def _read_or_make(self, connection: asyncpg.Connection, now: datetime) -> list[SigningKey]:
        keys = self._open_all(await read_signing_keys(connection, now=now))
        if next_signs_from(keys, now=now) is None:
            return keys
        await lock_signing_keys(connection)
        keys = self._open_all(await read_signing_keys(connection, now=now))
        signs_from = next_signs_from(keys, now=now)
        if signs_from is not None:
            await add_signing_key(connection, self._vault, now=now, signs_from=signs_from)
            keys = self._open_all(await read_signing_keys(connection, now=now))
        return keys

    def _open_all(self, records: Sequence[SigningKeyRecord]) -> list[SigningKey]:
        return [self._known.get(record.key_id) or self._open(record) for record in records]

    def _open(self, record: SigningKeyRecord) -> SigningKey:
        jwk = msgspec.json.decode(record.public_jwk, type=dict[str, str])
        private = None
        try:
            opened = self._vault.open(
                record.sealed_private_key, project_id=SYSTEM_PROJECT, purpose=signing_purpose(record.key_id)
            )
            private = Ed25519PrivateKey.from_private_bytes(opened)
        except CannotOpen as error:
            _logger.error("signing_keys.cannot_open", extra={"keyId": record.key_id, "reason": str(error)})
        public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(jwk["x"] + "="))
        return SigningKey(record.key_id, jwk, public, private, record.signs_from)


def choose_signing_key(keys: Iterable[SigningKey], *, now: datetime) -> SigningKey | None:
    """The last of those that may sign by now and can."""
    able = [key for key in keys if key.private is not None and key.signs_from <= now]
    return max(able, key=lambda key: (key.signs_from, key.key_id), default=None)


def next_signs_from(keys: Iterable[SigningKey], *, now: datetime) -> datetime | None:
    """When a key that is made now is to sign from; None while those that are there are enough."""
    able = [key for key in keys if key.private is not None]
    if choose_signing_key(able, now=now) is None:
        return now
    newest = max(key.signs_from for key in able)
    return now + PUBLISHED_AHEAD if newest + ROTATE_AFTER <= now else None


async def rotate_signing_keys(database: Database, vault: Vault, *, now: datetime, at_once: bool) -> str:
    """Make the next key; gives its id. `at_once`: it signs now, and all others are good for nothing from now on."""
    async with database.transaction() as connection:
        await lock_signing_keys(connection)
        there = await read_signing_keys(connection, now=now)
        signs_from = now if at_once or not there else now + PUBLISHED_AHEAD
        key_id = await add_signing_key(connection, vault, now=now, signs_from=signs_from)
        if at_once:
            await end_signing_keys(connection, but=key_id, at=now)
            await delete_signing_keys(connection, ended_by=now)
    return key_id


async def add_signing_key(connection: asyncpg.Connection, vault: Vault, *, now: datetime, signs_from: datetime) -> str:
    """Make a key, give those before it an end, delete those that are over. The caller holds `lock_signing_keys`."""
    key_id, private = uuid7().hex, Ed25519PrivateKey.generate()
    x = base64.urlsafe_b64encode(private.public_key().public_bytes_raw()).decode().rstrip("=")
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": key_id, "use": "sig", "alg": ALGORITHM}
    await insert_signing_key(
        connection,
        key_id=key_id,
        public_jwk=msgspec.json.encode(jwk).decode(),
        sealed_private_key=vault.seal(
            private.private_bytes_raw(), project_id=SYSTEM_PROJECT, purpose=signing_purpose(key_id)
        ),
        created_at=now,
        signs_from=signs_from,
    )
    await end_signing_keys(connection, but=key_id, at=signs_from + PUBLISHED_AFTER)
    await delete_signing_keys(connection, ended_by=now)
    return key_id


def signing_purpose(key_id: str) -> str:
    """What a private half is sealed for."""
    return f"signing_key:{key_id}"
