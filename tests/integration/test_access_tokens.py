"""Access tokens and the keys they are signed with, over a real database."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
import pytest
from starlette.applications import Starlette

from cli import _rotate_signing_keys
from db.database import Database
from db.signing_keys import read_signing_keys
from engine.accounts.access_tokens import AccessClaims, AccessTokens
from engine.accounts.signing_keys import (
    ACCESS_TOKEN_LIFETIME,
    PUBLISHED_AFTER,
    PUBLISHED_AHEAD,
    READ_AGAIN_AFTER,
    ROTATE_AFTER,
    SigningKeys,
    rotate_signing_keys,
)
from engine.errors import Unauthenticated
from engine.vault import Vault
from inbound.jwks import accounts_routes
from settings import read_settings
from tests.integration.inbound_support import serve_app
from tests.integration.log_support import open_database

SECRET = b"a secret of tests, long enough for it"
ISSUER = "https://gateway.test"
WHO: dict[str, Any] = {"project_id": UUID(int=1), "session_id": UUID(int=2), "user_id": "ann", "anonymous": False}


class Moved:
    """Business time and a process's own timer, moved together."""

    def __init__(self) -> None:
        self.at = datetime(2026, 5, 1, 12, tzinfo=UTC)
        self.seconds = 0.0

    def now(self) -> datetime:
        return self.at

    def timer(self) -> float:
        return self.seconds

    def advance(self, duration: timedelta) -> None:
        self.at += duration
        self.seconds += duration.total_seconds()


class Process:
    """One gateway's keys and tokens."""

    def __init__(self, database: Database, time: Moved, *, secret: bytes = SECRET, region: str = "us") -> None:
        self.keys = SigningKeys(database, Vault(secret), time, timer=time.timer)
        self.tokens = AccessTokens(self.keys, time, region=region, issuer=ISSUER)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[Database, Moved]]:
    async with open_database(url) as database:
        yield database, Moved()


async def key_ids(database: Database, now: datetime) -> list[str]:
    async with database.connection() as connection:
        return [key.key_id for key in await read_signing_keys(connection, now=now)]


def key_id_of(token: str) -> str:
    key_id: str = jwt.get_unverified_header(token)["kid"]
    return key_id


async def test_a_token_says_whose_session_it_is_for_fifteen_minutes(database_url: str) -> None:
    async with opened(database_url) as (database, time):
        process = Process(database, time)
        issued = await process.tokens.issue(**WHO)
        claims = await process.tokens.read(issued.token)
        assert claims == AccessClaims(**WHO, expires_at=time.at + timedelta(minutes=15))
        time.advance(ACCESS_TOKEN_LIFETIME - timedelta(seconds=1))
        assert await process.tokens.read(issued.token) == claims
        time.advance(timedelta(seconds=1))
        with pytest.raises(Unauthenticated, match="has expired"):
            await process.tokens.read(issued.token)
        with pytest.raises(Unauthenticated, match="has expired"):
            await Process(database, time).tokens.read(issued.token)


async def test_many_processes_that_need_the_first_key_at_once_make_one(database_url: str) -> None:
    async with opened(database_url) as (database, time):
        processes = [Process(database, time) for _ in range(5)]
        issued = await asyncio.gather(*(process.tokens.issue(**WHO) for process in processes for _ in range(2)))
        assert len(await key_ids(database, time.at)) == 1
        for token in issued:
            assert (await processes[0].tokens.read(token.token)).user_id == "ann"


