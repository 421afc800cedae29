"""A second factor: enrolled in two steps, asked for at sign-in, each code good once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pyotp

from engine.accounts.storms import FREE, SubjectKind
from tests.integration.graphql_support import Tenant
from tests.integration.session_support import App, open_app
from tests.integration.worker_support import StandingClock

NOW = datetime(2040, 5, 7, 12, tzinfo=UTC)
ENROLL = "mutation { enrollTotp { secret otpauthUri userErrors { code path message } } }"
CONFIRM = "mutation ($code: String!) { confirmTotp(code: $code) { recoveryCodes userErrors { code path message } } }"
DISABLE = "mutation ($code: String!) { disableTotp(code: $code) { userErrors { code path message } } }"


async def session_of(app: App, email: str = "ann@example.com") -> Tenant:
    """Somebody who has just signed up, with their own session."""
    session = (await app.sign_up(email))["session"]
    return Tenant(app.gateway, await app.person(session["accessToken"]))


async def enrolled(app: App) -> tuple[Tenant, pyotp.TOTP, list[str]]:
    ann = await session_of(app)
    secret = (await ann.data(ENROLL))["enrollTotp"]["secret"]
    totp = pyotp.TOTP(secret)
    confirmed = (await ann.data(CONFIRM, code=totp.at(app.gateway.services.clock.now())))["confirmTotp"]
    assert confirmed["userErrors"] == []
    return ann, totp, confirmed["recoveryCodes"]


def refusal(payload: Any) -> tuple[str, list[str]]:
    assert payload.get("session") is None
    return payload["userErrors"][0]["code"], payload["userErrors"][0]["path"]


async def test_nothing_is_asked_for_before_a_code_has_confirmed_it(database_url: str) -> None:
    async with open_app(database_url, clock=StandingClock(NOW)) as app:
        ann = await session_of(app)
        made = (await ann.data(ENROLL))["enrollTotp"]
        assert made["otpauthUri"].startswith("otpauth://totp/shop:ann%40example.com?secret=" + made["secret"])
        assert (await app.sign_in("ann@example.com"))["session"] is not None
        again = (await ann.data(ENROLL))["enrollTotp"]["secret"]
        assert again != made["secret"]
        late = pyotp.TOTP(made["secret"]).at(NOW)
        assert refusal((await ann.data(CONFIRM, code=late))["confirmTotp"]) == ("INVALID_CREDENTIALS", ["code"])
        confirmed = (await ann.data(CONFIRM, code=pyotp.TOTP(again).at(NOW)))["confirmTotp"]
        assert len(set(confirmed["recoveryCodes"])) == 10
        assert refusal((await ann.data(ENROLL))["enrollTotp"]) == ("STATE", [])
        assert refusal((await ann.data(CONFIRM, code="000000"))["confirmTotp"]) == ("STATE", [])
        assert ann.viewer is not None
        assert ann.viewer.session is not None
        assert await app.events("auth.mfa_enrolled") == [
            ("auth.mfa_enrolled", ann.viewer.session.user_id, {"method": "totp"})
        ]
        stored = await app.dump()
        assert again not in stored
        assert not [code for code in confirmed["recoveryCodes"] if code in stored]


async def test_a_code_is_asked_for_and_good_once(database_url: str) -> None:
    clock = StandingClock(NOW)
    async with open_app(database_url, clock=clock) as app:
        _, totp, _ = await enrolled(app)
        used = totp.at(NOW)
        assert refusal(await app.sign_in("ann@example.com")) == ("INVALID_CREDENTIALS", ["input", "totpCode"])
        wrong_password = await app.sign_in("ann@example.com", password="a wrong password", totpCode=used)
        assert refusal(wrong_password) == ("INVALID_CREDENTIALS", ["input"])
        path = ("INVALID_CREDENTIALS", ["input", "totpCode"])
        assert refusal(await app.sign_in("ann@example.com", totpCode=used)) == path
        assert refusal(await app.sign_in("ann@example.com", totpCode="no code")) == path
        clock.advance(timedelta(seconds=30))
        code = f"{totp.at(clock.now())[:3]} {totp.at(clock.now())[3:]}"
        answers = await asyncio.gather(*(app.sign_in("ann@example.com", totpCode=code) for _ in range(3)))
        assert sum(answer["session"] is not None for answer in answers) == 1
        clock.advance(timedelta(minutes=2))
        assert (await app.sign_in("ann@example.com", totpCode=totp.at(clock.now() - timedelta(seconds=30))))[
            "session"
        ] is not None
        assert (
            refusal(await app.sign_in("ann@example.com", totpCode=totp.at(clock.now() - timedelta(seconds=60)))) == path
        )


async def test_a_recovery_code_stands_in_once(database_url: str) -> None:
    async with open_app(database_url, clock=StandingClock(NOW)) as app:
        _, _, codes = await enrolled(app)
        assert (await app.sign_in("ann@example.com", totpCode=codes[0].lower()))["session"] is not None
        assert refusal(await app.sign_in("ann@example.com", totpCode=codes[0])) == (
            "INVALID_CREDENTIALS",
            ["input", "totpCode"],
        )
        assert (await app.sign_in("ann@example.com", totpCode=codes[1]))["session"] is not None


async def test_it_is_taken_away_with_a_code_only(database_url: str) -> None:
    clock = StandingClock(NOW)
    async with open_app(database_url, clock=clock) as app:
        ann, totp, _ = await enrolled(app)
        assert refusal((await ann.data(DISABLE, code=totp.at(NOW)))["disableTotp"]) == ("INVALID_CREDENTIALS", ["code"])
        clock.advance(timedelta(seconds=30))
        assert (await ann.data(DISABLE, code=totp.at(clock.now())))["disableTotp"]["userErrors"] == []
        assert (await app.sign_in("ann@example.com"))["session"] is not None
        assert refusal((await ann.data(DISABLE, code="000000"))["disableTotp"]) == ("STATE", [])


async def test_codes_cannot_be_tried_one_by_one(database_url: str) -> None:
    async with open_app(database_url, clock=StandingClock(NOW)) as app:
        ann, totp, _ = await enrolled(app)
        tried = FREE[SubjectKind.ACCOUNT]
        for number in range(tried - 1):
            await app.sign_in("ann@example.com", totpCode=f"{number:06}")
        await ann.data(DISABLE, code="000000")
        assert await ann.codes(DISABLE, code=totp.at(NOW + timedelta(seconds=30))) == ["RATE_LIMITED"]
        response = await app.key.codes(
            'mutation { signIn(input: {email: "ann@example.com", password: "x"}) { session { userId } } }'
        )
        assert response == ["RATE_LIMITED"]


async def test_somebody_anonymous_has_no_second_factor_and_a_key_alone_is_nobody(database_url: str) -> None:
    async with open_app(database_url, clock=StandingClock(NOW)) as app:
        session = (await app.anonymous())["session"]
        somebody = Tenant(app.gateway, await app.person(session["accessToken"]))
        assert refusal((await somebody.data(ENROLL))["enrollTotp"]) == ("STATE", [])
        assert refusal((await app.backend.data(ENROLL))["enrollTotp"]) == ("INVALID_CREDENTIALS", [])
