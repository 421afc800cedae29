"""Unsubscribing with one click (RFC 8058), without being signed in: whoever holds the link may use it.

A token is AES-SIV of what it is about, so it tells nothing to whoever reads a log of URLs, cannot be made up, and is
the same whenever it is made: a mail that is sent again has the same body. It does not expire; mail is kept for years.

`unsubscribe` writes the consent of a person, or suppresses an address that belongs to nobody, with its event, in one
transaction. Doing it again changes nothing. Leaves to others: the route (RFC 8058 asks for POST; GET shows a page and
changes nothing, since mail scanners follow links).
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from db.database import Database
from db.profiles import lock_profiles
from db.projects import read_project
from db.records import NewEvent
from db.suppressions import NewSuppression, insert_suppressions
from engine.announcements import Announcement
from engine.consent import ConsentPurpose, ConsentState, set_consent
from engine.dispatch.ledger import record
from engine.dispatch.values import Channel, SuppressedReason
from engine.transactions import run_transaction

if TYPE_CHECKING:
    import asyncpg

KEY_BYTES = 32
MAX_TOKEN_CHARACTERS = 1024
"""A user id of 256 characters, in UTF-8 and base64, and 80 bytes around it, take less than this by far."""
SOURCE = "one-click unsubscribe"
_PURPOSE = ConsentPurpose.EMAIL


class Unsubscription(msgspec.Struct, frozen=True, array_like=True):
    """Who asks not to be written to again: a person, or the holder of an address that belongs to no one known."""

    project_id: UUID
    purpose: str
    user_id: str | None = None
    address: str | None = None


_decoder = msgspec.msgpack.Decoder(Unsubscription)


class UnsubscribeTokens:
    """Makes and reads tokens under the deployment's secret; `previous` ones are still read."""

    def __init__(self, secret: bytes, previous: Sequence[bytes] = ()) -> None:
        self._ciphers = [_cipher(each) for each in (secret, *previous)]

    def sign(self, unsubscription: Unsubscription) -> str:
        """URL-safe text."""
        sealed = self._ciphers[0].encrypt(msgspec.msgpack.encode(unsubscription), None)
        return urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def read(self, token: str) -> Unsubscription | None:
        """None for whatever was not made here."""
        if not token.isascii() or len(token) > MAX_TOKEN_CHARACTERS:
            return None
        try:
            sealed = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except ValueError:
            return None
        for cipher in self._ciphers:
            try:
                return _decoder.decode(cipher.decrypt(sealed, None))
            except (InvalidTag, ValueError, msgspec.DecodeError):
                continue
        return None


def unsubscription_of(*, project_id: UUID, user_id: str | None, address: str) -> Unsubscription:
    """For the recipient of a mail: the person where there is one, otherwise the address."""
    if user_id is not None:
        return Unsubscription(project_id, _PURPOSE, user_id=user_id)
    return Unsubscription(project_id, _PURPOSE, address=address.lower())


def unsubscribe_url(public_url: str, tokens: UnsubscribeTokens, unsubscription: Unsubscription) -> str:
    """Where one click goes."""
    return f"{public_url}/unsubscribe/{tokens.sign(unsubscription)}"


async def unsubscribe(
    database: Database,
    announce: Callable[[Announcement], None],
    unsubscription: Unsubscription,
    *,
    now: datetime,
) -> bool:
    """Do what a token asks for. False when its project is no more. `now` is business time."""

    async def action(connection: asyncpg.Connection) -> tuple[Announcement, ...] | None:
        if await read_project(connection, project_id=unsubscription.project_id) is None:
            return None
        event = await _write(connection, unsubscription, now)
        if event is None:
            return ()
        return await record(connection, project_id=unsubscription.project_id, transitions=(), events=(event,), now=now)

    announcements = await run_transaction(database, action)
    for announcement in announcements or ():
        announce(announcement)
    return announcements is not None


async def _write(connection: asyncpg.Connection, asked: Unsubscription, now: datetime) -> NewEvent | None:
    """Returns the event to append, if anything changed. Of an erased person nothing is written: it would be a trace."""
    if asked.user_id is not None:
        if not await lock_profiles(connection, project_id=asked.project_id, user_ids=[asked.user_id]):
            return None
        changed = await set_consent(
            connection,
            project_id=asked.project_id,
            user_id=asked.user_id,
            purpose=ConsentPurpose(asked.purpose),
            state=ConsentState.REVOKED,
            source=SOURCE,
            actor=f"user:{asked.user_id}",
            now=now,
        )
        return None if changed is None else changed.event
    if asked.address is not None:
        await insert_suppressions(
            connection,
            project_id=asked.project_id,
            channel=Channel.EMAIL,
            suppressions=(NewSuppression(asked.address, SuppressedReason.UNSUBSCRIBED),),
            now=now,
        )
    return None


def _cipher(secret: bytes) -> AESSIV:
    return AESSIV(HKDF(SHA256(), KEY_BYTES, salt=None, info=b"sendora unsubscribe").derive(secret))
