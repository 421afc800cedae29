"""GraphQL over WebSocket: `graphql-transport-ws`, to the letter of its PROTOCOL.md.

Guarantees: whatever a client sends, the socket ends with a close code of the table below or not at all; an operation's
own faults (syntax, validation, unknown name, refused field) are an `error` message for its id and leave the others
alone; nothing is sent for an operation after its end; every operation is stopped when its socket goes.

    1000  the client closed             4400  a message that the protocol does not allow
    1001  the server stops              4401  subscribe before the acknowledgement
    1007  text that is no UTF-8         4403  wrong credentials, or credentials that were revoked
    1009  a message over 2 MiB          4406  the client does not speak graphql-transport-ws
    1002  broken framing                4408  no connection_init in time
    1013  try again later               4409  an id that is in use
    4500  a fault of ours               4429  a second connection_init
                                        4499  no sign of life for a whole ping interval

Liveness: a `ping` every `ping_interval`, whose payload maps the id of each live stream to its cursor, so that a client
can resume from where it was although no item came; stock clients answer with a `pong` and ignore the payload. A client
from which nothing came since the ping before, and which has not read anything either, is closed. A client that does not
read costs its bounded buffer: live streams leave the live feed, results wait, and answers to its messages past
`REPLY_BOUND_BYTES` stop the reading of more.

The legacy `graphql-ws` subprotocol is not spoken. The connection must be served by `transport/websocket/server.py`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Hashable, MutableMapping
from datetime import timedelta
from functools import partial
from itertools import count
from time import perf_counter
from typing import Any

import msgspec
from graphql import GraphQLError

from transport.application import Application, Session
from transport.clients import network_of
from transport.errors import INTERNAL, RATE_LIMITED, RETRY_AFTER_MS, RequestError, code_of
from transport.execution.service import GraphQLService, Prepared
from transport.http.front import UNKNOWN_OPERATION, Observe, Receive, Scope, Send, client_of, header_map
from transport.operation import Operation
from transport.origins import is_allowed
from transport.request_ids import RequestTrace, enter
from transport.websocket.messages import (
    SUBPROTOCOL,
    Complete,
    ConnectionInit,
    InvalidMessage,
    Message,
    Ping,
    Pong,
    Subscribe,
    ping_message,
    pong_message,
    read_message,
)
from transport.websocket.operation import Connection, SocketOperation
from transport.websocket.server import EXTENSION

REPLY_BOUND_BYTES = 1024 * 1024
"""Unsent bytes past which no further message is read. Live streams have stopped long before, at 256 KiB."""

TOO_MANY_MS = 1_000
"""What a client with too many operations is told to wait: about what a query takes at the very most."""

CREDENTIAL_CODES = frozenset({"UNAUTHENTICATED", "FORBIDDEN"})


class WebSocketPolicy(msgspec.Struct, frozen=True):
    """The bounds of one socket, and who may open one."""

    init_timeout: timedelta = timedelta(seconds=10)
    """From the handshake to the acknowledgement, authentication included."""
    ping_interval: timedelta = timedelta(seconds=15)
    """Under the 30 to 60 seconds after which proxies drop an idle connection; also how old a position can be."""
    max_operations: int = 100
    """Open on one socket: streams, and queries that run or wait."""
    max_per_holder: int = 10_000
    """Sockets of one key or session in this process: a publishable key is in every copy of an app."""
    max_anonymous_per_client: int = 100
    """Sockets acknowledged without credentials, of one address: they may look at the schema, and stay as long as they
    like. Before its acknowledgement a socket is not counted, because a key may still come; `init_timeout` ends it."""
    max_executing: int = 8
    """Prepared or executed at the same time on one socket; the rest wait, in order."""
    allowed_origins: frozenset[str] = frozenset()


class WebSocketEndpoint:
    """The ASGI application for WebSockets on the GraphQL path."""

    def __init__(
        self,
        service: GraphQLService,
        application: Application,
        policy: WebSocketPolicy | None = None,
        observe: Observe | None = None,
    ) -> None:
        self.service = service
        self.application = application
        self.policy = policy or WebSocketPolicy()
        self.sockets = 0
        self._held: Counter[Hashable] = Counter()
        """Sockets by who holds the credentials, and by the network where there are none."""
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one socket until it has closed."""
        headers = header_map(scope)
        trace = RequestTrace.of(headers)
        enter(trace)
        await receive()
        if not is_allowed(headers, self.policy.allowed_origins):
            await send({"type": "websocket.close"})
            return
        connection: Connection = scope["extensions"][EXTENSION]
        if SUBPROTOCOL not in scope["subprotocols"]:
            await send({"type": "websocket.accept"})
            connection.close(4406, "Subprotocol not acceptable")
            return
        await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL})
        self.sockets += 1
        try:
            await GraphQLSocket(self, connection, headers, client_of(scope), trace).run(receive)
        finally:
            self.sockets -= 1
            trace.is_over = True

    def admit(self, session: Session, client: str | None) -> Callable[[], None] | None:
        """Take a place for this session. Gives the function that gives it back, or None where there is none left."""
        policy = self.policy
        anonymous = session.holder is None
        holder = network_of(client) if anonymous else session.holder
        if self._held[holder] >= (policy.max_anonymous_per_client if anonymous else policy.max_per_holder):
            return None
        self._held[holder] += 1
        return partial(self._leave, holder)

    def _leave(self, holder: Hashable) -> None:
        self._held[holder] -= 1
        if self._held[holder] <= 0:
            del self._held[holder]

    def observe(self, operation: str, outcome: str, seconds: float) -> None:
        """One operation has been answered, or a subscription has begun."""
        if self._observe:
            self._observe("websocket", operation, outcome, seconds)


