"""Lists and counts of deliveries, and what is reported of many of them at once.

Guarantees: every function is one statement, so one snapshot, and the connection's time-out ends it.

Where a statement is composed here, its text is made of constants; whatever a caller supplies is a parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.deliveries import delivery_of
from db.delivery_filters import EVERY_DELIVERY, DeliveryFilter, delivery_filter_sql
from db.delivery_records import DeliveryRecord
from db.filter_terms import compare
from db.records import CappedCount
from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

COUNT_CAP = 10_000
"""Counting further would cost more than the number is worth to a reader."""

_SQL = statements("delivery_lists")
_COLUMNS = ", ".join(f"d.{name}" for name in DeliveryRecord.__struct_fields__)


class DeliveryList(msgspec.Struct, frozen=True):
    """A page of deliveries, newest first. `has_more`: the range asked for holds more than the page."""

    deliveries: tuple[DeliveryRecord, ...]
    has_more: bool


class StatusCount(msgspec.Struct, frozen=True):
    """How many deliveries of one channel have one status. `opened` and `clicked` of them were."""

    channel: str
    status: str
    deliveries: int
    tried: int
    opened: int
    clicked: int


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds from when deliveries were due to when they were handed over; None where none was."""

    p50_ms: float | None
    p99_ms: float | None


class ReasonRecord(msgspec.Struct, frozen=True):
    """Why deliveries of one channel failed or were held back, and how often."""

    channel: str
    reason: str
    hint: str | None
    deliveries: int
    last_seen_at: datetime


async def list_deliveries(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    limit: int,
    after: UUID | None = None,
    before: UUID | None = None,
    from_end: bool = False,
    delivery_filter: DeliveryFilter = EVERY_DELIVERY,
) -> DeliveryList:
    """Up to `limit` deliveries, newest first, between two ids in that order; `from_end` takes the last ones instead."""
    parameters: list[Any] = [project_id, limit + 1]
    text = f"""
        SELECT {_COLUMNS}
        FROM deliveries AS d
        WHERE d.project_id = $1
            AND {compare("d.delivery_id <", after, parameters) or "true"}
            AND {compare("d.delivery_id >", before, parameters) or "true"}
            AND {delivery_filter_sql(delivery_filter, parameters)}
        ORDER BY d.delivery_id {"ASC" if from_end else "DESC"}
        LIMIT $2"""  # noqa: S608
    found = [delivery_of(row) for row in await connection.fetch(text, *parameters)]
    page = found[:limit]
    return DeliveryList(tuple(reversed(page)) if from_end else tuple(page), has_more=len(found) > limit)


async def count_deliveries(
    connection: asyncpg.Connection, *, project_id: UUID, delivery_filter: DeliveryFilter = EVERY_DELIVERY
) -> CappedCount:
    """How many deliveries match, counted no further than `COUNT_CAP`."""
    parameters: list[Any] = [project_id, COUNT_CAP + 1]
    text = f"""
        SELECT count(*) FROM (
            SELECT FROM deliveries AS d
            WHERE d.project_id = $1 AND {delivery_filter_sql(delivery_filter, parameters)}
            LIMIT $2
        ) AS counted"""  # noqa: S608
    counted: int = await connection.fetchval(text, *parameters)
    return CappedCount(min(counted, COUNT_CAP), is_capped=counted > COUNT_CAP)


async def count_by_status(
    connection: asyncpg.Connection, *, project_id: UUID, delivery_filter: DeliveryFilter
) -> list[StatusCount]:
    """The matching deliveries by channel and status, in no order."""
    parameters: list[Any] = [project_id]
    text = f"""
        SELECT d.channel, d.status, count(*) AS deliveries,
            count(*) FILTER (WHERE d.attempt_count > 0) AS tried,
            count(d.opened_at) AS opened,
            count(d.clicked_at) AS clicked
        FROM deliveries AS d
        WHERE d.project_id = $1 AND {delivery_filter_sql(delivery_filter, parameters)}
        GROUP BY d.channel, d.status"""  # noqa: S608
    rows = await connection.fetch(text, *parameters)
    return [StatusCount(**dict(row.items())) for row in rows]


async def read_latency(connection: asyncpg.Connection, *, project_id: UUID, delivery_filter: DeliveryFilter) -> Latency:
    """How long the matching deliveries took that were handed over, retries included."""
    parameters: list[Any] = [project_id]
    text = f"""
        SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY taken.milliseconds) AS percentiles
        FROM (
            SELECT 1000 * extract(epoch FROM
                coalesce(d.sent_at, d.delivered_at) - coalesce(d.scheduled_for, d.created_at)
            )::double precision AS milliseconds
            FROM deliveries AS d
            WHERE d.project_id = $1 AND coalesce(d.sent_at, d.delivered_at) IS NOT NULL
                AND {delivery_filter_sql(delivery_filter, parameters)}
        ) AS taken"""  # noqa: S608
    percentiles: list[float] | None = await connection.fetchval(text, *parameters)
    return Latency(None, None) if percentiles is None else Latency(*percentiles)


async def read_reasons(
    connection: asyncpg.Connection, *, project_id: UUID, since: datetime, per_channel: int
) -> list[ReasonRecord]:
    """The most frequent reasons of each channel, by channel and count, of deliveries made since then."""
    rows = await connection.fetch(_SQL["read_reasons"], project_id, since, per_channel)
    return [ReasonRecord(**dict(row.items())) for row in rows]


async def read_recent_failures(
    connection: asyncpg.Connection, *, project_id: UUID, limit: int, among: int
) -> Sequence[UUID]:
    """The ids of the deliveries that failed last, latest first, of the `among` that were made last and failed."""
    rows = await connection.fetch(_SQL["read_recent_failures"], project_id, limit, among)
    return [row["delivery_id"] for row in rows]
