"""Runs of workflows: reading them and what belongs to them, pausing, resuming and cancelling them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import msgspec

from db.delivery_records import DeliveryRecord
from db.records import CappedCount, ProfileRecord
from db.run_filters import RunFilter
from db.workflow_records import RunRecord, RunStepRecord, RunUpdateRecord, WorkflowRecord
from db.workflow_run_lists import count_runs
from db.workflow_run_lists import list_runs as read_run_list
from engine.cursors import Cursor, CursorKind
from engine.errors import NotFound, UserError
from engine.identity import Role, Viewer
from engine.node_ids import NodeKind, parse_node_id
from engine.work import Work, WorkKind
from engine.workflows.definition import RunStatus, Step
from engine.workflows.graph import FINISHED
from engine.workflows.run_changes import ChangedRun, Outcome, WrongState, cancel_run, pause_run, resume_run
from engine.workflows.run_ledger import UNFINISHED
from resolvers.audit import audit_of
from resolvers.context import Context
from resolvers.nodes import FoundEvent
from resolvers.paging import Counter, Listed, PageArguments, read_window
from resolvers.permissions import require
from resolvers.run_filters import RunFilterArguments, read_run_filter

_NOTHING = RunFilter(ids=())
_UNKNOWN = (UserError("This project has no such run.", "NOT_FOUND", ("id",)),)


async def list_runs(
    ctx: Context, *, arguments: PageArguments, run_filter: RunFilterArguments | None
) -> Listed[RunRecord]:
    """A page of the project's runs, newest first."""
    viewer = require(ctx, Role.VIEWER)
    return await _list(ctx, viewer, arguments, read_run_filter(run_filter))


async def list_of_person(ctx: Context, *, profile: ProfileRecord, arguments: PageArguments) -> Listed[RunRecord]:
    """A page of the runs that one person is taken through."""
    viewer = require(ctx, Role.VIEWER)
    return await _list(ctx, viewer, arguments, RunFilter(user_id=profile.user_id))


async def list_of_workflow(
    ctx: Context, *, workflow_id: UUID, arguments: PageArguments, run_filter: RunFilterArguments | None
) -> Listed[RunRecord]:
    """A page of the runs of one workflow. A filter for another workflow matches nothing."""
    viewer = require(ctx, Role.VIEWER)
    wanted = read_run_filter(run_filter)
    if wanted.workflow_id not in (None, workflow_id):
        wanted = _NOTHING
    return await _list(ctx, viewer, arguments, msgspec.structs.replace(wanted, workflow_id=workflow_id))


async def find_run(ctx: Context, *, run_id: UUID | None) -> RunRecord | None:
    """A run of the viewer's project."""
    viewer = require(ctx, Role.VIEWER)
    return None if run_id is None else await ctx.loaders.runs.load((viewer.project_id, run_id))


async def run_of(ctx: Context, *, update: RunUpdateRecord) -> RunRecord:
    """The run of an item of the lane, as it is now."""
    found = await find_run(ctx, run_id=update.run_id)
    if found is None:
        raise NotFound("This run no longer exists.")
    return found


async def workflow_of(ctx: Context, *, record: RunRecord) -> WorkflowRecord:
    """The workflow as it is now, also when it was deleted."""
    require(ctx, Role.VIEWER)
    found = await ctx.loaders.workflows.load((record.project_id, record.workflow_id))
    if found is None:
        raise NotFound("This workflow no longer exists.")
    return found


async def steps_of(ctx: Context, *, record: RunRecord) -> Sequence[Step]:
    """The steps of the version that the run is on."""
    require(ctx, Role.VIEWER)
    found = await ctx.loaders.definitions.load((record.project_id, (record.workflow_id, record.version)))
    return () if found is None else found.steps


async def current_step(ctx: Context, *, record: RunRecord) -> str | None:
    """The label of the step that is due next or in progress; None once the run is over."""
    require(ctx, Role.VIEWER)
    if record.status not in UNFINISHED or record.step == FINISHED:
        return None
    steps = await steps_of(ctx, record=record)
    return steps[record.step].label if record.step < len(steps) else None


async def trace_of(ctx: Context, *, record: RunRecord) -> tuple[RunStepRecord, ...]:
    """What the steps of a run did, in the order in which they ran."""
    require(ctx, Role.VIEWER)
    return await ctx.loaders.run_steps.load((record.project_id, record.run_id))


