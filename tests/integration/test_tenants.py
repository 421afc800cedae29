"""For every root field: another project's data can neither be read nor changed.

Each case has the victim do something first, then the attacker try whatever the field takes that could lead there. The
attacker is ADMIN of a project of its own: by a key in the same organization, and as a member of another one. A root
field without a case fails. Sessions reach less than either: the last test is theirs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import msgspec
import pytest
from uuid_utils.compat import uuid7

from db.sessions import insert_session
from db.users import insert_user
from db.workflow_run_log import append_run_updates
from engine.accounts.refresh_tokens import make_refresh_token
from engine.accounts.sessions import SESSION_LIFETIME
from engine.audit import Audit
from engine.errors import CursorInvalid, Unauthenticated
from engine.identity import Role
from engine.node_ids import NodeKind, write_node_id
from engine.signatures import sign
from engine.workflows.signing import active_step_secrets
from schema import build_schema
from tests.integration.audience_support import AudienceWorker
from tests.integration.delivery_support import make_delivery
from tests.integration.graphql_support import Gateway, Tenant, open_gateway
from tests.integration.run_support import insert_run_steps, insert_runs, new_run_update, start_run, uuid_of

SECRET = "4242 4242 4242 4242"
Case = Callable[[Tenant, Tenant], Awaitable[None]]
CASES: dict[str, Case] = {}


def case(root_field: str) -> Callable[[Case], Case]:
    def add(function: Case) -> Case:
        CASES[root_field] = function
        return function

    return add


def test_every_root_field_has_a_case() -> None:
    schema = build_schema()._schema
    roots = [root for root in (schema.query_type, schema.mutation_type, schema.subscription_type) if root is not None]
    assert {f"{root.name}.{name}" for root in roots for name in root.fields} == set(CASES)


@pytest.fixture
async def gateway(module_database_url: str, redis_url: str) -> AsyncIterator[Gateway]:
    async with open_gateway(module_database_url, redis_url) as opened:
        yield opened


IDENTIFY = "mutation ($input: IdentifyInput!) { identify(input: $input) { profile { traits } userErrors { code } } }"


async def _sibling(victim: Tenant) -> Tenant:
    made = await victim.data('mutation { createProject(name: "sibling") { token } }')
    token = made["createProject"]["token"]
    return Tenant(victim.gateway, await victim.gateway.identities.viewer_of(token), token)


async def _everything(tenant: Tenant) -> Any:
    """What a project's ADMIN can see of it, but for when its key was last used."""
    return await tenant.data(
        """{ viewer { project { id name head apiKeys { id name role revokedAt } } }
             events(first: 100) { totalCount edges { node { id key properties context userId } } }
             profiles(first: 100) { totalCount edges { node { id userId traits lastSeenAt } } }
             deliveries { totalCount edges { node { id status batchId payload error { code } } } }
             eventTypes(first: 100, search: "victim") { edges { node { eventType count } } } }"""
    )


async def _sees_nothing(attacker: Tenant, document: str, **variables: Any) -> Any:
    response = await attacker.run(document, **variables)
    assert SECRET not in repr(response)
    response.pop("extensions", None)
    return response


@case("Query.viewer")
async def _viewer(victim: Tenant, attacker: Tenant) -> None:
    assert attacker.viewer is not None
    response = await _sees_nothing(
        attacker,
        """{ viewer { project { uuid apiKeys { id } } apiKey { id }
                     organization { projects { uuid apiKeys { id } } } } }""",
    )
    viewer = response["data"]["viewer"]
    own = str(attacker.viewer.project_id)
    assert viewer["project"]["uuid"] == own
    assert [project["uuid"] for project in viewer["organization"]["projects"]] == [own]
    keys = await victim.data("{ viewer { project { apiKeys { id } } } }")
    assert not {key["id"] for key in viewer["project"]["apiKeys"]} & {
        key["id"] for key in keys["viewer"]["project"]["apiKeys"]
    }


async def _ids(victim: Tenant) -> list[str]:
    data = await victim.data(
        """{ viewer { project { id apiKeys { id } } }
             events { edges { node { id } } } profiles { edges { node { id } } } }"""
    )
    return [
        data["viewer"]["project"]["id"],
        data["viewer"]["project"]["apiKeys"][0]["id"],
        *(edge["node"]["id"] for edge in data["events"]["edges"]),
        *(edge["node"]["id"] for edge in data["profiles"]["edges"]),
    ]


@case("Query.node")
async def _node(victim: Tenant, attacker: Tenant) -> None:
    for node_id in await _ids(victim):
        response = await _sees_nothing(attacker, "query ($id: ID!) { node(id: $id) { id } }", id=node_id)
        assert response == {"data": {"node": None}}, node_id


@case("Query.nodes")
async def _nodes(victim: Tenant, attacker: Tenant) -> None:
    ids = await _ids(victim)
    assert len(ids) == 5
    response = await _sees_nothing(attacker, "query ($ids: [ID!]!) { nodes(ids: $ids) { id } }", ids=ids)
    assert response == {"data": {"nodes": [None] * 5}}


@case("Query.events")
async def _events(victim: Tenant, attacker: Tenant) -> None:
    cursor = (await victim.data("{ events { edges { cursor } } }"))["events"]["edges"][0]["cursor"]
    document = """query ($filter: EventFilter, $after: Cursor, $before: Cursor) {
      events(filter: $filter, after: $after, before: $before) { totalCount edges { node { properties } } }
    }"""
    attempts: list[dict[str, Any]] = [
        {},
        {"userId": "ada"},
        {"keys": ["shared"]},
        {"eventTypes": ["*"]},
        {"eventTypes": ["victim.only"]},
        {"where": [{"path": "profile.traits.card", "op": "EXISTS"}]},
        {"where": [{"any": [{"path": "event.properties.card", "op": "EQ", "value": SECRET}]}]},
    ]
    for event_filter in attempts:
        response = await _sees_nothing(attacker, document, filter=event_filter)
        assert response["data"]["events"] == {"totalCount": 0, "edges": []}, event_filter
    for position in ({"after": cursor}, {"before": cursor}):
        response = await _sees_nothing(attacker, document, **position)
        assert [error["extensions"]["code"] for error in response["errors"]] == ["CURSOR_INVALID"]


@case("Query.eventTypes")
async def _event_types(victim: Tenant, attacker: Tenant) -> None:
    cursor = (await victim.data("{ eventTypes { edges { cursor } } }"))["eventTypes"]["edges"][0]["cursor"]
    seen = await attacker.data('{ eventTypes(first: 100, search: "victim") { edges { node { count } } } }')
    assert seen["eventTypes"]["edges"] == []
    counted = await attacker.data("{ eventTypes(first: 100) { edges { node { count } } } }")
    assert {edge["node"]["count"] for edge in counted["eventTypes"]["edges"]} == {0}
    after = "query ($after: Cursor) { eventTypes(after: $after) { edges { cursor } } }"
    assert await attacker.codes(after, after=cursor) == ["CURSOR_INVALID"]


@case("Query.profile")
async def _profile(victim: Tenant, attacker: Tenant) -> None:
    document = '{ profile(userId: "ada") { traits timeline { totalCount edges { node { properties } } } } }'
    assert await _sees_nothing(attacker, document) == {"data": {"profile": None}}
    # A person of one's own with the same user id leads to one's own events only.
    await attacker.track(userId="ada")
    response = await _sees_nothing(attacker, document)
    assert response["data"]["profile"]["timeline"]["totalCount"] == 1


@case("Query.profiles")
async def _profiles(victim: Tenant, attacker: Tenant) -> None:
    cursor = (await victim.data("{ profiles { edges { cursor } } }"))["profiles"]["edges"][0]["cursor"]
    document = """query ($where: [ConditionInput!], $search: String, $after: Cursor) {
      profiles(where: $where, search: $search, after: $after) { totalCount edges { node { traits } } }
    }"""
    attempts: list[dict[str, Any]] = [
        {},
        {"search": "ada"},
        {"where": [{"path": "profile.userId", "op": "EQ", "value": "ada"}]},
        {"where": [{"events": {"eventType": "victim.only"}, "op": "GTE", "value": 1}]},
    ]
    for attempt in attempts:
        response = await _sees_nothing(attacker, document, **attempt)
        assert response["data"]["profiles"] == {"totalCount": 0, "edges": []}, attempt
    # The events of the other project do not count for a person of one's own with the same user id.
    await attacker.track(userId="ada")
    response = await _sees_nothing(attacker, document, **attempts[-1])
    assert response["data"]["profiles"]["totalCount"] == 0
    assert await attacker.codes(document, after=cursor) == ["CURSOR_INVALID"]


@case("Mutation.track")
async def _track(victim: Tenant, attacker: Tenant) -> None:
    assert victim.viewer is not None
    # The other project's key is free here, and the person of the same name another one.
    stored = await attacker.track(id="shared", userId="ada", traits={"card": "stolen"})
    assert stored["projectId"] != str(victim.viewer.project_id)
    document = "mutation ($input: TrackInput!) { track(input: $input) { event { id } userErrors { path } } }"
    event = {"eventType": "a.b", "projectId": str(victim.viewer.project_id)}
    refused = (await attacker.data(document, input={"event": event}))["track"]
    assert refused == {"event": None, "userErrors": [{"path": ["input", "event", "projectId"]}]}


@case("Mutation.trackBatch")
async def _track_batch(victim: Tenant, attacker: Tenant) -> None:
    assert victim.viewer is not None
    document = """mutation ($input: TrackBatchInput!) {
      trackBatch(input: $input) { accepted duplicates rejected userErrors { path } }
    }"""
    events = [
        {"id": "shared", "eventType": "a.b", "userId": "ada", "traits": {"card": "stolen"}},
        {"eventType": "a.b", "projectId": str(victim.viewer.project_id)},
    ]
    outcome = (await attacker.data(document, input={"events": events}))["trackBatch"]
    assert outcome == {
        "accepted": 1,
        "duplicates": 0,
        "rejected": 1,
        "userErrors": [{"path": ["input", "events", "1", "projectId"]}],
    }


@case("Mutation.identify")
async def _identify(victim: Tenant, attacker: Tenant) -> None:
    response = await _sees_nothing(attacker, IDENTIFY, input={"userId": "ada", "traits": {"a": 1}})
    assert response["data"]["identify"]["profile"] == {"traits": {"a": 1}}


PASSWORD = "correct horse"


async def _account(victim: Tenant, email: str | None = "ada@example.com") -> dict[str, str]:
    """Somebody who is signed in, of whom no event tells; anonymous without an address."""
    accounts, project_id, user_id, session_id = victim.gateway.services.accounts, victim.project_id, "user", uuid7()
    token, now = make_refresh_token(accounts.region), accounts.clock.now()
    password_hash = None if email is None else await accounts.passwords.hash(PASSWORD)
    async with accounts.database.transaction() as connection:
        await insert_user(
            connection, project_id=project_id, user_id=user_id, email=email, password_hash=password_hash, now=now
        )
        await insert_session(
            connection,
            project_id=project_id,
            session_id=session_id,
            user_id=user_id,
            anonymous=email is None,
            device_id=None,
            now=now,
            expires_at=now + SESSION_LIFETIME,
            token_hash=token.token_hash,
        )
    access = await accounts.tokens.issue(
        project_id=project_id, session_id=session_id, user_id=user_id, anonymous=email is None
    )
    return {"userId": user_id, "accessToken": access.token, "refreshToken": token.token}


