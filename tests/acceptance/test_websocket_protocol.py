"""`graphql-transport-ws`, rule by rule, over real sockets: what a client sends, and what it gets or is closed with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.acceptance.streaming import KEY, OTHER_KEY, MemoryApplication, Server, eventually, started
from transport.execution import GraphQLService
from transport.websocket import WebSocketEndpoint, WebSocketPolicy

SUBPROTOCOLS: Any = ["graphql-transport-ws"]
INIT = {"type": "connection_init", "payload": {"x-api-key": KEY}}


@pytest.fixture
def application() -> MemoryApplication:
    return MemoryApplication()


def endpoint(application: MemoryApplication, **policy: Any) -> WebSocketEndpoint:
    return WebSocketEndpoint(GraphQLService(application), application, WebSocketPolicy(**policy))


@pytest.fixture
async def server(application: MemoryApplication) -> AsyncIterator[Server]:
    async with started(endpoint(application), application) as server:
        yield server


def open_socket(server: Server, **options: Any) -> connect:
    return connect(
        server.websocket_url, **{"subprotocols": SUBPROTOCOLS, "ping_interval": None, "max_size": None, **options}
    )


async def send(socket: ClientConnection, *messages: Any) -> None:
    for message in messages:
        await socket.send(message if isinstance(message, str | bytes) else json.dumps(message))


async def receive(socket: ClientConnection) -> dict[str, Any]:
    """The next message that is not a position."""
    while True:
        message: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), 5))
        if message["type"] != "ping":
            return message


async def close_of(socket: ClientConnection) -> tuple[int, str]:
    """Everything up to the close frame is read; its code and reason."""
    async with asyncio.timeout(8):
        with pytest.raises(ConnectionClosed):
            while True:
                await socket.recv()
    assert socket.close_code is not None
    return socket.close_code, socket.close_reason or ""


async def initialised(socket: ClientConnection, init: Any = INIT) -> ClientConnection:
    await send(socket, init)
    assert await receive(socket) == {"type": "connection_ack"}
    return socket


def subscribe(identifier: str, query: str, **payload: Any) -> dict[str, Any]:
    return {"id": identifier, "type": "subscribe", "payload": {"query": query, **payload}}


def next_of(identifier: str, data: Any) -> dict[str, Any]:
    return {"id": identifier, "type": "next", "payload": {"data": data}}


def complete_of(identifier: str) -> dict[str, Any]:
    return {"id": identifier, "type": "complete"}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        # not a JSON object
        ("", "A message must be well-formed JSON, and not nested too deep"),
        ("hello", "A message must be well-formed JSON, and not nested too deep"),
        ("[]", "A message must be a JSON object"),
        ("null", "A message must be a JSON object"),
        ("1", "A message must be a JSON object"),
        ('"ping"', "A message must be a JSON object"),
        ('{"type":"ping"} {}', "A message must be well-formed JSON, and not nested too deep"),
        ("[" * 20_000, "A message must be a JSON object"),
        ('{"a":' * 20_000, "A message must be well-formed JSON, and not nested too deep"),
        # type
        ({}, "A message must have a 'type' that is a string"),
        ({"type": None}, "A message must have a 'type' that is a string"),
        ({"type": 1}, "A message must have a 'type' that is a string"),
        ('{"type":' + "9" * 5000 + "}", "The 'type' of a message must be well-formed JSON, its numbers finite"),
        ({"type": "start"}, "Unknown message type 'start'"),
        ({"type": "é" * 4000}, "Unknown message type '" + "é" * 40 + "'"),
        ({"type": "connection_ack"}, "A 'connection_ack' message is the server's to send"),
        ({"type": "next", "id": "1", "payload": {}}, "A 'next' message is the server's to send"),
        ({"type": "error", "id": "1", "payload": []}, "A 'error' message is the server's to send"),
        # payloads of connection_init, ping and pong
        ({"type": "connection_init", "payload": []}, "The 'payload' of a 'connection_init' message must be an object, null or absent"),
        ({"type": "connection_init", "payload": "a"}, "The 'payload' of a 'connection_init' message must be an object, null or absent"),
        ({"type": "ping", "payload": 1}, "The 'payload' of a 'ping' message must be an object, null or absent"),
        ({"type": "pong", "payload": True}, "The 'payload' of a 'pong' message must be an object, null or absent"),
        ('{"type":"ping","payload":{"n":1e999}}', "The 'payload' of a message must be well-formed JSON, its numbers finite"),
        # ids
        (subscribe("", "{hello}"), "A 'subscribe' message must have an 'id' that is a non-empty string"),
        ({"type": "subscribe", "payload": {"query": "{hello}"}}, "A 'subscribe' message must have an 'id' that is a non-empty string"),
        ({"type": "subscribe", "id": 1, "payload": {"query": "{hello}"}}, "A 'subscribe' message must have an 'id' that is a non-empty string"),
        ({"type": "subscribe", "id": {}, "payload": {"query": "{hello}"}}, "A 'subscribe' message must have an 'id' that is a non-empty string"),
        ({"type": "complete"}, "A 'complete' message must have an 'id' that is a non-empty string"),
        ({"type": "complete", "id": None}, "A 'complete' message must have an 'id' that is a non-empty string"),
        ({"type": "complete", "id": ""}, "A 'complete' message must have an 'id' that is a non-empty string"),
        # a lone surrogate could not be sent back
        ('{"type":"complete","id":"\\ud800"}', "A message must be well-formed JSON, and not nested too deep"),
        # payload of subscribe
        ({"type": "subscribe", "id": "1"}, "The 'payload' of a 'subscribe' message must be an object"),
        ({"type": "subscribe", "id": "1", "payload": None}, "The 'payload' of a 'subscribe' message must be an object"),
        ({"type": "subscribe", "id": "1", "payload": ["{hello}"]}, "The 'payload' of a 'subscribe' message must be an object"),
        ({"type": "subscribe", "id": "1", "payload": {}}, "The 'query' of a 'subscribe' message must be a string"),
        (subscribe("1", None), "The 'query' of a 'subscribe' message must be a string"),  # type: ignore[arg-type]
        (subscribe("1", {}), "The 'query' of a 'subscribe' message must be a string"),  # type: ignore[arg-type]
        (subscribe("1", "{hello}", variables=[]), "The 'variables' of a 'subscribe' message must be an object, null or absent"),
        (subscribe("1", "{hello}", variables="{}"), "The 'variables' of a 'subscribe' message must be an object, null or absent"),
        (subscribe("1", "{hello}", operationName=1), "The 'operationName' of a 'subscribe' message must be a string, null or absent"),
        (subscribe("1", "{hello}", extensions="{}"), "The 'extensions' of a 'subscribe' message must be an object, null or absent"),
        (b'{"type":"ping"}', "Messages must be text, not binary"),
    ],
)  # fmt: skip
async def test_a_malformed_message_closes_with_4400_and_says_why(server: Server, message: Any, reason: str) -> None:
    async with open_socket(server) as socket:
        await send(socket, message)
        assert await close_of(socket) == (4400, reason.encode()[:123].decode("utf-8", "ignore"))


async def test_a_malformed_message_closes_with_4400_after_the_acknowledgement_too(server: Server) -> None:
    async with open_socket(server) as socket:
        await initialised(socket)
        await send(socket, subscribe("1", "subscription { never }"), "[1]")
        assert (await close_of(socket))[0] == 4400
    await eventually(lambda: server.application.running == 0)


@pytest.mark.parametrize(
    "init",
    [
        {"type": "connection_init"},
        {"type": "connection_init", "payload": None},
        {"type": "connection_init", "payload": {}},
        {"type": "connection_init", "payload": {"x-api-key": KEY, "nested": {"a": [1, 2.5]}}},
        {"type": "connection_init", "unknown": "members are ignored"},
    ],
)
async def test_connection_init_is_acknowledged(server: Server, init: Any) -> None:
    async with open_socket(server) as socket:
        await initialised(socket, init)
    assert server.application.payloads == [init.get("payload")]


async def test_the_key_may_come_as_a_header(server: Server) -> None:
    async with open_socket(server, additional_headers={"X-API-Key": OTHER_KEY}) as socket:
        await initialised(socket, {"type": "connection_init"})
        await send(socket, subscribe("1", "{me}"))
        assert await receive(socket) == next_of("1", {"me": OTHER_KEY})


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        ('{"type":"ping"}', '{"type":"pong"}'),
        ('{"type":"ping","payload":null}', '{"type":"pong"}'),
        ('{"type":"ping","payload":{}}', '{"type":"pong","payload":{}}'),
        ('{"type":"ping","payload":{"a":[1,{"b":"é"}]}}', '{"type":"pong","payload":{"a":[1,{"b":"é"}]}}'),
        # numbers beyond 64 bits come back as they were
        ('{"type":"ping","payload":{"n":123456789012345678901234567890}}', '{"type":"pong","payload":{"n":123456789012345678901234567890}}'),
    ],
)  # fmt: skip
async def test_pong_returns_the_payload_of_the_ping_also_before_init(server: Server, sent: str, answered: str) -> None:
    async with open_socket(server) as socket:
        await socket.send(sent)
        assert await socket.recv() == answered


async def test_an_unsolicited_pong_is_ignored(server: Server) -> None:
    async with open_socket(server) as socket:
        await send(socket, {"type": "pong", "payload": {"a": 1}}, {"type": "pong"})
        await initialised(socket)


async def test_subscribing_before_the_acknowledgement_closes_with_4401(server: Server) -> None:
    server.application.slow_session = 5
    for messages in ([], [INIT]):
        async with open_socket(server) as socket:
            await send(socket, *messages, subscribe("1", "{hello}"))
            assert await close_of(socket) == (4401, "Unauthorized")


async def test_a_second_init_closes_with_4429_while_the_first_is_pending_and_after(server: Server) -> None:
    async with open_socket(server) as socket:
        await initialised(socket)
        await send(socket, INIT)
        assert await close_of(socket) == (4429, "Too many initialisation requests")
    server.application.slow_session = 5
    async with open_socket(server) as socket:
        await send(socket, INIT, INIT)
        assert await close_of(socket) == (4429, "Too many initialisation requests")


async def test_no_init_in_time_closes_with_4408(application: MemoryApplication) -> None:
    app = endpoint(application, init_timeout=timedelta(milliseconds=80))
    async with started(app, application) as server, open_socket(server) as socket:
        await send(socket, {"type": "ping"})
        assert await close_of(socket) == (4408, "Connection initialisation timeout")


async def test_wrong_credentials_close_with_4403(server: Server) -> None:
    async with open_socket(server) as socket:
        await send(socket, {"type": "connection_init", "payload": {"x-api-key": "sk_wrong"}})
        assert await close_of(socket) == (4403, "This API key is not valid.")


async def test_a_database_that_is_away_closes_with_1013_after_which_clients_try_again(server: Server) -> None:
    server.application.unavailable = True
    async with open_socket(server) as socket:
        await send(socket, INIT)
        assert await close_of(socket) == (1013, "The database cannot be reached.")


async def test_a_fault_of_ours_closes_with_4500_and_tells_nothing(server: Server) -> None:
    server.application.broken = True
    async with open_socket(server) as socket:
        await send(socket, INIT)
        assert await close_of(socket) == (4500, "Internal server error")


async def test_an_id_in_use_closes_with_4409_whatever_its_length(server: Server) -> None:
    for identifier in ("1", "é" * 1000):
        async with open_socket(server) as socket:
            await initialised(socket)
            await send(socket, subscribe(identifier, "subscription { never }"), subscribe(identifier, "{hello}"))
            reason = f"Subscriber for {identifier} already exists"
            assert await close_of(socket) == (4409, reason.encode()[:123].decode("utf-8", "ignore"))
    await eventually(lambda: server.application.running == 0)


@pytest.mark.parametrize("subprotocols", [None, ["graphql-ws"], ["graphql-ws", "other"], ["GraphQL-Transport-WS"]])
async def test_another_subprotocol_closes_with_4406(server: Server, subprotocols: Any) -> None:
    async with open_socket(server, subprotocols=subprotocols) as socket:
        assert socket.subprotocol is None
        assert await close_of(socket) == (4406, "Subprotocol not acceptable")


async def test_our_subprotocol_is_chosen_among_several(server: Server) -> None:
    async with open_socket(server, subprotocols=["graphql-ws", "graphql-transport-ws"]) as socket:
        assert socket.subprotocol == "graphql-transport-ws"
        await initialised(socket)


async def test_queries_and_mutations_give_one_result_and_complete(server: Server) -> None:
    async with open_socket(server) as socket:
        await initialised(socket)
        await send(socket, subscribe("q", "query ($n: String) { hello(name: $n) }", variables={"n": 'ß\n"}'}))
        assert [await receive(socket), await receive(socket)] == [
            next_of("q", {"hello": 'hello ß\n"}'}),
            complete_of("q"),
        ]
        await send(socket, subscribe("m", 'mutation { append(value: "a") }'))
        assert [await receive(socket), await receive(socket)] == [next_of("m", {"append": 1}), complete_of("m")]
    assert server.application.log.items == ["a"]


async def test_an_id_is_free_again_once_its_operation_has_ended(server: Server) -> None:
    async with open_socket(server) as socket:
        await initialised(socket)
        for _ in range(3):
            await send(socket, subscribe("same", "{hello}"))
            assert [await receive(socket), await receive(socket)] == [
                next_of("same", {"hello": "hello world"}),
                complete_of("same"),
            ]
        await send(
            socket, subscribe("same", "subscription { never }"), complete_of("same"), subscribe("same", "{hello}")
        )
        assert await receive(socket) == next_of("same", {"hello": "hello world"})


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ({"query": "{"}, "GRAPHQL_PARSE_FAILED"),
        ({"query": ""}, "GRAPHQL_PARSE_FAILED"),
        ({"query": "{ " + "nothing" * 3000 + " }"}, "GRAPHQL_VALIDATION_FAILED"),
        ({"query": "{ nothing }"}, "GRAPHQL_VALIDATION_FAILED"),
        ({"query": "query A {hello} query B {hello}"}, "BAD_USER_INPUT"),
        ({"query": "query A {hello}", "operationName": "B"}, "BAD_USER_INPUT"),
        ({"query": "query ($n: Int!) { wait(ms: $n) }", "variables": {"n": "x"}}, "BAD_USER_INPUT"),
        ({"query": "query ($n: Int!) { wait(ms: $n) }", "variables": None}, "BAD_USER_INPUT"),
        ({"query": "query ($n: Int!) { wait(ms: $n) }", "variables": {"n": 10**30}}, "BAD_USER_INPUT"),
        ({"query": "query ($n: String) { hello(name: $n) }", "variables": {"n": "\0"}}, "BAD_USER_INPUT"),
        ({"query": "query ($n: String) { hello(name: $n) }", "variables": json.loads('{"n":' + "[" * 500 + "]" * 500 + "}")}, "BAD_USER_INPUT"),
        ({"query": "subscription { decline }"}, "FORBIDDEN"),
        ({"query": 'subscription { log(after: "forged") { value } }'}, "CURSOR_INVALID"),
        ({"extensions": {"persistedQuery": {"version": 1, "sha256Hash": "0" * 64}}}, "PERSISTED_QUERY_NOT_FOUND"),
    ],
)  # fmt: skip
async def test_an_operations_own_fault_is_an_error_for_its_id_and_leaves_the_others_alone(
    server: Server, payload: dict[str, Any], code: str
) -> None:
    async with open_socket(server) as socket:
        await initialised(socket)
        await send(socket, subscribe("other", "subscription { log { value } }"))
        await eventually(lambda: len(server.application.log.members) == 1)
        await send(socket, {"id": "bad", "type": "subscribe", "payload": payload})
        message = await receive(socket)
        assert (message["id"], message["type"], set(message)) == ("bad", "error", {"id", "type", "payload"})
        assert message["payload"][0]["extensions"]["code"] == code
        server.application.log.append("still there")
        assert await receive(socket) == next_of("other", {"log": {"value": "still there"}})
        await send(socket, subscribe("bad", "{hello}"))
        assert await receive(socket) == next_of("bad", {"hello": "hello world"})


async def test_errors_of_resolvers_are_in_the_result_and_masked(server: Server) -> None:
    async with open_socket(server) as socket:
        await initialised(socket)
        await send(socket, subscribe("1", "{ hello crash refuse }"))
        result = (await receive(socket))["payload"]
        assert result["data"] == {"hello": "hello world", "crash": None, "refuse": None}
        assert {(error["message"], error["extensions"]["code"]) for error in result["errors"]} == {
            ("Internal error.", "INTERNAL"),
            ("This key may not read that.", "FORBIDDEN"),
        }
        assert await receive(socket) == complete_of("1")


async def test_an_ordinary_source_is_followed_to_its_end(server: Server) -> None:
    async with open_socket(server) as socket:
        await initialised(socket)
        await send(socket, subscribe("1", "subscription { count(to: 3) }"))
        assert [await receive(socket) for _ in range(4)] == [
            *(next_of("1", {"count": number}) for number in "123"),
            complete_of("1"),
        ]
    assert server.application.running == 0


async def test_a_source_that_raises_ends_with_a_masked_error(server: Server) -> None:
    async with open_socket(server) as socket:
        await initialised(socket)
        await send(socket, subscribe("1", "subscription { explode(after: 1) }"))
        assert await receive(socket) == next_of("1", {"explode": 1})
        failure = await receive(socket)
        assert failure["type"] == "next"
        assert [(error["message"], error["extensions"]["code"]) for error in failure["payload"]["errors"]] == [
            ("Internal error.", "INTERNAL")
        ]
        assert await receive(socket) == complete_of("1")


async def test_complete_from_the_client_stops_an_operation_without_a_word(server: Server) -> None:
    async with open_socket(server) as socket:
        await initialised(socket)
        queries = ["subscription { never }", "{ wait(ms: 60000) }", "subscription { log { value } }"]
        await send(socket, *(subscribe(str(number), query) for number, query in enumerate(queries)))
        await eventually(lambda: server.application.running == 2 and len(server.application.log.members) == 1)
        await send(socket, *(complete_of(str(number)) for number in range(4)), complete_of("unknown"))
        await eventually(lambda: server.application.running == 0 and not server.application.log.members)
        server.application.log.append("for nobody")
        await send(socket, {"type": "ping", "payload": {"last": 1}})
        assert await receive(socket) == {"type": "pong", "payload": {"last": 1}}


async def test_a_mutation_that_has_begun_is_finished_although_nobody_waits(server: Server) -> None:
    mutation = 'mutation { a: appendSlowly(value: "a", ms: 60) b: appendSlowly(value: "b", ms: 60) }'
    async with open_socket(server) as socket:
        await initialised(socket)
        await send(socket, subscribe("1", mutation))
        await asyncio.sleep(0.03)
        await send(socket, complete_of("1"))
        await eventually(lambda: server.application.log.items == ["a", "b"])
        await send(socket, {"type": "ping"})
        assert await receive(socket) == {"type": "pong"}
        await send(socket, subscribe("2", mutation))
        await asyncio.sleep(0.03)
    await eventually(lambda: server.application.log.items == ["a", "b", "a", "b"])


async def test_operations_interleave(server: Server) -> None:
    async with open_socket(server) as socket:
        await initialised(socket)
        await send(socket, subscribe("slow", "{ wait(ms: 100) }"), subscribe("quick", "{ hello }"))
        assert [(await receive(socket))["id"] for _ in range(4)] == ["quick", "quick", "slow", "slow"]


async def test_everything_is_stopped_when_the_socket_drops(server: Server) -> None:
    async with open_socket(server) as socket:
        await initialised(socket)
        await send(
            socket,
            *(subscribe(f"n{number}", "subscription { never }") for number in range(3)),
            *(subscribe(f"l{number}", "subscription { log { value } }") for number in range(3)),
            subscribe("q", "{ wait(ms: 60000) }"),
        )
        await eventually(lambda: server.application.running == 4 and len(server.application.log.members) == 3)
        socket.transport.abort()
    await eventually(lambda: server.application.running == 0 and not server.application.log.members)
    assert server.application.sessions[0].callbacks == []


async def test_a_persisted_query_runs_over_the_socket(server: Server) -> None:
    import hashlib

    query = "{ hello }"
    extensions = {"persistedQuery": {"version": 1, "sha256Hash": hashlib.sha256(query.encode()).hexdigest()}}
    async with open_socket(server) as socket:
        await initialised(socket)
        await send(socket, {"id": "1", "type": "subscribe", "payload": {"extensions": extensions}})
        assert (await receive(socket))["payload"][0]["extensions"]["code"] == "PERSISTED_QUERY_NOT_FOUND"
        await send(socket, subscribe("2", query, extensions=extensions))
        assert [(await receive(socket))["type"] for _ in range(2)] == ["next", "complete"]
        await send(socket, {"id": "3", "type": "subscribe", "payload": {"extensions": extensions}})
        assert await receive(socket) == next_of("3", {"hello": "hello world"})


@pytest.mark.parametrize(
    ("origin", "allowed", "status"),
    [
        (None, "", 101),
        ("http://127.0.0.1:{port}", "", 101),
        ("https://127.0.0.1:{port}", "", 101),  # TLS ended before us
        ("http://127.0.0.1", "", 403),
        ("https://evil.example", "", 403),
        ("null", "", 403),
        ("https://127.0.0.1:{port}.evil.example", "", 403),
        ("http://[::1", "", 403),
        ("https://app.example", "https://app.example, https://other.example", 101),
        ("https://APP.example", "https://app.example/", 101),
        ("https://app.example:444", "https://app.example", 403),
        ("https://evil.example", "*", 101),
    ],
)
async def test_a_foreign_page_is_refused_unless_it_is_named(
    application: MemoryApplication, origin: str | None, allowed: str, status: int
) -> None:
    from transport.origins import read_origins

    app = endpoint(application, allowed_origins=read_origins(allowed))
    async with started(app, application) as server:
        headers = {} if origin is None else {"Origin": origin.format(port=server.port)}
        try:
            async with open_socket(server, additional_headers=headers) as socket:
                await initialised(socket)
        except InvalidStatus as refused:
            assert refused.response.status_code == status
        else:
            assert status == 101
