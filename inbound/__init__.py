"""What other services and mail programs call, beside GraphQL: inbound endpoints, callbacks of providers, unsubscribing.

Guarantees: every body is read bounded in size and time; what is not proved to be from who it says is refused; answers
are constant and tell nothing of why; no secret, signature or body is logged. `routes` gives the routes; they hold
nothing to stop.
"""

from __future__ import annotations

from starlette.routing import Route

from engine.email.unsubscribe import UnsubscribeTokens
from inbound.callbacks import callback_route
from inbound.services import InboundServices
from inbound.unsubscribing import unsubscribe_route
from inbound.webhooks import inbound_route

__all__ = ["InboundServices", "routes"]


def routes(services: InboundServices, tokens: UnsubscribeTokens) -> list[Route]:
    """`tokens` reads the links of mails, under the deployment's secrets."""
    return [inbound_route(services), callback_route(services), unsubscribe_route(services, tokens)]
