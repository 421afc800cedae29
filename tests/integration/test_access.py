"""Sessions of end users and members of organizations: who is let in, what each may see and write, and when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from app import GatewayApplication, GatewaySession
from db.events import read_event_page
from db.heads import read_head
from db.records import SYSTEM_PROJECT, Lane
from engine.accounts.signing_keys import ACCESS_TOKEN_LIFETIME
from engine.errors import Unauthenticated
from engine.identity import ApiKeyKind, Role
from engine.live.revocations import SESSION_MEMORY, Revocations
from engine.members import MAX_TOKENS, TOKEN_LIFETIME
from engine.revoking import Revocation, append_revocations
from schema import build_schema
from tests.integration.delivery_support import make_delivery
from tests.integration.graphql_support import Gateway, Tenant, open_gateway
from tests.integration.stream_support import until

WHO = """{ viewer { role scopes apiKey { id } profile { userId traits } project { uuid }
  organization { uuid projects { uuid } } } }"""
UNKNOWN_MEMBER = "mt_us_" + "x" * 43


@pytest.fixture
async def gateway(module_database_url: str, redis_url: str) -> AsyncIterator[Gateway]:
    async with open_gateway(module_database_url, redis_url) as opened:
        await opened.revocations.start()
        yield opened
        opened.revocations.stop()


@pytest.fixture
async def shop(gateway: Gateway) -> Tenant:
    shop = await gateway.tenant()
    for user_id in ("ada", "ben"):
        await shop.track(id=user_id, userId=user_id, traits={"name": user_id})
    return shop


def application(gateway: Gateway) -> GatewayApplication:
    return GatewayApplication(build_schema()._schema, gateway.services, gateway.identities, gateway.revocations)


async def opened(gateway: Gateway, **headers: str) -> GatewaySession:
    """What the transport is handed for a request with these headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await application(gateway).open_session(named, None, client=None)


def node_ids(found: Any) -> list[str]:
    return [edge["node"]["id"] for edge in found["edges"]]


# Sessions


async def test_a_session_is_ingest_and_is_its_person(shop: Tenant) -> None:
    ada = await shop.as_session("ada")
    response = await ada.run(WHO)
    own = str(shop.project_id)
    viewer = response["data"]["viewer"]
    assert "errors" not in response
    assert (viewer["role"], viewer["apiKey"]) == ("INGEST", None)
    assert viewer["profile"] == {"userId": "ada", "traits": {"name": "ada"}}
    assert [viewer["project"]["uuid"], *(each["uuid"] for each in viewer["organization"]["projects"])] == [own, own]
    assert ada.viewer is not None
    assert ada.viewer.actor == "user:ada"


async def test_a_session_of_somebody_without_events_has_no_profile_yet(shop: Tenant) -> None:
    new = await shop.as_session("new")
    assert (await new.data("{ viewer { profile { id } } }"))["viewer"]["profile"] is None


@pytest.mark.parametrize("key_role", [Role.INGEST, Role.ADMIN])
async def test_a_session_stays_ingest_whatever_key_comes_along(shop: Tenant, key_role: Role) -> None:
    key = await shop.as_role(key_role)
    ada = await shop.as_session("ada", api_key=key.token)
    assert (await ada.data("{ viewer { role apiKey { id } } }"))["viewer"] == {"role": "INGEST", "apiKey": None}
    assert await ada.codes("{ events { totalCount } }") == ["FORBIDDEN"]


async def test_a_session_opens_its_project_and_no_other(gateway: Gateway, shop: Tenant) -> None:
    other = await gateway.tenant("other")
    ada = await shop.as_session("ada")
    own, token = str(shop.project_id), f"Bearer {ada.token}"
    assert (await opened(gateway, authorization=token, x_sendora_project=own)).holder is not None
    assert (await opened(gateway, authorization=token, x_api_key=shop.token)).holder is not None
    refused: list[dict[str, str]] = [
        {},
        {"x_sendora_project": str(other.project_id)},
        {"x_sendora_project": "shop"},
        {"x_api_key": other.token},
        {"x_api_key": shop.token, "x_sendora_project": str(other.project_id)},
        {"x_api_key": "sk_us_prod_" + "x" * 43, "x_sendora_project": own},
    ]
    for headers in refused:
        with pytest.raises(Unauthenticated) as caught:
            await opened(gateway, authorization=token, **headers)
        assert ada.token not in str(caught.value)


