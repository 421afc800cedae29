"""Carrying runs on within one round: decision after decision, until each waits for somebody or something.

Guarantees: what a run has decided and what follows from it belong together, also when the round's time ends in the
middle; a run whose decision raises fails alone, with a sentence, and what it did before stays. A step that merges
traits is the last of its round, since the profile changes by the log. Computes only (templates may take long, so it
runs beside the loop); leaves to others: reading (`round_reading`), writing (`rounds`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from db.delivery_records import NewDelivery
from db.records import NewEvent
from db.workflow_records import NewRunUpdate, RunRecord, RunStepRecord, WorkflowStanding
from engine.workflows.definition import AiAction, Definition, RunStatus
from engine.workflows.effects import StepOrigin, delivery_of, push_request_of, report_of
from engine.workflows.round_reading import Needs, Reading
from engine.workflows.run_events import (
    profile_updated_event,
    run_completed_event,
    run_failed_event,
    step_completed_event,
)
from engine.workflows.run_ledger import failed, held, run_update_of, state_of, step_record_of, with_state
from engine.workflows.state import AskModel, Decision, DeliverPush, Effect, MergeTraits, Report, StepTrace
from engine.workflows.transition import decide, is_settled

MAX_ROUND_SECONDS = 2.0
"""Of processor time. A full round of ordinary steps takes some 100 ms; a transaction that waits for 30 s is ended."""
MAX_ROUND_DECISIONS = 2_000
"""Bounds what one transaction writes."""
MAX_ASKING = 16
"""Runs of a project that ask a model at once, in one process: more than a server of one project's size answers."""
ASK_PAUSE = timedelta(seconds=2)
"""Between one such group of runs and the next: about what an answer takes."""
LONGEST_ASK_PAUSE = timedelta(minutes=5)
BROKEN = "The run cannot go on: an error of the gateway's own, which its log has."

_logger = logging.getLogger(__name__)


