"""Does claiming the runs that are due cost the same beside 1,000,000 that wait as beside 1,000? Part of `workflows`.

Data: runs of one workflow that wait for one of the next 30 days, inserted with `generate_series`; `DUE` of them fall
due at one moment, an hour from now, as of which the statements of the runner are asked: nothing is really due, so no
worker takes part. Asked three times: with few rows, with all of them while the planner's statistics are still those of
the few, and after ANALYZE.

Shows: the median time in ms of a claim (finding the due ones, then locking them) on a connection as a worker's, which
has a plan made for every execution, the pages that finding them touches, and its plans.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from uuid import UUID

import asyncpg

from benchmarks.harness import BenchmarkError
from db.database import Database
from db.statements import statements
from engine.workflows.runner import ROUND_RUNS

DUE = ROUND_RUNS
"""As many as one round takes."""
TRIES = 30
_SQL = statements("workflow_runs")
_PAGES = re.compile(r"Buffers: shared(?: hit=(\d+))?(?: read=(\d+))?")
_INSERT = """
    INSERT INTO workflow_runs (
        project_id, run_id, workflow_id, version, status, user_id, step, next_step_at, claim_at, started_at
    )
    SELECT $1, gen_random_uuid(), $2, 1, 'RUNNING', 'waiting-' || number, 0, at, at, $3
    FROM (
        SELECT number,
            CAST($4 AS timestamptz) + (number > $6)::integer * (interval '1 s' + random() * interval '30 days') AS at
        FROM generate_series($5::integer + 1, $7::integer) AS given (number)
    ) AS waiting"""


@dataclass(frozen=True)
class Claim:
    """What one claim costs. `pages` and `plan` are of finding the due ones alone."""

    milliseconds: float
    pages: int
    plan: str


async def measure_waiting(database: Database, project_id: UUID, workflow_id: UUID, *, few: int, many: int) -> None:
    """Ask beside so many, print what it costs, and leave the most there."""
    now = datetime.now().astimezone()
    due_at = now + timedelta(hours=1)

    async def insert(after: int, number: int) -> None:
        await connection.execute(_INSERT, project_id, workflow_id, now, due_at, after, DUE, number, timeout=600)

    async with database.connection() as connection:
        await connection.execute("SET statement_timeout = 0")
        await connection.execute("ALTER TABLE workflow_runs SET (autovacuum_enabled = off)")
        await insert(0, few)
        await connection.execute("ANALYZE workflow_runs")
        claims = {f"{few:,}, analyzed": await measure_claim(connection, project_id, due_at)}
        started = time.perf_counter()
        await insert(few, many)
        took = time.perf_counter() - started
        claims[f"{many:,}, statistics of {few:,}"] = await measure_claim(connection, project_id, due_at)
        await connection.execute("ANALYZE workflow_runs")
        claims[f"{many:,}, analyzed"] = await measure_claim(connection, project_id, due_at)
        await connection.execute("ALTER TABLE workflow_runs RESET (autovacuum_enabled)")
    print(f"claiming {DUE} due runs beside waiting ones, of which {many - few:,} were inserted in {took:.0f} s:")
    for name, claim in claims.items():
        print(f"  beside {name}: {claim.milliseconds:.2f} ms, {claim.pages} pages to find them; the plan:")
        print("\n".join(f"    {line}" for line in claim.plan.splitlines()))


async def measure_claim(connection: asyncpg.Connection, project_id: UUID, due_at: datetime) -> Claim:
    """As the runner claims, in transactions that are rolled back."""
    times = [await try_claim(connection, project_id, due_at) for _ in range(TRIES)]
    asked = f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) {_SQL['find_due_runs']}"
    rows = await connection.fetch(asked, project_id, due_at, ROUND_RUNS)
    plan = "\n".join(row[0] for row in rows)
    pages = _PAGES.search(plan)
    if pages is None:
        raise BenchmarkError(plan)
    return Claim(median(times), int(pages[1] or 0) + int(pages[2] or 0), plan)


async def try_claim(connection: asyncpg.Connection, project_id: UUID, due_at: datetime) -> float:
    """One claim, in ms."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        started = time.perf_counter()
        due = await connection.fetch(_SQL["find_due_runs"], project_id, due_at, ROUND_RUNS)
        locked = await connection.fetch(_SQL["try_lock_runs"], project_id, [row["run_id"] for row in due])
        took = (time.perf_counter() - started) * 1000
    finally:
        await transaction.rollback()
    if len(locked) != DUE:
        raise BenchmarkError(f"{len(locked)} runs were claimed, {DUE} are due")
    return took