async def _still_signed_in(victim: Tenant, session: Any) -> None:
    document = "mutation ($token: String!) { refreshSession(refreshToken: $token) { session { userId } } }"
    answer = (await victim.data(document, token=session["refreshToken"]))["refreshSession"]
    assert answer["session"] == {"userId": session["userId"]}


async def _refuses_session(victim: Tenant, attacker: Tenant, document: str) -> None:
    session = await _account(victim)
    response = await _sees_nothing(attacker, document, token=session["refreshToken"])
    [payload] = response["data"].values()
    assert payload == {"session": None, "userErrors": [{"code": "INVALID_CREDENTIALS"}]}
    await _still_signed_in(victim, session)


@case("Mutation.signInAnonymously")
async def _sign_in_anonymously(victim: Tenant, attacker: Tenant) -> None:
    await _sees_nothing(
        attacker, 'mutation { signInAnonymously(input: {deviceId: "phone"}) { profile { traits audiences { id } } } }'
    )


@case("Mutation.signUp")
async def _sign_up(victim: Tenant, attacker: Tenant) -> None:
    session = await _account(victim, email=None)
    document = """mutation ($token: String) {
      signUp(input: {email: "ada@example.com", password: "correct horse", anonymousRefreshToken: $token}) {
        session { userId } userErrors { code } } }"""
    response = await _sees_nothing(attacker, document, token=session["refreshToken"])
    assert response["data"]["signUp"] == {"session": None, "userErrors": [{"code": "INVALID_CREDENTIALS"}]}
    assert (await attacker.data(document))["signUp"]["session"]["userId"] != session["userId"]
    await _still_signed_in(victim, session)


@case("Mutation.signIn")
async def _sign_in(victim: Tenant, attacker: Tenant) -> None:
    session = await _account(victim)
    document = """mutation { signIn(input: {email: "ada@example.com", password: "correct horse"}) {
      session { userId } userErrors { code } } }"""
    response = await _sees_nothing(attacker, document)
    assert response["data"]["signIn"] == {"session": None, "userErrors": [{"code": "INVALID_CREDENTIALS"}]}
    await _still_signed_in(victim, session)


@case("Mutation.refreshSession")
async def _refresh_session(victim: Tenant, attacker: Tenant) -> None:
    document = """mutation ($token: String!) {
      refreshSession(refreshToken: $token) { session { userId } userErrors { code } } }"""
    await _refuses_session(victim, attacker, document)


@case("Mutation.signOut")
async def _sign_out(victim: Tenant, attacker: Tenant) -> None:
    document = """mutation ($token: String!) {
      signOut(refreshToken: $token) { session { userId } userErrors { code } } }"""
    await _refuses_session(victim, attacker, document)


async def _refuses_factor(victim: Tenant, attacker: Tenant, document: str) -> None:
    """A session speaks for its own person only; a key alone, of whatever role, speaks for nobody."""
    session = await _account(victim)
    with pytest.raises(Unauthenticated):
        await victim.gateway.identities.viewer_of_bearer(session["accessToken"], project=str(attacker.project_id))
    response = await _sees_nothing(attacker, document)
    [payload] = response["data"].values()
    assert payload["userErrors"] == [{"code": "INVALID_CREDENTIALS"}]


@case("Mutation.enrollTotp")
async def _enroll_totp(victim: Tenant, attacker: Tenant) -> None:
    await _refuses_factor(victim, attacker, "mutation { enrollTotp { secret userErrors { code } } }")


@case("Mutation.confirmTotp")
async def _confirm_totp(victim: Tenant, attacker: Tenant) -> None:
    document = 'mutation { confirmTotp(code: "000000") { recoveryCodes userErrors { code } } }'
    await _refuses_factor(victim, attacker, document)


@case("Mutation.disableTotp")
async def _disable_totp(victim: Tenant, attacker: Tenant) -> None:
    await _refuses_factor(victim, attacker, 'mutation { disableTotp(code: "000000") { userErrors { code } } }')


@case("Mutation.createProject")
async def _create_project(victim: Tenant, attacker: Tenant) -> None:
    document = 'mutation { createProject(name: "victim") { project { uuid apiKeys { id } head } token } }'
    made = (await attacker.data(document))["createProject"]
    assert victim.viewer is not None
    assert made["project"]["uuid"] != str(victim.viewer.project_id)
    assert len(made["project"]["apiKeys"]) == 1


@case("Mutation.createApiKey")
async def _create_api_key(victim: Tenant, attacker: Tenant) -> None:
    document = 'mutation { createApiKey(name: "x", kind: SECRET, role: ADMIN) { token } }'
    token = (await attacker.data(document))["createApiKey"]["token"]
    assert attacker.viewer is not None
    assert (await attacker.gateway.identities.viewer_of(token)).project_id == attacker.viewer.project_id


@case("Mutation.revokeApiKey")
async def _revoke_api_key(victim: Tenant, attacker: Tenant) -> None:
    keys = (await victim.data("{ viewer { project { apiKeys { id } } } }"))["viewer"]["project"]["apiKeys"]
    document = "mutation ($id: ID!) { revokeApiKey(id: $id) { apiKey { id } userErrors { code } } }"
    announced = len(attacker.gateway.announced)
    refused = (await attacker.data(document, id=keys[0]["id"]))["revokeApiKey"]
    assert refused == {"apiKey": None, "userErrors": [{"code": "NOT_FOUND"}]}
    assert len(attacker.gateway.announced) == announced


async def _member(victim: Tenant) -> tuple[Tenant, dict[str, Any]]:
    """An ADMIN member of the victim's organization, and what a member sees of one."""
    member = await victim.as_member(Role.ADMIN)
    assert member.viewer is not None
    assert member.viewer.member is not None
    shown = (await member.data("{ members { id email role tokens { id prefix } } }"))["members"]
    own = member.viewer.member.email
    return member, next(each for each in shown if each["email"] == own)


@case("Query.members")
async def _members(victim: Tenant, attacker: Tenant) -> None:
    _, shown = await _member(victim)
    # A key of the same organization sees no members at all.
    response = await attacker.run("{ members { id email tokens { id } } }")
    assert shown["email"] not in repr(response)
    assert shown["id"] not in repr(response)


@case("Mutation.addMember")
async def _add_member(victim: Tenant, attacker: Tenant) -> None:
    document = 'mutation { addMember(email: "mole@example.com", role: ADMIN) { token } }'
    added = (await attacker.run(document))["data"]["addMember"]
    assert attacker.viewer is not None
    if attacker.viewer.member is None:
        assert added is None
        return
    with pytest.raises(Unauthenticated):
        await victim.gateway.identities.viewer_of_bearer(added["token"], project=str(victim.project_id))


async def _members_stay(victim: Tenant, attacker: Tenant, document: str, of_token: bool = False) -> None:
    member, shown = await _member(victim)
    node_id = shown["tokens"][0]["id"] if of_token else shown["id"]
    payload = next(iter((await attacker.run(document, id=node_id))["data"].values()))
    assert payload is None or [error["code"] for error in payload["userErrors"]] == ["NOT_FOUND"]
    assert (await _member_again(member, shown))["tokens"] == shown["tokens"]


async def _member_again(member: Tenant, shown: dict[str, Any]) -> dict[str, Any]:
    found = (await member.data("{ members { id tokens { id prefix } } }"))["members"]
    return next(each for each in found if each["id"] == shown["id"])


@case("Mutation.removeMember")
async def _remove_member(victim: Tenant, attacker: Tenant) -> None:
    document = "mutation ($id: ID!) { removeMember(id: $id) { userErrors { code } } }"
    await _members_stay(victim, attacker, document)


@case("Mutation.createMemberToken")
async def _create_member_token(victim: Tenant, attacker: Tenant) -> None:
    document = "mutation ($id: ID!) { createMemberToken(memberId: $id) { token userErrors { code } } }"
    await _members_stay(victim, attacker, document)


@case("Mutation.revokeMemberToken")
async def _revoke_member_token(victim: Tenant, attacker: Tenant) -> None:
    document = "mutation ($id: ID!) { revokeMemberToken(id: $id) { userErrors { code } } }"
    await _members_stay(victim, attacker, document, of_token=True)


SET_UP = """mutation ($settings: JSON, $secrets: JSON) {
  configureProvider(input: {kind: OLLAMA, settings: $settings, secrets: $secrets}) {
    provider { id settings configured } userErrors { code }
  }
}"""
OLLAMA = {"settings": {"baseUrl": "https://ollama.example.com", "model": SECRET}, "secrets": {"apiKey": SECRET}}


@case("Query.providers")
async def _providers(victim: Tenant, attacker: Tenant) -> None:
    await victim.data(SET_UP, **OLLAMA)
    assert await _sees_nothing(attacker, "{ providers { id settings } }") == {"data": {"providers": []}}


@case("Mutation.configureProvider")
async def _configure_provider(victim: Tenant, attacker: Tenant) -> None:
    await victim.data(SET_UP, **OLLAMA)
    made = (await _sees_nothing(attacker, SET_UP, settings={"model": "mine"}))["data"]["configureProvider"]
    assert (made["provider"]["settings"], made["provider"]["configured"]) == ({"model": "mine"}, False)
    [kept] = (await victim.data("{ providers { settings configured } }"))["providers"]
    assert kept == {"settings": OLLAMA["settings"], "configured": True}


@case("Mutation.deleteProvider")
async def _delete_provider(victim: Tenant, attacker: Tenant) -> None:
    provider = (await victim.data(SET_UP, **OLLAMA))["configureProvider"]["provider"]
    document = "mutation ($id: ID!) { deleteProvider(id: $id) { deletedId userErrors { code } } }"
    refused = (await attacker.data(document, id=provider["id"]))["deleteProvider"]
    assert refused == {"deletedId": None, "userErrors": [{"code": "NOT_FOUND"}]}
    node = "query ($id: ID!) { node(id: $id) { id } }"
    assert await _sees_nothing(attacker, node, id=provider["id"]) == {"data": {"node": None}}
    assert (await victim.data(node, id=provider["id"]))["node"] == {"id": provider["id"]}


