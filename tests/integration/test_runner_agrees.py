"""A dry run shows what a real run does: the same trace, for any steps, person and event; and so is what is sent."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from db.database import Database
from db.deliveries import read_deliveries
from db.delivery_records import DeliveryRecord
from db.projects import read_project
from engine.channels.base import Ready
from engine.channels.http import HttpClient
from engine.consent import ConsentPurpose, ConsentState, set_consent
from engine.node_ids import NodeKind, write_node_id
from engine.sms.work import SmsWork
from engine.workflows.dry_run import SampleEvent, dry_run
from engine.workflows.state import StepTrace
from tests.integration.runner_support import EGRESS, VAULT, Shop, open_shop
from tests.integration.test_runner import add_devices, configure

CONDITIONS = st.sampled_from(
    [
        {"trait": "plan", "value": "pro"},
        {"trait": "visits", "op": "gt", "value": 2},
        {"event": "total", "op": "gte", "value": "{{ trait.visits }}"},
        {"path": "profile.consent.sms", "op": "ne", "value": "DENIED"},
        {"event": "nothing", "op": "not_exists"},
    ]
)
STEPS = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.just("UPDATE_PROFILE"),
            "config": st.sampled_from(
                [
                    {"traits": {"plan": "{{ event.plan }}"}},
                    {"traits": {"visits": "{{ event.total }}", "gone": None, "list": ["{{ trait.name }}", 1]}},
                    {"traits": {"plan": None}},
                ]
            ),
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("WAIT"),
            "config": st.just({"reason": "a while"}),
            "delayMinutes": st.sampled_from([0, 90, 4320]),
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("BRANCH"),
            "config": st.fixed_dictionaries(
                {"condition": CONDITIONS, "ifTrue": st.just("last"), "ifFalse": st.just("end")}
            ),
        }
    ),
    st.sampled_from(
        [
            {"type": "SEND_SMS", "config": {"body": "Hi {{ user.name }} {{ run.workflow }}"}},
            {"type": "SEND_SMS", "config": {"body": "Hi", "to": "{{ trait.nobody }}"}},
            {
                "type": "SEND_EMAIL",
                "config": {"to": "{{ user.email }}", "subject": "{{ event.plan }}", "bodyText": "b"},
            },
            {
                "type": "SEND_EMAIL",
                "config": {"to": "x@y.example", "from": "a@other.example", "subject": "s", "bodyText": "b"},
            },
            {"type": "SEND_PUSH", "config": {"title": "Hi {{ user.name }}", "body": "{{ event.missing }}"}},
            {
                "type": "WEBHOOK",
                "config": {"url": "https://127.0.0.1/{{ event.plan }}", "body": {"t": "{{ event.total }}"}},
            },
            {"type": "WEBHOOK", "config": {"url": "{{ event.site }}"}},
        ]
    ),
)
JOURNEYS = st.lists(STEPS, min_size=1, max_size=6).map(
    lambda steps: [
        *({**step, "label": f"step {number}"} for number, step in enumerate(steps)),
        {"type": "UPDATE_PROFILE", "label": "last", "config": {"traits": {"done": "{{ event.total }}"}}},
    ]
)


class Case(msgspec.Struct, frozen=True):
    """Who runs it, and what they may get."""

    devices: int
    is_configured: bool
    consent: ConsentState
    user_id: str | None


CASES = st.builds(
    Case,
    devices=st.integers(0, 2),
    is_configured=st.booleans(),
    consent=st.sampled_from([ConsentState.UNKNOWN, ConsentState.DENIED]),
    user_id=st.sampled_from(["ada", "ada", "ada", None]),
)


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.generate],
)
@given(steps=JOURNEYS, case=CASES, total=st.integers(0, 5))
async def test_a_dry_run_has_the_trace_of_the_real_run(
    module_database_url: str, steps: list[dict[str, Any]], case: Case, total: int
) -> None:
    async with open_shop(module_database_url) as shop:
        await prepare(shop, case)
        workflow_id = await shop.workflow(*steps)
        properties = {"plan": "pro", "total": total, "site": "http://10.0.0.1/x"}

        shown = await try_it(shop.database, shop, workflow_id, case.user_id, properties)
        (run_id,) = await shop.start(
            workflow_id, [case.user_id], event_seq=await shop.track(case.user_id, **properties)
        )
        await to_the_end(shop, run_id)

        assert [told(each) for each in await shop.trace(run_id)] == [told(each) for each in shown[1]]
        assert (await shop.run(run_id)).status == shown[0]


async def prepare(shop: Shop, case: Case) -> None:
    await shop.person("ada", name="Ada", email="ada@example.org", phone="+14155550132", plan="free", visits=3)
    await add_devices(shop, case.devices)
    if case.is_configured:
        await configure(shop)
    async with shop.database.transaction() as connection:
        await set_consent(
            connection,
            project_id=shop.project_id,
            user_id="ada",
            purpose=ConsentPurpose.SMS,
            state=case.consent,
            source="test",
            actor="test",
            now=shop.clock.now(),
        )


async def try_it(
    database: Database, shop: Shop, workflow_id: UUID, user_id: str | None, properties: dict[str, Any]
) -> tuple[Any, tuple[StepTrace, ...]]:
    async with database.connection() as connection:
        project = await read_project(connection, project_id=shop.project_id)
        assert project is not None
        sample = SampleEvent(
            event_type="order.placed",
            user_id=user_id,
            properties=msgspec.json.encode(properties),
            context=b"{}",
        )
        shown = await dry_run(
            connection,
            VAULT,
            EGRESS,
            project=project,
            definition=shop.definitions[workflow_id],
            sample=sample,
            now=shop.clock.now(),
        )
    assert shown.errors == ()
    return shown.status, shown.trace


async def to_the_end(shop: Shop, run_id: UUID) -> None:
    for _ in range(10):
        await shop.settle()
        run = await shop.run(run_id)
        if run.status != "RUNNING":
            return
        assert run.claim_at is not None
        shop.clock.at = run.claim_at
    raise AssertionError("it does not end")


def told(step: StepTrace) -> tuple[Any, ...]:
    ended = step.finished_at is not None
    return step.number, step.step, step.label, step.type, step.outcome, step.detail, step.input, step.output, ended


async def test_what_is_sent_is_what_the_trace_says(module_database_url: str) -> None:
    async with open_shop(module_database_url) as shop:
        await prepare(shop, Case(0, True, ConsentState.UNKNOWN, "ada"))
        body = "{{ user.name }} {{ event.total }} {{ run.id }} {{ run.workflow }}"
        run_id = await shop.begin({"type": "SEND_SMS", "config": {"body": body}}, total=7)
        http = HttpClient(EGRESS)
        await shop.drain()
        (made,) = await shop.deliveries(run_id)
        delivery = await _delivery(shop, made["delivery_id"])

        async with shop.database.transaction() as connection:
            prepared = await SmsWork(VAULT, http, public_url="https://gateway.example").prepare(
                connection, project_id=shop.project_id, deliveries=[delivery], now=shop.clock.now()
            )
        await http.close()

        ready = prepared[delivery.delivery_id]
        assert isinstance(ready, Ready)
        (step,) = await shop.trace(run_id)
        assert msgspec.json.decode(ready.payload or "")["body"] == step.input["body"]
        assert step.input["body"].startswith(f"Ada 7 {write_node_id(NodeKind.WORKFLOW_RUN, run_id)} Journey")


async def _delivery(shop: Shop, delivery_id: UUID) -> DeliveryRecord:
    async with shop.database.connection() as connection:
        (found,) = await read_deliveries(connection, project_id=shop.project_id, delivery_ids=[delivery_id])
    return found
