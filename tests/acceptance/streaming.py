"""A small application for the streaming transports: a real in-memory log behind real sockets, and nothing mocked.

The log is a genuine `LiveSource`: it replays from any cursor, then follows, renders each item once for all subscribers
that share a rendering and an audience, and lets a slow reader leave the live feed until its buffer has drained.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from graphql import GraphQLSchema, build_schema

from transport.application import Application, InputDecoder, Membership, PublicError, Rendering, Session, Sink, Weights
from transport.endpoint import GraphQLEndpoint
from transport.execution.limits import Limits
from transport.execution.service import GraphQLService
from transport.http.front import GraphQLHTTP
from transport.http.server import serve_config
from transport.sse.endpoint import EventStreamTransport
from transport.sse.forwarding import Homes
from transport.sse.streams import StreamPolicy
from transport.websocket.endpoint import WebSocketEndpoint, WebSocketPolicy

KEY = "sk_test_right"
OTHER_KEY = "sk_test_other"
KEYS = frozenset({KEY, OTHER_KEY})

SDL = """
type Query {
  hello(name: String = "world"): String!
  wait(ms: Int!): String!
  text(length: Int!): String!
  crash: String
  refuse: String
  me: String
}
type Mutation {
  append(value: String!): Int!
  appendSlowly(value: String!, ms: Int!): Int!
}
type Item { value: String! cursor: String! }
type Subscription {
  "An ordinary source: no positions, no sharing."
  count(to: Int!, width: Int = 0): String!
  "Raises an unexpected error after some items."
  explode(after: Int!): Int!
  "Raises an error that is meant for the client."
  decline: Int
  never: Int
  "Takes a minute to begin."
  late: Int
  "A live source with positions."
  log(prefix: String = "", after: String): Item
}
"""


class DescribedError(Exception):
    """An error that the client is told about."""

    def __init__(self, code: str, message: str, **extensions: Any) -> None:
        super().__init__(message)
        self.extensions = {"code": code, **extensions}


@dataclass(eq=False)
class MemorySession:
    """One client. `key` is None for an anonymous one."""

    application: MemoryApplication
    key: str | None
    callbacks: list[Callable[[str], None]] = field(default_factory=list)

    @property
    def holder(self) -> str | None:
        return self.key

    account = None
    may_inspect = True

    async def trusted_document(self, digest: str) -> str | None:
        return None

    async def may_run(self, document: str) -> bool:
        return True

    def context(self, cost: int = 0) -> MemorySession:
        return self

    def on_revoked(self, callback: Callable[[str], None]) -> Callable[[], None]:
        self.callbacks.append(callback)
        return lambda: self.callbacks.remove(callback) if callback in self.callbacks else None


@dataclass
class MemoryApplication:
    """A log of strings, shared by everybody. `rendered` counts executions of a document for an item."""

    schema: GraphQLSchema = field(init=False)
    decoders: Mapping[str, InputDecoder] = field(default_factory=dict)
    weights: Weights = field(default_factory=Weights)
    log: MemoryLog = field(init=False)
    sessions: list[MemorySession] = field(default_factory=list)
    running: int = 0
    payloads: list[Mapping[str, Any] | None] = field(default_factory=list)
    unavailable: bool = False
    broken: bool = False
    slow_session: float = 0.0

    def __post_init__(self) -> None:
        self.log = MemoryLog()
        self.schema = _schema(self)

    async def open_session(
        self, headers: Mapping[str, str], payload: Mapping[str, Any] | None, *, client: str | None
    ) -> Session:
        await asyncio.sleep(self.slow_session)
        self.payloads.append(payload)
        if self.unavailable:
            raise DescribedError("UNAVAILABLE", "The database cannot be reached.", retryAfterMs=1000)
        if self.broken:
            raise RuntimeError("secret detail of a crash")
        key = (payload or {}).get("x-api-key", headers.get("x-api-key"))
        if key is not None and key not in KEYS:
            raise DescribedError("UNAUTHENTICATED", "This API key is not valid.")
        session = MemorySession(self, key)
        self.sessions.append(session)
        return session

    def describe_error(self, error: BaseException) -> PublicError | None:
        return PublicError(str(error), error.extensions) if isinstance(error, DescribedError) else None

    def revoke(self, key: str) -> None:
        """Take the key back, as the engine would: every session hears of it at once."""
        for session in self.sessions:
            if session.key == key:
                for callback in tuple(session.callbacks):
                    callback("This API key has been revoked.")


class MemoryLog:
    """Items 1, 2, 3 … with their position as cursor."""

    def __init__(self) -> None:
        self.items: list[str] = []
        self.members: set[_Member] = set()
        self.rendered = 0
        self.catching_up = 0

    def append(self, value: str) -> int:
        """Store and hand on. Each distinct rendering is called once."""
        self.items.append(value)
        position = len(self.items)
        shared: dict[Hashable, bytes] = {}
        for member in tuple(self.members):
            if not member.wants(value):
                member.position = position
                continue
            key = (member.rendering.key, member.source.audience)
            if key not in shared:
                shared[key] = self._render_now(member, position)
            member.hand_on(position, shared[key])
        return position

    def _render_now(self, member: _Member, position: int) -> bytes:
        self.rendered += 1
        rendered = member.rendering({"value": self.items[position - 1], "cursor": cursor_of(position)})
        assert isinstance(rendered, bytes), "nothing in this schema waits"
        return rendered


def cursor_of(position: int) -> str:
    return f"c{position}"


@dataclass
class LogSource:
    """What the resolver of `log` returns."""

    log: MemoryLog
    prefix: str
    after: str | None
    audience: Hashable = "everybody"

    async def join(self, rendering: Rendering, sink: Sink, *, after: str | None = None) -> Membership:
        after = after if after is not None else self.after
        position = len(self.log.items) if after is None else self._position(after)
        member = _Member(self, rendering, sink, position)
        await asyncio.sleep(0)
        sink.announce(cursor_of(position))
        member.follow()
        return member

    def _position(self, cursor: str) -> int:
        if not cursor.startswith("c") or not cursor[1:].isdigit() or int(cursor[1:]) > len(self.log.items):
            raise DescribedError("CURSOR_INVALID", "This cursor was not issued here.")
        return int(cursor[1:])

    def __aiter__(self) -> AsyncIterator[Any]:
        raise TypeError("a live source is joined, not iterated")


@dataclass(eq=False)
class _Member:
    source: LogSource
    rendering: Rendering
    sink: Sink
    position: int
    left: bool = False
    catching_up: asyncio.Task[None] | None = None

    @property
    def delivered(self) -> int:
        return self.position

    @property
    def cursor(self) -> str:
        return cursor_of(self.position)

    def wants(self, value: str) -> bool:
        return value.startswith(self.source.prefix)

    def hand_on(self, position: int, payload: bytes) -> None:
        self.position = position
        if not self.sink.deliver(payload, cursor_of(position)):
            self.source.log.members.discard(self)
            self.catching_up = asyncio.get_running_loop().create_task(self._catch_up())

    def follow(self) -> None:
        """Attach at once, or first catch up."""
        if self.position < len(self.source.log.items):
            self.catching_up = asyncio.get_running_loop().create_task(self._catch_up())
        else:
            self.source.log.members.add(self)

    async def _catch_up(self) -> None:
        log = self.source.log
        log.catching_up += 1
        try:
            await self.sink.drained()
            while not self.left and self.position < len(log.items):
                self.position += 1
                value = log.items[self.position - 1]
                if self.wants(value):
                    payload = self.rendering({"value": value, "cursor": self.cursor})
                    payload = payload if isinstance(payload, bytes) else await payload
                    if not self.left and not self.sink.deliver(payload, self.cursor):
                        await self.sink.drained()
        finally:
            log.catching_up -= 1
        if not self.left:
            log.members.add(self)

    def leave(self) -> None:
        self.left = True
        self.source.log.members.discard(self)
        if self.catching_up is not None:
            self.catching_up.cancel()


def _schema(application: MemoryApplication) -> GraphQLSchema:
    schema = build_schema(SDL)
    query, mutation, subscription = schema.query_type, schema.mutation_type, schema.subscription_type
    assert query is not None
    assert mutation is not None
    assert subscription is not None

    async def wait(_root: object, _info: object, ms: int) -> str:
        application.running += 1
        try:
            await asyncio.sleep(ms / 1000)
        finally:
            application.running -= 1
        return "waited"

    async def append_slowly(_root: object, _info: object, value: str, ms: int) -> int:
        await asyncio.sleep(ms / 1000)
        return application.log.append(value)

    def crash(*_: object) -> str:
        raise RuntimeError("secret detail of a crash")

    def refuse(*_: object) -> str:
        raise DescribedError("FORBIDDEN", "This key may not read that.")

    def me(_root: object, info: Any) -> str | None:
        key: str | None = info.context.key
        return key

    resolvers: dict[Any, dict[str, Callable[..., Any]]] = {
        query: {
            "hello": lambda _root, _info, name: f"hello {name}",
            "wait": wait,
            "text": lambda _root, _info, length: "x" * length,
            "crash": crash,
            "refuse": refuse,
            "me": me,
        },
        mutation: {
            "append": lambda _root, _info, value: application.log.append(value),
            "appendSlowly": append_slowly,
        },
    }
    for object_type, functions in resolvers.items():
        for name, function in functions.items():
            object_type.fields[name].resolve = function
    for name, source in _sources(application).items():
        subscription.fields[name].subscribe = source
        subscription.fields[name].resolve = lambda item, *_, **__: item
    return schema


def _sources(application: MemoryApplication) -> dict[str, Callable[..., Any]]:
    async def count(_root: object, _info: object, to: int, width: int) -> AsyncIterator[str]:
        application.running += 1
        try:
            for number in range(1, to + 1):
                yield f"{number}".ljust(width, ".")
        finally:
            application.running -= 1

    async def explode(_root: object, _info: object, after: int) -> AsyncIterator[int]:
        for number in range(1, after + 1):
            yield number
        raise RuntimeError("secret detail of a crash")

    async def never(*_: object) -> AsyncIterator[int]:
        application.running += 1
        try:
            await asyncio.Event().wait()
            yield 0
        finally:
            application.running -= 1

    async def late(*_: object) -> AsyncIterator[int]:
        await asyncio.sleep(60)
        return never()

    def decline(*_: object) -> AsyncIterator[int]:
        raise DescribedError("FORBIDDEN", "This key may not follow that.")

    def log(_root: object, _info: object, prefix: str, after: str | None = None) -> LogSource:
        return LogSource(application.log, prefix, after)

    return {"count": count, "explode": explode, "never": never, "late": late, "decline": decline, "log": log}


ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass(frozen=True)
class Server:
    """A started server. `url` has no scheme: `127.0.0.1:4711/graphql`."""

    application: MemoryApplication
    uvicorn: uvicorn.Server
    port: int

    @property
    def websocket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/graphql"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/graphql"

    def stop(self) -> None:
        """As SIGTERM would."""
        self.uvicorn.should_exit = True


def graphql_endpoint(
    application: MemoryApplication,
    *,
    streams: StreamPolicy | None = None,
    websocket: WebSocketPolicy | None = None,
    homes: Homes | None = None,
    limits: Limits | None = None,
) -> GraphQLEndpoint:
    """All transports on one URL, as the gateway has them."""
    service = GraphQLService(application, limits)
    return GraphQLEndpoint(
        http=GraphQLHTTP(service, application),
        websocket=WebSocketEndpoint(service, application, websocket),
        event_stream=EventStreamTransport(service, application, policy=streams, homes=homes),
    )


@asynccontextmanager
async def started(
    app: ASGIApp, application: MemoryApplication, *, sockets: list[socket.socket] | None = None, **config: Any
) -> AsyncIterator[Server]:
    """Serve `app` on a free port of the loopback until the block ends, or on `sockets`, whose first has a port."""
    server = uvicorn.Server(serve_config(app, **{"host": "127.0.0.1", "port": 0, "lifespan": "off", **config}))
    serving = asyncio.get_running_loop().create_task(server.serve(sockets))
    try:
        await eventually(lambda: server.started)
        yield Server(application, server, server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        await asyncio.wait_for(serving, 15)


async def eventually(condition: Callable[[], bool], *, within: float = 5.0) -> None:
    """Wait until the condition holds; fail when it does not in time."""
    deadline = asyncio.get_running_loop().time() + within
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"did not happen: {inspect.getsource(condition)}"
        await asyncio.sleep(0.005)


_: type[Application] = MemoryApplication