async def deliveries_of(ctx: Context, *, record: RunRecord) -> list[DeliveryRecord]:
    """The first deliveries that a run made."""
    require(ctx, Role.VIEWER)
    made = await ctx.loaders.run_deliveries.load((record.project_id, record.run_id))
    found = await ctx.loaders.deliveries.load_many([(record.project_id, each.delivery_id) for each in made])
    return [each for each in found if each is not None]


async def delivery_of_step(ctx: Context, *, run_id: UUID, number: int) -> DeliveryRecord | None:
    """The first delivery that a step of a run made."""
    viewer = require(ctx, Role.VIEWER)
    made = await ctx.loaders.first_deliveries.load((viewer.project_id, run_id))
    first = next((each.delivery_id for each in made if each.number == number), None)
    return None if first is None else await ctx.loaders.deliveries.load((viewer.project_id, first))


async def profile_of(ctx: Context, *, record: RunRecord) -> ProfileRecord | None:
    """The person whom a run takes through its workflow."""
    require(ctx, Role.VIEWER)
    if record.user_id is None:
        return None
    return await ctx.loaders.profiles_by_user.load((record.project_id, record.user_id))


async def event_of(ctx: Context, *, record: RunRecord) -> FoundEvent | None:
    """The event that started a run."""
    viewer = require(ctx, Role.VIEWER)
    if record.event_seq is None:
        return None
    found = await ctx.loaders.events.load((record.project_id, record.event_seq))
    return None if found is None else FoundEvent(viewer.project.organization_id, found)


async def pause(ctx: Context, *, node_id: str) -> tuple[RunRecord | None, tuple[UserError, ...]]:
    """Hold a run where it is."""
    require(ctx, Role.EDITOR)
    return await _change(ctx, node_id, pause_run, "only a RUNNING one can be paused.")


async def resume(ctx: Context, *, node_id: str) -> tuple[RunRecord | None, tuple[UserError, ...]]:
    """Let a paused run go on."""
    viewer = require(ctx, Role.EDITOR)
    run, errors = await _change(ctx, node_id, resume_run, "only a PAUSED one can be resumed.")
    if run is not None:
        ctx.services.wake(Work(WorkKind.RUNS, viewer.project_id))
    return run, errors


async def cancel(ctx: Context, *, node_id: str) -> tuple[RunRecord | None, tuple[UserError, ...]]:
    """End a run before its time."""
    require(ctx, Role.EDITOR)
    return await _change(ctx, node_id, cancel_run, "only a QUEUED, RUNNING or PAUSED one can be cancelled.")


async def _change(
    ctx: Context, node_id: str, change: Callable[..., Awaitable[Outcome]], otherwise: str
) -> tuple[RunRecord | None, tuple[UserError, ...]]:
    viewer = require(ctx, Role.EDITOR)
    parsed = parse_node_id(node_id)
    if parsed is None or parsed.kind is not NodeKind.WORKFLOW_RUN:
        return None, _UNKNOWN
    services = ctx.services
    found = await change(
        services.database,
        services.announce,
        project_id=viewer.project_id,
        run_id=parsed.uuid,
        audit=audit_of(ctx, viewer),
    )
    ctx.forget_reads()
    match found:
        case ChangedRun(run=run):
            return run, ()
        case WrongState(status=status):
            return None, (UserError(f"This run is {RunStatus(status)}: {otherwise}", "STATE", ("id",)),)
        case None:
            return None, _UNKNOWN


async def _list(ctx: Context, viewer: Viewer, arguments: PageArguments, run_filter: RunFilter) -> Listed[RunRecord]:
    codec, project_id = ctx.services.cursors, viewer.project_id
    window = read_window(arguments, codec, project_id=project_id, kind=CursorKind.RUN_LIST)
    async with ctx.reading(project_id) as connection:
        found = await read_run_list(
            connection,
            project_id=project_id,
            limit=window.limit,
            after=_key(window.after),
            before=_key(window.before),
            from_end=window.from_end,
            run_filter=run_filter,
        )
    cursors = tuple(
        codec.encode(Cursor(CursorKind.RUN_LIST, project_id, 0, (record.run_id.hex,))) for record in found.runs
    )
    page = window.page(found.runs, cursors, has_more=found.has_more)
    return Listed(page, Counter(lambda: _count(ctx, project_id, run_filter)))


async def _count(ctx: Context, project_id: UUID, run_filter: RunFilter) -> CappedCount:
    async with ctx.reading(project_id) as connection:
        return await count_runs(connection, project_id=project_id, run_filter=run_filter)


def _key(cursor: Cursor | None) -> UUID | None:
    return None if cursor is None else UUID(hex=str(cursor.key[0]))
