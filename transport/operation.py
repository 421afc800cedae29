"""One streamed operation, whatever it travels over: from its preparation to its end, and what must stop with it.

An operation ends once: by its result, by an error, by its client's wish, or with its connection. After that nothing is
written for it. It is the `Sink` of a live source; then it has no task from the moment it follows. Everything else runs
in one task, which writes no further result before the connection has room for it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence

import orjson
from graphql import ExecutionResult, GraphQLError, OperationType

from transport.application import LiveSource, Membership, Session
from transport.errors import code_of, formatted
from transport.execution.service import GraphQLService, Prepared
from transport.request_ids import RequestTrace, enter, entered

Stream = LiveSource | AsyncIterator[bytes]


class Operation(ABC):
    """What WebSocket and server-sent events have in common. Subclasses say how a result, errors and the end look."""

    __slots__ = (
        "_ended",
        "_position",
        "_sent",
        "_service",
        "_trace",
        "id",
        "is_open",
        "keeps_running",
        "membership",
        "outcome",
        "task",
    )

    def __init__(
        self,
        identifier: str,
        service: GraphQLService,
        ended: Callable[[Operation], None],
        trace: RequestTrace | None = None,
    ) -> None:
        """`trace` is the request that began it, by default a new one. It is over when the operation is."""
        self.id = identifier
        self._trace = trace or RequestTrace()
        self.is_open = True
        self.keeps_running = False
        self.membership: Membership | None = None
        self.task: asyncio.Task[None] | None = None
        self.outcome = "ok"
        self._service = service
        self._ended = ended
        self._position: str | None = None
        self._sent = 0

    @property
    def delivered(self) -> int:
        """How many items its stream has had."""
        return self._sent if self.membership is None else self.membership.delivered

    @property
    def position(self) -> str | None:
        """The cursor of a live stream; None for every other operation."""
        return self._position if self.membership is None else self.membership.cursor

    # What a live source calls

    @abstractmethod
    def deliver(self, payload: bytes, cursor: str) -> bool:
        """See `Sink.deliver`."""

    @abstractmethod
    async def drained(self) -> None:
        """See `Sink.drained`."""

    def announce(self, cursor: str) -> None:
        """See `Sink.announce`: it is said at once, so that a drop before the first item loses nothing."""
        if self.is_open:
            self._position = cursor
            self._write_position(cursor)

    def fail(self, error: BaseException) -> None:
        """See `Sink.fail`. The connection and its other operations go on."""
        if self.is_open:
            with entered(self._trace):
                self.refuse([self._service.error(error)])

    def complete(self) -> None:
        """See `Sink.complete`."""
        if self.is_open:
            self._write_complete()
            self.stop()

    # What else happens to it

    def send(self, response: bytes) -> bool:
        """Write one response that has no position. False when the connection is past its bound."""
        return not self.is_open or self._write_response(response)

    def refuse(self, errors: Sequence[GraphQLError]) -> None:
        """End with errors that are worded for the client already."""
        if self.is_open:
            self.outcome = code_of(errors[0])
            with entered(self._trace):
                self._write_errors(orjson.dumps(formatted(errors)))
            self.stop()

    def stop(self) -> None:
        """End without a word. A mutation that has begun is let finish: half of it must not be all that happened."""
        if not self.is_open:
            return
        self.is_open = False
        self._trace.is_over = not self.keeps_running
        if self.membership is not None:
            self.membership.leave()
        self._service.streams.leave(self)
        if self.task is not None and not self.keeps_running and self.task is not asyncio.current_task():
            self.task.cancel()
        self._ended(self)

    def enter_request(self) -> None:
        """From here on what this task does is done for the request that began the operation."""
        enter(self._trace)

    async def begin(self, prepared: Prepared, session: Session) -> Stream | None:
        """Answer a query or mutation, which ends it; or open what a subscription is to `follow`."""
        if prepared.kind is OperationType.SUBSCRIPTION:
            if (refusal := self._service.enter_stream(self, prepared, session)) is not None:
                self.refuse(refusal)
                return None
            stream = await self._service.subscribe(prepared, session)
            if not isinstance(stream, ExecutionResult):
                return stream
            self.refuse(stream.errors or [GraphQLError("There is nothing to follow.")])
            return None
        self.keeps_running = prepared.kind is OperationType.MUTATION
        result = await self._service.execute(prepared, session)
        if result.errors:
            self.outcome = code_of(result.errors[0])
        response = self._service.encode(result)
        if self.is_open:
            await self.drained()
        self.send(response)
        self.complete()
        self._trace.is_over = True
        return None

    async def follow(self, stream: Stream, prepared: Prepared, session: Session, *, after: str | None = None) -> None:
        """A live source: returns once it is joined. Anything else: returns when it has ended."""
        if isinstance(stream, LiveSource):
            membership = await stream.join(self._service.rendering(prepared, session), self, after=after)
            if self.is_open:
                self.membership = membership
            else:
                membership.leave()
            return
        try:
            async for response in stream:
                self._sent += 1
                if not self.send(response):
                    await self.drained()
                await asyncio.sleep(0)  # a source that never waits must not keep everybody else waiting
            self.complete()
        finally:
            if (aclose := getattr(stream, "aclose", None)) is not None:
                await aclose()

    @abstractmethod
    def _write_response(self, response: bytes) -> bool: ...

    @abstractmethod
    def _write_errors(self, errors: bytes) -> None:
        """`errors` is a JSON array. The end is part of it."""

    @abstractmethod
    def _write_complete(self) -> None: ...

    @abstractmethod
    def _write_position(self, cursor: str) -> None: ...
