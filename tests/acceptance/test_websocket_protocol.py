"""`graphql-transport-ws`, rule by rule, over real sockets: what a client sends, and what it gets or is closed with."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.acceptance.socket_client import (
    INIT,
    close_of,
    complete_of,
    initialised,
    next_of,
    open_socket,
    receive,
    send,
    subscribe,
)
from tests.acceptance.streaming import KEY, OTHER_KEY, MemoryApplication, Server, eventually, started
from transport.execution.service import GraphQLService
from transport.origins import read_origins
from transport.websocket.endpoint import WebSocketEndpoint, WebSocketPolicy

NESTED = json.loads("[" * 500 + "]" * 500)


@pytest.fixture
def application() -> MemoryApplication:
    return MemoryApplication()


def endpoint(application: MemoryApplication, **policy: Any) -> WebSocketEndpoint:
    return WebSocketEndpoint(GraphQLService(application), application, WebSocketPolicy(**policy))


@pytest.fixture
async def server(application: MemoryApplication) -> AsyncIterator[Server]:
    async with started(endpoint(application), application) as server:
        yield server


JSON = "A message must be well-formed JSON, and not nested too deep"
OBJECT = "A message must be a JSON object"
TYPE = "A message must have a 'type' that is a string"
FINITE = "The '{}' of a message must be well-formed JSON, its numbers finite"
PAYLOAD = "The 'payload' of a '{}' message must be an object, null or absent"
IDENTIFIER = "A '{}' message must have an 'id' that is a non-empty string"
SUBSCRIBE = "The 'payload' of a 'subscribe' message must be an object"
QUERY = "The 'query' of a 'subscribe' message must be a string"
MEMBER = "The '{}' of a 'subscribe' message must be {}, null or absent"


def raw_subscribe(**members: Any) -> dict[str, Any]:
    return {"type": "subscribe", **members}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        # not a JSON object
        ("", JSON),
        ("hello", JSON),
        ("[]", OBJECT),
        ("null", OBJECT),
        ("1", OBJECT),
        ('"ping"', OBJECT),
        ('{"type":"ping"} {}', JSON),
        ("[" * 20_000, OBJECT),
        ('{"a":' * 20_000, JSON),
        # type
        ({}, TYPE),
        ({"type": None}, TYPE),
        ({"type": 1}, TYPE),
        ('{"type":' + "9" * 5000 + "}", FINITE.format("type")),
        ({"type": "start"}, "Unknown message type 'start'"),
        ({"type": "é" * 4000}, "Unknown message type '" + "é" * 40 + "'"),
        ({"type": "connection_ack"}, "A 'connection_ack' message is the server's to send"),
        ({"type": "next", "id": "1", "payload": {}}, "A 'next' message is the server's to send"),
        ({"type": "error", "id": "1", "payload": []}, "A 'error' message is the server's to send"),
        # payloads of connection_init, ping and pong
        ({"type": "connection_init", "payload": []}, PAYLOAD.format("connection_init")),
        ({"type": "connection_init", "payload": "a"}, PAYLOAD.format("connection_init")),
        ({"type": "ping", "payload": 1}, PAYLOAD.format("ping")),
        ({"type": "pong", "payload": True}, PAYLOAD.format("pong")),
        ('{"type":"ping","payload":{"n":1e999}}', FINITE.format("payload")),
        # ids
        (raw_subscribe(id="", payload={"query": "{hello}"}), IDENTIFIER.format("subscribe")),
        (raw_subscribe(payload={"query": "{hello}"}), IDENTIFIER.format("subscribe")),
        (raw_subscribe(id=1, payload={"query": "{hello}"}), IDENTIFIER.format("subscribe")),
        (raw_subscribe(id={}, payload={"query": "{hello}"}), IDENTIFIER.format("subscribe")),
        ({"type": "complete"}, IDENTIFIER.format("complete")),
        ({"type": "complete", "id": None}, IDENTIFIER.format("complete")),
        ({"type": "complete", "id": ""}, IDENTIFIER.format("complete")),
        # a lone surrogate could not be sent back
        ('{"type":"complete","id":"\\ud800"}', JSON),
        # payload of subscribe
        (raw_subscribe(id="1"), SUBSCRIBE),
        (raw_subscribe(id="1", payload=None), SUBSCRIBE),
        (raw_subscribe(id="1", payload=["{hello}"]), SUBSCRIBE),
        (raw_subscribe(id="1", payload={}), QUERY),
        (raw_subscribe(id="1", payload={"query": None}), QUERY),
        (raw_subscribe(id="1", payload={"query": {}}), QUERY),
        (raw_subscribe(id="1", payload={"query": "", "variables": []}), MEMBER.format("variables", "an object")),
        (raw_subscribe(id="1", payload={"query": "", "variables": "{}"}), MEMBER.format("variables", "an object")),
        (raw_subscribe(id="1", payload={"query": "", "operationName": 1}), MEMBER.format("operationName", "a string")),
        (raw_subscribe(id="1", payload={"query": "", "extensions": "{}"}), MEMBER.format("extensions", "an object")),
        (b'{"type":"ping"}', "Messages must be text, not binary"),
    ],
)
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
        (
            '{"type":"ping","payload":{"n":123456789012345678901}}',
            '{"type":"pong","payload":{"n":123456789012345678901}}',
        ),
    ],
)
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
        ({"query": "query ($n: String) { hello(name: $n) }", "variables": {"n": NESTED}}, "BAD_USER_INPUT"),
        ({"query": "subscription { decline }"}, "FORBIDDEN"),
        ({"query": 'subscription { log(after: "forged") { value } }'}, "CURSOR_INVALID"),
        ({"extensions": {"persistedQuery": {"version": 1, "sha256Hash": "0" * 64}}}, "PERSISTED_QUERY_NOT_FOUND"),
    ],
)
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
    app = endpoint(application, allowed_origins=read_origins(allowed))
    async with started(app, application) as server:
        headers = {} if origin is None else {"Origin": origin.format(port=server.port)}
        if status == 101:
            async with open_socket(server, additional_headers=headers) as socket:
                await initialised(socket)
        else:
            with pytest.raises(InvalidStatus, match=str(status)):
                await open_socket(server, additional_headers=headers)
