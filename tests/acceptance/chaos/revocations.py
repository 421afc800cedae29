"""Keys that are revoked under open streams: the streams end within a second, and the key is refused from then on."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.acceptance.chaos.clients import Ended, Stream, open_event_stream, open_socket_stream
from tests.acceptance.chaos.deployment import Deployment, Gateway
from tests.acceptance.chaos.subscribers import HARMLESS
from tests.acceptance.chaos.writers import TRY_AGAIN, Ledger

CREATE = """mutation { createApiKey(name: "to be revoked", kind: SECRET, role: VIEWER) {
  token apiKey { id } userErrors { message } } }"""
REVOKE = "mutation Revoke($id: ID!) { revokeApiKey(id: $id) { apiKey { revokedAt } userErrors { message } } }"
REFUSED = frozenset({"4403", "UNAUTHENTICATED"})
"""How a stream of a revoked key ends, over a WebSocket and over server-sent events."""
HEALING_SECONDS = 30.0
"""How long a revocation may take whatever is broken meanwhile: PostgreSQL and a gateway come back within that."""


@dataclass(slots=True)
class Revoker:
    """Makes keys, opens streams with them, and revokes them."""

    deployment: Deployment
    ledger: Ledger
    chance: random.Random
    delays: list[float] = field(default_factory=list)
    """Seconds from the answer of `revokeApiKey` to the end of a stream, where nothing else was broken."""
    delays_without_redis: list[float] = field(default_factory=list)

    async def revoke_one(self) -> None:
        """One key, a stream of each kind on every gateway, and the end of it all."""
        made = (await self._ask(CREATE, {}))["createApiKey"]
        doomed, revoked = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            watching = [
                tasks.create_task(self._watch(gateway, made["token"], over_socket, doomed, revoked))
                for gateway in self.deployment.gateways
                for over_socket in (True, False)
            ]
            await asyncio.sleep(self.chance.uniform(0.3, 1.5))
            doomed.set()
            answer = (await self._ask(REVOKE, {"id": made["apiKey"]["id"]}))["revokeApiKey"]
            assert answer["apiKey"]["revokedAt"], answer
            at = time.monotonic()
            revoked.set()
        self._judge(at, [task.result() for task in watching])

    def _judge(self, at: float, ends: list[tuple[Gateway, float, bool]]) -> None:
        for gateway, ended_at, was_open in ends:
            if not was_open:
                continue  # it was told when it came back
            delay, weather = ended_at - at, self.deployment.weather
            if weather.was_clear({"postgres", gateway.name}, at, ended_at, aftermath=2.0):
                redis_was_well = weather.was_clear({"redis"}, at, ended_at, aftermath=2.0)
                (self.delays if redis_was_well else self.delays_without_redis).append(delay)

    async def _watch(
        self, gateway: Gateway, token: str, over_socket: bool, doomed: asyncio.Event, revoked: asyncio.Event
    ) -> tuple[Gateway, float, bool]:
        """Stream with the key until it is refused: where, when, and whether an open stream was ended by it."""
        give_up_at: float | None = None
        while True:
            was_open = False
            open_stream = open_socket_stream if over_socket else open_event_stream
            try:
                async with open_stream(gateway.port, token, event_filter={"userId": "nobody"}, after=None) as stream:
                    was_open = True
                    await _read_on(stream)
            except Ended as end:
                if end.code in REFUSED:
                    if not doomed.is_set():
                        self.ledger.violations.append(f"{gateway.name} refused a key that was not revoked: {end}")
                    return gateway, time.monotonic(), was_open
                if end.code not in HARMLESS:
                    self.ledger.violations.append(f"a stream of a key to be revoked was ended by {end}")
            if revoked.is_set():
                give_up_at = give_up_at or time.monotonic() + HEALING_SECONDS
                if time.monotonic() > give_up_at:
                    self.ledger.violations.append(f"{gateway.name} goes on taking a revoked key")
                    return gateway, time.monotonic(), False
            await asyncio.sleep(0.2)

    async def _ask(self, document: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of a mutation, asked until it is answered."""
        headers = {"x-api-key": self.deployment.keys.secret_key}
        async with aiohttp.ClientSession(headers=headers) as session:
            while True:
                gateway = self.chance.choice(self.deployment.gateways)
                try:
                    async with (
                        asyncio.timeout(5),
                        session.post(gateway.url, json={"query": document, "variables": variables}) as response,
                    ):
                        answer = await response.json(content_type=None)
                except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
                    await asyncio.sleep(0.2)
                    continue
                errors = [error["extensions"]["code"] for error in answer.get("errors", [])]
                if not errors:
                    data: dict[str, Any] = answer["data"]
                    return data
                self.ledger.violations += [f"a key was answered {code}" for code in errors if code not in TRY_AGAIN]
                await asyncio.sleep(0.2)


async def _read_on(stream: Stream) -> None:
    async for _ in stream.arrivals():
        pass
