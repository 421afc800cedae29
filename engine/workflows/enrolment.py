"""Schedules that are due: for every member of an audience a run, page by page.

Guarantees: for each occurrence that is carried out everybody who is a member, and may, begins one run, however often
workers crash on the way: a page's runs and how far it has come are one transaction, under the workflow's lock. Who is a
member, and what filters say, is judged as of the occurrence, however late it is. Of occurrences that were missed, or
that passed while an earlier one was carried out, only the last is. A schedule that is changed, or switched off, while
it is carried out ends there. Leaves to others: finding out that something is due (the sweeper), and saying when the
next occurrence is (`schedules`).
Stops between pages, at the latest after `ENROL_SECONDS`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.database import Database
from db.enrolment import MemberScan, find_due_workflows, save_enrolment, scan_members
from db.failures import is_passing
from db.profiles import share_profiles
from db.workflow_records import WorkflowStanding
from db.workflows import lock_workflow
from engine.announcements import Announcement
from engine.audiences.conditions import conditions_of
from engine.audiences.membership import find_audience
from engine.clock import Clock
from engine.work import Work
from engine.workers.followers import Reacted
from engine.workflows.definition import Definition, Schedule
from engine.workflows.definitions import Definitions, Version
from engine.workflows.schedules import next_occurrence
from engine.workflows.starting import Entrant, admit, start_runs

if TYPE_CHECKING:
    import asyncpg

PAGE_MEMBERS = 500
"""People for whom a workflow starts in one transaction: some tenths of a second."""
ENROL_SECONDS = 2.0
"""Then the project goes to the end of the queue."""
MAX_DUE = 20
"""Workflows of a project that one look takes: the others come next."""
_FIRST_LOOK_BACK = timedelta(hours=1)

_logger = logging.getLogger(__name__)


class _Page(msgspec.Struct, frozen=True):
    """Members for whom a workflow may start as of an occurrence, and how it stands before that and after."""

    before: WorkflowStanding
    occurrence: datetime
    entrants: tuple[Entrant, ...]
    after: WorkflowStanding


class Enrolment:
    """Carries out schedules, for one process. `announce` and `wake` are called after each commit; they never block."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        definitions: Definitions,
        announce: Callable[[Announcement], None],
        wake: Callable[[Work], None],
    ) -> None:
        self._database = database
        self._clock = clock
        self._definitions = definitions
        self._announce = announce
        self._wake = wake

    async def carry_out(self, project_id: UUID) -> bool:
        """Carry out what is due of a project. True: it has taken long enough, and there may be more."""
        ends_at = time.monotonic() + ENROL_SECONDS
        async with self._database.connection() as connection:
            due = await find_due_workflows(connection, project_id=project_id, now=self._clock.now(), limit=MAX_DUE)
        for standing in due:
            try:
                if await self._carry_on(standing, ends_at):
                    return True
            except Exception as error:
                if is_passing(error):
                    raise
                # The others are not to wait for the one that cannot be carried out.
                _logger.exception("enrolment.failed", extra={"workflow_id": str(standing.workflow_id)})
        return len(due) == MAX_DUE

    async def _carry_on(self, found: WorkflowStanding, ends_at: float) -> bool:
        """Page by page, until it is not due any more. True: its time is over."""
        standing: WorkflowStanding | None = found
        while standing is not None and _is_due(standing, self._clock.now()):
            if time.monotonic() > ends_at:
                return True
            standing = await self._enrol_page(standing)
        return False

    async def _enrol_page(self, standing: WorkflowStanding) -> WorkflowStanding | None:
        """One page of a workflow that is due; how it stands then. None: somebody else did it, or changed it."""
        version = (standing.workflow_id, standing.version)
        now, project_id = self._clock.now(), standing.project_id
        async with self._database.connection() as connection:
            definitions = await self._definitions.read(connection, project_id=project_id, versions=[version])
            page = await _read_page(connection, standing, definitions.get(version), now)
        async with self._database.transaction() as connection:
            reacted = await _write_page(connection, page, definitions, now)
        if reacted is None:
            return None
        self._tell(reacted)
        return page.after

    def _tell(self, reacted: Reacted) -> None:
        for announcement in reacted.announcements:
            self._announce(announcement)
        for work in reacted.works:
            self._wake(work)


