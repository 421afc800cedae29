"""Bundles as documents: what is read, what is refused, in which words, and what comes out; and their JSON Schema."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from engine.egress import Egress
from engine.errors import UserError
from engine.workflows.bundle_format import (
    Bundle,
    depth_of,
    read_bundle,
    write_audience,
    write_bundle,
    write_workflow,
)
from engine.workflows.bundle_schema import bundle_schema, schema_url
from engine.workflows.configs import KEYS
from engine.workflows.definition import StepType
from tests.integration.bundle_strategies import bundles

PUBLIC_URL = "https://gateway.example"
EGRESS = Egress()
SCHEMA = bundle_schema(PUBLIC_URL)
VALIDATOR = Draft7Validator(SCHEMA)
CONFIGS: dict[str, dict[str, Any]] = {
    "SEND_EMAIL": {"to": "{{ user.email }}", "template": "Welcome", "from": "a@b.co", "replyTo": "c@d.co"},
    "SEND_PUSH": {
        "title": "Hi",
        "body": "there",
        "data": {"a": 1},
        "imageUrl": "https://example.com/a",
        "sound": "s",
        "badge": 3,
        "collapseId": "c",
        "ttlSeconds": 60,
        "priority": "NORMAL",
        "category": "c",
        "threadId": "t",
        "url": "https://example.com",
        "ignoreQuietHours": True,
    },
    "SEND_SMS": {"to": "+14155550132", "body": "Hi"},
    "WEBHOOK": {"url": "https://example.com/a", "method": "PUT", "headers": {"X-A": "b"}, "body": {"a": 1}},
    "UPDATE_PROFILE": {"traits": {"plan": "pro"}},
    "WAIT": {"reason": "a while"},
    "BRANCH": {"condition": {"trait": "plan", "op": "EQ", "value": "pro"}, "ifTrue": "end", "ifFalse": "end"},
    "AI_ACTION": {"flavor": "extract", "prompt": "p", "model": "m", "saveTo": "answer", "jsonMode": True},
}
MAILS = {"to": "a@b.co", "subject": "Hi", "bodyHtml": "<p>Hi</p>", "bodyText": "Hi"}


def read(written: Any) -> Bundle:
    bundle, errors = read_bundle(written, egress=EGRESS)
    assert errors == ()
    assert bundle is not None
    return bundle


def written_again(bundle: Bundle) -> dict[str, Any]:
    """What was read, as it is exported; what the bundle did not say of a workflow's being on is off."""
    return write_bundle(
        schema_url(PUBLIC_URL),
        [write_audience(each.name, each.conditions) for each in bundle.audiences],
        [
            write_workflow(
                each.definition,
                is_active=each.is_active is True,
                name_of=lambda _kind, symbol: bundle.names[symbol][1],
            )
            for each in bundle.workflows
        ],
    )


def errors_of(written: Any) -> dict[str, str]:
    bundle, errors = read_bundle(written, egress=EGRESS)
    assert bundle is None
    assert errors
    assert all(error.path[0] == "bundle" for error in errors)
    return {".".join(error.path[1:]): _said(error) for error in errors}


def _said(error: UserError) -> str:
    return error.message if error.code == "INVALID" else f"{error.code}: {error.message}"


def workflow(*steps: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "name": "Hello",
        "trigger": {"eventType": "order.placed"},
        "steps": list(steps or [step("WAIT")]),
        **changes,
    }


def step(step_type: str, **changes: Any) -> dict[str, Any]:
    delay = {"delayMinutes": 60} if step_type == "WAIT" else {}
    return {"type": step_type, "config": CONFIGS[step_type], **delay, **changes}


def one(**changes: Any) -> dict[str, Any]:
    return {"workflows": [workflow(**changes)]}


@settings(max_examples=20, deadline=None)
@given(bundles())
def test_what_is_written_is_valid_reads_the_same_and_is_written_the_same(written: dict[str, Any]) -> None:
    first = written_again(read(written))
    assert list(VALIDATOR.iter_errors(first)) == []
    again = written_again(read(json.loads(json.dumps(first))))
    assert json.dumps(again) == json.dumps(first)