async def test_credentials_come_in_the_payload_of_a_socket_too(gateway: Gateway, shop: Tenant) -> None:
    ada = await shop.as_session("ada")
    payload = {"authorization": f"bearer {ada.token}", "x-sendora-project": str(shop.project_id)}
    session = await application(gateway).open_session({}, payload, client=None)
    assert session.holder == (ada.viewer.holder if ada.viewer else None)


async def test_other_schemes_of_authorization_say_nothing_here(gateway: Gateway, shop: Tenant) -> None:
    assert (await opened(gateway, authorization="Basic dTpw")).holder is None
    assert shop.viewer is not None
    assert (await opened(gateway, authorization="Basic dTpw", x_api_key=shop.token)).holder == shop.viewer.holder


async def test_a_session_reads_its_own_person_and_nobody_else(shop: Tenant) -> None:
    for user_id in ("ada", "ben"):
        await make_delivery(shop, user_id=user_id, event_seq=1)
        await shop.data(
            """mutation ($t: String!, $u: String!) {
              registerPushToken(input: {platform: IOS, token: $t, userId: $u}) { __typename } }""",
            t=user_id.encode().hex() * 4,
            u=user_id,
        )
    document = """query ($u: String!) {
      profile(userId: $u) {
        id timeline { edges { node { id } } } deliveries { edges { node { id } } } pushTokens { id }
      }
      events(filter: {userId: $u}) { edges { node { id profile { userId } } } }
      deliveries(filter: {userId: $u}) { edges { node { id profile { userId } } } }
      pushTokens(filter: {userId: $u}) { edges { node { id } } }
    }"""
    seen = {user_id: await shop.data(document, u=user_id) for user_id in ("ada", "ben")}
    ada = await shop.as_session("ada")
    assert await ada.data(document, u="ada") == seen["ada"]
    response = await ada.run(document, u="ben")
    assert response["data"] == dict.fromkeys(("profile", "events", "deliveries", "pushTokens"))
    assert {error["extensions"]["code"] for error in response["errors"]} == {"FORBIDDEN"}

    def ids(found: Any) -> list[str]:
        own = [found["profile"]["id"], *node_ids(found["events"]), *node_ids(found["deliveries"])]
        return [*own, *node_ids(found["pushTokens"])]

    nodes = "query ($ids: [ID!]!) { nodes(ids: $ids) { id } }"
    assert (await ada.data(nodes, ids=ids(seen["ada"])))["nodes"] == [{"id": each} for each in ids(seen["ada"])]
    foreign = [*ids(seen["ben"]), "prf_" + "0" * 32, f"prj_{shop.project_id.hex}", "nonsense"]
    mixed = await ada.run(nodes, ids=[seen["ada"]["profile"]["id"], *foreign])
    assert mixed["data"]["nodes"] == [{"id": seen["ada"]["profile"]["id"]}, *[None] * len(foreign)]
    assert {error["extensions"]["code"] for error in mixed["errors"]} == {"FORBIDDEN"}


async def test_a_session_without_a_filter_for_its_person_is_refused(shop: Tenant) -> None:
    ada = await shop.as_session("ada")
    for document in (
        "{ events { edges { cursor } } }",
        '{ events(filter: {anonymousId: "a"}) { edges { cursor } } }',
        "{ deliveries { edges { cursor } } }",
        "{ pushTokens { edges { cursor } } }",
        "{ profiles { edges { cursor } } }",
        '{ deliveryStats(filter: {userId: "ada"}) { total } }',
        '{ profile(userId: "ada") { audiences { id } } }',
        '{ profile(userId: "ada") { workflowRuns { edges { cursor } } } }',
    ):
        assert await ada.codes(document) == ["FORBIDDEN"], document
    assert await ada.refusal("subscription { eventStream { cursor } }") == "FORBIDDEN"
    assert await ada.refusal("subscription { deliveryUpdates { cursor } }") == "FORBIDDEN"
    assert await ada.refusal("subscription { workflowRunUpdates { cursor } }") == "FORBIDDEN"