async def test_what_others_sign_or_say_of_themselves_is_refused_without_repeating_it(database_url: str) -> None:
    async with opened(database_url) as (database, time):
        process = Process(database, time)
        good = (await process.tokens.issue(**WHO)).token
        header, payload, signature = good.split(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
        foreign = Process(database, time, secret=SECRET).keys
        other = jwt.encode(claims, (await Stranger.key()), algorithm="EdDSA", headers={"kid": key_id_of(good)})
        unsigned = base64.urlsafe_b64encode(json.dumps({"alg": "none", "kid": key_id_of(good)}).encode()).decode()
        shared = jwt.encode(claims, "x" * 64, algorithm="HS512", headers={"kid": key_id_of(good)})
        _, private = await foreign.signing()
        issuer = jwt.encode(claims | {"iss": "https://other"}, private, "EdDSA", headers={"kid": key_id_of(good)})
        short = jwt.encode({"region": "us", "sub": "ann"}, private, "EdDSA", headers={"kid": key_id_of(good)})
        unknown = jwt.encode(claims, private, "EdDSA", headers={"kid": "made-up"})
        cases = [
            other,
            f"{unsigned.rstrip('=')}.{payload}.{signature}",
            f"{unsigned.rstrip('=')}.{payload}.",
            shared,
            issuer,
            short,
            unknown,
            f"{header}.{payload}.{signature[::-1]}",
            f"{header}.{payload[::-1]}.{signature}",
            "",
            "rt_us_" + "x" * 43,
            "ü" * 100,
            "a.b.c",
            f"{not_text(b'kid')}.{payload}.{signature}",
            f"{header}.{not_text(b'region')}.{signature}",
            good + "a",
        ]
        for case in cases:
            with pytest.raises(Unauthenticated) as caught:
                await process.tokens.read(case)
            assert not case or case not in str(caught.value)


def not_text(name: bytes) -> str:
    """A segment that is JSON but for its encoding."""
    return base64.urlsafe_b64encode(b'{"' + name + b'":"\xff\xfe\xfd"}').rstrip(b"=").decode()


class Stranger:
    """A key that is not ours."""

    @staticmethod
    async def key() -> Any:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.generate()


async def test_a_token_of_another_region_is_refused_without_a_look_up() -> None:
    time = Moved()
    nowhere = Database("postgresql://127.0.0.1:1/none")
    private = await Stranger.key()
    token = jwt.encode({"region": "eu"}, private, "EdDSA", headers={"kid": "any"})
    with pytest.raises(Unauthenticated, match="another region, and this is region us"):
        await Process(nowhere, time).tokens.read(token)


async def test_verified_tokens_are_read_without_the_database_and_made_up_keys_are_asked_for_once(
    database_url: str,
) -> None:
    async with opened(database_url) as (database, time):
        process = Process(database, time)
        token = (await process.tokens.issue(**WHO)).token
        await process.tokens.read(token)
        made_up = jwt.encode({"region": "us"}, await Stranger.key(), "EdDSA", headers={"kid": "made-up"})
        with pytest.raises(Unauthenticated):
            await process.tokens.read(made_up)
        await database.disconnect()
        assert (await process.tokens.read(token)).user_id == "ann"
        for _ in range(3):
            with pytest.raises(Unauthenticated):
                await process.tokens.read(made_up)
        await database.connect()


async def test_the_next_key_is_published_before_it_signs_and_the_last_one_until_what_it_signed_is_over(
    database_url: str,
) -> None:
    async with opened(database_url) as (database, time):
        process, other = Process(database, time), Process(database, time)
        first = key_id_of((await process.tokens.issue(**WHO)).token)
        await other.keys.published()
        time.advance(ROTATE_AFTER)
        assert key_id_of((await process.tokens.issue(**WHO)).token) == first
        published = [jwk["kid"] for jwk in await process.keys.published()]
        assert len(published) == 2
        assert published[0] == first
        time.advance(PUBLISHED_AHEAD)
        last = await other.tokens.issue(**WHO)
        assert key_id_of(last.token) == published[1]
        time.advance(ACCESS_TOKEN_LIFETIME - timedelta(seconds=1))
        assert [jwk["kid"] for jwk in await process.keys.published()] == published
        time.advance(PUBLISHED_AFTER)
        assert [jwk["kid"] for jwk in await process.keys.published()] == published[1:]


async def test_a_key_that_is_withdrawn_at_once_proves_nothing_any_more(database_url: str) -> None:
    async with opened(database_url) as (database, time):
        process, other = Process(database, time), Process(database, time)
        token = (await process.tokens.issue(**WHO)).token
        await other.tokens.read(token)
        made = await rotate_signing_keys(database, Vault(SECRET), now=time.at, at_once=True)
        time.advance(READ_AGAIN_AFTER + timedelta(seconds=1))
        for each in (process, other):
            with pytest.raises(Unauthenticated):
                await each.tokens.read(token)
        fresh = (await process.tokens.issue(**WHO)).token
        assert key_id_of(fresh) == made
        assert (await other.tokens.read(fresh)).user_id == "ann"
        assert await key_ids(database, time.at) == [made]


async def test_a_rotation_by_hand_waits_like_any_other(database_url: str) -> None:
    async with opened(database_url) as (database, time):
        process = Process(database, time)
        first = key_id_of((await process.tokens.issue(**WHO)).token)
        made = await rotate_signing_keys(database, Vault(SECRET), now=time.at, at_once=False)
        time.advance(READ_AGAIN_AFTER + timedelta(seconds=1))
        assert key_id_of((await process.tokens.issue(**WHO)).token) == first
        time.advance(PUBLISHED_AHEAD)
        assert key_id_of((await process.tokens.issue(**WHO)).token) == made


async def test_a_gateway_that_cannot_open_the_key_makes_one(database_url: str) -> None:
    async with opened(database_url) as (database, time):
        first = (await Process(database, time).tokens.issue(**WHO)).token
        another = Process(database, time, secret=b"another secret, as long as the first")
        token = (await another.tokens.issue(**WHO)).token
        assert key_id_of(token) != key_id_of(first)
        assert (await another.tokens.read(first)).user_id == "ann"


async def test_anybody_can_verify_with_what_is_published(database_url: str) -> None:
    async with opened(database_url) as (database, time):
        process = Process(database, time)
        token = (await process.tokens.issue(**WHO)).token
        async with serve_app(Starlette(routes=accounts_routes(process.keys)), lifespan="off") as server:
            response = await server.request("GET", "/.well-known/jwks.json")
        assert response.headers["Cache-Control"] == "public, max-age=300"
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        [jwk] = json.loads(response.body)["keys"]
        assert "d" not in jwk
        said = jwt.decode(
            token,
            jwt.PyJWK(jwk).key,
            algorithms=["EdDSA"],
            issuer=ISSUER,
            options={"verify_exp": False, "verify_iat": False},
        )
        assert said["sub"] == "ann"
        assert said["sid"] == str(WHO["session_id"])
        assert said["project"] == str(WHO["project_id"])
        assert (said["anon"], said["region"], said["exp"] - said["iat"]) == (False, "us", 900)


async def test_the_command_makes_the_next_key(database_url: str) -> None:
    async with opened(database_url) as (database, time):
        settings = read_settings(database_url=database_url, secret_key=SECRET.decode())
        made = await _rotate_signing_keys(settings, at_once=True)
        assert await key_ids(database, time.at) == [made]
