"""The webhook channel, as the dispatcher uses it.

Guarantees: url, lane, secrets and scheme are the endpoint's at the time of each attempt; what is for an endpoint that
is off or gone fails without an attempt; an endpoint that answers 410, or has failed for `FAILING_FOR` without one
success, is switched off, with an event that says why. Leaves to others: retries, what lanes do, recording.
Stops with `close`.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, cast
from uuid import UUID

import msgspec

from db.delivery_records import DeliveryRecord
from db.dispatch import move_deliveries
from db.records import NewEvent
from db.webhook_endpoints import (
    WebhookTarget,
    disable_webhook_endpoint,
    note_webhook_outcomes,
    read_webhook_targets,
)
from engine.audit import SYSTEM, Audit
from engine.channels.base import Accepted, Message, Moved, Outcome, Prepared, Ready, Refuse, Rejected, Settled
from engine.channels.http import HttpClient
from engine.channels.webhook import WebhookMessage, WebhookSender, request_refusal
from engine.dispatch.status import delivery_event
from engine.dispatch.values import Channel, DeliveryError, WebhookContent, host_key
from engine.node_ids import NodeKind, write_node_id
from engine.vault import CannotOpen, Vault
from engine.webhooks.secrets import open_delivery_secret, open_endpoint_secret
from engine.webhooks.signing import SignatureScheme
from engine.workflows.signing import active_step_secrets

if TYPE_CHECKING:
    import asyncpg

FAILING_FOR = timedelta(days=5)
"""Long enough for a weekend and a holiday."""

MOVED_AT_ONCE = 1_000
"""Of what waits for an endpoint that was given another host: as many as a transaction changes in some 100 ms."""

GONE_REASON = "The receiver answered 410 Gone: it wants nothing more."
FAILING_REASON = f"Every attempt has failed for {FAILING_FOR.days} days."

_read_content = msgspec.json.Decoder(WebhookContent).decode


class WebhookWork:
    """Webhooks of every project, in one worker. See `ChannelWork`."""

    channel = Channel.WEBHOOK

    def __init__(self, vault: Vault, client: HttpClient) -> None:
        self._vault = vault
        self._client = client
        self._sender = WebhookSender(client)

    async def prepare(
        self, connection: asyncpg.Connection, *, project_id: UUID, deliveries: Sequence[DeliveryRecord], now: datetime
    ) -> Mapping[UUID, Prepared]:
        """One statement for all endpoints, whose secrets are opened once.

        What was made when an endpoint had another host is given the lane of the host that it has now, and the rest of
        what waits for it there too: neither may hold the other's lane. So whatever led back to the old key (a retry,
        a replay, an event that was followed at that moment) is put right too, when it is due.
        """
        wanted = sorted({each.endpoint_id for each in deliveries if each.endpoint_id is not None})
        targets = (
            await read_webhook_targets(connection, project_id=project_id, endpoint_ids=wanted, now=now)
            if wanted
            else {}
        )
        opened = {endpoint_id: self._open(project_id, target) for endpoint_id, target in targets.items()}
        of_steps = await self._step_secrets(connection, project_id, deliveries, now)
        lanes = {endpoint_id: host_key(target.url) for endpoint_id, target in targets.items()}
        moved = {each.delivery_id: each for each in deliveries if _is_elsewhere(each, lanes)}
        for endpoint_id, before in sorted(
            {(cast(UUID, each.endpoint_id), each.dispatch_key) for each in moved.values()}
        ):
            await move_deliveries(
                connection,
                project_id=project_id,
                endpoint_id=endpoint_id,
                before=before,
                after=lanes[endpoint_id],
                limit=MOVED_AT_ONCE,
            )
        return {
            each.delivery_id: Moved() if each.delivery_id in moved else self._prepare(each, targets, opened, of_steps)
            for each in deliveries
        }

    async def send(self, message: Message) -> Outcome:
        """One attempt."""
        return await self._sender.send(cast(WebhookMessage, message))

    async def settle(
        self, connection: asyncpg.Connection, *, project_id: UUID, settled: Sequence[Settled], now: datetime
    ) -> Sequence[NewEvent]:
        """Keep since when endpoints fail, and switch off those that are dead."""
        working = {each.delivery.endpoint_id for each in settled if isinstance(each.outcome, Accepted)}
        failed = {each.delivery.endpoint_id: each for each in settled if _counts_against(each, working)}
        failing = await note_webhook_outcomes(
            connection,
            project_id=project_id,
            working=[endpoint_id for endpoint_id in working if endpoint_id is not None],
            failing=[endpoint_id for endpoint_id in failed if endpoint_id is not None],
            now=now,
        )
        events: list[NewEvent] = []
        for endpoint_id, since in sorted(failing.items()):
            reason = _disabling_reason(failed[endpoint_id].outcome, now - since)
            if reason is not None:
                events += await _disable(connection, project_id, failed[endpoint_id], reason, now)
        return events

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()

    def _open(self, project_id: UUID, target: WebhookTarget) -> tuple[str, ...]:
        """The endpoint's active secrets; none when they cannot be opened."""
        try:
            return tuple(
                open_endpoint_secret(self._vault, sealed, project_id=project_id, endpoint_id=target.endpoint_id)
                for sealed in target.sealed_secrets
            )
        except CannotOpen:
            return ()

    def _prepare(
        self,
        delivery: DeliveryRecord,
        targets: Mapping[UUID, WebhookTarget],
        opened: Mapping[UUID, tuple[str, ...]],
        of_steps: tuple[str, ...],
    ) -> Prepared:
        content = _read_content(delivery.content)
        if delivery.endpoint_id is None:
            active = of_steps if _is_of_a_step(delivery) else self._open_delivery_secret(delivery, content)
            return _ready(_to_url(content, active))
        target = targets.get(delivery.endpoint_id)
        if target is None:
            return _refuse("ENDPOINT_DELETED", "The endpoint was deleted.")
        if not target.enabled:
            return _refuse(
                "ENDPOINT_DISABLED", "The endpoint is switched off.", "Switch it on, then replay what it missed."
            )
        return _ready(_to_endpoint(content, target, opened[delivery.endpoint_id]))

    async def _step_secrets(
        self, connection: asyncpg.Connection, project_id: UUID, deliveries: Sequence[DeliveryRecord], now: datetime
    ) -> tuple[str, ...]:
        """The project's for steps of workflows; none when there is no such delivery, or they cannot be opened."""
        if not any(_is_of_a_step(each) for each in deliveries):
            return ()
        try:
            return await active_step_secrets(connection, self._vault, project_id=project_id, now=now)
        except CannotOpen:
            return ()

    def _open_delivery_secret(self, delivery: DeliveryRecord, content: WebhookContent) -> tuple[str, ...]:
        if content.sealed_secret is None:
            return ()
        project_id, delivery_id = delivery.project_id, delivery.delivery_id
        try:
            return (
                open_delivery_secret(
                    self._vault, content.sealed_secret, project_id=project_id, delivery_id=delivery_id
                ),
            )
        except CannotOpen:
            return ()


