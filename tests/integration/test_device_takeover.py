"""Device takeover: one transaction, safe to repeat, and nobody gets what was meant for somebody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from db.records import EventRecord
from engine.analytics.live import _FollowedLane
from engine.channels.fcm import FcmSender
from engine.channels.http import HttpClient
from engine.consent import ConsentPurpose, ConsentState, set_consent
from engine.dispatch.dispatcher import Dispatcher
from engine.dispatch.values import Channel
from engine.egress import Egress
from engine.node_ids import NodeKind, write_node_id
from engine.push.work import PushWork
from tests.integration.session_support import App, open_app
from tests.peers.fcm import Answer, FcmPeer

DEVICE = "eXAmPle:APA91b" + "x" * 120
REGISTER = """mutation ($token: String!, $userId: String) {
  registerPushToken(input: {platform: ANDROID, token: $token, userId: $userId}) { userErrors { path message } } }"""
SEND = """mutation ($userIds: [String!]!, $title: String!) {
  sendPush(input: {userIds: $userIds, push: {title: $title, body: "text"}}) { queued userErrors { message } } }"""
CONFIGURE = """mutation ($settings: JSON, $secrets: JSON) {
  configureProvider(input: {kind: FCM, settings: $settings, secrets: $secrets}) { userErrors { message } } }"""


class Device:
    """A device with an anonymous user whose push token is registered, and an account that somebody has elsewhere."""

    def __init__(self, app: App, person: Any, anonymous: Any) -> None:
        self.app = app
        self.person: str = person["userId"]
        self.anonymous: str = anonymous["userId"]
        self.token: str = anonymous["refreshToken"]

    async def sign_in(self) -> Any:
        return await self.app.sign_in("ann@example.com", anonymousRefreshToken=self.token)

    async def is_gone(self) -> None:
        """Nothing of the anonymous user is left but history."""
        for table in ("users", "profiles", "push_tokens", "consents", "audience_members", "audience_rechecks"):
            assert await self.app.rows(f"SELECT FROM {table} WHERE user_id = $1", self.anonymous) == [], table


async def made(app: App) -> Device:
    person = (await app.sign_up("ann@example.com", traits={"name": "Ann", "plan": "pro"}))["session"]
    anonymous = (await app.anonymous(deviceId="phone", traits={"plan": "free", "lang": "de"}))["session"]
    await app.key.data(REGISTER, token=DEVICE, userId=anonymous["userId"])
    return Device(app, person, anonymous)


async def test_the_device_and_its_history_are_the_persons(database_url: str) -> None:
    async with open_app(database_url) as app:
        device = await made(app)
        bought = await app.key.track(userId=device.anonymous)
        [profile] = await app.rows("SELECT profile_id FROM profiles WHERE user_id = $1", device.anonymous)
        retired_profile_id = write_node_id(NodeKind.PROFILE, profile["profile_id"])

        answer = await device.sign_in()
        assert answer["userErrors"] == []
        assert answer["session"]["userId"] == device.person
        assert (answer["retiredAnonUserId"], answer["retiredProfileId"]) == (device.anonymous, retired_profile_id)

        await device.is_gone()
        [token] = await app.rows("SELECT user_id, owner_generation, active FROM push_tokens")
        assert token == {"user_id": device.person, "owner_generation": 2, "active": True}
        [traits] = await app.rows("SELECT traits FROM profiles WHERE user_id = $1", device.person)
        assert traits["traits"] == '{"lang": "de", "name": "Ann", "plan": "pro"}'
        [link] = await app.rows("SELECT kind, alias, user_id, linked_seq FROM identity_links")
        [event] = await app.rows("SELECT seq FROM events WHERE event_type = 'auth.device_takeover'")
        assert link == {
            "kind": "USER_ID",
            "alias": device.anonymous,
            "user_id": device.person,
            "linked_seq": event["seq"],
        }
        assert await app.events("auth.device_takeover") == [
            (
                "auth.device_takeover",
                device.person,
                {"retiredUserId": device.anonymous, "retiredProfileId": retired_profile_id, "movedPushTokens": 1},
            )
        ]
        [kept] = await app.rows("SELECT user_id FROM events WHERE seq = $1", int(bought["seq"]))
        assert kept["user_id"] == device.anonymous
        sessions = await app.rows(
            "SELECT session_id, ended_reason, taken_over_by FROM sessions WHERE user_id = $1", device.anonymous
        )
        assert [(each["ended_reason"], each["taken_over_by"]) for each in sessions] == [("TAKEN_OVER", device.person)]
        assert await app.ended_sessions() == [str(sessions[0]["session_id"])]
        [device_id] = await app.rows("SELECT device_id FROM sessions WHERE ended_at IS NULL AND device_id IS NOT NULL")
        assert device_id["device_id"] == "phone"


async def test_whoever_asks_again_is_told_the_same_and_nobody_else_is(database_url: str) -> None:
    async with open_app(database_url) as app:
        device = await made(app)
        first = await device.sign_in()
        again = await device.sign_in()
        same = ("retiredAnonUserId", "retiredProfileId", "userErrors")
        assert [again[name] for name in same] == [first[name] for name in same]
        assert again["session"]["refreshToken"] != first["session"]["refreshToken"]
        assert len(await app.events("auth.device_takeover")) == 1
        assert (await app.rows("SELECT owner_generation FROM push_tokens"))[0]["owner_generation"] == 2

        await app.sign_up("bob@example.com")
        other = await app.sign_in("bob@example.com", anonymousRefreshToken=device.token)
        assert (other["session"], other["retiredAnonUserId"]) == (None, None)
        assert [(error["code"], error["path"]) for error in other["userErrors"]] == [
            ("INVALID_CREDENTIALS", ["input", "anonymousRefreshToken"])
        ]


async def test_nobody_can_write_the_takeover_before_it_happens(database_url: str) -> None:
    """Under a key that can be foreseen, an app's event would stand where it is said whose the history is."""
    async with open_app(database_url) as app:
        device = await made(app)
        for key in (f"auth.device_takeover:{device.anonymous}", f"auth.device_takeover:{device.person}"):
            await app.key.track(id=key, eventType="order.placed")
        assert (await device.sign_in())["retiredAnonUserId"] == device.anonymous
        assert [who for _, who, _ in await app.events("auth.device_takeover")] == [device.person]
        [link] = await app.rows("SELECT alias, user_id FROM identity_links")
        assert link == {"alias": device.anonymous, "user_id": device.person}


