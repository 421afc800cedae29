"""The registry of trusted documents: what may be saved, who finds it, and a project that runs nothing else."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import GatewaySession
from engine import trusted_documents as registry
from engine.identity import ApiKeyKind, KeyEnvironment, Role
from engine.trusted_documents import (
    LOOK_UPS_AT_ONCE,
    MAX_AGE,
    MAX_AT_ONCE,
    MAX_COMPLAINTS,
    GivenDocument,
    TrustedDocuments,
    check_documents,
    hash_document,
    parse_document_id,
    write_document_id,
)
from tests.integration.graphql_support import Gateway, Tenant, open_gateway
from transport.execution.service import GraphQLRequest

WHO = "query Who { viewer { role } }"
HEAD = "query Head { viewer { project { head } } }"
SAVE = """mutation ($documents: [TrustedDocumentInput!]!) {
  saveTrustedDocuments(documents: $documents) {
    trustedDocuments { id name document } userErrors { code message path }
  }
}"""
DELETE = "mutation ($id: ID!) { deleteTrustedDocument(id: $id) { deletedId userErrors { code path } } }"
LIST = "query ($after: Cursor) { trustedDocuments(first: 2, after: $after) { edges { cursor node { id name } } } }"
REQUIRE = """mutation ($on: Boolean) {
  updateProjectSettings(input: { requireTrustedDocuments: $on }) { userErrors { message } }
}"""


@pytest.fixture
async def gateway(database_url: str) -> AsyncIterator[Gateway]:
    async with open_gateway(database_url) as opened:
        yield opened


def id_of(document: str) -> str:
    return "sha256:" + hashlib.sha256(document.encode()).hexdigest()


async def save(tenant: Tenant, *documents: str, name: str = "n") -> Any:
    """The payload."""
    given = [{"name": name, "document": document} for document in documents]
    return (await tenant.data(SAVE, documents=given))["saveTrustedDocuments"]


async def ask(tenant: Tenant, **request: Any) -> Any:
    """The response to a request of any form."""
    service = tenant.gateway.service
    session = GatewaySession(tenant.gateway.services, tenant.gateway.revocations, tenant.viewer)
    prepared = await service.prepare(GraphQLRequest(**request), session)
    outcome = prepared if isinstance(prepared, list) else await service.execute(prepared, session)
    return orjson.loads(service.encode(outcome))


async def code(tenant: Tenant, **request: Any) -> str | None:
    response = await ask(tenant, **request)
    return response["errors"][0]["extensions"]["code"] if "errors" in response else None


async def require_trusted(tenant: Tenant, on: bool) -> None:
    """As the ADMIN does, and as it holds once every gateway has read it."""
    assert (await tenant.data(REQUIRE, on=on))["updateProjectSettings"] == {"userErrors": []}
    tenant.gateway.services.project_settings._look_ups.forget(lambda _settings: True)


async def test_a_saved_document_is_run_by_its_id(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    app = await shop.as_role(Role.INGEST, ApiKeyKind.PUBLISHABLE)
    assert await code(app, document_id=id_of(WHO)) == "PERSISTED_QUERY_NOT_FOUND"

    payload = await save(shop, WHO, name="Who")

    assert payload == {"trustedDocuments": [{"id": id_of(WHO), "name": "Who", "document": WHO}], "userErrors": []}
    assert (await ask(app, document_id=id_of(WHO)))["data"] == {"viewer": {"role": "INGEST"}}
    by_hash = {"persistedQuery": {"version": 1, "sha256Hash": id_of(WHO).removeprefix("sha256:")}}
    assert (await ask(app, extensions=by_hash))["data"] == {"viewer": {"role": "INGEST"}}
    # nobody has no project, another project has other documents
    assert await code(Tenant(gateway, None), document_id=id_of(WHO)) == "PERSISTED_QUERY_NOT_FOUND"
    assert await code(await gateway.tenant("other"), document_id=id_of(WHO)) == "PERSISTED_QUERY_NOT_FOUND"


async def test_a_document_that_would_not_run_is_refused_with_its_errors_and_nothing_is_saved(gateway: Gateway) -> None:
    shop = await gateway.tenant()

    payload = await save(shop, WHO, "query Bad { viewer { rol nothing } }", "{", "{ viewer { role } }\0")

    assert payload["trustedDocuments"] == []
    found = [(error["code"], error["path"][1:], error["message"]) for error in payload["userErrors"]]
    assert [(code, path) for code, path, _ in found] == [
        ("INVALID", ["1", "document"]),
        ("INVALID", ["1", "document"]),
        ("INVALID", ["2", "document"]),
        ("INVALID", ["3", "document"]),
    ]
    assert "Did you mean 'role'" in found[0][2]
    assert (await shop.data(LIST))["trustedDocuments"]["edges"] == []


async def test_a_document_beyond_the_limits_of_a_request_is_refused(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    aliases = " ".join(f"a{number}: __typename" for number in range(51))

    [error] = (await save(shop, f"{{ {aliases} }}"))["userErrors"]

    assert error["code"] == "INVALID"
    assert "50" in error["message"]


async def test_names_and_numbers_are_bounded(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = await gateway.tenant()
    for name in ("", "  ", "x" * 201, "a\0b"):
        [error] = (await save(shop, WHO, name=name))["userErrors"]
        assert (error["code"], error["path"]) == ("INVALID", ["documents", "0", "name"])
    for documents in ([], [WHO] * (MAX_AT_ONCE + 1)):
        [error] = (await save(shop, *documents))["userErrors"]
        assert (error["code"], error["path"]) == ("LIMIT_EXCEEDED", ["documents"])
    monkeypatch.setattr(registry, "MAX_DOCUMENTS", 1)
    assert (await save(shop, WHO))["userErrors"] == []
    assert (await save(shop, WHO, name="again"))["userErrors"] == []
    [error] = (await save(shop, HEAD))["userErrors"]
    assert (error["code"], error["path"]) == ("LIMIT_EXCEEDED", ["documents"])


def test_what_is_wrong_is_said_up_to_a_bound() -> None:
    given = [GivenDocument("", "{") for _ in range(MAX_AT_ONCE)]

    errors = check_documents(given, lambda _document: ["wrong"] * 5)

    assert len(errors) == MAX_COMPLAINTS


async def test_saving_again_changes_the_name_alone_and_is_noted_once(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    await save(shop, WHO, HEAD, WHO, name="first")
    await save(shop, WHO, name="second")
    await save(shop, WHO, name="second")

    edges = (await shop.data(LIST))["trustedDocuments"]["edges"]
    assert [edge["node"] for edge in edges] == [
        {"id": id_of(HEAD), "name": "first"},
        {"id": id_of(WHO), "name": "second"},
    ]
    log = await shop.data("query ($s: String) { auditLog(subject: $s) { edges { node { action } } } }", s=id_of(WHO))
    assert [edge["node"]["action"] for edge in log["auditLog"]["edges"]] == [
        "trusted_document.updated",
        "trusted_document.created",
    ]


async def test_the_list_goes_on_by_name_and_hash(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    documents = [f"query Q{number} {{ viewer {{ role }} }}" for number in range(5)]
    await save(shop, *documents, name="same")

    found: list[str] = []
    after = None
    while edges := (await shop.data(LIST, after=after))["trustedDocuments"]["edges"]:
        found += [edge["node"]["id"] for edge in edges]
        after = edges[-1]["cursor"]
    assert found == sorted(map(id_of, documents))


async def test_a_deleted_document_is_found_no_more(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    await save(shop, WHO)
    assert await code(shop, document_id=id_of(WHO)) is None

    deleted = (await shop.data(DELETE, id=id_of(WHO)))["deleteTrustedDocument"]

    assert deleted == {"deletedId": id_of(WHO), "userErrors": []}
    assert await code(shop, document_id=id_of(WHO)) == "PERSISTED_QUERY_NOT_FOUND"
    for unknown in (id_of(WHO), "sha256:x", "tpl_x", ""):
        payload = (await shop.data(DELETE, id=unknown))["deleteTrustedDocument"]
        assert payload == {"deletedId": None, "userErrors": [{"code": "NOT_FOUND", "path": ["id"]}]}


async def test_another_gateway_finds_a_deleted_document_no_longer_than_it_may(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    services, now = gateway.services, [0.0]
    other = TrustedDocuments(services.database, services.project_settings, clock=lambda: now[0])
    await save(shop, WHO)
    assert await other.find(shop.project_id, hash_document(WHO)) == WHO

    await shop.data(DELETE, id=id_of(WHO))

    now[0] = MAX_AGE.total_seconds()
    assert await other.find(shop.project_id, hash_document(WHO)) == WHO
    now[0] += 0.001
    assert await other.find(shop.project_id, hash_document(WHO)) is None


async def test_what_a_gateway_remembers_is_bounded_by_its_size(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = await gateway.tenant()
    documents = [f"query Q{number} {{ viewer {{ role }} }}" for number in range(5)]
    await save(shop, *documents)
    monkeypatch.setattr(registry, "CACHED_BYTES", 3 * len(documents[0]))
    found = TrustedDocuments(gateway.services.database, gateway.services.project_settings)

    for _ in range(2):
        for document in documents:
            assert await found.find(shop.project_id, hash_document(document)) == document
            assert sum(len(text) for _, text in found._known.values()) == found._used <= 3 * len(documents[0])


async def test_made_up_hashes_take_few_connections(gateway: Gateway) -> None:
    """They are looked up before anything is charged, with whatever key."""
    shop, held, most = await gateway.tenant(), 0, 0
    read = gateway.services.database.connection

    @asynccontextmanager
    async def counting() -> AsyncIterator[asyncpg.Connection]:
        nonlocal held, most
        async with read() as connection:
            held += 1
            most = max(most, held)
            yield connection
            held -= 1

    gateway.services.database.connection = counting  # type: ignore[method-assign]
    documents = gateway.services.trusted_documents
    found = await asyncio.gather(*(documents.find(shop.project_id, hash_document(str(each))) for each in range(20)))
    assert found == [None] * 20
    assert most == LOOK_UPS_AT_ONCE


async def test_a_project_that_says_so_runs_nothing_else(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    tenants = [await shop.as_role(role) for role in (Role.INGEST, Role.VIEWER, Role.EDITOR)]
    other = await (await gateway.tenant("other")).as_role(Role.VIEWER)
    await save(shop, WHO)
    await require_trusted(shop, True)

    for tenant in tenants:
        assert await code(tenant, query=HEAD) == "DOCUMENT_NOT_TRUSTED"
        assert await code(tenant, query=WHO) is None
        assert await code(tenant, document_id=id_of(WHO)) is None
        # neither the schema nor a name of nobody's gets by
        assert await code(tenant, query="{ __schema { description } }") == "DOCUMENT_NOT_TRUSTED"
    assert await code(other, query=HEAD) is None
    # ADMIN mends it
    assert await code(shop, query=HEAD) is None
    await require_trusted(shop, False)
    assert await code(tenants[1], query=HEAD) is None


async def test_in_a_project_that_says_so_streams_are_refused_too(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    viewer = await shop.as_role(Role.VIEWER)
    await require_trusted(shop, True)

    assert await code(viewer, query="subscription { eventStream { cursor } }") == "DOCUMENT_NOT_TRUSTED"


async def test_who_may_ask_for_the_schema_in_production(gateway: Gateway) -> None:
    """DEV keys, and whoever is EDITOR or more."""
    shop = await gateway.tenant()
    document = "{ __schema { queryType { name } } }"
    allowed = {}
    for role in Role:
        allowed[role.name] = await code(await shop.as_role(role), query=document) is None
    made = await shop.data(
        'mutation { createApiKey(name: "d", kind: PUBLISHABLE, role: INGEST, environment: DEV) { token } }'
    )
    dev = Tenant(gateway, await gateway.identities.viewer_of(made["createApiKey"]["token"]))
    assert dev.viewer is not None
    assert dev.viewer.api_key is not None
    assert dev.viewer.api_key.environment == KeyEnvironment.DEV
    assert allowed == {"INGEST": False, "VIEWER": False, "EDITOR": True, "ADMIN": True}
    assert await code(dev, query=document) is None
    assert await code(Tenant(gateway, None), query=document) == "GRAPHQL_VALIDATION_FAILED"


@pytest.mark.parametrize("for_all", [True, False])
async def test_a_deployment_may_say_it_for_everybody(gateway: Gateway, for_all: bool) -> None:
    shop = await gateway.tenant()
    object.__setattr__(gateway.services, "schema_for_all", for_all)

    for tenant in (shop, Tenant(gateway, None)):
        refused = await code(tenant, query="{ __schema { queryType { name } } }")
        assert refused == (None if for_all else "GRAPHQL_VALIDATION_FAILED")
        [error] = (await ask(tenant, query="{ viewr { role } }"))["errors"]
        assert ("Did you mean" in error["message"]) is for_all


@given(st.binary(min_size=32, max_size=32), st.text(max_size=80))
def test_an_id_leads_back_to_its_hash_and_nothing_else_does(document_hash: bytes, text: str) -> None:
    assert parse_document_id(write_document_id(document_hash)) == document_hash
    for other in (text, "sha256:" + text, document_hash.hex(), write_document_id(document_hash).upper()):
        assert parse_document_id(other) is None
