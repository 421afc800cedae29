"""The token that a team shows Apple, signed with its key.

Guarantees: one token for all connections of a credential, made anew before Apple refuses it for its age. Leaves to
others: keeping the key.
"""

from __future__ import annotations

import time

import jwt
from aioapns.connection import AuthorizationHeaderProvider

TOKEN_SECONDS = 50 * 60
"""Apple refuses a provider token after an hour, and one that changes within 20 minutes."""
TOKEN_RENEWAL_PAUSE_SECONDS = 20 * 60
"""A refused token is replaced at once, but not again within this time: a key that is wrong stays wrong."""


class ProviderToken(AuthorizationHeaderProvider):
    """The one token of a credential, for all of its connections. Its key may turn out not to be one: what
    PyJWT and cryptography raise then is `jwt.PyJWTError`, `ValueError` or `TypeError`."""

    def __init__(self, *, key: str, key_id: str, team_id: str) -> None:
        self._key = key
        self._key_id = key_id
        self._team_id = team_id
        self._header: str | None = None
        self._issued_at = 0.0
        self._replaced_at = -float(TOKEN_RENEWAL_PAUSE_SECONDS)

    def get_header(self) -> str:
        """The `authorization` header of now."""
        now = time.time()
        if self._header is None or not 0 <= now - self._issued_at < TOKEN_SECONDS:
            self._issued_at = now
            token = jwt.encode(
                {"iss": self._team_id, "iat": int(now)}, self._key, algorithm="ES256", headers={"kid": self._key_id}
            )
            self._header = f"bearer {token}"
        return self._header

    def refuse(self, header: str) -> bool:
        """Apple refused this one. Returns whether there is another one to try."""
        if header == self._header and time.monotonic() - self._replaced_at >= TOKEN_RENEWAL_PAUSE_SECONDS:
            self._replaced_at = time.monotonic()
            self._header = None
        return header != self._header
