"""Refresh tokens: `rt_<region>_` and 256 random bits, stored as SHA-256 only, each good once."""

from __future__ import annotations

import re
import secrets
from typing import Final

import msgspec

from engine.errors import UserError
from engine.identity import hash_token

SECRET_BYTES = 32
"""256 bits: nobody guesses one, and a plain hash of it needs no salt."""

_SHAPE: Final = re.compile(r"rt_([a-z]{2})_[A-Za-z0-9_-]{43}")


class RefreshToken(msgspec.Struct, frozen=True):
    """A token just made, or read, with its hash."""

    token: str
    token_hash: bytes

    def __repr__(self) -> str:
        return "RefreshToken()"


def make_refresh_token(region: str) -> RefreshToken:
    """A new one."""
    token = f"rt_{region}_{secrets.token_urlsafe(SECRET_BYTES)}"
    return RefreshToken(token, hash_token(token))


def read_refresh_token(token: str, *, region: str, path: tuple[str, ...]) -> RefreshToken | UserError:
    """One that a client gave. Of another region it is refused without a look-up."""
    shape = _SHAPE.fullmatch(token)
    if shape is None:
        return UserError("This is not a refresh token: one starts with rt_.", "INVALID_CREDENTIALS", path)
    if shape[1] != region:
        return UserError(
            f"This refresh token belongs to region {shape[1]}, and this is region {region}: "
            "send the request to that region's address.",
            "INVALID_CREDENTIALS",
            path,
        )
    return RefreshToken(token, hash_token(token))
