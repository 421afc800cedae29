"""The JSON Schema of bundles, for editors that complete and check what somebody writes by hand.

Guarantees: every bundle that is exported is valid, and a misspelt key nowhere is. It knows what a document can say of
itself: keys, types, words, what goes with what. Leaves to the import: bounds, templates that do not parse, targets of
branches, URLs, and whether a project has what is named. Draft 7, which editors know best. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from db.filters import ConditionOperator
from engine.audiences.saving import MAX_NAME_CHARACTERS as MAX_AUDIENCE_NAME_CHARACTERS
from engine.channels.webhook import METHODS
from engine.push.content import PushPriority
from engine.workflows.bundle_format import MAX_WORKFLOWS
from engine.workflows.configs import KEYS
from engine.workflows.definition import AiFlavor, ConditionSource, ReentryPolicy, StepType
from engine.workflows.validation import MAX_DELAY_MINUTES, MAX_LABEL_CHARACTERS, MAX_NAME_CHARACTERS, MAX_STEPS

SCHEMA_PATH = "/schemas/workflow-bundle.json"
"""Where it is served, below the public URL of the deployment."""
DIALECT = "http://json-schema.org/draft-07/schema#"

Schema = dict[str, Any]
_ANYTHING: Schema = {}


def schema_url(public_url: str) -> str:
    """The URL that bundles of a deployment name as their `$schema`."""
    return f"{public_url}{SCHEMA_PATH}"


def bundle_schema(public_url: str) -> Schema:
    """The whole schema."""
    return {
        "$schema": DIALECT,
        "$id": schema_url(public_url),
        "title": "Bundle of workflows",
        "description": "Workflows and audiences of a project, with names instead of ids.",
        **_object(
            {
                "$schema": _text("Where this schema is."),
                "audiences": _list(
                    {"$ref": "#/definitions/audience"}, "Made or changed with the workflows.", most=MAX_WORKFLOWS
                ),
                "workflows": _list(
                    {"$ref": "#/definitions/workflow"}, "What else there is is left alone.", most=MAX_WORKFLOWS
                ),
            }
        ),
        "definitions": {
            "audience": _audience(),
            "workflow": _workflow(),
            "trigger": _trigger(),
            "step": _step(),
            "condition": _condition(),
            **{step_type.value: _config(step_type) for step_type in StepType},
        },
    }


def _object(properties: Mapping[str, Schema], needed: tuple[str, ...] = (), **rest: Any) -> Schema:
    required = {"required": list(needed)} if needed else {}
    return {
        "type": "object",
        "properties": dict(properties),
        **required,
        "additionalProperties": False,
        **rest,
    }


def _list(items: Schema, description: str, *, least: int = 0, most: int | None = None) -> Schema:
    bounds = {"minItems": least, "maxItems": most}
    held = {key: value for key, value in bounds.items() if value}
    return {"type": "array", "items": items, **held, "description": description}


def _text(description: str, **rest: Any) -> Schema:
    return {"type": "string", **rest, "description": description}


def _words(words: Any, description: str) -> Schema:
    return {"enum": [str(word) for word in words], "description": description}


def _flag(description: str) -> Schema:
    return {"type": "boolean", "description": description}


def _audience() -> Schema:
    name = _text("Once per project.", minLength=1, maxLength=MAX_AUDIENCE_NAME_CHARACTERS)
    return _object({"name": name, "where": _conditions("Who belongs to it; empty: everybody.")}, ("name", "where"))


def _workflow() -> Schema:
    return _object(
        {
            "name": _text("Once per project; says which one is meant.", minLength=1, maxLength=MAX_NAME_CHARACTERS),
            "description": _text("For people."),
            "isActive": _flag("Whether it starts runs. Without it that stays as it is; a new one is off."),
            "trigger": {"$ref": "#/definitions/trigger"},
            "steps": _list({"$ref": "#/definitions/step"}, "In their order.", least=1, most=MAX_STEPS),
        },
        ("name", "trigger", "steps"),
    )


def _trigger() -> Schema:
    schedule = _object(
        {
            "cron": _text("Minute, hour, day of the month, month, day of the week, e.g. 0 9 * * MON-FRI."),
            "timezone": _text("IANA name; UTC if absent."),
        },
        ("cron",),
        description="Instead of an event: for every member of the audience, each time it is due.",
    )
    return _object(
        {
            "eventType": _text("Exact or wildcard: order.placed, csat.*."),
            "schedule": schedule,
            "filters": _conditions("All of these hold."),
            "audience": _text("Name of the audience; only its members."),
            "reentry": _words(ReentryPolicy, "Whether somebody may go through it again; ALWAYS if absent."),
        },
        oneOf=[{"required": ["eventType"]}, {"required": ["schedule", "audience"]}],
    )


def _step() -> Schema:
    properties = {
        "label": _text("Unique in the workflow; never a number, never end.", maxLength=MAX_LABEL_CHARACTERS),
        "type": _words(StepType, "What it does."),
        "config": {"type": "object", "description": "Shape by type."},
        "delayMinutes": {
            "type": "number",
            "minimum": 0,
            "maximum": MAX_DELAY_MINUTES,
            "description": "How long it waits before it runs.",
        },
        "next": _target("The step that follows, by default the next in the list."),
    }
    return _object(properties, ("type", "config"), allOf=[_by_type(step_type) for step_type in StepType])


def _by_type(step_type: StepType) -> Schema:
    """What holds for the steps of one type."""
    then: Schema = {"properties": {"config": {"$ref": f"#/definitions/{step_type.value}"}}}
    if step_type is StepType.WAIT:
        then["required"] = ["delayMinutes"]
    if step_type is StepType.BRANCH:
        then["not"] = {"required": ["next"]}
    return {"if": {"properties": {"type": {"const": step_type.value}}, "required": ["type"]}, "then": then}


def _target(description: str) -> Schema:
    return {"type": ["string", "integer"], "description": f"{description} A label, an index from 0, or end."}


def _condition() -> Schema:
    """ConditionInput."""
    count = _object(
        {
            "eventType": _text("Exact or wildcard."),
            "where": _conditions("On the events that count."),
            "withinSeconds": {"type": "integer", "minimum": 1, "description": "Looking back from now."},
            "sum": _text("Sum of this property instead of the count, e.g. event.properties.amount."),
        },
        ("eventType",),
        description="Instead of path: how often an event happened, compared by op and value.",
    )
    inner = {"$ref": "#/definitions/condition"}
    compares = {"anyOf": [{"required": ["op"]}, {"required": ["value"]}]}
    return _object(
        {
            "path": _text("E.g. event.properties.amount, profile.traits.plan."),
            "events": count,
            "op": _words(ConditionOperator, "How to compare."),
            "value": _ANYTHING,
            "any": _list(inner, "One of them holds.", least=1),
            "all": _list(inner, "All of them hold.", least=1),
            "not": inner,
        },
        oneOf=[
            {"required": ["path", "op"]},
            {"required": ["events", "op", "value"]},
            *({"required": [group], "not": compares} for group in ("any", "all", "not")),
        ],
    )


def _conditions(description: str) -> Schema:
    return _list({"$ref": "#/definitions/condition"}, description)


def _branch_condition() -> Schema:
    return _object(
        {
            ConditionSource.TRAIT.value: _text("A trait of the person."),
            ConditionSource.EVENT.value: _text("A property of the event, else a part of its envelope."),
            ConditionSource.PATH.value: _text("As in conditions, e.g. run.vars.x."),
            "op": _words(ConditionOperator, "How to compare; EQ if absent."),
            "value": _ANYTHING,
        },
        oneOf=[{"required": [source.value]} for source in ConditionSource],
    )


def _config(step_type: StepType) -> Schema:
    """What a type of step takes: the keys are those that are read, with a name in the place of the one id."""
    properties = {_IN_BUNDLE.get(key, key): _PROPERTIES[step_type][key] for key in KEYS[step_type]}
    return _object(properties, _NEEDED.get(step_type, ()), **_ALTERNATIVES.get(step_type, {}))


_IN_BUNDLE = {"templateId": "template"}
_NEEDED: Mapping[StepType, tuple[str, ...]] = {
    StepType.SEND_EMAIL: ("to",),
    StepType.SEND_PUSH: ("title", "body"),
    StepType.SEND_SMS: ("body",),
    StepType.WEBHOOK: ("url",),
    StepType.UPDATE_PROFILE: ("traits",),
    StepType.BRANCH: ("condition", "ifTrue", "ifFalse"),
    StepType.AI_ACTION: ("flavor", "prompt"),
}
_TEXTS = ("subject", "bodyHtml", "bodyText")
_ALTERNATIVES: Mapping[StepType, Schema] = {
    StepType.SEND_EMAIL: {
        "oneOf": [
            {"required": ["template"], "not": {"anyOf": [{"required": [key]} for key in _TEXTS]}},
            {
                "required": ["subject"],
                "anyOf": [{"required": ["bodyHtml"]}, {"required": ["bodyText"]}],
                "not": {"required": ["template"]},
            },
        ]
    }
}
_PROPERTIES: Mapping[StepType, Mapping[str, Schema]] = {
    StepType.SEND_EMAIL: {
        "to": _text("One address, e.g. {{ user.email }}."),
        "templateId": _text("Name of a template for email; instead of subject and body."),
        "subject": _text("Liquid."),
        "bodyHtml": _text("Liquid; values are escaped."),
        "bodyText": _text("Liquid; made from the HTML if absent."),
        "from": _text("Sender, under a verified domain; the provider's if absent."),
        "replyTo": _text("Where answers go."),
    },
    StepType.SEND_PUSH: {
        "title": _text("Liquid."),
        "body": _text("Liquid."),
        "data": {"description": "For the app."},
        "imageUrl": _text("An image to show."),
        "sound": _text("Name of a sound."),
        "badge": {"type": "integer", "description": "Number on the app's icon."},
        "collapseId": _text("A later push with the same takes its place."),
        "ttlSeconds": {"type": "integer", "description": "How long it is kept for a device that is off."},
        "priority": _words(PushPriority, "HIGH if absent."),
        "category": _text("Which actions the app offers."),
        "threadId": _text("What it is grouped with."),
        "url": _text("Where it leads."),
        "ignoreQuietHours": _flag("Sent at night, too."),
    },
    StepType.SEND_SMS: {
        "to": _text("A number in E.164; the trait phone if absent."),
        "body": _text("Liquid."),
    },
    StepType.WEBHOOK: {
        "url": _text("An https URL; Liquid."),
        "method": _words(sorted(METHODS), "POST if absent."),
        "headers": {"type": "object", "additionalProperties": {"type": "string"}, "description": "Of your own."},
        "body": {"description": "Sent as JSON, a text as it is; the event if absent."},
    },
    StepType.UPDATE_PROFILE: {
        "traits": {"type": "object", "minProperties": 1, "description": "Merged into the person's; null removes one."},
    },
    StepType.WAIT: {"reason": _text("For people.")},
    StepType.BRANCH: {
        "condition": _branch_condition(),
        "ifTrue": _target("Where it goes on if the condition holds."),
        "ifFalse": _target("Where it goes on if not."),
    },
    StepType.AI_ACTION: {
        "flavor": _words(AiFlavor, "A text, yes or no, or JSON."),
        "prompt": _text("Liquid."),
        "model": _text("The project's if absent."),
        "saveTo": _text("Variable of the run: {{ run.vars.<saveTo> }}.", pattern="^[A-Za-z_][A-Za-z0-9_]{0,63}$"),
        "jsonMode": _flag("Whether the text has to be JSON."),
    },
}