@case("Mutation.sendSms")
async def _send_sms(victim: Tenant, attacker: Tenant) -> None:
    document = """mutation ($settings: JSON, $secrets: JSON) {
      configureProvider(input: {kind: TWILIO, settings: $settings, secrets: $secrets}) { userErrors { code } }
    }"""
    twilio = {"settings": {"accountSid": "AC" + "0" * 32, "from": "Shop"}, "secrets": {"authToken": SECRET}}
    await victim.data(document, **twilio)
    send = """mutation { sendSms(input: {userIds: ["ada"], body: "hi"}) {
      deliveries { status error { code } } userErrors { code }
    } }"""
    refused = (await _sees_nothing(attacker, send))["data"]["sendSms"]
    assert refused == {"deliveries": [], "userErrors": [{"code": "NOT_CONFIGURED"}]}
    # With an account of one's own, the other project's person still has no number.
    await attacker.data(document, **twilio)
    sent = (await _sees_nothing(attacker, send))["data"]["sendSms"]
    assert sent["deliveries"] == [{"status": "FAILED", "error": {"code": "NO_PHONE"}}]


SAVE_TEMPLATE = """mutation ($input: SaveTemplateInput!) {
  saveTemplate(input: $input) { template { id name bodyText } userErrors { code } }
}"""
TEMPLATE = {"name": "Welcome", "channel": "EMAIL", "subject": "Hi", "bodyText": SECRET}


async def _template(victim: Tenant) -> str:
    saved = (await victim.data(SAVE_TEMPLATE, input=TEMPLATE))["saveTemplate"]
    node_id: str = saved["template"]["id"]
    return node_id


TRUSTED = "query Trusted { viewer { __typename } } # %s"
SAVE_TRUSTED = """mutation ($documents: [TrustedDocumentInput!]!) {
  saveTrustedDocuments(documents: $documents) { trustedDocuments { id name } userErrors { code path } }
}"""


async def _trusted_document(victim: Tenant, name: str = "theirs") -> str:
    documents = [{"name": name, "document": TRUSTED % SECRET}]
    payload = (await victim.data(SAVE_TRUSTED, documents=documents))["saveTrustedDocuments"]
    return str(payload["trustedDocuments"][0]["id"])


@case("Query.trustedDocuments")
async def _trusted_documents(victim: Tenant, attacker: Tenant) -> None:
    await _trusted_document(victim)
    document = "query ($after: Cursor) { trustedDocuments(after: $after) { edges { cursor node { document } } } }"
    [edge] = (await victim.data(document))["trustedDocuments"]["edges"]
    assert (await _sees_nothing(attacker, document))["data"] == {"trustedDocuments": {"edges": []}}
    assert await attacker.codes(document, after=edge["cursor"]) == ["CURSOR_INVALID"]


@case("Mutation.saveTrustedDocuments")
async def _save_trusted_documents(victim: Tenant, attacker: Tenant) -> None:
    """The same text has the same id in both projects, and is another document in each."""
    assert await _trusted_document(victim) == await _trusted_document(attacker, name="mine")
    found = await victim.data("{ trustedDocuments { edges { node { name } } } }")
    assert found == {"trustedDocuments": {"edges": [{"node": {"name": "theirs"}}]}}


@case("Mutation.deleteTrustedDocument")
async def _delete_trusted_document(victim: Tenant, attacker: Tenant) -> None:
    document_id = await _trusted_document(victim)
    document = "mutation ($id: ID!) { deleteTrustedDocument(id: $id) { deletedId userErrors { code } } }"
    response = await _sees_nothing(attacker, document, id=document_id)
    assert response["data"]["deleteTrustedDocument"] == {"deletedId": None, "userErrors": [{"code": "NOT_FOUND"}]}
    assert len((await victim.data("{ trustedDocuments { edges { cursor } } }"))["trustedDocuments"]["edges"]) == 1


@case("Query.templates")
async def _templates(victim: Tenant, attacker: Tenant) -> None:
    node_id = await _template(victim)
    cursor = (await victim.data("{ templates { edges { cursor } } }"))["templates"]["edges"][0]["cursor"]
    document = "query ($after: Cursor) { templates(after: $after, channel: EMAIL) { edges { node { bodyText } } } }"
    assert await _sees_nothing(attacker, document) == {"data": {"templates": {"edges": []}}}
    assert await attacker.codes(document, after=cursor) == ["CURSOR_INVALID"]
    assert await attacker.data("query ($id: ID!) { node(id: $id) { id } }", id=node_id) == {"node": None}


@case("Mutation.saveTemplate")
async def _save_template(victim: Tenant, attacker: Tenant) -> None:
    node_id = await _template(victim)
    refused = (await _sees_nothing(attacker, SAVE_TEMPLATE, input={"id": node_id, "bodyText": "stolen"}))["data"]
    assert refused["saveTemplate"] == {"template": None, "userErrors": [{"code": "NOT_FOUND"}]}
    # The name is free here.
    assert (await attacker.data(SAVE_TEMPLATE, input={**TEMPLATE, "bodyText": "mine"}))["saveTemplate"][
        "userErrors"
    ] == []
    found = await victim.data("{ templates { edges { node { bodyText } } } }")
    assert found == {"templates": {"edges": [{"node": {"bodyText": SECRET}}]}}


@case("Mutation.deleteTemplate")
async def _delete_template(victim: Tenant, attacker: Tenant) -> None:
    node_id = await _template(victim)
    document = "mutation ($id: ID!) { deleteTemplate(id: $id) { deletedId userErrors { code } } }"
    refused = (await attacker.data(document, id=node_id))["deleteTemplate"]
    assert refused == {"deletedId": None, "userErrors": [{"code": "NOT_FOUND"}]}
    assert len((await victim.data("{ templates { edges { cursor } } }"))["templates"]["edges"]) == 1


SAVE_AUDIENCE = """mutation ($input: SaveAudienceInput!) {
  saveAudience(input: $input) { audience { id name where size } userErrors { code } }
}"""
AUDIENCE = {"name": "Pros", "where": [{"path": "profile.traits.card", "op": "EQ", "value": SECRET}]}


async def _audience(victim: Tenant) -> str:
    saved = (await victim.data(SAVE_AUDIENCE, input=AUDIENCE))["saveAudience"]
    node_id: str = saved["audience"]["id"]
    return node_id


@case("Query.audiences")
async def _audiences(victim: Tenant, attacker: Tenant) -> None:
    node_id = await _audience(victim)
    cursor = (await victim.data("{ audiences { edges { cursor } } }"))["audiences"]["edges"][0]["cursor"]
    document = "query ($after: Cursor) { audiences(after: $after) { edges { node { name where } } } }"
    assert await _sees_nothing(attacker, document) == {"data": {"audiences": {"edges": []}}}
    assert await attacker.codes(document, after=cursor) == ["CURSOR_INVALID"]
    assert await attacker.data("query ($id: ID!) { node(id: $id) { id } }", id=node_id) == {"node": None}


@case("Mutation.saveAudience")
async def _save_audience(victim: Tenant, attacker: Tenant) -> None:
    node_id = await _audience(victim)
    refused = (await _sees_nothing(attacker, SAVE_AUDIENCE, input={"id": node_id, "where": []}))["data"]
    assert refused["saveAudience"] == {"audience": None, "userErrors": [{"code": "NOT_FOUND"}]}
    # The name is free here, and the same conditions find nobody.
    made = (await attacker.data(SAVE_AUDIENCE, input=AUDIENCE))["saveAudience"]
    assert (made["audience"]["size"], made["userErrors"]) == (0, [])
    found = await victim.data("{ audiences { edges { node { where size } } } }")
    assert found == {"audiences": {"edges": [{"node": {"where": AUDIENCE["where"], "size": 1}}]}}


@case("Mutation.deleteAudience")
async def _delete_audience(victim: Tenant, attacker: Tenant) -> None:
    node_id = await _audience(victim)
    document = "mutation ($id: ID!) { deleteAudience(id: $id) { deletedId userErrors { code } } }"
    refused = (await attacker.data(document, id=node_id))["deleteAudience"]
    assert refused == {"deletedId": None, "userErrors": [{"code": "NOT_FOUND"}]}
    assert len((await victim.data("{ audiences { edges { cursor } } }"))["audiences"]["edges"]) == 1


@case("Query.funnel")
async def _funnel(victim: Tenant, attacker: Tenant) -> None:
    document = "query ($input: FunnelInput!) { funnel(input: $input) { entered groups { value } } }"
    asked = {"steps": [{"eventType": "*"}, {"eventType": "*"}], "groupBy": "event.properties.card"}
    assert await _sees_nothing(attacker, document, input=asked) == {"data": {"funnel": {"entered": 0, "groups": []}}}
    asked["audienceId"] = await _audience(victim)
    assert await attacker.codes(document, input=asked) == ["BAD_USER_INPUT"]


@case("Subscription.funnelUpdates")
async def _funnel_updates(victim: Tenant, attacker: Tenant) -> None:
    document = "subscription ($input: FunnelInput!) { funnelUpdates(input: $input) { entered } }"
    asked: dict[str, Any] = {"steps": [{"eventType": "*"}, {"eventType": "*"}]}
    assert (await victim.first(document, input=asked))["data"]["funnelUpdates"] == {"entered": 1}
    assert (await attacker.first(document, input=asked))["data"]["funnelUpdates"] == {"entered": 0}
    asked["audienceId"] = await _audience(victim)
    errors = (await attacker.first(document, input=asked))["errors"]
    assert [error["extensions"]["code"] for error in errors] == ["BAD_USER_INPUT"]


@case("Query.trend")
async def _trend(victim: Tenant, attacker: Tenant) -> None:
    document = """query ($input: TrendInput!) { trend(input: $input) { series { group total } previous { group } } }"""
    asked = {"event": {"eventType": "*"}, "groupBy": "event.properties.card", "compare": True}
    assert await _sees_nothing(attacker, document, input=asked) == {"data": {"trend": {"series": [], "previous": []}}}
    asked = {"event": {"eventType": "*"}, "audienceId": await _audience(victim)}
    assert await attacker.codes(document, input=asked) == ["BAD_USER_INPUT"]


@case("Query.retention")
async def _retention(victim: Tenant, attacker: Tenant) -> None:
    document = "query ($input: RetentionInput!) { retention(input: $input) { cohorts { size returned } } }"
    asked: dict[str, Any] = {"startEvent": {"eventType": "*"}, "returnEvent": {"eventType": "*"}, "periods": 1}
    found = (await attacker.data(document, input=asked))["retention"]["cohorts"]
    assert {(each["size"], *each["returned"]) for each in found} == {(0, 0)}
    asked["audienceId"] = await _audience(victim)
    assert await attacker.codes(document, input=asked) == ["BAD_USER_INPUT"]


SAVE_INSIGHT = """mutation ($input: SaveInsightInput!) {
  saveInsight(input: $input) { insight { id name input trend { series { total } } } userErrors { code } }
}"""
SAVE_BOARD = """mutation ($input: SaveBoardInput!) {
  saveBoard(input: $input) { board { id name insights { name } } userErrors { code } }
}"""


async def _insight(victim: Tenant) -> str:
    question = {"event": {"eventType": "*", "where": [{"path": "event.properties.card", "op": "EQ", "value": SECRET}]}}
    saved = (await victim.data(SAVE_INSIGHT, input={"name": "Cards", "trend": question}))["saveInsight"]
    node_id: str = saved["insight"]["id"]
    return node_id


