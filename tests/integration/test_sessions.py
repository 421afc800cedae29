"""Signing in, refreshing and signing out, through GraphQL and over a real database."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest
from argon2 import PasswordHasher
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.accounts.sessions import SESSION_LIFETIME
from engine.errors import Unauthenticated
from tests.integration.session_support import PASSWORD, App, open_app


def codes(payload: Any) -> list[tuple[str, list[str]]]:
    return [(error["code"], error["path"]) for error in payload["userErrors"]]


async def test_an_anonymous_user_has_an_id_that_stays_and_becomes_the_account(database_url: str) -> None:
    async with open_app(database_url) as app:
        first = await app.anonymous(deviceId="phone", traits={"lang": "de"})
        user_id = first["session"]["userId"]
        assert first["session"]["anonymous"] is True
        profile = (
            await app.backend.data("query ($id: String!) { profile(userId: $id) { id anonymous traits } }", id=user_id)
        )["profile"]
        assert (profile["anonymous"], profile["traits"]) == (True, {"lang": "de"})
        await app.key.track(userId=user_id)

        made = await app.sign_up(
            "Ann@Example.COM", traits={"plan": "pro"}, anonymousRefreshToken=first["session"]["refreshToken"]
        )
        assert (made["session"]["userId"], made["session"]["anonymous"]) == (user_id, False)
        assert (made["retiredAnonUserId"], made["retiredProfileId"]) == (None, None)
        after = (
            await app.backend.data("query ($id: String!) { profile(userId: $id) { id anonymous traits } }", id=user_id)
        )["profile"]
        assert after == {"id": profile["id"], "anonymous": False, "traits": {"lang": "de", "plan": "pro"}}
        assert codes(await app.refresh(first["session"]["refreshToken"])) == [("INVALID_CREDENTIALS", ["refreshToken"])]
        [old] = await app.rows("SELECT session_id, ended_reason FROM sessions WHERE anonymous")
        assert old["ended_reason"] == "UPGRADED"
        assert await app.ended_sessions() == [str(old["session_id"])]

        again = await app.sign_in("ann@example.com")
        assert again["session"]["userId"] == user_id
        names = [(kind, who) for kind, who, _ in await app.events("auth.signed_in", "auth.signed_up")]
        assert names == [("auth.signed_in", user_id), ("auth.signed_up", user_id), ("auth.signed_in", user_id)]


async def test_what_a_client_may_not_give_is_said_by_code_and_path_and_nothing_is_made(database_url: str) -> None:
    async with open_app(database_url) as app:
        await app.sign_up("ann@example.com")
        before = await app.rows("SELECT user_id FROM users")
        cases: list[tuple[dict[str, Any], tuple[str, list[str]]]] = [
            ({"email": "no address"}, ("INVALID", ["input", "email"])),
            ({"email": "ANN@example.com"}, ("CONFLICT", ["input", "email"])),
            ({"password": "short"}, ("INVALID", ["input", "password"])),
            ({"password": "x" * 257}, ("INVALID", ["input", "password"])),
            ({"password": "Password1"}, ("INVALID", ["input", "password"])),
            ({"password": "aaaaaaaaaaaa"}, ("INVALID", ["input", "password"])),
            ({"password": "bob@example.com"}, ("INVALID", ["input", "password"])),
            ({"traits": []}, ("INVALID", ["input", "traits"])),
            ({"anonymousRefreshToken": "nonsense"}, ("INVALID_CREDENTIALS", ["input", "anonymousRefreshToken"])),
            (
                {"anonymousRefreshToken": "rt_eu_" + "x" * 43},
                ("INVALID_CREDENTIALS", ["input", "anonymousRefreshToken"]),
            ),
            (
                {"anonymousRefreshToken": "rt_us_" + "x" * 43},
                ("INVALID_CREDENTIALS", ["input", "anonymousRefreshToken"]),
            ),
        ]
        for given_input, expected in cases:
            payload = await app.sign_up(**{"email": "bob@example.com", **given_input})
            assert (payload["session"], codes(payload)) == (None, [expected]), given_input
        assert await app.rows("SELECT user_id FROM users") == before
        assert codes(await app.anonymous(deviceId="")) == [("INVALID", ["input", "deviceId"])]
        assert codes(await app.anonymous(deviceId="x" * 257)) == [("INVALID", ["input", "deviceId"])]


async def test_nothing_tells_whether_an_address_has_an_account(database_url: str) -> None:
    async with open_app(database_url) as app:
        await app.sign_up("ann@example.com")
        wrong = await app.sign_in("ann@example.com", password="another password")
        nobody = await app.sign_in("bob@example.com", password="another password")
        assert wrong == nobody
        assert codes(wrong) == [("INVALID_CREDENTIALS", ["input"])]
        assert wrong["session"] is None


async def test_a_refresh_token_is_good_once_and_a_reused_one_ends_the_family(database_url: str) -> None:
    async with open_app(database_url) as app:
        first = (await app.sign_up("ann@example.com"))["session"]
        other = (await app.sign_in("ann@example.com"))["session"]
        second = (await app.refresh(first["refreshToken"]))["session"]
        third = (await app.refresh(second["refreshToken"]))["session"]
        assert len({each["refreshToken"] for each in (first, second, third)}) == 3
        assert {each["userId"] for each in (first, second, third)} == {first["userId"]}
        assert codes(await app.refresh(first["refreshToken"])) == [("INVALID_CREDENTIALS", ["refreshToken"])]
        assert codes(await app.refresh(third["refreshToken"])) == [("INVALID_CREDENTIALS", ["refreshToken"])]
        assert (await app.refresh(other["refreshToken"]))["session"] is not None
        [ended] = await app.rows("SELECT session_id, ended_reason FROM sessions WHERE ended_at IS NOT NULL")
        assert ended["ended_reason"] == "TOKEN_REUSED"
        assert await app.ended_sessions() == [str(ended["session_id"])]


async def test_one_token_given_many_times_at_once_is_good_once(database_url: str) -> None:
    async with open_app(database_url) as app:
        token = (await app.anonymous())["session"]["refreshToken"]
        answers = await asyncio.gather(*(app.refresh(token) for _ in range(5)))
        assert sum(answer["session"] is not None for answer in answers) == 1
        assert len(await app.ended_sessions()) == 1
        [made] = [answer["session"]["refreshToken"] for answer in answers if answer["session"] is not None]
        assert (await app.refresh(made))["session"] is None


async def test_a_session_lasts_from_its_last_use(database_url: str) -> None:
    async with open_app(database_url) as app:
        clock: Any = app.gateway.services.clock
        token = (await app.anonymous())["session"]["refreshToken"]
        for _ in range(2):
            clock.advance(SESSION_LIFETIME - timedelta(hours=1))
            token = (await app.refresh(token))["session"]["refreshToken"]
        clock.advance(SESSION_LIFETIME)
        assert codes(await app.refresh(token)) == [("INVALID_CREDENTIALS", ["refreshToken"])]
        assert await app.ended_sessions() == []


async def test_whoever_signs_out_is_told_to_all_gateways_and_may_do_it_again(database_url: str, redis_url: str) -> None:
    async with open_app(database_url, redis_url) as app:
        await app.gateway.revocations.start()
        session = (await app.anonymous())["session"]
        viewer = await app.person(session["accessToken"])
        assert viewer.session is not None
        assert (viewer.session.user_id, viewer.session.anonymous) == (session["userId"], True)
        for _ in range(2):
            assert await app.sign_out(session["refreshToken"]) == {
                "session": None,
                "retiredAnonUserId": None,
                "retiredProfileId": None,
                "userErrors": [],
            }
        assert await app.ended_sessions() == [str(viewer.session.session_id)]
        async with asyncio.timeout(5):
            while True:
                try:
                    await app.person(session["accessToken"])
                except Unauthenticated:
                    break
                await asyncio.sleep(0.01)
        assert codes(await app.refresh(session["refreshToken"])) == [("INVALID_CREDENTIALS", ["refreshToken"])]
        assert codes(await app.sign_out("rt_us_" + "x" * 43)) == [("INVALID_CREDENTIALS", ["refreshToken"])]
        app.gateway.revocations.stop()


async def test_tokens_of_one_project_are_nothing_in_another(database_url: str) -> None:
    async with open_app(database_url) as app:
        session = (await app.sign_up("ann@example.com"))["session"]
        other = App(app.gateway, app.backend, await app.gateway.tenant("other"))
        assert codes(await other.refresh(session["refreshToken"])) == [("INVALID_CREDENTIALS", ["refreshToken"])]
        assert codes(await other.sign_out(session["refreshToken"])) == [("INVALID_CREDENTIALS", ["refreshToken"])]
        assert codes(await other.sign_in("ann@example.com")) == [("INVALID_CREDENTIALS", ["input"])]
        assert (await other.sign_up("ann@example.com"))["session"]["userId"] != session["userId"]
        with pytest.raises(Unauthenticated):
            await other.person(session["accessToken"])
        assert (await app.refresh(session["refreshToken"]))["session"] is not None


async def test_an_apps_key_sees_the_ids_of_the_person_and_no_more(database_url: str) -> None:
    async with open_app(database_url) as app:
        document = """mutation { signInAnonymously(input: {traits: {a: 1}}) {
          session { userId } profile { id userId anonymous } } }"""
        response = await app.key.run(document)
        payload = response["data"]["signInAnonymously"]
        assert payload["profile"] is None or payload["profile"]["userId"] == payload["session"]["userId"]
        assert {error["extensions"]["code"] for error in response["errors"]} == {"FORBIDDEN"}
        seen = await app.backend.data(
            "mutation { signInAnonymously(input: {traits: {a: 1}}) { session { userId } profile { userId traits } } }"
        )
        assert seen["signInAnonymously"]["profile"] == {
            "userId": seen["signInAnonymously"]["session"]["userId"],
            "traits": {"a": 1},
        }


async def test_two_who_take_an_address_at_once_are_one_account(database_url: str) -> None:
    async with open_app(database_url) as app:
        answers = await asyncio.gather(*(app.sign_up("ann@example.com") for _ in range(3)))
        assert sorted(len(answer["userErrors"]) for answer in answers) == [0, 1, 1]
        assert {code for answer in answers for code, _ in codes(answer)} == {"CONFLICT"}
        assert len(await app.rows("SELECT FROM users")) == 1
        assert len(await app.rows("SELECT FROM profiles")) == 1


async def test_no_secret_and_no_address_is_stored_logged_or_said(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_app(database_url) as app:
        session = (await app.sign_up("ann@example.com"))["session"]
        await app.sign_in("ann@example.com", password="a wrong password")
        for token in ("rt_us_" + "y" * 43, session["refreshToken"]):
            await app.refresh(token)
        stored = await app.dump()
        secrets = [PASSWORD, session["refreshToken"], session["accessToken"], "a wrong password"]
        for secret in secrets:
            assert secret not in stored
            assert secret not in caplog.text
        assert "ann@example.com" not in caplog.text
        for _, _, properties in await app.events():
            assert "ann@example.com" not in str(properties)
        assert (await app.rows("SELECT password_hash FROM users"))[0]["password_hash"].startswith("$argon2id$")


async def test_a_hash_of_other_parameters_is_made_anew(database_url: str) -> None:
    async with open_app(database_url) as app:
        await app.sign_up("ann@example.com")
        older = PasswordHasher(time_cost=2, memory_cost=8, parallelism=1).hash(PASSWORD)
        await app.rows("UPDATE users SET password_hash = $1 RETURNING user_id", older)
        assert (await app.sign_in("ann@example.com"))["session"] is not None
        [row] = await app.rows("SELECT password_hash FROM users")
        assert row["password_hash"] != older
        assert (await app.sign_in("ann@example.com"))["session"] is not None


async def test_anonymous_users_are_many(database_url: str) -> None:
    async with open_app(database_url) as app:
        found = [await app.anonymous(deviceId="same") for _ in range(2)]
        assert len({each["session"]["userId"] for each in found}) == 2


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=st.lists(st.tuples(st.sampled_from(["newest", "older", "sign out"]), st.integers(0, 3)), max_size=8))
async def test_a_family_lives_as_long_as_only_its_newest_token_is_used(
    module_database_url: str, moves: list[tuple[str, int]]
) -> None:
    """Whatever is done in whichever order: an older token, or signing out, ends it for all of its tokens."""
    async with open_app(module_database_url) as app:
        tokens, is_alive = [(await app.anonymous())["session"]["refreshToken"]], True
        for move, back in moves:
            if move == "sign out":
                await app.sign_out(tokens[-1 - back % len(tokens)])
                is_alive = False
                continue
            chosen = tokens[-1] if move == "newest" else tokens[-1 - back % len(tokens)]
            answer = await app.refresh(chosen)
            is_alive = is_alive and chosen == tokens[-1]
            assert (answer["session"] is not None) is is_alive
            if is_alive:
                tokens.append(answer["session"]["refreshToken"])
        if not is_alive:
            assert (await app.refresh(tokens[-1]))["session"] is None
