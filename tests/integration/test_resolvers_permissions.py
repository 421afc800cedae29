"""The role that every field needs: each asks, none lets a smaller one in, none demands a larger one."""

from __future__ import annotations

import ast
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from graphql import GraphQLField, GraphQLList, GraphQLNonNull, GraphQLObjectType, get_named_type, is_leaf_type

from engine.errors import Forbidden, GatewayError, Unauthenticated
from engine.identity import ApiKeyKind, Role
from schema import build_schema
from tests.integration.graphql_support import Gateway, Tenant, open_gateway

SCHEMA = build_schema()._schema

NEEDED = {
    "Query.pushTokens": Role.VIEWER,
    "Query.pushSettings": Role.VIEWER,
    "Mutation.registerPushToken": Role.INGEST,
    "Mutation.unregisterPushToken": Role.INGEST,
    "Mutation.trackPush": Role.INGEST,
    "Mutation.registerLiveActivityToken": Role.INGEST,
    "Mutation.updatePushSettings": Role.EDITOR,
    "Mutation.sendPush": Role.EDITOR,
    "Mutation.sendTestPush": Role.EDITOR,
    "Mutation.sendLiveActivity": Role.EDITOR,
    "Query.auditLog": Role.ADMIN,
    "Query.projectSettings": Role.VIEWER,
    "Mutation.updateProjectSettings": Role.ADMIN,
    "Query.viewer": Role.INGEST,
    "Query.node": Role.VIEWER,
    "Query.nodes": Role.VIEWER,
    "Query.events": Role.VIEWER,
    "Query.eventTypes": Role.VIEWER,
    "Query.profile": Role.VIEWER,
    "Query.profiles": Role.VIEWER,
    "Query.deliveries": Role.VIEWER,
    "Query.deliveryStats": Role.VIEWER,
    "Query.deliveryHealth": Role.VIEWER,
    "Mutation.cancelDelivery": Role.EDITOR,
    "Mutation.replayDelivery": Role.EDITOR,
    "Mutation.replayDeliveries": Role.EDITOR,
    "Mutation.track": Role.INGEST,
    "Mutation.trackBatch": Role.INGEST,
    "Mutation.identify": Role.INGEST,
    "Mutation.createProject": Role.ADMIN,
    "Mutation.createApiKey": Role.ADMIN,
    "Mutation.revokeApiKey": Role.ADMIN,
    "Query.providers": Role.VIEWER,
    "Mutation.configureProvider": Role.ADMIN,
    "Mutation.deleteProvider": Role.ADMIN,
    "Mutation.sendSms": Role.EDITOR,
    "Query.templates": Role.VIEWER,
    "Query.trustedDocuments": Role.VIEWER,
    "Mutation.saveTrustedDocuments": Role.ADMIN,
    "Mutation.deleteTrustedDocument": Role.ADMIN,
    "Query.audiences": Role.VIEWER,
    "Query.funnel": Role.VIEWER,
    "Query.insights": Role.VIEWER,
    "Query.boards": Role.VIEWER,
    "Mutation.saveInsight": Role.EDITOR,
    "Mutation.deleteInsight": Role.EDITOR,
    "Mutation.saveBoard": Role.EDITOR,
    "Mutation.deleteBoard": Role.EDITOR,
    "Query.retention": Role.VIEWER,
    "Query.trend": Role.VIEWER,
    "Mutation.saveAudience": Role.EDITOR,
    "Mutation.deleteAudience": Role.EDITOR,
    "Query.senderDomains": Role.VIEWER,
    "Mutation.saveTemplate": Role.EDITOR,
    "Mutation.deleteTemplate": Role.EDITOR,
    "Mutation.addSenderDomain": Role.EDITOR,
    "Mutation.verifySenderDomain": Role.EDITOR,
    "Mutation.sendEmail": Role.EDITOR,
    "Query.webhookEndpoints": Role.VIEWER,
    "Mutation.saveWebhookEndpoint": Role.EDITOR,
    "Mutation.deleteWebhookEndpoint": Role.EDITOR,
    "Mutation.rotateWebhookSecret": Role.ADMIN,
    "Mutation.retireWebhookSecret": Role.ADMIN,
    "Mutation.sendTestWebhook": Role.EDITOR,
    "Query.inboundEndpoints": Role.VIEWER,
    "Mutation.saveInboundEndpoint": Role.ADMIN,
    "Mutation.deleteInboundEndpoint": Role.ADMIN,
    "Query.workflowBlueprints": Role.VIEWER,
    "Mutation.testRunWorkflow": Role.EDITOR,
    "Query.workflowRuns": Role.VIEWER,
    "Mutation.pauseWorkflowRun": Role.EDITOR,
    "Mutation.resumeWorkflowRun": Role.EDITOR,
    "Mutation.cancelWorkflowRun": Role.EDITOR,
    "Subscription.workflowRunUpdates": Role.VIEWER,
    "Query.workflows": Role.VIEWER,
    "Mutation.saveWorkflow": Role.EDITOR,
    "Mutation.setWorkflowActive": Role.EDITOR,
    "Mutation.pauseWorkflow": Role.EDITOR,
    "Mutation.resumeWorkflow": Role.EDITOR,
    "Mutation.deleteWorkflow": Role.EDITOR,
    "Mutation.cloneBlueprint": Role.EDITOR,
    "Mutation.rotateWorkflowSecret": Role.ADMIN,
    "Query.exportWorkflows": Role.VIEWER,
    "Mutation.importWorkflows": Role.EDITOR,
    "Subscription.eventStream": Role.VIEWER,
    "Subscription.deliveryUpdates": Role.VIEWER,
    "Subscription.audienceChanges": Role.VIEWER,
    "Subscription.funnelUpdates": Role.VIEWER,
}
ARGUMENTS = {
    "updateProjectSettings": "(input: {})",
    "importWorkflows": "(bundle: {})",
    "pauseWorkflowRun": '(id: "run_x")',
    "resumeWorkflowRun": '(id: "run_x")',
    "cancelWorkflowRun": '(id: "run_x")',
    "testRunWorkflow": '(input: {eventType: "a"})',
    "saveWorkflow": "(input: {})",
    "setWorkflowActive": '(id: "wfl_x", isActive: true)',
    "pauseWorkflow": '(id: "wfl_x")',
    "resumeWorkflow": '(id: "wfl_x")',
    "deleteWorkflow": '(id: "wfl_x")',
    "cloneBlueprint": '(key: "x")',
    "audienceChanges": '(audienceId: "aud_x")',
    "funnelUpdates": '(input: {steps: [{eventType: "a"}, {eventType: "b"}]})',
    "funnel": '(input: {steps: [{eventType: "a"}, {eventType: "b"}]})',
    "retention": '(input: {startEvent: {eventType: "a"}, returnEvent: {eventType: "a"}})',
    "trend": '(input: {event: {eventType: "a"}})',
    "saveInsight": "(input: {})",
    "deleteInsight": '(id: "ins_x")',
    "saveBoard": "(input: {})",
    "deleteBoard": '(id: "brd_x")',
    "saveAudience": "(input: {})",
    "deleteAudience": '(id: "aud_x")',
    "saveTemplate": "(input: {})",
    "saveTrustedDocuments": "(documents: [])",
    "deleteTrustedDocument": '(id: "sha256:x")',
    "deleteTemplate": '(id: "tpl_x")',
    "addSenderDomain": '(domain: "x")',
    "verifySenderDomain": '(id: "dom_x")',
    "sendEmail": "(input: {})",
    "saveWebhookEndpoint": "(input: {})",
    "deleteWebhookEndpoint": '(id: "whe_x")',
    "rotateWebhookSecret": '(id: "whe_x")',
    "retireWebhookSecret": '(endpointId: "whe_x", secretId: "whs_x")',
    "sendTestWebhook": '(endpointId: "whe_x", eventType: "order.placed")',
    "registerPushToken": '(input: {platform: IOS, token: "00112233"})',
    "unregisterPushToken": '(token: "00112233")',
    "trackPush": '(input: {deliveryId: "dlv_x", interaction: OPENED})',
    "registerLiveActivityToken": '(input: {deviceToken: "00112233", attributesType: "Ride", token: "00112233"})',
    "updatePushSettings": "(input: {})",
    "sendPush": '(input: {userIds: ["ada"], push: {title: "t", body: "b"}})',
    "sendTestPush": '(pushTokenId: "ptk_x")',
    "sendLiveActivity": (
        '(input: {userIds: ["ada"], action: UPDATE, attributesType: "Ride", activityId: "1", contentState: {}})'
    ),
    "cancelDelivery": '(id: "dlv_x")',
    "replayDelivery": '(id: "dlv_x")',
    "replayDeliveries": '(filter: {userId: "ada"})',
    "node": '(id: "prj_x")',
    "nodes": '(ids: ["prj_x"])',
    "profile": '(userId: "ada")',
    "track": '(input: {event: {eventType: "a.b"}})',
    "trackBatch": '(input: {events: [{eventType: "a.b"}]})',
    "identify": '(input: {userId: "ada", traits: {}})',
    "createProject": '(name: "p")',
    "createApiKey": '(name: "k", kind: SECRET, role: VIEWER)',
    "revokeApiKey": '(id: "key_x")',
    "configureProvider": "(input: {kind: SMTP})",
    "deleteProvider": '(id: "prv_x")',
    "sendSms": '(input: {body: "hi"})',
    "saveInboundEndpoint": "(input: {})",
    "deleteInboundEndpoint": '(id: "inb_x")',
}
BOUNDED_LISTS = {
    "Query.boards",
    "Query.workflowBlueprints",
    "Query.senderDomains",
    "Query.nodes",
    "Query.providers",
    "Query.inboundEndpoints",
}