async def _board(victim: Tenant) -> str:
    insight_id = await _insight(victim)
    saved = (await victim.data(SAVE_BOARD, input={"name": SECRET, "insightIds": [insight_id]}))["saveBoard"]
    node_id: str = saved["board"]["id"]
    return node_id


@case("Query.insights")
async def _insights(victim: Tenant, attacker: Tenant) -> None:
    node_id = await _insight(victim)
    cursor = (await victim.data("{ insights { edges { cursor } } }"))["insights"]["edges"][0]["cursor"]
    document = "query ($after: Cursor) { insights(after: $after) { edges { node { name input } } } }"
    assert await _sees_nothing(attacker, document) == {"data": {"insights": {"edges": []}}}
    assert await attacker.codes(document, after=cursor) == ["CURSOR_INVALID"]
    assert await attacker.data("query ($id: ID!) { node(id: $id) { id } }", id=node_id) == {"node": None}


@case("Mutation.saveInsight")
async def _save_insight(victim: Tenant, attacker: Tenant) -> None:
    node_id = await _insight(victim)
    refused = (await _sees_nothing(attacker, SAVE_INSIGHT, input={"id": node_id, "name": "mine"}))["data"]
    assert refused["saveInsight"] == {"insight": None, "userErrors": [{"code": "NOT_FOUND"}]}
    # The name is free here; an audience of somebody else is none.
    question = {"event": {"eventType": "*"}, "audienceId": await _audience(victim)}
    made = (await attacker.data(SAVE_INSIGHT, input={"name": "Cards", "trend": question}))["saveInsight"]
    assert made == {"insight": None, "userErrors": [{"code": "NOT_FOUND"}]}
    assert (
        await _sees_nothing(attacker, SAVE_INSIGHT, input={"name": "Cards", "trend": {"event": {"eventType": "*"}}})
    )["data"]["saveInsight"]["userErrors"] == []
    assert [
        each["node"]["name"]
        for each in (await victim.data("{ insights { edges { node { name } } } }"))["insights"]["edges"]
    ] == ["Cards"]


@case("Mutation.deleteInsight")
async def _delete_insight(victim: Tenant, attacker: Tenant) -> None:
    node_id = await _insight(victim)
    document = "mutation ($id: ID!) { deleteInsight(id: $id) { deletedId userErrors { code } } }"
    refused = (await attacker.data(document, id=node_id))["deleteInsight"]
    assert refused == {"deletedId": None, "userErrors": [{"code": "NOT_FOUND"}]}
    assert len((await victim.data("{ insights { edges { cursor } } }"))["insights"]["edges"]) == 1


@case("Query.boards")
async def _boards(victim: Tenant, attacker: Tenant) -> None:
    node_id = await _board(victim)
    document = "query ($id: ID!) { boards { name insights { input } } node(id: $id) { id } }"
    assert await _sees_nothing(attacker, document, id=node_id) == {"data": {"boards": [], "node": None}}


@case("Mutation.saveBoard")
async def _save_board(victim: Tenant, attacker: Tenant) -> None:
    node_id, insight_id = await _board(victim), (await victim.data("{ insights { edges { node { id } } } }"))
    refused = (await _sees_nothing(attacker, SAVE_BOARD, input={"id": node_id, "name": "mine"}))["data"]
    assert refused["saveBoard"] == {"board": None, "userErrors": [{"code": "NOT_FOUND"}]}
    theirs = [edge["node"]["id"] for edge in insight_id["insights"]["edges"]]
    refused = (await _sees_nothing(attacker, SAVE_BOARD, input={"name": "mine", "insightIds": theirs}))["data"]
    assert refused["saveBoard"] == {"board": None, "userErrors": [{"code": "NOT_FOUND"}]}
    assert (await victim.data("{ boards { name } }"))["boards"] == [{"name": SECRET}]


@case("Mutation.deleteBoard")
async def _delete_board(victim: Tenant, attacker: Tenant) -> None:
    node_id = await _board(victim)
    document = "mutation ($id: ID!) { deleteBoard(id: $id) { deletedId userErrors { code } } }"
    refused = (await attacker.data(document, id=node_id))["deleteBoard"]
    assert refused == {"deletedId": None, "userErrors": [{"code": "NOT_FOUND"}]}
    assert len((await victim.data("{ boards { name } }"))["boards"]) == 1


@case("Subscription.audienceChanges")
async def _audience_changes(victim: Tenant, attacker: Tenant) -> None:
    document = """subscription ($id: ID!, $after: Cursor) {
      audienceChanges(audienceId: $id, after: $after) { node { userId audience { where } } }
    }"""
    node_id = await _audience(victim)
    assert await attacker.refusal(document, id=node_id) == "NOT_FOUND"
    own = (await attacker.data(SAVE_AUDIENCE, input={"name": "Everybody", "where": []}))["saveAudience"]["audience"]
    heads = [
        (await each.data("{ viewer { project { head } } }"))["viewer"]["project"]["head"] for each in (victim, attacker)
    ]
    with pytest.raises(CursorInvalid):
        await attacker.follow(document, id=own["id"], after=heads[0])
    services = victim.gateway.services
    await attacker.track(id="mine", userId="bob")
    await AudienceWorker(services.database, services.clock).catch_up(attacker.project_id)
    follower = await attacker.follow(document, id=own["id"], after=heads[1])
    node = (await follower.next())["data"]["audienceChanges"]["node"]
    assert node == {"userId": "bob", "audience": {"where": []}}
    assert follower.items.empty()
    assert follower.membership is not None
    follower.membership.leave()


ADD_DOMAIN = """mutation { addSenderDomain(domain: "shop.example") {
  senderDomain { id dnsRecords { value } } userErrors { code }
} }"""


async def _domain(victim: Tenant) -> str:
    node_id: str = (await victim.data(ADD_DOMAIN))["addSenderDomain"]["senderDomain"]["id"]
    return node_id


@case("Query.senderDomains")
async def _sender_domains(victim: Tenant, attacker: Tenant) -> None:
    node_id = await _domain(victim)
    assert await attacker.data("{ senderDomains { id } }") == {"senderDomains": []}
    assert await attacker.data("query ($id: ID!) { node(id: $id) { id } }", id=node_id) == {"node": None}


@case("Query.workflowBlueprints")
async def _workflow_blueprints(victim: Tenant, attacker: Tenant) -> None:
    """The same for all: no project adds to them."""
    document = "{ workflowBlueprints { key name description trigger { filters } steps { config } } }"
    assert await attacker.data(document) == await victim.data(document)


SAVE_WORKFLOW = """mutation ($input: SaveWorkflowInput!) { saveWorkflow(input: $input) {
  workflow { id version steps { config } } userErrors { code path }
} }"""
SHOW_WORKFLOW = "{ name isActive isPaused version trigger { audience { name } } steps { config } }"
LIST_WORKFLOWS = f"query ($after: Cursor) {{ workflows(after: $after) {{ edges {{ cursor node {SHOW_WORKFLOW} }} }} }}"


async def _workflow(victim: Tenant, **changes: Any) -> str:
    """One that is named after what its project has; gives its node id."""
    steps = [{"type": "UPDATE_PROFILE", "config": {"traits": {"card": SECRET}}}]
    written = {"name": "Journey", "trigger": {"eventType": "a.b"}, "steps": steps, **changes}
    saved = (await victim.data(SAVE_WORKFLOW, input=written))["saveWorkflow"]
    assert saved["userErrors"] == []
    node_id: str = saved["workflow"]["id"]
    return node_id


@case("Query.workflows")
async def _workflows(victim: Tenant, attacker: Tenant) -> None:
    node_id = await _workflow(victim)
    [edge] = (await victim.data(LIST_WORKFLOWS))["workflows"]["edges"]
    assert await _sees_nothing(attacker, LIST_WORKFLOWS) == {"data": {"workflows": {"edges": []}}}
    assert await attacker.codes(LIST_WORKFLOWS, after=edge["cursor"]) == ["CURSOR_INVALID"]
    assert await attacker.data("query ($id: ID!) { node(id: $id) { id } }", id=node_id) == {"node": None}


@case("Mutation.saveWorkflow")
async def _save_workflow(victim: Tenant, attacker: Tenant) -> None:
    """Neither a workflow, nor the template or the audience of another project are of any use; its names are free."""
    template_id = await _template(victim)
    audience_id = (await victim.data(SAVE_AUDIENCE, input=AUDIENCE))["saveAudience"]["audience"]["id"]
    trigger = {"eventType": "a.b", "audienceId": audience_id}
    steps = [{"type": "SEND_EMAIL", "config": {"to": "a@example.com", "templateId": template_id}}]
    node_id = await _workflow(victim, trigger=trigger, steps=steps)
    before = await victim.data(LIST_WORKFLOWS)

    taken = await _sees_nothing(attacker, SAVE_WORKFLOW, input={"id": node_id, "name": "Stolen"})
    assert taken["data"]["saveWorkflow"] == {
        "workflow": None,
        "userErrors": [{"code": "NOT_FOUND", "path": ["input", "id"]}],
    }
    copied = await _sees_nothing(attacker, SAVE_WORKFLOW, input={"name": "Journey", "trigger": trigger, "steps": steps})
    assert copied["data"]["saveWorkflow"]["userErrors"] == [
        {"code": "NOT_FOUND", "path": ["input", "trigger", "audienceId"]},
        {"code": "NOT_FOUND", "path": ["input", "steps", "0", "config", "templateId"]},
    ]
    await _workflow(attacker)
    assert await victim.data(LIST_WORKFLOWS) == before


BUNDLE = "query ($ids: [ID!]) { exportWorkflows(ids: $ids) }"
IMPORT = """mutation ($bundle: JSON!) {
  importWorkflows(bundle: $bundle) { created { name } updated { name } before userErrors { code path } } }"""


@case("Query.exportWorkflows")
async def _export_workflows(victim: Tenant, attacker: Tenant) -> None:
    await victim.data(SAVE_AUDIENCE, input=AUDIENCE)
    node_id = await _workflow(victim)
    assert SECRET in repr(await victim.data(BUNDLE))
    seen = await _sees_nothing(attacker, BUNDLE)
    assert [seen["data"]["exportWorkflows"][key] for key in ("audiences", "workflows")] == [[], []]
    assert await attacker.codes(BUNDLE, ids=[node_id]) == ["NOT_FOUND"]


