"""Webhook endpoints and their secrets.

Guarantees: every function is one statement in the caller's transaction, and locks endpoints in the order of their ids.
Leaves to others: sealing secrets, what an endpoint may be (`engine.webhooks.endpoints`), and committing. Times are
business time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

_SQL = statements("webhook_endpoints")


class WebhookSecretRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A secret without itself. It signs until `expires_at`; None: until it is rotated."""

    secret_id: UUID
    hint: str
    created_at: datetime
    expires_at: datetime | None


class WebhookEndpointRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint as it is now, with its secrets, the oldest first; those that have ended may be among them."""

    project_id: UUID
    endpoint_id: UUID
    url: str
    description: str | None
    events: tuple[str, ...]
    enabled: bool
    disabled_reason: str | None
    signature_scheme: str
    retry_schedule: tuple[int, ...]
    allow_plain_http: bool
    created_at: datetime
    secrets: tuple[WebhookSecretRecord, ...]


class WebhookDraft(msgspec.Struct, frozen=True, kw_only=True):
    """What of an endpoint may be written."""

    url: str
    description: str | None
    events: tuple[str, ...]
    enabled: bool
    signature_scheme: str
    retry_schedule: tuple[int, ...]
    allow_plain_http: bool


class WebhookTarget(msgspec.Struct, frozen=True, kw_only=True):
    """What sending to an endpoint takes. `sealed_secrets` are the active ones, the oldest first."""

    endpoint_id: UUID
    url: str
    enabled: bool
    signature_scheme: str
    allow_plain_http: bool
    sealed_secrets: tuple[bytes, ...]


class WebhookSubscription(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint wants of the log: events past `after_seq` whose types its patterns match."""

    endpoint_id: UUID
    url: str
    events: tuple[str, ...]
    retry_schedule: tuple[int, ...]
    after_seq: int


_secrets = msgspec.json.Decoder(tuple[WebhookSecretRecord, ...])


async def insert_webhook_endpoint(
    connection: asyncpg.Connection, *, project_id: UUID, endpoint_id: UUID, draft: WebhookDraft, now: datetime
) -> None:
    """Make an endpoint that is sent what the log holds from now on. It has no secret yet."""
    await connection.execute(_SQL["insert_webhook_endpoint"], project_id, endpoint_id, *_columns(draft), now)


async def update_webhook_endpoint(
    connection: asyncpg.Connection, *, project_id: UUID, endpoint_id: UUID, draft: WebhookDraft
) -> None:
    """Replace what may be changed. Switched on, it forgets why it was off and is sent what comes from now on."""
    await connection.execute(_SQL["update_webhook_endpoint"], project_id, endpoint_id, *_columns(draft))


async def lock_webhook_endpoint(connection: asyncpg.Connection, *, project_id: UUID, endpoint_id: UUID) -> bool:
    """Lock an endpoint until the transaction ends; whether there is one."""
    return await connection.fetchval(_SQL["lock_webhook_endpoint"], project_id, endpoint_id) is not None


async def delete_webhook_endpoint(connection: asyncpg.Connection, *, project_id: UUID, endpoint_id: UUID) -> bool:
    """With its secrets; whether there was one."""
    return await connection.fetchval(_SQL["delete_webhook_endpoint"], project_id, endpoint_id) is not None


async def count_webhook_endpoints(connection: asyncpg.Connection, *, project_id: UUID) -> int:
    """How many a project has. Nobody else counts until the transaction ends."""
    return int(await connection.fetchval(_SQL["count_webhook_endpoints"], project_id))


async def read_webhook_endpoints(
    connection: asyncpg.Connection, *, project_id: UUID, endpoint_ids: Sequence[UUID]
) -> list[WebhookEndpointRecord]:
    """Endpoints by their ids, in no order; unknown ones are absent."""
    rows = await connection.fetch(_SQL["read_webhook_endpoints"], project_id, endpoint_ids)
    return [_endpoint(row) for row in rows]