async def test_events_of_a_linked_anonymous_id_are_not_the_sessions(shop: Tenant) -> None:
    """Whoever knows an anonymous id could link it to themselves, and would read what somebody else did."""
    theirs = await shop.track(id="theirs", anonymousId="device-1")
    ada = await shop.as_session("ada")
    document = 'mutation { identify(input: {userId: "ada", traits: {}, anonymousId: "device-1"}) { event { id } } }'
    await ada.data(document)
    assert await ada.codes("query ($id: ID!) { node(id: $id) { id } }", id=theirs["id"]) == ["FORBIDDEN"]
    found = await ada.data('{ events(filter: {userId: "ada"}) { edges { node { key } } } }')
    assert "theirs" not in [edge["node"]["key"] for edge in found["events"]["edges"]]


async def test_a_session_writes_of_its_own_person_only(shop: Tenant) -> None:
    ada = await shop.as_session("ada")
    before = await shop.data("{ events { totalCount } }")
    track = "mutation ($e: EventInput!) { track(input: {event: $e}) { event { userId } userErrors { code path } } }"
    refused = (await ada.data(track, e={"eventType": "a.b", "userId": "ben"}))["track"]
    path = ["input", "event", "userId"]
    assert refused == {"event": None, "userErrors": [{"code": "INVALID_CREDENTIALS", "path": path}]}
    identify = """mutation ($u: String!) { identify(input: {userId: $u, traits: {a: 1}}) {
      profile { userId traits } userErrors { code path } } }"""
    refused = (await ada.data(identify, u="ben"))["identify"]
    wanted = {"code": "INVALID_CREDENTIALS", "path": ["input", "userId"]}
    assert refused == {"profile": None, "userErrors": [wanted]}
    register = """mutation ($u: String) { registerPushToken(input: {platform: IOS, token: "00ff00ff", userId: $u}) {
      pushToken { userId active } userErrors { code path } } }"""
    assert (await ada.data(register, u="ben"))["registerPushToken"] == {"pushToken": None, "userErrors": [wanted]}
    assert await shop.data("{ events { totalCount } }") == before

    batch = """mutation ($e: [EventInput!]!) { trackBatch(input: {events: $e}) {
      accepted rejected userErrors { code path } } }"""
    events = [{"eventType": "a.b", "userId": user_id} for user_id in ("ada", "ben", None)]
    assert (await ada.data(batch, e=events))["trackBatch"] == {
        "accepted": 2,
        "rejected": 1,
        "userErrors": [{"code": "INVALID_CREDENTIALS", "path": ["input", "events", "1", "userId"]}],
    }
    said = (await ada.data(identify, u="ada"))["identify"]
    assert said == {"profile": {"userId": "ada", "traits": {"name": "ada", "a": 1}}, "userErrors": []}
    assert (await ada.data(register, u="ada"))["registerPushToken"]["pushToken"] == {"userId": "ada", "active": True}


