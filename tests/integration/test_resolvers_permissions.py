"""The role that every field needs: each asks, none lets a smaller one in, none demands a larger one."""

from __future__ import annotations

import ast
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from graphql import (
    GraphQLField,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    get_named_type,
    is_leaf_type,
    is_required_argument,
)

from engine.errors import Forbidden, GatewayError, Unauthenticated
from engine.identity import ApiKeyKind, Role
from schema import build_schema
from schema.needs import Needs
from tests.integration.delivery_support import make_delivery
from tests.integration.graphql_support import Gateway, Tenant, open_gateway

SCHEMA = build_schema()._schema


def needs_of(described: Any) -> Needs | None:
    """What the SDL says that a type or field needs."""
    definition = described.extensions.get("strawberry-definition")
    return next((each for each in definition.directives or () if isinstance(each, Needs)), None)


def roots() -> dict[str, GraphQLField]:
    found = [root for root in (SCHEMA.query_type, SCHEMA.mutation_type, SCHEMA.subscription_type) if root is not None]
    return {f"{root.name}.{name}": field for root in found for name, field in root.fields.items()}


NEEDED = {name: needs for name, field in roots().items() if (needs := needs_of(field)) is not None}
ARGUMENTS = {
    "signInAnonymously": '(input: {deviceId: "a phone"})',
    "signUp": '(input: {email: "new@example.com", password: "correct horse battery staple"})',
    "signIn": '(input: {email: "x@example.com", password: "x"})',
    "refreshSession": '(refreshToken: "x")',
    "signOut": '(refreshToken: "x")',
    "confirmTotp": '(code: "000000")',
    "disableTotp": '(code: "000000")',
    "eraseProfile": '(input: {userId: "nobody", reason: "asked for"})',
    "exportProfile": '(userId: "ada")',
    "addMember": '(email: "new@example.com", role: VIEWER)',
    "removeMember": '(id: "mem_x")',
    "createMemberToken": '(memberId: "mem_x")',
    "revokeMemberToken": '(id: "mtk_x")',
    "updateProjectSettings": "(input: {})",
    "setConsent": '(input: {userId: "ada", purpose: EMAIL, state: GRANTED, source: "app"})',
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
    "Query.members",
    "Query.workflowBlueprints",
    "Query.senderDomains",
    "Query.nodes",
    "Query.providers",
    "Query.inboundEndpoints",
}


OWN = {
    "Query.node": '(id: "{profile}")',
    "Query.nodes": '(ids: ["{profile}"])',
    "Query.events": '(filter: {{userId: "ada"}})',
    "Query.profile": '(userId: "ada")',
    "Query.exportProfile": '(userId: "ada")',
    "Query.deliveries": '(filter: {{userId: "ada"}})',
    "Query.pushTokens": '(filter: {{userId: "ada"}})',
    "Subscription.eventStream": '(filter: {{userId: "ada"}})',
    "Subscription.deliveryUpdates": '(filter: {{userId: "ada"}})',
}
"""How the session of ada asks for what is its own."""


def document(root_field: str, selection: str = "{ __typename }", own: str | None = None) -> str:
    """An operation of one root field. `own` is the node id of the profile of ada, who then asks for what is hers."""
    root, name = root_field.split(".")
    arguments = ARGUMENTS.get(name, "") if own is None else OWN[root_field].format(profile=own)
    selection = "" if is_leaf_type(get_named_type(roots()[root_field].type)) else selection
    return f"{root.lower()} {{ {name}{arguments} {selection} }}"


@pytest.fixture
async def gateway(database_url: str, redis_url: str) -> AsyncIterator[Gateway]:
    async with open_gateway(database_url, redis_url) as opened:
        yield opened


async def code(tenant: Tenant, root_field: str, text: str | None = None) -> str | None:
    """The code that a root field answers with; None where it answers."""
    text = text or document(root_field)
    if not root_field.startswith("Subscription"):
        codes = await tenant.codes(text)
        return codes[0] if codes else None
    refused = await tenant.refusal(text)
    # Who is told that there is no such thing got in.
    return None if refused == "NOT_FOUND" else refused


