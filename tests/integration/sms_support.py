"""What the tests of text messages share: a project with an account at a Twilio on loopback, and sends."""

from __future__ import annotations

from typing import Any

from engine.egress import Egress
from tests.integration.graphql_support import Gateway, Tenant
from tests.peers.twilio import TwilioPeer

SEND = """mutation ($input: SendSmsInput!) {
  sendSms(input: $input) {
    batchId queued scheduled suppressed
    deliveries { id status suppressedReason userId error { code permanent hint } scheduledFor }
    userErrors { code path message }
  }
}"""
CONFIGURE = """mutation ($settings: JSON, $secrets: JSON) {
  configureProvider(input: {kind: TWILIO, settings: $settings, secrets: $secrets}) { userErrors { path message } }
}"""
ADA, BOB = "+14155550132", "+442079460958"
LOOPBACK = Egress(allowed="127.0.0.0/8")


async def open_account(gateway: Gateway, peer: TwilioPeer) -> Tenant:
    """A project with an account at the peer."""
    tenant = await gateway.tenant()
    configured = await tenant.data(CONFIGURE, settings=peer.settings(), secrets=peer.secrets())
    assert configured["configureProvider"]["userErrors"] == []
    return tenant


async def send(tenant: Tenant, **given: Any) -> Any:
    """What sendSms answers."""
    return (await tenant.data(SEND, input={"body": "Hi {{ trait.name }}!", **given}))["sendSms"]
