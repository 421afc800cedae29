"""Workflows as authors write them: what is read, what is refused, where, and in which words."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.egress import Egress
from engine.errors import UserError
from engine.node_ids import NodeKind, write_node_id
from engine.workflows.configs import KEYS
from engine.workflows.definition import (
    AiFlavor,
    Branch,
    ConditionSource,
    Definition,
    ReentryPolicy,
    SendEmail,
    SendPush,
    StepOutcome,
    StepType,
    Webhook,
)
from engine.workflows.fields import MAX_PROBLEMS
from engine.workflows.validation import (
    MAX_CONFIG_BYTES,
    MAX_STEPS,
    MAX_STEPS_BYTES,
    named_nodes,
    read_definition,
    unparse_definition,
)
from tests.integration.condition_strategies import JSON

EGRESS = Egress()
TEMPLATE = "tpl_" + "0" * 31 + "1"
AUDIENCE = "aud_" + "0" * 31 + "2"
CONFIGS: dict[str, dict[str, Any]] = {
    "SEND_EMAIL": {
        "to": "{{ user.email }}",
        "subject": "Hi",
        "bodyHtml": "<p>Hi {{ user.name }}</p>",
        "from": "a@b.co",
    },
    "SEND_PUSH": {
        "title": "Hi",
        "body": "",
        "data": {"n": [1, "{{ event.x }}"]},
        "badge": 3,
        "priority": "NORMAL",
        "url": "{{ event.url }}",
        "ignoreQuietHours": True,
    },
    "SEND_SMS": {"to": "+14155550132", "body": "Hi {{ user.name }}"},
    "WEBHOOK": {
        "url": "https://hooks.example.com/{{ user.id }}",
        "method": "PUT",
        "headers": {"X-Token": "{{ run.id }}"},
        "body": {"of": ["{{ event.total }}", None, False]},
    },
    "UPDATE_PROFILE": {"traits": {"plan": "pro", "gone": None, "deep": {"a": "{{ event.a }}"}}},
    "WAIT": {"reason": "a while"},
    "BRANCH": {"condition": {"trait": "plan", "op": "EQ", "value": "pro"}, "ifTrue": "end", "ifFalse": 0},
    "AI_ACTION": {
        "flavor": "extract",
        "prompt": "{{ event.text }}",
        "model": "m",
        "saveTo": "answer",
        "jsonMode": True,
    },
}


def step(step_type: str, **changes: Any) -> dict[str, Any]:
    delay = {"delayMinutes": 60} if step_type in ("WAIT", "BRANCH") else {}
    return {"type": step_type, "config": CONFIGS[step_type], **delay, **changes}


def workflow(*steps: Any, **changes: Any) -> dict[str, Any]:
    return {"name": "Hello", "trigger": {"eventType": "order.placed"}, "steps": list(steps), **changes}


def read(written: dict[str, Any]) -> Definition:
    definition, errors = read_definition(written, egress=EGRESS)
    assert errors == ()
    assert definition is not None
    return definition


def errors_of(written: dict[str, Any]) -> dict[str, str]:
    """By path, without the `input` that each begins with. The code too, unless it is INVALID."""
    definition, errors = read_definition(written, egress=EGRESS)
    assert definition is None
    assert errors
    assert all(error.path[0] == "input" for error in errors)
    return {".".join(error.path[1:]): _said(error) for error in errors}


def _said(error: UserError) -> str:
    return error.message if error.code == "INVALID" else f"{error.code}: {error.message}"


def config_error(step_type: str, **changes: Any) -> tuple[str, str]:
    """The one error of a step whose config was changed; None removes a key."""
    changed = {key: value for key, value in {**CONFIGS[step_type], **changes}.items() if value is not None}
    [(path, message)] = errors_of(workflow(step(step_type, config=changed))).items()
    assert path.startswith("steps.0.config")
    return path.removeprefix("steps.0.config").removeprefix("."), message


def test_every_type_of_step_comes_out_as_it_went_in() -> None:
    written = workflow(*(step(name, label=f"a {name}") for name in CONFIGS))
    assert unparse_definition(read(written)) == {
        **written,
        "trigger": {"eventType": "order.placed", "filters": [], "reentry": "ALWAYS"},
    }


def test_older_names_are_read_and_the_kept_ones_written() -> None:
    written = workflow(
        {"type": "email", "config": CONFIGS["SEND_EMAIL"]},
        {"type": "push", "config": {"title": "a", "body": "b"}},
        {"type": "sms", "config": {"body": "a"}},
        {"type": "ai_action", "config": {"feature": "Generate", "prompt": "a"}},
    )
    steps = unparse_definition(read(written))["steps"]
    assert [each["type"] for each in steps] == ["SEND_EMAIL", "SEND_PUSH", "SEND_SMS", "AI_ACTION"]
    assert steps[3]["config"] == {"flavor": "generate", "prompt": "a"}


def test_what_is_wrong_under_an_older_name_is_found_there() -> None:
    older = step("AI_ACTION", config={"feature": "decid", "prompt": "a"})
    both = step("AI_ACTION", config={"feature": "decide", "flavor": "decide", "prompt": "a"})
    found = errors_of(workflow(older, both))
    assert list(found) == ["steps.0.config.feature", "steps.1.config.feature"]
    assert found["steps.0.config.feature"].endswith("the nearest is decide.")
    assert found["steps.1.config.feature"] == "feature is not known here: use flavor, prompt, model, saveTo, jsonMode."


def test_what_is_absent_takes_its_default() -> None:
    push, webhook, ai = read(
        workflow(
            step("SEND_PUSH", config={"title": "", "body": "b"}),
            step("WEBHOOK", config={"url": "https://example.com", "method": "patch", "body": None}),
            step("AI_ACTION", config={"flavor": "decide", "prompt": "?"}),
        )
    ).steps
    assert isinstance(push.config, SendPush)
    assert (push.config.push.priority, push.config.ignore_quiet_hours, push.delay_minutes) == (None, False, 0)
    assert webhook.config == Webhook("https://example.com", "PATCH")
    assert ai.config.flavor is AiFlavor.DECIDE  # type: ignore[union-attr]


def test_labels_are_made_of_the_type_and_a_number_that_is_free() -> None:
    steps = read(
        workflow(step("SEND_SMS"), step("WAIT", label="send_sms_2"), step("SEND_SMS"), step("WAIT"), step("SEND_SMS"))
    ).steps
    assert [each.label for each in steps] == ["send_sms_1", "send_sms_2", "send_sms_3", "wait_1", "send_sms_4"]


@pytest.mark.parametrize("label", ["7", "-1", "1.5", "1e3", "end", "END", " a", "a ", "٣"])
def test_a_label_that_could_mean_something_else_is_refused(label: str) -> None:
    message = "A label is neither a number nor end, and has no blanks around it."
    assert errors_of(workflow(step("SEND_SMS", label=label))) == {"steps.0.label": message}


def test_a_label_is_given_once() -> None:
    twice = workflow(step("SEND_SMS", label="a"), step("SEND_SMS", label="b"), step("WAIT", label="a"))
    assert errors_of(twice) == {"steps.2.label": "Step 0 has this label already."}


def test_an_unknown_type_is_answered_with_the_nearest() -> None:
    assert errors_of(workflow({"type": "sendemail", "config": {}}, {"type": "?", "config": {}}, {"config": {}})) == {
        "steps.0.type": "sendemail is no type of step: did you mean send_email?",
        "steps.1.type": (
            "? is no type of step: use one of send_email, send_push, send_sms, webhook, update_profile, wait, branch, "
            "ai_action."
        ),
        "steps.2.type": "A step needs type.",
    }


@pytest.mark.parametrize(
    ("step_type", "missing"),
    [
        ("SEND_EMAIL", "to"),
        ("SEND_EMAIL", "subject"),
        ("SEND_EMAIL", "bodyHtml"),
        ("SEND_PUSH", "title"),
        ("SEND_PUSH", "body"),
        ("SEND_SMS", "body"),
        ("WEBHOOK", "url"),
        ("UPDATE_PROFILE", "traits"),
        ("BRANCH", "condition"),
        ("BRANCH", "ifTrue"),
        ("BRANCH", "ifFalse"),
        ("AI_ACTION", "flavor"),
        ("AI_ACTION", "prompt"),
    ],
)
def test_a_missing_key_is_named(step_type: str, missing: str) -> None:
    assert config_error(step_type, **{missing: None}) == (missing, f"{step_type.lower()} needs {missing}.")


@pytest.mark.parametrize(
    ("step_type", "key"), [(name, key) for name, config in CONFIGS.items() for key in config if key != "to"]
)
def test_a_misspelt_key_is_answered_with_the_one_that_is_meant(step_type: str, key: str) -> None:
    misspelt = f"{key[:-1]}_{key[-1]}s"
    config = {misspelt if name == key else name: value for name, value in CONFIGS[step_type].items()}
    [(path, message)] = errors_of(workflow(step(step_type, config=config))).items()
    assert path == f"steps.0.config.{misspelt}"
    assert message == f"{misspelt} is not known here: did you mean {key}?"


def test_a_key_that_is_like_none_is_answered_with_all() -> None:
    assert config_error("WAIT", zzz=1) == ("zzz", "zzz is not known here: use reason.")


def test_mail_is_a_template_or_texts() -> None:
    of_template = read(workflow(step("SEND_EMAIL", config={"to": "a@b.co", "templateId": TEMPLATE})))
    assert isinstance(of_template.steps[0].config, SendEmail)
    assert of_template.steps[0].config.template_id is not None
    assert list(named_nodes(of_template)) == [
        (NodeKind.TEMPLATE, of_template.steps[0].config.template_id, ("input", "steps", "0", "config", "templateId"))
    ]
    both = ("templateId", "Give templateId or subject and bodyHtml, not both.")
    assert config_error("SEND_EMAIL", templateId=TEMPLATE) == both
    neither = errors_of(workflow(step("SEND_EMAIL", config={"to": "a"})))
    assert neither == {"steps.0.config": "send_email needs templateId, or subject and bodyHtml."}
    wrong = {"to": "a", "templateId": AUDIENCE}
    message = "templateId must be the node id of a template."
    assert errors_of(workflow(step("SEND_EMAIL", config=wrong))) == {"steps.0.config.templateId": message}


@pytest.mark.parametrize(
    ("step_type", "key", "value", "path"),
    [
        ("SEND_EMAIL", "bodyHtml", "{{ user.name", "bodyHtml"),
        ("SEND_EMAIL", "to", "{% if %}", "to"),
        ("SEND_PUSH", "title", "{{ x | nosuchfilter }}", "title"),
        ("SEND_PUSH", "data", {"a": [{"b": "{% endif %}"}]}, "data.a.0.b"),
        ("WEBHOOK", "body", {"a": "{{"}, "body.a"),
        ("WEBHOOK", "headers", {"X-A": "{{"}, "headers.X-A"),
        ("WEBHOOK", "url", "https://example.com/{{", "url"),
        ("UPDATE_PROFILE", "traits", {"a": {"b": "{%"}}, "traits.a.b"),
        ("AI_ACTION", "prompt", "{{ a b c", "prompt"),
        ("BRANCH", "condition", {"trait": "a", "value": "{{"}, "condition.value"),
        ("WAIT", "reason", "{{", "reason"),
    ],
)
def test_a_template_that_does_not_parse_is_refused_where_it_is(step_type: str, key: str, value: Any, path: str) -> None:
    found, message = config_error(step_type, **{key: value})
    assert found == path
    assert message.startswith("Not a Liquid template")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "https://10.0.0.1/x",
        "https://169.254.169.254/latest/meta-data",
        "https://localhost/{{ user.id }}",
        "http://example.com/{{ user.id }}",
        "https://example.com:22?x={{ user.id }}",
        "gopher://example.com/",
        "example.com",
    ],
)
def test_a_url_that_may_not_be_called_is_blocked(url: str) -> None:
    path, message = config_error("WEBHOOK", url=url)
    assert path == "url"
    assert message.startswith("BLOCKED_URL: ")


@pytest.mark.parametrize(
    "url", ["{{ event.url }}", "https://{{ trait.host }}/x", "https://a.example.com/{{ user.id }}"]
)
def test_a_url_that_is_not_known_yet_is_looked_at_when_the_step_runs(url: str) -> None:
    assert read(workflow(step("WEBHOOK", config={"url": url})))


@pytest.mark.parametrize(
    ("step_type", "key", "value", "path"),
    [
        ("SEND_PUSH", "badge", True, "badge"),
        ("SEND_PUSH", "badge", 1_000_000, "badge"),
        ("SEND_PUSH", "ttlSeconds", -1, "ttlSeconds"),
        ("SEND_PUSH", "priority", "URGENT", "priority"),
        ("SEND_PUSH", "collapseId", "x" * 65, "collapseId"),
        ("SEND_PUSH", "ignoreQuietHours", "yes", "ignoreQuietHours"),
        ("SEND_PUSH", "data", {"x": "y" * 5000}, ""),
        ("SEND_SMS", "body", 7, "body"),
        ("SEND_SMS", "body", "  ", "body"),
        ("SEND_SMS", "to", ["+14155550132"], "to"),
        ("SEND_EMAIL", "subject", "x" * 999, "subject"),
        ("WEBHOOK", "method", "PSOT", "method"),
        ("WEBHOOK", "headers", {"Host": "x"}, "headers.Host"),
        ("WEBHOOK", "headers", {"X": 1}, "headers.X"),
        ("WEBHOOK", "headers", {"a b": ""}, "headers.a b"),
        ("WEBHOOK", "headers", [], "headers"),
        ("WEBHOOK", "headers", {f"X-{number}": "" for number in range(51)}, "headers"),
        ("UPDATE_PROFILE", "traits", {}, "traits"),
        ("UPDATE_PROFILE", "traits", [], "traits"),
        ("WAIT", "reason", "x" * 501, "reason"),
        ("AI_ACTION", "flavor", "genrate", "flavor"),
        ("AI_ACTION", "saveTo", "a.b", "saveTo"),
        ("AI_ACTION", "jsonMode", 1, "jsonMode"),
        ("BRANCH", "condition", "trait", "condition"),
        ("BRANCH", "condition", {"value": 1}, "condition"),
        ("BRANCH", "condition", {"trait": "a", "path": "event.seq", "value": 1}, "condition"),
        ("BRANCH", "condition", {"trait": "a"}, "condition.value"),
        ("BRANCH", "condition", {"trait": "a..b", "value": 1}, "condition.trait"),
        ("BRANCH", "condition", {"path": "events.count", "value": 1}, "condition.path"),
        ("BRANCH", "condition", {"trait": "a", "op": "GT", "value": None}, "condition.value"),
        ("BRANCH", "condition", {"trait": "a", "op": "IN", "value": 1}, "condition.value"),
        ("BRANCH", "condition", {"trait": "a", "op": "contans", "value": 1}, "condition.op"),
        ("BRANCH", "condition", {"path": "event.seq", "op": "CONTAINS", "value": 1}, "condition.op"),
        ("BRANCH", "condition", {"triat": "a", "value": 1, "trait": "b"}, "condition.triat"),
        ("BRANCH", "ifTrue", True, "ifTrue"),
        ("BRANCH", "ifTrue", "nowhere", "ifTrue"),
        ("BRANCH", "ifTrue", 1, "ifTrue"),
        ("BRANCH", "ifTrue", -1, "ifTrue"),
        ("BRANCH", "ifFalse", "01", "ifFalse"),
    ],
)
def test_a_value_that_cannot_work_is_refused_where_it_is(step_type: str, key: str, value: Any, path: str) -> None:
    assert config_error(step_type, **{key: value})[0] == path


def test_bounds_of_finished_texts_do_not_bind_templates() -> None:
    long = "{{ event.text | truncate: 10 }}" + " " * 70
    assert read(
        workflow(step("SEND_PUSH", config={"title": "a", "body": "b", "collapseId": long, "data": {"a": long}}))
    )


@pytest.mark.parametrize("op", [None, "eq", "Eq", "EQ"])
def test_a_branch_compares_in_any_case_and_for_equality_by_default(op: str | None) -> None:
    condition = {"event": "total", "value": 5, **({} if op is None else {"op": op})}
    config = read(workflow(step("BRANCH", config={**CONFIGS["BRANCH"], "condition": condition}))).steps[0].config
    assert isinstance(config, Branch)
    assert (config.condition.source, config.condition.op) == (ConditionSource.EVENT, "EQ")


def test_a_branch_may_compare_with_null() -> None:
    config = {**CONFIGS["BRANCH"], "condition": {"trait": "a", "op": "NE", "value": None}}
    written = unparse_definition(read(workflow(step("BRANCH", config=config))))
    assert written["steps"][0]["config"]["condition"] == {"trait": "a", "op": "NE", "value": None}


def test_targets_are_labels_or_indexes_and_come_out_as_they_were_written() -> None:
    branch = {**CONFIGS["BRANCH"], "ifTrue": "2", "ifFalse": "last"}
    written = workflow(
        step("BRANCH", config=branch),
        step("SEND_SMS", next="END"),
        step("SEND_SMS", next="3"),
        step("WAIT", label="last"),
    )
    steps = unparse_definition(read(written))["steps"]
    assert steps[0]["config"]["ifTrue"] == "2"
    assert [each.get("next") for each in steps] == [None, "END", "3", None]


def test_a_target_that_is_no_step_is_answered_with_the_nearest() -> None:
    written = workflow(step("SEND_SMS", label="thanks", next="thank"), step("SEND_SMS", next="2"))
    assert errors_of(written) == {
        "steps.0.next": "There is no step thank: did you mean thanks?",
        "steps.1.next": "There is no step 2: use a label, 0 to 1, or end.",
    }


def test_a_branch_has_no_next() -> None:
    message = "A branch goes on where ifTrue and ifFalse say: leave next out."
    assert errors_of(workflow(step("BRANCH", next="end"))) == {"steps.0.next": message}


def test_going_round_for_ever_is_refused_and_going_round_with_a_wait_is_not() -> None:
    circle = [step("SEND_SMS", label="a"), step("UPDATE_PROFILE", label="b", next="a")]
    message = "The steps a → b → a go round for ever: give one of them delayMinutes above 0."
    assert errors_of(workflow(*circle)) == {"steps.0": message}
    assert errors_of(workflow(*circle, step("WAIT", delayMinutes=0))) == {"steps.0": message}
    assert read(workflow(circle[0], {**circle[1], "delayMinutes": 0.5}))


@pytest.mark.parametrize("delay", [-1, 366 * 24 * 60 + 1, "5", True, float("inf"), float("nan")])
def test_a_delay_that_cannot_be_is_refused(delay: Any) -> None:
    message = "delayMinutes is a number from 0 to 527,040 (366 days)."
    assert errors_of(workflow(step("SEND_SMS", delayMinutes=delay))) == {"steps.0.delayMinutes": message}


def test_a_wait_says_for_how_long() -> None:
    assert errors_of(workflow({"type": "WAIT", "config": {}})) == {"steps.0.delayMinutes": "A step needs delayMinutes."}
    assert unparse_definition(read(workflow(step("WAIT", delayMinutes=0))))["steps"][0]["delayMinutes"] == 0


def test_a_trigger_is_an_event_or_a_schedule() -> None:
    schedule = {"cron": "0 9 * * MON-FRI", "timezone": "Europe/Berlin"}
    people = [{"path": "profile.traits.plan", "op": "EQ", "value": "pro"}]
    trigger = {"schedule": schedule, "audienceId": AUDIENCE, "filters": people, "reentry": "ONE_ACTIVE_RUN"}
    definition = read(workflow(step("SEND_SMS"), trigger=trigger))
    assert unparse_definition(definition)["trigger"] == trigger
    assert definition.trigger.reentry is ReentryPolicy.ONE_ACTIVE_RUN
    audience_id = definition.trigger.audience_id
    assert audience_id is not None
    assert list(named_nodes(definition)) == [(NodeKind.AUDIENCE, audience_id, ("input", "trigger", "audienceId"))]
    assert write_node_id(NodeKind.AUDIENCE, audience_id) == AUDIENCE


@pytest.mark.parametrize(
    ("trigger", "path"),
    [
        (None, "trigger"),
        ("order.placed", "trigger"),
        ({}, "trigger"),
        ({"eventType": "a", "schedule": {"cron": "* * * * *"}, "audienceId": AUDIENCE}, "trigger"),
        ({"schedule": {"cron": "* * * * *"}}, "trigger.audienceId"),
        ({"eventType": "a", "audienceId": TEMPLATE}, "trigger.audienceId"),
        ({"eventType": ""}, "trigger.eventType"),
        ({"eventType": "x" * 201}, "trigger.eventType"),
        ({"eventType": "a\0b"}, "trigger.eventType"),
        ({"eventType": "a", "event": "b"}, "trigger.event"),
        ({"eventType": "a", "reentry": "NEVER"}, "trigger.reentry"),
        ({"eventType": "a", "filters": [{"path": "event.nope", "op": "EXISTS"}]}, "trigger.filters.0.path"),
        ({"eventType": "a", "filters": [{"path": "run.vars.x", "op": "EXISTS"}]}, "trigger.filters.0.path"),
        (
            {
                "schedule": {"cron": "* * * * *"},
                "audienceId": AUDIENCE,
                "filters": [{"path": "event.seq", "op": "EXISTS"}],
            },
            "trigger.filters.0.path",
        ),
        ({"schedule": {"timezone": "UTC"}, "audienceId": AUDIENCE}, "trigger.schedule.cron"),
        ({"schedule": {"cron": "0 9 * *"}, "audienceId": AUDIENCE}, "trigger.schedule.cron"),
        ({"schedule": {"cron": "@daily"}, "audienceId": AUDIENCE}, "trigger.schedule.cron"),
        ({"schedule": {"cron": "60 9 * * *"}, "audienceId": AUDIENCE}, "trigger.schedule.cron"),
        ({"schedule": {"cron": "0 9 0 * *"}, "audienceId": AUDIENCE}, "trigger.schedule.cron"),
        ({"schedule": {"cron": "0 9 * FEBR *"}, "audienceId": AUDIENCE}, "trigger.schedule.cron"),
        ({"schedule": {"cron": "*/0 9 * * *"}, "audienceId": AUDIENCE}, "trigger.schedule.cron"),
        ({"schedule": {"cron": "0 9 30 2 *"}, "audienceId": AUDIENCE}, "trigger.schedule.cron"),
        (
            {"schedule": {"cron": "0 9 * * *", "timezone": "Berlin"}, "audienceId": AUDIENCE},
            "trigger.schedule.timezone",
        ),
    ],
)
def test_a_trigger_that_starts_nothing_is_refused_where_it_is_wrong(trigger: Any, path: str) -> None:
    assert list(errors_of(workflow(step("SEND_SMS"), trigger=trigger))) == [path]


@pytest.mark.parametrize("cron", ["*/15 8-18 * * 1-5", "0 0 1,15 * *", "5 4 * JAN,jul sun", "0 22-2/2 29 2 7"])
def test_five_fields_of_cron_are_taken(cron: str) -> None:
    trigger = {"schedule": {"cron": cron}, "audienceId": AUDIENCE}
    assert unparse_definition(read(workflow(step("SEND_SMS"), trigger=trigger)))["trigger"]["schedule"] == {
        "cron": cron,
        "timezone": "UTC",
    }


def test_counts_and_sizes_are_bounded() -> None:
    assert errors_of(workflow()) == {"steps": "A workflow has 1 to 100 steps."}
    too_many = [step("SEND_SMS")] * (MAX_STEPS + 1)
    assert errors_of(workflow(*too_many)) == {"steps": "LIMIT_EXCEEDED: A workflow has 1 to 100 steps."}
    long = {"body": "x" * (MAX_CONFIG_BYTES - len('{"body":""}'))}
    assert read(workflow(step("SEND_SMS", config=long)))
    longer = errors_of(workflow(step("SEND_SMS", config={"body": long["body"] + "x"})))
    assert longer["steps.0.config"].startswith("LIMIT_EXCEEDED: A config takes at most 65,536 bytes")
    several = [step("SEND_SMS", config=long)] * (MAX_STEPS_BYTES // MAX_CONFIG_BYTES)
    assert read(workflow(*several))
    assert list(errors_of(workflow(*several, step("WAIT")))) == ["steps"]


def test_what_cannot_be_stored_is_refused_where_it_is() -> None:
    for value in ("a\0", "\ud800", 2**64):
        [path] = errors_of(workflow(step("UPDATE_PROFILE", config={"traits": {"a": value}})))
        assert path in ("steps.0.config", "steps.0.config.traits.a")


def test_a_name_is_needed_and_an_empty_description_is_none() -> None:
    assert errors_of(workflow(step("SEND_SMS"), name=None)) == {"name": "A workflow needs name."}
    assert read(workflow(step("SEND_SMS"), description="")).description is None


def test_paths_begin_where_the_caller_says() -> None:
    _, errors = read_definition({}, egress=EGRESS, path=("input", "draft"))
    assert [error.path for error in errors] == [("input", "draft", key) for key in ("name", "trigger", "steps")]


def test_no_more_is_said_than_somebody_reads() -> None:
    worst = {f"k{number}": 1 for number in range(50)}
    _, errors = read_definition(workflow(*[step("WAIT", config=worst)] * 10), egress=EGRESS)
    assert len(errors) == MAX_PROBLEMS


def test_outcomes_are_spelt_as_the_documents_spell_them() -> None:
    assert [outcome.code for outcome in StepOutcome] == [
        "sent",
        "suppressed",
        "ai_unavailable",
        "ai_pending",
        "error",
        "skipped-missing-config",
        "byod-required",
        "rate-limited",
        "ok",
        "waited",
        "branched",
        "cancelled",
    ]


WORDS = st.sampled_from(["", "a", "b", "end", "1", "-1", "{{ event.x }}", "{{", "order.*", "eq", "\ud800", "x" * 120])
ANY = JSON | WORDS
TYPES = st.sampled_from([*StepType, "email", "push", "sms", "wiat"])


def objects(*keys: str, **known: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of these keys with anything in them, or with what is likely to be taken."""
    values = {key: known.get(key, ANY) | ANY for key in {*keys, *known}}
    return st.fixed_dictionaries({}, optional=values)


