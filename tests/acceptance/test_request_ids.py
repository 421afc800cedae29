"""The id of a request in its header, its errors and its log lines, over every transport; and its trace."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import pytest

from telemetry import configure_logging
from tests.acceptance.socket_client import initialised, open_socket, receive, send, subscribe
from tests.acceptance.streaming import KEY, MemoryApplication, Server, graphql_endpoint, started
from transport.request_ids import RequestTrace

MADE = re.compile(r"[0-9a-f]{32}")
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
STREAM = {"accept": "text/event-stream"}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    application = MemoryApplication()
    async with started(graphql_endpoint(application), application) as server:
        yield server


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"x-api-key": KEY}, timeout=aiohttp.ClientTimeout(10)) as client:
        yield client


Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def logged() -> Iterator[Lines]:
    """The lines logged so far, as machines read them."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure_logging("warning", machine_readable=True)
    written = io.StringIO()
    for handler in root.handlers:
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(written)
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)


async def ask(client: aiohttp.ClientSession, server: Server, query: str, **headers: str) -> tuple[str, Any]:
    """The id in the header, and the response."""
    async with client.post(server.url, json={"query": query}, headers=headers) as response:
        return response.headers["x-request-id"], json.loads(await response.read())


def ids_of(response: Any) -> list[str]:
    return [error["extensions"]["requestId"] for error in response["errors"]]


@pytest.mark.parametrize("given", ["a", "req_0.1:2/3+4=5@6-7", "0af7651916cd43dd8448eb211c80319c", "x" * 128])
async def test_an_id_that_comes_with_a_request_is_answered(
    server: Server, client: aiohttp.ClientSession, given: str
) -> None:
    assert await ask(client, server, "{ hello }", **{"X-Request-Id": given}) == (
        given,
        {"data": {"hello": "hello world"}},
    )
    header, response = await ask(client, server, "{ nothing }", **{"X-Request-Id": given})
    assert (header, ids_of(response)) == (given, [given])


@pytest.mark.parametrize(
    "given",
    [
        "",
        "x" * 129,
        "two words",
        '"quoted"',
        "<script>",
        "ä",
        # as if it were two headers
        "a, b",
        "-begins-with-no-letter",
    ],
)
async def test_an_id_that_is_malformed_is_replaced(server: Server, client: aiohttp.ClientSession, given: str) -> None:
    header, response = await ask(client, server, "{ nothing }", **{"X-Request-Id": given})

    assert MADE.fullmatch(header)
    assert ids_of(response) == [header]


async def test_every_request_without_one_gets_its_own(server: Server, client: aiohttp.ClientSession) -> None:
    headers = {(await ask(client, server, "{ hello }"))[0] for _ in range(20)}

    assert len(headers) == 20
    assert all(MADE.fullmatch(header) for header in headers)


async def test_what_is_no_graphql_request_is_answered_under_its_id_too(
    server: Server, client: aiohttp.ClientSession
) -> None:
    named = {"X-Request-Id": "r1"}
    async with client.post(server.url, data=b"[", headers={"content-type": "application/json", **named}) as response:
        assert (response.status, response.headers["x-request-id"]) == (400, "r1")
        assert ids_of(json.loads(await response.read())) == ["r1"]
    async with client.delete(server.url, headers=named) as response:
        assert (response.status, response.headers["x-request-id"]) == (404, "r1")
        assert ids_of(json.loads(await response.read())) == ["r1"]


async def test_a_masked_error_is_logged_under_the_id_and_the_trace_of_its_request(
    server: Server, client: aiohttp.ClientSession, logged: Lines
) -> None:
    header, response = await ask(client, server, "{ crash }", traceparent=TRACEPARENT)

    [line] = logged()
    assert {header} == {response["errors"][0]["extensions"]["id"], *ids_of(response), line["error_id"]}
    assert (line["event"], line["request_id"], line["trace_id"]) == ("internal_error", header, TRACE_ID)


