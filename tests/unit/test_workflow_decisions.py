"""Runs of workflows, decided step by step: whatever the definition, the event and the person, they end in order."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db.records import EventRecord, ProfileRecord
from db.sender_domains import SenderDomainRecord
from engine.consent import ConsentPurpose, ConsentState
from engine.dispatch.ledger import MAX_DEPTH
from engine.dispatch.values import DeliveryStatus, PushNotification, SuppressedReason
from engine.egress import Egress
from engine.push.policy import PolicyToken
from engine.workflows.blueprints import BLUEPRINTS
from engine.workflows.definition import Definition, RunStatus, StepOutcome
from engine.workflows.foresight import foresee
from engine.workflows.graph import FINISHED, successors
from engine.workflows.interpolation import MASK, MAX_SHOWN_CHARACTERS
from engine.workflows.state import (
    MAX_ASKED,
    MAX_STEPS,
    AskModel,
    Decision,
    DeliverEmail,
    DeliverPush,
    DeliverSms,
    DeliverWebhook,
    DeliveryReport,
    DeliveryResult,
    MergeTraits,
    ModelAnswer,
    ModelLate,
    ModelUnavailable,
    Report,
    RunState,
    StepTrace,
)
from engine.workflows.surroundings import MailStanding, PushStanding, SmsStanding, Surroundings, wanted
from engine.workflows.transition import ASK_AGAIN_AFTER, begin, decide, ending_of
from engine.workflows.validation import read_definition

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
PROJECT = UUID(int=1)
RUN = UUID(int=2)
EGRESS = Egress()
SENT = DeliveryReport((DeliveryResult(status=DeliveryStatus.SENT, at=NOW),))


def define(*steps: dict[str, Any], trigger: dict[str, Any] | None = None) -> Definition:
    given = {"name": "Journey", "trigger": trigger or {"eventType": "order.placed"}, "steps": list(steps)}
    definition, errors = read_definition(given, egress=EGRESS)
    assert definition is not None, errors
    return definition


def event_of(properties: dict[str, Any] | None = None, user_id: str | None = "ada") -> EventRecord:
    return EventRecord(
        project_id=PROJECT,
        seq=7,
        key="k",
        module="commerce",
        event_type="order.placed",
        timestamp=NOW,
        received_at=NOW,
        user_id=user_id,
        anonymous_id=None,
        properties=msgspec.Raw(msgspec.json.encode(properties or {})),
        context=msgspec.Raw(b"{}"),
    )


def profile_of(**traits: Any) -> ProfileRecord:
    return ProfileRecord(PROJECT, UUID(int=3), "ada", False, msgspec.Raw(msgspec.json.encode(traits)), NOW, NOW)


def around_of(properties: dict[str, Any] | None = None, **changes: Any) -> Surroundings:
    """Somebody who can be reached on every channel."""
    domain = SenderDomainRecord(
        project_id=PROJECT,
        sender_domain_id=UUID(int=4),
        domain="shop.example",
        status="VERIFIED",
        dkim_selector="s",
        dkim_public_key="",
        sealed_dkim_private_key=b"",
        verified_records=(),
        verified_at=NOW,
        probation_until=None,
        created_at=NOW,
    )
    known: dict[str, Any] = {
        "event": event_of(properties),
        "user_id": "ada",
        "profile": profile_of(name="Ada", email="ada@example.org", phone="+14155550132", plan="pro"),
        "unknown_allowed": True,
        "refuse_url": EGRESS.refusal,
        "push": PushStanding(tokens=(PolicyToken(),)),
        "mail": MailStanding(has_account=True, default_from="hi@shop.example", domains={"shop.example": domain}),
        "sms": SmsStanding(has_account=True),
    }
    return Surroundings(**{**known, **changes})


def start(definition: Definition, **changes: Any) -> RunState:
    return begin(definition, run_id=RUN, version=1, now=NOW, **changes)


def first(definition: Definition, around: Surroundings) -> Decision:
    return decide(definition, start(definition), around, NOW)


def first_trace(definition: Definition, around: Surroundings) -> StepTrace:
    trace = first(definition, around).trace
    assert trace is not None
    return trace


def walk(
    definition: Definition, around: Surroundings, *, most: int = 3 * MAX_STEPS
) -> Iterator[tuple[datetime, Decision]]:
    """All decisions of a run whose effects go as foreseen, in virtual time."""
    state, now = start(definition), NOW
    for _ in range(most):
        if state.status is not RunStatus.RUNNING:
            return
        now = max(now, state.next_step_at or now)
        wanted(definition, state, around, now)
        decision = decide(definition, state, around, now)
        yield now, decision
        state = decision.state
        for effect in decision.effects:
            report = foresee(effect, around, now)
            if report is not None:
                decision = decide(definition, state, around, now, report)
                yield now, decision
                state = decision.state
    raise AssertionError("the run does not end")


# ── one step of each type ────────────────────────────────────────────────────────────────────────────────────────


def test_an_email_is_left_as_it_is_configured_and_shown_as_it_will_be() -> None:
    config = {"to": "{{ user.email }}", "subject": "Hi {{ trait.name }}", "bodyHtml": "<b>{{ event.note }}</b>"}

    decision = first(define({"type": "email", "config": config}), around_of({"note": "<i>"}))

    [effect] = decision.effects
    assert isinstance(effect, DeliverEmail)
    assert effect.recipient == "ada@example.org"
    # Rendered once, when it is sent: what a person is called is never read as a template.
    assert effect.content.subject == "Hi {{ trait.name }}"
    assert decision.trace is not None
    assert decision.trace.input == {"to": "ada@example.org", "subject": "Hi Ada", "bodyHtml": "<b>&lt;i&gt;</b>"}
    assert (decision.trace.outcome, decision.state.next_step_at) == (None, None)


@pytest.mark.parametrize(
    ("changes", "outcome", "status"),
    [
        # No address: the person's, not the workflow's, fault.
        ({"profile": profile_of()}, StepOutcome.SKIPPED_MISSING_CONFIG, RunStatus.COMPLETED),
        ({"profile": profile_of(email="nonsense")}, StepOutcome.ERROR, RunStatus.COMPLETED),
        # Erased while the run went on.
        ({"profile": None}, StepOutcome.SKIPPED_MISSING_CONFIG, RunStatus.COMPLETED),
        ({"consents": {ConsentPurpose.EMAIL: ConsentState.REVOKED}}, StepOutcome.SUPPRESSED, RunStatus.COMPLETED),
        # Said nothing, where that means no.
        ({"unknown_allowed": False}, StepOutcome.SUPPRESSED, RunStatus.COMPLETED),
        (
            {"mail": MailStanding(has_account=True, default_from="hi@shop.example")},
            StepOutcome.BYOD_REQUIRED,
            RunStatus.COMPLETED,
        ),
        ({"mail": MailStanding()}, StepOutcome.SKIPPED_MISSING_CONFIG, RunStatus.COMPLETED),
    ],
)
def test_an_email_that_cannot_leave_makes_no_delivery(
    changes: dict[str, Any], outcome: StepOutcome, status: RunStatus
) -> None:
    definition = define({"type": "email", "config": {"to": "{{ user.email }}", "subject": "s", "bodyText": "b"}})

    decision = first(definition, around_of(**changes))

    assert decision.effects == ()
    assert decision.trace is not None
    assert (decision.trace.outcome, decision.state.status) == (outcome, status)


def test_an_address_that_bounced_is_suppressed_with_the_reason() -> None:
    around = around_of()
    mail = msgspec.structs.replace(around.mail, held={"ada@example.org": SuppressedReason.BOUNCED})
    definition = define({"type": "email", "config": {"to": "{{user.email}}", "subject": "s", "bodyText": "b"}})

    trace = first_trace(definition, msgspec.structs.replace(around, mail=mail))

    assert trace.outcome is StepOutcome.SUPPRESSED
    assert trace.detail == "Mail to the address came back for good. (BOUNCED)"


def test_a_template_that_was_deleted_fails_the_run() -> None:
    definition = define({"type": "email", "config": {"to": "a@example.org", "subject": "s", "bodyText": "b"}})
    [step] = definition.steps
    gone = msgspec.structs.replace(
        step, config=msgspec.structs.replace(step.config, template_id=UUID(int=5), subject=None, body_text=None)
    )

    decision = first(msgspec.structs.replace(definition, steps=(gone,)), around_of())

    assert decision.state.status is RunStatus.FAILED
    assert decision.state.error is not None
    assert decision.state.error.startswith("Step send_email_1: The template is no more.")


def test_a_text_message_goes_to_the_persons_own_number() -> None:
    decision = first(define({"type": "sms", "config": {"body": "Hi {{ user.name }}"}}), around_of())

    [effect] = decision.effects
    assert isinstance(effect, DeliverSms)
    assert (effect.recipient, effect.content.body) == ("+14155550132", "Hi {{ user.name }}")


def test_a_push_is_finished_when_it_leaves_the_step() -> None:
    config = {"title": "{{ event.a }}", "body": "b", "sound": "{{ event.none }}", "data": {"n": "{{ event.n }}"}}

    decision = first(define({"type": "push", "config": config}), around_of({"a": "{{ user.email }}", "n": 4}))

    [effect] = decision.effects
    assert effect == DeliverPush(PushNotification("{{ user.email }}", "b", data={"n": 4}), False)


def test_nobody_is_pushed_without_a_device() -> None:
    definition = define({"type": "push", "config": {"title": "t", "body": "b"}})

    trace = first_trace(definition, around_of(push=PushStanding()))

    assert (trace.outcome, trace.detail) == (StepOutcome.SUPPRESSED, "The person has no active device. (NO_TOKENS)")


def test_a_webhook_shows_no_secrets_and_sends_them() -> None:
    config = {
        "url": "https://api.example.com/x?token=t1&id={{ event.id }}",
        "headers": {"Authorization": "Bearer {{ event.key }}", "X-Trace": "1"},
        "body": {"apiKey": "s3cret", "amount": "{{ event.amount }}", "nested": [{"password": "p"}]},
    }

    decision = first(define({"type": "WEBHOOK", "config": config}), around_of({"id": "o1", "amount": 42.5}))

    [effect] = decision.effects
    assert isinstance(effect, DeliverWebhook)
    assert effect.retry_schedule == (30, 120, 600, 3600, 21600)
    assert effect.headers == {"Authorization": "Bearer k", "X-Trace": "1"}
    assert effect.body == '{"apiKey":"s3cret","amount":42.5,"nested":[{"password":"p"}]}'
    assert decision.trace is not None
    assert decision.trace.input == {
        "url": f"https://api.example.com/x?token={MASK}&id=o1",
        "method": "POST",
        "headers": {"Authorization": MASK, "X-Trace": "1"},
        "body": {"apiKey": MASK, "amount": 42.5, "nested": [{"password": MASK}]},
    }


@pytest.mark.parametrize("url", ["http://shop.example/x", "https://10.0.0.1/x", "https://localhost/x"])
def test_a_url_that_the_guard_refuses_fails_the_run(url: str) -> None:
    definition = define({"type": "WEBHOOK", "config": {"url": "{{ event.url }}"}})

    decision = first(definition, around_of({"url": url}))

    assert decision.effects == ()
    assert decision.state.status is RunStatus.FAILED


def test_a_password_in_a_url_is_masked_and_refused() -> None:
    definition = define({"type": "WEBHOOK", "config": {"url": "{{ event.url }}"}})

    decision = first(definition, around_of({"url": "https://user:pass@shop.example/x"}))

    assert decision.trace is not None
    assert decision.trace.outcome is StepOutcome.ERROR
    assert decision.trace.input["url"] == f"https://{MASK}@shop.example/x"


def test_traits_keep_the_type_of_what_they_are_filled_in_with() -> None:
    traits = {"last": "{{ event.amount }}", "text": "{{ event.amount }} EUR", "gone": "{{ event.nope }}"}

    decision = first(define({"type": "UPDATE_PROFILE", "config": {"traits": traits}}), around_of({"amount": 42}))

    assert decision.effects == (MergeTraits({"last": 42, "text": "42 EUR", "gone": ""}),)
    assert decision.trace is not None
    assert decision.trace.outcome is StepOutcome.OK
    assert decision.trace.detail == "Missing, and left empty: event.nope."


@pytest.mark.parametrize(
    "step",
    [
        {"type": "UPDATE_PROFILE", "config": {"traits": {"a": 1}}},
        {"type": "push", "config": {"title": "t", "body": "b"}},
        {"type": "email", "config": {"to": "a@example.org", "subject": "s", "bodyText": "b"}},
        {"type": "sms", "config": {"to": "+14155550132", "body": "b"}},
    ],
)
def test_nothing_is_done_for_somebody_who_was_erased(step: dict[str, Any]) -> None:
    decision = first(define(step), around_of(profile=None))

    assert decision.effects == ()
    assert decision.trace is not None
    assert (decision.trace.outcome, decision.trace.detail) == (
        StepOutcome.SUPPRESSED,
        "The person is not there any more. (ERASED)",
    )


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"trait": "plan", "value": "pro"}, "yes"),
        ({"event": "amount", "op": "gte", "value": 42}, "yes"),
        # The event has no property of this name, its envelope does.
        ({"event": "eventType", "value": "order.placed"}, "yes"),
        # A property goes before the envelope.
        ({"event": "module", "value": "mine"}, "yes"),
        ({"event": "amount", "op": "EQ", "value": "42"}, "no"),
        ({"path": "profile.consent.email", "op": "NE", "value": "REVOKED"}, "yes"),
        ({"path": "profile.createdAt", "op": "LT", "value": "2026-01-01T00:00:00Z"}, "no"),
        ({"path": "run.vars.x", "op": "EXISTS"}, "no"),
        ({"trait": "plan", "value": "{{ event.wanted }}"}, "yes"),
    ],
)
def test_a_branch_goes_the_way_that_its_condition_says(condition: dict[str, Any], expected: str) -> None:
    definition = define(
        {"type": "BRANCH", "config": {"condition": condition, "ifTrue": "yes", "ifFalse": "no"}},
        {"type": "WAIT", "label": "yes", "delayMinutes": 1, "config": {}},
        {"type": "WAIT", "label": "no", "delayMinutes": 1, "config": {}},
    )

    decision = first(definition, around_of({"amount": 42, "wanted": "pro", "module": "mine"}))

    assert decision.trace is not None
    assert decision.trace.outcome is StepOutcome.BRANCHED
    assert decision.trace.output == {"result": expected == "yes", "next": expected}
    assert definition.steps[decision.state.step].label == expected


def test_a_wait_shows_in_the_trace_while_it_lasts() -> None:
    definition = define({"type": "WAIT", "delayMinutes": 60, "config": {"reason": "Give {{ user.name }} time"}})
    around, due = around_of(), NOW + timedelta(hours=1)

    begun = first(definition, around)
    early = decide(definition, begun.state, around, due - timedelta(seconds=1))
    ended = decide(definition, begun.state, around, due)

    assert begun.trace is not None
    assert begun.trace.outcome is None
    assert begun.trace.input == {"reason": "Give Ada time"}
    assert early == Decision(begun.state)
    assert ended.trace is not None
    assert (ended.trace.outcome, ended.trace.started_at, ended.trace.finished_at) == (StepOutcome.WAITED, NOW, due)
    assert ended.state.status is RunStatus.COMPLETED


def test_a_delay_comes_before_its_step() -> None:
    definition = define({"type": "UPDATE_PROFILE", "delayMinutes": 5, "config": {"traits": {"a": 1}}})

    assert start(definition).next_step_at == NOW + timedelta(minutes=5)
    assert first(definition, around_of()) == Decision(start(definition))


# ── what others report ───────────────────────────────────────────────────────────────────────────────────────────


def result(status: DeliveryStatus, **more: Any) -> DeliveryResult:
    return DeliveryResult(status=status, at=NOW, **more)


@pytest.mark.parametrize(
    ("results", "outcome"),
    [
        # One device of several is enough.
        ([result(DeliveryStatus.FAILED, error_code="Unregistered"), result(DeliveryStatus.SENT)], StepOutcome.SENT),
        ([result(DeliveryStatus.DELIVERED)], StepOutcome.SENT),
        ([result(DeliveryStatus.UNCERTAIN)], StepOutcome.SENT),
        ([result(DeliveryStatus.SUPPRESSED, reason=SuppressedReason.FREQUENCY_CAP)], StepOutcome.SUPPRESSED),
        ([result(DeliveryStatus.SUPPRESSED, reason=SuppressedReason.RATE_LIMITED)], StepOutcome.RATE_LIMITED),
        ([result(DeliveryStatus.FAILED, error_code="BYOD_REQUIRED")], StepOutcome.BYOD_REQUIRED),
        ([result(DeliveryStatus.DEAD_LETTERED, error_code="503", error_message="No.")], StepOutcome.ERROR),
        ([result(DeliveryStatus.CANCELLED)], StepOutcome.CANCELLED),
        ([], StepOutcome.ERROR),
    ],
)
def test_the_deliveries_of_a_step_are_its_outcome_and_the_run_goes_on(
    results: list[DeliveryResult], outcome: StepOutcome
) -> None:
    definition = define({"type": "push", "config": {"title": "t", "body": "b"}})
    begun = first(definition, around_of())

    ended = decide(definition, begun.state, around_of(), NOW, DeliveryReport(tuple(results)))

    assert ended.trace is not None
    assert (ended.trace.outcome, ended.state.status) == (outcome, RunStatus.COMPLETED)


@pytest.mark.parametrize(
    ("said", "detail"),
    [
        ({}, "It may have been sent."),
        (
            {"error_code": "NO_ANSWER", "error_message": "The relay did not answer."},
            "The relay did not answer. (NO_ANSWER)",
        ),
    ],
)
def test_a_step_in_doubt_says_what_its_delivery_says(said: dict[str, str], detail: str) -> None:
    report = DeliveryReport((result(DeliveryStatus.UNCERTAIN, **said), result(DeliveryStatus.FAILED, error_code="x")))

    assert ending_of(report) == (StepOutcome.SENT, detail)


def test_a_step_waits_for_the_last_of_its_deliveries() -> None:
    definition = define({"type": "push", "config": {"title": "t", "body": "b"}})
    begun = first(definition, around_of())
    report = DeliveryReport((result(DeliveryStatus.SENT), result(DeliveryStatus.RETRYING)))

    assert decide(definition, begun.state, around_of(), NOW, report) == Decision(begun.state)


@pytest.mark.parametrize("report", [ModelAnswer("yes"), ModelLate(), ModelUnavailable("No.")])
def test_a_report_of_something_else_changes_nothing(report: Report) -> None:
    definition = define({"type": "push", "config": {"title": "t", "body": "b"}})
    begun = first(definition, around_of())

    assert decide(definition, begun.state, around_of(), NOW, report) == Decision(begun.state)


@pytest.mark.parametrize(
    ("config", "answer", "outcome", "variables"),
    [
        ({"flavor": "decide"}, " Yes.", StepOutcome.OK, {"x": True}),
        ({"flavor": "decide"}, "maybe", StepOutcome.ERROR, {}),
        ({"flavor": "generate"}, "Hello", StepOutcome.OK, {"x": "Hello"}),
        ({"flavor": "extract"}, '{"a":1}', StepOutcome.OK, {"x": {"a": 1}}),
        ({"flavor": "extract"}, "{", StepOutcome.ERROR, {}),
        ({"flavor": "generate"}, "y" * 70_000, StepOutcome.ERROR, {}),
    ],
)
def test_a_models_answer_becomes_a_variable(
    config: dict[str, Any], answer: str, outcome: StepOutcome, variables: dict[str, Any]
) -> None:
    definition = define({"type": "AI_ACTION", "config": {**config, "prompt": "For {{ user.name }}", "saveTo": "x"}})
    begun = first(definition, around_of())

    ended = decide(definition, begun.state, around_of(), NOW, ModelAnswer(answer))

    [asked] = begun.effects
    assert isinstance(asked, AskModel)
    assert asked.prompt == "For Ada"
    assert ended.trace is not None
    assert (ended.trace.outcome, ended.state.vars) == (outcome, variables)
    assert len(msgspec.json.encode(ended.trace.output)) < 2 * MAX_SHOWN_CHARACTERS


def test_a_model_that_is_late_is_asked_again_and_then_given_up() -> None:
    definition = define({"type": "AI_ACTION", "config": {"flavor": "generate", "prompt": "p"}})
    around, now = around_of(), NOW
    decision = first(definition, around)
    for _ in range(MAX_ASKED - 1):
        assert len(decision.effects) == 1
        pending = decide(definition, decision.state, around, now, ModelLate())
        assert pending.trace is not None
        assert pending.trace.outcome is StepOutcome.AI_PENDING
        assert decide(definition, pending.state, around, now) == Decision(pending.state)
        now += ASK_AGAIN_AFTER
        decision = decide(definition, pending.state, around, now)

    given_up = decide(definition, decision.state, around, now, ModelLate())

    assert given_up.trace is not None
    assert (given_up.trace.number, given_up.trace.outcome) == (1, StepOutcome.AI_UNAVAILABLE)
    assert given_up.state.status is RunStatus.COMPLETED


# ── whole runs ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_circle_ends_after_a_thousand_steps() -> None:
    definition = define({"type": "WAIT", "label": "day", "delayMinutes": 1440, "next": "day", "config": {}})

    *_, (_, last) = walk(definition, around_of())

    assert last.state.steps_made == MAX_STEPS
    assert (last.state.status, last.state.error) == (RunStatus.FAILED, "A run has at most 1,000 steps.")


@pytest.mark.parametrize("key", sorted(BLUEPRINTS))
def test_every_blueprint_runs_to_its_end(key: str) -> None:
    *_, (_, last) = walk(BLUEPRINTS[key].definition, around_of())

    assert (last.state.status, last.state.error) == (RunStatus.COMPLETED, None)


def test_workflows_that_start_each_other_stop() -> None:
    definition = define({"type": "WAIT", "delayMinutes": 1, "config": {}})

    assert start(definition, depth=MAX_DEPTH).status is RunStatus.RUNNING
    assert start(definition, depth=MAX_DEPTH + 1).status is RunStatus.FAILED


@pytest.mark.parametrize("status", [RunStatus.PAUSED, RunStatus.QUEUED, RunStatus.CANCELLED, RunStatus.COMPLETED])
def test_a_run_that_does_not_run_is_left_alone(status: RunStatus) -> None:
    definition = define({"type": "UPDATE_PROFILE", "config": {"traits": {"a": 1}}})
    held = msgspec.structs.replace(start(definition), status=status)

    assert decide(definition, held, around_of(), NOW) == Decision(held)


TEXTS = st.sampled_from(
    [
        "plain",
        "",
        "{{ user.name }}",
        "{{ event.x }}",
        "{{ event.x.y.z }}",
        "{{ trait.email | upcase | truncate: 3 }}",
        "{{ event.x | date: '%Y' }}",
        "{{ event.x | divided_by: 0 }}",
        "{% for i in event.x %}{{ i }}{% endfor %}",
        "{% for i in (1..9999999) %}x{% endfor %}",
        "{{ run.vars.v }} {{ run.id }} {{ now | date: '%s' }} {{ nothing.at.all }}",
        "{{ event.x | sort | join: event.x }}",
    ]
)
ADDRESSES = st.sampled_from(["{{ user.email }}", "ada@example.org", "{{ event.x }}", "+14155550132", "x"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "y", "email"]), inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(
    st.sampled_from(["x", "y", "name", "email", "phone", "timezone", "size", "id"]), VALUES, max_size=6
)
CONDITIONS = st.one_of(
    st.fixed_dictionaries({"trait": st.sampled_from(["x", "x.0", "email"]), "op": st.just("EXISTS")}),
    st.fixed_dictionaries({"trait": st.sampled_from(["x", "birthday"]), "op": st.just("is_anniversary")}),
    st.fixed_dictionaries({"event": st.sampled_from(["x", "eventType", "y.x"]), "op": st.just("eq"), "value": TEXTS}),
    st.fixed_dictionaries({"event": st.sampled_from(["x", "seq"]), "op": st.just("gt"), "value": TEXTS}),
    st.fixed_dictionaries({"trait": st.just("x"), "op": st.just("in"), "value": st.lists(TEXTS, max_size=3)}),
    st.fixed_dictionaries({"trait": st.just("x"), "op": st.just("starts_with"), "value": st.just("{{ event.x }}")}),
    st.fixed_dictionaries({"trait": st.just("x"), "op": st.just("contains"), "value": TEXTS}),
    st.fixed_dictionaries(
        {
            "path": st.sampled_from(["profile.lastSeenAt", "event.timestamp"]),
            "op": st.just("lt"),
            "value": st.just("2026-05-01T12:00:00Z"),
        }
    ),
    st.fixed_dictionaries({"path": st.just("run.vars.v"), "op": st.just("ne"), "value": TEXTS}),
)


@st.composite
def definitions(draw: st.DrawFn) -> Definition:
    """Workflows as they are saved, of every type of step, with any way through them that waits somewhere."""
    count = draw(st.integers(1, 6))
    targets = st.sampled_from([*(f"s{index}" for index in range(count)), "end"])
    configs: dict[str, st.SearchStrategy[dict[str, Any]]] = {
        "SEND_EMAIL": st.fixed_dictionaries(
            {"to": ADDRESSES, "subject": TEXTS.filter(bool), "bodyHtml": TEXTS.filter(bool)},
            optional={"from": ADDRESSES, "replyTo": ADDRESSES},
        ),
        "SEND_PUSH": st.fixed_dictionaries(
            {"title": TEXTS, "body": TEXTS.filter(bool)},
            optional={"url": TEXTS.filter(bool), "data": st.just({"a": "{{event.x}}"})},
        ),
        "SEND_SMS": st.fixed_dictionaries({"body": TEXTS.filter(bool)}, optional={"to": ADDRESSES}),
        "WEBHOOK": st.fixed_dictionaries(
            {"url": st.sampled_from(["https://api.example.com/{{ event.x }}", "{{ event.x }}"])},
            optional={
                "headers": st.fixed_dictionaries({"X-A": TEXTS}),
                "body": TEXTS | st.fixed_dictionaries({"a": TEXTS}),
            },
        ),
        "UPDATE_PROFILE": st.fixed_dictionaries({"traits": st.fixed_dictionaries({"a": TEXTS})}),
        "WAIT": st.fixed_dictionaries({}, optional={"reason": TEXTS.filter(bool)}),
        "BRANCH": st.fixed_dictionaries({"condition": CONDITIONS, "ifTrue": targets, "ifFalse": targets}),
        "AI_ACTION": st.fixed_dictionaries(
            {"flavor": st.sampled_from(["generate", "decide"]), "prompt": TEXTS.filter(bool), "saveTo": st.just("v")}
        ),
    }
    steps = []
    for index in range(count):
        kind = draw(st.sampled_from(sorted(configs)))
        step = {
            "label": f"s{index}",
            "type": kind,
            "config": draw(configs[kind]),
            "delayMinutes": draw(st.sampled_from([0.5, 60, 527_040])),
        }
        if kind != "BRANCH" and draw(st.booleans()):
            step["next"] = draw(targets)
        steps.append(step)
    return define(*steps)


@st.composite
def surroundings(draw: st.DrawFn) -> Surroundings:
    """Anything that may be there, or not."""
    user_id = draw(st.sampled_from(["ada", None]))
    profile = None if user_id is None or draw(st.booleans()) else profile_of(**draw(OBJECTS))
    changes: dict[str, Any] = {"user_id": user_id, "profile": profile, "unknown_allowed": draw(st.booleans())}
    if draw(st.booleans()):
        changes["event"] = None
    if draw(st.booleans()):
        changes["mail"] = MailStanding()
    if draw(st.booleans()):
        changes["push"] = PushStanding(tokens=(PolicyToken(timezone="Nowhere/Land"), PolicyToken()))
    return around_of(draw(OBJECTS), **changes)


@settings(max_examples=150, deadline=None)
@given(definitions(), surroundings())
def test_every_run_ends_in_order_whatever_it_is_given(definition: Definition, around: Surroundings) -> None:
    traces: dict[int, StepTrace] = {}
    before = NOW
    decisions = []
    for now, decision in walk(definition, around):
        decisions.append(decision)
        assert now >= before
        before = now
        if decision.trace is not None:
            traces[decision.trace.number] = decision.trace
        if len(decisions) > 60:
            break
    assert [*walk_prefix(definition, around, len(decisions))] == decisions

    ordered = [traces[number] for number in sorted(traces)]
    assert [trace.number for trace in ordered] == [*range(1, len(ordered) + 1)]
    for trace in ordered:
        step = definition.steps[trace.step]
        assert (trace.label, trace.type) == (step.label, step.type)
        msgspec.json.encode(trace)
    for one, following in pairwise(ordered):
        assert following.step in successors(definition.steps, one.step)
        assert one.finished_at is not None
        assert one.started_at <= one.finished_at <= following.started_at
    last = decisions[-1].state
    if last.status is RunStatus.COMPLETED:
        assert ordered[-1].finished_at == last.finished_at
        assert FINISHED in successors(definition.steps, ordered[-1].step)
    if last.status is RunStatus.FAILED:
        assert last.error


def walk_prefix(definition: Definition, around: Surroundings, count: int) -> Iterator[Decision]:
    for (_, decision), _ in zip(walk(definition, around), range(count), strict=False):
        yield decision


@settings(max_examples=60, deadline=None)
@given(definitions(), surroundings())
def test_a_decision_that_is_made_again_is_the_same(definition: Definition, around: Surroundings) -> None:
    state = start(definition)
    at = state.next_step_at
    assert at is not None

    assert decide(definition, state, around, at) == decide(definition, state, around, at)
    assert decide(definition, state, around, at - timedelta(microseconds=1)) == Decision(state)
