"""One round: some runs of a project, carried on in one transaction.

Guarantees: a run is decided by whoever holds its row, on what is read under that lock, so never by two; everything that
follows (the run, its trace, deliveries, events, items of the lanes) is written with it or not at all. Tried again after
a COMMIT whose answer was lost, it finds nothing to do. Locks people, workflows, runs, then what sending locks, then
deliveries, and the heads last. No statement is made per run.
Leaves to others: finding runs, committing and announcing (`runner`), deciding (`advancing`), asking models (`asking`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import msgspec

from db.profiles import lock_profiles
from db.projects import read_project
from db.workflow_runs import DueRun, LockedRun, StepDelivery, lock_runs, read_step_deliveries, try_lock_runs
from db.workflows import share_workflows
from engine.announcements import Announcement
from engine.vault import Vault
from engine.workflows.advancing import Budget, RunInHand, advance
from engine.workflows.definition import Definition, RunStatus, StepType, Trigger
from engine.workflows.definitions import Definitions
from engine.workflows.effects import report_of
from engine.workflows.round_reading import Reading
from engine.workflows.round_writing import write_round
from engine.workflows.run_ledger import decode_trace
from engine.workflows.state import AskModel, ModelLate, Report

if TYPE_CHECKING:
    import asyncpg

UNREADABLE = "The run cannot go on: this version of its workflow cannot be read."
_NO_DEFINITION = Definition(name="", trigger=Trigger(), steps=())
_SENDING = frozenset({StepType.SEND_EMAIL, StepType.SEND_PUSH, StepType.SEND_SMS, StepType.WEBHOOK})


class Question(msgspec.Struct, frozen=True):
    """A model is to be asked for a run, which is leased under `token` meanwhile."""

    due: DueRun
    token: UUID
    effect: AskModel


class Answered(msgspec.Struct, frozen=True):
    """What came of a question."""

    question: Question
    report: Report


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What a round has done, to be told once it has committed. `runs` is how many it had in its hands, `put_off` how
    many have to come back to ask a model."""

    runs: int = 0
    put_off: int = 0
    deliveries: int = 0
    announcements: tuple[Announcement, ...] = ()
    questions: tuple[Question, ...] = ()


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """What all rounds of one process share. `refuse_url` is `Egress.refusal`, `lease` how long a model may be asked."""

    vault: Vault
    definitions: Definitions
    refuse_url: Callable[[str], str | None]
    lease: timedelta