@case("Mutation.importWorkflows")
async def _import_workflows(victim: Tenant, attacker: Tenant) -> None:
    """A bundle makes and changes what is the importer's own, and names nothing of others."""
    audience = (await victim.data(SAVE_AUDIENCE, input=AUDIENCE))["saveAudience"]["audience"]
    steps = [{"type": "SEND_EMAIL", "config": {"to": "a@example.com", "templateId": await _template(victim)}}]
    await _workflow(victim, trigger={"eventType": "a.b", "audienceId": audience["id"]}, steps=steps)
    before = await victim.data(BUNDLE)
    [copied] = before["exportWorkflows"]["workflows"]
    refused = await _sees_nothing(attacker, IMPORT, bundle={"workflows": [copied]})
    assert refused["data"]["importWorkflows"]["userErrors"] == [
        {"code": "NOT_FOUND", "path": ["bundle", "workflows", "0", "trigger", "audience"]},
        {"code": "NOT_FOUND", "path": ["bundle", "workflows", "0", "steps", "0", "config", "template"]},
    ]
    theirs = {
        "workflows": [
            {**copied, "trigger": {"eventType": "c.d"}, "steps": [{"type": "WAIT", "config": {}, "delayMinutes": 1}]}
        ]
    }
    made = (await _sees_nothing(attacker, IMPORT, bundle=theirs))["data"]["importWorkflows"]
    assert (made["created"], made["updated"], made["before"]["workflows"]) == ([{"name": "Journey"}], [], [])
    assert await victim.data(BUNDLE) == before


@case("Mutation.setWorkflowActive")
async def _set_workflow_active(victim: Tenant, attacker: Tenant) -> None:
    await _refuses_workflow(
        victim, attacker, "setWorkflowActive(id: $id, isActive: true) { workflow { id } userErrors { code } }"
    )


@case("Mutation.pauseWorkflow")
async def _pause_workflow(victim: Tenant, attacker: Tenant) -> None:
    await _refuses_workflow(victim, attacker, "pauseWorkflow(id: $id) { workflow { id } userErrors { code } }")


@case("Mutation.resumeWorkflow")
async def _resume_workflow(victim: Tenant, attacker: Tenant) -> None:
    await _refuses_workflow(victim, attacker, "resumeWorkflow(id: $id) { workflow { id } userErrors { code } }")


@case("Mutation.deleteWorkflow")
async def _delete_workflow(victim: Tenant, attacker: Tenant) -> None:
    await _refuses_workflow(victim, attacker, "deleteWorkflow(id: $id) { deletedId userErrors { code } }")


async def _refuses_workflow(victim: Tenant, attacker: Tenant, field: str) -> None:
    node_id = await _workflow(victim)
    before = await victim.data(LIST_WORKFLOWS)
    [refused] = (await _sees_nothing(attacker, f"mutation ($id: ID!) {{ {field} }}", id=node_id))["data"].values()
    assert refused["userErrors"] == [{"code": "NOT_FOUND"}]
    assert await victim.data(LIST_WORKFLOWS) == before


WAIT = {"type": "WAIT", "config": {}, "delayMinutes": 5}
SHOW_RUN = """{ id status userId error vars currentStep workflow { name } steps { config } trace { input output }
  deliveries { payload } profile { traits } event { properties } }"""
LIST_RUNS = f"""query ($filter: WorkflowRunFilter, $after: Cursor) {{
  workflowRuns(filter: $filter, after: $after) {{ totalCount edges {{ cursor node {SHOW_RUN} }} }}
}}"""


async def _run(victim: Tenant) -> str:
    """A run that the event of the victim's has started, as rows; gives its node id."""
    run_id, workflow_id, now = uuid7(), uuid_of(await _workflow(victim)), victim.gateway.services.clock.now()
    run = {"run_id": run_id, "workflow_id": workflow_id, "user_id": "ada", "event_seq": 1, "vars": {"card": SECRET}}
    step = {"run_id": run_id, "workflow_id": workflow_id, "input": {"card": SECRET}}
    async with victim.gateway.services.database.transaction() as connection:
        await insert_runs(connection, victim.project_id, [run], now=now)
        await insert_run_steps(connection, victim.project_id, [step], now=now)
    return write_node_id(NodeKind.WORKFLOW_RUN, run_id)


@case("Query.workflowRuns")
async def _workflow_runs(victim: Tenant, attacker: Tenant) -> None:
    run_id = await _run(victim)
    [edge] = (await victim.data(LIST_RUNS))["workflowRuns"]["edges"]
    assert edge["node"]["trace"] == [{"input": {"card": SECRET}, "output": None}]
    await attacker.track(userId="ada")
    own = await start_run(attacker, await _workflow(attacker, steps=[WAIT]), event_seq=2)
    for run_filter in ({"ids": [run_id]}, {"workflowId": (await _ids_of_workflows(victim))[0]}):
        seen = await _sees_nothing(attacker, LIST_RUNS, filter=run_filter)
        assert seen["data"]["workflowRuns"] == {"totalCount": 0, "edges": []}, run_filter
    for run_filter in ({}, {"userId": "ada"}, {"statuses": ["RUNNING"]}):
        seen = await _sees_nothing(attacker, LIST_RUNS, filter=run_filter)
        assert [each["node"]["id"] for each in seen["data"]["workflowRuns"]["edges"]] == [own], run_filter
    assert await attacker.codes(LIST_RUNS, after=edge["cursor"]) == ["CURSOR_INVALID"]
    node = f"query ($id: ID!) {{ node(id: $id) {{ ... on WorkflowRun {SHOW_RUN} }} nodes(ids: [$id]) {{ id }} }}"
    assert await attacker.data(node, id=run_id) == {"node": None, "nodes": [None]}
    # A person of one's own with the same user id leads to one's own runs only.
    person = await attacker.data('{ profile(userId: "ada") { workflowRuns { edges { node { id } } } } }')
    assert person["profile"]["workflowRuns"]["edges"] == [{"node": {"id": own}}]
    fared = "{ workflows { edges { node { stats { started running steps { label } } runs { totalCount } } } } }"
    [mine] = (await attacker.data(fared))["workflows"]["edges"]
    stats = {"started": 1, "running": 1, "steps": [{"label": "wait_1"}]}
    assert mine["node"] == {"stats": stats, "runs": {"totalCount": 1}}


async def _ids_of_workflows(tenant: Tenant) -> list[str]:
    edges = (await tenant.data("{ workflows { edges { node { id } } } }"))["workflows"]["edges"]
    return [edge["node"]["id"] for edge in edges]


@case("Mutation.pauseWorkflowRun")
async def _pause_workflow_run(victim: Tenant, attacker: Tenant) -> None:
    await _refuses_run(victim, attacker, "pauseWorkflowRun")


@case("Mutation.resumeWorkflowRun")
async def _resume_workflow_run(victim: Tenant, attacker: Tenant) -> None:
    await _refuses_run(victim, attacker, "resumeWorkflowRun")


@case("Mutation.cancelWorkflowRun")
async def _cancel_workflow_run(victim: Tenant, attacker: Tenant) -> None:
    await _refuses_run(victim, attacker, "cancelWorkflowRun")


async def _refuses_run(victim: Tenant, attacker: Tenant, field: str) -> None:
    run_id = await _run(victim)
    before = await victim.data(LIST_RUNS)
    document = f"mutation ($id: ID!) {{ {field}(id: $id) {{ run {SHOW_RUN} userErrors {{ code }} }} }}"
    refused = (await _sees_nothing(attacker, document, id=run_id))["data"][field]
    assert refused == {"run": None, "userErrors": [{"code": "NOT_FOUND"}]}
    assert await victim.data(LIST_RUNS) == before


@case("Subscription.workflowRunUpdates")
async def _workflow_run_updates(victim: Tenant, attacker: Tenant) -> None:
    document = f"""subscription ($filter: WorkflowRunFilter, $after: Cursor) {{
      workflowRunUpdates(filter: $filter, after: $after) {{ cursor node {{ status run {SHOW_RUN} }} }}
    }}"""
    heads = [
        (await each.data("{ viewer { project { head } } }"))["viewer"]["project"]["head"] for each in (victim, attacker)
    ]
    with pytest.raises(CursorInvalid):
        await attacker.follow(document, after=heads[0])
    own = await start_run(attacker, await _workflow(attacker, steps=[WAIT]))
    wide = [await attacker.follow(document, filter=each, after=heads[1]) for each in ({}, {"userId": "ada"})]
    narrow = await attacker.follow(
        document, filter={"ids": [write_node_id(NodeKind.WORKFLOW_RUN, CHANGED)]}, after=heads[1]
    )
    for follower in wide:
        item = await follower.next()
        assert SECRET not in repr(item)
        assert item["data"]["workflowRunUpdates"]["node"]["run"]["id"] == own
    assert all(follower.items.empty() for follower in (*wide, narrow))
    for follower in (*wide, narrow):
        assert follower.membership is not None
        follower.membership.leave()


@case("Mutation.cloneBlueprint")
async def _clone_blueprint(victim: Tenant, attacker: Tenant) -> None:
    """Each gets a workflow and an audience of its own, under names that only its own project can have taken."""
    document = """mutation { cloneBlueprint(key: "birthday") {
      workflow { id name trigger { audience { id name } } } userErrors { code } } }"""
    theirs, own = [(await each.data(document))["cloneBlueprint"]["workflow"] for each in (victim, attacker)]
    assert (own["name"], own["trigger"]["audience"]["name"]) == ("Birthday", "Birthday today")
    assert (theirs["name"], theirs["trigger"]["audience"]["name"]) == ("Birthday", "Birthday today")
    ids = [theirs["id"], theirs["trigger"]["audience"]["id"]]
    assert await attacker.data("query ($ids: [ID!]!) { nodes(ids: $ids) { id } }", ids=ids) == {"nodes": [None, None]}


@case("Mutation.testRunWorkflow")
async def _test_run_workflow(victim: Tenant, attacker: Tenant) -> None:
    """Neither another project's template nor what it knows of a person gets into a trace."""
    node_id = await _template(victim)
    document = """mutation ($input: TestRunWorkflowInput!) { testRunWorkflow(input: $input) {
      matched status trace { outcome input output } userErrors { code path } } }"""

    def sample(step_type: str, **config: Any) -> dict[str, Any]:
        steps = [{"type": step_type, "config": config}]
        return {"draft": {"trigger": {"eventType": "a"}, "steps": steps}, "eventType": "a", "userId": "ada"}

    mail = sample("SEND_EMAIL", to="a@example.com", templateId=node_id)
    refused = (await _sees_nothing(attacker, document, input=mail))["data"]["testRunWorkflow"]
    path = ["input", "draft", "steps", "0", "config", "templateId"]
    assert refused["userErrors"] == [{"code": "NOT_FOUND", "path": path}]
    copy = sample("UPDATE_PROFILE", traits={"copy": "{{ user.card }}"})
    seen = (await _sees_nothing(attacker, document, input=copy))["data"]["testRunWorkflow"]
    assert (seen["matched"], seen["trace"][0]["input"]) == (True, {"traits": {"copy": ""}})
    own = (await victim.data(document, input=copy))["testRunWorkflow"]
    assert own["trace"][0]["input"] == {"traits": {"copy": SECRET}}
    saved = {"workflowId": await _workflow(victim), "eventType": "a.b"}
    refused = (await _sees_nothing(attacker, document, input=saved))["data"]["testRunWorkflow"]
    assert refused["userErrors"] == [{"code": "NOT_FOUND", "path": ["input", "workflowId"]}]


