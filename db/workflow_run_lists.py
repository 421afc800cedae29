"""Lists and counts of runs, and which deliveries are theirs.

Guarantees: every function is one statement, so one snapshot, and the connection's time-out ends it. Where a statement
is composed here, its text is made of constants; whatever a caller supplies is a parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.filter_terms import compare
from db.records import CappedCount
from db.run_filters import EVERY_RUN, RunFilter, run_filter_sql
from db.statements import statements
from db.workflow_records import RunRecord
from db.workflow_runs import run_of

if TYPE_CHECKING:
    import asyncpg

COUNT_CAP = 10_000
"""Counting further would cost more than the number is worth to a reader."""

_SQL = statements("workflow_run_lists")
_COLUMNS = ", ".join(f"r.{name}" for name in RunRecord.__struct_fields__)


class RunList(msgspec.Struct, frozen=True):
    """A page of runs, newest first. `has_more`: the range asked for holds more than the page."""

    runs: tuple[RunRecord, ...]
    has_more: bool


class RunDelivery(msgspec.Struct, frozen=True):
    """A delivery of a run. `number` is the step's that made it."""

    run_id: UUID
    number: int
    delivery_id: UUID


async def list_runs(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    limit: int,
    after: UUID | None = None,
    before: UUID | None = None,
    from_end: bool = False,
    run_filter: RunFilter = EVERY_RUN,
) -> RunList:
    """Up to `limit` runs, newest first, between two ids in that order; `from_end` takes the last ones instead."""
    parameters: list[Any] = [project_id, limit + 1]
    text = f"""
        SELECT {_COLUMNS}
        FROM workflow_runs AS r
        WHERE r.project_id = $1
            AND {compare("r.run_id <", after, parameters) or "true"}
            AND {compare("r.run_id >", before, parameters) or "true"}
            AND {run_filter_sql(run_filter, parameters)}
        ORDER BY r.run_id {"ASC" if from_end else "DESC"}
        LIMIT $2"""  # noqa: S608
    found = [run_of(row) for row in await connection.fetch(text, *parameters)]
    page = found[:limit]
    return RunList(tuple(reversed(page)) if from_end else tuple(page), has_more=len(found) > limit)


async def count_runs(
    connection: asyncpg.Connection, *, project_id: UUID, run_filter: RunFilter = EVERY_RUN
) -> CappedCount:
    """How many runs match, counted no further than `COUNT_CAP`."""
    parameters: list[Any] = [project_id, COUNT_CAP + 1]
    text = f"""
        SELECT count(*) FROM (
            SELECT FROM workflow_runs AS r
            WHERE r.project_id = $1 AND {run_filter_sql(run_filter, parameters)}
            LIMIT $2
        ) AS counted"""  # noqa: S608
    counted: int = await connection.fetchval(text, *parameters)
    return CappedCount(min(counted, COUNT_CAP), is_capped=counted > COUNT_CAP)


async def read_first_deliveries(
    connection: asyncpg.Connection, *, project_id: UUID, run_ids: Sequence[UUID]
) -> list[RunDelivery]:
    """The first delivery of each step of some runs that made any."""
    return _deliveries(await connection.fetch(_SQL["read_first_deliveries"], project_id, run_ids))


async def read_run_deliveries(
    connection: asyncpg.Connection, *, project_id: UUID, run_ids: Sequence[UUID], per_run: int
) -> list[RunDelivery]:
    """The first deliveries of some runs, up to `per_run` of each, by run and delivery."""
    return _deliveries(await connection.fetch(_SQL["read_run_deliveries"], project_id, run_ids, per_run))


def _deliveries(rows: Sequence[Any]) -> list[RunDelivery]:
    return [RunDelivery(row["run_id"], row["number"], row["delivery_id"]) for row in rows]
