"""Access tokens: short-lived JWTs that say which end user's session speaks (EdDSA, RFC 8037).

Guarantees: one of another region is refused without a look-up; only our keys and only EdDSA verify, whatever a token
says of itself; what was verified is not verified again until it expires, in a bounded cache of hashes; a token whose
key was withdrawn is refused within `READ_AGAIN_AFTER`. No error repeats a token.
Leaves to others: whether the session has ended meanwhile (`engine.live.revocations` follows `session.ended`), and what
a session may do. Never stops: it holds no task and no connection.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from uuid_utils.compat import uuid7

from engine.accounts.signing_keys import ACCESS_TOKEN_LIFETIME, ALGORITHM, SigningKeys
from engine.clock import Clock
from engine.errors import Unauthenticated

MAX_CACHED_TOKENS = 20_000
"""About 500 bytes each; verifying one takes a tenth of a millisecond."""

_SHAPE: Final = re.compile(r"([A-Za-z0-9_-]{10,400})\.([A-Za-z0-9_-]{10,4000})\.[A-Za-z0-9_-]{86}")
"""Header, claims (a user id has up to 256 characters) and an Ed25519 signature."""
_NOT_ONE = "This is not an access token: one is the accessToken of a session."
_REFUSED = "This is no access token of this deployment: sign in, or refresh the session."
_CLAIMS = ("iss", "sub", "project", "sid", "anon", "region", "iat", "exp", "jti")


class AccessClaims(msgspec.Struct, frozen=True):
    """Whose session a token speaks for, until when (UTC)."""

    project_id: UUID
    session_id: UUID
    user_id: str
    anonymous: bool
    expires_at: datetime


class AccessToken(msgspec.Struct, frozen=True):
    """A token just made, and when it expires."""

    token: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"AccessToken(expires_at={self.expires_at})"


class _Header(msgspec.Struct, frozen=True):
    kid: str


class _Claims(msgspec.Struct, frozen=True):
    sub: str
    project: UUID
    sid: UUID
    anon: bool
    exp: int


class _RegionClaim(msgspec.Struct, frozen=True):
    region: str


class _Verified(msgspec.Struct, frozen=True):
    claims: AccessClaims
    key_id: str


class Signer:
    """Signs with one key. Made before a transaction, so that nothing in it waits for a key."""

    def __init__(self, key_id: str, private: Ed25519PrivateKey, *, region: str, issuer: str) -> None:
        self._key_id = key_id
        self._private = private
        self._region = region
        self._issuer = issuer

    def issue(self, *, project_id: UUID, session_id: UUID, user_id: str, anonymous: bool, now: datetime) -> AccessToken:
        """A token that is good for `ACCESS_TOKEN_LIFETIME` from `now`."""
        issued_at = int(now.timestamp())
        expires_at = issued_at + int(ACCESS_TOKEN_LIFETIME.total_seconds())
        claims = {
            "iss": self._issuer,
            "sub": user_id,
            "project": str(project_id),
            "sid": str(session_id),
            "anon": anonymous,
            "region": self._region,
            "iat": issued_at,
            "exp": expires_at,
            "jti": uuid7().hex,
        }
        token = jwt.encode(claims, self._private, algorithm=ALGORITHM, headers={"kid": self._key_id})
        return AccessToken(token, datetime.fromtimestamp(expires_at, UTC))


class AccessTokens:
    """Makes and reads the access tokens of one deployment. `issuer` is its public URL."""

    def __init__(self, keys: SigningKeys, clock: Clock, *, region: str, issuer: str) -> None:
        self._keys = keys
        self._clock = clock
        self._region = region
        self._issuer = issuer
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()

    async def signer(self) -> Signer:
        """What signs now."""
        return Signer(*await self._keys.signing(), region=self._region, issuer=self._issuer)

    async def issue(self, *, project_id: UUID, session_id: UUID, user_id: str, anonymous: bool) -> AccessToken:
        """A token for a session."""
        signer = await self.signer()
        return signer.issue(
            project_id=project_id,
            session_id=session_id,
            user_id=user_id,
            anonymous=anonymous,
            now=self._clock.now(),
        )

    async def read(self, token: str) -> AccessClaims:
        """What a token says. Raises `Unauthenticated`, in words that never repeat it."""
        if not token.isascii():
            raise Unauthenticated(_NOT_ONE)
        token_hash = hashlib.sha256(token.encode()).digest()
        verified = self._verified.get(token_hash)
        if verified is None:
            verified = await self._verify(token)
            self._remember(token_hash, verified)
        elif await self._keys.find(verified.key_id) is None:
            raise Unauthenticated(_REFUSED)
        if verified.claims.expires_at <= self._clock.now():
            self._verified.pop(token_hash, None)
            raise Unauthenticated("This access token has expired: refresh the session.")
        return verified.claims

    async def _verify(self, token: str) -> _Verified:
        key_id = self._check_shape(token)
        public = await self._keys.find(key_id)
        if public is None:
            raise Unauthenticated(_REFUSED)
        try:
            said = jwt.decode(
                token,
                public,
                algorithms=[ALGORITHM],
                issuer=self._issuer,
                # Time is compared with our own clock, which tests move.
                options={"require": list(_CLAIMS), "verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
            claims = msgspec.convert(said, _Claims)
        except (jwt.InvalidTokenError, msgspec.ValidationError):
            raise Unauthenticated(_REFUSED) from None
        expires_at = datetime.fromtimestamp(claims.exp, UTC)
        return _Verified(AccessClaims(claims.project, claims.sid, claims.sub, claims.anon, expires_at), key_id)

    def _check_shape(self, token: str) -> str:
        """The id of the key it names. What it says of itself is not proved yet: it only ever makes us refuse."""
        shape = _SHAPE.fullmatch(token)
        if shape is None:
            raise Unauthenticated(_NOT_ONE)
        try:
            region = msgspec.json.decode(_decoded(shape[2]), type=_RegionClaim).region
            key_id = msgspec.json.decode(_decoded(shape[1]), type=_Header).kid
        except (msgspec.DecodeError, ValueError):
            # neither base64 nor UTF-8 are anything else
            raise Unauthenticated(_REFUSED) from None
        if region != self._region:
            raise Unauthenticated(
                f"This access token is of another region, and this is region {self._region}: "
                "send the request to that region's address."
            )
        return key_id

    def _remember(self, token_hash: bytes, verified: _Verified) -> None:
        self._verified[token_hash] = verified
        if len(self._verified) > MAX_CACHED_TOKENS:
            self._verified.popitem(last=False)


def _decoded(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
