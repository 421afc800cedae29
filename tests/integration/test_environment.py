"""What the environment decides, on a gateway as a deployment starts it; and ids of requests on every route."""

from __future__ import annotations

import gc
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import aiohttp
import pytest

from app import create_app
from db.database import Database
from engine.audit import OPERATOR, Audit
from engine.provisioning import create_organization, create_project
from settings import read_settings
from tests.integration.inbound_support import InboundServer, serve_app

SCHEMA = "{ __schema { queryType { name } } }"
MISSPELT = "{ viewr { role } }"


@pytest.fixture(autouse=True)
def own_collector() -> Iterator[None]:
    """A gateway settles the garbage collector of its process, which here is that of the tests."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@asynccontextmanager
async def deployed(database_url: str, redis_url: str, **settings: str) -> AsyncIterator[InboundServer]:
    given = read_settings(
        DATABASE_URL=database_url, REDIS_URL=redis_url, secret_key="a secret of tests, long enough for it", **settings
    )
    async with serve_app(create_app(given), lifespan="on") as server:
        yield server


async def key_of(database_url: str) -> str:
    """Of ADMIN in a new project."""
    database = Database(database_url)
    await database.connect()
    organization_id = await create_organization(database, name="Shop Ltd", region="us", deployment_region="us")
    audit = Audit(OPERATOR, datetime.now(UTC))
    made = await create_project(database, organization_id=organization_id, name="shop", audit=audit)
    await database.disconnect()
    return made.first_key.token


async def ask(server: InboundServer, query: str, key: str | None = None) -> str:
    """The whole answer."""
    headers = {} if key is None else {"x-api-key": key}
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{server.url}/graphql", json={"query": query}, headers=headers) as response,
    ):
        return await response.text()


async def test_in_production_the_schema_is_for_those_who_build_on_it(module_database_url: str, redis_url: str) -> None:
    async with deployed(module_database_url, redis_url) as server:
        key = await key_of(module_database_url)
        assert "GRAPHQL_VALIDATION_FAILED" in await ask(server, SCHEMA)
        assert "Did you mean" not in await ask(server, MISSPELT)
        assert json.loads(await ask(server, SCHEMA, key))["data"] == {"__schema": {"queryType": {"name": "Query"}}}
        assert "Did you mean 'viewer'" in await ask(server, MISSPELT, key)


async def test_in_development_it_is_for_everybody(module_database_url: str, redis_url: str) -> None:
    async with deployed(module_database_url, redis_url, environment="development") as server:
        assert json.loads(await ask(server, SCHEMA)) == {"data": {"__schema": {"queryType": {"name": "Query"}}}}
        assert "Did you mean 'viewer'" in await ask(server, MISSPELT)


async def test_every_route_answers_with_the_id_of_the_request(module_database_url: str, redis_url: str) -> None:
    paths = ["/", "/healthz", "/readyz", "/metrics", "/nothing", "/graphql", "/unsubscribe/x", "/callbacks/x/y/z"]
    async with deployed(module_database_url, redis_url) as server, aiohttp.ClientSession() as client:
        for path in paths:
            for headers in ({"accept": "*/*"}, {"accept": "text/html"}):
                given = {**headers, "X-Request-Id": "mine"}
                async with client.get(server.url + path, headers=given, allow_redirects=False) as response:
                    assert response.headers.getall("x-request-id") == ["mine"], (path, headers)


async def test_pages_of_allowed_origins_may_send_and_read_it(module_database_url: str, redis_url: str) -> None:
    page = {"origin": "https://app.example.com"}
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "x-request-id,traceparent"}
    async with (
        deployed(module_database_url, redis_url, allowed_origins="https://app.example.com") as server,
        aiohttp.ClientSession() as client,
    ):
        async with client.options(f"{server.url}/graphql", headers={**page, **asked}) as response:
            assert response.status == 200
        async with client.post(f"{server.url}/graphql", json={"query": "{ __typename }"}, headers=page) as response:
            assert response.headers["access-control-expose-headers"] == "x-request-id, retry-after"
            assert response.headers["x-request-id"]
