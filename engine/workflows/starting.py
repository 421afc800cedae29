"""Who is let into a workflow, and the runs that begin: the same for events and for schedules.

Guarantees: nobody enters whose profile is gone, whose consent for WORKFLOWS does not allow it, whom the filters leave
out, who is not in the audience, or whom the re-entry policy keeps out, within one page of candidates too; a run, its
item in the lane and its events are written together. Whoever is nobody (an event without a user id) has no consent, no
audience and no re-entry. A run of a paused workflow waits in the queue; one too deep in a chain of workflows that start
each other has failed before its first step, and says so.
Leaves to others: locking people, then workflows, before; committing; announcing and waking after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.consents import read_consents
from db.enrolment import Meeting, find_met
from db.event_counts import UP_TO_NOW, Moment, find_passing
from db.filters import Condition
from db.profiles import read_profiles_by_user
from db.records import EventRecord, NewEvent, ProfileRecord
from db.workflow_records import NewRunUpdate, RunRecord, WorkflowStanding
from db.workflow_runs import insert_runs
from db.workflows import RELEASE
from engine.announcements import Announcement
from engine.audiences.membership import members_among
from engine.consent import ConsentPurpose, ConsentState, allows
from engine.dispatch.ledger import record
from engine.project_settings import read_settings
from engine.webhooks.follower import depth_of
from engine.work import Work, WorkKind
from engine.workers.followers import NOTHING, Reacted
from engine.workflows.conditions import Subject, count_passes, counts_in, holds
from engine.workflows.definition import Definition, ReentryPolicy, RunStatus
from engine.workflows.definitions import Version
from engine.workflows.run_events import run_completed_event, run_failed_event, run_started_event
from engine.workflows.run_ledger import UNFINISHED, new_run, run_update_of
from engine.workflows.transition import begin

if TYPE_CHECKING:
    import asyncpg

_NOBODYS: Mapping[str, ConsentState] = {}


class Entrant(msgspec.Struct, frozen=True, eq=False):
    """Somebody, or nobody, for whom a workflow may start. `tests` are what is still to be asked of them.

    `audience_id`: whom only its members may be. `event` is None where a schedule starts the workflow.
    """

    workflow_id: UUID
    version: int
    reentry: ReentryPolicy
    tests: tuple[Condition, ...]
    user_id: str | None
    audience_id: UUID | None = None
    event: EventRecord | None = None

    def at(self, now: datetime) -> datetime:
        """What filters look back from: when the event was received, so that the answer is always the same."""
        return now if self.event is None else self.event.received_at


async def admit(
    connection: asyncpg.Connection, *, project_id: UUID, entrants: Sequence[Entrant], now: datetime
) -> list[Entrant]:
    """Those who may enter but for re-entry, in their order. The caller has locked them. `now` is business time."""
    if not entrants:
        return []
    people = sorted({each.user_id for each in entrants if each.user_id is not None})
    consents = await _read_consents(connection, project_id, people)
    settings = await read_settings(connection, project_id=project_id)

    def has_agreed(entrant: Entrant) -> bool:
        if entrant.user_id is None:
            return True
        said = consents.get(entrant.user_id, _NOBODYS).get(_WORKFLOWS, ConsentState.UNKNOWN)
        return allows(said, unknown_allowed=settings.unknown_allowed)

    admitted = [each for each in entrants if has_agreed(each)]
    admitted = await _filter(connection, project_id, admitted, consents, settings.default_timezone, now)
    return await _in_audience(connection, project_id, admitted, now)


async def start_runs(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    entrants: Sequence[Entrant],
    standings: Mapping[UUID, WorkflowStanding],
    definitions: Mapping[Version, Definition],
    now: datetime,
) -> Reacted:
    """Begin a run for each whom the re-entry policy lets in; heads are locked here. `now` is business time.

    Nobody enters a version that is not among the definitions: it cannot be read.
    """
    meetings = _meetings(entrants)
    met = await find_met(connection, project_id=project_id, meetings=meetings) if meetings else set()
    runs: list[RunRecord] = []
    for entrant in entrants:
        pair = (entrant.workflow_id, entrant.user_id or "")
        is_asked = entrant.user_id is not None and entrant.reentry is not ReentryPolicy.ALWAYS
        definition = definitions.get((entrant.workflow_id, entrant.version))
        if definition is None or (is_asked and pair in met):
            continue
        run = _begin(entrant, standings[entrant.workflow_id], definition, now)
        runs.append(run)
        if entrant.reentry is ReentryPolicy.ONCE_PER_USER or run.status in UNFINISHED:
            met.add(pair)
    if not runs:
        return NOTHING
    await insert_runs(connection, project_id=project_id, runs=runs)
    announcements = await _record(connection, project_id, runs, standings, now)
    is_due = any(run.claim_at is not None and run.claim_at <= now for run in runs)
    return Reacted(announcements, (Work(WorkKind.RUNS, project_id),) if is_due else ())


_WORKFLOWS = ConsentPurpose.WORKFLOWS.lower()


def _begin(entrant: Entrant, standing: WorkflowStanding, definition: Definition, now: datetime) -> RunRecord:
    depth = 0 if entrant.event is None else depth_of(entrant.event)
    state = begin(definition, run_id=uuid7(), version=entrant.version, now=now, depth=depth)
    return new_run(
        state,
        project_id=standing.project_id,
        workflow_id=entrant.workflow_id,
        user_id=entrant.user_id,
        event_seq=None if entrant.event is None else entrant.event.seq,
        is_held=standing.is_paused or standing.pending_change == RELEASE,
    )


async def _record(
    connection: asyncpg.Connection,
    project_id: UUID,
    runs: Sequence[RunRecord],
    standings: Mapping[UUID, WorkflowStanding],
    now: datetime,
) -> tuple[Announcement, ...]:
    events: list[NewEvent] = []
    updates: list[NewRunUpdate] = []
    for run in runs:
        name = standings[run.workflow_id].name
        events.append(run_started_event(run, workflow_name=name, user_id=run.user_id))
        if run.status == RunStatus.FAILED:
            events.append(run_failed_event(run, workflow_name=name, user_id=run.user_id))
        if run.status == RunStatus.COMPLETED:
            events.append(run_completed_event(run, workflow_name=name, user_id=run.user_id))
        updates.append(run_update_of(run))
    return await record(connection, project_id=project_id, transitions=(), events=events, run_updates=updates, now=now)


def _meetings(entrants: Sequence[Entrant]) -> list[Meeting]:
    """What to look up: of each workflow and person once."""
    asked = {
        (each.workflow_id, each.user_id): Meeting(
            each.workflow_id, each.user_id, each.reentry is ReentryPolicy.ONE_ACTIVE_RUN
        )
        for each in entrants
        if each.user_id is not None and each.reentry is not ReentryPolicy.ALWAYS
    }
    return list(asked.values())


async def _filter(
    connection: asyncpg.Connection,
    project_id: UUID,
    entrants: Sequence[Entrant],
    consents: Mapping[str, Mapping[str, ConsentState]],
    default_zone: str,
    now: datetime,
) -> list[Entrant]:
    """Those whom the filters let in. Reads people, and counts, only where some filter asks for them."""
    asked = [each for each in entrants if each.tests]
    if not asked:
        return list(entrants)
    profiles = await _read_profiles(connection, project_id, asked)
    counted = await _count(connection, project_id, asked, now)

    def passes(entrant: Entrant) -> bool:
        subject = Subject(
            event=entrant.event,
            profile=profiles.get(entrant.user_id or ""),
            now=entrant.at(now),
            consents=consents.get(entrant.user_id or "", _NOBODYS),
            counted=counted.get(id(entrant), ()),
            default_zone=default_zone,
        )
        return holds(entrant.tests, subject)

    return [each for each in entrants if passes(each)]


async def _read_profiles(
    connection: asyncpg.Connection, project_id: UUID, entrants: Sequence[Entrant]
) -> dict[str, ProfileRecord]:
    people = sorted({each.user_id for each in entrants if each.user_id is not None})
    if not people:
        return {}
    found = await read_profiles_by_user(connection, project_id=project_id, user_ids=people)
    return {profile.user_id: profile for profile in found}


async def _count(
    connection: asyncpg.Connection, project_id: UUID, entrants: Sequence[Entrant], now: datetime
) -> dict[int, tuple[tuple[Condition, bool], ...]]:
    """What each entrant's tests of counts say, the event in hand and those before it counted; by identity."""
    asked: dict[bytes, tuple[Condition, dict[int, Moment | None]]] = {}
    for entrant in entrants:
        for test in counts_in(entrant.tests):
            _, moments = asked.setdefault(msgspec.json.encode(test), (test, {}))
            moments[id(entrant)] = _moment(entrant, now)
    counted: dict[int, tuple[tuple[Condition, bool], ...]] = {}
    for test, moments in asked.values():
        known = sorted({each for each in moments.values() if each is not None}, key=_moment_key)
        passing = await find_passing(connection, project_id=project_id, test=test, moments=known) if known else set()
        for key, moment in moments.items():
            answer = count_passes(test, 0) if moment is None else moment in passing
            counted[key] = (*counted.get(key, ()), (test, answer))
    return counted