CONDITION = objects(
    trait=WORDS, event=WORDS, path=st.sampled_from(["event.seq", "run.vars.a", "profile.x"]), op=WORDS, value=ANY
)
CONFIG = st.one_of(
    *(objects(*keys, condition=CONDITION) for keys in KEYS.values()), st.sampled_from(list(CONFIGS.values()))
)
STEP = objects(
    type=TYPES, config=CONFIG, label=WORDS, next=WORDS | st.integers(-1, 4), delayMinutes=st.floats(-1, 600000)
)
TRIGGER = objects(
    "filters",
    eventType=WORDS,
    schedule=objects(cron=st.sampled_from(["* * * * *", "x"]), timezone=WORDS),
    audienceId=st.sampled_from([AUDIENCE, TEMPLATE]),
    reentry=st.sampled_from([*ReentryPolicy]),
)
WORKFLOW = objects("id", name=WORDS, description=WORDS, trigger=TRIGGER, steps=st.lists(STEP | ANY, max_size=4))


@settings(max_examples=300, deadline=None)
@given(WORKFLOW)
def test_no_json_makes_reading_raise_and_what_is_said_of_it_can_be_answered(written: dict[str, Any]) -> None:
    definition, errors = read_definition(written, egress=EGRESS)
    assert (definition is None) == bool(errors)
    assert msgspec.json.encode(errors)