@case("Mutation.addSenderDomain")
async def _add_sender_domain(victim: Tenant, attacker: Tenant) -> None:
    """The same domain in two projects has two keys: neither can sign for the other."""
    records = [(await each.data(ADD_DOMAIN))["addSenderDomain"]["senderDomain"] for each in (victim, attacker)]
    assert records[0]["id"] != records[1]["id"]
    assert records[0]["dnsRecords"][0] != records[1]["dnsRecords"][0]


@case("Mutation.verifySenderDomain")
async def _verify_sender_domain(victim: Tenant, attacker: Tenant) -> None:
    node_id = await _domain(victim)
    document = "mutation ($id: ID!) { verifySenderDomain(id: $id) { senderDomain { id } userErrors { code } } }"
    refused = (await attacker.data(document, id=node_id))["verifySenderDomain"]
    assert refused == {"senderDomain": None, "userErrors": [{"code": "NOT_FOUND"}]}
    assert await victim.data("{ senderDomains { status } }") == {"senderDomains": [{"status": "PENDING"}]}


@case("Mutation.sendEmail")
async def _send_email(victim: Tenant, attacker: Tenant) -> None:
    """Neither the account, nor the template, the domain or the people of another project are of any use."""
    node_id = await _template(victim)
    document = """mutation ($settings: JSON, $secrets: JSON) {
      configureProvider(input: {kind: RESEND, settings: $settings, secrets: $secrets}) { userErrors { code } }
    }"""
    resend = {"settings": {"from": "ada@shop.example"}, "secrets": {"apiKey": SECRET}}
    await victim.data(document, **resend)
    send = """mutation ($id: ID) { sendEmail(input: {userIds: ["ada"], templateId: $id, subject: "s", bodyText: "b"}) {
      deliveries { status error { code } } userErrors { code }
    } }"""
    for template_id, code in ((node_id, "NOT_FOUND"), (None, "NOT_CONFIGURED")):
        refused = (await _sees_nothing(attacker, send, id=template_id))["data"]["sendEmail"]
        assert refused == {"deliveries": [], "userErrors": [{"code": code}]}
    await attacker.data(document, **resend)
    sent = (await _sees_nothing(attacker, send))["data"]["sendEmail"]
    assert sent["deliveries"] == [{"status": "FAILED", "error": {"code": "NO_ADDRESS"}}]


SAVE_INBOUND = """mutation ($input: SaveInboundEndpointInput!) {
  saveInboundEndpoint(input: $input) { endpoint { id name } userErrors { code } }
}"""
INBOUND = {"name": SECRET, "verifier": "GITHUB", "secret": SECRET, "eventType": "github.event_received"}


@case("Query.inboundEndpoints")
async def _inbound_endpoints(victim: Tenant, attacker: Tenant) -> None:
    await victim.data(SAVE_INBOUND, input=INBOUND)
    assert await _sees_nothing(attacker, "{ inboundEndpoints { id name url } }") == {"data": {"inboundEndpoints": []}}


@case("Mutation.saveInboundEndpoint")
async def _save_inbound_endpoint(victim: Tenant, attacker: Tenant) -> None:
    made = (await victim.data(SAVE_INBOUND, input=INBOUND))["saveInboundEndpoint"]["endpoint"]
    change = {"id": made["id"], "name": "mine", "secret": "mine"}
    refused = (await _sees_nothing(attacker, SAVE_INBOUND, input=change))["data"]["saveInboundEndpoint"]
    assert refused == {"endpoint": None, "userErrors": [{"code": "NOT_FOUND"}]}
    assert (await victim.data("{ inboundEndpoints { name } }"))["inboundEndpoints"] == [{"name": SECRET}]


@case("Mutation.deleteInboundEndpoint")
async def _delete_inbound_endpoint(victim: Tenant, attacker: Tenant) -> None:
    made = (await victim.data(SAVE_INBOUND, input=INBOUND))["saveInboundEndpoint"]["endpoint"]
    document = "mutation ($id: ID!) { deleteInboundEndpoint(id: $id) { deletedId userErrors { code } } }"
    refused = (await attacker.data(document, id=made["id"]))["deleteInboundEndpoint"]
    assert refused == {"deletedId": None, "userErrors": [{"code": "NOT_FOUND"}]}
    node = "query ($id: ID!) { node(id: $id) { id } }"
    assert await _sees_nothing(attacker, node, id=made["id"]) == {"data": {"node": None}}
    assert (await victim.data(node, id=made["id"]))["node"] == {"id": made["id"]}


SAVE_WEBHOOK = """mutation ($input: SaveWebhookEndpointInput!) {
  saveWebhookEndpoint(input: $input) { endpoint { id url secrets { id hint } } secret userErrors { code } }
}"""
WEBHOOK = {"url": f"https://hooks.example.com/{SECRET.replace(' ', '')}", "description": SECRET, "events": ["victim.*"]}
WEBHOOKS = "{ webhookEndpoints { edges { node { id url description events enabled secrets { id } } } } }"


async def _webhook(victim: Tenant) -> Any:
    """An endpoint of the victim's, and everything that can be seen of it."""
    endpoint = (await victim.data(SAVE_WEBHOOK, input=WEBHOOK))["saveWebhookEndpoint"]["endpoint"]
    return endpoint, await victim.data(WEBHOOKS)


@case("Query.webhookEndpoints")
async def _webhook_endpoints(victim: Tenant, attacker: Tenant) -> None:
    endpoint, _ = await _webhook(victim)
    assert await _sees_nothing(attacker, WEBHOOKS) == {"data": {"webhookEndpoints": {"edges": []}}}
    node = "query ($id: ID!) { node(id: $id) { id } }"
    assert await _sees_nothing(attacker, node, id=endpoint["id"]) == {"data": {"node": None}}
    cursor = (await victim.data("{ webhookEndpoints { edges { cursor } } }"))["webhookEndpoints"]["edges"][0]["cursor"]
    document = "query ($after: Cursor) { webhookEndpoints(after: $after) { edges { node { id } } } }"
    assert await attacker.codes(document, after=cursor) == ["CURSOR_INVALID"]


@case("Mutation.saveWebhookEndpoint")
async def _save_webhook_endpoint(victim: Tenant, attacker: Tenant) -> None:
    endpoint, before = await _webhook(victim)
    change = {"id": endpoint["id"], "url": "https://attacker.example.com", "enabled": False}
    refused = (await _sees_nothing(attacker, SAVE_WEBHOOK, input=change))["data"]["saveWebhookEndpoint"]
    assert refused == {"endpoint": None, "secret": None, "userErrors": [{"code": "NOT_FOUND"}]}
    assert await victim.data(WEBHOOKS) == before


@case("Mutation.deleteWebhookEndpoint")
async def _delete_webhook_endpoint(victim: Tenant, attacker: Tenant) -> None:
    endpoint, before = await _webhook(victim)
    document = "mutation ($id: ID!) { deleteWebhookEndpoint(id: $id) { deletedId userErrors { code } } }"
    refused = (await attacker.data(document, id=endpoint["id"]))["deleteWebhookEndpoint"]
    assert refused == {"deletedId": None, "userErrors": [{"code": "NOT_FOUND"}]}
    assert await victim.data(WEBHOOKS) == before


ROTATE_WEBHOOK = """mutation ($id: ID!) {
  rotateWebhookSecret(id: $id) { endpoint { id secrets { id } } secret userErrors { code } }
}"""


@case("Mutation.rotateWebhookSecret")
async def _rotate_webhook_secret(victim: Tenant, attacker: Tenant) -> None:
    endpoint, before = await _webhook(victim)
    refused = (await attacker.data(ROTATE_WEBHOOK, id=endpoint["id"]))["rotateWebhookSecret"]
    assert refused == {"endpoint": None, "secret": None, "userErrors": [{"code": "NOT_FOUND"}]}
    assert await victim.data(WEBHOOKS) == before


@case("Mutation.retireWebhookSecret")
async def _retire_webhook_secret(victim: Tenant, attacker: Tenant) -> None:
    endpoint, _ = await _webhook(victim)
    rotated = (await victim.data(ROTATE_WEBHOOK, id=endpoint["id"]))["rotateWebhookSecret"]["endpoint"]
    before = await victim.data(WEBHOOKS)
    own = (await attacker.data(SAVE_WEBHOOK, input={**WEBHOOK, "description": None}))["saveWebhookEndpoint"]["endpoint"]
    document = """mutation ($endpoint: ID!, $secret: ID!) {
      retireWebhookSecret(endpointId: $endpoint, secretId: $secret) { endpoint { id } userErrors { code } }
    }"""
    for endpoint_id in (endpoint["id"], own["id"]):
        tried = await attacker.data(document, endpoint=endpoint_id, secret=rotated["secrets"][0]["id"])
        assert tried["retireWebhookSecret"] == {"endpoint": None, "userErrors": [{"code": "NOT_FOUND"}]}
    assert await victim.data(WEBHOOKS) == before


@case("Mutation.rotateWorkflowSecret")
async def _rotate_workflow_secret(victim: Tenant, attacker: Tenant) -> None:
    document = "mutation { rotateWorkflowSecret(graceSeconds: 0) { secret userErrors { code } } }"
    secrets = [(await each.data(document))["rotateWorkflowSecret"]["secret"] for each in (victim, attacker)]
    async with victim.gateway.services.database.transaction() as connection:
        now, vault = victim.gateway.services.clock.now(), victim.gateway.services.vault
        held = await active_step_secrets(connection, vault, project_id=victim.project_id, now=now)
    assert held == (secrets[0],)


@case("Mutation.sendTestWebhook")
async def _send_test_webhook(victim: Tenant, attacker: Tenant) -> None:
    endpoint, _ = await _webhook(victim)
    document = """mutation ($id: ID, $url: String, $type: String!) {
      sendTestWebhook(endpointId: $id, url: $url, eventType: $type) { delivery { payload } userErrors { code } }
    }"""
    refused = (await attacker.data(document, id=endpoint["id"], type="push.sent"))["sendTestWebhook"]
    assert refused == {"delivery": None, "userErrors": [{"code": "NOT_FOUND"}]}
    # Nor does it know the names of another project's events.
    unknown = (await attacker.data(document, url="https://own.example.com", type="victim.only"))["sendTestWebhook"]
    assert unknown == {"delivery": None, "userErrors": [{"code": "NOT_FOUND"}]}


