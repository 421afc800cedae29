"""What the tests of the deliveries API share: rows made through the ledger, one by one or by the thousand."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

from db.delivery_records import NewDelivery
from engine.dispatch.ledger import create_deliveries
from engine.node_ids import NodeKind, write_node_id
from tests.integration.graphql_support import Tenant


def new_delivery(now: datetime, **values: Any) -> NewDelivery:
    """QUEUED by default."""
    known: dict[str, Any] = {
        "delivery_id": uuid7(),
        "channel": "PUSH",
        "status": "QUEUED",
        "dispatch_key": "apns",
        "content": '{"messageId":"00000000-0000-0000-0000-000000000001","push":{"title":"Hi","body":"there"}}',
        "retry_schedule": (2, 8),
        "created_at": now,
        "next_attempt_at": now if values.get("status", "QUEUED") in ("QUEUED", "SCHEDULED") else None,
    }
    return NewDelivery(**{**known, **values})


async def make_delivery(tenant: Tenant, **values: Any) -> UUID:
    """Make one as whoever sends does, then set the columns that only later steps write.

    A status that nothing is made with is set without its transition.
    """
    services = tenant.gateway.services
    now = services.clock.now()
    columns = {name: values.pop(name) for name in list(values) if name not in NewDelivery.__struct_fields__}
    status = values.get("status", "QUEUED")
    if status not in ("QUEUED", "SCHEDULED", "SUPPRESSED", "FAILED"):
        values["status"] = "FAILED"
        columns["status"] = status
    if status == "RETRYING":
        columns["next_attempt_at"] = now
    if status == "SENDING":
        columns |= {"lease_token": uuid7(), "lease_until": now}
    delivery = new_delivery(now, **values)
    async with services.database.transaction() as connection:
        await create_deliveries(connection, project_id=tenant.project_id, deliveries=[delivery], now=now)
        await set_columns(connection, tenant.project_id, delivery.delivery_id, **columns)
    return delivery.delivery_id


async def set_columns(connection: asyncpg.Connection, project_id: UUID, delivery_id: UUID, **columns: Any) -> None:
    """Write columns of one delivery as they are."""
    if columns:
        changes = ", ".join(f"{name} = ${number}" for number, name in enumerate(columns, 3))
        statement = f"UPDATE deliveries SET {changes} WHERE project_id = $1 AND delivery_id = $2"
        await connection.execute(statement, project_id, delivery_id, *columns.values())


async def fill_deliveries(tenant: Tenant, count: int, *, status: str = "FAILED") -> None:
    """Insert many finished deliveries at once, without their transitions."""
    now = tenant.gateway.services.clock.now()
    async with tenant.gateway.services.database.connection() as connection:
        await connection.execute(
            """INSERT INTO deliveries (project_id, delivery_id, channel, status, dispatch_key, content, retry_schedule,
                                       created_at, finished_at, attempt_count)
               SELECT $1, gen_random_uuid(), 'WEBHOOK', $3, 'https://shop.example:443', '{}', '{2}', $4, $4, 3
               FROM generate_series(1, $2)""",
            tenant.project_id,
            count,
            status,
            now - timedelta(minutes=1),
        )


async def attempts_made(tenant: Tenant, delivery_id: UUID, *errors: str | None) -> None:
    """Insert attempts of a delivery, each with its error code or None."""
    now = tenant.gateway.services.clock.now()
    async with tenant.gateway.services.database.connection() as connection:
        await connection.executemany(
            """INSERT INTO delivery_attempts (project_id, delivery_id, number, at, duration_ms, status_code,
                                              response_body, signature_header, error_code, error_message,
                                              error_permanent)
               VALUES ($1, $2, $3, $4, 12, 500, 'oops', 't=1,v1=ab', $5::text, 'It failed.', false)""",
            [
                (tenant.project_id, delivery_id, number, now + timedelta(seconds=number), code)
                for number, code in enumerate(errors, 1)
            ],
        )


def node_id(delivery_id: UUID) -> str:
    """As clients see it."""
    return write_node_id(NodeKind.DELIVERY, delivery_id)
