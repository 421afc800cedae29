"""The events of runs, as the log holds them. Pure.

Guarantees: one event per (type, run, number), whoever makes it and however often; `context.cause` names the run and
`context.depth` how far it is from what a client sent. Leaves to others: appending, and saying whom it is about:
`user_id` is None for nobody and for somebody who was erased, whom an event would bring back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from db.records import NewEvent
from db.workflow_records import RunRecord
from engine.node_ids import NodeKind, write_node_id
from engine.workflows.state import StepTrace

MODULE = "automation"
RUN_STARTED = "automation.run_started"
STEP_COMPLETED = "automation.step_completed"
RUN_COMPLETED = "automation.run_completed"
RUN_FAILED = "automation.run_failed"
PROMOTE_FAILED = "automation.promote_failed"
PROFILE_UPDATED = "profile.updated"
"""What changes a profile is an event, so that the log alone says how everybody came to be as they are."""
MAX_CONSECUTIVE_FAILURES = 5
"""Runs of a workflow that failed one after another before somebody is told that it is the workflow."""


def run_started_event(run: RunRecord, *, workflow_name: str, user_id: str | None) -> NewEvent:
    """A run began, at once or in the queue of a paused workflow."""
    return _event(RUN_STARTED, run, workflow_name, user_id, {"status": run.status})


def step_completed_event(run: RunRecord, trace: StepTrace, *, workflow_name: str, user_id: str | None) -> NewEvent:
    """A step ended."""
    said = {
        "step": trace.label,
        "stepNumber": trace.number,
        "stepType": trace.type,
        "outcome": None if trace.outcome is None else trace.outcome.code,
    }
    return _event(STEP_COMPLETED, run, workflow_name, user_id, said, number=trace.number)


def run_completed_event(run: RunRecord, *, workflow_name: str, user_id: str | None) -> NewEvent:
    """A run reached its end."""
    return _event(RUN_COMPLETED, run, workflow_name, user_id, {"steps": run.steps_made})


def run_failed_event(run: RunRecord, *, workflow_name: str, user_id: str | None) -> NewEvent:
    """A run cannot go on."""
    return _event(RUN_FAILED, run, workflow_name, user_id, {"error": run.error, "steps": run.steps_made})


def promote_failed_event(run: RunRecord, *, workflow_name: str, failures: int) -> NewEvent:
    """Run after run of a workflow has failed, this one last. About nobody."""
    return _event(PROMOTE_FAILED, run, workflow_name, None, {"error": run.error, "consecutiveFailures": failures})


def profile_updated_event(
    run: RunRecord, traits: Mapping[str, Any], *, number: int, workflow_name: str, user_id: str
) -> NewEvent:
    """Merges traits into a person's, as step `number` of a run asks for."""
    text = msgspec.json.encode(traits)
    event = _event(PROFILE_UPDATED, run, workflow_name, user_id, {"stepNumber": number}, number=number)
    context = msgspec.json.encode({**_context(run), "traits": msgspec.Raw(text)}).decode()
    return msgspec.structs.replace(event, context=context, traits=text.decode())


def _event(
    event_type: str,
    run: RunRecord,
    workflow_name: str,
    user_id: str | None,
    said: Mapping[str, Any],
    *,
    number: int = 0,
) -> NewEvent:
    properties = {
        "workflowId": write_node_id(NodeKind.WORKFLOW, run.workflow_id),
        "workflowName": workflow_name,
        "runId": write_node_id(NodeKind.WORKFLOW_RUN, run.run_id),
        **said,
    }
    return NewEvent(
        key=f"{event_type}:{run.run_id.hex}:{number}",
        module=MODULE,
        event_type=event_type,
        timestamp=None,
        user_id=user_id,
        anonymous_id=None,
        properties=msgspec.json.encode(properties).decode(),
        context=msgspec.json.encode(_context(run)).decode(),
    )


def _context(run: RunRecord) -> dict[str, Any]:
    return {"cause": write_node_id(NodeKind.WORKFLOW_RUN, run.run_id), "depth": run.depth + 1}