@case("Subscription.eventStream")
async def _event_stream(victim: Tenant, attacker: Tenant) -> None:
    document = """subscription ($filter: EventFilter, $after: Cursor) {
      eventStream(filter: $filter, after: $after) { node { key properties profile { traits } } }
    }"""
    data = await victim.data("{ events { edges { cursor } } viewer { project { head } } }")
    for cursor in (data["events"]["edges"][0]["cursor"], data["viewer"]["project"]["head"]):
        with pytest.raises(CursorInvalid):
            await attacker.follow(document, after=cursor)
    followers = [await attacker.follow(document, filter=each) for each in ({}, {"userId": "ada"}, {"keys": ["mine"]})]
    neighbour = await victim.follow(document)
    await attacker.track(id="mine", userId="ada")
    for follower in followers:
        item = await follower.next()
        assert item["data"]["eventStream"]["node"] == {"key": "mine", "properties": {}, "profile": {"traits": {}}}
        assert follower.items.empty()
    assert neighbour.items.empty()
    for follower in (*followers, neighbour):
        assert follower.membership is not None
        follower.membership.leave()


async def _delivery(victim: Tenant, status: str = "FAILED") -> str:
    """The delivery of the victim's with this status."""
    document = "query ($s: [DeliveryStatus!]) { deliveries(filter: {statuses: $s}) { edges { node { id } } } }"
    node_id: str = (await victim.data(document, s=[status]))["deliveries"]["edges"][0]["node"]["id"]
    return node_id


@case("Query.deliveries")
async def _deliveries(victim: Tenant, attacker: Tenant) -> None:
    delivery_id = await _delivery(victim)
    cursor = (await victim.data("{ deliveries { edges { cursor } } }"))["deliveries"]["edges"][0]["cursor"]
    document = """query ($filter: DeliveryFilter, $after: Cursor) {
      deliveries(filter: $filter, after: $after) { totalCount edges { node { payload attempts { number } } } }
    }"""
    for delivery_filter in ({}, {"ids": [delivery_id]}, {"userId": "ada"}, {"eventTypes": ["*"]}):
        response = await _sees_nothing(attacker, document, filter=delivery_filter)
        assert response["data"]["deliveries"] == {"totalCount": 0, "edges": []}, delivery_filter
    assert await attacker.codes(document, after=cursor) == ["CURSOR_INVALID"]
    node = "query ($id: ID!) { node(id: $id) { id } nodes(ids: [$id]) { id } }"
    assert await attacker.data(node, id=delivery_id) == {"node": None, "nodes": [None]}
    # A person of one's own with the same user id leads to one's own deliveries only.
    await attacker.track(userId="ada")
    person = await attacker.data('{ profile(userId: "ada") { deliveries { totalCount } } }')
    assert person["profile"]["deliveries"]["totalCount"] == 0


@case("Query.deliveryStats")
async def _delivery_stats(victim: Tenant, attacker: Tenant) -> None:
    delivery_id = await _delivery(victim)
    document = "query ($filter: DeliveryFilter) { deliveryStats(filter: $filter) { total byStatus { count } p50Ms } }"
    for delivery_filter in ({}, {"ids": [delivery_id]}, {"userId": "ada"}):
        stats = (await attacker.data(document, filter=delivery_filter))["deliveryStats"]
        assert stats == {"total": 0, "byStatus": [], "p50Ms": None}


@case("Query.deliveryHealth")
async def _delivery_health(victim: Tenant, attacker: Tenant) -> None:
    health = await attacker.data("{ deliveryHealth { topReasons { reason } recentFailures { id } } }")
    assert health["deliveryHealth"] == {"topReasons": [], "recentFailures": []}


@case("Mutation.cancelDelivery")
async def _cancel_delivery(victim: Tenant, attacker: Tenant) -> None:
    delivery_id = await _delivery(victim, "QUEUED")
    document = "mutation ($id: ID!) { cancelDelivery(id: $id) { delivery { id } userErrors { code } } }"
    refused = (await attacker.data(document, id=delivery_id))["cancelDelivery"]
    assert refused == {"delivery": None, "userErrors": [{"code": "NOT_FOUND"}]}


@case("Mutation.replayDelivery")
async def _replay_delivery(victim: Tenant, attacker: Tenant) -> None:
    delivery_id = await _delivery(victim)
    document = "mutation ($id: ID!) { replayDelivery(id: $id) { delivery { id } userErrors { code } } }"
    refused = (await attacker.data(document, id=delivery_id))["replayDelivery"]
    assert refused == {"delivery": None, "userErrors": [{"code": "NOT_FOUND"}]}


@case("Mutation.replayDeliveries")
async def _replay_deliveries(victim: Tenant, attacker: Tenant) -> None:
    delivery_id = await _delivery(victim)
    document = """mutation ($filter: DeliveryFilter!) {
      replayDeliveries(filter: $filter) { batchId replayed deliveries { id } userErrors { code } }
    }"""
    for delivery_filter in ({"ids": [delivery_id]}, {"userId": "ada"}, {"statuses": ["FAILED"]}):
        replayed = (await attacker.data(document, filter=delivery_filter))["replayDeliveries"]
        assert replayed == {"batchId": None, "replayed": 0, "deliveries": [], "userErrors": []}


@case("Subscription.deliveryUpdates")
async def _delivery_updates(victim: Tenant, attacker: Tenant) -> None:
    document = """subscription ($filter: DeliveryFilter, $after: Cursor) {
      deliveryUpdates(filter: $filter, after: $after) { cursor node { delivery { userId payload } } }
    }"""
    heads = [
        (await each.data("{ viewer { project { head } } }"))["viewer"]["project"]["head"] for each in (victim, attacker)
    ]
    with pytest.raises(CursorInvalid):
        await attacker.follow(document, after=heads[0])
    await make_delivery(attacker, user_id="ada")
    wide = [await attacker.follow(document, filter=each, after=heads[1]) for each in ({}, {"userId": "ada"})]
    narrow = await attacker.follow(document, filter={"ids": [await _delivery(victim)]}, after=heads[1])
    for follower in wide:
        item = await follower.next()
        assert SECRET not in repr(item)
        assert item["data"]["deliveryUpdates"]["node"]["delivery"]["userId"] == "ada"
    assert all(follower.items.empty() for follower in (*wide, narrow))
    for follower in (*wide, narrow):
        assert follower.membership is not None
        follower.membership.leave()


PHONE = "ab" * 32
REGISTER_PHONE = """mutation ($token: String!, $userId: String, $locale: String) {
  registerPushToken(input: {platform: IOS, token: $token, userId: $userId, locale: $locale}) {
    pushToken { id userId locale active } userErrors { code }
  }
}"""
PHONES = "{ pushTokens { edges { node { userId locale active } } } }"


async def _phone(victim: Tenant) -> str:
    """The node id of the victim's device, whose locale is known to the victim only."""
    data = await victim.data(REGISTER_PHONE, token=PHONE, userId="ada", locale="aa-secret")
    node_id: str = data["registerPushToken"]["pushToken"]["id"]
    return node_id


async def _phone_is_as_it_was(victim: Tenant) -> None:
    [edge] = (await victim.data(PHONES))["pushTokens"]["edges"]
    assert edge["node"] == {"userId": "ada", "locale": "aa-secret", "active": True}


@case("Query.pushTokens")
async def _push_tokens(victim: Tenant, attacker: Tenant) -> None:
    token_id = await _phone(victim)
    cursor = (await victim.data("{ pushTokens { edges { cursor } } }"))["pushTokens"]["edges"][0]["cursor"]
    document = """query ($filter: PushTokenFilter, $after: Cursor) {
      pushTokens(filter: $filter, after: $after) { edges { node { id } } }
    }"""
    for token_filter in ({}, {"userId": "ada"}, {"platforms": ["IOS"]}):
        assert (await attacker.data(document, filter=token_filter))["pushTokens"]["edges"] == []
    assert await attacker.codes(document, after=cursor) == ["CURSOR_INVALID"]
    assert await attacker.data("query ($id: ID!) { node(id: $id) { id } }", id=token_id) == {"node": None}
    # A person of one's own with the same user id leads to one's own devices only.
    await attacker.track(userId="ada")
    assert await attacker.data('{ profile(userId: "ada") { pushTokens { id } } }') == {"profile": {"pushTokens": []}}


@case("Query.pushSettings")
async def _push_settings(victim: Tenant, attacker: Tenant) -> None:
    document = "{ pushSettings { freqCapPerUserPerDay vapidPublicKey } }"
    await victim.data("mutation { updatePushSettings(input: {freqCapPerUserPerDay: 7}) { userErrors { code } } }")
    own, other = [(await each.data(document))["pushSettings"] for each in (victim, attacker)]
    assert (own["freqCapPerUserPerDay"], other["freqCapPerUserPerDay"]) == (7, None)
    assert own["vapidPublicKey"] != other["vapidPublicKey"]


@case("Mutation.updatePushSettings")
async def _update_push_settings(victim: Tenant, attacker: Tenant) -> None:
    await victim.data("mutation { updatePushSettings(input: {freqCapPerUserPerDay: 7}) { userErrors { code } } }")
    await attacker.data("mutation { updatePushSettings(input: {freqCapPerUserPerDay: 1}) { userErrors { code } } }")
    found = await victim.data("{ pushSettings { freqCapPerUserPerDay } }")
    assert found == {"pushSettings": {"freqCapPerUserPerDay": 7}}


@case("Mutation.registerPushToken")
async def _register_push_token(victim: Tenant, attacker: Tenant) -> None:
    token_id = await _phone(victim)
    # The same token is another device here.
    registered = (await attacker.data(REGISTER_PHONE, token=PHONE))["registerPushToken"]["pushToken"]
    assert registered["id"] != token_id
    assert (registered["userId"], registered["locale"]) == (None, None)
    await _phone_is_as_it_was(victim)


@case("Mutation.unregisterPushToken")
async def _unregister_push_token(victim: Tenant, attacker: Tenant) -> None:
    await _phone(victim)
    document = "mutation ($token: String!) { unregisterPushToken(token: $token) { userErrors { code } } }"
    refused = (await attacker.data(document, token=PHONE))["unregisterPushToken"]
    assert refused == {"userErrors": [{"code": "NOT_FOUND"}]}
    await _phone_is_as_it_was(victim)


async def _somebody(victim: Tenant) -> str:
    found = await victim.data("{ profiles(first: 1) { edges { node { userId } } } }")
    user_id: str = found["profiles"]["edges"][0]["node"]["userId"]
    return user_id


@case("Mutation.eraseProfile")
async def _erase_profile(victim: Tenant, attacker: Tenant) -> None:
    document = """mutation ($userId: String!) { eraseProfile(input: {userId: $userId, reason: "asked for"}) {
      receipt { removed } userErrors { code }
    } }"""
    refused = (await attacker.data(document, userId=await _somebody(victim)))["eraseProfile"]
    assert refused == {"receipt": None, "userErrors": [{"code": "NOT_FOUND"}]}


@case("Query.exportProfile")
async def _export_profile(victim: Tenant, attacker: Tenant) -> None:
    document = """query ($userId: String!, $after: Cursor) {
      exportProfile(userId: $userId, first: 1, after: $after) { lines endCursor }
    }"""
    user_id = await _somebody(victim)
    held = (await victim.data(document, userId=user_id))["exportProfile"]
    assert f'"user_id": "{user_id}"' in held["lines"]
    assert (await attacker.data(document, userId=user_id))["exportProfile"] == {"lines": "", "endCursor": None}
    assert await attacker.codes(document, userId=user_id, after=held["endCursor"]) == ["CURSOR_INVALID"]


