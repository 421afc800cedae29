"""What the workers send that are killed on the way: through a channel in memory, or a real one to a peer.

A scene makes deliveries in a project and has the channels that send them. The worker that is killed and the one that
takes over have one each, of the same kind; the peer is neither's, so it lives on and counts.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from functools import cache
from typing import Protocol
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.sender_domains import insert_sender_domain, update_sender_domain
from engine.audit import SYSTEM, Audit
from engine.channels.base import ChannelWork
from engine.channels.http import HttpClient
from engine.channels.smtp import SmtpSender
from engine.dispatch.values import Channel, EmailContent, WebhookContent, host_key
from engine.egress import Egress
from engine.email.dkim_signing import DkimKeyPair, make_key_pair
from engine.email.domains import SELECTOR, SenderDomainStatus, dkim_purpose
from engine.email.policy import BurstLimits
from engine.email.unsubscribe import UnsubscribeTokens
from engine.email.work import DISPATCH_KEY, EmailWork
from engine.providers.configuring import configure_provider
from engine.providers.values import ProviderKind
from engine.vault import Vault
from engine.webhooks.endpoints import WebhookEndpoints
from engine.webhooks.work import WebhookWork
from tests.integration.dispatch_support import Desk
from tests.peers.memory_channel import MemoryChannel, MemoryMessage

DELIVERIES = 2
"""Of each channel in each life."""
EGRESS = Egress(allowed="127.0.0.0/8")
SECRET = b"a secret of tests, long enough for it"
VAULT = Vault(SECRET)
DOMAIN = "shop.example"
USER = "shop"
PASSWORD = "the relay's password"


@cache
def _keys() -> DkimKeyPair:
    """Once for all lives: it takes as long as one of them."""
    return make_key_pair()


class Scene(Protocol):
    """One kind of deliveries, with their channels. One for each worker."""

    works: Mapping[Channel, ChannelWork]

    async def enqueue(self, desk: Desk, project_id: UUID) -> None:
        """Make deliveries, due now, with whatever their channel needs."""

    async def close(self) -> None:
        """Close connections."""


class MemoryScene:
    """One channel that may be repeated and one that may not. `receive` is told of each message before all else."""

    def __init__(self, receive: Callable[[MemoryMessage], None]) -> None:
        webhook = MemoryChannel(Channel.WEBHOOK, repeatable=True, receive=receive)
        push = MemoryChannel(Channel.PUSH, repeatable=False, receive=receive)
        self.works: Mapping[Channel, ChannelWork] = {Channel.WEBHOOK: webhook, Channel.PUSH: push}

    async def enqueue(self, desk: Desk, project_id: UUID) -> None:
        await desk.enqueue(project_id, DELIVERIES)
        await desk.enqueue(project_id, DELIVERIES, channel=Channel.PUSH)

    async def close(self) -> None:
        return


class WebhookScene:
    """Webhooks to an endpoint at a receiver."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = HttpClient(EGRESS)
        self.works: Mapping[Channel, ChannelWork] = {Channel.WEBHOOK: WebhookWork(VAULT, self._http)}

    async def enqueue(self, desk: Desk, project_id: UUID) -> None:
        now = desk.clock.now()
        endpoints = WebhookEndpoints(desk.database, VAULT, EGRESS)
        given = {"url": f"{self._url}/{project_id}", "events": ["*"]}
        made = await endpoints.create(project_id=project_id, given=given, audit=Audit(SYSTEM, now))
        assert made.endpoint is not None, made.errors
        for number in range(DELIVERIES):
            content = WebhookContent(event_id=f"{project_id}:{number}", body=f'{{"number": {number}}}')
            await desk.enqueue(
                project_id,
                dispatch_key=host_key(self._url),
                endpoint_id=made.endpoint.endpoint_id,
                content=msgspec.json.encode(content).decode(),
            )

    async def close(self) -> None:
        await self._http.close()


class EmailScene:
    """Mails through a relay that wants STARTTLS and a password, from a verified domain.

    `authority` is whom to trust, as PEM.
    """

    def __init__(self, port: str, authority: str) -> None:
        self._port = int(port)
        self._http = HttpClient(EGRESS)
        self._work = EmailWork(
            VAULT,
            self._http,
            SmtpSender(EGRESS, tls=ssl.create_default_context(cadata=authority)),
            UnsubscribeTokens(SECRET),
            public_url="https://gateway.example",
            limits=BurstLimits(per_project=1000, per_new_domain=1000),
        )
        self.works: Mapping[Channel, ChannelWork] = {Channel.EMAIL: self._work}

    async def enqueue(self, desk: Desk, project_id: UUID) -> None:
        await self._add_domain(desk, project_id)
        settings = {"host": "127.0.0.1", "port": self._port, "security": "STARTTLS", "from": f"news@{DOMAIN}"}
        _, errors = await configure_provider(
            desk.database,
            VAULT,
            EGRESS,
            project_id=project_id,
            kind=ProviderKind.SMTP,
            settings={**settings, "username": USER},
            secrets={"password": PASSWORD},
            audit=Audit(SYSTEM, desk.clock.now()),
        )
        assert errors == ()
        content = msgspec.json.encode(EmailContent(subject="Hi", body_text="Hello")).decode()
        for number in range(DELIVERIES):
            await desk.enqueue(
                project_id,
                channel=Channel.EMAIL,
                dispatch_key=DISPATCH_KEY,
                recipient=f"{number}@{project_id}.example",
                content=content,
            )

    async def close(self) -> None:
        await self._work.close()
        await self._http.close()

    async def _add_domain(self, desk: Desk, project_id: UUID) -> None:
        now, domain_id = desk.clock.now(), uuid7()
        async with desk.database.transaction() as connection:
            await insert_sender_domain(
                connection,
                project_id=project_id,
                sender_domain_id=domain_id,
                domain=DOMAIN,
                dkim_selector=SELECTOR,
                dkim_public_key=_keys().public_base64,
                sealed_dkim_private_key=VAULT.seal(
                    _keys().private_pem, project_id=project_id, purpose=dkim_purpose(DOMAIN)
                ),
                now=now,
            )
            await update_sender_domain(
                connection,
                project_id=project_id,
                sender_domain_id=domain_id,
                status=SenderDomainStatus.VERIFIED,
                verified_records=["DKIM", "SPF", "DMARC"],
                verified_at=now,
                probation_until=now,
            )