GOOD_LABELS = st.lists(
    st.none() | st.text("abc é🎈", min_size=1, max_size=4).filter(lambda text: text == text.strip()),
    min_size=1,
    max_size=6,
    unique_by=lambda label: label if label is not None else object(),
)


@st.composite
def good_workflows(draw: st.DrawFn) -> dict[str, Any]:
    labels = draw(GOOD_LABELS)
    targets = st.sampled_from([*(label for label in labels if label is not None), *range(len(labels)), "0", "end"])
    steps = []
    for label in labels:
        name = draw(st.sampled_from(sorted(CONFIGS)))
        config = dict(CONFIGS[name])
        optional = [key for key in config if key in OPTIONAL[name]]
        for key in draw(st.lists(st.sampled_from(optional), unique=True)) if optional else ():
            del config[key]
        made: dict[str, Any] = {"type": name, "config": config, "delayMinutes": draw(st.floats(0.01, 500000))}
        if name == "BRANCH":
            made["config"] = {"condition": draw(GOOD_CONDITION), "ifTrue": draw(targets), "ifFalse": draw(targets)}
        elif draw(st.booleans()):
            made["next"] = draw(targets)
        if label is not None:
            made["label"] = label
        steps.append(made)
    return workflow(*steps, description=draw(st.none() | st.just("why")), trigger=draw(GOOD_TRIGGER))