@case("Mutation.sendPush")
async def _send_push(victim: Tenant, attacker: Tenant) -> None:
    await _phone(victim)
    document = """mutation { sendPush(input: {userIds: ["ada"], push: {title: "t", body: "b"}, idempotencyKey: "k"}) {
      queued deliveries { suppressedReason pushToken { id } } userErrors { code }
    } }"""
    sent = (await attacker.data(document))["sendPush"]
    assert sent == {
        "queued": 0,
        "deliveries": [{"suppressedReason": "NO_TOKENS", "pushToken": None}],
        "userErrors": [],
    }


@case("Mutation.sendTestPush")
async def _send_test_push(victim: Tenant, attacker: Tenant) -> None:
    token_id = await _phone(victim)
    document = "mutation ($id: ID!) { sendTestPush(pushTokenId: $id) { delivery { id } userErrors { code } } }"
    refused = (await attacker.data(document, id=token_id))["sendTestPush"]
    assert refused == {"delivery": None, "userErrors": [{"code": "NOT_FOUND"}]}


@case("Mutation.trackPush")
async def _track_push(victim: Tenant, attacker: Tenant) -> None:
    document = """mutation ($id: ID!) {
      trackPush(input: {deliveryId: $id, interaction: OPENED}) { event { id } userErrors { code } }
    }"""
    for status in ("FAILED", "QUEUED"):
        refused = (await attacker.data(document, id=await _delivery(victim, status)))["trackPush"]
        assert refused == {"event": None, "userErrors": [{"code": "NOT_FOUND"}]}


SET_CONSENT = """mutation ($state: ConsentState!) {
  setConsent(input: {userId: "ada", purpose: EMAIL, state: $state, source: "app"}) {
    change { id from } userErrors { code }
  }
}"""


@case("Mutation.setConsent")
async def _set_consent(victim: Tenant, attacker: Tenant) -> None:
    await attacker.data(SET_CONSENT, state="REVOKED")
    found = await victim.data('{ profile(userId: "ada") { consents { state } } consentLog { edges { cursor } } }')
    assert {each["state"] for each in found["profile"]["consents"]} == {"UNKNOWN"}
    assert found["consentLog"] == {"edges": []}


@case("Query.consentLog")
async def _consent_log(victim: Tenant, attacker: Tenant) -> None:
    """Here it is the attacker who says something: the victim's log would not stay as it was."""
    attacker, victim = victim, attacker
    await victim.data(SET_CONSENT, state="GRANTED")
    await victim.data(SET_CONSENT, state="REVOKED")
    document = """query ($after: Cursor, $userId: String) { consentLog(after: $after, filter: {userId: $userId}) {
      edges { cursor node { id userId } }
    } }"""
    held = (await victim.data(document))["consentLog"]["edges"]
    assert len(held) == 2
    assert (await attacker.data(document, userId="ada"))["consentLog"] == {"edges": []}
    assert await attacker.codes(document, after=held[0]["cursor"]) == ["CURSOR_INVALID"]
    assert await attacker.data("query ($id: ID!) { node(id: $id) { id } }", id=held[0]["node"]["id"]) == {"node": None}


@case("Mutation.rotateIdentitySecret")
async def _rotate_identity_secret(victim: Tenant, attacker: Tenant) -> None:
    """The attacker's own secret signs nobody of the victim's, and ends none of its secrets."""
    rotate = "mutation { rotateIdentitySecret(graceSeconds: 0) { secret } }"
    own, other = [(await each.data(rotate))["rotateIdentitySecret"]["secret"] for each in (victim, attacker)]
    verify = victim.gateway.services.signatures.verify
    assert not await verify(victim.project_id, "ada", sign("ada", other))
    assert await verify(victim.project_id, "ada", sign("ada", own))


@case("Query.projectSettings")
async def _project_settings(victim: Tenant, attacker: Tenant) -> None:
    await victim.data(UPDATE_SETTINGS, input={"defaultLocale": "pt-BR"})
    document = "{ projectSettings { defaultLocale } }"
    own, other = [(await each.data(document))["projectSettings"] for each in (victim, attacker)]
    assert (own, other) == ({"defaultLocale": "pt-BR"}, {"defaultLocale": "en"})


@case("Mutation.updateProjectSettings")
async def _update_project_settings(victim: Tenant, attacker: Tenant) -> None:
    await attacker.data(UPDATE_SETTINGS, input={"allowUnknownConsent": False, "requireSignedIdentity": True})
    document = "{ projectSettings { allowUnknownConsent requireSignedIdentity } }"
    found = (await victim.data(document))["projectSettings"]
    assert found == {"allowUnknownConsent": True, "requireSignedIdentity": False}


UPDATE_SETTINGS = """mutation ($input: ProjectSettingsInput!) {
  updateProjectSettings(input: $input) { projectSettings { defaultLocale } userErrors { code } }
}"""


@case("Query.auditLog")
async def _audit_log(victim: Tenant, attacker: Tenant) -> None:
    document = """query ($after: Cursor, $subject: String) { auditLog(after: $after, subject: $subject) {
        edges { cursor node { id subject after } } } }"""
    board = (await victim.data('mutation { saveBoard(input: {name: "Board"}) { board { id } } }'))["saveBoard"]["board"]
    async with victim.gateway.services.database.transaction() as connection:
        await Audit("system", victim.gateway.services.clock.now()).note(
            connection, "board.saved", board["id"], project_id=victim.project_id, before=None, after={"name": SECRET}
        )
    held = (await victim.data(document))["auditLog"]["edges"]
    assert SECRET in repr(held)
    await _sees_nothing(attacker, document)
    assert (await _sees_nothing(attacker, document, subject=board["id"]))["data"]["auditLog"] == {"edges": []}
    refused = await _sees_nothing(attacker, document, after=held[0]["cursor"])
    assert refused["errors"][0]["extensions"]["code"] == "CURSOR_INVALID"
    node = await _sees_nothing(attacker, "query ($id: ID!) { node(id: $id) { id } }", id=held[0]["node"]["id"])
    assert node == {"data": {"node": None}}


REGISTER_RIDE = """mutation ($device: String!) {
  registerLiveActivityToken(input: {deviceToken: $device, attributesType: "Ride", token: "cdcdcdcd"}) {
    state userErrors { code }
  }
}"""


@case("Mutation.registerLiveActivityToken")
async def _register_live_activity(victim: Tenant, attacker: Tenant) -> None:
    await _phone(victim)
    refused = (await attacker.data(REGISTER_RIDE, device=PHONE))["registerLiveActivityToken"]
    assert refused == {"state": None, "userErrors": [{"code": "NOT_FOUND"}]}


@case("Mutation.sendLiveActivity")
async def _send_live_activity(victim: Tenant, attacker: Tenant) -> None:
    token_id = await _phone(victim)
    await victim.data(REGISTER_RIDE, device=PHONE)
    document = """mutation ($userIds: [String!], $id: ID) { sendLiveActivity(input: {
      userIds: $userIds, pushTokenId: $id, action: START, attributesType: "Ride", activityId: "1",
      attributes: {}, contentState: {}, alert: {title: "t", body: "b"}
    }) { queued userErrors { code } } }"""
    refused = (await attacker.data(document, id=token_id))["sendLiveActivity"]
    assert refused == {"queued": 0, "userErrors": [{"code": "NOT_FOUND"}]}
    assert (await attacker.data(document, userIds=["ada"]))["sendLiveActivity"] == {"queued": 0, "userErrors": []}


CHANGED = UUID(int=7)
"""The run of which the victim's lane holds an item."""


async def _change_a_run(victim: Tenant) -> None:
    now = victim.gateway.services.clock.now()
    update = new_run_update(now, run_id=CHANGED, user_id="ada", step=msgspec.json.encode({"detail": SECRET}).decode())
    async with victim.gateway.services.database.transaction() as connection:
        await append_run_updates(connection, project_id=victim.project_id, updates=[update], at=now)


@pytest.mark.parametrize("same_organization", [False, True], ids=["stranger", "sibling"])
@pytest.mark.parametrize("root_field", sorted(CASES))
async def test_another_project_is_out_of_reach(gateway: Gateway, root_field: str, same_organization: bool) -> None:
    victim = await gateway.tenant("victim")
    if same_organization:
        attacker = await _sibling(victim)
    else:
        attacker = await (await gateway.tenant("attacker")).as_member(Role.ADMIN)
    await victim.track(id="shared", eventType="victim.only", userId="ada", properties={"card": SECRET})
    await victim.data(IDENTIFY, input={"userId": "ada", "traits": {"card": SECRET, "phone": "+14155550132"}})
    for status in ("FAILED", "QUEUED"):
        await make_delivery(
            victim,
            channel="EMAIL",
            status=status,
            user_id="ada",
            event_type="victim.only",
            event_seq=1,
            content=f'{{"subject": "{SECRET}"}}',
        )
    await _change_a_run(victim)
    before = await _everything(victim)
    await CASES[root_field](victim, attacker)
    assert await _everything(victim) == before


async def test_the_same_user_id_in_another_project_is_somebody_else(gateway: Gateway) -> None:
    victim, other = await gateway.tenant("victim"), await gateway.tenant("other")
    await victim.track(id="shared", eventType="victim.only", userId="ada", properties={"card": SECRET})
    await victim.data(IDENTIFY, input={"userId": "ada", "traits": {"card": SECRET}})
    await make_delivery(victim, user_id="ada", content=f'{{"subject": "{SECRET}"}}')
    attacker = await other.as_session("ada")
    before = await _everything(victim)
    document = """{ viewer { profile { traits } } profile(userId: "ada") { traits timeline { totalCount } }
      events(filter: {userId: "ada"}) { totalCount edges { node { properties } } }
      deliveries(filter: {userId: "ada"}) { totalCount } pushTokens(filter: {userId: "ada"}) { edges { cursor } } }"""
    seen = await _sees_nothing(attacker, document)
    assert seen["data"]["events"] == {"totalCount": 0, "edges": []}
    assert (seen["data"]["profile"], seen["data"]["viewer"]["profile"]) == (None, None)
    for node_id in await _ids(victim):
        assert await attacker.codes("query ($id: ID!) { node(id: $id) { id } }", id=node_id) == ["FORBIDDEN"]
    cursor = (await victim.data("{ events { edges { cursor } } }"))["events"]["edges"][0]["cursor"]
    stream = 'subscription ($after: Cursor) { eventStream(filter: {userId: "ada"}, after: $after) { cursor } }'
    with pytest.raises(CursorInvalid):
        await attacker.follow(stream, after=cursor)
    await attacker.data(IDENTIFY, input={"userId": "ada", "traits": {"card": "stolen"}})
    assert await _everything(victim) == before
