"""Runs between rows and decisions: states, traces, items of the runs lane, and what pausing and cancelling make. Pure.

Guarantees: `state_of(with_state(row, state)) == state`; `claim_at` is set exactly where a worker has something to look
at. Leaves to others: the events of runs (`engine.workflows.run_events`), locking and writing (`db.workflow_runs`),
recording (`engine.dispatch.ledger`).

JSON of a trace, in `open_trace` and in the runs lane, is `StepTrace` with its fields' own names: `decode_trace`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from db.workflow_records import NewRunUpdate, RunRecord, RunStepRecord
from engine.workflows.definition import RunStatus, StepOutcome, StepType
from engine.workflows.state import RunState, StepTrace

UNFINISHED = frozenset({RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.PAUSED})
"""Something is still to be done, and it can be cancelled."""
CANCELLED_DETAIL = "The run was cancelled."

_decode_trace = msgspec.json.Decoder(StepTrace).decode
_decode_vars = msgspec.json.Decoder(dict[str, Any]).decode
_NOTHING = msgspec.Raw(b"{}")


def encode_trace(trace: StepTrace) -> str:
    """JSON."""
    return msgspec.json.encode(trace).decode()


def decode_trace(text: bytes | str | msgspec.Raw) -> StepTrace:
    """What was encoded. Raises `msgspec.DecodeError` for anything else."""
    return _decode_trace(text)


def new_run(
    state: RunState,
    *,
    project_id: UUID,
    workflow_id: UUID,
    user_id: str | None,
    event_seq: int | None,
    is_held: bool = False,
) -> RunRecord:
    """The row of a run that begins with `state` (`transition.begin`). `is_held`: its workflow is paused, so QUEUED.

    What is over already (too deep) is not held.
    """
    run = with_state(
        RunRecord(
            project_id=project_id,
            run_id=state.run_id,
            workflow_id=workflow_id,
            version=state.version,
            status=state.status,
            user_id=user_id,
            event_seq=event_seq,
            depth=state.depth,
            step=state.step,
            next_step_at=None,
            claim_at=None,
            is_held=False,
            vars=_NOTHING,
            steps_made=0,
            open_trace=None,
            asked=0,
            error=None,
            started_at=state.started_at,
            finished_at=None,
        ),
        state,
    )
    if not is_held or state.status is not RunStatus.RUNNING:
        return run
    return msgspec.structs.replace(run, status=RunStatus.QUEUED, claim_at=None, is_held=True)


def state_of(run: RunRecord) -> RunState:
    """What decisions take."""
    return RunState(
        run_id=run.run_id,
        version=run.version,
        status=RunStatus(run.status),
        step=run.step,
        started_at=run.started_at,
        next_step_at=run.next_step_at,
        finished_at=run.finished_at,
        vars={} if run.vars == _NOTHING else _decode_vars(run.vars),
        depth=run.depth,
        steps_made=run.steps_made,
        open_trace=None if run.open_trace is None else _decode_trace(run.open_trace),
        asked=run.asked,
        error=run.error,
    )


def with_state(run: RunRecord, state: RunState) -> RunRecord:
    """The row of a run that stands there now, not held: a worker looks at it when there is something to decide."""
    return msgspec.structs.replace(
        run,
        status=state.status,
        step=state.step,
        next_step_at=state.next_step_at,
        claim_at=state.next_step_at if state.status is RunStatus.RUNNING else None,
        is_held=False,
        vars=msgspec.Raw(msgspec.json.encode(state.vars)) if state.vars else _NOTHING,
        steps_made=state.steps_made,
        open_trace=None if state.open_trace is None else msgspec.Raw(msgspec.json.encode(state.open_trace)),
        asked=state.asked,
        error=state.error,
        finished_at=state.finished_at,
    )


def held(run: RunRecord) -> RunRecord:
    """A run that goes on once its workflow is resumed."""
    return msgspec.structs.replace(run, claim_at=None, is_held=True)


def released(run: RunRecord, now: datetime) -> RunRecord:
    """A held run, QUEUED or RUNNING, that goes on."""
    return msgspec.structs.replace(
        run, status=RunStatus.RUNNING, claim_at=max(now, run.next_step_at or now), is_held=False
    )


def paused(run: RunRecord, now: datetime) -> RunRecord:
    """An unfinished run that nothing is done to until it is resumed. What was sent goes out.

    A model that is being asked is asked again then: its answer has nowhere to go meanwhile.
    """
    is_asking = run.open_trace is not None and decode_trace(run.open_trace).type is StepType.AI_ACTION
    next_step_at = now if is_asking and run.next_step_at is None else run.next_step_at
    return msgspec.structs.replace(
        run, status=RunStatus.PAUSED, next_step_at=next_step_at, claim_at=None, is_held=False
    )


def resumed(run: RunRecord, now: datetime) -> RunRecord:
    """A PAUSED run that goes on where it was: at the next step when that is due, and at an open one at once."""
    return msgspec.structs.replace(run, status=RunStatus.RUNNING, claim_at=max(now, run.next_step_at or now))


def cancelled(run: RunRecord, now: datetime) -> tuple[RunRecord, StepTrace | None]:
    """An unfinished run that is over, and its step in progress, if there is one, as it ends."""
    ended = None
    if run.open_trace is not None:
        ended = msgspec.structs.replace(
            decode_trace(run.open_trace), outcome=StepOutcome.CANCELLED, detail=CANCELLED_DETAIL, finished_at=now
        )
    over = msgspec.structs.replace(
        run,
        status=RunStatus.CANCELLED,
        next_step_at=None,
        claim_at=None,
        is_held=False,
        open_trace=None,
        finished_at=now,
    )
    return over, ended


def failed(run: RunRecord, reason: str, now: datetime) -> tuple[RunRecord, StepTrace | None]:
    """A run that cannot go on, and its step in progress, if there is one, as it ends. `reason` is a sentence."""
    over, ended = cancelled(run, now)
    if ended is not None:
        ended = msgspec.structs.replace(ended, outcome=StepOutcome.ERROR, detail=reason)
    return msgspec.structs.replace(over, status=RunStatus.FAILED, error=reason), ended


def run_update_of(run: RunRecord, trace: StepTrace | None = None) -> NewRunUpdate:
    """The item for the runs lane: `run` as it is from then on, and the step that began or ended, if one did."""
    return NewRunUpdate(
        run_id=run.run_id,
        workflow_id=run.workflow_id,
        user_id=run.user_id,
        status=run.status,
        started_at=run.started_at,
        step=None if trace is None else encode_trace(trace),
    )


def step_record_of(run: RunRecord, trace: StepTrace) -> RunStepRecord:
    """The row of a step."""
    return RunStepRecord(
        project_id=run.project_id,
        run_id=run.run_id,
        number=trace.number,
        workflow_id=run.workflow_id,
        step=trace.step,
        label=trace.label,
        type=trace.type,
        outcome=trace.outcome,
        detail=trace.detail,
        input=_NOTHING if trace.input is None else msgspec.Raw(msgspec.json.encode(trace.input)),
        output=None if trace.output is None else msgspec.Raw(msgspec.json.encode(trace.output)),
        started_at=trace.started_at,
        finished_at=trace.finished_at,
    )


def trace_of(record: RunStepRecord) -> StepTrace:
    """The step that a row holds."""
    return StepTrace(
        number=record.number,
        step=record.step,
        label=record.label,
        type=StepType(record.type),
        started_at=record.started_at,
        finished_at=record.finished_at,
        outcome=None if record.outcome is None else StepOutcome(record.outcome),
        detail=record.detail,
        input=_decode_json(record.input),
        output=None if record.output is None else _decode_json(record.output),
    )


def _decode_json(text: msgspec.Raw) -> Mapping[str, Any] | Any:
    return msgspec.json.decode(text)
