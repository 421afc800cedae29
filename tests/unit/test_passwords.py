"""Passwords: what is taken, what verifies, and that a flood of them is bounded."""

from __future__ import annotations

import asyncio
import threading

import pytest
from argon2 import PasswordHasher

from engine.accounts.passwords import MAX_WAITING, Passwords, Verdict, problem_of
from engine.accounts.refresh_tokens import RefreshToken, make_refresh_token, read_refresh_token
from engine.errors import RateLimited, UserError

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.mark.parametrize(
    ("password", "is_taken"),
    [
        ("correct horse", True),
        ("pässwörter sind schön", True),
        ("x9!k2@m4", True),
        ("a b c d e f g", True),
        ("short", False),
        ("x9!k2@m", False),  # seven
        ("ab1c" * 64, True),
        ("ab1c" * 64 + "x", False),  # 257
        ("12345678", False),
        ("PassWord1", False),
        ("abababababab", False),  # two different characters
        ("ann@example.com", False),
        ("tab\tin the middle", False),
    ],
)
def test_what_is_guessed_first_is_not_taken(password: str, is_taken: bool) -> None:
    assert (problem_of(password, email="ann@example.com") is None) is is_taken


async def test_only_its_own_password_verifies() -> None:
    passwords = Passwords(CHEAP)
    made = await passwords.hash("correct horse")
    assert made.startswith("$argon2id$")
    assert await passwords.verify("correct horse", made) == Verdict(is_right=True)
    assert await passwords.verify("correct horsf", made) == Verdict(is_right=False)
    assert await passwords.verify("correct horse", "no hash at all") == Verdict(is_right=False)
    other = PasswordHasher(time_cost=2, memory_cost=8, parallelism=1).hash("correct horse")
    assert await passwords.verify("correct horse", other) == Verdict(is_right=True, is_outdated=True)


async def test_nobodys_password_is_never_right_and_is_hashed_all_the_same() -> None:
    counted = CountingHasher()
    passwords = Passwords(counted)  # type: ignore[arg-type]
    assert await passwords.verify("nobody has this password", None) == Verdict(is_right=False)
    assert counted.verified == 1


class CountingHasher:
    """Argon2id, counted."""

    def __init__(self) -> None:
        self.verified = 0

    def hash(self, password: str) -> str:
        return CHEAP.hash(password)

    def verify(self, password_hash: str, password: str) -> bool:
        self.verified += 1
        return CHEAP.verify(password_hash, password)


async def test_a_flood_hashes_a_few_at_once_and_is_told_to_come_back() -> None:
    gate, at_once, most = threading.Event(), 0, 0
    lock = threading.Lock()

    class Slow:
        def hash(self, password: str) -> str:
            nonlocal at_once, most
            with lock:
                at_once += 1
                most = max(most, at_once)
            gate.wait(5)
            with lock:
                at_once -= 1
            return password

    passwords = Passwords(Slow(), at_once=2)  # type: ignore[arg-type]
    waiting = [asyncio.create_task(passwords.hash(str(number))) for number in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(RateLimited) as caught:
        await passwords.hash("one too many")
    assert caught.value.retry_after_ms == 2000
    gate.set()
    assert await asyncio.gather(*waiting) == [str(number) for number in range(MAX_WAITING)]
    assert most == 2


def test_a_refresh_token_says_its_region_and_shows_itself_to_nobody() -> None:
    made = make_refresh_token("eu")
    assert made.token not in repr(made)
    read = read_refresh_token(made.token, region="eu", path=("refreshToken",))
    assert isinstance(read, RefreshToken)
    assert read.token_hash == made.token_hash
    for token, region in ((made.token, "us"), ("nonsense", "eu"), (made.token + "x", "eu")):
        refused = read_refresh_token(token, region=region, path=("refreshToken",))
        assert isinstance(refused, UserError)
        assert (refused.code, refused.path) == ("INVALID_CREDENTIALS", ("refreshToken",))
        assert token not in refused.message