class Round:
    """One round in the caller's transaction. `now` is business time."""

    def __init__(self, connection: asyncpg.Connection, tools: Tools, *, project_id: UUID, now: datetime) -> None:
        self._connection = connection
        self._tools = tools
        self._project_id = project_id
        self._now = now

    async def carry_on(self, due: Sequence[DueRun], budget: Budget, *, answered: Answered | None = None) -> Done:
        """Carry runs on that are due, or the one whose model was asked. Raises what the database raises."""
        taken = await self._take(due, answered)
        if taken is None:
            return Done()
        hands, reading = taken
        waiting = hands
        while waiting:
            waiting, needs = await asyncio.to_thread(advance, waiting, reading, budget)
            await reading.read(self._connection, needs)
        return msgspec.structs.replace(await self._write(hands, reading), put_off=budget.put_off)

    async def fail(self, due: Sequence[DueRun], reason: str, *, answered: Answered | None = None) -> Done:
        """End runs that cannot be carried on. `reason` is a sentence."""
        taken = await self._take(due, answered)
        if taken is None:
            return Done()
        hands, reading = taken
        for hand in hands:
            hand.break_down(reason, reading)
        return await self._write(hands, reading)

    async def _take(self, due: Sequence[DueRun], answered: Answered | None) -> tuple[list[RunInHand], Reading] | None:
        """Lock what is still due, and read what it is decided from."""
        connection, project_id = self._connection, self._project_id
        project = await read_project(connection, project_id=project_id)
        user_ids = sorted({each.user_id for each in due if each.user_id is not None})
        people = await lock_profiles(connection, project_id=project_id, user_ids=user_ids) if user_ids else set()
        workflow_ids = sorted({each.workflow_id for each in due})
        workflows = await share_workflows(connection, project_id=project_id, workflow_ids=workflow_ids)
        # An answer is not given up because somebody is about to find out that the run is not theirs.
        lock = try_lock_runs if answered is None else lock_runs
        locked = await lock(connection, project_id=project_id, run_ids=[each.run_id for each in due])
        found = {each.run_id: each.user_id for each in due}
        # One that a device takeover gave to somebody else meanwhile is left to a round that holds them.
        mine = [each for each in locked if self._is_mine(each, answered) and each.run.user_id == found[each.run.run_id]]
        if project is None or not mine:
            return None
        reading = Reading(self._tools.vault, project, self._tools.refuse_url, now=self._now)
        await reading.begin(connection, [each.run for each in mine], people)
        versions = {(each.run.workflow_id, each.run.version) for each in mine}
        definitions = await self._tools.definitions.read(connection, project_id=project_id, versions=versions)
        reports = await self._reports(mine, answered)
        hands = [
            RunInHand(
                each.run,
                workflows[each.run.workflow_id],
                definitions.get((each.run.workflow_id, each.run.version), _NO_DEFINITION),
                organization_id=project.organization_id,
                report=reports.get(each.run.run_id),
                now=self._now,
            )
            for each in mine
        ]
        for hand in hands:
            _stop_at_once(hand, reading, definitions)
        return hands, reading

    def _is_mine(self, locked: LockedRun, answered: Answered | None) -> bool:
        """Whether it still is what it was found as: nobody has seen to it since."""
        if locked.run.status != RunStatus.RUNNING:
            return False
        if answered is not None:
            return locked.lease_token == answered.question.token
        if locked.lease_token is not None:
            return not locked.is_leased
        return locked.run.claim_at is not None and locked.run.claim_at <= self._now

    async def _reports(self, mine: Sequence[LockedRun], answered: Answered | None) -> dict[UUID, Report]:
        """What became of the open steps."""
        if answered is not None:
            return {each.run.run_id: answered.report for each in mine}
        reports: dict[UUID, Report] = {}
        sending: list[tuple[UUID, int]] = []
        for run in (each.run for each in mine):
            trace = None if run.open_trace is None else decode_trace(run.open_trace)
            if trace is not None and trace.type in _SENDING:
                sending.append((run.run_id, trace.number))
            elif trace is not None and trace.type is StepType.AI_ACTION and run.next_step_at is None:
                # Whoever asked has not said what came of it.
                reports[run.run_id] = ModelLate()
        if sending:
            made: dict[UUID, list[StepDelivery]] = {run_id: [] for run_id, _ in sending}
            for each in await read_step_deliveries(self._connection, project_id=self._project_id, steps=sending):
                made[each.run_id].append(each)
            reports |= {run_id: report_of(deliveries) for run_id, deliveries in made.items()}
        return reports

    async def _write(self, hands: Sequence[RunInHand], reading: Reading) -> Done:
        touched = [hand for hand in hands if hand.is_touched]
        questions = tuple(
            Question(DueRun(hand.run.run_id, hand.run.workflow_id, hand.run.user_id), uuid4(), hand.question)
            for hand in touched
            if hand.question is not None
        )
        announcements = await write_round(
            self._connection,
            touched,
            reading.desk,
            project_id=self._project_id,
            leases={each.due.run_id: each.token for each in questions},
            lease=self._tools.lease,
            now=self._now,
        )
        return Done(
            runs=len(hands),
            deliveries=sum(len(hand.deliveries) for hand in touched),
            announcements=announcements,
            questions=questions,
        )


def _stop_at_once(hand: RunInHand, reading: Reading, definitions: Mapping[tuple[UUID, int], Definition]) -> None:
    """What is not decided about at all."""
    if hand.workflow.deleted_at is not None:
        hand.leave()
    elif (hand.run.workflow_id, hand.run.version) not in definitions:
        hand.break_down(UNREADABLE, reading)