def roots() -> dict[str, GraphQLField]:
    found = [root for root in (SCHEMA.query_type, SCHEMA.mutation_type, SCHEMA.subscription_type) if root is not None]
    return {f"{root.name}.{name}": field for root in found for name, field in root.fields.items()}


def document(root_field: str) -> str:
    root, name = root_field.split(".")
    selection = "" if is_leaf_type(get_named_type(roots()[root_field].type)) else "{ __typename }"
    return f"{root.lower()} {{ {name}{ARGUMENTS.get(name, '')} {selection} }}"


@pytest.fixture
async def gateway(database_url: str, redis_url: str) -> AsyncIterator[Gateway]:
    async with open_gateway(database_url, redis_url) as opened:
        yield opened


async def code(tenant: Tenant, root_field: str) -> str | None:
    """The code that a root field answers with; None where it answers."""
    if not root_field.startswith("Subscription"):
        codes = await tenant.codes(document(root_field))
        return codes[0] if codes else None
    refused = await tenant.refusal(document(root_field))
    # Who is told that there is no such thing got in.
    return None if refused == "NOT_FOUND" else refused


def test_every_root_field_has_a_role() -> None:
    assert set(roots()) == set(NEEDED)


@pytest.mark.parametrize("root_field", sorted(NEEDED))
def test_the_description_says_the_role(root_field: str) -> None:
    assert f"Needs {NEEDED[root_field].name}" in (roots()[root_field].description or "")


