"""Reservations of the single connection mode: one response of server-sent events that many requests send results into.

A reservation is made by one request, opened by another, and named by its token in all others. The token is 256 random
bits. Besides knowing it, a request must carry the credentials that made the reservation, except the one that opens it,
which may carry none (EventSource cannot send headers; the token is its entrance ticket, good for one response at a
time). A reservation is gone when its response ends, when its credentials are revoked, and when it is not opened within
`unused_for`. Until then it counts for its holder: the key that made it, or without one the client's address, since
whoever has no key must not be able to use up the places of those who have.

It lives in this process: all requests of one reservation must reach it. Between the processes of one machine
`forwarding.py` sees to that; a proxy in front of several machines has to choose by the token, or by the client's
address.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from datetime import timedelta
from functools import partial

import msgspec

from transport.application import Session
from transport.clients import network_of
from transport.operation import Operation
from transport.sse.event_stream import EventStream
from transport.sse.forwarding import TOKEN_BYTES

CREDENTIAL_HEADERS = ("x-api-key", "authorization", "x-sendora-project")

MAX_EXECUTING = 8
"""Operations of one response that execute at the same time; the rest wait, in order."""


class ReservationPolicy(msgspec.Struct, frozen=True):
    """Bounds on what clients can reserve."""

    unused_for: timedelta = timedelta(seconds=30)
    max_reservations: int = 10_000
    """In this process: about 4 KB each before they are opened."""
    max_per_holder: int = 1_000
    """Opened ones included, so that it takes many to use up the places of all."""
    max_unused_per_holder: int = 100
    """Not opened yet. An honest client opens each at once."""


class TooManyReservations(Exception):
    """There is no place left, for this client or at all."""


def owner_of(headers: Mapping[str, str]) -> bytes | None:
    """Who makes a request, as far as reservations are concerned: a digest of its credentials; None without any."""
    credentials = [headers.get(name, "") for name in CREDENTIAL_HEADERS]
    if not any(credentials):
        return None
    return hashlib.sha256("\n".join(credentials).encode()).digest()


class Reservation:
    """A response that is expected, or open."""

    def __init__(self, token: str, owner: bytes | None, holder: Hashable, session: Session) -> None:
        self.token = token
        self.owner = owner
        self.holder = holder
        self.session = session
        self.stream = EventStream()
        self.operations: dict[str, Operation] = {}
        self.slots = asyncio.Semaphore(MAX_EXECUTING)
        self.is_opened = False
        self.expiry: asyncio.TimerHandle | None = None
        self.unwatch: Callable[[], None] = _nothing

    def forget(self, operation: Operation) -> None:
        """An operation has ended: its id may be used again."""
        if self.operations.get(operation.id) is operation:
            del self.operations[operation.id]

    def positions(self) -> dict[str, str]:
        """The cursor of each live operation."""
        found = ((operation.id, operation.position) for operation in self.operations.values())
        return {identifier: position for identifier, position in found if position is not None}


class Reservations:
    """All reservations of this process, by token."""

    def __init__(self, policy: ReservationPolicy | None = None, issue: Callable[[], str] | None = None) -> None:
        self._policy = policy or ReservationPolicy()
        self._issue = issue or partial(secrets.token_urlsafe, TOKEN_BYTES)
        self._reservations: dict[str, Reservation] = {}
        self._held: Counter[Hashable] = Counter()
        self._unused: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        return len(self._reservations)

    def get(self, token: str) -> Reservation | None:
        """The reservation of this token, opened or not."""
        return self._reservations.get(token)

    def make(
        self,
        owner: bytes | None,
        client: str | None,
        session: Session,
        revoked: Callable[[Reservation, str], None],
    ) -> Reservation:
        """Reserve a response. `revoked` is called with it and a reason when its credentials are.

        Raises `TooManyReservations`.
        """
        holder = network_of(client) if session.holder is None else session.holder
        if not self._has_place(holder):
            raise TooManyReservations
        reservation = Reservation(self._issue(), owner, holder, session)
        self._reservations[reservation.token] = reservation
        self._held[holder] += 1
        self._unused[holder] += 1
        reservation.expiry = asyncio.get_running_loop().call_later(
            self._policy.unused_for.total_seconds(), self.drop, reservation
        )
        reservation.unwatch = session.on_revoked(lambda reason: revoked(reservation, reason))
        return reservation

    def opened(self, reservation: Reservation) -> None:
        """Its response has begun: from now on it lives as long as that."""
        self._used(reservation)
        reservation.is_opened = True

    def drop(self, reservation: Reservation) -> None:
        """End it and all of its operations. Safe to call more than once."""
        if self._reservations.pop(reservation.token, None) is None:
            return
        self._used(reservation)
        _release(self._held, reservation.holder)
        reservation.unwatch()
        for operation in tuple(reservation.operations.values()):
            operation.stop()
        reservation.stream.end()

    def _has_place(self, holder: Hashable) -> bool:
        policy = self._policy
        return (
            len(self) < policy.max_reservations
            and self._held[holder] < policy.max_per_holder
            and self._unused[holder] < policy.max_unused_per_holder
        )

    def _used(self, reservation: Reservation) -> None:
        """It is not waiting to be opened any more."""
        if reservation.is_opened:
            return
        if reservation.expiry is not None:
            reservation.expiry.cancel()
        _release(self._unused, reservation.holder)


def _release(places: Counter[Hashable], holder: Hashable) -> None:
    places[holder] -= 1
    if places[holder] <= 0:
        del places[holder]


def _nothing() -> None:
    """Until there is something to unwatch."""
