"""Which runs: the filter that lists and streams share, and the argument that takes it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeAlias

import strawberry

from resolvers.filters import MAX_KEYS
from resolvers.run_filters import RunFilterArguments
from schema.inputs import build_with
from schema.workflow_terms import RunStatus


@strawberry.input(
    description=("Which runs. Everything given must hold; a list given must hold the run's value. Empty: all runs.")
)
class WorkflowRunFilter:
    ids: list[strawberry.ID] | None = strawberry.field(
        default=strawberry.UNSET, description=f"WorkflowRun.id. At most {MAX_KEYS}."
    )
    workflow_id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description="Of this workflow.")
    statuses: list[RunStatus] | None = strawberry.field(
        default=strawberry.UNSET, description="Where they stand now; in a stream, where they stood from then on."
    )
    user_id: str | None = strawberry.field(default=strawberry.UNSET, description="The person whom they take through.")
    since: datetime | None = strawberry.field(default=strawberry.UNSET, description="Earliest startedAt, inclusive.")
    until: datetime | None = strawberry.field(default=strawberry.UNSET, description="Latest startedAt, exclusive.")


def _arguments(value: dict[str, Any]) -> RunFilterArguments:
    return RunFilterArguments(
        ids=value.get("ids"),
        workflow_id=value.get("workflowId"),
        statuses=value.get("statuses"),
        user_id=value.get("userId"),
        since=value.get("since"),
        until=value.get("until"),
    )


build_with(WorkflowRunFilter, _arguments)


RunFilterArgument: TypeAlias = Annotated[
    RunFilterArguments | None,
    strawberry.argument(
        name="filter",
        description="Only these runs; all when absent.",
        graphql_type=WorkflowRunFilter | None,
    ),
]