async def test_nothing_new_is_said_of_somebody_who_was_taken_over(database_url: str) -> None:
    """A device of nobody would be reached no more, and a word of nobody would be heeded by nothing."""
    consent = """mutation ($userId: String!) {
      setConsent(input: {userId: $userId, purpose: PUSH, state: REVOKED, source: "app"}) {
        userErrors { code path } } }"""
    register = REGISTER.replace("path message", "code path")
    refused = [{"code": "STATE", "path": ["input", "userId"]}]
    async with open_app(database_url) as app:
        device = await made(app)
        await device.sign_in()
        answer = await app.key.data(register, token=DEVICE, userId=device.anonymous)
        assert answer["registerPushToken"]["userErrors"] == refused
        answer = await app.key.data(consent, userId=device.anonymous)
        assert answer["setConsent"]["userErrors"] == refused
        await device.is_gone()
        [token] = await app.rows("SELECT user_id, owner_generation FROM push_tokens")
        assert token == {"user_id": device.person, "owner_generation": 2}


async def test_a_device_that_registers_while_it_is_taken_over_is_the_persons(database_url: str) -> None:
    async with open_app(database_url) as app:
        device = await made(app)
        registering = [
            app.key.data(REGISTER, token=f"{DEVICE}{number}", userId=device.anonymous) for number in range(12)
        ]
        signed_in, *_ = await asyncio.gather(device.sign_in(), *registering)
        assert signed_in["retiredAnonUserId"] == device.anonymous
        await device.is_gone()


