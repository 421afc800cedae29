"""Secrets at rest: AES-256-GCM under keys derived from `SENDORA_SECRET_KEY`.

Guarantees: what is sealed for one place (project and purpose) opens in no other; each sealing has a nonce of its own;
sealed under an older key it opens as long as that key is among the previous ones, and seals anew under the current.
A sealed value is: version (1 byte), key id (4), nonce (12), ciphertext and tag.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

VERSION = b"\x01"
KEY_ID_BYTES = 4
NONCE_BYTES = 12
_HEADER_BYTES = len(VERSION) + KEY_ID_BYTES + NONCE_BYTES


class CannotOpen(Exception):
    """This was sealed under a key that is not known here, for another place, or was altered."""


class Vault:
    """Seals and opens. `previous` are earlier values of the secret, still good for opening."""

    def __init__(self, secret: bytes, previous: Sequence[bytes] = ()) -> None:
        self._current, self._key = _derive(secret)
        self._keys = {key_id: AESGCM(key) for key_id, key in map(_derive, (*previous, secret))}

    def seal(self, value: bytes, *, project_id: UUID, purpose: str) -> bytes:
        """`purpose` says what it is, e.g. `provider:APNS`; it must be given again to open it."""
        header = VERSION + self._current + secrets.token_bytes(NONCE_BYTES)
        place = _place(project_id, purpose)
        return header + AESGCM(self._key).encrypt(header[-NONCE_BYTES:], value, place + header)

    def open(self, sealed: bytes, *, project_id: UUID, purpose: str) -> bytes:
        """Raises `CannotOpen`."""
        header, body = sealed[:_HEADER_BYTES], sealed[_HEADER_BYTES:]
        cipher = self._keys.get(header[1 : 1 + KEY_ID_BYTES])
        if cipher is None or header[:1] != VERSION:
            raise CannotOpen("Sealed under a secret that is not known here: set SENDORA_PREVIOUS_SECRET_KEYS.")
        try:
            return cipher.decrypt(header[-NONCE_BYTES:], body, _place(project_id, purpose) + header)
        except InvalidTag:
            raise CannotOpen("Sealed for another place, or altered.") from None

    def is_current(self, sealed: bytes) -> bool:
        """Whether it was sealed under the current secret."""
        return sealed[1 : 1 + KEY_ID_BYTES] == self._current


def _derive(secret: bytes) -> tuple[bytes, bytes]:
    """The key's id and the key. The id is derived too: it reveals nothing of either."""
    key = HKDF(SHA256(), 32, salt=None, info=b"sendora vault key").derive(secret)
    key_id = HKDF(SHA256(), KEY_ID_BYTES, salt=None, info=b"sendora vault key id").derive(secret)
    return key_id, key


def _place(project_id: UUID, purpose: str) -> bytes:
    return project_id.bytes + purpose.encode()
