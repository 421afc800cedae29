"""Workflows as clients write them. They reach the engine as the mappings that were coerced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import strawberry

from engine.workflows.definition import ReentryPolicy, StepType
from engine.workflows.validation import MAX_CONFIG_BYTES, MAX_LABEL_CHARACTERS, MAX_NAME_CHARACTERS, MAX_STEPS
from schema.conditions import ConditionInput
from schema.inputs import keep_mapping
from schema.scalars import JSON


@strawberry.input(description="When a workflow starts by itself.")
class ScheduleInput:
    cron: str = strawberry.field(
        description="Five fields: minute, hour, day of the month, month, day of the week; e.g. 0 9 * * MON-FRI."
    )
    timezone: str | None = strawberry.field(default="UTC", description="IANA name, e.g. Europe/Berlin.")


@strawberry.input(description="Either eventType or schedule with audienceId.")
class WorkflowTriggerInput:
    event_type: str | None = strawberry.field(
        default=strawberry.UNSET, description="Exact or wildcard: checkout_completed, csat.*. Aliases match too."
    )
    schedule: ScheduleInput | None = strawberry.field(
        default=strawberry.UNSET, description="Instead of an event: every member of the audience, each time it is due."
    )
    filters: list[ConditionInput] | None = strawberry.field(
        default=strawberry.UNSET,
        description="All of these hold: on event.*, profile.* and counts of events; without event.* for a schedule.",
    )
    audience_id: strawberry.ID | None = strawberry.field(
        default=strawberry.UNSET, description="Only its members. A schedule needs one."
    )
    reentry: ReentryPolicy | None = strawberry.field(
        default=ReentryPolicy.ALWAYS, description="Whether somebody may go through it again."
    )


@strawberry.input(description="One step of a workflow.")
class WorkflowStepInput:
    label: str | None = strawberry.field(
        default=strawberry.UNSET,
        description=(
            f"Unique in the workflow, 1 to {MAX_LABEL_CHARACTERS} characters; never a number, never end. Made up when "
            "absent, e.g. send_push_1."
        ),
    )
    type: StepType = strawberry.field(description="What it does.")
    config: JSON = strawberry.field(
        description=f"Shape by type, as in StepType. Up to {MAX_CONFIG_BYTES // 1024} KiB; longer mails are templates."
    )
    delay_minutes: float | None = strawberry.field(
        default=strawberry.UNSET, description="How long it waits before it runs: 0 to 527,040 (366 days)."
    )
    next: str | None = strawberry.field(
        default=strawberry.UNSET,
        description=(
            "Label or index (from 0) of the step that follows, or end; by default the next in the list. Steps may go "
            "round in a circle that waits."
        ),
    )


@strawberry.input(
    description=(
        "With id, what is absent stays as it is and null clears it; trigger and steps are given as a whole. Without, a "
        "workflow is made."
    )
)
class SaveWorkflowInput:
    id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description="Which to change.")
    name: str | None = strawberry.field(
        default=strawberry.UNSET,
        description=f"1 to {MAX_NAME_CHARACTERS} characters, once per project. Needed when it is made.",
    )
    description: str | None = strawberry.field(default=strawberry.UNSET, description="For people.")
    is_active: bool | None = strawberry.field(default=strawberry.UNSET, description="False on create.")
    trigger: WorkflowTriggerInput | None = strawberry.field(
        default=strawberry.UNSET, description="What starts it. Needed when it is made."
    )
    steps: list[WorkflowStepInput] | None = strawberry.field(
        default=strawberry.UNSET, description=f"What it does: 1 to {MAX_STEPS}. Needed when it is made."
    )
    expected_version: int | None = strawberry.field(
        default=strawberry.UNSET, description="Refuse the save if the stored version is another. Only with id."
    )


@strawberry.input(description="A workflow, and the event to try it with.")
class TestRunWorkflowInput:
    workflow_id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description="One that is saved.")
    draft: SaveWorkflowInput | None = strawberry.field(
        default=strawberry.UNSET, description="Instead of workflowId: one not saved yet. It needs no name."
    )
    event_type: str = strawberry.field(description="Of the sample event.")
    user_id: str | None = strawberry.field(default=strawberry.UNSET, description="Whom it is about.")
    properties: JSON | None = strawberry.field(default_factory=dict, description="Of the sample event: a JSON object.")
    context: JSON | None = strawberry.field(default_factory=dict, description="Of the sample event: a JSON object.")


keep_mapping(SaveWorkflowInput)
keep_mapping(TestRunWorkflowInput)

SaveWorkflowArguments: TypeAlias = Mapping[str, Any]
"""The input as it was coerced: what is absent is not in it."""

TestRunWorkflowArguments: TypeAlias = Mapping[str, Any]
"""The input as it was coerced."""