async def test_a_wrong_password_or_token_takes_nothing_over(database_url: str) -> None:
    async with open_app(database_url) as app:
        device = await made(app)
        person = (await app.sign_in("ann@example.com"))["session"]
        for changes in (
            {"password": "a wrong password"},
            {"anonymousRefreshToken": "rt_us_" + "x" * 43},
            {"anonymousRefreshToken": person["refreshToken"]},
        ):
            answer = await app.sign_in("ann@example.com", **{"anonymousRefreshToken": device.token, **changes})
            assert (answer["session"], answer["userErrors"][0]["code"]) == (None, "INVALID_CREDENTIALS")
        newer = (await app.refresh(device.token))["session"]["refreshToken"]
        reused = await device.sign_in()
        assert (reused["session"], reused["userErrors"][0]["code"]) == (None, "INVALID_CREDENTIALS")
        assert (await app.refresh(newer))["session"] is None
        [token] = await app.rows("SELECT user_id, owner_generation FROM push_tokens")
        assert token == {"user_id": device.anonymous, "owner_generation": 1}
        assert await app.events("auth.device_takeover") == []


async def test_somebody_who_signed_up_on_the_device_takes_nobody_over(database_url: str) -> None:
    async with open_app(database_url) as app:
        anonymous = (await app.anonymous())["session"]
        await app.sign_up("ann@example.com", anonymousRefreshToken=anonymous["refreshToken"])
        answer = await app.sign_in("ann@example.com", anonymousRefreshToken=anonymous["refreshToken"])
        assert answer["session"]["userId"] == anonymous["userId"]
        assert (answer["retiredAnonUserId"], answer["userErrors"]) == (None, [])


async def test_what_the_person_has_said_holds_and_the_rest_is_filled_in(database_url: str) -> None:
    async with open_app(database_url) as app:
        device = await made(app)
        database, now = app.gateway.services.database, app.gateway.services.clock.now()
        for user_id, purpose, state in (
            (device.person, ConsentPurpose.EMAIL, ConsentState.GRANTED),
            (device.anonymous, ConsentPurpose.EMAIL, ConsentState.DENIED),
            (device.anonymous, ConsentPurpose.PUSH, ConsentState.DENIED),
        ):
            async with database.transaction() as connection:
                await set_consent(
                    connection,
                    project_id=app.key.project_id,
                    user_id=user_id,
                    purpose=purpose,
                    state=state,
                    source="test",
                    actor="system",
                    now=now,
                )
        await device.sign_in()
        said = await app.rows("SELECT user_id, purpose, state, source FROM consents ORDER BY purpose")
        assert said == [
            {"user_id": device.person, "purpose": "EMAIL", "state": "GRANTED", "source": "test"},
            {"user_id": device.person, "purpose": "PUSH", "state": "DENIED", "source": "device_takeover"},
        ]
        assert [(kind, who) for kind, who, _ in await app.events("consent.revoked")] == [
            ("consent.revoked", device.person)
        ]


async def test_memberships_end_with_a_change_and_runs_that_go_on_move(database_url: str) -> None:
    async with open_app(database_url) as app:
        device = await made(app)
        project_id, audience_id = app.key.project_id, uuid7()
        await app.rows(
            "INSERT INTO audience_members (project_id, audience_id, user_id, entered_at) VALUES ($1, $2, $3, now())",
            project_id,
            audience_id,
            device.anonymous,
        )
        await app.backend.data(
            """mutation { saveWorkflow(input: {name: "Journey", trigger: {eventType: "a.b"},
              steps: [{type: UPDATE_PROFILE, config: {traits: {a: 1}}}]}) { userErrors { message path } } }"""
        )
        [version] = await app.rows("SELECT workflow_id, version FROM workflow_versions")
        for status in ("RUNNING", "COMPLETED"):
            await app.rows(
                """INSERT INTO workflow_runs
                  (project_id, run_id, workflow_id, version, status, user_id, step, started_at)
                VALUES ($1, gen_random_uuid(), $2, $3, $4, $5, 0, now())""",
                project_id,
                version["workflow_id"],
                version["version"],
                status,
                device.anonymous,
            )
        await device.sign_in()
        await device.is_gone()
        changes = await app.rows("SELECT audience_id, user_id, entered FROM audience_changes")
        assert changes == [{"audience_id": audience_id, "user_id": device.anonymous, "entered": False}]
        runs = await app.rows("SELECT status, user_id FROM workflow_runs ORDER BY status")
        assert runs == [
            {"status": "COMPLETED", "user_id": device.anonymous},
            {"status": "RUNNING", "user_id": device.person},
        ]


