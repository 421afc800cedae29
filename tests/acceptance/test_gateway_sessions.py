"""An end user's session over the wire: it follows its own person, ends when it is signed out, and goes on with a fresh
token and its cursor."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.acceptance.gateway_client import FOLLOW, Gateway, code_of, open_event_source, open_socket

SECONDS = 1.0
"""From the answer of `signOut` to the end of the last stream."""
SIGN_IN = "mutation { signInAnonymously(input: {}) { session { userId accessToken refreshToken } } }"
REFRESH = "mutation ($t: String!) { refreshSession(refreshToken: $t) { session { accessToken refreshToken } } }"
SIGN_OUT = "mutation ($t: String!) { signOut(refreshToken: $t) { userErrors { code } } }"
PROJECT = "{ viewer { project { uuid } } }"


async def sign_in(gateway: Gateway) -> dict[str, str]:
    found: dict[str, str] = (await gateway.data(SIGN_IN, key=gateway.publishable_key))["signInAnonymously"]["session"]
    return found


async def bearer(gateway: Gateway, token: str) -> dict[str, str]:
    project = (await gateway.data(PROJECT))["viewer"]["project"]["uuid"]
    return {"authorization": f"Bearer {token}", "x-sendora-project": project}


def lines(credentials: dict[str, str]) -> list[str]:
    return [f"{name}: {value}" for name, value in credentials.items()]


async def test_a_session_ends_what_is_open_under_it_and_another_goes_on_from_its_cursor(gateway: Gateway) -> None:
    person = await sign_in(gateway)
    credentials = await bearer(gateway, person["accessToken"])
    own: dict[str, Any] = {"filter": {"userId": person["userId"]}}
    role = await gateway.ask("{ viewer { role profile { userId } } }", *lines(credentials), key=None)
    assert role.json["data"]["viewer"]["role"] == "INGEST"
    refused = await gateway.ask("{ events { totalCount } }", *lines(credentials), key=None)
    assert code_of(refused) == "FORBIDDEN"

    async with (
        open_socket(gateway, credentials=credentials) as socket,
        open_event_source(gateway, FOLLOW, credentials=credentials, **own) as source,
    ):
        await socket.subscribe("1", FOLLOW, **own)
        await socket.position("1")
        assert "id" in (await source.frame() or {})
        await gateway.track(eventType="others.business", userId="somebody else")
        seq = (await gateway.track(eventType="own.business", userId=person["userId"]))["event"]["seq"]
        item = (await socket.receive())["payload"]["data"]["eventStream"]
        assert item["node"]["seq"] == (await source.item())["data"]["eventStream"]["node"]["seq"] == seq
        fresh = (await gateway.data(REFRESH, key=gateway.publishable_key, t=person["refreshToken"]))["refreshSession"]
        # The session goes on with its next token: what is open under the one before stays open until that expires.
        after = (await gateway.track(eventType="own.more", userId=person["userId"]))["event"]["seq"]
        again = await bearer(gateway, fresh["session"]["accessToken"])
        async with open_socket(gateway, credentials=again) as resumed:
            await resumed.subscribe("1", FOLLOW, **own, after=item["cursor"])
            assert (await resumed.receive())["payload"]["data"]["eventStream"]["node"]["seq"] == after
        assert (await socket.receive())["payload"]["data"]["eventStream"]["node"]["seq"] == after
        assert (await source.item())["data"]["eventStream"]["node"]["seq"] == after

        refresh_token = fresh["session"]["refreshToken"]
        out = await gateway.data(SIGN_OUT, key=gateway.publishable_key, t=refresh_token)
        assert out["signOut"] == {"userErrors": []}
        ended_at = time.monotonic()
        close, last = await asyncio.gather(socket.closed(), source.item())
        took = time.monotonic() - ended_at

    assert close == (4403, "This session has ended: sign in again.")
    assert last["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    assert took < SECONDS
    for ended in (credentials, again):
        assert code_of(await gateway.ask(PROJECT, *lines(ended), key=None)) == "UNAUTHENTICATED"
