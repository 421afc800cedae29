"""Pushes of one transaction, each to one person with a text of its own: what steps of workflows send.

Guarantees: the same decisions and rows as a push to people (`engine.push.accepting`), with a handful of statements for
all of them; whoever gets two in one transaction has the first counted against the caps of the second. Locks profiles,
consents and tokens, as that does. Leaves to others: inserting the deliveries, and committing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.delivery_records import NewDelivery
from db.push_reservations import SendCount, reserve_sends
from db.push_tokens import PushTokenRecord, share_active_tokens
from engine.push.accepting import PushRequest, deliveries_of
from engine.push.policy import PolicyToken, PushRules
from engine.push.standing import Standings, lock_standings

if TYPE_CHECKING:
    import asyncpg


class Seat(msgspec.Struct, frozen=True):
    """How things stand with a person: their active devices, the project's rules, what counts against the caps."""

    tokens: tuple[PolicyToken, ...]
    rules: PushRules
    sent: SendCount


class PushDesk:
    """Plans pushes of one project in one transaction, at one moment of business time."""

    def __init__(self, project_id: UUID, now: datetime) -> None:
        self._project_id = project_id
        self._now = now
        self._standings: dict[str, Standings] = {}
        self._tokens: defaultdict[str, list[PushTokenRecord]] = defaultdict(list)

    def knows(self, user_id: str) -> bool:
        """Whether the person was read."""
        return user_id in self._standings

    async def read(self, connection: asyncpg.Connection, user_ids: Iterable[str]) -> None:
        """Lock and read people that are not known yet."""
        people = sorted({user_id for user_id in user_ids if not self.knows(user_id)})
        if not people:
            return
        standings = await lock_standings(
            connection, project_id=self._project_id, user_ids=people, message_ids=(), now=self._now
        )
        for token in await share_active_tokens(connection, project_id=self._project_id, user_ids=people):
            self._tokens[token.user_id or ""].append(token)
        self._standings |= dict.fromkeys(people, standings)

    def seat(self, user_id: str) -> Seat:
        """Of a person who was read, with what was planned for them since."""
        standings = self._standings[user_id]
        tokens = (PolicyToken(timezone=each.timezone, locale=each.locale) for each in self._tokens[user_id])
        return Seat(tuple(tokens), standings.rules, standings.sent(user_id))

    def plan(self, request: PushRequest, user_id: str) -> list[NewDelivery]:
        """One delivery per active device of a person who was read; one that is suppressed where there is none."""
        text = msgspec.json.encode(request.content).decode()
        return deliveries_of(request, self._standings[user_id], text, user_id, self._tokens[user_id])

    async def reserve(self, connection: asyncpg.Connection) -> None:
        """Count what was planned from now on: in the transaction that inserts it."""
        distinct = {id(each): each for each in self._standings.values()}
        reservations = [made for each in distinct.values() for made in each.reservations]
        await reserve_sends(connection, project_id=self._project_id, reservations=reservations, now=self._now)
