"""Storms of failed sign-ins slow down, are told of once, and leave nothing behind."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from db.database import Database
from engine.accounts import cleaning, sign_in
from engine.accounts.cleaning import EXPIRED_FOR, clean_accounts
from engine.accounts.sessions import SESSION_LIFETIME
from engine.accounts.storms import FREE, LONGEST_BLOCK, STORM_AT, WINDOW, SubjectKind, block_of
from engine.errors import RateLimited
from engine.workers.sweeper import Sweeper
from tests.integration.session_support import PASSWORD, SIGN_IN, App, open_app
from tests.integration.worker_support import StandingClock

NOW = datetime(2040, 5, 7, 12, tzinfo=UTC)


async def fail(app: App, email: str, client: str, times: int = 1) -> None:
    """Past each block, so that every one counts."""
    clock: Any = app.gateway.services.clock
    for _ in range(times):
        answer = await app.sign_in_from(email, "a wrong password", client)
        assert [error.code for error in answer.errors] == ["INVALID_CREDENTIALS"]
        clock.advance(LONGEST_BLOCK)


def test_each_failure_beyond_the_free_ones_doubles_the_wait_up_to_the_longest() -> None:
    account = [block_of(SubjectKind.ACCOUNT, failures) for failures in (4, 5, 6, 8, 13, 14, 10_000)]
    assert account == [None, *(timedelta(seconds=each) for each in (1, 2, 8, 256, 300, 300))]
    assert block_of(SubjectKind.ADDRESS, FREE[SubjectKind.ADDRESS] - 1) is None
    assert block_of(SubjectKind.ADDRESS, FREE[SubjectKind.ADDRESS]) == timedelta(seconds=1)


async def test_an_account_under_attack_is_not_looked_at_for_a_while_and_its_owner_gets_in_then(
    database_url: str,
) -> None:
    async with open_app(database_url, clock=StandingClock(NOW)) as app:
        clock: Any = app.gateway.services.clock
        await app.sign_up("ann@example.com")
        for number in range(FREE[SubjectKind.ACCOUNT]):
            await app.sign_in_from("ann@example.com", "a wrong password", f"192.0.2.{number}")
        with pytest.raises(RateLimited) as caught:
            await app.sign_in_from("Ann@Example.com", PASSWORD, "198.51.100.1")
        assert caught.value.retry_after_ms == 1000
        response = await app.key.run(SIGN_IN, input={"email": "ann@example.com", "password": PASSWORD})
        assert response["errors"][0]["extensions"] == {"code": "RATE_LIMITED", "retryAfterMs": 1000}
        clock.advance(timedelta(seconds=1))
        assert (await app.sign_in_from("ann@example.com", PASSWORD, "198.51.100.1")).session is not None
        for number in range(FREE[SubjectKind.ACCOUNT] - 1):
            await app.sign_in_from("ann@example.com", "a wrong password", f"192.0.2.{number}")
        assert (await app.sign_in_from("ann@example.com", PASSWORD, "198.51.100.1")).session is not None


async def test_whoever_guesses_many_times_at_once_is_told_no_more_than_one_after_the_other(database_url: str) -> None:
    async with open_app(database_url, clock=StandingClock(NOW)) as app:
        await app.sign_up("ann@example.com")
        guesses = [*(f"a wrong password {number}" for number in range(20)), PASSWORD]
        found = await asyncio.gather(
            *(app.sign_in_from("ann@example.com", guess, f"192.0.2.{number}") for number, guess in enumerate(guesses)),
            return_exceptions=True,
        )
        told = [each for each in found if not isinstance(each, RateLimited)]
        assert len(told) == FREE[SubjectKind.ACCOUNT]
        assert isinstance(found[-1], RateLimited)


async def test_an_account_that_does_not_exist_is_slowed_down_alike(database_url: str) -> None:
    async with open_app(database_url, clock=StandingClock(NOW)) as app:
        for number in range(FREE[SubjectKind.ACCOUNT]):
            await app.sign_in_from("nobody@example.com", "a wrong password", f"192.0.2.{number}")
        with pytest.raises(RateLimited):
            await app.sign_in_from("nobody@example.com", PASSWORD, "198.51.100.1")


async def test_an_address_that_tries_many_accounts_is_slowed_down_and_its_network_of_ipv6_counts_as_one(
    database_url: str,
) -> None:
    async with open_app(database_url, clock=StandingClock(NOW)) as app:
        await app.sign_up("ann@example.com")
        for number in range(FREE[SubjectKind.ADDRESS]):
            await app.sign_in_from(f"user{number}@example.com", "a wrong password", f"2001:db8:0:1::{number:x}")
        with pytest.raises(RateLimited):
            await app.sign_in_from("ann@example.com", PASSWORD, "2001:db8:0:1:ffff::1")
        assert (await app.sign_in_from("ann@example.com", PASSWORD, "2001:db8:0:2::1")).session is not None
        assert (await app.sign_in_from("ann@example.com", PASSWORD, "192.0.2.1")).session is not None


async def test_a_storm_is_told_of_once_in_its_window_and_names_no_address(database_url: str) -> None:
    async with open_app(database_url, clock=StandingClock(NOW)) as app:
        clock: Any = app.gateway.services.clock
        ann = (await app.sign_up("ann@example.com"))["session"]["userId"]
        await fail(app, "ann@example.com", "192.0.2.1", STORM_AT[SubjectKind.ACCOUNT] - 1)
        assert await app.events("auth.signin_storm") == []
        await fail(app, "ann@example.com", "192.0.2.1", 2)
        [(_, user_id, properties)] = await app.events("auth.signin_storm")
        assert user_id == ann
        assert {**properties, "subject": ""} == {"by": "account", "failures": 10, "subject": ""}
        clock.advance(WINDOW)
        await fail(app, "ann@example.com", "192.0.2.1", STORM_AT[SubjectKind.ACCOUNT])
        assert len(await app.events("auth.signin_storm")) == 2
        stored = await app.dump()
        assert "192.0.2.1" not in stored


async def test_taking_an_address_counts_against_whoever_tries_many(database_url: str) -> None:
    async with open_app(database_url, clock=StandingClock(NOW)) as app:
        await app.sign_up("ann@example.com")
        assert app.key.viewer is not None
        asked = sign_in.SignUp(email="ann@example.com", password=PASSWORD, client="192.0.2.1")
        for _ in range(FREE[SubjectKind.ADDRESS]):
            answer = await sign_in.sign_up(app.accounts, app.key.viewer.project, asked)
            assert [error.code for error in answer.errors] == ["CONFLICT"]
        with pytest.raises(RateLimited):
            await sign_in.sign_up(app.accounts, app.key.viewer.project, asked)


async def test_what_is_over_is_cleaned_up_in_steps(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaning, "STEP_ROWS", 2)
    clock = StandingClock(NOW)
    async with open_app(database_url, clock=clock) as app:
        for _ in range(5):
            await app.anonymous()
        token = (await app.anonymous())["session"]["refreshToken"]
        token = (await app.refresh(token))["session"]["refreshToken"]
        await app.sign_in_from("nobody@example.com", "a wrong password", "192.0.2.1")
        database: Database = app.gateway.services.database
        sweeper = Sweeper(database, clock, (), no_work)
        await sweeper.keep_house()
        assert await counted(app) == (6, 7, 2)
        clock.advance(WINDOW + timedelta(seconds=1))
        await sweeper.keep_house()
        assert await counted(app) == (6, 7, 0)
        clock.advance(SESSION_LIFETIME - timedelta(days=1))
        await app.refresh(token)
        clock.advance(EXPIRED_FOR + timedelta(days=1))
        async with database.connection() as connection:
            await clean_accounts(connection, now=clock.now())
        # of the session that goes on: what was used long ago is forgotten, what was used lately is remembered
        assert await counted(app) == (1, 2, 0)


async def no_work(_works: Any) -> None:
    return


async def counted(app: App) -> tuple[int, int, int]:
    [row] = await app.rows(
        """SELECT (SELECT count(*) FROM sessions) AS sessions, (SELECT count(*) FROM refresh_tokens) AS tokens,
        (SELECT count(*) FROM sign_in_failures) AS failures"""
    )
    return row["sessions"], row["tokens"], row["failures"]
