"""What the tests of the runner share: a project with workflows, people and events, runners, and channels in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.database import Database
from db.events import append_events
from db.followers import ensure_follower
from db.records import EventRecord, Lane
from db.workflow_records import RunRecord
from db.workflow_runs import insert_runs, read_run_steps, read_runs
from db.workflows import insert_workflow
from engine.announcements import Announcement
from engine.dispatch.dispatcher import Dispatcher
from engine.dispatch.filters import RUN_REPORTS
from engine.dispatch.ledger import record
from engine.dispatch.values import Channel
from engine.egress import Egress
from engine.lanes import DELIVERIES
from engine.vault import Vault
from engine.work import Work
from engine.workers.followers import Follower
from engine.workflows.definitions import Definitions
from engine.workflows.names import REPORTS_FOLLOWER
from engine.workflows.reports import report
from engine.workflows.run_events import run_started_event
from engine.workflows.run_ledger import new_run, run_update_of, trace_of
from engine.workflows.runner import Runner
from engine.workflows.state import (
    AskModel,
    ModelAnswer,
    ModelLate,
    ModelUnavailable,
    StepTrace,
)
from engine.workflows.stored import encode_definition
from engine.workflows.transition import begin
from engine.workflows.validation import read_definition
from tests.integration.dispatch_support import TestClock
from tests.integration.log_support import make_project, new_event, open_database, whole_log
from tests.peers.memory_channel import MemoryChannel

EGRESS = Egress(allowed="127.0.0.0/8")
VAULT = Vault(b"a secret of tests, long enough for it")

ModelReply = ModelAnswer | ModelUnavailable | ModelLate


@dataclass
class MemoryModels:
    """Models in this process. `script` answers, and may wait."""

    script: Callable[[AskModel], Any] = lambda _effect: ModelAnswer("yes")
    asked: list[AskModel] = field(default_factory=list)

    async def ask(self, _project_id: UUID, effect: AskModel) -> ModelReply:
        self.asked.append(effect)
        reply = self.script(effect)
        found: ModelReply = await reply if hasattr(reply, "__await__") else reply
        return found


@dataclass
class Shop:
    """A project, its clock, and whatever its workers say and are asked."""

    database: Database
    project_id: UUID
    url: str
    clock: TestClock = field(default_factory=TestClock)
    models: MemoryModels = field(default_factory=MemoryModels)
    announced: list[Announcement] = field(default_factory=list)
    woken: list[Work] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.channels = {each: MemoryChannel(each, repeatable=each is Channel.WEBHOOK) for each in Channel}
        self.runner = self.another_runner()
        self.dispatcher = Dispatcher(self.database, self.channels, self.clock, self.announced.append)
        self.reports = Follower(
            REPORTS_FOLLOWER,
            DELIVERIES,
            report,
            database=self.database,
            clock=self.clock,
            announce=self.announced.append,
            wake=self.woken.append,
            item_filter=RUN_REPORTS,
        )

    def another_runner(self, database: Database | None = None, **options: Any) -> Runner:
        return Runner(
            database or self.database,
            self.clock,
            self.announced.append,
            self.woken.append,
            vault=VAULT,
            refuse_url=EGRESS.refusal,
            models=self.models,
            definitions=Definitions(),
            **options,
        )

    async def workflow(self, *steps: Mapping[str, Any], name: str = "Journey", **trigger: Any) -> UUID:
        """Save a workflow that is on, as authors write it."""
        given = {"name": name, "trigger": trigger or {"eventType": "order.placed"}, "steps": list(steps)}
        definition, problems = read_definition(given, egress=EGRESS)
        assert definition is not None, problems
        workflow_id = uuid7()
        async with self.database.transaction() as connection:
            await insert_workflow(
                connection,
                project_id=self.project_id,
                workflow_id=workflow_id,
                name=name,
                definition=encode_definition(definition),
                is_active=True,
                next_due_at=None,
                now=self.clock.now(),
            )
        self.definitions = {**getattr(self, "definitions", {}), workflow_id: definition}
        return workflow_id

    async def person(self, *user_ids: str, **traits: Any) -> None:
        """People with the same traits."""
        text = msgspec.json.encode(traits).decode()
        await self.append(
            *(
                new_event(f"identify-{each}", event_type="user.identified", user_id=each, traits=text)
                for each in user_ids
            )
        )

    async def append(self, *events: Any) -> list[int]:
        async with self.database.transaction() as connection:
            result = await append_events(
                connection, project_id=self.project_id, batch_token=uuid7().int % 2**63, events=events
            )
        return list(result.seqs)

    async def track(self, user_id: str | None = "ada", **properties: Any) -> int:
        """The event that starts runs; its seq."""
        text = msgspec.json.encode(properties).decode()
        (seq,) = await self.append(new_event(f"order-{uuid7()}", user_id=user_id, properties=text))
        return seq

    async def start(
        self,
        workflow_id: UUID,
        user_ids: Sequence[str | None] = ("ada",),
        *,
        event_seq: int | None = None,
        depth: int = 0,
        is_held: bool = False,
    ) -> list[UUID]:
        """Begin a run for each, as triggers do."""
        now, definition = self.clock.now(), self.definitions[workflow_id]
        runs = [
            new_run(
                begin(definition, run_id=uuid7(), version=1, now=now, depth=depth),
                project_id=self.project_id,
                workflow_id=workflow_id,
                user_id=user_id,
                event_seq=event_seq,
                is_held=is_held,
            )
            for user_id in user_ids
        ]
        async with self.database.transaction() as connection:
            await insert_runs(connection, project_id=self.project_id, runs=runs)
            await record(
                connection,
                project_id=self.project_id,
                transitions=(),
                events=[run_started_event(each, workflow_name=definition.name, user_id=each.user_id) for each in runs],
                run_updates=[run_update_of(each) for each in runs],
                now=now,
            )
        return [each.run_id for each in runs]

    async def begin(self, *steps: Mapping[str, Any], user_id: str | None = "ada", **properties: Any) -> UUID:
        """One run of a workflow of its own, after an event."""
        workflow_id = await self.workflow(*steps, name=f"Journey {uuid7()}")
        (run_id,) = await self.start(workflow_id, [user_id], event_seq=await self.track(user_id, **properties))
        return run_id

    async def drain(self) -> None:
        """Do what is due, once: runs, what models say, and again."""
        await self.runner.drain(self.project_id)
        await self.runner.settled()
        await self.runner.drain(self.project_id)

    async def send(self) -> None:
        """Send what is due, and tell the runs."""
        await self.dispatcher.drain(self.project_id)
        await self.dispatcher.settled()
        await self.reports.follow(self.project_id)

    async def settle(self) -> None:
        """Do all that is due now, until nothing is."""
        for _ in range(30):
            before = await self.steps_written()
            await self.drain()
            await self.send()
            await self.drain()
            if await self.steps_written() == before:
                return
        raise AssertionError("there is always more to do")

    async def steps_written(self) -> int:
        async with self.database.connection() as connection:
            return int(
                await connection.fetchval("SELECT head FROM heads WHERE project_id = $1 AND lane = 3", self.project_id)
            )

    async def run(self, run_id: UUID) -> RunRecord:
        (found,) = await self.runs([run_id])
        return found

    async def runs(self, run_ids: Sequence[UUID]) -> list[RunRecord]:
        async with self.database.connection() as connection:
            return await read_runs(connection, project_id=self.project_id, run_ids=run_ids)

    async def trace(self, run_id: UUID) -> list[StepTrace]:
        async with self.database.connection() as connection:
            steps = await read_run_steps(connection, project_id=self.project_id, run_ids=[run_id])
        return [trace_of(each) for each in steps]

    async def outcomes(self, run_id: UUID) -> list[tuple[str, str | None]]:
        """Label and outcome of each step."""
        return [(each.label, None if each.outcome is None else each.outcome.code) for each in await self.trace(run_id)]

    async def updates(self, run_id: UUID) -> list[tuple[str, str | None, str | None]]:
        """Of the run's items of the lane: status, and the step's label and outcome."""
        rows = await self.fetch(
            "SELECT status, step ->> 'label' AS label, step ->> 'outcome' AS outcome FROM workflow_run_updates"
            " WHERE project_id = $1 AND run_id = $2 ORDER BY seq",
            run_id,
        )
        return [(row["status"], row["label"], row["outcome"]) for row in rows]

    async def events(self, *event_types: str) -> list[EventRecord]:
        async with self.database.connection() as connection:
            return [each for each in await whole_log(connection, self.project_id) if each.event_type in event_types]

    async def deliveries(self, run_id: UUID) -> list[Any]:
        return await self.fetch(
            "SELECT * FROM deliveries WHERE project_id = $1 AND workflow_run_id = $2 ORDER BY delivery_id", run_id
        )

    async def traits(self, user_id: str) -> Any:
        (row,) = await self.fetch("SELECT traits FROM profiles WHERE project_id = $1 AND user_id = $2", user_id)
        return msgspec.json.decode(row["traits"])

    async def fetch(self, statement: str, *arguments: Any) -> list[Any]:
        """Rows of the project, which is $1."""
        async with self.database.connection() as connection:
            return list(await connection.fetch(statement, self.project_id, *arguments))

    async def change(self, workflow_id: UUID, **columns: Any) -> None:
        """Write columns of a workflow as they are."""
        changes = ", ".join(f"{name} = ${number}" for number, name in enumerate(columns, 3))
        await self.fetch(
            f"UPDATE workflows SET {changes} WHERE project_id = $1 AND workflow_id = $2", workflow_id, *columns.values()
        )

    async def end_leases(self) -> None:
        """As if the time of every lease were over."""
        await self.fetch(
            "UPDATE workflow_runs SET lease_until = clock_timestamp() - interval '1 s'"
            " WHERE project_id = $1 AND lease_until IS NOT NULL"
        )


@asynccontextmanager
async def open_shop(url: str, **options: Any) -> AsyncIterator[Shop]:
    async with open_database(url, **options) as database:
        project_id = await make_project(database)
        async with database.transaction() as connection:
            await ensure_follower(connection, project_id=project_id, follower=REPORTS_FOLLOWER, lane=Lane.DELIVERIES)
        shop = Shop(database, project_id, url)
        try:
            yield shop
        finally:
            await shop.runner.stop()


def people(count: int) -> list[str]:
    return [f"user-{number:04}" for number in range(count)]


def labels(steps: Iterable[StepTrace]) -> list[str]:
    return [each.label for each in steps]