async def test_a_session_touches_no_device_and_no_push_of_others(shop: Tenant) -> None:
    register = 'mutation { registerPushToken(input: {platform: IOS, token: "00ff00ff", userId: "ben"}) { __typename } }'
    await shop.data(register)
    delivery_id = await make_delivery(shop, user_id="ben")
    ada = await shop.as_session("ada")
    attempts = {
        "unregisterPushToken": 'mutation { unregisterPushToken(token: "00ff00ff") { userErrors { code } } }',
        "trackPush": f"""mutation {{ trackPush(input: {{deliveryId: "dlv_{delivery_id.hex}", interaction: OPENED}}) {{
          userErrors {{ code }} }} }}""",
        "registerLiveActivityToken": """mutation { registerLiveActivityToken(
          input: {deviceToken: "00ff00ff", attributesType: "Ride", token: "cdcdcdcd"}) { userErrors { code } } }""",
    }
    for field, document in attempts.items():
        assert (await ada.data(document))[field] == {"userErrors": [{"code": "NOT_FOUND"}]}, field
    [device] = (await shop.data("{ pushTokens { edges { node { active userId } } } }"))["pushTokens"]["edges"]
    assert device["node"] == {"active": True, "userId": "ben"}


async def test_a_stream_of_ones_own_shows_ones_own_and_is_shared_with_nobody_else(shop: Tenant) -> None:
    document = """subscription ($u: String) { eventStream(filter: {userId: $u}) {
      node { key profile { userId workflowRuns { edges { cursor } } } } } }"""
    ada, ben = await shop.as_session("ada"), await shop.as_session("ben")
    assert await ada.refusal(document, u="ben") == "FORBIDDEN"
    followers = [await each.follow(document, u=u) for each, u in ((ada, "ada"), (ben, "ben"), (shop, "ada"))]
    for user_id in ("ada", "ben"):
        await shop.track(id=f"to {user_id}", userId=user_id)
    items = [await follower.next() for follower in followers]
    assert [item["data"]["eventStream"]["node"]["key"] for item in items] == ["to ada", "to ben", "to ada"]
    own, _, whole = items
    # Inside an item the same fields are closed as outside; to the project's own key, the same item shows them.
    assert [error["extensions"]["code"] for error in own["errors"]] == ["FORBIDDEN"]
    assert whole["data"]["eventStream"]["node"]["profile"]["workflowRuns"] == {"edges": []}
    assert all(follower.items.empty() for follower in followers)
    for follower in followers:
        assert follower.membership is not None
        follower.membership.leave()


async def test_deliveries_of_ones_own_are_followed_without_what_providers_said(shop: Tenant) -> None:
    document = """subscription ($after: Cursor) { deliveryUpdates(filter: {userId: "ada"}, after: $after) {
      node { to delivery { userId status } attempt { responseBody } } } }"""
    ada = await shop.as_session("ada")
    head = (await shop.data("{ viewer { project { head } } }"))["viewer"]["project"]["head"]
    for user_id in ("ben", "ada"):
        delivery_id = await make_delivery(shop, user_id=user_id)
    follower = await ada.follow(document, after=head)
    item = await follower.next()
    node = item["data"]["deliveryUpdates"]["node"]
    assert node == {"to": "QUEUED", "delivery": {"userId": "ada", "status": "QUEUED"}, "attempt": None}
    assert [error["extensions"]["code"] for error in item["errors"]] == ["FORBIDDEN"]
    assert await ada.codes(f'{{ node(id: "dlv_{delivery_id.hex}") {{ ... on Delivery {{ attempts {{ number }} }} }} }}')
    assert follower.membership is not None
    follower.membership.leave()


# What ends


async def end_session(gateway: Gateway, session_id: UUID) -> None:
    """As signing out does."""
    async with gateway.services.database.transaction() as connection:
        announced = await append_revocations(connection, Revocation.SESSION_ENDED, [session_id])
    for announcement in announced:
        gateway.services.announce(announcement)


def watching(session: GatewaySession) -> tuple[list[str], Callable[[], None]]:
    reasons: list[str] = []
    return reasons, session.on_revoked(reasons.append)


