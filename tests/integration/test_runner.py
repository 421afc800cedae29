"""Running workflows against a real PostgreSQL: what each step leaves in its run, its deliveries, and the log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from db.suppressions import NewSuppression, insert_suppressions
from db.workflow_runs import find_due_runs, find_projects_with_runs
from engine.audit import SYSTEM, Audit
from engine.channels.base import Rejected
from engine.consent import ConsentPurpose, ConsentState, set_consent
from engine.dispatch.values import Channel, DeliveryError, EmailContent, SmsContent, WebhookContent
from engine.node_ids import NodeKind, write_node_id
from engine.providers.configuring import configure_provider
from engine.providers.values import ProviderKind
from engine.work import Work, WorkKind
from engine.workflows import advancing
from engine.workflows.advancing import Budget
from engine.workflows.asking import LEASE
from engine.workflows.definitions import Definitions
from engine.workflows.rounds import Round, Tools
from engine.workflows.run_ledger import state_of
from engine.workflows.transition import MAX_DEPTH
from tests.integration.runner_support import EGRESS, VAULT, Shop, open_shop, people
from tests.peers.memory_channel import accept

WEBHOOK = {
    "type": "WEBHOOK",
    "label": "call",
    "config": {"url": "https://127.0.0.1/hook", "body": {"id": "{{ event.orderId }}"}},
}
SMS = {"type": "SEND_SMS", "label": "text", "config": {"body": "Hi {{ user.name }}, {{ run.workflow }}"}}
EMAIL = {
    "type": "SEND_EMAIL",
    "label": "mail",
    "config": {"to": "{{ user.email }}", "subject": "{{ event.orderId }}", "bodyText": "Hi {{ user.name }}"},
}
PUSH = {"type": "SEND_PUSH", "label": "push", "config": {"title": "Hi {{ user.name }}", "body": "there"}}
UPDATE = {"type": "UPDATE_PROFILE", "label": "mark", "config": {"traits": {"last": "{{ event.orderId }}"}}}
ANSWERED = {
    "type": "BRANCH",
    "label": "which",
    "config": {"condition": {"trait": "plan", "value": "pro"}, "ifTrue": "mark", "ifFalse": "end"},
}


def label_of(label: str, step: dict[str, Any]) -> dict[str, Any]:
    return {**step, "label": label}


def wait(minutes: float, label: str = "wait") -> dict[str, Any]:
    return {"type": "WAIT", "label": label, "config": {}, "delayMinutes": minutes}


@pytest.fixture
async def shop(module_database_url: str) -> AsyncIterator[Shop]:
    """A project in which Ada can be reached by mail and text, and has two devices."""
    async with open_shop(module_database_url) as shop:
        await shop.person("ada", name="Ada", email="ada@example.org", phone="+14155550132", plan="pro")
        yield shop


async def configure(shop: Shop) -> None:
    """Accounts for mail and text messages, and a domain to send from."""
    settings: dict[ProviderKind, tuple[dict[str, Any], dict[str, Any]]] = {
        ProviderKind.RESEND: ({"from": "Shop <hi@shop.example>"}, {"apiKey": "re_test"}),
        ProviderKind.TWILIO: ({"accountSid": f"AC{'0' * 32}", "from": "+14155550100"}, {"authToken": "t" * 32}),
    }
    for kind, (known, secrets) in settings.items():
        _, errors = await configure_provider(
            shop.database,
            VAULT,
            EGRESS,
            project_id=shop.project_id,
            kind=kind,
            settings=known,
            secrets=secrets,
            audit=Audit(SYSTEM, shop.clock.now()),
        )
        assert errors == ()
    await shop.fetch(
        "INSERT INTO sender_domains (project_id, sender_domain_id, domain, status, dkim_selector, dkim_public_key,"
        " sealed_dkim_private_key, created_at)"
        " VALUES ($1, gen_random_uuid(), 'shop.example', 'VERIFIED', 's', 'k', '\\x00', now())"
    )


async def add_devices(shop: Shop, count: int, user_id: str = "ada") -> None:
    await shop.fetch(
        "INSERT INTO push_tokens (project_id, push_token_id, platform, environment, token, user_id, registered_at)"
        " SELECT $1, gen_random_uuid(), 'ANDROID', 'PRODUCTION', 'token-' || n, $2, now()"
        " FROM generate_series(1, $3::integer) AS n",
        user_id,
        count,
    )


async def test_steps_that_wait_for_nothing_are_done_in_one_round(shop: Shop) -> None:
    run_id = await shop.begin(ANSWERED, UPDATE, orderId="o1")

    await shop.drain()

    run = await shop.run(run_id)
    assert (run.status, run.claim_at, run.next_step_at, run.step) == ("COMPLETED", None, None, -1)
    assert run.finished_at == shop.clock.now()
    assert await shop.outcomes(run_id) == [("which", "branched"), ("mark", "ok")]
    assert await shop.updates(run_id) == [
        ("RUNNING", None, None),
        ("RUNNING", "which", "BRANCHED"),
        ("COMPLETED", "mark", "OK"),
    ]
    assert (await shop.traits("ada"))["last"] == "o1"


async def test_what_a_run_did_is_in_the_log_with_its_cause_and_depth(shop: Shop) -> None:
    run_id = await shop.begin(ANSWERED, UPDATE, orderId="o1")

    await shop.drain()

    events = await shop.events(
        "automation.run_started", "automation.step_completed", "profile.updated", "automation.run_completed"
    )
    assert [each.event_type for each in events] == [
        "automation.run_started",
        "automation.step_completed",
        "profile.updated",
        "automation.step_completed",
        "automation.run_completed",
    ]
    node_id = write_node_id(NodeKind.WORKFLOW_RUN, run_id)
    for event in events:
        context = msgspec.json.decode(event.context)
        assert (context["cause"], context["depth"], event.module, event.user_id) == (node_id, 1, "automation", "ada")
        assert msgspec.json.decode(event.properties)["runId"] == node_id
    assert msgspec.json.decode(events[2].context)["traits"] == {"last": "o1"}
    assert msgspec.json.decode(events[3].properties)["outcome"] == "ok"


async def test_a_wait_is_a_row_that_is_due_in_days(shop: Shop) -> None:
    run_id = await shop.begin(wait(3 * 24 * 60), UPDATE, orderId="o1")

    await shop.drain()
    waiting = await shop.run(run_id)
    shop.clock.advance(days=3, seconds=-1)
    await shop.drain()
    early = await shop.run(run_id)
    async with shop.database.connection() as connection:
        before = await find_projects_with_runs(connection, now=shop.clock.now())
        shop.clock.advance(seconds=1)
        after = await find_projects_with_runs(connection, now=shop.clock.now())
    await shop.drain()

    assert waiting == early
    assert waiting.claim_at == waiting.next_step_at == waiting.started_at + timedelta(days=3)
    assert (shop.project_id in before, shop.project_id in after) == (False, True)
    assert await shop.outcomes(run_id) == [("wait", "waited"), ("mark", "ok")]
    assert await shop.updates(run_id) == [
        ("RUNNING", None, None),
        ("RUNNING", "wait", None),
        ("RUNNING", "wait", "WAITED"),
        ("COMPLETED", "mark", "OK"),
    ]


async def test_a_mail_is_a_delivery_whose_outcome_is_its_steps(shop: Shop) -> None:
    await configure(shop)
    run_id = await shop.begin(EMAIL, UPDATE, orderId="o1")

    await shop.drain()
    (made,) = await shop.deliveries(run_id)
    open_step = await shop.outcomes(run_id)
    waiting = await shop.run(run_id)
    await shop.send()
    assert Work(WorkKind.RUNS, shop.project_id) in shop.woken
    await shop.drain()

    assert (made["status"], made["recipient"], made["user_id"]) == ("QUEUED", "ada@example.org", "ada")
    assert (made["workflow_id"], made["workflow_step_number"]) == (waiting.workflow_id, 1)
    assert (made["event_seq"], made["event_type"]) == (waiting.event_seq, "order.placed")
    content = msgspec.json.decode(made["content"], type=EmailContent)
    assert (content.subject, content.body_text) == ("{{ event.orderId }}", "Hi {{ user.name }}")
    assert content.vars["run"]["id"] == write_node_id(NodeKind.WORKFLOW_RUN, run_id)
    assert open_step == [("mail", None)]
    assert (waiting.status, waiting.claim_at, waiting.next_step_at) == ("RUNNING", None, None)
    assert Work(WorkKind.DELIVERIES, shop.project_id) in shop.woken
    assert await shop.outcomes(run_id) == [("mail", "sent"), ("mark", "ok")]
    assert (await shop.run(run_id)).status == "COMPLETED"


async def test_a_text_message_goes_to_the_persons_number(shop: Shop) -> None:
    await configure(shop)
    run_id = await shop.begin(SMS)

    await shop.settle()

    (made,) = await shop.deliveries(run_id)
    content = msgspec.json.decode(made["content"], type=SmsContent)
    assert (made["channel"], made["recipient"], made["status"]) == ("SMS", "+14155550132", "SENT")
    assert content.body == "Hi {{ user.name }}, {{ run.workflow }}"
    assert content.vars["run"]["workflow"].startswith("Journey")
    assert await shop.outcomes(run_id) == [("text", "sent")]


async def test_a_push_goes_to_all_devices_and_ends_with_the_last(shop: Shop) -> None:
    await add_devices(shop, 2)
    run_id = await shop.begin(PUSH)

    await shop.drain()
    made = await shop.deliveries(run_id)
    shop.channels[Channel.PUSH].script = lambda message: (
        Rejected(error=DeliveryError("UNREGISTERED", "Gone.", permanent=True))
        if message.key == made[0]["delivery_id"]
        else accept(message)
    )
    await shop.settle()

    assert [each["workflow_step_number"] for each in made] == [1, 1]
    assert len({each["push_token_id"] for each in made}) == 2
    assert {each["status"] for each in await shop.deliveries(run_id)} == {"FAILED", "SENT"}
    assert await shop.outcomes(run_id) == [("push", "sent")]
    assert (await shop.run(run_id)).status == "COMPLETED"


async def test_a_webhook_carries_its_body_and_an_id_of_its_own(shop: Shop) -> None:
    bare = {"type": "WEBHOOK", "label": "bare", "config": {"url": "https://127.0.0.1/hook"}}
    run_id = await shop.begin(WEBHOOK, bare, orderId="o1")

    await shop.settle()

    first, second = [
        msgspec.json.decode(each["content"], type=WebhookContent) for each in await shop.deliveries(run_id)
    ]
    node_id = write_node_id(NodeKind.WORKFLOW_RUN, run_id)
    assert (first.event_id, first.body, first.url) == (f"{node_id}_1", '{"id":"o1"}', "https://127.0.0.1/hook")
    assert second.event_id == f"{node_id}_2"
    assert msgspec.json.decode(second.body)["data"]["properties"] == {"orderId": "o1"}
    assert first.sealed_secret is None
    assert await shop.outcomes(run_id) == [("call", "sent"), ("bare", "sent")]


async def test_what_a_provider_refuses_is_the_steps_error_and_the_run_goes_on(shop: Shop) -> None:
    shop.channels[Channel.WEBHOOK].script = lambda _message: Rejected(
        error=DeliveryError("HTTP_400", "The receiver refused it.", permanent=True)
    )
    run_id = await shop.begin(WEBHOOK, UPDATE, orderId="o1")

    await shop.settle()

    assert await shop.outcomes(run_id) == [("call", "error"), ("mark", "ok")]
    assert (await shop.trace(run_id))[0].detail == "The receiver refused it. (HTTP_400)"


async def test_what_cannot_be_sent_makes_no_delivery_and_the_run_goes_on_at_once(shop: Shop) -> None:
    run_id = await shop.begin(EMAIL, SMS, PUSH, UPDATE, orderId="o1")

    await shop.drain()

    assert await shop.outcomes(run_id) == [
        ("mail", "skipped-missing-config"),
        ("text", "skipped-missing-config"),
        ("push", "suppressed"),
        ("mark", "ok"),
    ]
    assert await shop.deliveries(run_id) == []


async def test_consent_suppressions_and_caps_are_those_of_the_round(shop: Shop) -> None:
    await configure(shop)
    await add_devices(shop, 1)
    await shop.fetch("INSERT INTO push_settings (project_id, freq_cap_per_user_per_day) VALUES ($1, 1)")
    async with shop.database.transaction() as connection:
        held = [NewSuppression("ada@example.org", "BOUNCED")]
        await insert_suppressions(
            connection, project_id=shop.project_id, channel=Channel.EMAIL, suppressions=held, now=shop.clock.now()
        )
        await set_consent(
            connection,
            project_id=shop.project_id,
            user_id="ada",
            purpose=ConsentPurpose.SMS,
            state=ConsentState.REVOKED,
            source="test",
            actor="test",
            now=shop.clock.now(),
        )
    workflow_id = await shop.workflow(EMAIL, SMS, PUSH)
    runs = await shop.start(workflow_id, ["ada", "ada"], event_seq=await shop.track(orderId="o1"))

    await shop.settle()

    outcomes = [await shop.outcomes(run_id) for run_id in runs]
    assert [each[:2] for each in outcomes] == [[("mail", "suppressed"), ("text", "suppressed")]] * 2
    assert [each[2] for each in outcomes] == [("push", "sent"), ("push", "suppressed")]
    assert "(FREQUENCY_CAP)" in ((await shop.trace(runs[1]))[2].detail or "")


async def test_somebody_who_was_erased_is_not_brought_back(shop: Shop) -> None:
    run_id = await shop.begin(wait(60), UPDATE, SMS, WEBHOOK, orderId="o1")
    await shop.drain()
    await shop.fetch("DELETE FROM profiles WHERE project_id = $1 AND user_id = 'ada'")

    shop.clock.advance(hours=1)
    await shop.settle()

    assert await shop.outcomes(run_id) == [
        ("wait", "waited"),
        ("mark", "suppressed"),
        ("text", "skipped-missing-config"),
        ("call", "sent"),
    ]
    assert await shop.fetch("SELECT FROM profiles WHERE project_id = $1 AND user_id = 'ada'") == []
    completed = await shop.events("automation.run_completed")
    assert [each.user_id for each in completed] == [None]
    assert [each["user_id"] for each in await shop.deliveries(run_id)] == [None]


async def test_a_run_of_nobody_does_what_needs_nobody(shop: Shop) -> None:
    run_id = await shop.begin(UPDATE, WEBHOOK, user_id=None, orderId="o1")

    await shop.settle()

    assert await shop.outcomes(run_id) == [("mark", "skipped-missing-config"), ("call", "sent")]


async def test_what_a_merge_changed_is_what_the_next_step_sees(shop: Shop) -> None:
    update = {"type": "UPDATE_PROFILE", "label": "down", "config": {"traits": {"plan": "free"}}}
    run_id = await shop.begin(update, ANSWERED, UPDATE)

    await shop.drain()

    assert await shop.outcomes(run_id) == [("down", "ok"), ("which", "branched")]
    assert (await shop.traits("ada"))["plan"] == "free"


async def test_a_step_that_cannot_go_on_fails_its_run_with_a_sentence(shop: Shop) -> None:
    broken = {
        "type": "SEND_SMS",
        "label": "text",
        "config": {"body": "x", "to": "{% for a in (1..20000) %}{{ a }}{% endfor %}"},
    }
    run_id = await shop.begin(broken, UPDATE)

    await shop.drain()

    run = await shop.run(run_id)
    assert (run.status, run.claim_at) == ("FAILED", None)
    assert (run.error or "").startswith("Step text: The template")
    assert (await shop.updates(run_id))[-1] == ("FAILED", "text", "ERROR")
    (event,) = await shop.events("automation.run_failed")
    assert msgspec.json.decode(event.properties)["error"] == run.error


async def test_five_failed_runs_in_a_row_are_told_once_and_anew_after_a_success(shop: Shop) -> None:
    broken = {
        "type": "SEND_SMS",
        "label": "text",
        "config": {"body": "x", "to": "{% for a in (1..20000) %}{{ a }}{% endfor %}"},
    }
    check = {
        **ANSWERED,
        "config": {
            **ANSWERED["config"],
            "condition": {"event": "ok", "value": True},
            "ifTrue": "end",
            "ifFalse": "text",
        },
    }
    workflow_id = await shop.workflow(check, broken)
    bad, good = await shop.track(ok=False), await shop.track(ok=True)

    async def fail(times: int) -> int:
        for _ in range(times):
            await shop.start(workflow_id, ["ada"], event_seq=bad)
            await shop.drain()
        return len(await shop.events("automation.promote_failed"))

    told = [await fail(4), await fail(1), await fail(5)]
    await shop.start(workflow_id, ["ada"], event_seq=good)
    await shop.drain()
    told += [await fail(4), await fail(1)]

    assert told == [0, 1, 1, 1, 2]
    event = (await shop.events("automation.promote_failed"))[0]
    assert msgspec.json.decode(event.properties)["consecutiveFailures"] == 5
    assert event.user_id is None


async def test_depth_travels_from_the_run_to_its_events_and_deliveries(shop: Shop) -> None:
    workflow_id = await shop.workflow(WEBHOOK)
    (run_id,) = await shop.start(workflow_id, depth=MAX_DEPTH, event_seq=await shop.track(orderId="o1"))

    await shop.settle()

    assert [each["depth"] for each in await shop.deliveries(run_id)] == [MAX_DEPTH]
    (event,) = await shop.events("automation.run_completed")
    assert msgspec.json.decode(event.context)["depth"] == MAX_DEPTH + 1


async def test_a_run_that_is_too_deep_fails_before_its_first_step(shop: Shop) -> None:
    workflow_id = await shop.workflow(WEBHOOK)
    (run_id,) = await shop.start(workflow_id, depth=MAX_DEPTH + 1)

    await shop.drain()

    run = await shop.run(run_id)
    assert (run.status, run.claim_at, await shop.trace(run_id)) == ("FAILED", None, [])


async def test_a_state_survives_its_row(shop: Shop) -> None:
    shop.models.script = lambda _effect: (_ for _ in ()).throw(OSError())
    ask = {"type": "AI_ACTION", "label": "ask", "config": {"flavor": "decide", "prompt": "?", "saveTo": "said"}}
    run_id = await shop.begin(ask)
    await shop.drain()

    run = await shop.run(run_id)

    state = state_of(run)
    assert state.open_trace is not None
    assert state.open_trace.outcome == "AI_PENDING"
    assert (state.asked, state.steps_made, state.vars) == (1, 1, {})


async def test_a_rounds_time_ends_between_two_decisions(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advancing, "MAX_ROUND_DECISIONS", 3)
    workflow_id = await shop.workflow(ANSWERED, UPDATE, WEBHOOK)
    runs = await shop.start(workflow_id, ["ada"] * 3, event_seq=await shop.track(orderId="o1"))

    await shop.settle()

    for run_id in runs:
        assert await shop.outcomes(run_id) == [("which", "branched"), ("mark", "ok"), ("call", "sent")]


async def test_many_runs_take_as_many_statements_as_few(shop: Shop) -> None:
    await configure(shop)
    await shop.person(*people(60), email="x@example.org", phone="+14155550132", plan="pro")
    await add_devices(shop, 1, "user-0001")
    workflow_id = await shop.workflow(ANSWERED, EMAIL, label_of("mark", wait(0)), SMS, PUSH)
    push_id = await shop.workflow(PUSH, name="Pushes")
    seq = await shop.track(orderId="o1")
    tools = Tools(vault=VAULT, definitions=Definitions(), refuse_url=EGRESS.refusal, lease=LEASE)

    async def statements(count: int) -> int:
        for each in (workflow_id, push_id):
            await shop.start(each, people(count), event_seq=seq)
        made: list[Any] = []
        async with shop.database.transaction() as connection:
            due = await find_due_runs(connection, project_id=shop.project_id, now=shop.clock.now(), limit=1_000)
            current = Round(connection, tools, project_id=shop.project_id, now=shop.clock.now())
            with connection.query_logger(made.append):
                done = await current.carry_on(due, Budget())
        assert done.runs == 2 * count
        return len(made)

    first, few, many = [await statements(count) for count in (1, 3, 60)]

    assert first > few == many
