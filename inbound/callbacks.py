"""POST /callbacks/{provider}: what a provider reports about messages that it took, verified, moves deliveries on.

A report about a delivery that is not known, or that says nothing new, is answered like any other: the provider has done
its part. One that comes before a worker has written the answer it belongs to waits for it, then asks to be sent again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from db.providers import ProviderRecord, find_provider
from engine.dispatch.reports import Reported
from engine.email.callbacks import apply_email_callback, read_email_callback
from engine.inbound.verifiers import Genuine, Refusal, is_from_twilio, verify_standard
from engine.node_ids import NodeKind, parse_node_id
from engine.providers.configuring import callback_url
from engine.providers.credentials import ProviderCredentials, open_credentials
from engine.providers.values import ProviderKind
from engine.sms.callbacks import apply_sms_callback, read_sms_callback
from engine.vault import CannotOpen
from inbound.http import answer, guarded, headers_of, read_body, received, unavailable
from inbound.services import InboundServices

MAX_BODY_BYTES = 256 * 1024
"""Resend's events hold the headers of a mail, never its body."""
MAX_FORM_FIELDS = 100
DELIVERY = "delivery"
"""The part of a callback's query that names its delivery, see `delivery_callback_url`."""

REPORTING = frozenset({ProviderKind.RESEND, ProviderKind.TWILIO})
"""Kinds whose providers report anything."""

_logger = logging.getLogger(__name__)


class ProviderCall(msgspec.Struct, frozen=True):
    """What came in for a provider. The names of `headers` are in lower case."""

    provider: ProviderRecord
    headers: Mapping[str, str]
    body: bytes


def callback_route(services: InboundServices, look_ups: asyncio.Semaphore) -> Route:
    """The route. `look_ups` are shared with others that anybody can ask for."""

    async def receive(request: Request) -> Response:
        provider = await _find(services, look_ups, request.path_params["provider"])
        if provider is None:
            return answer(404, "unknown provider")
        body = await read_body(request, most=MAX_BODY_BYTES)
        try:
            account = open_credentials(services.vault, provider)
        except CannotOpen:
            _logger.error("callbacks.secrets_unreadable", extra={"provider_id": str(provider.provider_id)})
            return unavailable()
        call = ProviderCall(provider, headers_of(request), body)
        if provider.kind == ProviderKind.RESEND:
            return await _receive_resend(services, account, call)
        return await _receive_twilio(services, account, request, call)

    return Route("/callbacks/{provider}", guarded(receive), methods=["POST"])


async def _find(services: InboundServices, look_ups: asyncio.Semaphore, node_id: str) -> ProviderRecord | None:
    """One that reports anything."""
    parsed = parse_node_id(node_id)
    if parsed is None or parsed.kind is not NodeKind.PROVIDER:
        return None
    async with look_ups, services.database.connection() as connection:
        found = await find_provider(connection, provider_id=parsed.uuid)
    return found if found is not None and found.kind in REPORTING else None


async def _receive_resend(services: InboundServices, account: ProviderCredentials, call: ProviderCall) -> Response:
    """Svix signs for Resend: as Standard Webhooks say, under names of its own."""
    now = services.clock.now()
    secret = account.secrets.get("webhookSecret", "")
    verdict = verify_standard(secret, call.headers, call.body, now, prefix="svix")
    if not isinstance(verdict, Genuine):
        return _refused(call.provider, str(verdict))
    callback = read_email_callback(call.body, callback_id=verdict.event_id)
    if callback is None:
        return received()
    reported = await apply_email_callback(
        services.database, services.announce, callback, project_id=call.provider.project_id, now=now
    )
    return _answer(reported)


async def _receive_twilio(
    services: InboundServices, account: ProviderCredentials, request: Request, call: ProviderCall
) -> Response:
    # The URL as it was given to Twilio: what a proxy makes of host and scheme does not matter.
    query = request.url.query
    url = callback_url(services.public_url, account.provider_id) + (f"?{query}" if query else "")
    form = _read_form(call.body)
    token = account.secrets.get("authToken")
    signature = call.headers.get("x-twilio-signature")
    if form is None or token is None or not is_from_twilio(token, url=url, form=form, signature=signature):
        return _refused(call.provider, Refusal.FORGED)
    delivery = parse_node_id(request.query_params.get(DELIVERY, ""))
    if delivery is None or delivery.kind is not NodeKind.DELIVERY:
        return received()
    report = read_sms_callback(dict(form), delivery_id=delivery.uuid)
    if report is None:
        return received()
    reported = await apply_sms_callback(
        services.database,
        services.announce,
        report,
        project_id=call.provider.project_id,
        now=services.clock.now(),
    )
    return _answer(reported)


def _read_form(body: bytes) -> list[tuple[str, str]] | None:
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS)
    except ValueError:
        return None


def _answer(reported: Reported) -> Response:
    return unavailable() if reported is Reported.TOO_EARLY else received()


def _refused(provider: ProviderRecord, reason: str) -> Response:
    """Whoever it was is told nothing; the operator is."""
    _logger.info(
        "callbacks.refused",
        extra={"project_id": str(provider.project_id), "provider_id": str(provider.provider_id), "reason": reason},
    )
    return answer(401, "invalid signature")
