"""Sending a sample event to an endpoint, or to a URL that is not an endpoint yet.

Guarantees: the delivery is like any other from then on: queued, sent by a worker, tried again, in the log. To a bare
URL it is signed with a secret made for it alone. Leaves to others: who may, announcing and waking.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.database import Database
from db.deliveries import read_deliveries
from db.delivery_records import DeliveryRecord, NewDelivery
from db.event_types import read_event_types
from db.records import ProjectRecord
from db.webhook_endpoints import WebhookEndpointRecord, read_webhook_endpoints
from engine.announcements import Announcement
from engine.dispatch.ledger import create_deliveries
from engine.dispatch.values import DEFAULT_PROVIDER_SCHEDULE, Channel, DeliveryStatus, WebhookContent, host_key
from engine.egress import Egress
from engine.errors import UserError
from engine.taxonomy import ALIASES, CANONICAL
from engine.transactions import run_transaction
from engine.vault import Vault
from engine.webhooks.bodies import sample_body
from engine.webhooks.endpoints import NOT_FOUND
from engine.webhooks.secrets import seal_delivery_secret
from engine.webhooks.signing import make_secret

if TYPE_CHECKING:
    import asyncpg


class SampleWebhook(msgspec.Struct, frozen=True):
    """A test that was queued, with what to announce; or why none was."""

    delivery: DeliveryRecord | None = None
    secret: str | None = None
    errors: tuple[UserError, ...] = ()
    announcements: tuple[Announcement, ...] = ()


class _Target(msgspec.Struct, frozen=True):
    url: str
    retry_schedule: tuple[int, ...]
    endpoint_id: UUID | None = None


class SampleWebhooks:
    """Makes tests for one process."""

    def __init__(self, database: Database, vault: Vault, egress: Egress) -> None:
        self._database = database
        self._vault = vault
        self._egress = egress

    async def send(
        self, *, project: ProjectRecord, endpoint_id: UUID | None, url: str | None, event_type: str, now: datetime
    ) -> SampleWebhook:
        """Queue a sample event of a type. Either `endpoint_id` or `url` is given."""
        async with self._database.connection() as connection:
            target, errors = await self._read_target(connection, project.project_id, endpoint_id, url)
            errors += await _type_errors(connection, project.project_id, event_type)
        if target is None or errors:
            return SampleWebhook(errors=errors)
        delivery_id, secret = uuid7(), None if target.endpoint_id is not None else make_secret()
        event_id, body = sample_body(
            event_type,
            test_id=delivery_id,
            organization_id=project.organization_id,
            project_id=project.project_id,
            now=now,
        )
        content = WebhookContent(event_id=event_id, body=body)
        if secret is not None:
            sealed = seal_delivery_secret(self._vault, secret, project_id=project.project_id, delivery_id=delivery_id)
            content = WebhookContent(event_id=event_id, body=body, url=target.url, sealed_secret=sealed)
        delivery = _delivery(delivery_id, target, content, event_type, now)
        announcements = await self._create(project.project_id, delivery, now)
        async with self._database.connection() as connection:
            made = await read_deliveries(connection, project_id=project.project_id, delivery_ids=[delivery_id])
        return SampleWebhook(made[0], secret, (), announcements)

    async def _create(self, project_id: UUID, delivery: NewDelivery, now: datetime) -> tuple[Announcement, ...]:
        async def action(connection: asyncpg.Connection) -> tuple[Announcement, ...]:
            # There already when the answer to an earlier COMMIT was lost.
            if await read_deliveries(connection, project_id=project_id, delivery_ids=[delivery.delivery_id]):
                return ()
            return await create_deliveries(connection, project_id=project_id, deliveries=[delivery], now=now)

        return await run_transaction(self._database, action)

    async def _read_target(
        self, connection: asyncpg.Connection, project_id: UUID, endpoint_id: UUID | None, url: str | None
    ) -> tuple[_Target | None, tuple[UserError, ...]]:
        if endpoint_id is None:
            refusal = self._egress.refusal(url or "")
            if refusal is not None:
                return None, (UserError(refusal, "BLOCKED_URL", ("url",)),)
            return _Target(url or "", DEFAULT_PROVIDER_SCHEDULE), ()
        found = await read_webhook_endpoints(connection, project_id=project_id, endpoint_ids=[endpoint_id])
        return _endpoint_target(found[0] if found else None)


def _endpoint_target(endpoint: WebhookEndpointRecord | None) -> tuple[_Target | None, tuple[UserError, ...]]:
    if endpoint is None:
        return None, (UserError(NOT_FOUND, "NOT_FOUND", ("endpointId",)),)
    if not endpoint.enabled:
        return None, (UserError("This endpoint is switched off: switch it on first.", "STATE", ("endpointId",)),)
    return _Target(endpoint.url, endpoint.retry_schedule, endpoint.endpoint_id), ()


async def _type_errors(connection: asyncpg.Connection, project_id: UUID, event_type: str) -> tuple[UserError, ...]:
    """A canonical type, an older name of one, or one that the project has stored."""
    if event_type in CANONICAL or event_type in ALIASES:
        return ()
    if "\0" not in event_type and await read_event_types(connection, project_id=project_id, event_types=[event_type]):
        return ()
    message = "This project knows no such event type: eventTypes lists those that it knows."
    return (UserError(message, "NOT_FOUND", ("eventType",)),)


def _delivery(
    delivery_id: UUID, target: _Target, content: WebhookContent, event_type: str, now: datetime
) -> NewDelivery:
    return NewDelivery(
        delivery_id=delivery_id,
        channel=Channel.WEBHOOK,
        status=DeliveryStatus.QUEUED,
        dispatch_key=host_key(target.url),
        content=msgspec.json.encode(content).decode(),
        retry_schedule=target.retry_schedule,
        created_at=now,
        next_attempt_at=now,
        event_type=event_type,
        endpoint_id=target.endpoint_id,
    )
