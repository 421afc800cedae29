"""A second factor: codes of an authenticator app that change every 30 seconds (TOTP, RFC 6238), and recovery codes.

Guarantees: the secret is sealed at rest and shown once, like the recovery codes, of which only hashes are kept; a code
is good once, and so is a recovery code; codes of the time steps beside now are taken too, for clocks that are wrong.
Nothing is asked for before a first code has confirmed that the app has the secret.
Leaves to others: counting wrong codes (`engine.accounts.storms`), locking the user.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeAlias
from uuid import UUID

import msgspec
import pyotp

from db.users import UserRecord, spend_recovery_code, spend_totp_step
from engine.vault import Vault

if TYPE_CHECKING:
    import asyncpg

STEP_SECONDS = 30
STEPS_BESIDE = 1
"""Half a minute either way, as RFC 6238 advises."""
RECOVERY_CODES = 10
RECOVERY_CODE_CHARACTERS = 16
"""80 bits of base32: nobody guesses one, so that a plain hash is enough."""
_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_CODE: Final = re.compile(r"[0-9]{6}")
_RECOVERY: Final = re.compile(rf"[{_ALPHABET}]{{{RECOVERY_CODE_CHARACTERS}}}")
_BLANKS: Final = re.compile(r"[\s-]+")


class TimeStep(msgspec.Struct, frozen=True):
    """A right code, by the number of its half minute since 1970."""

    step: int


class RecoveryCode(msgspec.Struct, frozen=True):
    """One that stands in for a lost device."""

    code_hash: bytes


Proof: TypeAlias = TimeStep | RecoveryCode


class NewSecret(msgspec.Struct, frozen=True):
    """A secret just made: as it is typed in, and as the URI that is shown as a QR code."""

    secret: str
    uri: str

    def __repr__(self) -> str:
        return "NewSecret()"


def totp_purpose(user_id: str) -> str:
    """What a user's secret is sealed for."""
    return f"totp:{user_id}"


def make_secret(*, issuer: str, account: str) -> NewSecret:
    """160 bits, as RFC 4226 advises. `issuer` and `account` are what the app shows."""
    secret = pyotp.random_base32()
    return NewSecret(secret, pyotp.TOTP(secret).provisioning_uri(name=account, issuer_name=issuer))


def make_recovery_codes() -> tuple[str, ...]:
    """In groups of four characters."""
    return tuple(
        _grouped("".join(secrets.choice(_ALPHABET) for _ in range(RECOVERY_CODE_CHARACTERS)))
        for _ in range(RECOVERY_CODES)
    )


def hash_recovery_code(code: str) -> bytes:
    """SHA-256 of its characters without what groups them."""
    return hashlib.sha256(_BLANKS.sub("", code).upper().encode()).digest()


def read_code(vault: Vault, user: UserRecord, code: str, *, project_id: UUID, now: datetime) -> Proof | None:
    """What a code proves of a user who has, or is about to have, a second factor; None for a wrong one.

    That it was not used before is for `spend` to say. Raises `CannotOpen` where no known secret opens the user's.
    """
    plain = _BLANKS.sub("", code).upper()
    if _CODE.fullmatch(plain) and user.sealed_totp_secret is not None:
        opened = vault.open(user.sealed_totp_secret, project_id=project_id, purpose=totp_purpose(user.user_id))
        return _matching_step(opened.decode(), plain, now)
    if _RECOVERY.fullmatch(plain):
        code_hash = hash_recovery_code(plain)
        return RecoveryCode(code_hash) if code_hash in user.recovery_code_hashes else None
    return None


async def spend(connection: asyncpg.Connection, *, project_id: UUID, user_id: str, proof: Proof) -> bool:
    """Take a code as used, in the caller's transaction. False where it was used before."""
    if isinstance(proof, RecoveryCode):
        return await spend_recovery_code(connection, project_id=project_id, user_id=user_id, code_hash=proof.code_hash)
    return await spend_totp_step(connection, project_id=project_id, user_id=user_id, step=proof.step)


def _matching_step(secret: str, code: str, now: datetime) -> TimeStep | None:
    """All are compared, whichever fits: how long it takes says nothing."""
    current = int(now.timestamp()) // STEP_SECONDS
    totp = pyotp.TOTP(secret, interval=STEP_SECONDS)
    steps = range(current - STEPS_BESIDE, current + STEPS_BESIDE + 1)
    fitting = [step for step in steps if hmac.compare_digest(totp.generate_otp(step), code)]
    return TimeStep(fitting[-1]) if fitting else None


def _grouped(code: str) -> str:
    return "-".join(code[start : start + 4] for start in range(0, len(code), 4))
