"""Which events a question about people counts: a step of a funnel, what begins a retention, what a trend is of."""

from __future__ import annotations

import strawberry

from engine.analytics.inputs import MAX_STEP_NAME_CHARACTERS
from schema.conditions import ConditionInput
from schema.inputs import keep_mapping


@strawberry.input(description="Which events count: a type, and conditions that all of them meet.")
class FunnelStepInput:
    event_type: str = strawberry.field(description="Exact or wildcard: order.placed, order.*, or * for everything.")
    name: str | None = strawberry.field(
        default=strawberry.UNSET,
        description=f"What it is called, up to {MAX_STEP_NAME_CHARACTERS} characters; by default its type.",
    )
    where: list[ConditionInput] | None = strawberry.field(
        default=strawberry.UNSET,
        description="All of these hold; on event.*, on profile.* of its person, and on counts of that person's events.",
    )
    optional: bool | None = strawberry.field(
        default=False,
        description="A person may skip it; its count is reported all the same. Says nothing outside of funnels.",
    )


keep_mapping(FunnelStepInput)