def test_funnels_that_are_followed_are_counted_anew() -> None:
    class Funnel:
        may_differ = asyncio.Event()

    lane, funnel = _FollowedLane(), Funnel()
    lane.add(funnel, [])  # type: ignore[arg-type]
    at = datetime(2026, 5, 1, tzinfo=UTC)
    event = EventRecord(
        UUID(int=1), 1, "k", "auth", "auth.device_takeover", at, at, "ann", None, msgspec.Raw(b"{}"), msgspec.Raw(b"{}")
    )
    lane.advance([event], 1)
    assert funnel.may_differ.is_set()


# Pushes.


@asynccontextmanager
async def open_world(database_url: str) -> AsyncIterator[tuple[App, Dispatcher, FcmPeer]]:
    egress = Egress(allowed="127.0.0.0/8")
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(open_app(database_url, egress=egress))
        firebase = await stack.enter_async_context(FcmPeer())
        http = HttpClient(egress)
        stack.push_async_callback(http.close)
        services = app.gateway.services
        nowhere: Any = Nowhere()
        work = PushWork(
            services.vault, contact="mailto:ops@shop.example", apns=nowhere, fcm=FcmSender(http), web_push=nowhere
        )
        stack.push_async_callback(work.close)
        dispatcher = Dispatcher(services.database, {Channel.PUSH: work}, services.clock, services.announce)
        stack.push_async_callback(dispatcher.stop, timedelta(seconds=1))
        account = {"serviceAccount": firebase.service_account}
        await app.backend.data(CONFIGURE, settings={"endpoint": firebase.url}, secrets=account)
        yield app, dispatcher, firebase


class Nowhere:
    """Push services that these tests have no devices of."""

    async def close(self) -> None:
        return


async def test_what_was_queued_for_the_anonymous_user_is_not_shown_to_the_person(database_url: str) -> None:
    async with open_world(database_url) as (app, dispatcher, firebase):
        device = await made(app)
        await app.backend.data(SEND, userIds=[device.anonymous], title="for the anonymous user")
        await device.sign_in()
        await app.backend.data(SEND, userIds=[device.person], title="for the person")
        await dispatcher.drain(app.key.project_id)
        await dispatcher.settled()
        assert [each["notification"]["title"] for each in firebase.accepted] == ["for the person"]
        found = await app.rows("SELECT user_id, status, suppressed_reason FROM deliveries ORDER BY delivery_id")
        assert found == [
            {"user_id": device.anonymous, "status": "SUPPRESSED", "suppressed_reason": "ERASED"},
            {"user_id": device.person, "status": "SENT", "suppressed_reason": None},
        ]


async def test_of_all_who_had_a_device_one_after_the_other_the_last_gets_what_is_theirs(database_url: str) -> None:
    """Ann signs in on it, signs out, and Bob signs in; something is queued for each of the four."""
    async with open_world(database_url) as (app, dispatcher, firebase):
        device = await made(app)
        people = [device.anonymous, device.person]
        await app.backend.data(SEND, userIds=[device.anonymous], title="0")
        ann = await device.sign_in()
        await app.backend.data(SEND, userIds=[device.person], title="1")
        await app.sign_out(ann["session"]["refreshToken"])

        people.append((await app.sign_up("bob@example.com"))["session"]["userId"])
        anonymous = (await app.anonymous(deviceId="phone"))["session"]
        people.insert(2, anonymous["userId"])
        await app.key.data(REGISTER, token=DEVICE, userId=anonymous["userId"])
        await app.backend.data(SEND, userIds=[anonymous["userId"]], title="2")
        bob = await app.sign_in("bob@example.com", anonymousRefreshToken=anonymous["refreshToken"])
        assert (bob["retiredAnonUserId"], bob["session"]["userId"]) == (people[2], people[3])
        await app.backend.data(SEND, userIds=[people[3]], title="3")

        await dispatcher.drain(app.key.project_id)
        await dispatcher.settled()
        assert [each["notification"]["title"] for each in firebase.accepted] == ["3"]
        found = await app.rows("SELECT user_id, status, suppressed_reason FROM deliveries ORDER BY delivery_id")
        assert [tuple(each.values()) for each in found] == [
            (people[0], "SUPPRESSED", "ERASED"),
            (people[1], "SUPPRESSED", "NO_TOKENS"),
            (people[2], "SUPPRESSED", "ERASED"),
            (people[3], "SENT", None),
        ]
        links = await app.rows("SELECT alias, user_id FROM identity_links ORDER BY linked_seq")
        assert [tuple(each.values()) for each in links] == [(people[0], people[1]), (people[2], people[3])]


