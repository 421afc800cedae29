"""Senders: `sendPush`, `sendEmail` and `sendSms` over HTTP, each under an idempotency key, sent until acknowledged.

What was asked for and what was answered is kept, and judged in the end against the table.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.acceptance.chaos.deployment import Gateway
from tests.acceptance.chaos.writers import Ledger, ask_once
from tests.acceptance.chaos_deliveries.receivers import Person

_ANSWER = "{ batchId queued deliveries { id } userErrors { code message path } }"
SEND = {
    "PUSH": f"mutation ($input: SendPushInput!) {{ sendPush(input: $input) {_ANSWER} }}",
    "EMAIL": f"mutation ($input: SendEmailInput!) {{ sendEmail(input: $input) {_ANSWER} }}",
    "SMS": f"mutation ($input: SendSmsInput!) {{ sendSms(input: $input) {_ANSWER} }}",
}
CHANNELS = ("PUSH", "PUSH", "PUSH", "EMAIL", "SMS")


@dataclass(slots=True)
class Sends:
    """By idempotency key: for whom each send was, through which channel, and which deliveries its answer named."""

    asked: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    answered: dict[str, list[str]] = field(default_factory=dict)


class Sender:
    """One client that sends."""

    def __init__(
        self,
        ledger: Ledger,
        sends: Sends,
        gateways: Sequence[Gateway],
        key: str,
        people: Sequence[Person],
        *,
        number: int,
        chance: random.Random,
        pause: tuple[float, float],
    ) -> None:
        self._ledger = ledger
        self._sends = sends
        self._gateways = gateways
        self._key = key
        self._people = people
        self._number = number
        self._chance = chance
        self._pause = pause
        self._sent = 0

    async def send(self, over: asyncio.Event) -> None:
        """Until it is over; what was begun then is still brought to its end."""
        async with aiohttp.ClientSession(headers={"x-api-key": self._key}) as session:
            while not over.is_set():
                await self._send_one(session)
                await asyncio.sleep(self._chance.uniform(*self._pause))

    async def _send_one(self, session: aiohttp.ClientSession) -> None:
        self._sent += 1
        key, channel = f"s{self._number}-{self._sent}", self._chance.choice(CHANNELS)
        user_ids = [person.user_id for person in self._chance.sample(self._people, self._chance.randint(1, 4))]
        self._sends.asked[key] = (channel, user_ids)
        given = {"idempotencyKey": key, "userIds": user_ids, **_message(channel, key)}
        payload = await self._send_until_acknowledged(session, channel, given)
        if payload["userErrors"] or payload["queued"] != len(user_ids):
            self._ledger.violations.append(f"a send to {len(user_ids)} was answered {payload}")
        self._sends.answered[key] = [each["id"] for each in payload["deliveries"]]

    async def _send_until_acknowledged(
        self, session: aiohttp.ClientSession, channel: str, given: dict[str, Any]
    ) -> dict[str, Any]:
        ledger, chance = self._ledger, self._chance
        while True:
            gateway = chance.choice(self._gateways)
            data = await ask_once(session, gateway, SEND[channel], {"input": given}, ledger=ledger, chance=chance)
            if data is not None:
                payload: dict[str, Any] = next(iter(data.values()))
                return payload
            await asyncio.sleep(chance.uniform(0.02, 0.3))


def _message(channel: str, key: str) -> dict[str, Any]:
    match channel:
        case "PUSH":
            return {"push": {"title": key, "body": "is on its way"}}
        case "EMAIL":
            return {"subject": key, "bodyText": "It is on its way."}
    return {"body": key}