@settings(max_examples=15, deadline=None)
@given(bundles(), st.data())
def test_the_schema_and_the_import_refuse_every_misspelt_key(written: dict[str, Any], data: st.DataObject) -> None:
    canonical = written_again(read(written))
    places = list(_named_members(canonical))
    for path in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=6)):
        misspelt = copy.deepcopy(canonical)
        parent: Any = misspelt
        for part in path[:-1]:
            parent = parent[part]
        parent[f"{path[-1]}x"] = parent.pop(path[-1])
        assert not VALIDATOR.is_valid(misspelt), path
        bundle, errors = read_bundle(misspelt, egress=EGRESS)
        assert bundle is None, path
        named = any(f"{path[-1]}x" in error.path for error in errors)
        # Of a condition that is wrong in two ways, one is said.
        assert named or "filters" in path or "where" in path, (path, errors)


def _named_members(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all members whose names are ours."""
    if isinstance(value, list):
        for index, each in enumerate(value):
            yield from _named_members(each, (*path, index))
    if isinstance(value, dict):
        for key, each in value.items():
            yield (*path, key)
            if key not in ("body", "data", "headers", "traits", "value"):
                yield from _named_members(each, (*path, key))


class TestSchema:
    def test_is_itself_valid(self) -> None:
        Draft7Validator.check_schema(SCHEMA)
        assert SCHEMA["$id"] == "https://gateway.example/schemas/workflow-bundle.json"

    @pytest.mark.parametrize("step_type", list(StepType))
    def test_knows_the_keys_that_are_read(self, step_type: StepType) -> None:
        known = SCHEMA["definitions"][step_type.value]["properties"]
        assert list(known) == ["template" if key == "templateId" else key for key in KEYS[step_type]]

    @pytest.mark.parametrize(
        ("step_type", "key"), [(name, key) for name, config in CONFIGS.items() for key in (None, *config)]
    )
    def test_needs_what_is_needed(self, step_type: str, key: str | None) -> None:
        """With any one key left out, or none, it says what the import says."""
        config = {each: value for each, value in CONFIGS[step_type].items() if each != key}
        written = {"workflows": [workflow(step(step_type, config=config))]}
        assert VALIDATOR.is_valid(written) == (read_bundle(written, egress=EGRESS)[0] is not None), (step_type, key)

    @pytest.mark.parametrize("keys", [(), *([key] for key in MAILS), ["subject", "bodyText"], ["subject", "bodyHtml"]])
    @pytest.mark.parametrize("named", [{}, {"template": "Welcome"}])
    def test_takes_a_template_or_texts(self, keys: list[str], named: dict[str, str]) -> None:
        written = {"workflows": [workflow(step("SEND_EMAIL", config={"to": "x", **named, **dict.fromkeys(keys, "x")}))]}
        assert VALIDATOR.is_valid(written) == (read_bundle(written, egress=EGRESS)[0] is not None)

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"name": 1},
            {"name": ""},
            {"isActive": "yes"},
            {"description": 1},
            {"steps": []},
            {"steps": {}},
            {"trigger": {}},
            {"trigger": {"eventType": "a", "schedule": {"cron": "0 9 * * *"}, "audience": "VIPs"}},
            {"trigger": {"schedule": {"cron": "0 9 * * *"}}},
            {"trigger": {"schedule": {"cron": "0 9 * * *"}, "audience": "VIPs"}},
            {"trigger": {"schedule": {"timezone": "UTC"}, "audience": "VIPs"}},
            {"trigger": {"eventType": "a", "reentry": "SOMETIMES"}},
            {"trigger": {"eventType": "a", "filters": [{"path": "event.userId", "op": "EQ", "value": "x"}]}},
            {"trigger": {"eventType": "a", "filters": [{"path": "event.userId", "op": "LIKE", "value": "x"}]}},
            {"trigger": {"eventType": "a", "filters": [{"path": "event.userId"}]}},
            {"trigger": {"eventType": "a", "filters": [{"any": []}]}},
            {
                "trigger": {
                    "eventType": "a",
                    "filters": [{"any": [{"path": "event.userId", "op": "EXISTS"}], "op": "EQ"}],
                }
            },
            {"trigger": {"eventType": "a", "filters": [{"not": {"path": "event.userId", "op": "EXISTS"}}]}},
            {"trigger": {"eventType": "a", "filters": [{"events": {"eventType": "b"}, "op": "GT", "value": 1}]}},
            {"trigger": {"eventType": "a", "filters": [{"events": {"eventType": "b"}, "op": "GT"}]}},
            {"steps": [{"type": "WAIT", "config": {}}]},
            {"steps": [{"type": "WAIT", "config": {}, "delayMinutes": -1}]},
            {"steps": [{"type": "SLEEP", "config": {}}]},
            {"steps": [{"config": {}}]},
            {"steps": [{"type": "SEND_SMS", "config": {"body": 1}}]},
            {"steps": [{**step("BRANCH"), "next": "end"}]},
            {"steps": [step("BRANCH", config={**CONFIGS["BRANCH"], "condition": {"trait": "a", "event": "b"}})]},
        ],
        ids=json.dumps,
    )
    def test_says_what_the_import_says(self, changes: dict[str, Any]) -> None:
        written = one(**changes)
        assert VALIDATOR.is_valid(written) == (read_bundle(written, egress=EGRESS)[0] is not None)


class TestWriting:
    def test_names_take_the_place_of_ids_and_older_names_of_types_are_replaced(self) -> None:
        written = written_again(
            read(
                {
                    "audiences": [{"where": [], "name": "VIPs"}],
                    "workflows": [
                        {
                            "steps": [
                                {
                                    "type": "email",
                                    "config": {"template": "Welcome", "to": "{{ user.email }}"},
                                    "delayMinutes": 1440.0,
                                },
                                {"config": {"feature": "generate", "prompt": "p"}, "type": "ai_action"},
                                {
                                    "type": "webhook",
                                    "config": {"url": "https://example.com", "body": {"b": {"d": 1, "c": 2}, "a": 1.0}},
                                },
                            ],
                            "trigger": {"schedule": {"cron": "0 9 * * *"}, "audience": "VIPs"},
                            "name": "Hello",
                        }
                    ],
                }
            )
        )
        expected = {
            "$schema": "https://gateway.example/schemas/workflow-bundle.json",
            "audiences": [{"name": "VIPs", "where": []}],
            "workflows": [
                {
                    "name": "Hello",
                    "isActive": False,
                    "trigger": {
                        "schedule": {"cron": "0 9 * * *", "timezone": "UTC"},
                        "filters": [],
                        "audience": "VIPs",
                        "reentry": "ALWAYS",
                    },
                    "steps": [
                        {
                            "label": "send_email_1",
                            "type": "SEND_EMAIL",
                            "config": {"to": "{{ user.email }}", "template": "Welcome"},
                            "delayMinutes": 1440,
                        },
                        {
                            "label": "ai_action_1",
                            "type": "AI_ACTION",
                            "config": {"flavor": "generate", "prompt": "p"},
                        },
                        {
                            "label": "webhook_1",
                            "type": "WEBHOOK",
                            "config": {
                                "url": "https://example.com",
                                "method": "POST",
                                "body": {"a": 1.0, "b": {"c": 2, "d": 1}},
                            },
                        },
                    ],
                }
            ],
        }
        assert json.dumps(written) == json.dumps(expected)

    def test_lists_are_sorted_by_name(self) -> None:
        names = ["b", "é", "B", "a"]
        written = written_again(
            read(
                {
                    "audiences": [{"name": name, "where": []} for name in names],
                    "workflows": [workflow(name=name) for name in names],
                }
            )
        )
        for key in ("audiences", "workflows"):
            assert [each["name"] for each in written[key]] == ["B", "a", "b", "é"]

    @pytest.mark.parametrize(
        ("value", "depth"), [(1, 0), ([], 1), ({}, 1), ({"a": [1, {"b": []}]}, 4), ([[], [[]]], 3)]
    )
    def test_depth_counts_arrays_and_objects(self, value: Any, depth: int) -> None:
        assert depth_of(value) == depth


class TestReading:
    @pytest.mark.parametrize("written", [None, [], "text", 1, True])
    def test_a_bundle_is_an_object(self, written: Any) -> None:
        assert errors_of(written) == {"": "A bundle is a JSON object, as exportWorkflows gives it."}

    def test_an_empty_one_holds_nothing(self) -> None:
        assert read({}) == Bundle((), (), {})

    def test_everything_that_is_wrong_is_said_at_once_with_its_path(self) -> None:
        mail = {"to": "a@b.co", "template": "Welcome"}
        written = {
            "$schema": 7,
            "workflow": [],
            "audiences": [{"name": "VIPs"}, {"name": "VIPs", "where": []}, 7, {"name": "x", "where": [{"path": "a"}]}],
            "workflows": [
                {
                    "id": "wfl_1",
                    "name": "Hello",
                    "isActive": 1,
                    "trigger": {"eventType": "a", "audienceId": "aud_1"},
                    "steps": [
                        step("SEND_EMAIL", config={**mail, "templateId": "tpl_1"}),
                        step("SEND_EMAIL", config={**mail, "template": 7}),
                        step("SEND_EMAIL", config={"to": "a@b.co", "templte": "Welcome"}),
                        step("SEND_EMAIL", config={**mail, "subject": "Hi"}),
                        step("SEND_PUSH", config={"title": "{{", "body": ""}),
                    ],
                },
                workflow(trigger={"schedule": {"cron": "0 9 * * *"}}, name="Hello"),
                [],
            ],
        }
        assert errors_of(written) == {
            "workflow": "workflow is not known here: did you mean workflows?",
            "$schema": "$schema must be a string.",
            "audiences.1.name": "VIPs is the name of audiences.0 already.",
            "audiences.2": "Each of audiences must be an object.",
            "audiences.0.where": "An audience needs where.",
            "audiences.3.where.0.op": "bundle.audiences.3.where.0.op is missing: say how to compare, e.g. EQ.",
            "workflows.1.name": "Hello is the name of workflows.0 already.",
            "workflows.2": "Each of workflows must be an object.",
            "workflows.0.id": "id is not known here: a bundle goes by names.",
            "workflows.0.isActive": "isActive must be true or false.",
            "workflows.0.trigger.audienceId": "audienceId is not known here: give audience, by its name.",
            "workflows.0.steps.0.config.templateId": "templateId is not known here: give template, by its name.",
            "workflows.0.steps.1.config.template": "template must be a name.",
            "workflows.0.steps.2.config.templte": "templte is not known here: did you mean template?",
            "workflows.0.steps.3.config.template": "Give template or subject, not both.",
            "workflows.0.steps.4.config.title": errors_of(
                one(steps=[step("SEND_PUSH", config={"title": "{{", "body": ""})])
            )["workflows.0.steps.0.config.title"],
            "workflows.1.trigger.audience": "A schedule needs audience: the people for whom the workflow starts.",
        }

    def test_bounds(self) -> None:
        assert errors_of({"workflows": [{}] * 1001}) == {
            "workflows": "LIMIT_EXCEEDED: A bundle has at most 1,000 workflows."
        }
        assert errors_of({"audiences": {}}) == {"audiences": "audiences must be a list."}
        named = errors_of(one(trigger={"eventType": "a", "audience": "x" * 501}))
        assert named == {"workflows.0.trigger.audience": "audience must have 1 to 500 characters."}
        half = errors_of(one(trigger={"eventType": "a", "audience": "\ud800"}))
        assert half == {"workflows.0.trigger.audience": "audience contains half of a surrogate pair."}

    def test_a_webhook_to_a_private_address_is_refused(self) -> None:
        written = one(steps=[step("WEBHOOK", config={"url": "https://10.0.0.1/"})])
        assert errors_of(written)["workflows.0.steps.0.config.url"].startswith("BLOCKED_URL: ")

    def test_a_label_that_is_called_like_an_id_is_left_alone(self) -> None:
        assert (
            read(one(steps=[step("WAIT", label="templateId")])).workflows[0].definition.steps[0].label == "templateId"
        )
