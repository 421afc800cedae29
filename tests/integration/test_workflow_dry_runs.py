"""Trying workflows through the API: what they would do with the people, accounts and devices that a project has."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from db.suppressions import NewSuppression, insert_suppressions
from engine.consent import ConsentPurpose, ConsentState, set_consent
from engine.node_ids import NodeKind, write_node_id
from engine.workflows import dry_run
from engine.workflows.dry_run import MAX_SHOWN_STEPS
from tests.integration.graphql_support import Tenant, open_gateway
from tests.peers.fcm import FcmPeer

TRY = """mutation ($input: TestRunWorkflowInput!) { testRunWorkflow(input: $input) {
  matched status
  trace { label type outcome outcomeCode detail startedAt finishedAt input output delivery { id } }
  userErrors { code path message }
} }"""
IDENTIFY = "mutation ($input: IdentifyInput!) { identify(input: $input) { userErrors { code } } }"
TRACK = "mutation ($input: TrackInput!) { track(input: $input) { userErrors { code } } }"
CONFIGURE = """mutation ($input: ConfigureProviderInput!) {
  configureProvider(input: $input) { userErrors { path message } }
}"""
REGISTER = """mutation ($input: RegisterPushTokenInput!) {
  registerPushToken(input: $input) { pushToken { id } userErrors { path message } }
}"""
SETTINGS = """mutation ($input: PushSettingsInput!) {
  updatePushSettings(input: $input) { userErrors { path message } }
}"""
SAVE_TEMPLATE = """mutation ($input: SaveTemplateInput!) {
  saveTemplate(input: $input) { template { id } userErrors { message } }
}"""
ADD_DOMAIN = 'mutation { addSenderDomain(domain: "shop.example") { senderDomain { id } userErrors { code } } }'

EMAIL = {"type": "SEND_EMAIL", "config": {"to": "{{ user.email }}", "subject": "Hi {{ user.name }}", "bodyText": "b"}}
PUSH = {"type": "SEND_PUSH", "config": {"title": "Hi {{ user.name }}", "body": "{{ event.orderId }} is on its way"}}
SMS = {"type": "SEND_SMS", "config": {"body": "Hi {{ user.name }}"}}
DAY = 24 * 60


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[Tenant]:
    """A project that can send on every channel, and Ada, who can be reached on all of them."""
    async with open_gateway(database_url) as gateway:
        tenant = await gateway.tenant()
        traits = {"name": "Ada", "email": "ada@example.org", "phone": "+14155550132", "plan": "pro"}
        await tenant.data(IDENTIFY, input={"userId": "ada", "traits": traits})
        await configure(tenant, "RESEND", {"from": "Shop <hi@shop.example>"}, {"apiKey": "re_test"})
        await configure(
            tenant, "TWILIO", {"accountSid": f"AC{'0' * 32}", "from": "+14155550100"}, {"authToken": "t" * 32}
        )
        account = {**json.loads(FcmPeer().service_account), "token_uri": "https://oauth2.googleapis.com/token"}
        await configure(tenant, "FCM", {}, {"serviceAccount": account})
        await tenant.data(ADD_DOMAIN)
        await execute(tenant, "UPDATE sender_domains SET status = 'VERIFIED' WHERE project_id = $1")
        registered = await tenant.data(REGISTER, input={"platform": "ANDROID", "token": "t" * 140, "userId": "ada"})
        assert registered["registerPushToken"]["userErrors"] == []
        yield tenant


async def configure(tenant: Tenant, kind: str, settings: dict[str, Any], secrets: dict[str, Any]) -> None:
    given = {"kind": kind, "settings": settings, "secrets": secrets}
    assert (await tenant.data(CONFIGURE, input=given))["configureProvider"]["userErrors"] == []


async def execute(tenant: Tenant, statement: str) -> None:
    async with tenant.gateway.services.database.connection() as connection:
        await connection.execute(statement, project_id(tenant))


def project_id(tenant: Tenant) -> UUID:
    assert tenant.viewer is not None
    return tenant.viewer.project_id


def draft(*steps: dict[str, Any], **trigger: Any) -> dict[str, Any]:
    return {"name": "Journey", "trigger": {"eventType": "order.placed", **trigger}, "steps": list(steps)}


async def attempt(tenant: Tenant, workflow: dict[str, Any], **sample: Any) -> Any:
    given = {"draft": workflow, "eventType": "order.placed", "userId": "ada", **sample}
    return (await tenant.data(TRY, input=given))["testRunWorkflow"]


async def outcomes(tenant: Tenant, *steps: dict[str, Any], **sample: Any) -> list[tuple[str, str | None]]:
    result = await attempt(tenant, draft(*steps), **sample)
    assert result["userErrors"] == []
    return [(each["outcomeCode"], each["detail"]) for each in result["trace"]]


async def say(tenant: Tenant, purpose: ConsentPurpose, state: ConsentState) -> None:
    services = tenant.gateway.services
    async with services.database.transaction() as connection:
        await set_consent(
            connection,
            project_id=project_id(tenant),
            user_id="ada",
            purpose=purpose,
            state=state,
            source="test",
            actor="test",
            now=services.clock.now(),
        )


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def test_a_journey_across_channels_is_shown_in_virtual_time(shop: Tenant) -> None:
    wait = {"type": "WAIT", "config": {"reason": "let it settle"}}
    steps = [PUSH, {**wait, "delayMinutes": 60}, EMAIL, {**wait, "delayMinutes": 3 * DAY}, SMS]

    result = await attempt(shop, draft(*steps), properties={"orderId": "o1"})

    assert (result["matched"], result["status"], result["userErrors"]) == (True, "COMPLETED", [])
    trace = result["trace"]
    assert [(each["type"], each["outcome"], each["outcomeCode"]) for each in trace] == [
        ("SEND_PUSH", "SENT", "sent"),
        ("WAIT", "WAITED", "waited"),
        ("SEND_EMAIL", "SENT", "sent"),
        ("WAIT", "WAITED", "waited"),
        ("SEND_SMS", "SENT", "sent"),
    ]
    assert trace[0]["input"]["body"] == "o1 is on its way"
    assert trace[2]["input"] == {"to": "ada@example.org", "subject": "Hi Ada", "bodyText": "b"}
    assert trace[4]["input"] == {"to": "+14155550132", "body": "Hi Ada"}
    assert at(trace[4]["startedAt"]) - at(trace[0]["startedAt"]) == timedelta(days=3, hours=1)
    assert all(each["delivery"] is None for each in trace)


async def test_nothing_is_written_nothing_is_sent_and_nobody_is_woken(shop: Tenant) -> None:
    async def everything() -> dict[str, int]:
        async with shop.gateway.services.database.connection() as connection:
            tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            return {
                row["tablename"]: await connection.fetchval(f'SELECT count(*) FROM "{row["tablename"]}"')
                for row in tables
            }

    gateway = shop.gateway
    before, announced, woken = await everything(), len(gateway.announced), len(gateway.woken)
    update = {"type": "UPDATE_PROFILE", "config": {"traits": {"plan": "free"}}}
    webhook = {"type": "WEBHOOK", "config": {"url": "https://api.example.com/x"}}

    result = await attempt(shop, draft(PUSH, EMAIL, SMS, webhook, update), userId="new", context={"traits": {"a": 1}})

    assert result["status"] == "COMPLETED"
    assert await everything() == before
    assert (len(gateway.announced), len(gateway.woken)) == (announced, woken)
    stored = await shop.data('{ profile(userId: "ada") { traits } }')
    assert stored["profile"]["traits"]["plan"] == "pro"


async def test_what_a_step_writes_is_what_later_steps_read(shop: Tenant) -> None:
    update = {
        "type": "UPDATE_PROFILE",
        "config": {"traits": {"plan": "free", "spent": "{{ event.amount }}", "name": None}},
    }
    branch = {
        "type": "BRANCH",
        "config": {"condition": {"trait": "spent", "op": "gt", "value": 40}, "ifTrue": "end", "ifFalse": "no"},
    }
    no = {"type": "WAIT", "label": "no", "delayMinutes": 1, "config": {}}

    result = await attempt(shop, draft(update, {**SMS, "next": "branch_1"}, branch, no), properties={"amount": 42.5})

    assert [each["outcome"] for each in result["trace"]] == ["OK", "SENT", "BRANCHED"]
    assert result["trace"][1]["input"]["body"] == "Hi"
    assert result["trace"][1]["detail"] == "Missing, and left empty: user.name."
    assert result["trace"][2]["output"] == {"result": True, "next": "end"}


async def test_an_event_that_does_not_match_starts_nothing(shop: Tenant) -> None:
    filters = [{"path": "event.properties.amount", "op": "GT", "value": 10}]

    assert (await attempt(shop, draft(SMS), eventType="order.refunded"))["matched"] is False
    small = await attempt(shop, draft(SMS, filters=filters), properties={"amount": 5})
    assert small == {"matched": False, "status": None, "trace": [], "userErrors": []}
    assert (await attempt(shop, draft(SMS, filters=filters), properties={"amount": 11}))["matched"] is True
    assert (await attempt(shop, draft(SMS, eventType="user.signed_up"), eventType="auth.signed_up"))["matched"] is True


async def test_counts_in_filters_count_the_event_itself(shop: Tenant) -> None:
    def nth(number: int) -> dict[str, Any]:
        return draft(SMS, filters=[{"events": {"eventType": "order.placed"}, "op": "EQ", "value": number}])

    assert (await attempt(shop, nth(1)))["matched"] is True
    await shop.data(TRACK, input={"event": {"eventType": "order.placed", "userId": "ada"}})
    assert (await attempt(shop, nth(1)))["matched"] is False
    assert (await attempt(shop, nth(2)))["matched"] is True
    assert (await attempt(shop, nth(1), userId="somebody new"))["matched"] is True


async def test_consent_decides_before_the_run_and_before_each_send(shop: Tenant) -> None:
    await say(shop, ConsentPurpose.SMS, ConsentState.REVOKED)
    held = "The person has not agreed to this channel. (CONSENT)"
    assert await outcomes(shop, SMS, EMAIL) == [("suppressed", held), ("sent", None)]

    await say(shop, ConsentPurpose.WORKFLOWS, ConsentState.DENIED)
    result = await attempt(shop, draft(SMS))
    assert (result["matched"], result["status"], result["trace"]) == (True, None, [])
    assert [(each["code"], each["path"]) for each in result["userErrors"]] == [("CONSENT", ["input", "userId"])]


async def test_suppressed_addresses_and_unverified_senders_get_nothing(shop: Tenant) -> None:
    services = shop.gateway.services
    async with services.database.transaction() as connection:
        await insert_suppressions(
            connection,
            project_id=project_id(shop),
            channel="EMAIL",
            suppressions=[NewSuppression("ada@example.org", "BOUNCED")],
            now=services.clock.now(),
        )
    other = {**EMAIL, "config": {**EMAIL["config"], "to": "Other@example.org"}}  # type: ignore[dict-item]
    foreign = {**other, "config": {**other["config"], "from": "me@elsewhere.example"}}  # type: ignore[dict-item]

    found = await outcomes(shop, EMAIL, other, foreign)

    assert [code for code, _ in found] == ["suppressed", "sent", "byod-required"]
    assert found[0][1] == "Mail to the address came back for good. (BOUNCED)"


async def test_a_mail_that_looks_like_phishing_is_blocked_as_it_would_be(shop: Tenant) -> None:
    body = '<p>Confirm your password: <a href="http://203.0.113.7/login">https://www.paypal.com/login</a></p>'
    phishing = {"type": "SEND_EMAIL", "config": {"to": "{{ user.email }}", "subject": "Account", "bodyHtml": body}}

    [(code, detail)] = await outcomes(shop, phishing)

    assert code == "suppressed"
    assert detail is not None
    assert detail.endswith("(BLOCKED_CONTENT)")


async def test_a_template_is_filled_in(shop: Tenant) -> None:
    given = {"name": "hello", "channel": "EMAIL", "subject": "Order {{ event.orderId }}", "bodyText": "{{ user.name }}"}
    template_id = (await shop.data(SAVE_TEMPLATE, input=given))["saveTemplate"]["template"]["id"]
    step = {"type": "SEND_EMAIL", "config": {"to": "{{ user.email }}", "templateId": template_id}}

    result = await attempt(shop, draft(step), properties={"orderId": "o9"})

    assert result["trace"][0]["outcome"] == "SENT"
    assert result["trace"][0]["input"]["subject"] == "Order o9"
    assert result["trace"][0]["input"]["bodyText"] == "Ada"


async def test_caps_count_what_the_run_itself_sent(shop: Tenant) -> None:
    await shop.data(SETTINGS, input={"freqCapPerUserPerHour": 1})

    again = {**PUSH, "delayMinutes": 61}
    found = await outcomes(shop, PUSH, PUSH, again, properties={"orderId": "o1"})

    assert [code for code, _ in found] == ["sent", "suppressed", "sent"]


async def test_quiet_hours_put_a_push_off_and_the_run_with_it(shop: Tenant) -> None:
    hour = shop.gateway.services.clock.now().hour
    quiet = {"quietHoursStartLocal": hour, "quietHoursEndLocal": (hour + 2) % 24, "deferInQuietHours": True}
    await shop.data(SETTINGS, input=quiet)

    result = await attempt(shop, draft(PUSH, SMS), properties={"orderId": "o1"})

    first, second = result["trace"]
    assert first["outcome"] == "SENT"
    assert timedelta(minutes=59) < at(first["finishedAt"]) - at(first["startedAt"]) <= timedelta(hours=2)
    assert second["startedAt"] == first["finishedAt"]


async def test_no_model_is_asked(shop: Tenant) -> None:
    step = {
        "type": "AI_ACTION",
        "config": {"flavor": "generate", "prompt": "For {{ user.name }}", "model": "llama3.2", "saveTo": "line"},
    }
    result = await attempt(shop, draft(step, {"type": "SEND_SMS", "config": {"body": "[{{ run.vars.line }}]"}}))

    asked, sent = result["trace"]
    assert asked["outcomeCode"] == "ai_unavailable"
    assert asked["detail"] == (
        "A dry run asks no model. A real run asks the model llama3.2 to generate; input has the prompt."
    )
    assert asked["input"]["prompt"] == "For Ada"
    assert sent["input"]["body"] == "[]"


async def test_a_long_run_is_shown_up_to_a_bound(shop: Tenant) -> None:
    daily = {"type": "WAIT", "label": "day", "delayMinutes": DAY, "next": "day", "config": {}}

    result = await attempt(shop, draft(daily))

    assert (len(result["trace"]), result["status"]) == (MAX_SHOWN_STEPS, "RUNNING")


async def test_a_run_whose_texts_take_too_long_is_shown_up_to_there(
    shop: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "MAX_CPU_SECONDS", 1e-9)

    result = await attempt(shop, draft(SMS, SMS))

    assert ([each["outcome"] for each in result["trace"]], result["status"]) == (["SENT"], "RUNNING")


@pytest.mark.parametrize(
    ("given", "code", "path"),
    [
        ({}, "INVALID", ["input", "workflowId"]),
        ({"workflowId": "wfl_x", "draft": draft(SMS)}, "INVALID", ["input", "workflowId"]),
        ({"workflowId": write_node_id(NodeKind.WORKFLOW, UUID(int=1))}, "NOT_FOUND", ["input", "workflowId"]),
        ({"draft": draft({**SMS, "config": {}})}, "INVALID", ["input", "draft", "steps", "0", "config", "body"]),
        ({"draft": draft(SMS), "properties": [1]}, "INVALID", ["input", "properties"]),
        ({"draft": draft(SMS), "eventType": "a*"}, "INVALID", ["input", "eventType"]),
        ({"draft": draft(SMS), "userId": ""}, "INVALID", ["input", "userId"]),
        (
            {"draft": draft(SMS, audienceId=write_node_id(NodeKind.AUDIENCE, UUID(int=1)))},
            "NOT_FOUND",
            ["input", "draft", "trigger", "audienceId"],
        ),
        (
            {
                "draft": draft(
                    {
                        "type": "SEND_EMAIL",
                        "config": {
                            "to": "a@example.org",
                            "templateId": write_node_id(NodeKind.TEMPLATE, UUID(int=1)),
                        },
                    }
                )
            },
            "NOT_FOUND",
            ["input", "draft", "steps", "0", "config", "templateId"],
        ),
    ],
)
async def test_what_cannot_be_tried_is_said_with_its_path(
    shop: Tenant, given: dict[str, Any], code: str, path: list[str]
) -> None:
    result = (await shop.data(TRY, input={"eventType": "order.placed", **given}))["testRunWorkflow"]

    assert [(each["code"], each["path"]) for each in result["userErrors"]] == [(code, path)]
    assert (result["matched"], result["status"], result["trace"]) == (False, None, [])


async def test_another_projects_people_and_templates_are_not_seen(shop: Tenant) -> None:
    given = {"name": "secret", "channel": "EMAIL", "subject": "s", "bodyText": "b"}
    template_id = (await shop.data(SAVE_TEMPLATE, input=given))["saveTemplate"]["template"]["id"]
    stranger = await shop.gateway.tenant("stranger")
    step = {"type": "SEND_EMAIL", "config": {"to": "a@example.org", "templateId": template_id}}

    refused = await attempt(stranger, draft(step))
    assert [each["code"] for each in refused["userErrors"]] == ["NOT_FOUND"]
    tried = await attempt(stranger, draft(SMS))
    assert tried["trace"][0]["input"]["to"] == ""
    assert "+14155550132" not in str(tried)