async def test_an_ended_session_is_refused_and_ends_what_is_open(gateway: Gateway, shop: Tenant) -> None:
    ended, going_on = uuid4(), uuid4()
    ada, other = [await shop.as_session("ada", session_id=each) for each in (ended, going_on)]
    headers = {"x_sendora_project": str(shop.project_id)}
    told, forget = watching(await opened(gateway, authorization=f"Bearer {ada.token}", **headers))
    untold, forget_other = watching(await opened(gateway, authorization=f"Bearer {other.token}", **headers))
    await end_session(gateway, ended)
    async with asyncio.timeout(1):
        await until(lambda: bool(told))
    assert told == ["This session has ended: sign in again."]
    with pytest.raises(Unauthenticated, match="has ended"):
        await opened(gateway, authorization=f"Bearer {ada.token}", **headers)
    assert (untold, (await opened(gateway, authorization=f"Bearer {other.token}", **headers)).holder) == ([], going_on)
    forget()
    forget_other()


async def test_a_revoked_key_ends_the_session_that_it_came_along_with(gateway: Gateway, shop: Tenant) -> None:
    key, ada = await shop.as_role(Role.INGEST), await shop.as_session("ada")
    told, forget = watching(await opened(gateway, authorization=f"Bearer {ada.token}", x_api_key=key.token))
    assert key.viewer is not None
    assert key.viewer.api_key is not None
    node_id = f"key_{key.viewer.api_key.api_key_id.hex}"
    await shop.data("mutation ($id: ID!) { revokeApiKey(id: $id) { token } }", id=node_id)
    await until(lambda: bool(told))
    assert told == ["This API key has been revoked."]
    forget()


async def test_an_access_token_that_expires_ends_what_is_open(gateway: Gateway, shop: Tenant) -> None:
    ada = await shop.as_session("ada")
    session = await opened(gateway, authorization=f"Bearer {ada.token}", x_sendora_project=str(shop.project_id))
    now = gateway.services.clock.now
    gateway.services.clock.now = lambda: now() + ACCESS_TOKEN_LIFETIME - timedelta(milliseconds=50)  # type: ignore[method-assign]
    told, forget = watching(session)
    assert told == []
    await until(lambda: bool(told))
    assert told == [
        "This access token has expired: refresh the session, and come back with your cursor and the new one."
    ]
    forget()
    gateway.services.clock.now = lambda: now() + ACCESS_TOKEN_LIFETIME  # type: ignore[method-assign]
    with pytest.raises(Unauthenticated, match="expired"):
        await opened(gateway, authorization=f"Bearer {ada.token}", x_sendora_project=str(shop.project_id))


async def test_whoever_forgets_is_told_nothing(gateway: Gateway, shop: Tenant) -> None:
    session_id = uuid4()
    ada = await shop.as_session("ada", session_id=session_id)
    session = await opened(gateway, authorization=f"Bearer {ada.token}", x_sendora_project=str(shop.project_id))
    (told, forget), (other, forget_other) = watching(session), watching(session)
    forget()
    forget()
    await end_session(gateway, session_id)
    await until(lambda: bool(other))
    assert told == []
    forget_other()


async def test_a_gateway_that_starts_knows_which_sessions_ended_lately(gateway: Gateway, shop: Tenant) -> None:
    lately, long_ago, key = uuid4(), uuid4(), uuid4()
    await end_session(gateway, long_ago)
    async with gateway.services.database.connection() as connection:
        await connection.execute(
            "UPDATE events SET received_at = received_at - $2::interval WHERE project_id = $1",
            SYSTEM_PROJECT,
            SESSION_MEMORY,
        )
    await end_session(gateway, lately)
    async with gateway.services.database.transaction() as connection:
        await append_revocations(connection, Revocation.API_KEY_REVOKED, [key])
    for _ in range(2):  # together more than one page of others
        async with gateway.services.database.transaction() as connection:
            await append_revocations(connection, Revocation.API_KEY_REVOKED, [uuid4() for _ in range(300)])
    started = Revocations(gateway.revocations._hub, gateway.services.database)
    await started.start()
    assert (started.revoked(lately), started.revoked(long_ago)) == (True, False)
    # A key is looked up, which says whether it was revoked.
    assert not started.revoked(key)
    started.stop()