async def test_what_a_request_left_running_does_not_log_under_its_id_once_it_is_over(
    server: Server, client: aiohttp.ClientSession, logged: Lines
) -> None:
    released = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def outlives() -> None:
        logging.getLogger("test").warning("during")
        await released.wait()
        logging.getLogger("test").warning("afterwards")

    async def start(*_: object) -> str:
        tasks.append(asyncio.create_task(outlives()))
        await asyncio.sleep(0)
        return "started"

    server.application.schema.query_type.fields["me"].resolve = start  # type: ignore[union-attr]
    header, response = await ask(client, server, "{ me }")
    assert response == {"data": {"me": "started"}}
    released.set()
    await tasks[0]

    during, afterwards = logged()
    assert (during["event"], during["request_id"]) == ("during", header)
    assert afterwards["event"] == "afterwards"
    assert "request_id" not in afterwards


async def test_each_operation_on_a_websocket_has_the_id_of_its_socket_and_a_number(server: Server) -> None:
    async with open_socket(server, additional_headers={"X-Request-Id": "sock"}) as socket:
        await initialised(socket)
        found = {}
        for identifier, query in [("a", "{ nothing }"), ("b", "{ crash }"), ("c", "subscription { decline }")]:
            await send(socket, subscribe(identifier, query))
            message = await receive(socket)
            errors = message["payload"] if message["type"] == "error" else message["payload"]["errors"]
            found[identifier] = [error["extensions"]["requestId"] for error in errors]
            if message["type"] == "next":
                assert (await receive(socket))["type"] == "complete"
    assert found == {"a": ["sock.1"], "b": ["sock.2"], "c": ["sock.3"]}


async def test_a_stream_that_fails_says_so_under_the_id_of_its_operation(server: Server, logged: Lines) -> None:
    headers = {"X-Request-Id": "sock", "traceparent": TRACEPARENT}
    async with open_socket(server, additional_headers=headers) as socket:
        await initialised(socket)
        await send(socket, subscribe("1", "subscription { explode(after: 1) }"))
        assert (await receive(socket))["payload"] == {"data": {"explode": 1}}
        [error] = (await receive(socket))["payload"]["errors"]

    assert error["extensions"] == {"code": "INTERNAL", "id": "sock.1", "requestId": "sock.1"}
    [line] = logged()
    assert (line["request_id"], line["error_id"], line["trace_id"]) == ("sock.1", "sock.1", TRACE_ID)


async def test_an_event_stream_has_one_in_its_head_and_in_its_errors(
    server: Server, client: aiohttp.ClientSession
) -> None:
    async with client.post(
        server.url, json={"query": "subscription { decline }"}, headers={**STREAM, "X-Request-Id": "sse-1"}
    ) as response:
        assert response.headers["x-request-id"] == "sse-1"
        assert '"requestId":"sse-1"' in await response.text()


async def test_an_operation_of_a_shared_event_stream_has_that_of_the_request_that_began_it(
    server: Server, client: aiohttp.ClientSession
) -> None:
    async with client.put(server.url, headers={"X-Request-Id": "reserve"}) as response:
        assert response.headers["x-request-id"] == "reserve"
        token = {"x-graphql-event-stream-token": await response.text()}
    async with client.get(server.url, headers={**STREAM, **token, "X-Request-Id": "open"}) as events:
        assert events.headers["x-request-id"] == "open"
        body = {"query": "subscription { decline }", "extensions": {"operationId": "1"}}
        async with client.post(server.url, json=body, headers={**token, "X-Request-Id": "submit"}) as response:
            assert (response.status, response.headers["x-request-id"]) == (202, "submit")
        await events.content.readuntil(b"\n\n")
        assert b'"requestId":"submit"' in await events.content.readuntil(b"\n\n")


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        (TRACEPARENT, TRACE_ID),
        # a version to come, with more at its end
        (f"01-{TRACE_ID}-00f067aa0ba902b7-01-what-comes", TRACE_ID),
        (None, None),
        (f"ff-{TRACE_ID}-00f067aa0ba902b7-01", None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE_ID}-{'0' * 16}-01", None),
        (f"00-{TRACE_ID.upper()}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE_ID}-00f067aa0ba902b7", None),
        (f"{TRACEPARENT}, {TRACEPARENT}", None),
    ],
)
def test_a_traceparent_is_read_as_w3c_says(traceparent: str | None, trace_id: str | None) -> None:
    assert RequestTrace(None, traceparent).trace_id == trace_id