def _moment(entrant: Entrant, now: datetime) -> Moment | None:
    """None for nobody, to whom nothing ever happened."""
    if entrant.user_id is None:
        return None
    return Moment(entrant.user_id, UP_TO_NOW if entrant.event is None else entrant.event.seq, entrant.at(now))


def _moment_key(moment: Moment) -> tuple[str, int]:
    return moment.user_id, moment.seq


async def _in_audience(
    connection: asyncpg.Connection, project_id: UUID, entrants: Sequence[Entrant], now: datetime
) -> list[Entrant]:
    asked: dict[UUID, set[str]] = {}
    for each in entrants:
        if each.audience_id is not None and each.user_id is not None:
            asked.setdefault(each.audience_id, set()).add(each.user_id)
    members = {
        audience_id: await members_among(
            connection, project_id=project_id, audience_id=audience_id, user_ids=asked[audience_id], now=now
        )
        for audience_id in sorted(asked)
    }
    return [
        each
        for each in entrants
        if each.audience_id is None or (each.user_id is not None and each.user_id in members[each.audience_id])
    ]


async def _read_consents(
    connection: asyncpg.Connection, project_id: UUID, people: Sequence[str]
) -> dict[str, dict[str, ConsentState]]:
    """What people said, by purpose in lower case; whoever said nothing is absent."""
    if not people:
        return {}
    said: dict[str, dict[str, ConsentState]] = {}
    for each in await read_consents(connection, project_id=project_id, user_ids=people, purposes=list(ConsentPurpose)):
        said.setdefault(each.user_id, {})[each.purpose.lower()] = ConsentState(each.state)
    return said