async def test_ended_sessions_are_remembered_as_long_as_their_tokens_live(gateway: Gateway) -> None:
    now = 1000.0
    known = Revocations(gateway.revocations._hub, gateway.services.database, clock=lambda: now)
    first, second = uuid4(), uuid4()
    for session_id in (first, second):
        await end_session(gateway, session_id)
        async with gateway.services.database.connection() as connection:
            head = await read_head(connection, project_id=SYSTEM_PROJECT, lane=Lane.EVENTS)
            page = await read_event_page(connection, project_id=SYSTEM_PROJECT, after=head.head - 1, limit=1)
        known.advance(page.events, page.reached)
        now += SESSION_MEMORY.total_seconds() + 1
    assert (known.revoked(first), known.revoked(second), known.remembered_sessions) == (False, True, 1)


# Members

ADD = """mutation ($email: String!, $role: Role!) { addMember(email: $email, role: $role) {
  member { id email role tokens { prefix } } token userErrors { code path } } }"""
REMOVE = "mutation ($id: ID!) { removeMember(id: $id) { member { id email } userErrors { code path } } }"
NEW_TOKEN = """mutation ($id: ID!) { createMemberToken(memberId: $id) {
  memberToken { id prefix } token userErrors { code path } } }"""
REVOKE_TOKEN = "mutation ($id: ID!) { revokeMemberToken(id: $id) { memberToken { id } userErrors { code path } } }"
MEMBERS = "{ members { id email role tokens { id prefix lastUsedAt } } }"


@pytest.fixture
async def admin(shop: Tenant) -> Tenant:
    return await shop.as_member(Role.ADMIN)


async def test_a_member_chooses_a_project_of_the_organization(gateway: Gateway, shop: Tenant, admin: Tenant) -> None:
    made = (await shop.data('mutation { createProject(name: "second") { project { uuid } } }'))["createProject"]
    second = made["project"]["uuid"]
    projects = "{ viewer { role project { uuid } organization { projects { uuid } } } }"
    viewer = (await admin.data(projects))["viewer"]
    assert [each["uuid"] for each in viewer["organization"]["projects"]] == [str(shop.project_id), second]
    chosen = Tenant(gateway, await gateway.identities.viewer_of_bearer(admin.token, project=second), admin.token)
    assert (await chosen.data(projects))["viewer"]["project"]["uuid"] == second
    # A key sees its own project only.
    viewer = (await shop.data(projects))["viewer"]
    assert [each["uuid"] for each in viewer["organization"]["projects"]] == [str(shop.project_id)]


async def test_a_member_who_chose_no_project_changes_nothing(gateway: Gateway, shop: Tenant, admin: Tenant) -> None:
    undecided = await gateway.identities.viewer_of_bearer(admin.token, project=None)
    assert (undecided.project_id, undecided.role) == (shop.project_id, Role.VIEWER)


async def test_another_organizations_project_is_as_unknown(gateway: Gateway, admin: Tenant) -> None:
    other = await gateway.tenant("other")
    told = set()
    for project in (other.project_id, uuid4(), SYSTEM_PROJECT):
        with pytest.raises(Unauthenticated) as caught:
            await gateway.identities.viewer_of_bearer(admin.token, project=str(project))
        told.add(str(caught.value))
    assert len(told) == 1


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (UNKNOWN_MEMBER, "not known"),
        (UNKNOWN_MEMBER + "x", "not a member token"),
        ("mt_eu_" + "x" * 43, "belongs to region eu, and this is region us"),
    ],
)
async def test_other_tokens_are_refused(gateway: Gateway, shop: Tenant, token: str, reason: str) -> None:
    with pytest.raises(Unauthenticated, match=reason) as caught:
        await gateway.identities.viewer_of_bearer(token, project=str(shop.project_id))
    assert "x" * 20 not in str(caught.value)


