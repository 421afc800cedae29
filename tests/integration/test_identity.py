"""Keys: made, shown once, looked up, limited by where they come from, revoked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from app import GatewaySession
from db.events import read_event_page
from db.records import SYSTEM_PROJECT, Lane
from engine.errors import Unauthenticated
from engine.identity import KEY_MAX_AGE, ApiKeyKind, Identities, KeyEnvironment, Role, UserSession
from engine.provisioning import create_api_key, revoke_api_key
from engine.rate_limits import Account
from resolvers.rate_limits import read_rate_limit
from tests.integration.graphql_support import Gateway, Tenant, open_gateway

CREATE = """mutation ($name: String!, $kind: ApiKeyKind!, $role: Role!, $environment: KeyEnvironment) {
  createApiKey(name: $name, kind: $kind, role: $role, environment: $environment) {
    apiKey { id name kind environment role prefix createdAt lastUsedAt revokedAt }
    token
    userErrors { code path }
  }
}"""
REVOKE = """mutation ($id: ID!) {
  revokeApiKey(id: $id) { apiKey { id revokedAt } token userErrors { code path } }
}"""
UNKNOWN = "sk_us_prod_" + "x" * 43


@pytest.fixture
async def gateway(database_url: str) -> AsyncIterator[Gateway]:
    async with open_gateway(database_url) as opened:
        yield opened


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Known:
    """What a test says is revoked."""

    def __init__(self) -> None:
        self.keys: set[UUID] = set()
        self.callbacks: list[Callable[[UUID], None]] = []

    def revoked(self, api_key_id: UUID) -> bool:
        return api_key_id in self.keys

    def on_revoked_any(self, callback: Callable[[UUID], None]) -> None:
        self.callbacks.append(callback)


async def test_a_key_opens_its_project_with_its_role(gateway: Gateway, shop: Tenant) -> None:
    viewer = await gateway.identities.viewer_of(shop.token)
    assert (viewer.role, viewer.project.name) == (Role.ADMIN, "shop")


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "sk_us_prod_short",
        UNKNOWN + "x",
        "ak" + UNKNOWN[2:],
        "sk_us_test_" + "x" * 43,
        UNKNOWN + "\n",
        "é" * 54,
    ],
)
async def test_a_token_of_another_shape_is_refused_without_a_look_up(gateway: Gateway, token: str) -> None:
    gateway.services.database.connection = _forbidden  # type: ignore[method-assign]
    with pytest.raises(Unauthenticated, match="not an API key"):
        await gateway.identities.viewer_of(token)


async def test_a_key_of_another_region_is_refused_without_a_look_up(gateway: Gateway) -> None:
    gateway.services.database.connection = _forbidden  # type: ignore[method-assign]
    with pytest.raises(Unauthenticated, match="belongs to region eu, and this is region us") as caught:
        await gateway.identities.viewer_of("sk_eu_prod_" + "x" * 43)
    assert "x" * 43 not in str(caught.value)


async def test_an_unknown_key_is_refused_each_time(gateway: Gateway) -> None:
    for _ in range(2):
        with pytest.raises(Unauthenticated, match="not known"):
            await gateway.identities.viewer_of(UNKNOWN)


def _forbidden() -> Any:
    raise AssertionError("a look-up")


async def test_looking_up_is_done_once_for_many_and_again_after_a_minute(gateway: Gateway, shop: Tenant) -> None:
    clock = Clock()
    identities = Identities(gateway.services.database, region="us", clock=clock)
    looked_up = _counted(gateway)
    await asyncio.gather(*(identities.viewer_of(shop.token) for _ in range(50)))
    assert looked_up() == 1
    clock.now += KEY_MAX_AGE.total_seconds()
    await identities.viewer_of(shop.token)
    assert looked_up() == 1
    clock.now += 1
    await identities.viewer_of(shop.token)
    assert looked_up() == 2


def _counted(gateway: Gateway) -> Callable[[], int]:
    read, calls = gateway.services.database.connection, 0

    def counting() -> Any:
        nonlocal calls
        calls += 1
        return read()

    gateway.services.database.connection = counting  # type: ignore[method-assign]
    return lambda: calls


async def test_a_caller_who_goes_away_does_not_take_the_look_up_along(gateway: Gateway, shop: Tenant) -> None:
    identities = Identities(gateway.services.database, region="us")
    leaving = asyncio.create_task(identities.viewer_of(shop.token))
    staying = asyncio.create_task(identities.viewer_of(shop.token))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).project.name == "shop"
    alone = asyncio.create_task(identities.viewer_of(UNKNOWN))
    await asyncio.sleep(0)
    alone.cancel()
    with pytest.raises(Unauthenticated):
        await identities.viewer_of(UNKNOWN)


async def test_a_revocation_ends_a_cached_key_at_once(gateway: Gateway, shop: Tenant) -> None:
    known = Known()
    identities = Identities(gateway.services.database, region="us", revocations=known)
    key = (await identities.viewer_of(shop.token)).api_key
    known.keys.add(key.api_key_id)
    for tell in known.callbacks:
        tell(key.api_key_id)
    with pytest.raises(Unauthenticated, match="revoked"):
        await identities.viewer_of(shop.token)


async def test_a_key_that_is_revoked_while_it_is_looked_up_is_never_admitted(gateway: Gateway, shop: Tenant) -> None:
    known = Known()
    identities = Identities(gateway.services.database, region="us", revocations=known)
    api_key_id = (await gateway.identities.viewer_of(shop.token)).api_key.api_key_id
    read = gateway.services.database.connection

    @asynccontextmanager
    async def revoking() -> AsyncIterator[asyncpg.Connection]:
        async with read() as connection:
            yield connection
            known.keys.add(api_key_id)
            for tell in known.callbacks:
                tell(api_key_id)

    gateway.services.database.connection = revoking  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(Unauthenticated, match="revoked"):
            await identities.viewer_of(shop.token)


async def test_a_key_of_a_moment_ago_is_known_without_waiting(gateway: Gateway, shop: Tenant) -> None:
    clock, known = Clock(), Known()
    identities = Identities(gateway.services.database, region="us", revocations=known, clock=clock)
    assert identities.known_viewer(shop.token, from_browser=False) is None
    viewer = await identities.viewer_of(shop.token)
    assert identities.known_viewer(shop.token, from_browser=False) is viewer
    assert identities.known_viewer(shop.token[:-1], from_browser=False) is None
    clock.now += KEY_MAX_AGE.total_seconds() + 1
    assert identities.known_viewer(shop.token, from_browser=False) is None
    await identities.viewer_of(shop.token)
    for tell in known.callbacks:
        tell(viewer.api_key.api_key_id)
    assert identities.known_viewer(shop.token, from_browser=False) is None


async def test_without_the_log_of_revocations_a_cached_key_ends_within_a_minute(gateway: Gateway, shop: Tenant) -> None:
    clock = Clock()
    identities = Identities(gateway.services.database, region="us", clock=clock)
    viewer = await identities.viewer_of(shop.token)
    await revoke_api_key(
        gateway.services.database,
        gateway.services.announce,
        project_id=viewer.project_id,
        api_key_id=viewer.api_key.api_key_id,
        audit=gateway.audit,
    )
    assert (await identities.viewer_of(shop.token)).role is Role.ADMIN
    clock.now += KEY_MAX_AGE.total_seconds() + 1
    with pytest.raises(Unauthenticated, match="revoked"):
        await identities.viewer_of(shop.token)


@pytest.mark.parametrize(
    ("kind", "role", "outside", "in_a_browser"),
    [
        (ApiKeyKind.PUBLISHABLE, Role.INGEST, Role.INGEST, Role.INGEST),
        (ApiKeyKind.PUBLISHABLE, Role.VIEWER, Role.VIEWER, Role.INGEST),
        (ApiKeyKind.PUBLISHABLE, Role.EDITOR, Role.EDITOR, Role.INGEST),
        (ApiKeyKind.SECRET, Role.INGEST, Role.INGEST, Role.INGEST),
        # Server side; GraphiQL sends an Origin too.
        (ApiKeyKind.SECRET, Role.ADMIN, Role.ADMIN, Role.ADMIN),
    ],
)
async def test_a_publishable_key_is_cut_to_ingest_in_a_browser(
    shop: Tenant, kind: ApiKeyKind, role: Role, outside: Role, in_a_browser: Role
) -> None:
    token = (await shop.as_role(role, kind)).token
    identities = shop.gateway.identities
    assert (await identities.viewer_of(token)).role is outside
    assert (await identities.viewer_of(token, from_browser=True)).role is in_a_browser


async def test_the_database_itself_refuses_a_publishable_admin(shop: Tenant) -> None:
    assert shop.viewer is not None
    with pytest.raises(asyncpg.CheckViolationError):
        await create_api_key(
            shop.gateway.services.database,
            project_id=shop.viewer.project_id,
            name="x",
            kind=ApiKeyKind.PUBLISHABLE,
            role=Role.ADMIN,
            environment=KeyEnvironment.DEV,
            audit=shop.gateway.audit,
        )


async def test_when_a_key_was_last_used_is_noted(gateway: Gateway, shop: Tenant) -> None:
    made = await shop.data(CREATE, name="k", kind="SECRET", role="VIEWER")
    keys = "{ viewer { project { apiKeys { id lastUsedAt } } } }"

    async def last_used() -> str | None:
        found = (await shop.data(keys))["viewer"]["project"]["apiKeys"]
        used: str | None = {key["id"]: key["lastUsedAt"] for key in found}[made["createApiKey"]["apiKey"]["id"]]
        return used

    assert await last_used() is None
    await gateway.identities.viewer_of(made["createApiKey"]["token"])
    assert await last_used() is not None


async def test_a_token_is_shown_once_and_stored_nowhere(gateway: Gateway, shop: Tenant) -> None:
    made = (await shop.data(CREATE, name=" Mobile app ", kind="PUBLISHABLE", role="INGEST", environment="DEV"))[
        "createApiKey"
    ]
    token, key = made["token"], made["apiKey"]
    assert token.startswith("pk_us_dev_")
    assert len(token) == len("pk_us_dev_") + 43
    assert key["prefix"] == token[:16]
    assert {name: key[name] for name in ("name", "kind", "environment", "role", "revokedAt")} == {
        "name": "Mobile app",
        "kind": "PUBLISHABLE",
        "environment": "DEV",
        "role": "INGEST",
        "revokedAt": None,
    }
    async with gateway.services.database.connection() as connection:
        rows = await connection.fetch("SELECT * FROM api_keys")
    assert all(token[16:] not in str(value) for row in rows for value in row.values())
    assert (await gateway.identities.viewer_of(token)).role is Role.INGEST


async def test_prod_is_the_default_environment(shop: Tenant) -> None:
    for extra in ({}, {"environment": None}):
        made = await shop.data(CREATE, name="k", kind="SECRET", role="VIEWER", **extra)
        assert made["createApiKey"]["apiKey"]["environment"] == "PROD"
        assert made["createApiKey"]["token"].startswith("sk_us_prod_")


@pytest.mark.parametrize(
    ("name", "kind", "role", "path"),
    [
        ("", "SECRET", "VIEWER", ["name"]),
        ("  ", "SECRET", "VIEWER", ["name"]),
        ("x" * 101, "SECRET", "VIEWER", ["name"]),
        ("a\0b", "SECRET", "VIEWER", ["name"]),
        ("k", "PUBLISHABLE", "ADMIN", ["role"]),
    ],
)
async def test_an_impossible_key_is_a_user_error(
    shop: Tenant, name: str, kind: str, role: str, path: list[str]
) -> None:
    made = (await shop.data(CREATE, name=name, kind=kind, role=role))["createApiKey"]
    assert made == {"apiKey": None, "token": None, "userErrors": [{"code": "INVALID", "path": path}]}
    keys = (await shop.data("{ viewer { project { apiKeys { name } } } }"))["viewer"]["project"]["apiKeys"]
    assert keys == [{"name": "First key"}]


async def test_revoking_tells_every_gateway_in_the_same_transaction(gateway: Gateway, shop: Tenant) -> None:
    made = (await shop.data(CREATE, name="k", kind="SECRET", role="VIEWER"))["createApiKey"]
    revoked = (await shop.data(REVOKE, id=made["apiKey"]["id"]))["revokeApiKey"]
    assert (revoked["apiKey"]["id"], revoked["token"], revoked["userErrors"]) == (made["apiKey"]["id"], None, [])
    assert revoked["apiKey"]["revokedAt"] is not None
    async with gateway.services.database.connection() as connection:
        page = await read_event_page(connection, project_id=SYSTEM_PROJECT, after=0, limit=10)
    [event] = page.events
    uuid = str(UUID(hex=made["apiKey"]["id"].removeprefix("key_")))
    assert (event.event_type, bytes(event.properties).decode()) == ("api_key.revoked", f'{{"apiKeyId": "{uuid}"}}')
    [announcement] = gateway.announced
    assert (announcement.project_id, announcement.lane, announcement.first, announcement.last) == (
        SYSTEM_PROJECT,
        Lane.EVENTS,
        1,
        1,
    )
    with pytest.raises(Unauthenticated, match="revoked"):
        await gateway.identities.viewer_of(made["token"])


async def test_a_revocation_that_cannot_be_told_does_not_take_effect(gateway: Gateway, shop: Tenant) -> None:
    made = (await shop.data(CREATE, name="k", kind="SECRET", role="VIEWER"))["createApiKey"]
    async with gateway.services.database.connection() as connection:
        await connection.execute("ALTER TABLE events ADD CONSTRAINT closed CHECK (event_type <> 'api_key.revoked')")
    assert await shop.codes(REVOKE, id=made["apiKey"]["id"]) == ["INTERNAL"]
    assert gateway.announced == []
    assert (await gateway.identities.viewer_of(made["token"])).role is Role.VIEWER


async def test_revoking_again_changes_nothing(gateway: Gateway, shop: Tenant) -> None:
    made = (await shop.data(CREATE, name="k", kind="SECRET", role="VIEWER"))["createApiKey"]
    first = await shop.data(REVOKE, id=made["apiKey"]["id"])
    assert await shop.data(REVOKE, id=made["apiKey"]["id"]) == first
    assert len(gateway.announced) == 1


async def test_many_revoke_at_once_and_each_is_told_once(gateway: Gateway, shop: Tenant) -> None:
    ids = [
        (await shop.data(CREATE, name="k", kind="SECRET", role="VIEWER"))["createApiKey"]["apiKey"]["id"]
        for _ in range(4)
    ]
    await asyncio.gather(*(shop.data(REVOKE, id=key_id) for key_id in ids * 2))
    assert sorted(announcement.first for announcement in gateway.announced) == [1, 2, 3, 4]


@pytest.mark.parametrize("key_id", ["", "key_x", "key_" + "0" * 32, "prj_" + "0" * 32, "\0"])
async def test_revoking_what_is_not_there_is_not_found(shop: Tenant, key_id: str) -> None:
    revoked = (await shop.data(REVOKE, id=key_id))["revokeApiKey"]
    assert revoked == {"apiKey": None, "token": None, "userErrors": [{"code": "NOT_FOUND", "path": ["id"]}]}


async def test_a_new_project_is_in_the_same_organization_with_a_first_key(gateway: Gateway, shop: Tenant) -> None:
    create = """mutation { createProject(name: " Second ") {
      project { id uuid name head apiKeys { name } } apiKey { kind role environment } token userErrors { code path }
    } }"""
    made = (await shop.data(create))["createProject"]
    assert (made["project"]["name"], made["project"]["apiKeys"]) == ("Second", [{"name": "First key"}])
    assert made["apiKey"] == {"kind": "SECRET", "role": "ADMIN", "environment": "PROD"}
    viewer = await gateway.identities.viewer_of(made["token"])
    assert shop.viewer is not None
    assert viewer.project.organization_id == shop.viewer.project.organization_id
    assert str(viewer.project_id) == made["project"]["uuid"]
    assert await Tenant(gateway, viewer).data("{ events { edges { cursor } } }") == {"events": {"edges": []}}
    for name in ("", "x" * 101, "a\0b"):
        refused = await shop.data(
            "mutation ($n: String!) { createProject(name: $n) { project { id } token userErrors { code path } } }",
            n=name,
        )
        assert refused["createProject"]["userErrors"] == [{"code": "INVALID", "path": ["name"]}]


def test_keys_are_believed_for_a_minute() -> None:
    assert timedelta(minutes=1) == KEY_MAX_AGE


# Whose points are taken


async def test_more_tokens_give_no_more_points(gateway: Gateway, shop: Tenant) -> None:
    """Whoever uses up what is open to anybody does so at one place, and making more of it gives no more."""
    secret = await shop.as_role(Role.VIEWER)
    publishable = await shop.as_role(Role.INGEST, ApiKeyKind.PUBLISHABLE)
    member, ann, again = await shop.as_member(Role.EDITOR), await shop.as_session("ann"), await shop.as_session("ann")
    other = await gateway.tenant("other")

    for whoever in (secret, member, ann):
        assert _account(whoever, "192.0.2.1") is _account(whoever, "192.0.2.2")
    assert _account(ann, "192.0.2.1") is _account(again, "192.0.2.1")
    for at_its_place in (publishable, _anonymous(shop, "a")):
        assert _account(at_its_place, "192.0.2.1") is not _account(at_its_place, "192.0.2.2")
        assert _account(at_its_place, "2001:db8::1") is _account(at_its_place, "2001:db8::2")
    assert _account(_anonymous(shop, "a"), "192.0.2.1") is _account(_anonymous(shop, "b"), "192.0.2.1")
    everybody = (secret, publishable, member, ann, _anonymous(shop, "a"), _anonymous(other, "a"), other)
    assert len({id(_account(each, "192.0.2.1")) for each in everybody}) == len(everybody)
    assert GatewaySession(gateway.services, gateway.revocations, None, client="192.0.2.1").account is None


async def test_a_viewer_is_told_of_the_bucket_that_its_operation_was_charged_to(gateway: Gateway, shop: Tenant) -> None:
    publishable = await shop.as_role(Role.INGEST, ApiKeyKind.PUBLISHABLE)
    session = GatewaySession(gateway.services, gateway.revocations, publishable.viewer, client="192.0.2.1")
    session.account.charge(1_000)
    standing, _ = await read_rate_limit(session.context(1))
    elsewhere = GatewaySession(gateway.services, gateway.revocations, publishable.viewer, client="192.0.2.2")
    assert standing.remaining < standing.limit == (await read_rate_limit(elsewhere.context(1)))[0].remaining


def _account(tenant: Tenant, client: str) -> Account:
    account = GatewaySession(tenant.gateway.services, tenant.gateway.revocations, tenant.viewer, client=client).account
    assert account is not None
    return account


def _anonymous(tenant: Tenant, user_id: str) -> Tenant:
    assert tenant.viewer is not None
    session = UserSession(uuid4(), user_id, True, datetime.now(UTC))
    viewer = msgspec.structs.replace(tenant.viewer, api_key=None, role=Role.INGEST, session=session)
    return Tenant(tenant.gateway, viewer)
