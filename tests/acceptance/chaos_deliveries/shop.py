"""A customer's project as its own code uses it, over HTTP: endpoints, events, and what became of deliveries."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import asyncpg

from tests.acceptance.chaos.deployment import Deployment
from tests.acceptance.chaos.writers import TRACK_BATCH
from tests.peers.__main__ import Client
from tests.peers.receiver import WebhookReceiver

EGRESS = {"SENDORA_EGRESS_ALLOW": "127.0.0.0/8"}
"""Where the peers of a test are."""
SAVE_ENDPOINT = """mutation ($input: SaveWebhookEndpointInput!) {
  saveWebhookEndpoint(input: $input) { endpoint { id } secret userErrors { message path } } }"""
CREATE_PROJECT = 'mutation { createProject(name: "another") { token userErrors { message } } }'


class Shop:
    """One project. Every call raises `RuntimeError` for errors of any kind."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.run = client.run

    async def add_endpoint(self, url: str, events: Sequence[str], **given: Any) -> str:
        """A webhook endpoint over plain http; its secret."""
        wanted = {"url": url, "events": events, "allowPlainHttp": True, **given}
        secret: str = (await self.run(SAVE_ENDPOINT, input=wanted))["saveWebhookEndpoint"]["secret"]
        return secret

    async def add_receiver(self, receiver: WebhookReceiver, path: str, events: Sequence[str], **given: Any) -> None:
        """An endpoint at a receiver, which knows its secret."""
        receiver.secrets[path] = await self.add_endpoint(receiver.url + path, events, **given)

    async def track(self, event_type: str, ids: Sequence[str]) -> None:
        """An event for each id."""
        events = [{"id": each, "eventType": event_type} for each in ids]
        await self.run(TRACK_BATCH, events=events)


@asynccontextmanager
async def open_shops(deployment: Deployment, *, others: int = 0) -> AsyncIterator[list[Shop]]:
    """The deployment's project, and others beside it, through its first gateway."""
    url = deployment.gateways[0].url.removesuffix("/graphql")
    async with aiohttp.ClientSession() as session:
        shops = [Shop(Client(session, url, deployment.keys.secret_key))]
        for _ in range(others):
            token = (await shops[0].run(CREATE_PROJECT))["createProject"]["token"]
            shops.append(Shop(Client(session, url, token)))
        yield shops


async def count_statuses(deployment: Deployment) -> Counter[str]:
    """How many deliveries stand where, whoever they belong to."""
    connection = await asyncpg.connect(deployment.postgres.url)
    try:
        rows = await connection.fetch("SELECT status, count(*) AS number FROM deliveries GROUP BY status")
    finally:
        await connection.close()
    return Counter({row["status"]: row["number"] for row in rows})


async def until_counted(deployment: Deployment, is_enough: Callable[[Counter[str]], bool], *, seconds: float) -> None:
    """Look again and again; `AssertionError` when the numbers are not as wanted in time."""
    deadline = time.monotonic() + seconds
    while not is_enough(counted := await count_statuses(deployment)):
        assert time.monotonic() < deadline, f"not within {seconds} s: {counted}"
        await asyncio.sleep(0.05)
