"""Lists of runs."""

from __future__ import annotations

import strawberry

from db.workflow_records import RunRecord
from resolvers.paging import Listed
from schema.paging import CountedConnection, PageInfo, edges_of
from schema.scalars import Cursor
from schema.workflow_run import WorkflowRun


@strawberry.type(description="A run and its position in a list. Needs VIEWER.")
class WorkflowRunEdge:
    cursor: Cursor = strawberry.field(description="Position in lists of runs.")
    node: WorkflowRun = strawberry.field(description="The run, as it is now.")


@strawberry.type(description="A page of runs, newest first. Needs VIEWER.")
class WorkflowRunConnection(CountedConnection[WorkflowRunEdge]):
    edges: list[WorkflowRunEdge] = strawberry.field(description="Up to 100 runs.")

    @staticmethod
    def of(listed: Listed[RunRecord]) -> WorkflowRunConnection:
        page = listed.page
        return WorkflowRunConnection(
            edges=edges_of(page, WorkflowRunEdge, WorkflowRun.of),
            page_info=PageInfo.of(page),
            counter=listed.counter,
        )
