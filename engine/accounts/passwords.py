"""Passwords: argon2id, in threads, a few at once.

Guarantees: at most half of the machine's cores hash at any moment, and at most `MAX_WAITING` more wait: whoever comes
then is told to come back, so that a flood of sign-ins takes neither the CPU nor the memory of all others. Somebody
unknown costs as much time as somebody known. Parameters travel in the hash: one that was made with others still
verifies, and `verify` says that it is to be made anew.
Leaves to others: counting failures (`engine.accounts.storms`). Never stops: its threads are the event loop's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from engine.errors import RateLimited

MIN_CHARACTERS = 8
MAX_CHARACTERS = 256
"""Longer than any passphrase; hashing takes what it is given, so it must not be a book."""
MAX_WAITING = 64
"""At 30 ms each on one core the last of them waits for two seconds."""
RETRY_AFTER_MS = 2_000
FEWEST_DIFFERENT = 4
"""Different characters: `aaaaaaaa` and `12121212` are tried first by whoever guesses."""

_WORST: Final = frozenset(
    """
    12345678 123456789 1234567890 87654321 11223344 password password1 password12 password123 passw0rd p@ssw0rd
    p@ssword qwertyui qwertyuiop qwerty123 qwerty1234 1q2w3e4r 1q2w3e4r5t 1qaz2wsx q1w2e3r4 abcd1234 abc12345 a1b2c3d4
    iloveyou sunshine princess football baseball superman trustno1 welcome1 welcome123 letmein1 letmein123 admin123
    administrator changeme changeme1 computer internet whatever starwars michelle jennifer asdfghjk asdfghjkl zxcvbnm1
    """.split()  # noqa: SIM905
)
"""Those of eight characters or more that lead every published list of leaked passwords."""

T = TypeVar("T")


class Verdict(msgspec.Struct, frozen=True):
    """Whether a password is right, and whether its hash was made with parameters that are not ours any more."""

    is_right: bool
    is_outdated: bool = False


class Passwords:
    """Hashes and verifies. `hasher` has 19 MiB, two passes and one lane, as OWASP advises, unless given."""

    def __init__(self, hasher: PasswordHasher | None = None, *, at_once: int | None = None) -> None:
        self._hasher = hasher or PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        self._turn = asyncio.Semaphore(at_once or max(1, (os.cpu_count() or 1) // 2))
        self._waiting = 0
        self._nobodys: str | None = None

    async def hash(self, password: str) -> str:
        """The hash to keep. Raises `RateLimited`."""
        return await self._in_turn(lambda: self._hasher.hash(password))

    async def verify(self, password: str, password_hash: str | None) -> Verdict:
        """Whether it is this hash's password; of nobody's, None, it never is, in as much time. Raises `RateLimited`."""
        return await self._in_turn(lambda: self._verify(password, password_hash))

    def _verify(self, password: str, password_hash: str | None) -> Verdict:
        if self._nobodys is None:
            self._nobodys = self._hasher.hash("nobody has this password")
        try:
            self._hasher.verify(password_hash or self._nobodys, password)
        except (VerificationError, InvalidHashError):
            return Verdict(is_right=False)
        if password_hash is None:
            return Verdict(is_right=False)
        return Verdict(is_right=True, is_outdated=self._hasher.check_needs_rehash(password_hash))

    async def _in_turn(self, action: Callable[[], T]) -> T:
        if self._waiting >= MAX_WAITING:
            raise RateLimited("Too many sign-ins are being looked at: try again.", retry_after_ms=RETRY_AFTER_MS)
        self._waiting += 1
        try:
            async with self._turn:
                return await asyncio.to_thread(action)
        finally:
            self._waiting -= 1


def problem_of(password: str, *, email: str) -> str | None:
    """Why a password is not taken, in a sentence; None when it is. `email` is in lower case."""
    if not MIN_CHARACTERS <= len(password) <= MAX_CHARACTERS:
        return f"A password has {MIN_CHARACTERS} to {MAX_CHARACTERS} characters."
    if not password.isprintable():
        return "A password has no control characters."
    lowered = password.lower()
    if lowered in _WORST or len(set(lowered)) < FEWEST_DIFFERENT:
        return "This password is among those that are guessed first: choose another one."
    if lowered in {email, email.partition("@")[0]}:
        return "A password must not be the email address: choose another one."
    return None
