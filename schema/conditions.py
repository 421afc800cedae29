"""The condition language as input types. They reach the engine as the mappings that clients wrote."""

from __future__ import annotations

from typing import Annotated, Any

import strawberry

from db.filters import ConditionOperator
from schema.descriptions import described_enum
from schema.inputs import keep_mapping
from schema.scalars import JSON

described_enum(
    ConditionOperator,
    "How a value is compared. Numbers compare by value, strings by code point; nothing is converted.",
    EQ="Is equal.",
    NE="Is not equal, or is not there.",
    GT="Is greater.",
    GTE="Is greater or equal.",
    LT="Is less.",
    LTE="Is less or equal.",
    IN="Is one of a list.",
    NOT_IN="Is none of a list, or is not there.",
    CONTAINS="A string contains this one, or an array contains this value.",
    STARTS_WITH="A string starts with this one.",
    ENDS_WITH="A string ends with this one.",
    EXISTS="Is there and not null. Takes no value.",
    NOT_EXISTS="Is not there, or is null. Takes no value.",
    IS_ANNIVERSARY="The date's month and day are today's, in the person's time zone. Takes no value.",
)


@strawberry.input(
    description=(
        "One test. Path addresses what it reads: event.properties.amount, event.eventType, profile.traits.plan, "
        "profile.consent.email, run.vars.x. Lists of conditions are ANDed; nest with any / not. "
        "At most 200 in one list, 8 levels deep."
    )
)
class ConditionInput:
    path: str | None = strawberry.field(default=strawberry.UNSET, description="What the test reads.")
    events: Annotated[EventCountInput, strawberry.lazy("schema.conditions")] | None = strawberry.field(
        default=strawberry.UNSET,
        description="Instead of path: how often an event happened, compared by op and value.",
    )
    op: ConditionOperator | None = strawberry.field(
        default=strawberry.UNSET, description="How to compare; needed with path and with events."
    )
    value: JSON | None = strawberry.field(default=strawberry.UNSET, description="What to compare with.")
    any: list[Annotated[ConditionInput, strawberry.lazy("schema.conditions")]] | None = strawberry.field(
        default=strawberry.UNSET, description="Holds when one of these does."
    )
    all: list[Annotated[ConditionInput, strawberry.lazy("schema.conditions")]] | None = strawberry.field(
        default=strawberry.UNSET, description="Holds when all of these do."
    )
    not_: Annotated[ConditionInput, strawberry.lazy("schema.conditions")] | None = strawberry.field(
        name="not", default=strawberry.UNSET, description="Holds when this does not."
    )


@strawberry.input(description="How often an event happened to a person, or the sum of one of its properties.")
class EventCountInput:
    event_type: str = strawberry.field(description="Exact name or wildcard.")
    where: list[ConditionInput] | None = strawberry.field(
        default=strawberry.UNSET, description="Only events for which all of these hold; on event.* only."
    )
    within_seconds: int | None = strawberry.field(
        default=strawberry.UNSET, description="Looking back from now; for ever when absent."
    )
    sum: str | None = strawberry.field(
        default=strawberry.UNSET,
        description="Sum of this property instead of the count, e.g. event.properties.amount.",
    )


keep_mapping(ConditionInput)
keep_mapping(EventCountInput)

Conditions = list[dict[str, Any]]
"""What `list[ConditionInput]` arrives as."""
