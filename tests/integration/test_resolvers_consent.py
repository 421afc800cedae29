"""Saying what a person allows through the API, who may name whom, and what reads it back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine.identity import ApiKeyKind, Role
from engine.signatures import MAX_GRACE_SECONDS, MAX_SECRETS, Signatures, sign
from tests.integration.graphql_support import Gateway, Tenant, open_gateway

SET = """mutation ($input: SetConsentInput!) { setConsent(input: $input) {
  profile { id userId } change { id userId purpose to at source actor } userErrors { code path }
} }"""
BATCH = """mutation ($input: TrackBatchInput!) { trackBatch(input: $input) {
  accepted duplicates rejected dropped cursor userErrors { code path }
} }"""
TRACK = """mutation ($input: TrackInput!) { track(input: $input) {
  duplicate event { seq userId } userErrors { code path }
} }"""
IDENTIFY = """mutation ($input: IdentifyInput!) { identify(input: $input) {
  profile { userId } event { userId } userErrors { code path }
} }"""
REGISTER = """mutation ($input: RegisterPushTokenInput!) { registerPushToken(input: $input) {
  pushToken { userId } userErrors { code path }
} }"""
ROTATE = "mutation ($grace: Int) { rotateIdentitySecret(graceSeconds: $grace) { secret userErrors { code path } } }"
REQUIRE = "mutation { updateProjectSettings(input: {requireSignedIdentity: true}) { userErrors { code } } }"


@pytest.fixture
async def gateway(database_url: str) -> AsyncIterator[Gateway]:
    async with open_gateway(database_url) as opened:
        yield opened


async def say(tenant: Tenant, state: str, **given: Any) -> Any:
    said = {"userId": "ada", "purpose": "EMAIL", "state": state, "source": "settings page", **given}
    return (await tenant.data(SET, input=said))["setConsent"]


async def rotate(tenant: Tenant, grace: int = 86_400) -> str:
    secret: str = (await tenant.data(ROTATE, grace=grace))["rotateIdentitySecret"]["secret"]
    return secret


def forget_secrets(gateway: Gateway) -> None:
    """As a second does."""
    signatures: Signatures = gateway.services.signatures
    signatures._look_ups.forget(lambda _value: True)


async def test_a_word_is_stored_logged_audited_and_told_once(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    first = await say(shop, "GRANTED")
    assert first["userErrors"] == []
    assert first["profile"]["userId"] == "ada"
    assert shop.viewer is not None
    assert first["change"]["actor"] == shop.viewer.actor
    assert (await say(shop, "GRANTED"))["change"] is None
    await say(shop, "REVOKED")
    await say(shop, "UNKNOWN", purpose="EMAIL")

    found = await shop.data(
        """{ profile(userId: "ada") {
          consents { purpose state updatedAt }
          consentHistory(first: 2) { edges { node { from to } } pageInfo { hasNextPage endCursor } }
        } consentLog(filter: {userId: "ada"}) { edges { node { id from to } } }
        events(filter: {modules: ["consent"]}, order: OLDEST_FIRST) { edges { node { eventType userId } } }
        auditLog(subject: "user:ada") { edges { node { action } } } }"""
    )
    states = {each["purpose"]: each["state"] for each in found["profile"]["consents"]}
    assert states == dict.fromkeys(["EMAIL", "PUSH", "SMS", "ANALYTICS", "WORKFLOWS"], "UNKNOWN")
    assert [each["updatedAt"] is None for each in found["profile"]["consents"]] == [False, True, True, True, True]
    history = found["profile"]["consentHistory"]
    assert [edge["node"] for edge in history["edges"]] == [
        {"from": "REVOKED", "to": "UNKNOWN"},
        {"from": "GRANTED", "to": "REVOKED"},
    ]
    assert history["pageInfo"]["hasNextPage"]
    types = ["consent.granted", "consent.revoked", "consent.reset"]
    assert [edge["node"]["eventType"] for edge in found["events"]["edges"]] == types
    assert [edge["node"]["action"] for edge in found["auditLog"]["edges"]] == types[::-1]
    nodes = [edge["node"]["id"] for edge in found["consentLog"]["edges"]]
    assert all(each.startswith("cch_") for each in nodes)
    document = "query ($id: ID!) { node(id: $id) { ... on ConsentChange { from to } } }"
    assert (await shop.data(document, id=nodes[-1]))["node"] == {"from": "UNKNOWN", "to": "GRANTED"}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"userId": ""}, "userId"),
        ({"userId": "x" * 257}, "userId"),
        ({"userId": "a\0b"}, "userId"),
        ({"source": ""}, "source"),
        ({"source": "x" * 201}, "source"),
    ],
)
async def test_what_cannot_be_stored_is_refused(gateway: Gateway, given: dict[str, str], name: str) -> None:
    shop = await gateway.tenant()
    refused = await say(shop, "GRANTED", **given)
    assert refused == {
        "profile": None,
        "change": None,
        "userErrors": [{"code": "INVALID", "path": ["input", name]}],
    }
    assert (await shop.data("{ consentLog { edges { node { id } } } }"))["consentLog"] == {"edges": []}


async def test_analytics_without_consent_are_answered_and_not_stored(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    await say(shop, "REVOKED", purpose="ANALYTICS")
    head = (await shop.data("{ events { edges { node { seq } } } }"))["events"]["edges"][0]["node"]["seq"]

    tracked = (await shop.data(TRACK, input={"event": {"eventType": "page.viewed", "userId": "ada"}}))["track"]
    assert tracked == {
        "duplicate": False,
        "event": None,
        "userErrors": [{"code": "CONSENT", "path": ["input", "event"]}],
    }
    events = [
        {"eventType": "page.viewed", "userId": "ada"},
        {"eventType": "page.viewed", "userId": "ben"},
        {"eventType": "order.placed", "userId": "ada", "module": "billing"},
    ]
    batch = (await shop.data(BATCH, input={"events": events}))["trackBatch"]
    assert (batch["accepted"], batch["dropped"], batch["rejected"], batch["userErrors"]) == (2, 1, 0, [])
    assert batch["cursor"] is not None
    stored = (await shop.data("{ events { edges { node { seq userId } } } }"))["events"]["edges"]
    assert [(edge["node"]["seq"], edge["node"]["userId"]) for edge in stored[:2]] == [
        (head + 2, "ada"),
        (head + 1, "ben"),
    ]
    only_dropped = (await shop.data(BATCH, input={"events": events[:1]}))["trackBatch"]
    assert (only_dropped["accepted"], only_dropped["dropped"], only_dropped["cursor"]) == (0, 1, None)
    # Who they are is no analytics
    identified = await shop.data(IDENTIFY, input={"userId": "ada", "traits": {"plan": "pro"}})
    assert identified["identify"]["userErrors"] == []


async def _tries(asking: Tenant, signature: str | None, user_id: str = "ada") -> list[list[Any]]:
    """The errors of everything that names a person."""
    named = {"userId": user_id} if signature is None else {"userId": user_id, "signature": signature}
    event = {"eventType": "page.viewed", **named}
    return [
        (await asking.data(IDENTIFY, input={"traits": {}, **named}))["identify"]["userErrors"],
        (await asking.data(TRACK, input={"event": event}))["track"]["userErrors"],
        (await asking.data(BATCH, input={"events": [{"eventType": "a.b"}, event]}))["trackBatch"]["userErrors"],
        (await asking.data(REGISTER, input={"platform": "IOS", "token": "00112233", **named}))["registerPushToken"][
            "userErrors"
        ],
        (await asking.data(SET, input={"purpose": "PUSH", "state": "GRANTED", "source": "app", **named}))["setConsent"][
            "userErrors"
        ],
    ]


def _refused(name: str) -> list[list[Any]]:
    paths = [["input"], ["input", "event"], ["input", "events", "1"], ["input"], ["input"]]
    return [[{"code": "INVALID_CREDENTIALS", "path": [*path, name]}] for path in paths]


OK: list[list[Any]] = [[], [], [], [], []]


async def test_who_names_a_person_from_an_app_needs_a_signature_where_it_is_required(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    secret = await rotate(shop)
    app = await shop.as_role(Role.INGEST, ApiKeyKind.PUBLISHABLE)
    granted = await shop.as_role(Role.EDITOR, ApiKeyKind.PUBLISHABLE)
    small, server = await shop.as_role(Role.INGEST), await shop.as_role(Role.EDITOR)
    right, wrong = sign("ada", secret), sign("ben", secret)

    # A wrong one is refused wherever it comes from, also where none is needed
    for asking in (app, granted, small, server):
        assert await _tries(asking, None) == OK
        assert await _tries(asking, right) == OK
        assert await _tries(asking, wrong) == _refused("signature")

    await shop.data(REQUIRE)
    gateway.services.project_settings._look_ups.forget(lambda _value: True)
    for asking in (app, granted, small):
        assert await _tries(asking, None) == _refused("signature")
        assert await _tries(asking, right) == OK
        # What names nobody needs nothing
        assert (await asking.data(TRACK, input={"event": {"eventType": "a.b", "anonymousId": "x"}}))["track"][
            "userErrors"
        ] == []
    assert await _tries(server, None) == OK
    assert await _tries(server, wrong) == _refused("signature")
    for nonsense in ("", "zz" * 32, right[:-2], right + "00", "é" * 64, right.replace(right[0], "\0")):
        assert await _tries(app, nonsense) == _refused("signature")
    assert await _tries(app, right.upper()) == OK


async def test_a_session_names_its_own_person_and_no_other(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    secret = await rotate(shop)
    await shop.data(REQUIRE)
    ada = await shop.as_session("ada")
    assert await _tries(ada, None) == OK
    assert await _tries(ada, None, "ben") == _refused("userId")
    assert await _tries(ada, sign("ben", secret), "ben") == _refused("userId")

    # Who is not named is the session's person
    tracked = (await ada.data(TRACK, input={"event": {"eventType": "a.b"}}))["track"]
    assert tracked["event"]["userId"] == "ada"
    registered = await ada.data(REGISTER, input={"platform": "IOS", "token": "00112233"})
    assert registered["registerPushToken"]["pushToken"] == {"userId": "ada"}
    said = await say(ada, "GRANTED")
    assert (said["change"]["actor"], said["profile"]["userId"]) == ("user:ada", "ada")
    read = await ada.data(
        '{ profile(userId: "ada") { consents { state } consentHistory { edges { node { from } } } } }'
    )
    assert len(read["profile"]["consents"]) == 5
    ben = await shop.as_session("ben")
    document = "query ($id: ID!) { node(id: $id) { id } }"
    assert await ada.codes(document, id=said["change"]["id"]) == []
    assert await ben.codes(document, id=said["change"]["id"]) == ["FORBIDDEN"]


async def test_what_an_app_learns_of_the_person_it_speaks_of(gateway: Gateway) -> None:
    """Ids, and what it said itself: neither whether they exist without proof, nor what they had said before."""
    shop = await gateway.tenant()
    secret = await rotate(shop)
    await say(shop, "GRANTED")
    app = await shop.as_role(Role.INGEST, ApiKeyKind.PUBLISHABLE)

    said = await say(app, "REVOKED")
    assert (said["profile"], said["change"]["to"]) == (None, "REVOKED")
    signed = await say(app, "DENIED", signature=sign("ada", secret))
    assert signed["profile"]["userId"] == "ada"
    before = """mutation ($input: SetConsentInput!) { setConsent(input: $input) { change { from } } }"""
    given = {"userId": "ada", "purpose": "EMAIL", "state": "GRANTED", "source": "app"}
    assert await app.codes(before, input=given) == ["FORBIDDEN"]
    identified = {"userId": "ada", "traits": {}}
    assert (await app.data(IDENTIFY, input=identified))["identify"]["profile"] is None
    proven = await app.data(IDENTIFY, input=identified | {"signature": sign("ada", secret)})
    assert proven["identify"]["profile"] == {"userId": "ada"}


async def test_an_old_secret_holds_to_the_end_of_its_grace(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    app = await shop.as_role(Role.INGEST, ApiKeyKind.PUBLISHABLE)
    first = await rotate(shop)
    assert first.startswith("ids_")
    second = await rotate(shop, grace=60)
    forget_secrets(gateway)
    assert await _tries(app, sign("ada", first)) == await _tries(app, sign("ada", second)) == OK

    async with gateway.services.database.connection() as connection:
        await connection.execute("UPDATE identity_secrets SET expires_at = now() WHERE expires_at IS NOT NULL")
    forget_secrets(gateway)
    assert await _tries(app, sign("ada", first)) == _refused("signature")
    assert await _tries(app, sign("ada", second)) == OK

    # Without grace all others end at once
    third = await rotate(shop, grace=0)
    forget_secrets(gateway)
    assert await _tries(app, sign("ada", second)) == _refused("signature")
    assert await _tries(app, sign("ada", third)) == OK


async def test_rotating_is_bounded_and_leaves_no_secret_anywhere(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    for grace in (-1, MAX_GRACE_SECONDS + 1):
        refused = (await shop.data(ROTATE, grace=grace))["rotateIdentitySecret"]
        assert refused == {"secret": None, "userErrors": [{"code": "INVALID", "path": ["graceSeconds"]}]}
    made = [await rotate(shop) for _ in range(MAX_SECRETS)]
    too_many = (await shop.data(ROTATE, grace=60))["rotateIdentitySecret"]
    assert [each["code"] for each in too_many["userErrors"]] == ["LIMIT_EXCEEDED"]
    made.append(await rotate(shop, grace=0))

    log = await shop.data("{ auditLog { edges { node { action before after } } } }")
    assert [edge["node"]["action"] for edge in log["auditLog"]["edges"]].count("identity_secret.rotated") == len(made)
    async with gateway.services.database.connection() as connection:
        rows = await connection.fetch("SELECT audit_entries::text AS row FROM audit_entries")
        rows += await connection.fetch("SELECT identity_secrets::text AS row FROM identity_secrets")
    assert not [secret for secret in made if any(secret in row["row"] for row in rows)]
