"""A server over a small schema, as a process of its own: what a test does to it cannot slow the test down.

    python tests/acceptance/graphql_http/served.py [audits|draft] [impatient]

Prints the port it listens on. Ends on SIGTERM.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import uvicorn
from graphql import GraphQLResolveInfo, GraphQLSchema, build_schema

from transport.application import PublicError, Weights
from transport.endpoint import GraphQLEndpoint
from transport.execution.limits import Limits
from transport.execution.service import GraphQLService
from transport.http.front import GraphQLHTTP
from transport.http.server import HTTPProtocol, serve_config
from transport.http.statuses import StatusProfile
from transport.websocket.endpoint import WebSocketEndpoint


class ImpatientProtocol(HTTPProtocol):
    """The same, within a test's patience."""

    head_timeout = 0.5
    stall_timeout = 0.5
    body_timeout = 1.0


EXECUTION_TIME = timedelta(seconds=1)

SDL = """
type Query {
  hello(name: String = "world"): String
  node: Node
  "How often a mutation has run."
  runs: Int!
  crash: String
  "Null, and so all data is null with it."
  broken(code: String!): Int!
  refused(code: String!): String
  slow(ms: Int!): String
}
type Node { id: ID! node: Node name(of: String): String }
input NoteInput { title: String! size: Int tags: [String!] }
type Mutation {
  bump: Int!
  note(input: NoteInput!): String
}
type Subscription { ticks: Int }
"""


class DescribedError(Exception):
    """An error that is meant for the client."""

    def __init__(self, code: str, **extensions: object) -> None:
        super().__init__(f"Described as {code}.")
        self.extensions = {"code": code, **extensions}


class TestSession:
    holder = None
    account = None

    def __init__(self, *, may_inspect: bool) -> None:
        self.may_inspect = may_inspect

    async def trusted_document(self, digest: str) -> str | None:
        return None

    async def may_run(self, document: str) -> bool:
        return True

    def context(self, cost: int = 0) -> object:
        return {}

    def on_revoked(self, callback: Callable[[str], None]) -> Callable[[], None]:
        return lambda: None


class TestApplication:
    """Keys decide how opening a session ends: `unauthenticated`, `limited`, `down`, `crash`, or well.

    All but a `stranger` may ask for the schema.
    """

    decoders: Mapping[str, Any] = {}
    weights = Weights()

    def __init__(self) -> None:
        self.schema = schema()

    async def open_session(
        self, headers: Mapping[str, str], payload: Mapping[str, Any] | None, *, client: str | None
    ) -> TestSession:
        key = headers.get("x-api-key")
        match key:
            case "unauthenticated":
                raise DescribedError("UNAUTHENTICATED")
            case "limited":
                raise DescribedError("RATE_LIMITED", retryAfterMs=1500)
            case "down":
                raise DescribedError("UNAVAILABLE", retryAfterMs=200)
            case "crash":
                raise RuntimeError("a secret of the server")
        return TestSession(may_inspect=key != "stranger")

    def describe_error(self, error: BaseException) -> PublicError | None:
        return PublicError(str(error), error.extensions) if isinstance(error, DescribedError) else None


def schema() -> GraphQLSchema:
    """The schema above with its resolvers. Each has a counter of its own."""
    built = build_schema(SDL)
    runs = [0]

    def bump(_root: object, _info: GraphQLResolveInfo) -> int:
        runs[0] += 1
        return runs[0]

    def crash(_root: object, _info: GraphQLResolveInfo) -> str:
        raise RuntimeError("a secret of the server")

    def refused(_root: object, _info: GraphQLResolveInfo, code: str) -> str:
        raise DescribedError(code)

    async def slow(_root: object, _info: GraphQLResolveInfo, ms: int) -> str:
        await asyncio.sleep(ms / 1000)
        return "done"

    resolvers: dict[str, dict[str, Any]] = {
        "Query": {
            "hello": lambda _root, _info, name: f"Hello, {name}!",
            "node": lambda _root, _info: {"id": "1"},
            "runs": lambda _root, _info: runs[0],
            "crash": crash,
            "broken": refused,
            "refused": refused,
            "slow": slow,
        },
        "Node": {"node": lambda _root, _info: {"id": "1"}, "name": lambda _root, _info, of=None: of},
        "Mutation": {"bump": bump, "note": lambda _root, _info, input: input["title"]},  # noqa: A006
    }
    for type_name, fields in resolvers.items():
        for field_name, resolver in fields.items():
            built.type_map[type_name].fields[field_name].resolve = resolver  # type: ignore[attr-defined]
    return built


async def no_streams(_scope: Any, _receive: Any, send: Any) -> None:
    """Stands where the event streams are in the product."""
    await send({"type": "http.response.start", "status": 501, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def application(profile: StatusProfile) -> GraphQLEndpoint:
    """The endpoint under test."""
    product = TestApplication()
    service = GraphQLService(product, Limits(execution_time=EXECUTION_TIME))
    return GraphQLEndpoint(
        http=GraphQLHTTP(service, product, profile=profile),
        websocket=WebSocketEndpoint(service, product),
        event_stream=no_streams,
    )


def main() -> None:
    profile = StatusProfile(sys.argv[1] if len(sys.argv) > 1 else "audits")
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    print(listener.getsockname()[1], flush=True)
    protocol = ImpatientProtocol if "impatient" in sys.argv else HTTPProtocol
    keep_alive = 1 if "impatient" in sys.argv else 75
    config = serve_config(
        application(profile),
        http=protocol,
        lifespan="off",
        timeout_graceful_shutdown=1,
        timeout_keep_alive=keep_alive,
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