class GraphQLSocket:
    """One client on one socket."""

    def __init__(
        self,
        server: WebSocketEndpoint,
        connection: Connection,
        headers: dict[str, str],
        client: str | None,
        trace: RequestTrace,
    ) -> None:
        self._server = server
        self._service = server.service
        self._policy = server.policy
        self._connection = connection
        self._headers = headers
        self._client = client
        self._trace = trace
        self._numbers = count(1)
        self._session: Session | None = None
        self._leave: Callable[[], None] = _nothing
        self._forget: Callable[[], None] | None = None
        self._opening: asyncio.Task[None] | None = None
        self._operations: dict[str, SocketOperation] = {}
        self._unfinished: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(self._policy.max_executing)
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._heard = True
        self._progress = (0, 0)

    async def run(self, receive: Receive) -> None:
        """Until the socket has closed. Everything that was open on it has ended when this returns."""
        self._schedule(self._policy.init_timeout, self._init_timed_out)
        try:
            while (event := await receive())["type"] != "websocket.disconnect":
                if not self._closed:
                    self._receive(event)
                    await self._pause()
        except Exception as error:
            self._service.error(error)  # which logs it, without what it says
            self._close(4500, "Internal server error")
        finally:
            self._end()
            if self._unfinished:
                await asyncio.wait(self._unfinished)

    async def _pause(self) -> None:
        """Let others run between two messages, and read no more from a client that does not read its answers."""
        await asyncio.sleep(0)
        if self._connection.buffered > REPLY_BOUND_BYTES:
            await self._connection.drained()

    def _receive(self, event: MutableMapping[str, Any]) -> None:
        self._heard = True
        text = event.get("text")
        try:
            if text is None:
                raise InvalidMessage("Messages must be text, not binary")
            self._take(read_message(text))
        except InvalidMessage as error:
            self._close(4400, str(error))

    def _take(self, message: Message) -> None:
        match message:
            case Subscribe():
                self._subscribe(message)
            case Complete(id=identifier):
                if (operation := self._operations.get(identifier)) is not None:
                    operation.stop()
            case Ping(payload=payload):
                self._connection.push(pong_message(payload))
            case Pong():
                pass
            case ConnectionInit(payload=payload):
                self._init(payload)

    # The connection

    def _init(self, payload: dict[str, Any] | None) -> None:
        if self._opening is not None:
            self._close(4429, "Too many initialisation requests")
            return
        self._opening = self._start(self._open(payload))

    async def _open(self, payload: dict[str, Any] | None) -> None:
        try:
            session = await self._server.application.open_session(self._headers, payload, client=self._client)
        except Exception as error:
            self._reject(error)
        else:
            self._acknowledge(session)

    def _acknowledge(self, session: Session) -> None:
        if self._closed:
            return
        leave = self._server.admit(session, self._client)
        if leave is None:
            anonymous = session.holder is None
            maximum = self._policy.max_anonymous_per_client if anonymous else self._policy.max_per_holder
            whose = "without credentials from this address" if anonymous else "with these credentials"
            self._close(1013, f"Too many connections {whose}: at most {maximum:,}")
            return
        self._leave = leave
        self._session = session
        self._connection.push(b'{"type":"connection_ack"}')
        self._schedule(self._policy.ping_interval, self._ping)
        self._forget = session.on_revoked(self._revoked)

    def _reject(self, error: Exception) -> None:
        shown = self._service.error(error)
        code = code_of(shown)
        if code in CREDENTIAL_CODES:
            self._close(4403, shown.message or "Forbidden")
        elif code == INTERNAL:
            self._close(4500, "Internal server error")
        else:
            self._close(1013, shown.message)  # such as a database that is away: clients try again after this code

    def _revoked(self, reason: str) -> None:
        self._close(4403, reason)

    def _init_timed_out(self) -> None:
        self._close(4408, "Connection initialisation timeout")

    def _ping(self) -> None:
        progress = (self._connection.drains, -self._connection.buffered)
        if not self._heard and progress <= self._progress:
            self._close(4499, "No sign of life since the last ping")
            return
        self._heard, self._progress = False, progress
        if not self._connection.is_full:
            self._connection.push(ping_message(self._positions()))
        self._schedule(self._policy.ping_interval, self._ping)

    def _positions(self) -> dict[str, str]:
        found = ((operation.id, operation.position) for operation in self._operations.values())
        return {identifier: position for identifier, position in found if position is not None}

    def _schedule(self, delay: timedelta, callback: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay.total_seconds(), callback)

    def _close(self, code: int, reason: str) -> None:
        if not self._closed:
            self._connection.close(code, reason)
            self._end()

    def _end(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._forget is not None:
            self._forget()
            self._forget = None
        self._leave()
        self._leave = _nothing
        if self._opening is not None and self._opening is not asyncio.current_task():
            self._opening.cancel()
        for operation in tuple(self._operations.values()):
            operation.stop()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        return task

    # Operations

    def _subscribe(self, message: Subscribe) -> None:
        session = self._session
        if session is None:
            self._close(4401, "Unauthorized")
            return
        if message.id in self._operations:
            self._close(4409, f"Subscriber for {message.id} already exists")
            return
        trace = self._trace.part(next(self._numbers))
        operation = SocketOperation(message.id, self._service, self._operation_ended, self._connection, trace)
        if len(self._operations) >= self._policy.max_operations:
            operation.refuse([self._too_many()])
            return
        self._operations[message.id] = operation
        operation.task = self._start(self._perform(operation, message.payload, session))

    def _operation_ended(self, operation: Operation) -> None:
        if self._operations.get(operation.id) is operation:
            del self._operations[operation.id]

    def _too_many(self) -> GraphQLError:
        return GraphQLError(
            f"A socket carries at most {self._policy.max_operations} operations at a time.",
            extensions={"code": RATE_LIMITED, RETRY_AFTER_MS: TOO_MANY_MS},
        )

    async def _perform(self, operation: SocketOperation, payload: bytes, session: Session) -> None:
        started = perf_counter()
        kind = UNKNOWN_OPERATION
        operation.enter_request()
        try:
            async with self._slots:
                prepared = await self._prepare(payload, session)
                if isinstance(prepared, Prepared):
                    kind = prepared.kind.value
                    stream = await operation.begin(prepared, session)
                else:
                    operation.refuse(prepared)
            self._server.observe(kind, operation.outcome, perf_counter() - started)
            if isinstance(prepared, Prepared) and stream is not None:
                await operation.follow(stream, prepared, session)
        except Exception as error:
            operation.fail(error)
        finally:
            operation.task = None

    async def _prepare(self, payload: bytes, session: Session) -> Prepared | list[GraphQLError]:
        try:
            return await self._service.prepare(await self._service.read(payload), session)
        except RequestError as error:
            return [error.as_graphql_error()]


def _nothing() -> None:
    """For a socket that has taken no place."""
