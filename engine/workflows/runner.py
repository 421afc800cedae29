"""Running workflows: whatever is due in a project is carried on, round by round, until nothing is.

Guarantees: every run that is due is looked at, those that waited longest first; what a round has done is announced
after its commit, and whoever sends is woken. A run whose rows cannot be stored is found by halving its round, and fails
alone; the others are not held up. A worker that dies loses nothing: what it had not committed is due still, and what it
asked a model is asked again. Leaves to others: finding projects (the sweeper), and telling workers of what is due.
Stops with `stop`, between rounds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from uuid import UUID

import asyncpg

from db.database import Database
from db.failures import is_data_refused
from db.workflow_runs import DueRun, find_due_runs, return_leases
from engine.announcements import Announcement
from engine.clock import Clock
from engine.transactions import run_transaction
from engine.vault import Vault
from engine.work import Work, WorkKind
from engine.workflows.advancing import Budget
from engine.workflows.asking import LEASE, Asking, Models
from engine.workflows.changes import carry_out_change
from engine.workflows.definitions import Definitions
from engine.workflows.rounds import Answered, Done, Round, Tools

ROUND_RUNS = 250
"""Runs of one transaction: some 100 ms, and the most that one that cannot be stored holds up."""
TIME_BOX = timedelta(seconds=5)
"""Of real time, after which another project has its turn."""
STOP_TIMEOUT = timedelta(seconds=3)
"""For giving back what is asked. A worker has to be gone in 20 s."""
TOO_LARGE = "The run cannot go on: this person's traits would take more than 256 KiB."
NOT_STORABLE = "The run cannot go on: what its next step holds cannot be stored."

_logger = logging.getLogger(__name__)

Announce = Callable[[Announcement], None]
Wake = Callable[[Work], None]


class Runner:
    """Runs workflows for one process. `announce` and `wake` are called after commits and never block.

    `refuse_url` is `Egress.refusal`; `lease` is how long a run is this process's while a model is asked for it.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        announce: Announce,
        wake: Wake,
        *,
        vault: Vault,
        refuse_url: Callable[[str], str | None],
        models: Models,
        definitions: Definitions,
        lease: timedelta = LEASE,
        round_runs: int = ROUND_RUNS,
    ) -> None:
        self._database = database
        self._clock = clock
        self._announce = announce
        self._wake = wake
        self._tools = Tools(vault=vault, definitions=definitions, refuse_url=refuse_url, lease=lease)
        self._asking = Asking(models, self._answer, self._give_back)
        self._round_runs = round_runs
        self._stopping = False

    async def drain(self, project_id: UUID) -> bool:
        """Carry on what is due in a project; True when its time is over and there may be more.

        Raises what passes by itself, and `Unavailable`.
        """
        ends_at = time.monotonic() + TIME_BOX.total_seconds()
        put_off = 0
        while not self._stopping:
            due = await self._find_due(project_id)
            done = await self._carry_on(project_id, due, put_off=put_off) if due else Done()
            is_changed = await self._change(project_id)
            if not is_changed and not done.runs:
                # Nothing is due, or another worker is at all of it.
                return False
            put_off += done.put_off
            if time.monotonic() > ends_at:
                return True
        return False

    async def settled(self) -> None:
        """Return once no model is being asked."""
        await self._asking.settled()

    async def stop(self) -> None:
        """Begin nothing more, and give back what models are asked for; without the database their leases end."""
        self._stopping = True
        try:
            async with asyncio.timeout(STOP_TIMEOUT.total_seconds()):
                await self._asking.stop()
        except Exception as error:
            _logger.warning("workflow.questions_not_given_back", extra={"reason": type(error).__name__})

    async def _change(self, project_id: UUID) -> bool:
        """A batch of what a change of a workflow means for its runs; whether there was one."""
        now = self._clock.now()
        changed = await run_transaction(
            self._database, lambda connection: carry_out_change(connection, project_id=project_id, now=now)
        )
        if changed is None:
            return False
        self._tell(project_id, Done(announcements=changed.announcements))
        return True

    async def _find_due(self, project_id: UUID) -> list[DueRun]:
        async with self._database.connection() as connection:
            return await find_due_runs(connection, project_id=project_id, now=self._clock.now(), limit=self._round_runs)

    async def _carry_on(
        self, project_id: UUID, due: Sequence[DueRun], *, put_off: int = 0, answered: Answered | None = None
    ) -> Done:
        """One round; where its rows cannot be stored, two with half of it each, down to the run that is to blame."""

        def carry_on(current: Round) -> Awaitable[Done]:
            budget = Budget(questions=self._asking.room(project_id), put_off=put_off)
            return current.carry_on(due, budget, answered=answered)

        try:
            return await self._commit(project_id, carry_on)
        except Exception as error:
            if not is_data_refused(error):
                raise
            if len(due) == 1:
                reason = _refusal(error)
                return await self._commit(project_id, lambda current: current.fail(due, reason, answered=answered))
        half = len(due) // 2
        first = await self._carry_on(project_id, due[:half], put_off=put_off)
        second = await self._carry_on(project_id, due[half:], put_off=put_off)
        return Done(runs=first.runs + second.runs, put_off=first.put_off + second.put_off)

    async def _commit(self, project_id: UUID, act: Callable[[Round], Awaitable[Done]]) -> Done:
        """One transaction, tried until its outcome is known, and then told."""
        now = self._clock.now()

        async def action(connection: asyncpg.Connection) -> Done:
            return await act(Round(connection, self._tools, project_id=project_id, now=now))

        done = await run_transaction(self._database, action)
        self._tell(project_id, done)
        return done

    def _tell(self, project_id: UUID, done: Done) -> None:
        for announcement in done.announcements:
            self._announce(announcement)
        if done.deliveries:
            self._wake(Work(WorkKind.DELIVERIES, project_id))
        for question in done.questions:
            self._asking.begin(project_id, question)

    async def _answer(self, project_id: UUID, answered: Answered) -> None:
        await self._carry_on(project_id, [answered.question.due], answered=answered)
        self._wake(Work(WorkKind.RUNS, project_id))

    async def _give_back(self, project_id: UUID, leases: Mapping[UUID, UUID]) -> None:
        now = self._clock.now()
        await run_transaction(
            self._database,
            lambda connection: return_leases(connection, project_id=project_id, leases=leases, now=now),
        )
        self._wake(Work(WorkKind.RUNS, project_id))


def _refusal(error: Exception) -> str:
    is_size = isinstance(error, asyncpg.CheckViolationError) and error.constraint_name == "profiles_traits_size"
    return TOO_LARGE if is_size else NOT_STORABLE