OPTIONAL = {
    "SEND_EMAIL": ("from",),
    "SEND_PUSH": ("data", "badge", "priority", "url", "ignoreQuietHours"),
    "SEND_SMS": ("to",),
    "WEBHOOK": ("method", "headers", "body"),
    "UPDATE_PROFILE": (),
    "WAIT": ("reason",),
    "BRANCH": (),
    "AI_ACTION": ("model", "saveTo", "jsonMode"),
}
GOOD_CONDITION = st.fixed_dictionaries(
    {"op": st.sampled_from(["EQ", "ne"]), "value": st.none() | st.booleans() | st.integers(0, 9) | st.just("{{ a }}")}
).flatmap(
    lambda test: st.sampled_from([{"trait": "a.b"}, {"event": "total"}, {"path": "run.vars.x"}]).map(
        lambda source: {**source, **test}
    )
)
FILTERS = st.lists(
    st.sampled_from(
        [
            {"path": "profile.traits.a", "op": "IN", "value": [1, None]},
            {"not": {"path": "profile.anonymous", "op": "EQ", "value": True}},
            {"any": [{"events": {"eventType": "user.signed_up", "withinSeconds": 5}, "op": "GT", "value": 0}]},
        ]
    ),
    max_size=3,
)
GOOD_TRIGGER = st.fixed_dictionaries(
    {"eventType": st.sampled_from(["order.placed", "*"])},
    optional={"filters": FILTERS, "audienceId": st.just(AUDIENCE), "reentry": st.sampled_from([*ReentryPolicy])},
) | st.fixed_dictionaries(
    {"schedule": st.just({"cron": "0  9 * * *"}), "audienceId": st.just(AUDIENCE)}, optional={"filters": FILTERS}
)


@settings(max_examples=200, deadline=None)
@given(good_workflows())
def test_what_is_read_and_written_and_read_again_is_the_same(written: dict[str, Any]) -> None:
    once = read(written)
    exported = json.loads(json.dumps(unparse_definition(once)))
    again = read(exported)
    assert again == once
    assert json.dumps(unparse_definition(again)) == json.dumps(exported)
