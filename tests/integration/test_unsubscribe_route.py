"""Unsubscribing over HTTP: POST acts, GET does not, and the page needs and leaks nothing."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from engine.email.unsubscribe import unsubscribe_url, unsubscription_of
from tests.integration.graphql_support import Gateway, Tenant
from tests.integration.inbound_support import PUBLIC_URL, TOKENS, InboundServer

ONE_CLICK = {"List-Unsubscribe": "One-Click"}
IDENTIFY = 'mutation { identify(input: {userId: "ada", traits: {}}) { userErrors { code } } }'


@pytest.fixture
async def tenant(gateway: Gateway) -> Tenant:
    made = await gateway.tenant()
    await made.data(IDENTIFY)
    return made


def link(tenant: Tenant) -> str:
    asked = unsubscription_of(project_id=tenant.project_id, user_id="ada", address="ada@example.com")
    return unsubscribe_url(PUBLIC_URL, TOKENS, asked)


async def revocations(tenant: Tenant) -> list[Any]:
    document = '{ events(filter: {eventTypes: ["consent.revoked"]}) { edges { node { userId properties } } } }'
    return [edge["node"] for edge in (await tenant.data(document))["events"]["edges"]]


async def test_one_click_of_a_mail_program_revokes_consent_once(tenant: Tenant, server: InboundServer) -> None:
    answers = [await server.post(link(tenant), ONE_CLICK) for _ in range(2)]
    multipart = aiohttp.FormData(ONE_CLICK, default_to_multipart=True)
    answers.append(await server.post(link(tenant), multipart))

    assert [each.status for each in answers] == [200] * 3
    [event] = await revocations(tenant)
    assert event["userId"] == "ada"
    assert event["properties"]["purpose"] == "EMAIL"


async def test_following_the_link_shows_a_button_and_changes_nothing(tenant: Tenant, server: InboundServer) -> None:
    page = await server.request("GET", link(tenant))

    assert page.status == 200
    html = page.body.decode()
    assert '<form method="post"><input type="hidden" name="List-Unsubscribe" value="One-Click">' in html
    assert "<script" not in html
    assert not re.search(r"(src|href)=", html)
    assert await revocations(tenant) == []
    assert (await server.post(link(tenant), ONE_CLICK)).status == 200
    assert len(await revocations(tenant)) == 1


async def test_the_page_allows_its_own_style_and_nothing_else(tenant: Tenant, server: InboundServer) -> None:
    page = await server.request("GET", link(tenant))

    style = re.search(r"<style>(.*)</style>", page.body.decode())
    assert style is not None
    allowed = b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert page.headers["content-security-policy"] == (
        f"default-src 'none'; style-src 'sha256-{allowed}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["x-content-type-options"] == "nosniff"


async def test_another_post_than_one_click_changes_nothing(tenant: Tenant, server: InboundServer) -> None:
    assert (await server.post(link(tenant), {"a": "b"})).status == 400
    assert (await server.post(link(tenant), b"")).status == 400
    assert (await server.post(link(tenant), b"List-Unsubscribe=One-Click" + b"x" * 20_000)).status == 413
    assert await revocations(tenant) == []


async def test_a_link_that_was_not_made_here_is_not_valid(tenant: Tenant, server: InboundServer) -> None:
    gone = unsubscribe_url(
        PUBLIC_URL, TOKENS, unsubscription_of(project_id=uuid4(), user_id="ada", address="ada@example.com")
    )
    for url in ("/unsubscribe/x", link(tenant)[:-2], link(tenant) + "A", gone):
        assert (await server.post(url, ONE_CLICK)).status == 404, url
    assert (await server.request("GET", "/unsubscribe/x")).status == 404
    assert await revocations(tenant) == []
