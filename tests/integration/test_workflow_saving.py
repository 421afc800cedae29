"""Saves that meet others and a failing network: what is kept is one of them, whole, and once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from db.database import Database
from db.workflow_records import WorkflowRecord
from db.workflows import (
    RELEASE,
    bump_generation,
    end_pending_change,
    list_workflows,
    lock_workflow,
    read_active_triggers,
    read_generation,
    read_workflow_versions,
    set_workflow_paused,
    share_workflows,
)
from engine.audit import SYSTEM, Audit
from engine.egress import Egress
from engine.workflows.cloning import clone_blueprint
from engine.workflows.definition import Definition, Step, StepType, Trigger, Wait
from engine.workflows.saving import (
    Draft,
    Refused,
    SaveOutcome,
    WorkflowChange,
    carry_out,
    new_draft,
    read_draft,
    save_in,
    save_workflow,
)
from engine.workflows.standing import delete_workflow, pause_workflow, resume_workflow
from engine.workflows.stored import decode_definition, decode_trigger
from engine.workflows.validation import Changes
from tests.integration.log_support import make_project, open_database, wait_until_blocked
from tests.integration.postgres_proxy import open_proxy

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
AUDIT = Audit(SYSTEM, NOW)
JOURNEY = Definition("Journey", Trigger("order.placed"), (Step("pause", StepType.WAIT, Wait(), delay_minutes=60),))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with open_database(database_url, max_size=4) as opened:
        yield opened


async def make(database: Database, project_id: UUID, **options: Any) -> WorkflowRecord:
    change = await carry_out(database, project_id=project_id, draft=new_draft(JOURNEY, **options), audit=AUDIT)
    assert change.workflow is not None
    return change.workflow


def change_of(record: WorkflowRecord, *, expected_version: int | None = None, **changes: Any) -> Draft:
    return Draft(
        workflow_id=record.workflow_id, is_new=False, changes=Changes(**changes), expected_version=expected_version
    )


async def listed(database: Database, project_id: UUID) -> list[tuple[str, int]]:
    async with database.connection() as connection:
        found = await list_workflows(connection, project_id=project_id, limit=100)
    return [(each.name, each.version) for each in found]


def codes(change: WorkflowChange) -> list[tuple[str, str]]:
    return [(error.code, ".".join(error.path)) for error in change.errors]


def is_commit(sent: bytes) -> bool:
    return b"COMMIT;" in sent


async def test_a_commit_whose_answer_is_lost_is_one_save(database_url: str, tmp_path: Path) -> None:
    async with open_proxy(tmp_path, database_url) as proxy, open_database(proxy.url, max_size=2) as database:
        project_id = await make_project(database)
        proxy.lose_answers_to(is_commit, times=1)
        made = await make(database, project_id)
        proxy.lose_answers_to(is_commit, times=1)
        draft = change_of(made, name="Path", expected_version=1)
        changed = await carry_out(database, project_id=project_id, draft=draft, audit=AUDIT)
        assert (changed.errors, proxy.lost) == ((), 2)
        assert await listed(database, project_id) == [("Path", 2)]

        proxy.lose_answers_to(is_commit, times=1)
        cloned = await clone_blueprint(database, project_id=project_id, key="birthday", name=None, audit=AUDIT)
        assert cloned.workflow is not None
        assert await listed(database, project_id) == [("Birthday", 1), ("Path", 2)]
        proxy.lose_answers_to(is_commit, times=1)
        assert await delete_workflow(database, project_id=project_id, workflow_id=made.workflow_id, audit=AUDIT)
        assert (await listed(database, project_id), proxy.lost) == ([("Birthday", 1)], 4)

    async with open_database(database_url) as database, database.connection() as connection:
        noted = await connection.fetch("SELECT action FROM audit_entries ORDER BY audit_entry_id")
    assert [row["action"] for row in noted] == [
        "workflow.created",
        "workflow.updated",
        "audience.created",
        "workflow.created",
        "workflow.deleted",
    ]


async def test_of_two_that_save_at_once_over_the_same_version_one_is_told(database: Database) -> None:
    project_id = await make_project(database)
    made = await make(database, project_id)
    drafts = [change_of(made, description=text, expected_version=1) for text in ("mine", "theirs")]
    first, second = await asyncio.gather(
        *(carry_out(database, project_id=project_id, draft=draft, audit=AUDIT) for draft in drafts)
    )
    assert sorted([codes(first), codes(second)]) == [[], [("CONFLICT", "input.expectedVersion")]]
    assert await listed(database, project_id) == [("Journey", 2)]


async def test_without_an_expected_version_changes_of_different_parts_are_both_kept(database: Database) -> None:
    project_id = await make_project(database)
    made = await make(database, project_id)
    drafts = [change_of(made, description="mine"), change_of(made, name="Path")]
    await asyncio.gather(*(carry_out(database, project_id=project_id, draft=draft, audit=AUDIT) for draft in drafts))
    async with database.connection() as connection:
        [found] = await list_workflows(connection, project_id=project_id, limit=2)
    definition = decode_definition(found.definition)
    assert (found.version, found.name, definition.name, definition.description) == (3, "Path", "Path", "mine")


async def test_of_many_that_want_a_name_at_once_one_has_it(database: Database) -> None:
    project_id = await make_project(database)
    changes = await asyncio.gather(
        *(carry_out(database, project_id=project_id, draft=new_draft(JOURNEY), audit=AUDIT) for _ in range(4))
    )
    assert sorted(codes(change) for change in changes) == [[], *3 * [[("CONFLICT", "input.name")]]]
    clones = await asyncio.gather(
        *(clone_blueprint(database, project_id=project_id, key="birthday", name=None, audit=AUDIT) for _ in range(3))
    )
    assert sorted(each.workflow.name for each in clones if each.workflow) == ["Birthday", "Birthday 2", "Birthday 3"]


async def test_several_are_saved_in_one_transaction_or_none(database: Database) -> None:
    project_id = await make_project(database)
    kept = await make(database, project_id)
    drafts = [
        new_draft(msgspec.structs.replace(JOURNEY, name="A"), is_active=True),
        change_of(kept, description="Better."),
        change_of(kept, description="Better."),
    ]
    taken = new_draft(JOURNEY, path=("bundle", "workflows", "3"))

    async with database.transaction() as connection:
        saved = [await save_in(connection, project_id=project_id, draft=draft, audit=AUDIT) for draft in drafts]
    assert [each.outcome for each in saved] == [SaveOutcome.CREATED, SaveOutcome.UPDATED, SaveOutcome.UNCHANGED]
    assert [(each.workflow.name, each.workflow.version) for each in saved] == [("A", 1), ("Journey", 2), ("Journey", 2)]

    async def save_two() -> None:
        async with database.transaction() as connection:
            for draft in (new_draft(msgspec.structs.replace(JOURNEY, name="B")), taken):
                await save_in(connection, project_id=project_id, draft=draft, audit=AUDIT)

    with pytest.raises(Refused) as refused:
        await save_two()
    assert [error.path for error in refused.value.errors] == [("bundle", "workflows", "3", "name")]
    assert await listed(database, project_id) == [("A", 1), ("Journey", 2)]


def test_a_draft_is_read_with_the_path_of_the_caller() -> None:
    draft, errors = read_draft({"name": "x", "isActive": True}, workflow_id=UUID(int=1), egress=Egress(), path=("a",))
    assert errors == ()
    assert draft == Draft(workflow_id=UUID(int=1), is_new=False, changes=Changes(name="x"), is_active=True, path=("a",))
    draft, errors = read_draft({"name": "x"}, workflow_id=None, egress=Egress(), path=("a",))
    assert draft is None
    assert [error.path for error in errors] == [("a", "trigger"), ("a", "steps")]


async def test_a_save_that_is_refused_by_its_shape_never_asks_the_database(database: Database) -> None:
    change = await save_workflow(
        database, project_id=UUID(int=0), workflow_id=None, given={}, egress=Egress(), audit=AUDIT
    )
    assert len(change.errors) == 3


async def test_a_reader_that_waited_sees_the_workflow_as_it_is_then(database: Database, database_url: str) -> None:
    """It is changed while a follower waits for its lock: the row is neither lost nor old."""
    project_id = await make_project(database)
    made = await make(database, project_id)
    watcher = await asyncpg.connect(database_url)
    try:
        async with database.connection() as waiting:
            pid = waiting.get_server_pid()

            async def share() -> Any:
                async with waiting.transaction():
                    return await share_workflows(waiting, project_id=project_id, workflow_ids=[made.workflow_id])

            async with database.transaction() as connection:
                await save_in(connection, project_id=project_id, draft=change_of(made, name="Path"), audit=AUDIT)
                reading = asyncio.create_task(share())
                await wait_until_blocked(watcher, pid)
            standing = (await reading)[made.workflow_id]
        assert (standing.version, standing.name, standing.deleted_at) == (2, "Path", None)
    finally:
        await watcher.close()


async def test_what_is_deleted_is_shared_but_not_locked_and_starts_nothing(database: Database) -> None:
    project_id = await make_project(database)
    made = await make(database, project_id, is_active=True)
    async with database.connection() as connection:
        [trigger] = await read_active_triggers(connection, project_id=project_id)
        assert (trigger.workflow_id, trigger.version, trigger.after_seq) == (made.workflow_id, 1, 0)
        assert trigger.trigger is not None
        assert decode_trigger(trigger.trigger) == JOURNEY.trigger
    await delete_workflow(database, project_id=project_id, workflow_id=made.workflow_id, audit=AUDIT)
    async with database.transaction() as connection:
        assert await lock_workflow(connection, project_id=project_id, workflow_id=made.workflow_id) is None
        shared = await share_workflows(connection, project_id=project_id, workflow_ids=[made.workflow_id])
        assert (shared[made.workflow_id].deleted_at, shared[made.workflow_id].pending_change) == (NOW, "CANCEL")
        assert await read_active_triggers(connection, project_id=project_id) == []
        versions = [(made.workflow_id, 1), (made.workflow_id, 2), (UUID(int=5), 1)]
        [kept] = await read_workflow_versions(connection, project_id=project_id, versions=versions)
        assert decode_definition(kept.definition) == JOURNEY


async def test_a_change_that_is_done_does_not_end_another(database: Database) -> None:
    project_id = await make_project(database)
    made = await make(database, project_id)
    for change in (pause_workflow, resume_workflow):
        await change(database, project_id=project_id, workflow_id=made.workflow_id, audit=AUDIT)
    async with database.connection() as connection:

        async def end(pending_change: str) -> bool:
            return await end_pending_change(
                connection, project_id=project_id, workflow_id=made.workflow_id, pending_change=pending_change
            )

        assert await end("CANCEL") is False
        assert await end(RELEASE) is True
        assert await end(RELEASE) is False


async def test_a_generation_is_of_one_project(database: Database) -> None:
    first, second = await make_project(database), await make_project(database)
    async with database.connection() as connection:
        await bump_generation(connection, project_id=first)
        await bump_generation(connection, project_id=first)
        assert await read_generation(connection, project_id=first) == 2
        assert await read_generation(connection, project_id=second) == 0


async def test_nothing_of_another_project_is_changed(database: Database) -> None:
    victim, attacker = await make_project(database), await make_project(database)
    made = await make(database, victim)
    async with database.transaction() as connection:
        await set_workflow_paused(
            connection,
            project_id=attacker,
            workflow_id=made.workflow_id,
            is_paused=True,
            pending_change=None,
            now=NOW,
        )
    stolen = await carry_out(database, project_id=attacker, draft=change_of(made, name="Stolen"), audit=AUDIT)
    assert codes(stolen) == [("NOT_FOUND", "input.id")]
    async with database.connection() as connection:
        assert await list_workflows(connection, project_id=victim, limit=2) == [made]
