"""Speaking to a started gateway: requests with a key, streams of both kinds, and a second client that must not wait."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from websockets.asyncio.client import ClientConnection, connect

from tests.acceptance.http_server import Response, exchange, post, query, read_response
from tests.acceptance.running import Running

PROMISE = 1.0
"""Seconds that another client may wait, whatever one does."""

HEARTBEAT_SECONDS = 0.01
"""Between two questions of the second client."""

SUBPROTOCOLS: Any = ["graphql-transport-ws"]

TRACK = """mutation Track($event: EventInput!) {
  track(input: { event: $event }) {
    duplicate userErrors { code path message } event { id seq key userId properties context timestamp receivedAt }
  }
}"""
TRACK_BATCH = """mutation TrackBatch($events: [EventInput!]!) {
  trackBatch(input: { events: $events }) { accepted duplicates rejected cursor userErrors { code path message } }
}"""
FOLLOW = """subscription Follow($filter: EventFilter, $after: Cursor) {
  eventStream(filter: $filter, after: $after) {
    cursor node { seq key eventType module userId properties context timestamp receivedAt }
  }
}"""


@dataclass(frozen=True)
class Gateway:
    """A started gateway and the keys of its first project."""

    running: Running
    secret_key: str
    publishable_key: str

    @staticmethod
    def of(running: Running) -> Gateway:
        return Gateway(running, running.keys["secretKey"], running.keys["publishableKey"])

    @property
    def port(self) -> int:
        return self.running.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/graphql"

    @property
    def websocket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/graphql"

    async def send(self, body: bytes, *lines: str, key: str | None = "", **options: Any) -> Response:
        """POST these bytes. `key` is the secret one by default, None for none."""
        return await exchange(self.port, post(body, *self.key_lines(key), *lines, **options))

    async def ask(self, document: str, *lines: str, key: str | None = "", **variables: Any) -> Response:
        """One operation."""
        return await self.send(query(document, variables=variables), *lines, key=key)

    async def data(self, document: str, *, key: str | None = "", **variables: Any) -> Any:
        """The data of an operation that has no errors."""
        answer = (await self.ask(document, key=key, **variables)).json
        assert "errors" not in answer, answer
        return answer["data"]

    async def track(self, *, key: str | None = "", **event: Any) -> Any:
        """The payload of `track`."""
        return (await self.data(TRACK, key=key, event=event))["track"]

    async def last_seq(self, *, key: str | None = "") -> int:
        """Of the newest event in the log, 0 for none."""
        edges = (await self.data("{ events(first: 1) { edges { node { seq } } } }", key=key))["events"]["edges"]
        return edges[0]["node"]["seq"] if edges else 0

    async def head(self) -> str:
        return str((await self.data("{ viewer { project { head } } }"))["viewer"]["project"]["head"])

    async def make_key(self, role: str = "VIEWER", kind: str = "SECRET") -> tuple[str, str]:
        """Id and token of a fresh key."""
        made = await self.data(
            f'mutation {{ createApiKey(name: "t", kind: {kind}, role: {role}) {{ token apiKey {{ id }} }} }}'
        )
        return made["createApiKey"]["apiKey"]["id"], made["createApiKey"]["token"]

    async def make_project(self) -> str:
        """The token of another project's first key."""
        made = await self.data('mutation { createProject(name: "another") { token } }')
        return str(made["createProject"]["token"])

    def key_lines(self, key: str | None) -> list[str]:
        """The header of a key: the secret one for an empty text, none for None."""
        return [] if key is None else [f"x-api-key: {key or self.secret_key}"]


def code_of(answer: Response) -> str:
    """The code of the only error of a GraphQL response; there must be a sentence with it."""
    errors: Any = answer.json["errors"]
    codes = {error["extensions"]["code"] for error in errors}
    assert len(codes) == 1, errors
    assert all(error["message"] for error in errors)
    return str(codes.pop())


@dataclass
class Beats:
    """What the second client waited, in seconds."""

    waits: list[float] = field(default_factory=list)


@asynccontextmanager
async def heartbeat(gateway: Gateway) -> AsyncIterator[Beats]:
    """A second client, on a connection of its own. Fails the test if it had to wait, or was ever refused."""
    beats = Beats()
    request = post(query("{ viewer { role } }"), *gateway.key_lines(""))
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)

    async def beat() -> None:
        started = time.perf_counter()
        writer.write(request)
        assert (await read_response(reader)).json["data"] == {"viewer": {"role": "ADMIN"}}
        beats.waits.append(time.perf_counter() - started)

    async def beat_on() -> None:
        while True:
            await beat()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    await beat()
    beating = asyncio.create_task(beat_on())
    try:
        yield beats
        await asyncio.sleep(2 * HEARTBEAT_SECONDS)
        assert not beating.done(), beating
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        writer.close()
    await _beat_once_more(gateway, request, beats)
    assert max(beats.waits) < PROMISE