async def list_webhook_endpoints(
    connection: asyncpg.Connection, *, project_id: UUID, after: UUID | None, limit: int
) -> list[WebhookEndpointRecord]:
    """A project's endpoints, newest first, those after (so older than) one of them."""
    rows = await connection.fetch(_SQL["list_webhook_endpoints"], project_id, after, limit)
    return [_endpoint(row) for row in rows]


async def read_webhook_targets(
    connection: asyncpg.Connection, *, project_id: UUID, endpoint_ids: Sequence[UUID], now: datetime
) -> dict[UUID, WebhookTarget]:
    """What sending to some endpoints takes, by their ids; unknown ones are absent."""
    rows = await connection.fetch(_SQL["read_webhook_targets"], project_id, endpoint_ids, now)
    return {
        row["endpoint_id"]: WebhookTarget(**{**dict(row.items()), "sealed_secrets": tuple(row["sealed_secrets"])})
        for row in rows
    }


async def read_webhook_subscriptions(
    connection: asyncpg.Connection, *, project_id: UUID
) -> tuple[WebhookSubscription, ...]:
    """What a project's endpoints that are on want, the oldest first."""
    rows = await connection.fetch(_SQL["read_webhook_subscriptions"], project_id)
    return tuple(WebhookSubscription(**_with_tuples(row)) for row in rows)


async def insert_webhook_secret(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    endpoint_id: UUID,
    secret_id: UUID,
    sealed_secret: bytes,
    hint: str,
    now: datetime,
) -> None:
    """Add a secret. `secret_id` is a UUIDv7: the oldest secret is the one with the least."""
    await connection.execute(
        _SQL["insert_webhook_secret"], project_id, endpoint_id, secret_id, sealed_secret, hint, now
    )


async def expire_webhook_secrets(
    connection: asyncpg.Connection, *, project_id: UUID, endpoint_id: UUID, at: datetime
) -> None:
    """End all secrets of an endpoint that have no end yet."""
    await connection.execute(_SQL["expire_webhook_secrets"], project_id, endpoint_id, at)


async def delete_webhook_secret(
    connection: asyncpg.Connection, *, project_id: UUID, endpoint_id: UUID, secret_id: UUID
) -> None:
    """End a secret at once."""
    await connection.execute(_SQL["delete_webhook_secret"], project_id, endpoint_id, secret_id)


async def delete_expired_webhook_secrets(
    connection: asyncpg.Connection, *, project_id: UUID, endpoint_id: UUID, now: datetime
) -> None:
    """Forget the secrets of an endpoint that sign no more."""
    await connection.execute(_SQL["delete_expired_webhook_secrets"], project_id, endpoint_id, now)


async def note_webhook_outcomes(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    working: Sequence[UUID],
    failing: Sequence[UUID],
    now: datetime,
) -> dict[UUID, datetime]:
    """Note which endpoints took something just now and which did not; who is in both fails. Writes only what is news.

    Gives those that fail and are on, each with the time of its first failure since it last took something.
    """
    rows = await connection.fetch(_SQL["note_webhook_outcomes"], project_id, working, failing, now)
    return {row["endpoint_id"]: row["failing_since"] for row in rows}


async def disable_webhook_endpoint(
    connection: asyncpg.Connection, *, project_id: UUID, endpoint_id: UUID, url: str, reason: str
) -> bool:
    """Switch an endpoint off, if it is on and its URL is still this one; whether it was."""
    disabled = await connection.fetchval(_SQL["disable_webhook_endpoint"], project_id, endpoint_id, url, reason)
    return disabled is not None


def _columns(draft: WebhookDraft) -> tuple[Any, ...]:
    return (
        draft.url,
        draft.description,
        draft.events,
        draft.enabled,
        draft.signature_scheme,
        draft.retry_schedule,
        draft.allow_plain_http,
    )


def _endpoint(row: Mapping[str, Any]) -> WebhookEndpointRecord:
    return WebhookEndpointRecord(**{**_with_tuples(row), "secrets": _secrets.decode(row["secrets"])})


def _with_tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(row.items())
    return {**values, "events": tuple(values["events"]), "retry_schedule": tuple(values["retry_schedule"])}
