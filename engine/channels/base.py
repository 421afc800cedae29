"""What a provider answers, and what the dispatcher asks of a channel.

A sender translates: it knows nothing of retries, rows or policy. It never raises for what a provider or the network
does; it returns one of the outcomes below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol, TypeAlias
from uuid import UUID

import msgspec

from db.delivery_records import DeliveryRecord
from db.records import NewEvent
from engine.dispatch.values import Channel, DeliveryError, SuppressedReason

if TYPE_CHECKING:
    import asyncpg


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came back, for the delivery's log. `response_body` is cut to 4 KiB."""

    status_code: int | None = None
    response_body: str | None = None
    signature_header: str | None = None


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The provider took it. `is_final`: the receiver itself answered (a webhook), so it is DELIVERED, not only SENT."""

    answer: Answer = Answer()
    provider_message_id: str | None = None
    is_final: bool = False


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """It will never take it. `address_is_dead`: nor anything else to this address (token, mailbox, endpoint gone)."""

    error: DeliveryError
    answer: Answer = Answer()
    address_is_dead: bool = False


class Deferred(msgspec.Struct, frozen=True, kw_only=True):
    """It did not take it, and may later. `retry_after` is what it asked for. `is_account`: about the whole account or
    host (throttled, credentials refused, unreachable), so it counts for the circuit breaker."""

    error: DeliveryError
    answer: Answer = Answer()
    retry_after: timedelta | None = None
    is_account: bool = False


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """It may or may not have taken it: the request went out, no answer came back."""

    error: DeliveryError
    answer: Answer = Answer()


Outcome: TypeAlias = Accepted | Rejected | Deferred | Unknown


class Message(Protocol):
    """What a channel sends: resolved, addressed and credentialled. Held in memory only.

    `repeatable`: the receiver drops what it has already, by a key that stays the same at every attempt.
    """

    @property
    def repeatable(self) -> bool: ...


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """Send this. `payload` (JSON text) is what will be shown of it."""

    message: Message
    payload: str
    variant: str | None = None
    locale: str | None = None


class Suppress(msgspec.Struct, frozen=True, kw_only=True):
    """Send nothing, for good."""

    reason: SuppressedReason
    error: DeliveryError | None = None


class Postpone(msgspec.Struct, frozen=True, kw_only=True):
    """Not before `until` (business time): SCHEDULED. `error` says why, e.g. RATE_LIMITED."""

    until: datetime
    error: DeliveryError | None = None


class Refuse(msgspec.Struct, frozen=True, kw_only=True):
    """It cannot be sent as things are (no provider, a template that does not render): FAILED without an attempt."""

    error: DeliveryError


class Moved(msgspec.Struct, frozen=True):
    """It waits in another lane from now on: `prepare` has given it the dispatch key of that. Else it is as it was."""


Prepared: TypeAlias = Ready | Suppress | Postpone | Refuse | Moved


class Settled(msgspec.Struct, frozen=True):
    """One attempt with its outcome. `message` is what `prepare` made."""

    delivery: DeliveryRecord
    message: Message
    outcome: Outcome


class ChannelWork(Protocol):
    """One channel, as the dispatcher uses it. One instance per worker process."""

    channel: Channel

    async def prepare(
        self, connection: asyncpg.Connection, *, project_id: UUID, deliveries: Sequence[DeliveryRecord], now: datetime
    ) -> Mapping[UUID, Prepared]:
        """Decide about due deliveries and resolve what is to be sent: one answer per delivery id.

        Runs in the transaction that commits SENDING, before the deliveries are locked: so it locks persons (sorted),
        then consents and tokens, FOR SHARE, and a revoke that committed before wins. `now` is business time.
        """

    async def send(self, message: Message) -> Outcome:
        """One attempt, within the channel's own time-out (at most `SEND_TIMEOUT`)."""

    async def settle(
        self, connection: asyncpg.Connection, *, project_id: UUID, settled: Sequence[Settled], now: datetime
    ) -> Sequence[NewEvent]:
        """What outcomes mean beyond their deliveries: dead tokens, bounced addresses, disabled endpoints.

        Runs in the transaction that records the outcomes, before the deliveries are locked. Returns events to append.
        """

    async def close(self) -> None:
        """Close connections."""


SEND_TIMEOUT = timedelta(seconds=15)
"""No attempt takes longer. The lease is longer than this, with a margin."""
