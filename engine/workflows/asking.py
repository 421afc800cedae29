"""Asking models for runs, outside of any transaction.

Guarantees: what comes of a question reaches `answer`, unless this process dies or the database is away for long: then
the run's lease ends, and it counts as a model that was late. At most `MAX_ASKING` questions of a project are under way,
and `MAX_ASKING_IN_ALL`. Leaves to others: leasing the run before, and deciding. Stops with `stop`: what is not answered
by then is given back, for another worker to ask at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from engine.tasks import end_tasks
from engine.workflows.advancing import MAX_ASKING
from engine.workflows.rounds import Answered, Question
from engine.workflows.state import AskModel, ModelAnswer, ModelLate, ModelUnavailable, Report

ASK_TIMEOUT = timedelta(seconds=70)
"""Longer than whoever asks takes at the longest (`engine.ai.models.LONGEST`); not to be relied on, but bounded."""
LEASE = timedelta(seconds=100)
"""For the question, and for writing down what came of it. Real time."""
MAX_ASKING_IN_ALL = 64
MAX_ANSWERING = 4
"""Answers that are written down at once: each takes a connection of the pool."""

_logger = logging.getLogger(__name__)

Answer = Callable[[UUID, Answered], Awaitable[None]]
GiveBack = Callable[[UUID, Mapping[UUID, UUID]], Awaitable[None]]


class Models(Protocol):
    """Whoever asks models. Never raises for what a model does."""

    async def ask(self, project_id: UUID, effect: AskModel) -> ModelAnswer | ModelUnavailable | ModelLate:
        """One question."""


class Asking:
    """The questions of one process. `give_back` is told runs with their leases. Belongs to one event loop."""

    def __init__(self, models: Models, answer: Answer, give_back: GiveBack) -> None:
        self._models = models
        self._answer = answer
        self._give_back = give_back
        self._tasks: dict[asyncio.Task[None], tuple[UUID, Question]] = {}
        self._of_projects: Counter[UUID] = Counter()
        self._answering = asyncio.Semaphore(MAX_ANSWERING)

    def room(self, project_id: UUID) -> int:
        """How many more may be asked for a project now."""
        return max(0, min(MAX_ASKING - self._of_projects[project_id], MAX_ASKING_IN_ALL - len(self._tasks)))

    def begin(self, project_id: UUID, question: Question) -> None:
        """Ask. The run is leased."""
        task = asyncio.create_task(self._ask(project_id, question), name=f"ask {question.due.run_id}")
        self._tasks[task] = (project_id, question)
        self._of_projects[project_id] += 1
        task.add_done_callback(self._forget)

    async def settled(self) -> None:
        """Return once nothing is asked."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    async def stop(self) -> None:
        """Break off what is under way, and give it back. Raises what the database raises."""
        asked = dict(self._tasks)
        await end_tasks(list(asked))
        leases: dict[UUID, dict[UUID, UUID]] = {}
        for project_id, question in asked.values():
            leases.setdefault(project_id, {})[question.due.run_id] = question.token
        for project_id, held in leases.items():
            await self._give_back(project_id, held)

    async def _ask(self, project_id: UUID, question: Question) -> None:
        answered = Answered(question, await self._report(project_id, question))
        try:
            async with self._answering:
                await self._answer(project_id, answered)
        except Exception as error:
            names = {"run_id": str(question.due.run_id), "reason": type(error).__name__}
            _logger.warning("workflow.answer_lost", extra=names)

    async def _report(self, project_id: UUID, question: Question) -> Report:
        try:
            async with asyncio.timeout(ASK_TIMEOUT.total_seconds()):
                return await self._models.ask(project_id, question.effect)
        except Exception as error:
            names = {"run_id": str(question.due.run_id), "reason": type(error).__name__}
            _logger.warning("workflow.model_not_asked", extra=names)
            return ModelLate()

    def _forget(self, task: asyncio.Task[None]) -> None:
        project_id, _ = self._tasks.pop(task)
        self._of_projects[project_id] -= 1
        if not self._of_projects[project_id]:
            del self._of_projects[project_id]
