"""Runs between rows and decisions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.workflow_records import RunRecord
from engine.workflows.definition import RunStatus, StepOutcome, StepType
from engine.workflows.run_events import run_failed_event, run_started_event, step_completed_event
from engine.workflows.run_ledger import (
    cancelled,
    decode_trace,
    failed,
    held,
    new_run,
    paused,
    released,
    resumed,
    run_update_of,
    state_of,
    step_record_of,
    trace_of,
    with_state,
)
from engine.workflows.state import RunState, StepTrace

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
RUN = UUID(int=7)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=4,
)
INSTANTS = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
TRACES = st.builds(
    StepTrace,
    number=st.integers(1, 9),
    step=st.integers(0, 9),
    label=st.text(max_size=5),
    type=st.sampled_from(StepType),
    started_at=INSTANTS,
    finished_at=st.none() | INSTANTS,
    outcome=st.none() | st.sampled_from(StepOutcome),
    detail=st.none() | st.text(max_size=5),
    input=st.dictionaries(st.text(max_size=3), JSON, max_size=2),
    output=JSON,
)
STATES = st.builds(
    RunState,
    run_id=st.just(RUN),
    version=st.integers(1, 9),
    status=st.sampled_from(RunStatus),
    step=st.integers(-1, 9),
    started_at=INSTANTS,
    next_step_at=st.none() | INSTANTS,
    finished_at=st.none() | INSTANTS,
    vars=st.dictionaries(st.text(max_size=3), JSON, max_size=2),
    depth=st.integers(0, 9),
    steps_made=st.integers(0, 9),
    open_trace=st.none() | TRACES,
    asked=st.integers(0, 5),
    error=st.none() | st.text(max_size=5),
)


def state(**values: Any) -> RunState:
    known = {"version": 1, "status": RunStatus.RUNNING, "step": 0, "started_at": NOW, "next_step_at": NOW}
    return RunState(run_id=RUN, **{**known, **values})


def run(*, is_held: bool = False, **values: Any) -> RunRecord:
    return new_run(
        state(**values), project_id=UUID(int=1), workflow_id=UUID(int=2), user_id="ada", event_seq=3, is_held=is_held
    )


def trace(**values: Any) -> StepTrace:
    return StepTrace(
        **{"number": 2, "step": 1, "label": "ask", "type": StepType.AI_ACTION, "started_at": NOW, **values}
    )


@given(STATES)
def test_a_state_is_the_same_after_it_was_a_row(given_state: RunState) -> None:
    row = with_state(
        run(version=given_state.version, started_at=given_state.started_at, depth=given_state.depth), given_state
    )

    assert state_of(row) == given_state
    is_due = given_state.status is RunStatus.RUNNING and given_state.next_step_at is not None
    assert row.claim_at == (given_state.next_step_at if is_due else None)


@given(TRACES)
def test_a_trace_is_the_same_after_it_was_a_row_and_an_item_of_the_lane(given_trace: StepTrace) -> None:
    row = run()

    assert trace_of(step_record_of(row, given_trace)) == given_trace
    update = run_update_of(row, given_trace)
    assert decode_trace(update.step or "") == given_trace


def test_a_run_of_a_paused_workflow_is_queued_unless_it_is_over_already() -> None:
    queued = run(is_held=True)
    over = run(is_held=True, status=RunStatus.FAILED, next_step_at=None, finished_at=NOW, error="Too deep.")

    assert (queued.status, queued.is_held, queued.claim_at, queued.next_step_at) == ("QUEUED", True, None, NOW)
    assert (over.status, over.is_held, over.claim_at) == ("FAILED", False, None)


@pytest.mark.parametrize(
    ("next_step_at", "claim_at"),
    [
        (LATER, LATER),  # its first step has a delay
        (NOW - timedelta(hours=1), NOW),  # it fell due meanwhile
        (None, NOW),  # its open step may have been heard of
    ],
)
def test_what_was_held_or_paused_goes_on_when_it_is_due(next_step_at: datetime | None, claim_at: datetime) -> None:
    row = run(next_step_at=next_step_at)

    assert released(held(row), NOW).claim_at == claim_at
    assert resumed(paused(row, NOW), NOW).claim_at == claim_at
    assert (held(row).claim_at, paused(row, NOW).claim_at) == (None, None)
    assert (released(held(row), NOW).is_held, resumed(paused(row, NOW), NOW).status) == (False, "RUNNING")


@pytest.mark.parametrize(
    ("step_type", "next_step_at"), [(StepType.AI_ACTION, NOW), (StepType.SEND_SMS, None), (StepType.WEBHOOK, None)]
)
def test_only_a_model_is_asked_again_after_a_pause(step_type: StepType, next_step_at: datetime | None) -> None:
    row = run(next_step_at=None, open_trace=trace(type=step_type))

    assert paused(row, NOW).next_step_at == next_step_at


def test_a_run_that_ends_before_its_time_ends_its_step() -> None:
    row = run(open_trace=trace(), next_step_at=None)

    over, ended = cancelled(row, LATER)
    broken, error = failed(row, "It is too large.", LATER)

    assert ended is not None
    assert error is not None
    assert (over.status, over.open_trace, over.finished_at, over.error) == ("CANCELLED", None, LATER, None)
    assert (ended.outcome, ended.detail, ended.finished_at) == ("CANCELLED", "The run was cancelled.", LATER)
    assert (broken.status, broken.claim_at, broken.error) == ("FAILED", None, "It is too large.")
    assert (error.outcome, error.detail) == ("ERROR", "It is too large.")
    assert cancelled(run(), LATER)[1] is None


def test_an_event_of_a_run_has_one_key_whoever_makes_it() -> None:
    row = run(depth=3)
    ended = trace(outcome=StepOutcome.AI_UNAVAILABLE, finished_at=NOW)

    started = run_started_event(row, workflow_name="Welcome", user_id="ada")
    step = step_completed_event(row, ended, workflow_name="Welcome", user_id=None)

    assert started == run_started_event(row, workflow_name="Welcome", user_id="ada")
    assert (started.key, started.module, started.user_id) == (
        f"automation.run_started:{RUN.hex}:0",
        "automation",
        "ada",
    )
    assert (step.key, step.user_id) == (f"automation.step_completed:{RUN.hex}:2", None)
    assert msgspec.json.decode(started.context) == {"cause": f"run_{RUN.hex}", "depth": 4}
    assert msgspec.json.decode(step.properties) == {
        "workflowId": f"wfl_{UUID(int=2).hex}",
        "workflowName": "Welcome",
        "runId": f"run_{RUN.hex}",
        "step": "ask",
        "stepNumber": 2,
        "stepType": "AI_ACTION",
        "outcome": "ai_unavailable",
    }
    said = run_failed_event(msgspec.structs.replace(row, error="No."), workflow_name="Welcome", user_id=None)
    assert msgspec.json.decode(said.properties)["error"] == "No."