class Budget:
    """What a round may still do. `questions` is how many models may be asked now, `put_off` how many runs wait for
    their turn to ask already."""

    def __init__(self, *, questions: int = 0, put_off: int = 0) -> None:
        self.questions = questions
        self.put_off = put_off
        self._decisions = 0
        self._seconds = MAX_ROUND_SECONDS
        self._ends_at = 0.0

    def begin_pass(self) -> None:
        """Computing begins, in this thread."""
        self._ends_at = time.thread_time() + self._seconds

    def end_pass(self) -> None:
        """It ends."""
        self._seconds = self._ends_at - time.thread_time()

    def allows(self) -> bool:
        """Whether there may be one decision more. The first always."""
        return not self._decisions or (self._decisions < MAX_ROUND_DECISIONS and time.thread_time() < self._ends_at)

    def wait_to_ask(self) -> timedelta:
        """How long one run more has to wait: those before it come first."""
        self.put_off += 1
        return min(ASK_PAUSE * -(-self.put_off // MAX_ASKING), LONGEST_ASK_PAUSE)

    def count(self, *, questions: int) -> None:
        """One was made, which asks so many models."""
        self._decisions += 1
        self.questions -= questions


class RunInHand:
    """One run in one round, as it stands by now, and what follows from what it decided.

    `report` is what became of its open step. While its workflow is paused it hears that, and is held then.
    `is_touched`: it was looked at, so there is something to write.
    """

    def __init__(
        self,
        run: RunRecord,
        workflow: WorkflowStanding,
        definition: Definition,
        *,
        organization_id: UUID,
        report: Report | None,
        now: datetime,
    ) -> None:
        self.run = run
        self.workflow = workflow
        self.is_touched = False
        self.question: AskModel | None = None
        self.steps: dict[int, RunStepRecord] = {}
        self.updates: list[NewRunUpdate] = []
        self.events: list[NewEvent] = []
        self.deliveries: list[NewDelivery] = []
        self._definition = definition
        self._organization_id = organization_id
        self._report = report
        self._now = now
        self._state = state_of(run)
        self._is_over = False

    def go_on(self, reading: Reading, budget: Budget) -> Needs | None:
        """Decide for as long as it goes on; what has to be read before more is decided, None at the end."""
        while not self._is_over and budget.allows():
            needs = self._decide(reading, budget)
            if needs is not None:
                return needs
        return None

    def break_down(self, reason: str, reading: Reading) -> None:
        """It fails where it is. `reason` is a sentence."""
        after, trace = failed(self.run, reason, self._now)
        self._stop(after)
        self.question = None
        profile = reading.around(after).profile
        self._note(trace, None if profile is None else profile.user_id, is_news=True)

    def leave(self) -> None:
        """Its workflow was deleted: whoever carries that out cancels it."""
        self._stop(msgspec.structs.replace(self.run, claim_at=None))

    def _decide(self, reading: Reading, budget: Budget) -> Needs | None:
        around = reading.around(self.run)
        if self._report is None:
            if not self._is_due():
                self._stop(with_state(self.run, self._state))
                return None
            if self.workflow.is_paused:
                self._stop(held(self.run))
                return None
            if self._asks() and budget.questions <= 0:
                self._stop(msgspec.structs.replace(self.run, claim_at=self._now + budget.wait_to_ask()))
                return None
            needs = reading.lacking(self._definition, self._state, reading.add(around), self._now)
            if needs:
                return needs
        decision = decide(self._definition, self._state, reading.add(around), self._now, self._report)
        self._report = None
        user_id = None if around.profile is None else around.profile.user_id
        origin = StepOrigin(
            run=self.run,
            number=0 if decision.trace is None else decision.trace.number,
            user_id=user_id,
            event=around.event,
            organization_id=self._organization_id,
            now=self._now,
        )
        self._take(decision, origin, reading)
        budget.count(questions=self.question is not None)
        return None

    def _take(self, decision: Decision, origin: StepOrigin, reading: Reading) -> None:
        """Make what was decided the run's, all at once."""
        deliveries: list[NewDelivery] = []
        events: list[NewEvent] = []
        for effect in decision.effects:
            deliveries += self._deliveries(effect, origin, reading)
            if isinstance(effect, MergeTraits) and origin.user_id is not None:
                events.append(
                    profile_updated_event(
                        self.run,
                        effect.traits,
                        number=origin.number,
                        workflow_name=self.workflow.name,
                        user_id=origin.user_id,
                    )
                )
        is_news = decision.state.status is not self._state.status
        self.question = next((each for each in decision.effects if isinstance(each, AskModel)), None)
        self.is_touched = True
        self.run, self._state = with_state(self.run, decision.state), decision.state
        self.events += events
        self.deliveries += deliveries
        report = report_of(deliveries)
        if deliveries and is_settled(report):
            # Heard at once; should the time of the round be over, in the next.
            self._report, self.run = report, msgspec.structs.replace(self.run, claim_at=self._now)
        self._is_over = self._report is None and (bool(events) or not self._is_due())
        self._note(decision.trace, origin.user_id, is_news=is_news)

    def _deliveries(self, effect: Effect, origin: StepOrigin, reading: Reading) -> Sequence[NewDelivery]:
        match effect:
            case MergeTraits() | AskModel():
                return ()
            case DeliverPush():
                return reading.desk.plan(push_request_of(effect, origin), origin.user_id or "")
            case _:
                return (delivery_of(effect, origin),)

    def _note(self, trace: StepTrace | None, user_id: str | None, *, is_news: bool) -> None:
        """Say what has come of a decision: in the trace, in the runs lane, in the log."""
        if trace is None and not is_news:
            return
        self.updates.append(run_update_of(self.run, trace))
        name = self.workflow.name
        if trace is not None:
            self.steps[trace.number] = step_record_of(self.run, trace)
            if trace.finished_at is not None:
                self.events.append(step_completed_event(self.run, trace, workflow_name=name, user_id=user_id))
        if self.run.status == RunStatus.COMPLETED:
            self.events.append(run_completed_event(self.run, workflow_name=name, user_id=user_id))
        if self.run.status == RunStatus.FAILED:
            self.events.append(run_failed_event(self.run, workflow_name=name, user_id=user_id))

    def _stop(self, run: RunRecord) -> None:
        self.run = run
        self.is_touched = self._is_over = True

    def _is_due(self) -> bool:
        at = self._state.next_step_at
        return self._state.status is RunStatus.RUNNING and at is not None and at <= self._now

    def _asks(self) -> bool:
        return isinstance(self._definition.steps[self._state.step].config, AiAction)


def advance(hands: Sequence[RunInHand], reading: Reading, budget: Budget) -> tuple[list[RunInHand], Needs]:
    """Carry runs on as far as they get; those that cannot go on before something is read, and what that is."""
    needs, waiting = Needs(), []
    budget.begin_pass()
    for hand in hands:
        try:
            lacking = hand.go_on(reading, budget)
        except Exception:
            _logger.exception("workflow.run_broken", extra={"run_id": str(hand.run.run_id)})
            hand.break_down(BROKEN, reading)
            continue
        if lacking is not None:
            needs.add(lacking)
            waiting.append(hand)
    budget.end_pass()
    return waiting, needs
