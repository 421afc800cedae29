"""The audiences of projects as one worker process keeps them: compiled, and read again when one was saved.

Guarantees: what is given is what the caller's transaction sees. Memory is bounded by the number of projects.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

import msgspec

from db.audience_members import read_audience_revisions
from db.audiences import AudienceRecord, read_all_audiences
from db.filters import Condition
from engine.audiences.conditions import conditions_of
from engine.audiences.counting import Histories, LogStart, Shapes
from engine.audiences.dependencies import Dependencies
from engine.audiences.evaluation import Evaluator, compile_audience, depends_on_time, reads_field, tests_in

if TYPE_CHECKING:
    import asyncpg

MAX_CACHED_PROJECTS = 200
"""Whose audiences one process keeps in memory."""

Revisions: TypeAlias = tuple[tuple[UUID, int], ...]


class ProjectAudiences:
    """The audiences of a project as of some revisions. Only read once it is made.

    `evaluators` are None for what only SQL can answer. `timed` are those whose answer time alone may change.
    """

    def __init__(self, revisions: Revisions, audiences: Sequence[AudienceRecord]) -> None:
        self.revisions = revisions
        self.names: Mapping[UUID, str] = {each.audience_id: each.name for each in audiences}
        self.conditions: Mapping[UUID, Sequence[Condition]] = {
            each.audience_id: conditions_of(each) for each in audiences
        }
        asked = self.conditions.values()
        self.shapes = Shapes(test for conditions in asked for test in tests_in(conditions))
        self.dependencies = Dependencies(self.conditions, self.shapes)
        self.evaluators: Mapping[UUID, Evaluator | None] = {
            audience_id: compile_audience(conditions, self.shapes)
            for audience_id, conditions in self.conditions.items()
        }
        self.timed = frozenset(
            audience_id for audience_id, conditions in self.conditions.items() if depends_on_time(conditions)
        )
        self.reads_consent = any(reads_field(conditions, "consent") for conditions in asked)
        self.reads_last_seen = any(reads_field(conditions, "lastSeenAt") for conditions in asked)


class Audiences(msgspec.Struct, frozen=True):
    """A project's audiences as a transaction sees them, and what is counted for them."""

    project_id: UUID
    project: ProjectAudiences
    log_start: LogStart
    histories: Histories


class AudienceCache:
    """What one process keeps."""

    def __init__(self) -> None:
        self._kept: OrderedDict[UUID, ProjectAudiences] = OrderedDict()
        self._histories = Histories()

    async def read(self, connection: asyncpg.Connection, *, project_id: UUID) -> Audiences:
        """The project's audiences as the transaction sees them."""
        found = await read_audience_revisions(connection, project_id=project_id)
        kept = self._kept.get(project_id)
        if kept is None or kept.revisions != found.revisions:
            kept = ProjectAudiences(found.revisions, await read_all_audiences(connection, project_id=project_id))
            if kept.names.keys() == {audience_id for audience_id, _ in found.revisions}:
                self._kept[project_id] = kept
        if project_id in self._kept:
            self._kept.move_to_end(project_id)
            while len(self._kept) > MAX_CACHED_PROJECTS:
                self._kept.popitem(last=False)
        return Audiences(project_id, kept, found.log_start, self._histories)