async def _read_page(
    connection: asyncpg.Connection, standing: WorkflowStanding, definition: Definition | None, now: datetime
) -> _Page:
    """What is to be done next. Without locks: it counts only if the workflow is as it was."""
    schedule = None if definition is None else definition.trigger.schedule
    if definition is None or schedule is None:
        return _Page(standing, now, (), _ended(standing, None))
    occurrence = _occurrence(standing, schedule, now)
    after_user_id = standing.enrolled_up_to if occurrence == standing.enrolling_due_at else None
    scan = await _scan(connection, standing.project_id, definition, after_user_id, occurrence)
    entrants = tuple(
        Entrant(
            workflow_id=standing.workflow_id,
            version=standing.version,
            reentry=definition.trigger.reentry,
            tests=definition.trigger.filters,
            user_id=user_id,
        )
        for user_id in scan.members
    )
    if scan.reached is None:
        after = _ended(standing, next_occurrence(schedule, occurrence))
    else:
        after = msgspec.structs.replace(standing, enrolling_due_at=occurrence, enrolled_up_to=scan.reached)
    return _Page(standing, occurrence, entrants, after)


async def _scan(
    connection: asyncpg.Connection,
    project_id: UUID,
    definition: Definition,
    after_user_id: str | None,
    occurrence: datetime,
) -> MemberScan:
    audience_id = definition.trigger.audience_id
    audience = (
        None if audience_id is None else await find_audience(connection, project_id=project_id, audience_id=audience_id)
    )
    if audience is None:
        return MemberScan((), None)
    return await scan_members(
        connection,
        project_id=project_id,
        conditions=conditions_of(audience),
        after_user_id=after_user_id,
        limit=PAGE_MEMBERS,
        now=occurrence,
    )


async def _write_page(
    connection: asyncpg.Connection, page: _Page, definitions: Mapping[Version, Definition], now: datetime
) -> Reacted | None:
    """Begin the runs of a page, and say how far it has come. None: somebody else did, or changed the workflow."""
    project_id, workflow_id = page.before.project_id, page.before.workflow_id
    mark = page.after.enrolled_up_to
    people = {each.user_id for each in page.entrants if each.user_id is not None} | ({mark} if mark else set())
    present = await share_profiles(connection, project_id=project_id, user_ids=sorted(people)) if people else set()
    standing = await lock_workflow(connection, project_id=project_id, workflow_id=workflow_id)
    if standing is None or _progress(standing) != _progress(page.before):
        return None
    if mark and mark not in present:
        # Erased since: the next look comes to stand at somebody else.
        return None
    await save_enrolment(
        connection,
        project_id=project_id,
        workflow_id=workflow_id,
        next_due_at=page.after.next_due_at,
        enrolling_due_at=page.after.enrolling_due_at,
        enrolled_up_to=page.after.enrolled_up_to,
    )
    entrants = [each for each in page.entrants if each.user_id in present]
    return await start_runs(
        connection,
        project_id=project_id,
        entrants=await admit(connection, project_id=project_id, entrants=entrants, now=page.occurrence),
        standings={workflow_id: standing},
        definitions=definitions,
        now=now,
    )


def _progress(standing: WorkflowStanding) -> tuple[object, ...]:
    """What must not have changed since a page was read."""
    return standing.version, standing.next_due_at, standing.enrolling_due_at, standing.enrolled_up_to


def _is_due(standing: WorkflowStanding, now: datetime) -> bool:
    return standing.next_due_at is not None and standing.next_due_at <= now


def _ended(standing: WorkflowStanding, next_due_at: datetime | None) -> WorkflowStanding:
    return msgspec.structs.replace(standing, next_due_at=next_due_at, enrolling_due_at=None, enrolled_up_to=None)


def _occurrence(standing: WorkflowStanding, schedule: Schedule, now: datetime) -> datetime:
    """The one that is being carried out, or the last that is due. One that began before the schedule was changed, which
    set when it is due anew, has ended.
    """
    first, begun = standing.next_due_at or now, standing.enrolling_due_at
    return begun if begun is not None and first <= begun else last_occurrence(schedule, first, now)


def last_occurrence(schedule: Schedule, first: datetime, now: datetime) -> datetime:
    """The last occurrence up to `now`, of those from `first` on, which is one. Looks back step by step: ever further,
    so that a year of minutes that nobody was there for costs no more than an hour of them.
    """
    found, look_back = first, _FIRST_LOOK_BACK
    while now - look_back > first:
        candidate = next_occurrence(schedule, now - look_back)
        if candidate is not None and candidate <= now:
            found = candidate
            break
        look_back *= 2
    while (later := next_occurrence(schedule, found)) is not None and later <= now:
        found = later
    return found
