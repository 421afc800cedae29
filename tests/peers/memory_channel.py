"""A channel without a wire: a provider in this process, whose answers are scripted and who writes down what it got.

Keeps the contract of `ChannelWork` as the real ones do: `prepare` locks persons (sorted) and then their consents, and
suppresses where one was withdrawn; a message carries a key that stays the same at every attempt.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.delivery_records import DeliveryRecord
from db.dispatch import lock_persons
from db.records import NewEvent
from engine.channels.base import Accepted, Outcome, Prepared, Ready, Settled, Suppress
from engine.dispatch.values import Channel, SuppressedReason

if TYPE_CHECKING:
    import asyncpg

CONSENTS = """
    SELECT user_id FROM consents
    WHERE project_id = $1 AND user_id = ANY($2) AND purpose = $3 AND state IN ('DENIED', 'REVOKED')
    ORDER BY user_id
    FOR SHARE
"""


class MemoryMessage(msgspec.Struct, frozen=True):
    """What is handed over. `key` is the same at every attempt; `dispatch_key` says which host it goes to."""

    key: UUID
    dispatch_key: str
    attempt_number: int
    repeatable: bool


Script = Callable[[MemoryMessage], "Outcome | Awaitable[Outcome]"]


def accept(message: MemoryMessage) -> Outcome:
    return Accepted(is_final=message.repeatable, provider_message_id=f"id-{message.key.hex[-8:]}")


class MemoryChannel:
    """One channel. `script` answers a message, at once or later; `receive` is told of each before that."""

    def __init__(
        self,
        channel: Channel,
        *,
        repeatable: bool,
        script: Script = accept,
        receive: Callable[[MemoryMessage], None] | None = None,
    ) -> None:
        self.channel = channel
        self.repeatable = repeatable
        self.script = script
        self.received: list[MemoryMessage] = []
        self.settled: list[Settled] = []
        self.decide: Callable[[DeliveryRecord, datetime], Prepared | None] = lambda _delivery, _now: None
        self.events_of: Callable[[Settled], Sequence[NewEvent]] = lambda _settled: ()
        self.under_way = 0
        self.most_under_way = 0
        self._receive = receive or self.received.append

    @property
    def keys(self) -> Counter[UUID]:
        """How often each key was received."""
        return Counter(message.key for message in self.received)

    async def prepare(
        self, connection: asyncpg.Connection, *, project_id: UUID, deliveries: Sequence[DeliveryRecord], now: datetime
    ) -> Mapping[UUID, Prepared]:
        persons = sorted({each.user_id for each in deliveries if each.user_id is not None})
        withdrawn: set[str] = set()
        if persons:
            await lock_persons(connection, project_id=project_id, user_ids=persons)
            rows = await connection.fetch(CONSENTS, project_id, persons, self.channel.value)
            withdrawn = {row["user_id"] for row in rows}
        return {each.delivery_id: self._prepared(each, withdrawn, now) for each in deliveries}

    def _prepared(self, delivery: DeliveryRecord, withdrawn: set[str], now: datetime) -> Prepared:
        if delivery.user_id in withdrawn:
            return Suppress(reason=SuppressedReason.CONSENT)
        decided = self.decide(delivery, now)
        if decided is not None:
            return decided
        number = delivery.attempt_count + 1
        message = MemoryMessage(delivery.delivery_id, delivery.dispatch_key, number, self.repeatable)
        return Ready(message=message, payload=bytes(delivery.content).decode())

    async def send(self, message: MemoryMessage) -> Outcome:
        self._receive(message)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            answer = self.script(message)
            if isinstance(answer, Awaitable):
                return await answer
            await asyncio.sleep(0)
            return answer
        finally:
            self.under_way -= 1

    async def settle(
        self, connection: asyncpg.Connection, *, project_id: UUID, settled: Sequence[Settled], now: datetime
    ) -> Sequence[NewEvent]:
        self.settled += settled
        return [event for each in settled for event in self.events_of(each)]

    async def close(self) -> None:
        pass
