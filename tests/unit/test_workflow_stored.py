"""Definitions are read from where they are kept exactly as they were written, whatever rules hold by then."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db.filters import Condition
from engine.workflows.blueprints import BLUEPRINTS
from engine.workflows.definition import (
    Definition,
    SendEmail,
    Step,
    StepType,
    Trigger,
    UpdateProfile,
    Wait,
    Webhook,
)
from engine.workflows.stored import decode_definition, decode_trigger, encode_definition
from engine.workflows.validation import Changes, read_changes, read_definition
from tests.integration.condition_strategies import JSON
from tests.unit.test_workflow_validation import CONFIGS, EGRESS, WORKFLOW, good_workflows, read, step, workflow


def test_every_type_of_step_is_kept() -> None:
    written = read(workflow(*(step(name) for name in CONFIGS)))
    assert {each.type for each in written.steps} == {*StepType}

    assert decode_definition(encode_definition(written)) == written


@settings(max_examples=100, deadline=None)
@given(good_workflows())
def test_what_validation_makes_is_kept(written: dict[str, Any]) -> None:
    definition = read(written)
    stored = encode_definition(definition)

    assert decode_definition(stored) == definition
    assert decode_definition(stored.encode()) == definition
    assert decode_trigger(json.dumps(json.loads(stored)["trigger"])) == definition.trigger


@settings(max_examples=200, deadline=None)
@given(WORKFLOW)
def test_whatever_is_accepted_can_be_kept(written: dict[str, Any]) -> None:
    definition, _ = read_definition(written, egress=EGRESS)
    if definition is not None:
        assert decode_definition(encode_definition(definition)) == definition
    changes, errors = read_changes(written, egress=EGRESS)
    assert (changes is None) == bool(errors)
    assert msgspec.json.encode(errors)
    if changes is not None:
        changed = changes.over(BLUEPRINTS["birthday"].definition)
        assert decode_definition(encode_definition(changed)) == changed


def test_changes_are_what_was_given_and_no_more() -> None:
    stored = BLUEPRINTS["birthday"].definition
    assert read_changes({}, egress=EGRESS) == (Changes(), ())
    assert Changes().over(stored) == stored
    changes, _ = read_changes({"description": "", "isActive": True, "expectedVersion": 3}, egress=EGRESS)
    assert changes == Changes(description=None)
    assert changes.over(stored) == msgspec.structs.replace(stored, description=None)
    _, errors = read_changes({"nmae": "x", "trigger": None}, egress=EGRESS)
    assert [error.path for error in errors] == [("input", "nmae"), ("input", "trigger")]


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text("ab.é", max_size=3), JSON, max_size=3))
def test_json_of_the_author_keeps_its_numbers_and_the_order_of_its_members(value: dict[str, Any]) -> None:
    steps = (Step("call", StepType.WEBHOOK, Webhook("https://a.example/", body=value)),)
    steps += (Step("keep", StepType.UPDATE_PROFILE, UpdateProfile(value)),)
    again = decode_definition(encode_definition(Definition("a", Trigger(event_type="*"), steps)))

    assert repr([each.config for each in again.steps]) == repr([each.config for each in steps])


@pytest.mark.parametrize("key", BLUEPRINTS)
def test_blueprints_are_kept(key: str) -> None:
    definition = BLUEPRINTS[key].definition
    assert decode_definition(encode_definition(definition)) == definition


def test_an_old_version_is_read_although_it_would_be_refused_today() -> None:
    steps = (Step("end", StepType.WAIT, Wait(), delay_minutes=1e9), Step("end", StepType.WAIT, Wait(), next="nowhere"))
    old = Definition("x" * 500, Trigger(filters=(Condition(path="event.gone", op="LIKE"),)), steps)

    assert decode_definition(encode_definition(old)) == old


def test_what_another_release_wrote_is_read() -> None:
    sent = {"label": "a", "type": "SEND_EMAIL", "config": {"to": "b", "template_id": str(UUID(int=1)), "later": {}}}
    text = json.dumps({"name": "n", "trigger": {"event_type": "*", "later": 1}, "steps": [sent], "later": [None]})

    config = SendEmail("b", template_id=UUID(int=1))
    assert decode_definition(text) == Definition("n", Trigger("*"), (Step("a", StepType.SEND_EMAIL, config),))


def test_anything_else_is_no_definition() -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_definition('{"name": "n"}')
