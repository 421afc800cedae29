"""Root fields of runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, cast

import strawberry

from resolvers import streams
from resolvers import workflow_runs as resolve
from resolvers.paging import PageArguments
from schema.head_first import reading
from schema.info import Info
from schema.paging import After, Before, First, Last
from schema.run_filter import RunFilterArgument
from schema.scalars import Cursor
from schema.workflow_run import WorkflowRunPayload
from schema.workflow_run_list import WorkflowRunConnection
from schema.workflow_run_update import WorkflowRunUpdateEdge, update_edge

RunId = Annotated[strawberry.ID, strawberry.argument(description="Node id of the run.")]


@strawberry.type
class WorkflowRunsQuery:
    @strawberry.field(description="Who is, or was, taken through the workflows, newest first. Needs VIEWER.")
    async def workflow_runs(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        run_filter: RunFilterArgument = None,
    ) -> WorkflowRunConnection | None:
        ctx = await reading(info)
        listed = await resolve.list_runs(
            ctx, arguments=PageArguments(first, after, last, before), run_filter=run_filter
        )
        return WorkflowRunConnection.of(listed)


@strawberry.type
class WorkflowRunsMutation:
    @strawberry.mutation(
        description=(
            "Hold a run: a RUNNING one becomes PAUSED at once. What its step has made is still sent; the next step "
            "does not begin. Any other status: STATE. Needs EDITOR."
        )
    )
    async def pause_workflow_run(self, info: Info, id: RunId) -> WorkflowRunPayload | None:  # noqa: A002
        return WorkflowRunPayload.of(*await resolve.pause(info.context, node_id=id))

    @strawberry.mutation(
        description=(
            "Let a PAUSED run go on where it was: with its next step when that is due, at once if that has passed. "
            "Any other status: STATE. Needs EDITOR."
        )
    )
    async def resume_workflow_run(self, info: Info, id: RunId) -> WorkflowRunPayload | None:  # noqa: A002
        return WorkflowRunPayload.of(*await resolve.resume(info.context, node_id=id))

    @strawberry.mutation(
        description=(
            "End a run wherever it is: QUEUED, RUNNING or PAUSED becomes CANCELLED, and so do its deliveries that "
            "were not sent. One that is over stays as it is: STATE. Needs EDITOR."
        )
    )
    async def cancel_workflow_run(self, info: Info, id: RunId) -> WorkflowRunPayload | None:  # noqa: A002
        return WorkflowRunPayload.of(*await resolve.cancel(info.context, node_id=id))


@strawberry.type
class WorkflowRunsSubscription:
    @strawberry.subscription(
        description=(
            "What happens to runs, each step and each change of status as it is stored, with the run as it is now. "
            "Needs VIEWER."
        )
    )
    async def workflow_run_updates(
        self,
        info: Info,
        run_filter: RunFilterArgument = None,
        after: Annotated[
            Cursor | None,
            strawberry.argument(description="Start just after this: a cursor of this stream, or Project.head."),
        ] = None,
    ) -> AsyncGenerator[WorkflowRunUpdateEdge | None, None]:
        source = await streams.follow_runs(info.context, run_filter=run_filter, after=after, convert=update_edge)
        return cast("AsyncGenerator[WorkflowRunUpdateEdge | None, None]", source)
