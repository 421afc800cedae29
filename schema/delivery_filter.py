"""Which deliveries: the filter that lists, statistics, replays and streams share, and the argument that takes it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeAlias

import strawberry

from resolvers.delivery_filters import DeliveryFilterArguments
from resolvers.filters import MAX_KEYS, MAX_NAMES
from schema.delivery_terms import Channel, DeliveryStatus
from schema.inputs import build_with


@strawberry.input(
    description=(
        "Which deliveries. Everything given must hold; a list given must hold the delivery's value. "
        "Empty: all deliveries."
    )
)
class DeliveryFilter:
    ids: list[strawberry.ID] | None = strawberry.field(
        default=strawberry.UNSET, description=f"Delivery.id. At most {MAX_KEYS}."
    )
    batch_id: strawberry.ID | None = strawberry.field(
        default=strawberry.UNSET, description="Of this send or replay, as in Delivery.batchId."
    )
    channels: list[Channel] | None = strawberry.field(default=strawberry.UNSET, description="How they leave.")
    statuses: list[DeliveryStatus] | None = strawberry.field(
        default=strawberry.UNSET, description="Where they stand now; in a stream, what a step led to."
    )
    user_id: str | None = strawberry.field(default=strawberry.UNSET, description="The person whom they are for.")
    workflow_id: strawberry.ID | None = strawberry.field(
        default=strawberry.UNSET, description="Made by a run of this workflow."
    )
    workflow_run_id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description="Made by this run.")
    endpoint_id: strawberry.ID | None = strawberry.field(
        default=strawberry.UNSET, description="Sent to this webhook endpoint."
    )
    event_types: list[str] | None = strawberry.field(
        default=strawberry.UNSET,
        description=(
            "Of the event that they are about: exact or wildcard, as in EventFilter. Deliveries without one match "
            f"none. At most {MAX_NAMES}."
        ),
    )
    error_codes: list[str] | None = strawberry.field(
        default=strawberry.UNSET, description=f"As in DeliveryError.code. At most {MAX_NAMES}."
    )
    since: datetime | None = strawberry.field(default=strawberry.UNSET, description="Earliest createdAt, inclusive.")
    until: datetime | None = strawberry.field(default=strawberry.UNSET, description="Latest createdAt, exclusive.")


def _arguments(value: dict[str, Any]) -> DeliveryFilterArguments:
    return DeliveryFilterArguments(
        ids=value.get("ids"),
        batch_id=value.get("batchId"),
        channels=value.get("channels"),
        statuses=value.get("statuses"),
        user_id=value.get("userId"),
        workflow_id=value.get("workflowId"),
        workflow_run_id=value.get("workflowRunId"),
        endpoint_id=value.get("endpointId"),
        event_types=value.get("eventTypes"),
        error_codes=value.get("errorCodes"),
        since=value.get("since"),
        until=value.get("until"),
    )


build_with(DeliveryFilter, _arguments)


DeliveryFilterArgument: TypeAlias = Annotated[
    DeliveryFilterArguments | None,
    strawberry.argument(
        name="filter",
        description="Only these deliveries; all when absent.",
        graphql_type=DeliveryFilter | None,
    ),
]
