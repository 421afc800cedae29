"""What the tests of triggers and schedules share: workflows as they are saved, events, and the runs that begin."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from db import workflows
from db.consents import write_consent
from db.database import Database
from db.events import append_events
from db.filters import Condition
from db.followers import ensure_follower
from db.records import EventRecord, Lane, NewEvent
from db.workflow_records import RunRecord
from db.workflow_runs import read_runs
from engine.announcements import Announcement
from engine.conditions import parse_conditions
from engine.lanes import EVENTS
from engine.work import Work
from engine.workers.followers import Follower
from engine.workflows.definition import Definition, ReentryPolicy, Schedule, Step, StepType, Trigger, Wait
from engine.workflows.definitions import Definitions
from engine.workflows.follower import Triggers
from engine.workflows.matching import TriggerCache
from engine.workflows.names import TRIGGERS_FOLLOWER
from engine.workflows.schedules import next_occurrence
from engine.workflows.stored import encode_definition
from tests.integration.dispatch_support import TestClock
from tests.integration.log_support import make_project, new_event, open_database, whole_log

STEPS = (Step(label="pause", type=StepType.WAIT, config=Wait(), delay_minutes=60),)


def conditions(*given: dict[str, Any]) -> tuple[Condition, ...]:
    return parse_conditions(given, roots=frozenset({"event", "profile", "events"}), path=("filters",))


def definition_of(name: str, trigger: Trigger, steps: Sequence[Step] = STEPS) -> Definition:
    return Definition(name=name, trigger=trigger, steps=tuple(steps))


@dataclass
class Stage:
    """A project whose log workflows follow, and one worker's follower."""

    database: Database
    project_id: UUID
    url: str
    clock: TestClock = field(default_factory=TestClock)
    announced: list[Announcement] = field(default_factory=list)
    woken: list[Work] = field(default_factory=list)
    names: dict[UUID, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.follower = self.another_worker()

    def another_worker(self) -> Follower[EventRecord]:
        return Follower(
            TRIGGERS_FOLLOWER,
            EVENTS,
            Triggers(TriggerCache(), Definitions()).follow,
            database=self.database,
            clock=self.clock,
            announce=self.announced.append,
            wake=self.woken.append,
        )

    async def workflow(
        self,
        event_type: str | None = "order.placed",
        *filters: dict[str, Any],
        name: str | None = None,
        reentry: ReentryPolicy = ReentryPolicy.ALWAYS,
        audience_id: UUID | None = None,
        schedule: Schedule | None = None,
        steps: Sequence[Step] = STEPS,
        is_active: bool = True,
    ) -> UUID:
        """Save a workflow and switch it on."""
        workflow_id = uuid7()
        trigger = Trigger(
            event_type=event_type,
            schedule=schedule,
            filters=conditions(*filters),
            audience_id=audience_id,
            reentry=reentry,
        )
        self.names[workflow_id] = name or f"workflow {len(self.names) + 1}"
        async with self.database.transaction() as connection:
            await ensure_follower(connection, project_id=self.project_id, follower=TRIGGERS_FOLLOWER, lane=Lane.EVENTS)
            await workflows.insert_workflow(
                connection,
                project_id=self.project_id,
                workflow_id=workflow_id,
                name=self.names[workflow_id],
                definition=encode_definition(definition_of(self.names[workflow_id], trigger, steps)),
                is_active=is_active,
                next_due_at=None if schedule is None else next_occurrence(schedule, self.clock.now()),
                now=self.clock.now(),
            )
            await workflows.bump_generation(connection, project_id=self.project_id)
        return workflow_id

    async def save(self, workflow_id: UUID, version: int, trigger: Trigger) -> None:
        """Another version."""
        name = self.names[workflow_id]
        async with self.database.transaction() as connection:
            await workflows.insert_workflow_version(
                connection,
                project_id=self.project_id,
                workflow_id=workflow_id,
                version=version,
                name=name,
                definition=encode_definition(definition_of(name, trigger)),
                now=self.clock.now(),
            )
            await workflows.bump_generation(connection, project_id=self.project_id)

    async def change(self, workflow_id: UUID, **columns: Any) -> None:
        """Write columns of a workflow as they are, as whoever changes what starts it does."""
        changes = ", ".join(f"{name} = ${number}" for number, name in enumerate(columns, 3))
        async with self.database.transaction() as connection:
            await connection.execute(
                f"UPDATE workflows SET {changes} WHERE project_id = $1 AND workflow_id = $2",
                self.project_id,
                workflow_id,
                *columns.values(),
            )
            await workflows.bump_generation(connection, project_id=self.project_id)

    async def track(self, event_type: str = "order.placed", user_id: str | None = "ada", **values: Any) -> None:
        await self.append(new_event(f"k-{uuid7()}", event_type=event_type, user_id=user_id, **values))

    async def append(self, *events: NewEvent) -> None:
        async with self.database.transaction() as connection:
            await append_events(connection, project_id=self.project_id, batch_token=uuid7().int % 2**63, events=events)

    async def say(self, user_id: str, state: str, purpose: str = "WORKFLOWS") -> None:
        """A person's word."""
        async with self.database.transaction() as connection:
            await write_consent(
                connection,
                project_id=self.project_id,
                user_id=user_id,
                purpose=purpose,
                state=state,
                source="test",
                now=self.clock.now(),
            )

    async def follow(self) -> list[RunRecord]:
        """Follow the log to its end; all runs there are, in the order in which they began."""
        await self.follower.follow(self.project_id)
        return await self.runs()

    async def runs(self) -> list[RunRecord]:
        async with self.database.connection() as connection:
            rows = await connection.fetch("SELECT run_id FROM workflow_runs WHERE project_id = $1", self.project_id)
            found = await read_runs(connection, project_id=self.project_id, run_ids=[row["run_id"] for row in rows])
        return sorted(found, key=lambda run: run.run_id)

    async def started(self) -> list[tuple[UUID, int | None]]:
        """Which workflow began because of which event."""
        return [(run.workflow_id, run.event_seq) for run in await self.runs()]

    async def events(self, prefix: str = "automation.") -> list[EventRecord]:
        async with self.database.connection() as connection:
            return [each for each in await whole_log(connection, self.project_id) if each.event_type.startswith(prefix)]

    async def run_updates(self) -> list[tuple[int, UUID, str]]:
        async with self.database.connection() as connection:
            rows = await connection.fetch(
                "SELECT seq, run_id, status FROM workflow_run_updates WHERE project_id = $1 ORDER BY seq",
                self.project_id,
            )
        return [tuple(row) for row in rows]  # type: ignore[misc]

    async def end_leases(self) -> None:
        """As if the worker that holds them were long dead."""
        async with self.database.connection() as connection:
            await connection.execute(
                "UPDATE log_followers SET lease_until = lease_until - interval '1 hour' WHERE project_id = $1",
                self.project_id,
            )

    @property
    def now(self) -> datetime:
        return self.clock.now()


@asynccontextmanager
async def open_stage(url: str) -> AsyncIterator[Stage]:
    async with open_database(url) as database:
        yield Stage(database, await make_project(database), url)
