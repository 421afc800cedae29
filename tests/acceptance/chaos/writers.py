"""Writers: `track` and `trackBatch` over HTTP with keep-alive, each event under its own id, sent until acknowledged.

What was answered is kept in a `Ledger`, and judged at once where an answer alone tells that something is wrong: a 5xx
without a code, an error that is masked, a first answer that says "duplicate", a batch that does not add up.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import aiohttp

from tests.acceptance.chaos.deployment import Gateway, read_errors
from tests.acceptance.chaos.events import random_event

TRACK = """mutation Track($event: EventInput!) {
  track(input: {event: $event}) { duplicate event { seq key } userErrors { code message path } }
}"""
TRACK_BATCH = """mutation TrackBatch($events: [EventInput!]!) {
  trackBatch(input: {events: $events}) { accepted duplicates rejected dropped userErrors { code message path } }
}"""
JSON = {"content-type": "application/json"}
TRY_AGAIN = frozenset({"UNAVAILABLE", "RATE_LIMITED", "TIMEOUT"})
"""Codes that tell a client to come back with the same ids."""
PATIENCE_SECONDS = (1.0, 12.0)
"""Least and most that a request is waited for before its outcome is called unknown."""


@dataclass(slots=True)
class Ledger:
    """What was sent, what was acknowledged and when, and all that went wrong."""

    sent: dict[str, dict[str, Any]] = field(default_factory=dict)
    acknowledged_at: dict[str, float] = field(default_factory=dict)
    seqs: dict[str, int] = field(default_factory=dict)
    """Where an answer said so."""
    answers: list[tuple[float, float, int]] = field(default_factory=list)
    """When each request was sent, how long its answer took, and by which gateway: acknowledgements only."""
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


async def ask_once(
    session: aiohttp.ClientSession,
    gateway: Gateway,
    document: str,
    variables: dict[str, Any],
    *,
    ledger: Ledger,
    chance: random.Random,
) -> dict[str, Any] | None:
    """The data of one operation; None where there was no answer, or one that says to come back."""
    body = json.dumps({"query": document, "variables": variables}).encode()
    try:
        async with (
            asyncio.timeout(chance.uniform(*PATIENCE_SECONDS)),
            session.post(gateway.url, data=BytesIO(body), headers=JSON) as response,
        ):
            answer = await response.read()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        ledger.counts[f"write: {type(error).__name__}"] += 1
        return None
    if not _is_good(ledger, response.status, answer):
        return None
    data: dict[str, Any] = json.loads(answer)["data"]
    return data


def _is_good(ledger: Ledger, status: int, answer: bytes) -> bool:
    codes = read_errors(answer)
    for code in codes:
        ledger.counts[f"write: {code}"] += 1
        if code not in TRY_AGAIN:
            ledger.violations.append(f"write answered {status} {code}: {answer[:300]!r}")
    if not codes and status != 200:
        ledger.violations.append(f"write answered {status} without a code: {answer[:300]!r}")
    return not codes and status == 200


class Writer:
    """One client that writes."""

    def __init__(
        self,
        ledger: Ledger,
        gateways: list[Gateway],
        key: str,
        *,
        number: int,
        chance: random.Random,
        largest_batch: int,
        pause: tuple[float, float],
    ) -> None:
        self._ledger = ledger
        self._gateways = gateways
        self._key = key
        self._number = number
        self._chance = chance
        self._largest_batch = largest_batch
        self._pause = pause
        self._written = 0
        self._gateway = chance.choice(gateways)

    async def write(self, over: asyncio.Event) -> None:
        """Until it is over; what was begun then is still brought to its end."""
        headers = {"x-api-key": self._key}
        async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=4)) as session:
            while not over.is_set():
                await self._write_some(session)
                await asyncio.sleep(self._chance.uniform(*self._pause))

    async def _write_some(self, session: aiohttp.ClientSession) -> None:
        size = 1 if self._largest_batch == 1 else self._chance.randint(2, self._largest_batch)
        events = [self._next_event() for _ in range(size)]
        tries = 0
        while not await self._try(session, events, is_first=tries == 0):
            tries += 1
            self._gateway = self._chance.choice(self._gateways)
            await asyncio.sleep(self._chance.uniform(0.02, 0.3))

    def _next_event(self) -> dict[str, Any]:
        self._written += 1
        event = random_event(self._chance, f"w{self._number}-{self._written}")
        self._ledger.sent[event["id"]] = event
        return event

    async def _try(self, session: aiohttp.ClientSession, events: list[dict[str, Any]], *, is_first: bool) -> bool:
        """Send once. Whether it was acknowledged."""
        batch = self._largest_batch > 1
        document = TRACK_BATCH if batch else TRACK
        variables = {"events": events} if batch else {"event": events[0]}
        gateway, began = self._gateway, time.monotonic()
        data = await ask_once(session, gateway, document, variables, ledger=self._ledger, chance=self._chance)
        if data is None:
            return False
        self._note(events, data["trackBatch" if batch else "track"], is_first=is_first)
        self._ledger.answers.append((began, time.monotonic() - began, gateway.number))
        return True

    def _note(self, events: list[dict[str, Any]], payload: dict[str, Any], *, is_first: bool) -> None:
        now = time.monotonic()
        if payload["userErrors"]:
            self._ledger.violations.append(f"refused: {payload['userErrors'][:2]}")
        if "event" in payload:
            self._note_one(events[0], payload, is_first=is_first)
        else:
            self._note_batch(events, payload, is_first=is_first)
        for event in events:
            self._ledger.acknowledged_at[event["id"]] = now

    def _note_one(self, event: dict[str, Any], payload: dict[str, Any], *, is_first: bool) -> None:
        if payload["event"]["key"] != event["id"]:
            self._ledger.violations.append(f"{event['id']} was answered with {payload['event']['key']}")
        if payload["duplicate"] and is_first:
            self._ledger.violations.append(f"the first answer for {event['id']} calls it a duplicate")
        self._ledger.seqs[event["id"]] = payload["event"]["seq"]

    def _note_batch(self, events: list[dict[str, Any]], payload: dict[str, Any], *, is_first: bool) -> None:
        stored, again = payload["accepted"], payload["duplicates"]
        if stored + again != len(events) or payload["rejected"] or payload["dropped"]:
            self._ledger.violations.append(f"a batch of {len(events)} was answered {payload}")
        if again and is_first:
            self._ledger.violations.append(f"the first answer for a batch calls {again} duplicates")