async def test_a_member_is_added_by_an_admin_and_noted(gateway: Gateway, shop: Tenant, admin: Tenant) -> None:
    added = (await admin.data(ADD, email="New@Example.com", role="EDITOR"))["addMember"]
    token = added["token"]
    assert added["userErrors"] == []
    assert (added["member"]["email"], added["member"]["role"]) == ("new@example.com", "EDITOR")
    assert added["member"]["tokens"] == [{"prefix": token[:12]}]
    viewer = await gateway.identities.viewer_of_bearer(token, project=str(shop.project_id))
    assert (viewer.role, viewer.actor) == (Role.EDITOR, "member:new@example.com")
    async with gateway.services.database.connection() as connection:
        rows = await connection.fetch("SELECT * FROM member_tokens")
        [entry] = await connection.fetch("SELECT * FROM audit_entries WHERE subject = $1", added["member"]["id"])
    assert all(token[12:] not in str(value) for row in rows for value in row.values())
    assert admin.viewer is not None
    assert (entry["action"], entry["actor"]) == ("member.added", admin.viewer.actor)
    listed = (await admin.data(MEMBERS))["members"]
    assert [each["email"] for each in listed][-1] == "new@example.com"
    assert listed[-1]["tokens"][0]["lastUsedAt"] is not None


@pytest.mark.parametrize(
    ("email", "role", "code", "path"),
    [
        ("nobody", "VIEWER", "INVALID", ["email"]),
        ("x" * 400 + "@example.com", "VIEWER", "INVALID", ["email"]),
        ("a@example.com", "INGEST", "INVALID", ["role"]),
        ("TAKEN@example.com", "VIEWER", "CONFLICT", ["email"]),
    ],
)
async def test_nobody_is_added_by_halves(admin: Tenant, email: str, role: str, code: str, path: list[str]) -> None:
    await admin.data(ADD, email="taken@example.com", role="VIEWER")
    before = await admin.data(MEMBERS)
    refused = (await admin.data(ADD, email=email, role=role))["addMember"]
    assert refused == {"member": None, "token": None, "userErrors": [{"code": code, "path": path}]}
    assert await admin.data(MEMBERS) == before


async def test_no_key_reaches_members_whatever_its_role(shop: Tenant, admin: Tenant) -> None:
    """It would open all of the organization's projects by making a member."""
    assert shop.viewer is not None
    assert shop.viewer.role is Role.ADMIN
    assert await shop.codes(MEMBERS) == ["FORBIDDEN"]
    assert await shop.codes(ADD, email="x@example.com", role="ADMIN") == ["FORBIDDEN"]
    assert len((await admin.data(MEMBERS))["members"]) == 1


async def test_a_removed_member_is_refused_and_ends_within_a_second(
    gateway: Gateway, shop: Tenant, admin: Tenant
) -> None:
    added = (await admin.data(ADD, email="gone@example.com", role="VIEWER"))["addMember"]
    headers = {"authorization": f"Bearer {added['token']}", "x_sendora_project": str(shop.project_id)}
    told, forget = watching(await opened(gateway, **headers))
    removed = (await admin.data(REMOVE, id=added["member"]["id"]))["removeMember"]
    assert removed["userErrors"] == []
    async with asyncio.timeout(1):
        await until(lambda: bool(told))
    assert told == ["This person is no member of the organization any more."]
    with pytest.raises(Unauthenticated):
        await opened(gateway, **headers)
    again = (await admin.data(REMOVE, id=added["member"]["id"]))["removeMember"]
    assert again == {"member": None, "userErrors": [{"code": "NOT_FOUND", "path": ["id"]}]}
    # The address is free for somebody new, whom the old token is not.
    assert (await admin.data(ADD, email="gone@example.com", role="VIEWER"))["addMember"]["userErrors"] == []
    with pytest.raises(Unauthenticated):
        await opened(gateway, **headers)
    forget()


