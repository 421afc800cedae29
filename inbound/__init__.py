"""What other services and mail programs call, beside GraphQL: inbound endpoints, callbacks of providers, unsubscribing.

Guarantees: every body is read bounded in size and time; what is not proved to be from who it says is refused; answers
are constant and tell nothing of why; no secret, signature or body is logged; whoever knows no address that leads
anywhere, and makes some up, occupies `LOOK_UPS_AT_ONCE` connections to the database and no more. `routes` gives the
routes; they hold nothing to stop.
"""

from __future__ import annotations

import asyncio

from starlette.routing import Route

from engine.email.unsubscribe import UnsubscribeTokens
from inbound.callbacks import callback_route
from inbound.http import LOOK_UPS_AT_ONCE
from inbound.services import InboundServices
from inbound.unsubscribing import unsubscribe_route
from inbound.webhooks import inbound_route

__all__ = ["InboundServices", "routes"]


def routes(services: InboundServices, tokens: UnsubscribeTokens) -> list[Route]:
    """`tokens` reads the links of mails, under the deployment's secrets."""
    look_ups = asyncio.Semaphore(LOOK_UPS_AT_ONCE)
    return [
        inbound_route(services, look_ups),
        callback_route(services, look_ups),
        unsubscribe_route(services, tokens),
    ]