async def test_a_send_that_reached_the_device_before_does_not_come_again_for_the_person(database_url: str) -> None:
    """Both may be in an audience, whose pages are planned one after the other."""
    async with open_world(database_url) as (app, dispatcher, firebase):
        device = await made(app)
        await app.backend.data(SEND, userIds=[device.anonymous], title="for the audience")
        await dispatcher.drain(app.key.project_id)
        await dispatcher.settled()
        await device.sign_in()
        for title in ("for the audience", "for the person"):
            await app.backend.data(SEND, userIds=[device.person], title=title)
        await app.rows(
            """UPDATE deliveries SET batch_id = (SELECT batch_id FROM deliveries ORDER BY delivery_id LIMIT 1)
            WHERE CAST(content AS text) LIKE '%for the audience%'"""
        )
        await dispatcher.drain(app.key.project_id)
        await dispatcher.settled()
        assert [each["notification"]["title"] for each in firebase.accepted] == ["for the audience", "for the person"]
        found = await app.rows("SELECT status, suppressed_reason, error_code FROM deliveries ORDER BY delivery_id")
        assert found == [
            {"status": "SENT", "suppressed_reason": None, "error_code": None},
            {"status": "SUPPRESSED", "suppressed_reason": "NO_TOKENS", "error_code": "DeviceHasIt"},
            {"status": "SENT", "suppressed_reason": None, "error_code": None},
        ]


async def test_a_push_that_is_under_way_is_waited_for_and_not_repeated(database_url: str) -> None:
    """The push service has it and asks for another try: by then the device is somebody else's."""
    async with open_world(database_url) as (app, dispatcher, firebase):
        device = await made(app)
        firebase.scripts[DEVICE] = [Answer(503, "UNAVAILABLE", headers=(("Retry-After", "1"),))]
        firebase.token_gate = asyncio.Event()
        await app.backend.data(SEND, userIds=[device.anonymous], title="for the anonymous user")
        draining = asyncio.create_task(dispatcher.drain(app.key.project_id))
        await firebase.token_arrivals(1)
        signing_in = asyncio.create_task(device.sign_in())
        await asyncio.sleep(0)
        firebase.token_gate.set()
        answer = await signing_in
        assert answer["retiredAnonUserId"] == device.anonymous
        await draining
        await dispatcher.settled()
        app.gateway.services.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]
        await dispatcher.drain(app.key.project_id)
        await dispatcher.settled()
        assert firebase.accepted == []
        [delivery] = await app.rows("SELECT status, suppressed_reason FROM deliveries")
        assert delivery == {"status": "SUPPRESSED", "suppressed_reason": "ERASED"}


async def test_a_device_that_is_registered_for_somebody_else_waits_for_what_is_under_way(database_url: str) -> None:
    async with open_world(database_url) as (app, dispatcher, firebase):
        device = await made(app)
        firebase.token_gate = asyncio.Event()
        await app.backend.data(SEND, userIds=[device.anonymous], title="for the anonymous user")
        draining = asyncio.create_task(dispatcher.drain(app.key.project_id))
        await firebase.token_arrivals(1)
        registering = asyncio.create_task(app.key.data(REGISTER, token=DEVICE, userId="bob"))
        _, waiting = await asyncio.wait([registering], timeout=0.2)
        assert waiting
        firebase.token_gate.set()
        assert (await registering)["registerPushToken"]["userErrors"] == []
        await draining
        await dispatcher.settled()
        assert [each["status"] for each in await app.rows("SELECT status FROM deliveries")] == ["SENT"]
        [token] = await app.rows("SELECT user_id, owner_generation FROM push_tokens")
        assert token == {"user_id": "bob", "owner_generation": 2}