async def test_a_revoked_token_ends_alone(gateway: Gateway, shop: Tenant, admin: Tenant) -> None:
    added = (await admin.data(ADD, email="two@example.com", role="VIEWER"))["addMember"]
    made = (await admin.data(NEW_TOKEN, id=added["member"]["id"]))["createMemberToken"]
    own = {"x_sendora_project": str(shop.project_id)}
    told, forget = watching(await opened(gateway, authorization=f"Bearer {made['token']}", **own))
    revoked = (await admin.data(REVOKE_TOKEN, id=made["memberToken"]["id"]))["revokeMemberToken"]
    assert revoked == {"memberToken": {"id": made["memberToken"]["id"]}, "userErrors": []}
    await until(lambda: bool(told))
    assert told == ["This member token has been revoked."]
    with pytest.raises(Unauthenticated):
        await opened(gateway, authorization=f"Bearer {made['token']}", **own)
    assert (await opened(gateway, authorization=f"Bearer {added['token']}", **own)).holder is not None
    again = (await admin.data(REVOKE_TOKEN, id=made["memberToken"]["id"]))["revokeMemberToken"]
    assert again["userErrors"] == [{"code": "NOT_FOUND", "path": ["id"]}]
    forget()


async def test_tokens_of_a_member_are_bounded_and_expire(gateway: Gateway, shop: Tenant, admin: Tenant) -> None:
    added = (await admin.data(ADD, email="many@example.com", role="VIEWER"))["addMember"]
    for _ in range(MAX_TOKENS - 1):
        made = (await admin.data(NEW_TOKEN, id=added["member"]["id"]))["createMemberToken"]
        assert made["userErrors"] == []
    refused = (await admin.data(NEW_TOKEN, id=added["member"]["id"]))["createMemberToken"]
    assert refused["userErrors"] == [{"code": "LIMIT_EXCEEDED", "path": ["memberId"]}]
    own = {"authorization": f"Bearer {added['token']}", "x_sendora_project": str(shop.project_id)}
    await opened(gateway, **own)
    now = gateway.services.clock.now
    gateway.identities._now = lambda: now() + TOKEN_LIFETIME
    with pytest.raises(Unauthenticated, match="expired"):
        await opened(gateway, **own)


async def test_the_last_admin_stays(admin: Tenant) -> None:
    [own] = (await admin.data(MEMBERS))["members"]
    refused = (await admin.data(REMOVE, id=own["id"]))["removeMember"]
    assert refused == {"member": None, "userErrors": [{"code": "STATE", "path": ["id"]}]}
    added = (await admin.data(ADD, email="second@example.com", role="ADMIN"))["addMember"]
    assert added["userErrors"] == []
    assert (await admin.data(REMOVE, id=own["id"]))["removeMember"]["userErrors"] == []


async def test_members_of_another_organization_are_out_of_reach(gateway: Gateway, admin: Tenant) -> None:
    stranger = await (await gateway.tenant("other")).as_member(Role.ADMIN)
    [own] = (await admin.data(MEMBERS))["members"]
    for document, id_, field in (
        (REMOVE, own["id"], "removeMember"),
        (NEW_TOKEN, own["id"], "createMemberToken"),
        (REVOKE_TOKEN, own["tokens"][0]["id"], "revokeMemberToken"),
    ):
        assert [each["code"] for each in (await stranger.data(document, id=id_))[field]["userErrors"]] == ["NOT_FOUND"]
    assert (await admin.data(MEMBERS))["members"] == [own]


# INGEST


async def test_a_publishable_key_in_a_browser_reads_nothing_whatever_it_was_granted(shop: Tenant) -> None:
    app = await shop.as_role(Role.EDITOR, ApiKeyKind.PUBLISHABLE)
    in_a_browser = Tenant(shop.gateway, await shop.gateway.identities.viewer_of(app.token, from_browser=True))
    assert await app.codes("{ events { totalCount } }") == []
    assert await in_a_browser.codes("{ events { totalCount } }") == ["FORBIDDEN"]
    document = 'mutation { identify(input: {userId: "ada", traits: {}}) { profile { userId } event { userId } } }'
    assert (await in_a_browser.data(document))["identify"] == {"profile": None, "event": {"userId": "ada"}}
