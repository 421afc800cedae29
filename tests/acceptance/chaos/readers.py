"""Readers: queries while everything fails. An answer is right, or it is an error that says when to come back."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp

from engine.cursors import CursorCodec
from tests.acceptance.chaos.deployment import Gateway, read_errors
from tests.acceptance.chaos.subscribers import position_of
from tests.acceptance.chaos.writers import TRY_AGAIN, Ledger

PICTURE = """query Picture($after: Cursor) {
  viewer { project { head } }
  newest: events(first: 20) { edges { node { seq } } }
  next: events(first: 50, after: $after, order: OLDEST_FIRST) { edges { cursor node { seq key } } }
  profile(userId: "ann") { userId }
}"""
PATIENCE_SECONDS = 8.0
PAUSE = (0.05, 0.4)


@dataclass(slots=True)
class Reader:
    """Looks at the newest events, and turns the pages of the log from its beginning, on one gateway and another."""

    ledger: Ledger
    gateways: list[Gateway]
    codec: CursorCodec
    key: str
    project_id: UUID
    chance: random.Random
    cursor: str | None = None
    seq: int = 0

    async def read(self, over: asyncio.Event) -> None:
        """Until it is over."""
        async with aiohttp.ClientSession(headers={"x-api-key": self.key}) as session:
            while not over.is_set():
                await self._look(session, self.chance.choice(self.gateways))
                await asyncio.sleep(self.chance.uniform(*PAUSE))

    async def _look(self, session: aiohttp.ClientSession, gateway: Gateway) -> None:
        body = {"query": PICTURE, "variables": {"after": self.cursor}}
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), session.post(gateway.url, json=body) as response:
                answer = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.ledger.counts[f"read: {type(error).__name__}"] += 1
            return
        codes = read_errors(answer)
        self.ledger.counts["read" if not codes else f"read: {codes[0]}"] += 1
        self.ledger.violations += [
            f"read answered {response.status} {code}: {answer[:300]!r}" for code in codes if code not in TRY_AGAIN
        ]
        if not codes:
            self._judge(json.loads(answer)["data"])

    def _judge(self, data: dict[str, Any]) -> None:
        """The head was read first, the newest are dense, and the next page follows the last one."""
        newest = [edge["node"]["seq"] for edge in data["newest"]["edges"]]
        head = position_of(self.codec, data["viewer"]["project"]["head"], self.project_id)
        if newest and (newest[0] < head or newest != list(range(newest[0], newest[0] - len(newest), -1))):
            self.ledger.violations.append(f"the newest are {newest}, and the head was {head}")
        for edge in data["next"]["edges"]:
            if edge["node"]["seq"] != self.seq + 1 or edge["node"]["key"] not in self.ledger.sent:
                self.ledger.violations.append(f"after {self.seq} a page had {edge['node']}")
            self.seq, self.cursor = edge["node"]["seq"], edge["cursor"]
