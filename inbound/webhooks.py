"""POST /inbound/{endpoint}: what another service sends becomes an event.

Answered once the event is on disk. A redelivery is answered like the first delivery and stored once.
"""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from db.inbound_endpoints import InboundEndpointRecord, find_inbound_endpoint
from engine.inbound.endpoints import open_secret
from engine.inbound.receiving import make_draft
from engine.inbound.verifiers import Challenge, InboundVerifier, Refusal, verify
from engine.log import Rejected
from engine.node_ids import NodeKind, parse_node_id
from engine.vault import CannotOpen
from inbound.http import answer, guarded, headers_of, read_body, received, unavailable
from inbound.services import InboundServices

MAX_BODY_BYTES = 1024 * 1024
"""Stripe's and GitHub's events take some tens of KiB."""

_logger = logging.getLogger(__name__)


def inbound_route(services: InboundServices, look_ups: asyncio.Semaphore) -> Route:
    """The route. `look_ups` are shared with others that anybody can ask for."""

    async def receive(request: Request) -> Response:
        endpoint = await _find(services, look_ups, request.path_params["endpoint"])
        if endpoint is None:
            return answer(404, "unknown endpoint")
        body = await read_body(request, most=MAX_BODY_BYTES)
        return await _receive(services, endpoint, request, body)

    return Route("/inbound/{endpoint}", guarded(receive), methods=["POST"])


async def _find(services: InboundServices, look_ups: asyncio.Semaphore, node_id: str) -> InboundEndpointRecord | None:
    parsed = parse_node_id(node_id)
    if parsed is None or parsed.kind is not NodeKind.INBOUND_ENDPOINT:
        return None
    async with look_ups, services.database.connection() as connection:
        return await find_inbound_endpoint(connection, endpoint_id=parsed.uuid)


async def _receive(
    services: InboundServices, endpoint: InboundEndpointRecord, request: Request, body: bytes
) -> Response:
    headers = headers_of(request)
    try:
        secret = open_secret(services.vault, endpoint)
    except CannotOpen:
        _logger.error("inbound.secret_unreadable", extra=_names(endpoint.project_id, endpoint.endpoint_id))
        return unavailable()
    verdict = verify(
        InboundVerifier(endpoint.verifier), secret=secret, headers=headers, body=body, now=services.clock.now()
    )
    if isinstance(verdict, Refusal):
        _logger.info(
            "inbound.refused", extra={**_names(endpoint.project_id, endpoint.endpoint_id), "reason": str(verdict)}
        )
        return answer(401, "invalid signature")
    if isinstance(verdict, Challenge):
        return PlainTextResponse(verdict.text)
    draft = make_draft(endpoint, event_id=verdict.event_id, headers=headers, body=body)
    [outcome] = await services.log.append(endpoint.project_id, [draft])
    if isinstance(outcome, Rejected):
        _logger.error("inbound.not_stored", extra=_names(endpoint.project_id, endpoint.endpoint_id))
        return answer(422, "not storable")
    return received()


def _names(project_id: UUID, endpoint_id: UUID) -> dict[str, str]:
    return {"project_id": str(project_id), "endpoint_id": str(endpoint_id)}