def _is_elsewhere(delivery: DeliveryRecord, lanes: Mapping[UUID, str]) -> bool:
    """It waits in another lane than its endpoint's."""
    lane = None if delivery.endpoint_id is None else lanes.get(delivery.endpoint_id)
    return lane is not None and lane != delivery.dispatch_key


def _is_of_a_step(delivery: DeliveryRecord) -> bool:
    return delivery.endpoint_id is None and delivery.workflow_run_id is not None


def _to_url(content: WebhookContent, active: tuple[str, ...]) -> WebhookMessage:
    return WebhookMessage(
        url=content.url or "",
        method=content.method,
        headers=content.headers,
        body=content.body.encode(),
        event_id=content.event_id,
        active=active,
    )


def _to_endpoint(content: WebhookContent, target: WebhookTarget, active: tuple[str, ...]) -> WebhookMessage:
    return WebhookMessage(
        url=target.url,
        method=content.method,
        headers=content.headers,
        body=content.body.encode(),
        event_id=content.event_id,
        active=active,
        scheme=SignatureScheme(target.signature_scheme),
        plain_http=target.allow_plain_http,
        endpoint_id=target.endpoint_id,
    )


def _ready(message: WebhookMessage) -> Prepared:
    if not message.active:
        return _refuse(
            "SECRET_UNREADABLE",
            "The signing secret cannot be opened.",
            "It was sealed under another SENDORA_SECRET_KEY: set SENDORA_PREVIOUS_SECRET_KEYS, or rotate it.",
        )
    refusal = request_refusal(message.method, message.headers)
    if refusal is not None:
        return _refuse("INVALID_REQUEST", refusal)
    return Ready(message=message, payload=_shown(message.body))


def _refuse(code: str, message: str, hint: str | None = None) -> Refuse:
    return Refuse(error=DeliveryError(code, message, permanent=True, hint=hint))


def _shown(body: bytes) -> str:
    """The body, as JSON: itself, or a string of it."""
    try:
        msgspec.json.decode(body)
    except msgspec.DecodeError:
        return msgspec.json.encode(body.decode()).decode()
    return body.decode()


def _counts_against(settled: Settled, working: Container[UUID | None]) -> bool:
    """An endpoint that took another delivery of the same moment is not failing, unless it says that it is gone."""
    if settled.delivery.endpoint_id is None or isinstance(settled.outcome, Accepted):
        return False
    return _is_gone(settled.outcome) or settled.delivery.endpoint_id not in working


def _is_gone(outcome: Outcome) -> bool:
    return isinstance(outcome, Rejected) and outcome.address_is_dead


def _disabling_reason(outcome: Outcome, failing: timedelta) -> str | None:
    if _is_gone(outcome):
        return GONE_REASON
    return FAILING_REASON if failing >= FAILING_FOR else None


async def _disable(
    connection: asyncpg.Connection, project_id: UUID, settled: Settled, reason: str, now: datetime
) -> tuple[NewEvent, ...]:
    """Unless it was switched off, or sent elsewhere, meanwhile. Noted in the audit log as nobody's doing."""
    delivery, message = settled.delivery, cast(WebhookMessage, settled.message)
    endpoint_id = cast(UUID, delivery.endpoint_id)
    disabled = await disable_webhook_endpoint(
        connection, project_id=project_id, endpoint_id=endpoint_id, url=message.url, reason=reason
    )
    if not disabled:
        return ()
    node_id = write_node_id(NodeKind.WEBHOOK_ENDPOINT, endpoint_id)
    await Audit(SYSTEM, now).note(
        connection,
        "webhook_endpoint.disabled",
        node_id,
        project_id=project_id,
        before={"enabled": True, "disabledReason": None},
        after={"enabled": False, "disabledReason": reason},
    )
    properties = {"endpointId": node_id, "reason": reason}
    return (
        delivery_event(delivery, "webhook.endpoint_disabled", number=delivery.attempt_count, properties=properties),
    )