async def caller(shop: Tenant, name: str, *, person: str = "ada") -> Tenant:
    """Somebody who asks, by a name such as key VIEWER, member ADMIN, session, browser, nobody."""
    kind, _, role = name.partition(" ")
    match kind:
        case "key":
            return await shop.as_role(Role[role])
        case "member":
            return await shop.as_member(Role[role])
        case "session":
            return await shop.as_session(person)
        case "browser":
            app = await shop.as_role(Role.EDITOR, ApiKeyKind.PUBLISHABLE)
            return Tenant(shop.gateway, await shop.gateway.identities.viewer_of(app.token, from_browser=True))
        case _:
            return Tenant(shop.gateway, None)


CALLERS = [
    *(f"key {role.name}" for role in Role),
    *(f"member {role.name}" for role in Role if role is not Role.INGEST),
    "session",
    "browser",
    "nobody",
]


def may(asking: Tenant, needs: Needs | None) -> bool:
    """What the directive says of somebody who asks for nothing of their own."""
    viewer = asking.viewer
    if viewer is None:
        return False
    return needs is None or (viewer.role >= needs.role and not (needs.as_member is True and viewer.member is None))


def test_every_root_field_states_what_it_needs_once() -> None:
    assert set(roots()) == set(NEEDED)
    silent = [
        name for name, field in roots().items() if f"Needs {NEEDED[name].role.name}" not in (field.description or "")
    ]
    assert silent == []
    assert {name for name, needs in NEEDED.items() if needs.or_own is True} == set(OWN)


@pytest.mark.parametrize("name", CALLERS)
async def test_everybody_gets_in_where_the_directive_says_and_nowhere_else(gateway: Gateway, name: str) -> None:
    asking = await caller(await gateway.tenant(), name, person="eve")
    refusal = "UNAUTHENTICATED" if asking.viewer is None else "FORBIDDEN"
    expected = {field: None if may(asking, needs) else refusal for field, needs in NEEDED.items()}
    assert {field: await code(asking, field) for field in NEEDED} == expected


