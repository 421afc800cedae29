"""A small gateway look-alike for the explorer's browser tests: the explorer over a schema with the contract's names.

Run as `python app.py [--build DIR]`; prints its URL and serves until it is killed. One project, held in memory, so
that the page is tested by itself; against the real gateway the same browser script is pointed at its URL.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NewType

import strawberry
import uvicorn
from graphql import GraphQLError
from strawberry.asgi import GraphQL
from strawberry.scalars import JSON
from strawberry.schema.config import StrawberryConfig
from strawberry.types import Info

from transport.explorer import BUILD, Explorer, ExplorerPage, wants_page

KEY = "sk_us_prod_browser-tests-only"
PAGE = ExplorerPage(
    title="Sendora Gateway",
    key_hint="`make run` prints one, and it is in `.data/keys.json` as `secretKey`.",
    sample_query="{ viewer { role project { name } } }",
)
Cursor = NewType("Cursor", str)


@strawberry.type
class Event:
    """Something that happened."""

    id: strawberry.ID
    seq: int
    event_type: str
    user_id: str | None
    timestamp: datetime
    received_at: datetime
    properties: JSON


@strawberry.type
class EventEdge:
    """An event and its position."""

    cursor: Cursor
    node: Event


class Log:
    """The project's events, and those who wait for the next one."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = asyncio.Condition()
        self._numbers = itertools.count(1)

    async def append(self, event_type: str, user_id: str | None, properties: Any) -> Event:
        """Number and keep one event, and wake whoever follows."""
        seq, now = next(self._numbers), datetime.now(UTC)
        event = Event(
            id=strawberry.ID(f"evt_{seq}"),
            seq=seq,
            event_type=event_type,
            user_id=user_id,
            timestamp=now,
            received_at=now,
            properties=properties,
        )
        async with self._changed:
            self.events.append(event)
            self._changed.notify_all()
        return event

    async def follow(self, position: int) -> AsyncIterator[Event]:
        """Every event after the position, for ever."""
        while True:
            async with self._changed:
                while len(self.events) <= position:
                    await self._changed.wait()
            yield self.events[position]
            position += 1


def encode(seq: int) -> Cursor:
    """A cursor that looks opaque."""
    return Cursor(base64.urlsafe_b64encode(b"seq:%d" % seq).decode())


def decode(cursor: str) -> int:
    """The position of a cursor."""
    return int(base64.urlsafe_b64decode(cursor).removeprefix(b"seq:"))


def log_of(info: Info) -> Log:
    """The log, for those who come with the key, in a header or in connection_init."""
    connection = info.context["connection"]
    given = (info.context.get("connection_params") or {}).get("x-api-key") or connection.headers.get("x-api-key")
    if given != KEY:
        raise GraphQLError("An API key is needed.", extensions={"code": "UNAUTHENTICATED"})
    log: Log = info.context["log"]
    return log


@strawberry.input
class EventFilter:
    """Which events."""

    event_types: list[str] | None = None


@strawberry.input
class EventInput:
    """An event to be stored."""

    event_type: str
    user_id: str | None = None
    properties: JSON = strawberry.field(default_factory=dict)


@strawberry.input
class TrackInput:
    """What track takes."""

    event: EventInput


@strawberry.type
class UserError:
    """An expected failure."""

    code: str
    message: str
    path: list[str]


@strawberry.type
class TrackPayload:
    """What track answers."""

    event: Event | None
    duplicate: bool
    user_errors: list[UserError]


@strawberry.type
class Organization:
    """Who owns projects."""

    name: str
    region: str


@strawberry.type
class Project:
    """What a key opens."""

    id: strawberry.ID
    name: str
    head: Cursor


@strawberry.type
class RateLimit:
    """What a key may spend."""

    limit: int
    remaining: int
    restore_rate: int


@strawberry.type
class Viewer:
    """Who asks."""

    organization: Organization
    project: Project
    role: str
    rate_limit: RateLimit


@strawberry.type
class EventConnection:
    """A page of events."""

    edges: list[EventEdge]


@strawberry.type
class Query:
    """Reads."""

    @strawberry.field
    def viewer(self, info: Info) -> Viewer:
        """Who this key is."""
        head = encode(len(log_of(info).events))
        return Viewer(
            organization=Organization(name="Demo", region="US"),
            project=Project(id=strawberry.ID("prj_1"), name="Demo project", head=head),
            role="ADMIN",
            rate_limit=RateLimit(limit=5000, remaining=4999, restore_rate=100),
        )

    @strawberry.field
    def events(self, info: Info, first: int = 20, filter: EventFilter | None = None) -> EventConnection:  # noqa: A002
        """Newest first."""
        newest = log_of(info).events[::-1][:first]
        return EventConnection(edges=[EventEdge(cursor=encode(event.seq), node=event) for event in newest])


@strawberry.type
class Mutation:
    """Writes."""

    @strawberry.mutation
    async def track(self, info: Info, input: TrackInput) -> TrackPayload:  # noqa: A002
        """Store one event."""
        given = input.event
        event = await log_of(info).append(given.event_type, given.user_id, given.properties)
        return TrackPayload(event=event, duplicate=False, user_errors=[])


@strawberry.type
class Subscription:
    """Follows."""

    @strawberry.subscription
    async def event_stream(
        self,
        info: Info,
        filter: EventFilter | None = None,  # noqa: A002
        after: Cursor | None = None,
    ) -> AsyncIterator[EventEdge]:
        """Each event once, from the cursor or from now on."""
        log = log_of(info)
        async for event in log.follow(decode(after) if after else len(log.events)):
            yield EventEdge(cursor=encode(event.seq), node=event)


class Endpoint(GraphQL):  # type: ignore[type-arg]
    """Strawberry's own view with the log in its context."""

    def __init__(self, log: Log) -> None:
        config = StrawberryConfig(scalar_map={Cursor: strawberry.scalar(name="Cursor", parse_value=Cursor)})
        super().__init__(strawberry.Schema(Query, Mutation, Subscription, config=config), graphql_ide=None)
        self._log = log

    async def get_context(self, request: Any, response: Any) -> dict[str, Any]:
        """The log and the connection, whose headers hold the key."""
        return {"log": self._log, "connection": request}


class App:
    """The explorer for browsers, GraphQL for everybody else: as the gateway's endpoint does it."""

    def __init__(self, build: Path) -> None:
        self._explorer = Explorer(PAGE, build=build)
        self._endpoint = Endpoint(Log())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Route one connection."""
        if scope["type"] == "http" and (self._explorer.owns(scope["path"]) or self._is_page(scope)):
            await self._explorer(scope, receive, send)
        elif scope["type"] in ("http", "websocket"):
            await self._endpoint(scope, receive, send)

    def _is_page(self, scope: Any) -> bool:
        accept = dict(scope["headers"]).get(b"accept", b"").decode()
        return scope["path"] == PAGE.path and wants_page(scope["method"], accept)


def main() -> None:
    """Serve on a free port of the loopback interface, and print the URL once connections are taken."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=Path, default=BUILD)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(App(parser.parse_args().build), lifespan="off", log_level="error", ws="websockets-sansio")
    )
    print(f"http://127.0.0.1:{listener.getsockname()[1]}{PAGE.path}", flush=True)
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