async def test_a_push_service_that_hangs_holds_nobody_up(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.push.in_flight.PATIENCE", timedelta(milliseconds=100))
    async with open_world(database_url) as (app, dispatcher, firebase):
        device = await made(app)
        firebase.token_gate = asyncio.Event()
        await app.backend.data(SEND, userIds=[device.anonymous], title="for the anonymous user")
        draining = asyncio.create_task(dispatcher.drain(app.key.project_id))
        await firebase.token_arrivals(1)
        async with asyncio.timeout(5):
            assert (await device.sign_in())["retiredAnonUserId"] == device.anonymous
        firebase.token_gate.set()
        await draining
        await dispatcher.settled()


async def test_what_was_lined_up_for_long_is_looked_at_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first push occupies the only place of the lane while the device changes hands; the second is given back."""
    monkeypatch.setattr("engine.dispatch.dispatcher.OWNER_SURE_SECONDS", -1.0)
    monkeypatch.setattr("engine.push.in_flight.PATIENCE", timedelta(0))
    async with open_world(database_url) as (app, dispatcher, firebase):
        device = await made(app)
        is_asked, may_go_on = asyncio.Event(), asyncio.Event()
        owned = dispatcher._is_still_owned

        async def wait_first(*arguments: Any) -> bool:
            is_asked.set()
            await may_go_on.wait()
            return await owned(*arguments)

        monkeypatch.setattr(dispatcher, "_is_still_owned", wait_first)
        await app.backend.data(SEND, userIds=[device.anonymous], title="for the anonymous user")
        draining = asyncio.create_task(dispatcher.drain(app.key.project_id))
        await is_asked.wait()
        await device.sign_in()
        may_go_on.set()
        await draining
        await dispatcher.settled()
        await dispatcher.drain(app.key.project_id)
        await dispatcher.settled()
        assert firebase.accepted == []
        [delivery] = await app.rows("SELECT status, suppressed_reason, attempt_count FROM deliveries")
        assert delivery == {"status": "SUPPRESSED", "suppressed_reason": "ERASED", "attempt_count": 0}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    attempts=st.integers(1, 3),
    before=st.integers(0, 3),
    pauses=st.lists(st.integers(0, 20), min_size=6, max_size=6),
    answers=st.lists(st.sampled_from([200, 503]), max_size=3),
)
async def test_nobody_gets_what_is_another_ones_and_nobody_gets_it_twice(
    module_database_url: str, attempts: int, before: int, pauses: list[int], answers: list[int]
) -> None:
    """Sign-ins with one token at once, while pushes to both are made and sent by a real dispatcher."""
    async with open_world(module_database_url) as (app, dispatcher, firebase):
        device = await made(app)
        project_id = app.key.project_id
        firebase.scripts[DEVICE] = [Answer(status, "UNAVAILABLE") for status in answers if status != 200]
        taken_over: list[int] = []

        async def send(number: int) -> None:
            await asyncio.sleep(pauses[number] / 1000)
            await app.backend.data(SEND, userIds=[device.anonymous], title=f"anonymous {number}")
            await app.backend.data(SEND, userIds=[device.person], title=f"person {number}")
            await dispatcher.drain(project_id)

        async def sign_in(number: int) -> Any:
            await asyncio.sleep(pauses[3 + number] / 1000)
            answer = await device.sign_in()
            taken_over.append(len(firebase.accepted))
            return answer

        found = await asyncio.gather(
            *(send(number) for number in range(before)), *(sign_in(number) for number in range(attempts))
        )
        for _ in range(3):
            await dispatcher.drain(project_id)
            await dispatcher.settled()
            app.gateway.services.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]
        answered = [each for each in found if each is not None]
        assert {each["retiredAnonUserId"] for each in answered} == {device.anonymous}
        assert len({each["retiredProfileId"] for each in answered}) == 1
        titles = [each["notification"]["title"] for each in firebase.accepted]
        assert len(titles) == len(set(titles))
        assert not [title for title in titles[min(taken_over) :] if title.startswith("anonymous")]
        assert len(await app.events("auth.device_takeover")) == 1
        assert len(await app.ended_sessions()) >= 1
        await device.is_gone()
        [token] = await app.rows("SELECT user_id, owner_generation FROM push_tokens WHERE project_id = $1", project_id)
        assert token == {"user_id": device.person, "owner_generation": 2}
