"""From one moment of a run to the next: a pure function over the definition, the run, its surroundings and the clock.

Guarantees: `decide` never raises for a definition that `engine.workflows.validation` made; the same arguments give the
same decision; a run ends, after `MAX_STEPS` steps at the latest; whatever is not due yet changes nothing, so a run that
two workers look at loses nothing. Leaves to others: carrying out effects, and reading (`wanted` says what).

A step that asks others (a send, a webhook, a model) stays open until `decide` is called with their report; the run goes
on then. What a provider or receiver did to one message never ends a run: it is the step's ERROR, and the journey goes
on. What the workflow's author has to mend does.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from engine.dispatch.ledger import MAX_DEPTH
from engine.dispatch.status import UNDER_WAY
from engine.dispatch.values import DeliveryStatus, SuppressedReason
from engine.email.sender import BYOD_REQUIRED
from engine.workflows.definition import AiAction, AiFlavor, Definition, RunStatus, StepOutcome, StepType
from engine.workflows.graph import FINISHED, next_step
from engine.workflows.interpolation import shown
from engine.workflows.state import (
    MAX_ASKED,
    MAX_STEPS,
    Decision,
    DeliveryReport,
    DeliveryResult,
    ModelAnswer,
    ModelLate,
    ModelUnavailable,
    Report,
    RunState,
    StepTrace,
)
from engine.workflows.steps import StepResult, run_step, suppressed_detail
from engine.workflows.surroundings import Surroundings

ASK_AGAIN_AFTER = timedelta(seconds=30)
"""A model that was too slow may have been loading, or busy."""
MAX_VARS_BYTES = 64 * 1024
"""Of all variables of a run together, as much as an event may hold."""
_LATEST = datetime.max.replace(tzinfo=UTC)

_DONE = frozenset({DeliveryStatus.SENT, DeliveryStatus.DELIVERED})
_YES, _NO = frozenset({"yes", "true"}), frozenset({"no", "false"})


class _Ending(msgspec.Struct, frozen=True):
    """How an open step ends."""

    outcome: StepOutcome
    detail: str | None = None
    output: Any = None
    vars: Mapping[str, Any] | None = None


def begin(definition: Definition, *, run_id: UUID, version: int, now: datetime, depth: int = 0) -> RunState:
    """A run at its first step; FAILED when it would be one in a loop of workflows that start each other."""
    state = RunState(
        run_id=run_id,
        version=version,
        status=RunStatus.RUNNING,
        step=0,
        started_at=now,
        next_step_at=now,
        depth=depth,
    )
    if depth > MAX_DEPTH:
        return _failed(state, f"Workflows that start each other stop after {MAX_DEPTH}.", now)
    return _enter(definition, state, 0 if definition.steps else FINISHED, now)


def decide(
    definition: Definition, state: RunState, around: Surroundings, now: datetime, report: Report | None = None
) -> Decision:
    """What is to be done now. `report` is what became of the effects of the step that is open."""
    if state.status is not RunStatus.RUNNING:
        return Decision(state)
    if state.open_trace is not None and report is not None:
        return _hear(definition, state, state.open_trace, report, now)
    if state.next_step_at is None or now < state.next_step_at:
        return Decision(state)
    if state.open_trace is not None and state.open_trace.type is StepType.WAIT:
        return _close(definition, state, state.open_trace, _Ending(StepOutcome.WAITED), now)
    return _run(definition, state, around, now)


def is_settled(report: DeliveryReport) -> bool:
    """Whether nothing more is to be waited for."""
    return all(result.status not in UNDER_WAY for result in report.results)


def ending_of(report: DeliveryReport) -> tuple[StepOutcome, str | None]:
    """What deliveries that are settled make of their step: that anything was sent counts most."""
    results = report.results
    if any(each.status in _DONE for each in results):
        return StepOutcome.SENT, None
    uncertain = next((each for each in results if each.status is DeliveryStatus.UNCERTAIN), None)
    if uncertain is not None:
        return StepOutcome.SENT, "It may have been sent." if uncertain.error_code is None else _error_detail(uncertain)
    failed = next((each for each in results if each.error_code is not None), None)
    held = next((each for each in results if each.reason is not None), None)
    if held is not None and (failed is None or held is failed):
        return _held_ending(held)
    if failed is not None:
        is_byod = failed.error_code == BYOD_REQUIRED.code
        return StepOutcome.BYOD_REQUIRED if is_byod else StepOutcome.ERROR, _error_detail(failed)
    if results and all(each.status is DeliveryStatus.CANCELLED for each in results):
        return StepOutcome.CANCELLED, "It was cancelled before it was sent."
    return StepOutcome.ERROR, "It was not sent."


def _held_ending(held: DeliveryResult) -> tuple[StepOutcome, str | None]:
    reason = held.reason or SuppressedReason.CONSENT
    outcome = StepOutcome.RATE_LIMITED if reason is SuppressedReason.RATE_LIMITED else StepOutcome.SUPPRESSED
    return outcome, suppressed_detail(reason) if held.error_code is None else _error_detail(held)


def _error_detail(result: DeliveryResult) -> str:
    return f"{result.error_message or 'It was not sent.'} ({result.error_code})"


def _run(definition: Definition, state: RunState, around: Surroundings, now: datetime) -> Decision:
    """Run the step that is due: a new one, or one that asks a model again."""
    step = definition.steps[state.step]
    if state.open_trace is None and state.steps_made >= MAX_STEPS:
        return Decision(_failed(state, f"A run has at most {MAX_STEPS:,} steps.", now))
    result = run_step(definition, state, around, now)
    trace = state.open_trace or StepTrace(
        number=state.steps_made + 1, step=state.step, label=step.label, type=step.type, started_at=now
    )
    trace = msgspec.structs.replace(trace, input=result.input, output=result.output, detail=result.detail, outcome=None)
    state = msgspec.structs.replace(state, steps_made=trace.number, open_trace=trace)
    if step.type is StepType.WAIT and result.outcome is StepOutcome.WAITED and step.delay_minutes > 0:
        state = msgspec.structs.replace(state, next_step_at=_later(now, step.delay_minutes))
        return Decision(state, trace)
    if result.outcome is None:
        state = msgspec.structs.replace(state, next_step_at=None, asked=state.asked + 1)
        return Decision(state, trace, result.effects)
    return _finish(definition, state, trace, result, now)


def _finish(definition: Definition, state: RunState, trace: StepTrace, result: StepResult, now: datetime) -> Decision:
    """A step that is over at once."""
    ended = msgspec.structs.replace(trace, outcome=result.outcome, finished_at=now)
    if result.is_fatal:
        reason = f"Step {trace.label}: {result.detail}"
        return Decision(_failed(msgspec.structs.replace(state, open_trace=None), reason, now), ended)
    goes_to = next_step(definition.steps, state.step) if result.goes_to is None else result.goes_to
    return Decision(_enter(definition, state, goes_to, now), ended, result.effects)


def _hear(definition: Definition, state: RunState, trace: StepTrace, report: Report, now: datetime) -> Decision:
    """Go on with what became of the effects. A report of something else changes nothing."""
    config = definition.steps[state.step].config
    if isinstance(report, DeliveryReport):
        if isinstance(config, AiAction) or trace.type is StepType.WAIT or not is_settled(report):
            return Decision(state)
        outcome, detail = ending_of(report)
        return _close(definition, state, trace, _Ending(outcome, detail), now)
    if not isinstance(config, AiAction):
        return Decision(state)
    match report:
        case ModelAnswer():
            return _close(definition, state, trace, _read_answer(config, report.text, state), now)
        case ModelUnavailable():
            return _close(definition, state, trace, _Ending(StepOutcome.AI_UNAVAILABLE, report.reason), now)
        case ModelLate():
            return _ask_again(definition, state, trace, now)


def _ask_again(definition: Definition, state: RunState, trace: StepTrace, now: datetime) -> Decision:
    if state.asked >= MAX_ASKED:
        late = f"The model did not answer in time, {MAX_ASKED} times."
        return _close(definition, state, trace, _Ending(StepOutcome.AI_UNAVAILABLE, late), now)
    pending = msgspec.structs.replace(trace, outcome=StepOutcome.AI_PENDING)
    at = _later(now, ASK_AGAIN_AFTER / timedelta(minutes=1))
    return Decision(msgspec.structs.replace(state, open_trace=pending, next_step_at=at), pending)


def _close(definition: Definition, state: RunState, trace: StepTrace, ending: _Ending, now: datetime) -> Decision:
    """End the open step and go on to the next."""
    detail = " ".join(each for each in (ending.detail, trace.detail) if each is not None) or None
    output = trace.output if ending.output is None else shown(ending.output)
    ended = msgspec.structs.replace(trace, outcome=ending.outcome, detail=detail, output=output, finished_at=now)
    if ending.vars is not None:
        state = msgspec.structs.replace(state, vars=ending.vars)
    return Decision(_enter(definition, state, next_step(definition.steps, state.step), now), ended)


def _enter(definition: Definition, state: RunState, step: int, now: datetime) -> RunState:
    """Go on to a step, or to the end. A wait is entered at once, so that it shows in the trace while it lasts."""
    state = msgspec.structs.replace(state, step=step, open_trace=None, asked=0)
    if step == FINISHED:
        return msgspec.structs.replace(state, status=RunStatus.COMPLETED, next_step_at=None, finished_at=now)
    following = definition.steps[step]
    delay = 0 if following.type is StepType.WAIT else following.delay_minutes
    return msgspec.structs.replace(state, next_step_at=_later(now, delay))


def _failed(state: RunState, reason: str, now: datetime) -> RunState:
    return msgspec.structs.replace(
        state, status=RunStatus.FAILED, next_step_at=None, finished_at=now, open_trace=None, error=reason
    )


def _later(now: datetime, minutes: float) -> datetime:
    try:
        return now + timedelta(minutes=minutes)
    except OverflowError:
        return _LATEST


def _read_answer(config: AiAction, text: str, state: RunState) -> _Ending:
    """What a model's answer means, and the variable that it becomes."""
    match config.flavor:
        case AiFlavor.DECIDE:
            word = text.strip().strip(".!\"'").lower()
            if word not in _YES | _NO:
                return _Ending(StepOutcome.ERROR, "The model answered neither yes nor no.", text)
            value: Any = word in _YES
        case _ if config.json_mode or config.flavor is AiFlavor.EXTRACT:
            try:
                value = msgspec.json.decode(text)
            except (msgspec.DecodeError, RecursionError):
                return _Ending(StepOutcome.ERROR, "The model's answer is no JSON.", text)
        case _:
            value = text
    if config.save_to is None:
        return _Ending(StepOutcome.OK, None, value)
    variables = {**state.vars, config.save_to: value}
    if len(msgspec.json.encode(variables)) > MAX_VARS_BYTES:
        return _Ending(StepOutcome.ERROR, f"The run's variables take more than {MAX_VARS_BYTES // 1024} KiB.", None)
    return _Ending(StepOutcome.OK, None, value, variables)