async def test_a_session_gets_in_where_it_asks_for_its_own_person(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    profile = await _known(shop)
    ada, ben = await shop.as_session("ada"), await shop.as_session("ben")
    asked = {field: document(field, own=profile) for field in OWN}
    assert {field: await code(ada, field, text) for field, text in asked.items()} == dict.fromkeys(OWN)
    assert {field: await code(ben, field, text) for field, text in asked.items()} == dict.fromkeys(OWN, "FORBIDDEN")


async def _known(shop: Tenant) -> str:
    """There is ada, with an event, a delivery and a device; the node id of her profile."""
    await shop.data(IDENTIFY_SECRET)
    await shop.data(
        'mutation { registerPushToken(input: {platform: IOS, token: "0011", userId: "ada"}) { __typename } }'
    )
    await make_delivery(shop, user_id="ada", event_seq=1)
    node_id: str = (await shop.data('{ profile(userId: "ada") { id } }'))["profile"]["id"]
    return node_id


IDENTIFY_SECRET = (
    'mutation { identify(input: {userId: "ada", traits: {name: "SECRET TRAIT"}}) { userErrors { code } } }'
)


class Reached(NamedTuple):
    """A type that somebody reaches, by which root field and which fields below it."""

    root: str
    path: tuple[str, ...]
    of: GraphQLObjectType

    def document(self, fields: list[str], own: str | None) -> str:
        selection = " ".join(fields)
        for name in reversed(self.path):
            selection = f"{name} {{ {selection} }}"
        return document(self.root, f"{{ {selection} }}", own if self.root in OWN else None)


def _stated(of: GraphQLObjectType, field: GraphQLField) -> Needs | None:
    return needs_of(field) or needs_of(of)


def _reached(asking: Tenant, *, own: bool) -> list[Reached]:
    """Every type of the schema that the directive lets somebody reach, by a shortest way."""

    def passes(needs: Needs | None) -> bool:
        return may(asking, needs) or (needs is not None and ((own and needs.or_own is True) or needs.or_writer is True))

    found: dict[str, Reached] = {}
    waiting = [
        Reached(name, (), named)
        for name, field in roots().items()
        if passes(NEEDED[name]) and isinstance(named := get_named_type(field.type), GraphQLObjectType)
        if not name.startswith("Subscription")
    ]
    for each in waiting:
        if each.of.name in found:
            continue
        found[each.of.name] = each
        waiting += [
            Reached(each.root, (*each.path, name), named)
            for name, field in each.of.fields.items()
            if passes(_stated(each.of, field)) and not _takes(field)
            if isinstance(named := get_named_type(field.type), GraphQLObjectType)
        ]
    return list(found.values())


def _takes(field: GraphQLField) -> bool:
    return any(is_required_argument(argument) for argument in field.args.values())


def _selected(name: str, field: GraphQLField) -> str:
    return name if is_leaf_type(get_named_type(field.type)) else f"{name} {{ __typename }}"


@pytest.mark.parametrize("name", [each for each in CALLERS if each != "nobody"])
async def test_every_field_that_is_reached_does_what_the_directive_says(gateway: Gateway, name: str) -> None:
    """A walk of the schema, not of a list: each type by a shortest way, each field that is refused by itself."""
    shop = await gateway.tenant("Hidden")
    profile = await _known(shop)
    asking = await caller(shop, name)
    own = name == "session"
    reached = _reached(asking, own=own)
    assert not own or {"Profile", "Event", "Delivery", "PushToken"} <= {each.of.name for each in reached}
    refused = 0
    for each in reached:
        allowed = []
        for field_name, field in each.of.fields.items():
            needs = _stated(each.of, field)
            if _takes(field) or (needs is not None and needs.or_writer is True and not may(asking, needs)):
                continue
            if may(asking, needs) or (own and needs is not None and needs.or_own is True):
                allowed.append(_selected(field_name, field))
                continue
            response = await asking.run(each.document([_selected(field_name, field)], profile if own else None))
            codes = {error["extensions"]["code"] for error in response.get("errors", [])}
            assert codes <= {"FORBIDDEN"}, (each, field_name, response)
            assert codes or _is_nothing(response["data"], field_name), (each, field_name, response)
            refused += bool(codes)
        response = await asking.run(each.document(allowed or ["__typename"], profile if own else None))
        codes = {error["extensions"]["code"] for error in response.get("errors", [])}
        assert "FORBIDDEN" not in codes, (each, response)
        if asking.viewer is not None and asking.viewer.role is Role.INGEST and not own:
            assert "SECRET TRAIT" not in repr(response)
            assert "Hidden" not in repr(response)
    assert refused or name in ("key ADMIN", "member ADMIN")


def _is_nothing(value: Any, name: str) -> bool:
    """Whether an answer holds nothing under a name, or never comes to it."""
    match value:
        case dict():
            return all(found is None if key == name else _is_nothing(found, name) for key, found in value.items())
        case list():
            return all(_is_nothing(each, name) for each in value)
    return True


AS_ANONYMOUSLY = {"Mutation.signUp", "Mutation.signIn"}
"""Their payload is that of signInAnonymously, and a password takes a tenth of a second each time."""


async def test_what_an_app_key_is_given_back_leads_to_no_data_of_others(gateway: Gateway) -> None:
    """Every field that can be reached from what INGEST may call, tried one at a time to a depth of four."""
    shop = await gateway.tenant("Hidden")
    await shop.data(IDENTIFY_SECRET)
    app = await shop.as_role(Role.INGEST, ApiKeyKind.PUBLISHABLE)
    open_fields = [field for field, needs in NEEDED.items() if may(app, needs) and field not in AS_ANONYMOUSLY]
    tried = 0
    for root_field in open_fields:
        for selection in _selections(roots()[root_field], depth=4):
            text = document(root_field, selection).replace("eventType:", 'userId: "ada", eventType:')
            response = await app.run(text)
            codes = {error["extensions"]["code"] for error in response.get("errors", [])}
            assert codes <= {"FORBIDDEN"}, (text, response)
            assert "SECRET TRAIT" not in repr(response), text
            assert "Hidden" not in repr(response), (text, response)
            tried += 1
    assert tried > 60


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
