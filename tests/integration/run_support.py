"""What the tests of runs share: workflows and runs as rows, and updates for their lane."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from uuid_utils.compat import uuid7

from db.workflow_records import NewRunUpdate
from db.workflow_runs import insert_runs as insert_records
from db.workflows import read_workflows
from engine.dispatch.ledger import record
from engine.node_ids import NodeKind, parse_node_id, write_node_id
from engine.workflows.asking import Models
from engine.workflows.definitions import Definitions
from engine.workflows.run_events import run_started_event
from engine.workflows.run_ledger import new_run, run_update_of
from engine.workflows.runner import Runner
from engine.workflows.stored import decode_definition
from engine.workflows.transition import begin
from tests.integration.graphql_support import Tenant
from tests.integration.runner_support import MemoryModels

SAVE_WORKFLOW = """mutation ($input: SaveWorkflowInput!) { saveWorkflow(input: $input) {
  workflow { id } userErrors { code path message }
} }"""


def new_run_update(now: datetime, **values: Any) -> NewRunUpdate:
    """A status change of a run of its own, unless told otherwise."""
    known: dict[str, Any] = {
        "run_id": uuid7(),
        "workflow_id": UUID(int=1),
        "user_id": None,
        "status": "RUNNING",
        "started_at": now,
    }
    return NewRunUpdate(**{**known, **values})


async def insert_workflow(
    connection: asyncpg.Connection,
    project_id: UUID,
    workflow_id: UUID,
    *,
    now: datetime,
    definitions: Iterable[str] = ("{}",),
    **columns: Any,
) -> None:
    """A workflow with its versions 1, 2, …, each the JSON of a definition."""
    versions = list(definitions)
    row = {
        "project_id": project_id,
        "workflow_id": workflow_id,
        "name": workflow_id.hex,
        "is_active": True,
        "is_paused": False,
        "version": len(versions),
        "after_seq": 0,
        "created_at": now,
        "updated_at": now,
        **columns,
    }
    await _insert(connection, "workflows", [row])
    await connection.executemany(
        "INSERT INTO workflow_versions (project_id, workflow_id, version, definition, created_at)"
        " VALUES ($1, $2, $3, $4::text::jsonb, $5)",
        [(project_id, workflow_id, number, text, now) for number, text in enumerate(versions, 1)],
    )


async def insert_runs(
    connection: asyncpg.Connection, project_id: UUID, runs: Iterable[dict[str, Any]], *, now: datetime
) -> None:
    """Rows as they are. RUNNING at their first step, due now, unless told otherwise."""
    known: dict[str, Any] = {
        "project_id": project_id,
        "version": 1,
        "status": "RUNNING",
        "depth": 0,
        "step": 0,
        "is_held": False,
        "vars": {},
        "steps_made": 0,
        "asked": 0,
        "started_at": now,
    }
    await _insert(connection, "workflow_runs", [{**known, **run} for run in runs])


async def insert_run_steps(
    connection: asyncpg.Connection, project_id: UUID, steps: Iterable[dict[str, Any]], *, now: datetime
) -> None:
    """Steps of runs as they are. The first of their run, and over, unless told otherwise."""
    known: dict[str, Any] = {
        "project_id": project_id,
        "number": 1,
        "step": 0,
        "label": "one",
        "type": "UPDATE_PROFILE",
        "outcome": "OK",
        "input": {},
        "started_at": now,
        "finished_at": now,
    }
    await _insert(connection, "workflow_run_steps", [{**known, **step} for step in steps])


async def _insert(connection: asyncpg.Connection, table: str, rows: list[dict[str, Any]]) -> None:
    await connection.execute(
        f"INSERT INTO {table} SELECT * FROM jsonb_populate_recordset(CAST(NULL AS {table}), $1::text::jsonb)",
        msgspec.json.encode(rows).decode(),
    )


async def save_workflow(tenant: Tenant, *steps: Mapping[str, Any], **values: Any) -> str:
    """A workflow that starts with order.placed, as an author saves it; gives its node id."""
    given = {"name": "Journey", "trigger": {"eventType": "order.placed"}, "steps": list(steps), **values}
    saved = (await tenant.data(SAVE_WORKFLOW, input=given))["saveWorkflow"]
    assert saved["userErrors"] == []
    node_id: str = saved["workflow"]["id"]
    return node_id


async def start_run(
    tenant: Tenant, workflow: str, *, user_id: str | None = "ada", event_seq: int | None = None, is_held: bool = False
) -> str:
    """Begin a run of a workflow as a trigger does, and announce it; gives its node id."""
    services, project_id = tenant.gateway.services, tenant.project_id
    now, workflow_id = services.clock.now(), uuid_of(workflow)
    async with services.database.transaction() as connection:
        [found] = await read_workflows(connection, project_id=project_id, workflow_ids=[workflow_id])
        state = begin(decode_definition(found.definition), run_id=uuid7(), version=found.version, now=now)
        run = new_run(
            state,
            project_id=project_id,
            workflow_id=workflow_id,
            user_id=user_id,
            event_seq=event_seq,
            is_held=is_held,
        )
        await insert_records(connection, project_id=project_id, runs=[run])
        told = await record(
            connection,
            project_id=project_id,
            transitions=(),
            events=[run_started_event(run, workflow_name=found.name, user_id=user_id)],
            run_updates=[run_update_of(run)],
            now=now,
        )
    for announcement in told:
        services.announce(announcement)
    return write_node_id(NodeKind.WORKFLOW_RUN, run.run_id)


def uuid_of(node_id: str) -> UUID:
    """What a node id is of."""
    parsed = parse_node_id(node_id)
    assert parsed is not None
    return parsed.uuid


def runner_of(tenant: Tenant, models: Models | None = None) -> Runner:
    """What carries runs on in a worker, with the tenant's clock."""
    services = tenant.gateway.services
    return Runner(
        services.database,
        services.clock,
        services.announce,
        services.wake,
        vault=services.vault,
        refuse_url=services.egress.refusal,
        models=models or MemoryModels(),
        definitions=Definitions(),
    )


async def drain_runs(tenant: Tenant, models: Models | None = None) -> None:
    """Carry on what is due."""
    runner = runner_of(tenant, models)
    await runner.drain(tenant.project_id)
    await runner.settled()
    await runner.stop()