async def _beat_once_more(gateway: Gateway, request: bytes, beats: Beats) -> None:
    """What a blocked event loop kept from the loop above would only show now."""
    started = time.perf_counter()
    assert (await exchange(gateway.port, request)).status == 200
    beats.waits.append(time.perf_counter() - started)


@asynccontextmanager
async def harmless(gateway: Gateway, *, stored: int = 0) -> AsyncIterator[Beats]:
    """Whatever is done inside: nobody waits for it, the gateway works on, and the log grew by exactly `stored`."""
    before = await gateway.last_seq()
    async with heartbeat(gateway) as beats:
        yield beats
    assert await gateway.last_seq() == before + stored


@dataclass
class Socket:
    """An initialised WebSocket."""

    connection: ClientConnection

    async def send(self, message: Any) -> None:
        await self.connection.send(message if isinstance(message, str | bytes) else json.dumps(message))

    async def subscribe(self, identifier: str, document: str, **variables: Any) -> None:
        payload = {"query": document, "variables": variables}
        await self.send({"id": identifier, "type": "subscribe", "payload": payload})

    async def receive(self, *, within: float = 5) -> dict[str, Any]:
        """The next message that is not a position."""
        async with asyncio.timeout(within):
            while True:
                message: dict[str, Any] = json.loads(await self.connection.recv())
                if message["type"] != "ping":
                    return message

    async def position(self, identifier: str) -> str:
        """The next position of an operation."""
        async with asyncio.timeout(5):
            while True:
                message = json.loads(await self.connection.recv())
                if message["type"] == "ping" and identifier in message["payload"]:
                    return str(message["payload"][identifier])

    async def closed(self, *, within: float = 5) -> tuple[int | None, str | None]:
        """Code and reason of the close, whatever comes before it."""
        async with asyncio.timeout(within):
            await self.connection.wait_closed()
        return self.connection.close_code, self.connection.close_reason


@asynccontextmanager
async def open_socket(
    gateway: Gateway, key: str = "", *, credentials: dict[str, str] | None = None, **options: Any
) -> AsyncIterator[Socket]:
    """With a key, the secret one by default, or with other credentials."""
    payload = credentials or {"x-api-key": key or gateway.secret_key}
    async with connect(
        gateway.websocket_url, subprotocols=SUBPROTOCOLS, ping_interval=None, max_size=None, **options
    ) as connection:
        socket = Socket(connection)
        await socket.send({"type": "connection_init", "payload": payload})
        assert await socket.receive() == {"type": "connection_ack"}
        yield socket


@dataclass
class EventSource:
    """A response of server-sent events, read frame by frame."""

    response: aiohttp.ClientResponse

    async def frame(self) -> dict[str, str] | None:
        """The fields of the next frame that has any, None at the end. Raises `aiohttp.ClientError` if it is cut off."""
        while True:
            lines = [line async for line in self._lines()]
            if not lines and self.response.content.at_eof():
                return None
            fields = {name: value for name, _, value in (line.partition(": ") for line in lines) if name.strip(":")}
            if fields:
                return fields

    async def item(self, *, within: float = 5) -> Any:
        """The payload of the next frame that is more than a position."""
        async with asyncio.timeout(within):
            while (frame := await self.frame()) is not None:
                if frame.get("event") == "next":
                    return json.loads(frame["data"])
        raise AssertionError("the stream ended")

    async def ended(self, *, within: float = 5) -> None:
        """Everything up to the end of the response is read."""
        async with asyncio.timeout(within):
            while await self.frame() is not None:
                pass

    async def _lines(self) -> AsyncIterator[str]:
        """Those of one frame, without their ends."""
        while line := (await self.response.content.readline()).decode().rstrip("\r\n"):
            yield line


@asynccontextmanager
async def open_event_source(
    gateway: Gateway,
    document: str,
    *,
    key: str = "",
    credentials: dict[str, str] | None = None,
    last_event_id: str | None = None,
    **variables: Any,
) -> AsyncIterator[EventSource]:
    """Distinct connections mode. With a key, the secret one by default, or with other credentials."""
    headers = {"accept": "text/event-stream", **(credentials or {"x-api-key": key or gateway.secret_key})}
    if last_event_id is not None:
        headers["last-event-id"] = last_event_id
    timeout = aiohttp.ClientTimeout(total=60)
    async with (
        aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
        session.post(gateway.url, json={"query": document, "variables": variables}) as response,
    ):
        yield EventSource(response)
