"""Stock Strawberry on uvicorn, as its documentation starts it: one queue and one execution per subscriber."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Annotated

import strawberry
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from strawberry.asgi import GraphQL
from strawberry.scalars import JSON

PROPERTIES = {"amount": 12.5, "currency": "EUR", "items": [{"sku": "A-1", "quantity": 2}], "coupon": None}

listeners: set[asyncio.Queue["EventEdge"]] = set()


@strawberry.type
class Event:
    id: strawberry.ID
    seq: int
    event_type: str
    timestamp: str
    user_id: str | None
    properties: JSON


@strawberry.type
class EventEdge:
    cursor: str
    node: Event


@strawberry.input
class EventFilter:
    user_id: str | None = None


@strawberry.type
class Query:
    ping: str = "pong"


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def event_stream(
        self, event_filter: Annotated[EventFilter | None, strawberry.argument(name="filter")] = None
    ) -> AsyncIterator[EventEdge]:
        queue: asyncio.Queue[EventEdge] = asyncio.Queue()
        listeners.add(queue)
        try:
            while True:
                edge = await queue.get()
                if event_filter is None or event_filter.user_id is None or event_filter.user_id == edge.node.user_id:
                    yield edge
        finally:
            listeners.discard(queue)


def edge(seq: int, users: int) -> EventEdge:
    node = Event(
        id=strawberry.ID(f"evt_{seq:032}"),
        seq=seq,
        event_type="order.placed",
        timestamp="2026-05-01T12:00:00.000Z",
        user_id=f"user-{seq % users}",
        properties=PROPERTIES,
    )
    return EventEdge(cursor=f"cursor-{seq:044}", node=node)


async def publish(request: Request) -> PlainTextResponse:
    first, count = int(request.query_params["from"]), int(request.query_params["count"])
    users = int(request.query_params.get("users", "1"))
    for seq in range(first, first + count):
        for queue in listeners:
            queue.put_nowait(edge(seq, users))
        await asyncio.sleep(0)
    return PlainTextResponse("done")


graphql = GraphQL(strawberry.Schema(Query, subscription=Subscription))
app = Starlette(routes=[Route("/publish", publish), Route("/graphql", graphql), WebSocketRoute("/graphql", graphql)])

if __name__ == "__main__":
    print("ready", flush=True)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", ws_per_message_deflate=False)
