"""Bundles through the API: what a client exports, imports, tries, and is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft7Validator

from engine.identity import Role
from engine.work import Work, WorkKind
from engine.workflows.blueprints import BLUEPRINTS
from engine.workflows.bundle_schema import bundle_schema
from tests.integration.graphql_support import Gateway, Tenant

EXPORT = "query ($ids: [ID!]) { exportWorkflows(ids: $ids) }"
IMPORT = """mutation ($bundle: JSON!, $dryRun: Boolean) {
  importWorkflows(bundle: $bundle, dryRun: $dryRun) {
    created { id name isActive version } updated { name version } unchanged { name }
    createdAudiences { name } updatedAudiences { name where } unchangedAudiences { name }
    before after userErrors { code path message }
  }
}"""
SAVE_TEMPLATE = """mutation ($input: SaveTemplateInput!) {
  saveTemplate(input: $input) { template { id } userErrors { message } } }"""
CLONE = "mutation ($key: String!) { cloneBlueprint(key: $key) { workflow { id name } userErrors { message } } }"
VIPS = {"name": "VIPs", "where": [{"path": "profile.traits.vip", "op": "EQ", "value": True}]}
WELCOME = {
    "name": "Welcome",
    "isActive": True,
    "trigger": {"eventType": "auth.signed_up", "audience": "VIPs"},
    "steps": [
        {"type": "send_email", "config": {"to": "{{ user.email }}", "template": "Hello"}},
        {"type": "webhook", "config": {"url": "https://example.com/hook", "body": {"b": 2**64 - 1, "a": 1.50}}},
    ],
}
BUNDLE = {"audiences": [VIPS], "workflows": [WELCOME]}


@pytest.fixture
async def shop(gateway: Gateway) -> Tenant:
    return await tenant(gateway)


async def tenant(gateway: Gateway) -> Tenant:
    """A project with the template that `BUNDLE` names."""
    made = await gateway.tenant()
    given = {"name": "Hello", "channel": "EMAIL", "subject": "Hello", "bodyText": "Hello"}
    assert (await made.data(SAVE_TEMPLATE, input=given))["saveTemplate"]["userErrors"] == []
    return made


async def bring(tenant: Tenant, bundle: Any, **variables: Any) -> dict[str, Any]:
    payload: dict[str, Any] = (await tenant.data(IMPORT, bundle=bundle, **variables))["importWorkflows"]
    return payload


async def exported(tenant: Tenant, *ids: str) -> dict[str, Any]:
    bundle: dict[str, Any] = (await tenant.data(EXPORT, ids=list(ids) or None))["exportWorkflows"]
    return bundle


async def test_a_bundle_goes_out_of_one_project_into_another_and_comes_out_the_same(
    gateway: Gateway, shop: Tenant
) -> None:
    made = await bring(shop, BUNDLE)
    assert [(each["name"], each["isActive"], each["version"]) for each in made["created"]] == [("Welcome", True, 1)]
    assert (made["createdAudiences"], made["userErrors"]) == ([{"name": "VIPs"}], [])
    first = await exported(shop)
    assert list(first) == ["$schema", "audiences", "workflows"]
    assert first["$schema"] == f"{gateway.services.public_url}/schemas/workflow-bundle.json"
    assert (first["audiences"], made["after"], made["before"]) == (
        [VIPS],
        first,
        {**first, "audiences": [], "workflows": []},
    )
    assert json.dumps(first["workflows"]) == json.dumps(
        [
            {
                "name": "Welcome",
                "isActive": True,
                "trigger": {"eventType": "auth.signed_up", "filters": [], "audience": "VIPs", "reentry": "ALWAYS"},
                "steps": [
                    {
                        "label": "send_email_1",
                        "type": "SEND_EMAIL",
                        "config": {"to": "{{ user.email }}", "template": "Hello"},
                    },
                    {
                        "label": "webhook_1",
                        "type": "WEBHOOK",
                        "config": {
                            "url": "https://example.com/hook",
                            "method": "POST",
                            "body": {"a": 1.5, "b": 2**64 - 1},
                        },
                    },
                ],
            }
        ]
    )
    other = await tenant(gateway)
    assert [each["name"] for each in (await bring(other, first))["created"]] == ["Welcome"]
    assert json.dumps(await exported(other)) == json.dumps(first)
    again = await bring(other, first)
    assert (again["created"], again["updated"], again["unchanged"]) == ([], [], [{"name": "Welcome"}])
    assert again["unchangedAudiences"] == [{"name": "VIPs"}]


async def test_every_blueprint_is_exported_valid_and_comes_in_elsewhere(gateway: Gateway, shop: Tenant) -> None:
    for key in BLUEPRINTS:
        assert (await shop.data(CLONE, key=key))["cloneBlueprint"]["userErrors"] == []
    bundle = await exported(shop)
    assert len(bundle["workflows"]) == len(BLUEPRINTS)
    assert list(Draft7Validator(bundle_schema(gateway.services.public_url)).iter_errors(bundle)) == []
    other = await gateway.tenant()
    made = await bring(other, bundle)
    assert len(made["created"]) == len(BLUEPRINTS)
    assert not any(each["isActive"] for each in made["created"])
    assert json.dumps(await exported(other)) == json.dumps(bundle)


async def test_a_change_is_an_update_and_a_dry_run_only_says_so(shop: Tenant) -> None:
    await bring(shop, BUNDLE)
    changed = {"audiences": [{**VIPS, "where": []}], "workflows": [{**WELCOME, "description": "For those who pay"}]}
    before = await exported(shop)
    tried = await bring(shop, changed, dryRun=True)
    assert (tried["updated"], tried["updatedAudiences"]) == (
        [{"name": "Welcome", "version": 2}],
        [{"name": "VIPs", "where": []}],
    )
    assert (tried["before"], await exported(shop)) == (before, before)
    done = await bring(shop, changed, dryRun=None)
    assert {**done, "before": None} == {**tried, "before": None}
    assert await exported(shop) == tried["after"]


async def test_who_belongs_to_audiences_that_it_brings_is_looked_for_at_once(gateway: Gateway, shop: Tenant) -> None:
    work = Work(WorkKind.AUDIENCE_CHECKS, shop.project_id)
    await bring(shop, {"audiences": [VIPS], "workflows": []}, dryRun=True)
    assert work not in gateway.woken
    await bring(shop, {"audiences": [VIPS], "workflows": []})
    assert work in gateway.woken

    other = await gateway.tenant()
    key = next(key for key, blueprint in BLUEPRINTS.items() if blueprint.audience is not None)
    await other.data(CLONE, key=key)
    assert Work(WorkKind.AUDIENCE_CHECKS, other.project_id) in gateway.woken


async def test_what_is_wrong_is_said_where_it_is_and_nothing_is_done(shop: Tenant) -> None:
    empty = await exported(shop)
    wrong = {"audiences": [VIPS], "workflows": [{**WELCOME, "name": "a"}, {**WELCOME, "name": "b", "stepz": []}]}
    refused = await bring(shop, wrong)
    assert [(error["code"], error["path"]) for error in refused["userErrors"]] == [
        ("INVALID", ["bundle", "workflows", "1", "stepz"])
    ]
    step = {"type": "SEND_EMAIL", "config": {"to": "a@example.com", "template": "Helo"}}
    refused = await bring(shop, {"audiences": [VIPS], "workflows": [{**WELCOME, "steps": [step]}]})
    assert refused["userErrors"] == [
        {
            "code": "NOT_FOUND",
            "message": "This project has no template for email named Helo.",
            "path": ["bundle", "workflows", "0", "steps", "0", "config", "template"],
        }
    ]
    assert [refused[key] for key in ("created", "createdAudiences", "before", "after")] == [[], [], None, None]
    assert [error["path"] for error in (await bring(shop, "text"))["userErrors"]] == [["bundle"]]
    assert await exported(shop) == empty


async def test_some_are_exported_by_their_ids(shop: Tenant) -> None:
    made = await bring(shop, {"audiences": [VIPS], "workflows": [WELCOME, {**WELCOME, "name": "Other"}]})
    ids = {each["name"]: each["id"] for each in made["created"]}
    assert [each["name"] for each in (await exported(shop, ids["Other"]))["workflows"]] == ["Other"]
    nothing = (await shop.data(EXPORT, ids=[]))["exportWorkflows"]
    assert (nothing["audiences"], nothing["workflows"]) == ([], [])
    for unknown in ("x" * 1000, "wfl_" + "0" * 32, ids["Other"].replace("wfl_", "aud_")):
        assert await shop.codes(EXPORT, ids=[unknown]) == ["NOT_FOUND"]


async def test_viewers_export_and_editors_import(shop: Tenant) -> None:
    viewer, editor = await shop.as_role(Role.VIEWER), await shop.as_role(Role.EDITOR)
    await bring(editor, BUNDLE)
    assert await exported(viewer) == await exported(editor)
    for variables in ({}, {"dryRun": True}):
        assert await viewer.codes(IMPORT, bundle=BUNDLE, **variables) == ["FORBIDDEN"]