async def test_nobody_gets_in_without_credentials(gateway: Gateway) -> None:
    nobody = Tenant(gateway, None)
    assert {field: await code(nobody, field) for field in NEEDED} == dict.fromkeys(NEEDED, "UNAUTHENTICATED")


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.name)
async def test_each_role_gets_in_where_it_may_and_nowhere_else(gateway: Gateway, role: Role) -> None:
    tenant = await (await gateway.tenant()).as_role(role)
    expected = {field: None if needed <= role else "FORBIDDEN" for field, needed in NEEDED.items()}
    assert {field: await code(tenant, field) for field in NEEDED} == expected


async def test_a_publishable_viewer_is_ingest_in_a_browser(gateway: Gateway) -> None:
    app = await (await gateway.tenant()).as_role(Role.VIEWER, ApiKeyKind.PUBLISHABLE)
    in_a_browser = Tenant(gateway, await gateway.identities.viewer_of(app.token, from_browser=True))
    assert await code(app, "Query.events") is None
    assert await code(in_a_browser, "Query.events") == "FORBIDDEN"


async def test_what_an_app_key_is_given_back_leads_to_no_data_of_others(gateway: Gateway) -> None:
    """Every field that can be reached from what INGEST may call, tried one at a time to a depth of four."""
    shop = await gateway.tenant("Hidden")
    await shop.data(IDENTIFY_SECRET)
    app = await shop.as_role(Role.INGEST, ApiKeyKind.PUBLISHABLE)
    open_fields = [field for field, needed in NEEDED.items() if needed is Role.INGEST]
    tried = 0
    for root_field in open_fields:
        for selection in _selections(roots()[root_field], depth=4):
            text = (
                document(root_field)
                .replace("{ __typename }", selection)
                .replace("eventType:", 'userId: "ada", eventType:')
            )
            response = await app.run(text)
            codes = {error["extensions"]["code"] for error in response.get("errors", [])}
            assert codes <= {"FORBIDDEN"}, (text, response)
            assert "SECRET TRAIT" not in repr(response), text
            assert "Hidden" not in repr(response), (text, response)
            tried += 1
    assert tried > 60


IDENTIFY_SECRET = (
    'mutation { identify(input: {userId: "ada", traits: {name: "SECRET TRAIT"}}) { userErrors { code } } }'
)


def _selections(field: GraphQLField, depth: int) -> list[str]:
    """One selection set per leaf below a field."""
    named = get_named_type(field.type)
    if is_leaf_type(named) or depth == 0 or not isinstance(named, GraphQLObjectType):
        return []
    found: list[str] = []
    for name, inner in named.fields.items():
        if is_leaf_type(get_named_type(inner.type)):
            found.append(f"{{ {name} }}")
        else:
            found += [f"{{ {name} {selection} }}" for selection in _selections(inner, depth - 1)]
    return found


def test_only_require_reads_the_viewer() -> None:
    """So that no resolver has a project to look in unless it asked for a permission first."""
    resolvers = Path(__file__).parents[2] / "resolvers"
    readers = {
        path.name
        for path in [*resolvers.glob("*.py"), *(resolvers.parent / "schema").glob("*.py")]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "_viewer"
    }
    assert readers == {"context.py", "permissions.py"}


def test_refusals_carry_their_codes() -> None:
    assert issubclass(Unauthenticated, GatewayError)
    assert (Unauthenticated.code, Forbidden.code) == ("UNAUTHENTICATED", "FORBIDDEN")


def test_no_root_field_is_a_list_of_unbounded_length() -> None:
    """Root lists are connections, or bounded: by their argument, or by how many there can be (kinds of providers)."""

    def is_list(type_: Any) -> bool:
        return isinstance(type_, GraphQLList) or (isinstance(type_, GraphQLNonNull) and is_list(type_.of_type))

    assert {name for name, field in roots().items() if is_list(field.type)} == BOUNDED_LISTS
