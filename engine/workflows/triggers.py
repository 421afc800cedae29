"""What starts a workflow: from the JSON that clients write, and back into it.

Guarantees: what `read_trigger` gives can be matched against an event, or has a time table of five fields in a time zone
that exists, and is due some day. Leaves to others: whether the audience exists, and when a schedule is due next.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from db.filters import Condition
from engine.conditions import InvalidCondition, parse_conditions, unparse_conditions
from engine.node_ids import NodeKind, parse_node_id, write_node_id
from engine.push.quiet_hours import find_zone
from engine.workflows.definition import ReentryPolicy, Schedule, Trigger
from engine.workflows.fields import Fields
from engine.workflows.schedules import InvalidCron, read_cron

MAX_EVENT_TYPE_CHARACTERS = 200
"""Of a name or wildcard: no stored name is longer."""
MAX_CRON_CHARACTERS = 200

_KEYS = ("eventType", "schedule", "filters", "audienceId", "reentry")
_EVENT_FILTER_ROOTS = frozenset({"event", "profile", "events"})
_SCHEDULE_FILTER_ROOTS = frozenset({"profile", "events"})


def read_trigger(outer: Fields) -> Trigger | None:
    """The trigger of a workflow; None without one. What is wrong goes to the problems of `outer`."""
    given = outer.object("trigger", needed=True)
    if given is None:
        return None
    fields = Fields(given, outer.at("trigger"), outer.problems, name="A trigger", known=_KEYS)
    event_type = fields.text("eventType", most=MAX_EVENT_TYPE_CHARACTERS)
    schedule = _read_schedule(fields)
    if fields.has("eventType") == fields.has("schedule"):
        fields.problems.add("A trigger has either eventType or schedule.", fields.path)
    audience_id = _read_audience(fields)
    if fields.has("schedule") and not fields.has("audienceId"):
        message = "A schedule needs audienceId: the people for whom the workflow starts."
        fields.problems.add(message, fields.at("audienceId"))
    return Trigger(
        event_type=event_type,
        schedule=schedule,
        filters=_read_filters(fields),
        audience_id=audience_id,
        reentry=fields.choice("reentry", ReentryPolicy, needed=False) or ReentryPolicy.ALWAYS,
    )


def _read_schedule(outer: Fields) -> Schedule | None:
    given = outer.object("schedule")
    if given is None:
        return None
    fields = Fields(given, outer.at("schedule"), outer.problems, name="A schedule", known=("cron", "timezone"))
    cron = fields.needed_text("cron", most=MAX_CRON_CHARACTERS)
    if isinstance(fields.value("cron"), str):
        _check_cron(cron, fields)
    timezone = fields.text("timezone") or "UTC"
    if find_zone(timezone) is None:
        fields.problems.add("timezone must be an IANA name, e.g. Europe/Berlin.", fields.at("timezone"))
    return Schedule(cron=" ".join(cron.split()), timezone=timezone)


def _check_cron(cron: str, fields: Fields) -> None:
    try:
        read_cron(cron)
    except InvalidCron as error:
        fields.problems.add(str(error), fields.at("cron"))


def _read_audience(fields: Fields) -> UUID | None:
    value = fields.value("audienceId")
    if value is None:
        return None
    parsed = parse_node_id(value) if isinstance(value, str) else None
    if parsed is None or parsed.kind is not NodeKind.AUDIENCE:
        fields.problems.add("audienceId must be the node id of an audience.", fields.at("audienceId"))
        return None
    return parsed.uuid


def _read_filters(fields: Fields) -> tuple[Condition, ...]:
    filters = fields.value("filters")
    if filters is None:
        return ()
    roots = _SCHEDULE_FILTER_ROOTS if fields.has("schedule") else _EVENT_FILTER_ROOTS
    try:
        return parse_conditions(filters, roots=roots, path=fields.at("filters"))
    except InvalidCondition as error:
        fields.problems.add(str(error), error.path)
        return ()


def unparse_trigger(trigger: Trigger) -> dict[str, Any]:
    """As WorkflowTriggerInput."""
    schedule = trigger.schedule
    written = {
        "eventType": trigger.event_type,
        "schedule": None if schedule is None else msgspec.to_builtins(schedule),
        "filters": unparse_filters(trigger),
        "audienceId": None if trigger.audience_id is None else write_node_id(NodeKind.AUDIENCE, trigger.audience_id),
        "reentry": trigger.reentry.value,
    }
    return {name: value for name, value in written.items() if value is not None}


def unparse_filters(trigger: Trigger) -> list[dict[str, Any]]:
    """As WorkflowTriggerInput.filters."""
    return unparse_conditions(trigger.filters)
