"""Operations over server-sent events: alone in a response of their own, or several in one that was reserved.

Guarantees: something is sent at least every `keep_alive` (the position of a live stream, or a comment); an operation
that fails, a source that raises included, ends with `next` and `complete`; revoked credentials end everything with
UNAUTHENTICATED; a response that ends stops its operations; a slow client's live streams leave the live feed, and
everything else waits for it. A server that stops breaks responses off without `complete`, so that clients come back.

Left to others: who asks, and how they are answered when they may not (`transport/sse/endpoint.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from time import perf_counter
from typing import Any

import msgspec
from graphql import GraphQLError

from transport.application import Session
from transport.errors import RATE_LIMITED
from transport.execution.service import GraphQLService, Prepared
from transport.http.front import HTTPRefusedError, Observe
from transport.operation import Operation
from transport.request_ids import RequestTrace, current
from transport.sse.event_stream import Channel, EventStream
from transport.sse.forwarding import Homes
from transport.sse.operation import DistinctOperation, SharedOperation, positions_comment
from transport.sse.reservations import Reservation, ReservationPolicy, Reservations, TooManyReservations

CONFLICT = "CONFLICT"

TOO_MANY_MS = 1_000
"""What a client with too many of something is told to wait: operations end and reservations lapse all the time."""


class StreamPolicy(msgspec.Struct, frozen=True):
    """The bounds of server-sent events."""

    keep_alive: timedelta = timedelta(seconds=12)
    """Under the 30 to 60 seconds after which proxies drop an idle response; also how old a position can be."""
    max_operations: int = 100
    """In one shared response."""
    reservations: ReservationPolicy = ReservationPolicy()


class EventStreams:
    """All responses of server-sent events of this process."""

    def __init__(
        self,
        service: GraphQLService,
        policy: StreamPolicy | None = None,
        observe: Observe | None = None,
        homes: Homes | None = None,
    ) -> None:
        self._service = service
        self._policy = policy or StreamPolicy()
        self._reservations = Reservations(self._policy.reservations, homes.issue if homes else None)
        self._observe = observe
        self._open: set[EventStream] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    # Distinct connections

    async def respond(
        self,
        prepared: Prepared | list[GraphQLError],
        session: Session,
        channel: Channel,
        *,
        after: str | None = None,
    ) -> None:
        """Be the response to one operation: its results, or its errors, then `complete`. `after` is `Last-Event-ID`."""
        stream = EventStream()
        operation = DistinctOperation(self._service, lambda _: stream.end(), stream, _part_of_request())
        unwatch = session.on_revoked(lambda reason: operation.refuse([_revoked(reason)]))
        if isinstance(prepared, list):
            operation.refuse(prepared)
        elif operation.is_open:
            operation.task = self._start(self._perform(operation, prepared, session, asyncio.Semaphore(1), after))
        try:
            await self._serve(stream, operation.keep_alive, channel)
        finally:
            unwatch()
            operation.stop()

    # Single connection

    def reserve(self, session: Session, *, owner: bytes | None, client: str | None) -> str:
        """Reserve a response for whoever presents the token that this returns. Raises `HTTPRefusedError`."""
        try:
            return self._reservations.make(owner, client, session, self._revoke).token
        except TooManyReservations:
            policy = self._policy.reservations
            message = (
                f"At most {policy.max_per_holder:,} event streams may be reserved with the same credentials, "
                f"and at most {policy.max_unused_per_holder} of them not opened."
            )
            raise HTTPRefusedError(429, message, code=RATE_LIMITED, retry_after_ms=TOO_MANY_MS) from None

    async def open(self, token: str, channel: Channel, *, owner: bytes | None) -> None:
        """Be the reserved response until its client goes. Credentials may be absent here. Raises `HTTPRefusedError`."""
        reservation = self._reservations.get(token)
        if reservation is None or (owner is not None and owner != reservation.owner):
            raise not_found()
        if reservation.is_opened:
            raise HTTPRefusedError(409, "This event stream is open already.", code=CONFLICT)
        self._reservations.opened(reservation)
        try:
            await self._serve(reservation.stream, lambda: positions_comment(reservation.positions()), channel)
        finally:
            self._reservations.drop(reservation)

    def find(self, token: str, *, owner: bytes | None) -> Reservation:
        """The reservation that a request with these credentials may use. Raises `HTTPRefusedError`."""
        reservation = self._reservations.get(token)
        if reservation is None or owner != reservation.owner:
            raise not_found()
        return reservation

    def submit(
        self, reservation: Reservation, operation_id: object, prepared: Prepared, *, after: str | None = None
    ) -> None:
        """Start an operation that sends into the response, from `after` if that is given. Raises `HTTPRefusedError`."""
        if not isinstance(operation_id, str) or not operation_id:
            raise HTTPRefusedError(400, "`extensions.operationId` must be a non-empty string.")
        if operation_id in reservation.operations:
            raise HTTPRefusedError(409, "An operation with this id is running already.", code=CONFLICT)
        if len(reservation.operations) >= self._policy.max_operations:
            message = f"An event stream carries at most {self._policy.max_operations} operations at a time."
            raise HTTPRefusedError(429, message, code=RATE_LIMITED, retry_after_ms=TOO_MANY_MS)
        operation = SharedOperation(
            operation_id, self._service, reservation.forget, reservation.stream, _part_of_request()
        )
        reservation.operations[operation_id] = operation
        operation.task = self._start(self._perform(operation, prepared, reservation.session, reservation.slots, after))

    def cancel(self, reservation: Reservation, operation_id: str | None) -> None:
        """Stop an operation; one that has ended already is no error. Raises `HTTPRefusedError`."""
        if not operation_id:
            raise HTTPRefusedError(400, "The parameter `operationId` is missing.")
        if (operation := reservation.operations.get(operation_id)) is not None:
            operation.stop()

    # Both

    @property
    def responses(self) -> int:
        """How many are open now."""
        return len(self._open)

    async def _serve(self, stream: EventStream, keep_alive: Callable[[], bytes], channel: Channel) -> None:
        self._open.add(stream)
        ticking = self._start(self._tick(stream, keep_alive))
        try:
            await stream.respond(channel)
        finally:
            self._open.discard(stream)
            ticking.cancel()

    async def _tick(self, stream: EventStream, keep_alive: Callable[[], bytes]) -> None:
        while True:
            await asyncio.sleep(self._policy.keep_alive.total_seconds())
            stream.keep_alive(keep_alive())

    async def _perform(
        self, operation: Operation, prepared: Prepared, session: Session, slots: asyncio.Semaphore, after: str | None
    ) -> None:
        started = perf_counter()
        operation.enter_request()
        try:
            async with slots:
                stream = await operation.begin(prepared, session)
            if self._observe:
                self._observe("sse", prepared.kind.value, operation.outcome, perf_counter() - started)
            if stream is not None:
                await operation.follow(stream, prepared, session, after=after)
        except Exception as error:
            operation.fail(error)
        finally:
            operation.task = None

    def _revoke(self, reservation: Reservation, reason: str) -> None:
        for operation in tuple(reservation.operations.values()):
            operation.refuse([_revoked(reason)])
        self._reservations.drop(reservation)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _part_of_request() -> RequestTrace | None:
    """The operation may outlive the request that begins it, and has its id."""
    trace = current()
    return trace.part() if trace else None


def _revoked(reason: str) -> GraphQLError:
    return GraphQLError(reason, extensions={"code": "UNAUTHENTICATED"})


def not_found() -> HTTPRefusedError:
    """The same for a token that is unknown and for somebody else's: there is nothing to learn by trying."""
    return HTTPRefusedError(404, "There is no such event stream.", code="NOT_FOUND")
