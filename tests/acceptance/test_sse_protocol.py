"""GraphQL over server-sent events, rule by rule: what is sent, byte by byte, in both modes."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import aiohttp
import pytest

from tests.acceptance.streaming import KEY, OTHER_KEY, MemoryApplication, Server, eventually, graphql_endpoint, started
from transport.sse.reservations import ReservationPolicy
from transport.sse.streams import StreamPolicy

STREAM = {"accept": "text/event-stream"}
LIVE = "subscription { log { value } }"
URQL = (
    "application/graphql-response+json, application/graphql+json, application/json, text/event-stream, multipart/mixed"
)
QUICK = timedelta(milliseconds=100)


@pytest.fixture
def application() -> MemoryApplication:
    return MemoryApplication()


@pytest.fixture
async def server(application: MemoryApplication) -> AsyncIterator[Server]:
    async with started(graphql_endpoint(application), application) as server:
        yield server


@pytest.fixture
async def pinging(application: MemoryApplication) -> AsyncIterator[Server]:
    """A server that sends keep-alives every 100 ms."""
    app = graphql_endpoint(application, streams=StreamPolicy(keep_alive=QUICK))
    async with started(app, application) as server:
        yield server


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        headers={"x-api-key": KEY}, timeout=aiohttp.ClientTimeout(20), auto_decompress=False, read_bufsize=2**20
    ) as client:
        yield client


class Events:
    """A response, event by event: whatever stands between two empty lines."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> str:
        """The next event that is no bare comment."""
        while True:
            event = await asyncio.wait_for(self.response.content.readuntil(b"\n\n"), 5)
            if event != b":\n\n":
                return event.decode()

    async def rest(self) -> str:
        return (await asyncio.wait_for(self.response.content.read(), 5)).decode()


@asynccontextmanager
async def subscribed(
    client: aiohttp.ClientSession, server: Server, query: str, *, headers: dict[str, str] | None = None, **body: Any
) -> AsyncIterator[Events]:
    async with client.post(
        server.url, json={"query": query, **body}, headers={**STREAM, **(headers or {})}
    ) as response:
        assert response.status == 200
        yield Events(response)


def without_request_ids(events: str) -> str:
    return re.sub(r',"requestId":"[0-9a-f]{32}"', "", events)


def connections(server: Server) -> int:
    return len(server.uvicorn.server_state.connections)


NEXT = "event: next\ndata: {}\n\n"
COMPLETE = "event: complete\ndata: \n\n"


# Distinct connections


async def test_a_subscription_is_a_stream_of_next_and_complete_parted_by_lf_lf(
    server: Server, client: aiohttp.ClientSession
) -> None:
    async with client.post(server.url, json={"query": "subscription { count(to: 2) }"}, headers=STREAM) as response:
        assert response.status == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert "no-cache" in response.headers["cache-control"]
        assert "content-encoding" not in response.headers
        assert (await response.read()).decode() == (
            ":\n\n" + NEXT.format('{"data":{"count":"1"}}') + NEXT.format('{"data":{"count":"2"}}') + COMPLETE
        )


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ({"query": "{hello}"}, '{"data":{"hello":"hello world"}}'),
        ({"query": '{hello(name: "\\n\\r")}'}, '{"data":{"hello":"hello \\n\\r"}}'),
        ({"query": 'mutation { append(value: "x") }'}, '{"data":{"append":1}}'),
    ],
)  # fmt: skip
async def test_queries_and_mutations_are_next_and_complete(
    server: Server, client: aiohttp.ClientSession, body: Any, result: str
) -> None:
    async with client.post(server.url, json=body, headers=STREAM) as response:
        assert (await response.text()) == ":\n\n" + NEXT.format(result) + COMPLETE


async def test_get_takes_its_request_from_the_url(server: Server, client: aiohttp.ClientSession) -> None:
    parameters = {
        "query": "query A($n: String) {hello(name: $n)} query B {me}",
        "operationName": "A",
        "variables": '{"n":"x"}',
    }
    async with client.get(server.url, params=parameters, headers=STREAM) as response:
        assert (await response.text()) == ":\n\n" + NEXT.format('{"data":{"hello":"hello x"}}') + COMPLETE


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"query": "{"}, "GRAPHQL_PARSE_FAILED"),
        ({"query": "{nothing}"}, "GRAPHQL_VALIDATION_FAILED"),
        ({"query": "query A {hello} query B {hello}"}, "BAD_USER_INPUT"),
        ({"query": "subscription { decline }"}, "FORBIDDEN"),
        ({"query": 'subscription { log(after: "forged") { value } }'}, "CURSOR_INVALID"),
    ],
)
async def test_errors_before_the_first_result_are_a_next_event_too(
    server: Server, client: aiohttp.ClientSession, body: Any, code: str
) -> None:
    async with client.post(server.url, json=body, headers=STREAM) as response:
        assert response.status == 200
        comment, event, complete, nothing = (await response.text()).split("\n\n")
        assert (comment, complete, nothing) == (":", COMPLETE.strip("\n"), "")
        kind, data = event.split("\n")
        assert kind == "event: next"
        result = json.loads(data.removeprefix("data: "))
        assert set(result) == {"errors"}
        assert result["errors"][0]["extensions"]["code"] == code


async def test_a_source_that_raises_ends_with_a_masked_error_and_complete(
    server: Server, client: aiohttp.ClientSession
) -> None:
    async with subscribed(client, server, "subscription { explode(after: 1) }") as events:
        assert await events.next() == NEXT.format('{"data":{"explode":1}}')
        failure = json.loads((await events.next()).split("data: ")[1])
        assert [(error["message"], error["extensions"]["code"]) for error in failure["errors"]] == [
            ("Internal error.", "INTERNAL")
        ]
        assert await events.rest() == COMPLETE


async def test_items_of_a_live_stream_carry_their_cursor_and_the_position_comes_first(
    server: Server, client: aiohttp.ClientSession
) -> None:
    server.application.log.append("before")
    async with subscribed(client, server, LIVE) as events:
        assert await events.next() == "id: c1\n\n"
        server.application.log.append("a")
        assert await events.next() == 'id: c2\nevent: next\ndata: {"data":{"log":{"value":"a"}}}\n\n'


async def test_last_event_id_is_where_a_live_stream_goes_on(server: Server, client: aiohttp.ClientSession) -> None:
    for value in "abc":
        server.application.log.append(value)
    query = 'subscription { log(after: "c0") { value } }'
    async with subscribed(client, server, query, headers={"Last-Event-ID": "c2"}) as events:
        assert await events.next() == "id: c2\n\n"
        assert await events.next() == 'id: c3\nevent: next\ndata: {"data":{"log":{"value":"c"}}}\n\n'
    async with subscribed(client, server, "subscription { count(to: 1) }", headers={"Last-Event-ID": "c2"}) as events:
        assert await events.rest() == ":\n\n" + NEXT.format('{"data":{"count":"1"}}') + COMPLETE


async def test_keep_alives_are_positions_of_live_streams_and_comments_of_others(
    pinging: Server, client: aiohttp.ClientSession
) -> None:
    async with subscribed(client, pinging, 'subscription { log(prefix: "none") { value } }') as events:
        assert await events.next() == "id: c0\n\n"
        pinging.application.log.append("for somebody else")
        assert await events.next() == "id: c1\n\n"
    async with subscribed(client, pinging, "subscription { never }") as events:
        assert await asyncio.wait_for(events.response.content.readexactly(9), 5) == b":\n\n" * 3


async def test_a_client_that_leaves_stops_its_operation(server: Server, client: aiohttp.ClientSession) -> None:
    async with subscribed(client, server, "subscription { never }"), subscribed(client, server, LIVE):
        await eventually(lambda: server.application.running == 1 and len(server.application.log.members) == 1)
    await eventually(lambda: server.application.running == 0 and not server.application.log.members)
    assert all(not session.callbacks for session in server.application.sessions)


async def test_a_revoked_key_ends_its_streams_with_unauthenticated(
    server: Server, client: aiohttp.ClientSession
) -> None:
    async with (
        subscribed(client, server, LIVE) as mine,
        subscribed(client, server, LIVE, headers={"x-api-key": OTHER_KEY}) as other,
    ):
        assert [await mine.next(), await other.next()] == ["id: c0\n\n", "id: c0\n\n"]
        server.application.revoke(KEY)
        server.application.log.append("after")
        revoked = '{"errors":[{"message":"This API key has been revoked.","extensions":{"code":"UNAUTHENTICATED"}}]}'
        assert without_request_ids(await mine.rest()) == NEXT.format(revoked) + COMPLETE
        assert await other.next() == 'id: c1\nevent: next\ndata: {"data":{"log":{"value":"after"}}}\n\n'


@pytest.mark.parametrize(
    ("method", "options", "status"),
    [
        ("GET", {}, 400),  # no query
        ("GET", {"params": {"query": ""}}, 400),
        ("GET", {"params": {"query": 'mutation { append(value: "x") }'}}, 405),
        ("GET", {"params": {"query": "{hello}"}, "headers": {"x-api-key": "wrong"}}, 401),
        ("GET", {"params": {"query": "{hello}"}, "headers": {"sec-fetch-site": "cross-site"}}, 200),  # preflighted
        ("POST", {"json": {}}, 400),
        ("POST", {"json": []}, 400),
        ("POST", {"data": b"{", "headers": {"content-type": "application/json"}}, 400),
        ("POST", {"data": b'{"query":"{hello}"}', "headers": {"content-type": "text/plain"}}, 415),
        ("POST", {"data": b'{"query":"{hello}"}'}, 415),
        ("POST", {"json": {"query": "{hello}"}, "headers": {"x-api-key": "wrong"}}, 401),
        ("POST", {"data": io.BytesIO(b"#" * 3_000_000), "headers": {"content-type": "application/json"}}, 413),
        ("PATCH", {"json": {"query": "{hello}"}}, 405),
    ],
)  # fmt: skip
async def test_what_is_no_request_is_refused_with_its_status(
    server: Server, client: aiohttp.ClientSession, method: str, options: dict[str, Any], status: int
) -> None:
    options["headers"] = {**STREAM, **options.get("headers", {})}
    async with client.request(method, server.url, **options) as response:
        assert response.status == status
        assert (response.content_type == "application/json") is (status != 200)
    assert server.application.log.items == []


async def test_another_site_cannot_start_a_stream_without_a_preflight(server: Server) -> None:
    headers = {**STREAM, "sec-fetch-site": "cross-site"}
    async with (
        aiohttp.ClientSession() as browser,
        browser.get(server.url, params={"query": LIVE}, headers=headers) as response,
    ):
        assert response.status == 403


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("text/event-stream", "text/event-stream"),
        ("text/event-stream, application/json", "text/event-stream"),
        ("application/json, text/event-stream", "application/json"),
        (URQL, "application/graphql-response+json"),
        ("text/event-stream;q=0, */*", "application/json"),
        ("text/event-stream;q=0.5, application/json;q=0.4", "text/event-stream"),
        ("*/*", "application/json"),
    ],
)  # fmt: skip
async def test_a_stream_is_sent_only_to_those_who_like_it_best(
    server: Server, client: aiohttp.ClientSession, accept: str, content_type: str
) -> None:
    async with client.post(server.url, json={"query": "{hello}"}, headers={"accept": accept}) as response:
        assert (response.status, response.content_type) == (200, content_type)


async def test_a_slow_reader_gets_everything_once_and_in_order_from_a_bounded_buffer(server: Server) -> None:
    log = server.application.log
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
    body = json.dumps({"query": LIVE}).encode()
    writer.write(
        b"POST /graphql HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )
    await eventually(lambda: len(log.members) == 1)
    for number in range(1000):
        log.append(f"{number}:".ljust(20_000, "."))
        await asyncio.sleep(0)
    assert not log.members, "it has left the live feed"
    log.append("end")
    received = bytearray()
    while b'"end"' not in received[-200:]:
        piece = await asyncio.wait_for(reader.read(65536), 5)
        assert piece
        received += piece
    numbers = [int(piece.split(b":")[0]) for piece in bytes(received).split(b'{"log":{"value":"')[1:-1]]
    assert numbers == list(range(1000))
    writer.close()
    await eventually(lambda: connections(server) == 0)


async def test_an_ordinary_source_does_not_run_ahead_of_its_reader(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
    body = json.dumps({"query": "subscription { count(to: 2000, width: 20000) }"}).encode()
    writer.write(
        b"POST /graphql HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )
    await asyncio.sleep(0.5)
    assert server.application.running == 1, "40 MB would be far more than all buffers together hold"
    writer.transport.abort()
    await eventually(lambda: server.application.running == 0)
    assert len(await reader.read()) < 20_000_000


async def test_a_client_that_never_reads_is_dropped(pinging: Server) -> None:
    log = pinging.application.log
    for query in (LIVE, "subscription { count(to: 2000, width: 20000) }"):
        body = json.dumps({"query": query}).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", pinging.port, limit=1024)
        try:
            writer.write(
                b"POST /graphql HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
            )
            await eventually(lambda: connections(pinging) == 1)
            for _ in range(1000):
                log.append("x" * 20_000)
                await asyncio.sleep(0)
            await eventually(lambda: connections(pinging) == 0)
            await eventually(lambda: not log.members and log.catching_up == 0)
            await eventually(lambda: pinging.application.running == 0)
        finally:
            writer.transport.abort()


async def test_a_server_that_stops_breaks_streams_off_without_complete(application: MemoryApplication) -> None:
    async with (
        started(graphql_endpoint(application), application) as server,
        aiohttp.ClientSession() as client,
        subscribed(client, server, LIVE) as events,
    ):
        assert await events.next() == "id: c0\n\n"
        began = asyncio.get_running_loop().time()
        server.stop()
        with pytest.raises(aiohttp.ClientPayloadError):
            await events.rest()
        await eventually(lambda: connections(server) == 0)
        assert asyncio.get_running_loop().time() - began < 2
        assert not application.log.members


# Single connection


async def reserve(client: aiohttp.ClientSession, server: Server, **headers: str) -> str:
    async with client.put(server.url, headers=headers) as response:
        assert response.status == 201
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        token = await response.text()
        assert len(token) == 43
        return token


@asynccontextmanager
async def opened(client: aiohttp.ClientSession, server: Server, token: str) -> AsyncIterator[Events]:
    headers = {**STREAM, "x-graphql-event-stream-token": token}
    async with client.get(server.url, headers=headers) as response:
        assert response.status == 200
        yield Events(response)


async def submit(
    client: aiohttp.ClientSession, server: Server, token: str, operation_id: Any, query: str, **headers: str
) -> int:
    headers = {"x-graphql-event-stream-token": token, **headers}
    body = {"query": query, "extensions": {"operationId": operation_id}}
    async with client.post(server.url, json=body, headers=headers) as response:
        if response.status == 202:
            assert await response.read() == b""
        else:
            assert response.content_type == "application/json"
            assert (await response.json())["errors"][0]["extensions"]["code"]
        return response.status


async def cancel(client: aiohttp.ClientSession, server: Server, token: str, **parameters: str) -> int:
    async with client.delete(
        server.url, params=parameters, headers={"x-graphql-event-stream-token": token}
    ) as response:
        return response.status


async def test_operations_share_one_response_and_are_told_apart_by_their_id(
    server: Server, client: aiohttp.ClientSession
) -> None:
    token = await reserve(client, server)
    async with opened(client, server, token) as events:
        assert await submit(client, server, token, "live", LIVE) == 202
        assert await events.next() == ': {"live":"c0"}\n\n'
        assert await submit(client, server, token, 'q"1', "{hello}") == 202
        assert await events.next() == NEXT.format('{"id":"q\\"1","payload":{"data":{"hello":"hello world"}}}')
        assert await events.next() == 'event: complete\ndata: {"id":"q\\"1"}\n\n'
        assert await submit(client, server, token, "m", 'mutation { append(value: "a") }') == 202
        received = {await events.next() for _ in range(3)}
        assert received == {
            'id: c1\nevent: next\ndata: {"id":"live","payload":{"data":{"log":{"value":"a"}}}}\n\n',
            NEXT.format('{"id":"m","payload":{"data":{"append":1}}}'),
            'event: complete\ndata: {"id":"m"}\n\n',
        }
        assert await cancel(client, server, token, operationId="live") == 200
        assert not server.application.log.members
        assert await submit(client, server, token, "live", "subscription { count(to: 1) }") == 202
        assert await events.next() == NEXT.format('{"id":"live","payload":{"data":{"count":"1"}}}')
        assert await events.next() == 'event: complete\ndata: {"id":"live"}\n\n'


async def test_results_wait_in_the_reservation_until_it_is_opened(
    server: Server, client: aiohttp.ClientSession
) -> None:
    token = await reserve(client, server)
    assert await submit(client, server, token, "1", "{hello}") == 202
    async with opened(client, server, token) as events:
        assert await events.next() == NEXT.format('{"id":"1","payload":{"data":{"hello":"hello world"}}}')


async def test_an_operation_goes_on_after_last_event_id(server: Server, client: aiohttp.ClientSession) -> None:
    for value in "abc":
        server.application.log.append(value)
    token = await reserve(client, server)
    async with opened(client, server, token) as events:
        assert await submit(client, server, token, "1", LIVE, **{"Last-Event-ID": "c2"}) == 202
        assert await events.next() == ': {"1":"c2"}\n\n'
        assert (
            await events.next() == 'id: c3\nevent: next\ndata: {"id":"1","payload":{"data":{"log":{"value":"c"}}}}\n\n'
        )


async def test_keep_alives_of_a_shared_response_name_every_position(
    pinging: Server, client: aiohttp.ClientSession
) -> None:
    token = await reserve(client, pinging)
    async with opened(client, pinging, token) as events:
        for number in "12":
            assert await submit(client, pinging, token, number, 'subscription { log(prefix: "none") { value } }') == 202
        pinging.application.log.append("for somebody else")
        while (event := await events.next()) != ': {"1":"c1","2":"c1"}\n\n':
            assert event in (
                ': {"1":"c0"}\n\n',
                ': {"2":"c0"}\n\n',
                ': {"1":"c0","2":"c0"}\n\n',
                ': {"1":"c0","2":"c1"}\n\n',
            )


@pytest.mark.parametrize("accept", ["*/*", "text/plain", "text/*", "application/json, text/plain;q=0.1"])
async def test_put_is_accepted_with(server: Server, client: aiohttp.ClientSession, accept: str) -> None:
    assert await reserve(client, server, accept=accept)


@pytest.mark.parametrize("accept", ["application/json", "text/plain;q=0, */*", "text/event-stream"])
async def test_put_is_not_acceptable_with(server: Server, client: aiohttp.ClientSession, accept: str) -> None:
    async with client.put(server.url, headers={"accept": accept}) as response:
        assert response.status == 406


async def test_put_with_a_wrong_key_is_401(server: Server, client: aiohttp.ClientSession) -> None:
    async with client.put(server.url, headers={"x-api-key": "wrong"}) as response:
        assert response.status == 401


async def test_put_with_a_token_in_use_gives_another(server: Server, client: aiohttp.ClientSession) -> None:
    token = await reserve(client, server)
    async with opened(client, server, token):
        assert await reserve(client, server, **{"x-graphql-event-stream-token": token}) != token
        assert await submit(client, server, token, "1", "{hello}") == 202


async def test_only_one_response_fulfils_a_reservation_at_a_time(server: Server, client: aiohttp.ClientSession) -> None:
    token = await reserve(client, server)
    async with (
        opened(client, server, token),
        client.get(server.url, params={"token": token}, headers=STREAM) as second,
    ):
        assert second.status == 409
    await eventually(lambda: all(not session.callbacks for session in server.application.sessions))
    assert await submit(client, server, token, "1", "{hello}") == 404, "it is gone with its response"


async def test_the_token_may_be_in_the_url_and_opens_without_credentials(
    server: Server, client: aiohttp.ClientSession
) -> None:
    token = await reserve(client, server)
    assert await submit(client, server, token, "1", "{me}") == 202
    async with (
        aiohttp.ClientSession() as browser,
        browser.get(server.url, params={"token": token}, headers=STREAM) as response,
    ):
        assert await Events(response).next() == NEXT.format(f'{{"id":"1","payload":{{"data":{{"me":"{KEY}"}}}}}}')


async def test_a_token_is_of_no_use_with_other_credentials_or_none(
    server: Server, client: aiohttp.ClientSession
) -> None:
    token = await reserve(client, server)
    for headers in ({"x-api-key": OTHER_KEY}, {}):
        async with aiohttp.ClientSession(headers=headers) as stranger:
            assert await submit(stranger, server, token, "1", "{me}") == 404
            assert await cancel(stranger, server, token, operationId="1") == 404
    async with client.get(server.url, headers={**STREAM, "x-api-key": OTHER_KEY}, params={"token": token}) as response:
        assert response.status == 404


@pytest.mark.parametrize(
    ("operation_id", "query", "status"),
    [
        (None, "{hello}", 400),
        ("", "{hello}", 400),
        (1, "{hello}", 400),
        ("1", "{", 400),
        ("1", "{nothing}", 400),
        ("taken", "{hello}", 409),
    ],
)
async def test_a_request_that_starts_nothing_is_refused_and_leaves_the_response_alone(
    server: Server, client: aiohttp.ClientSession, operation_id: Any, query: str, status: int
) -> None:
    token = await reserve(client, server)
    async with opened(client, server, token) as events:
        assert await submit(client, server, token, "taken", "subscription { never }") == 202
        assert await submit(client, server, token, operation_id, query) == status
        assert await submit(client, server, token, "good", "{hello}") == 202
        assert await events.next() == NEXT.format('{"id":"good","payload":{"data":{"hello":"hello world"}}}')


async def test_a_mutation_by_get_is_refused_with_a_token_too(server: Server, client: aiohttp.ClientSession) -> None:
    token = await reserve(client, server)
    parameters = {
        "token": token,
        "query": 'mutation { append(value: "x") }',
        "extensions": '{"operationId":"1"}',
    }
    async with client.get(server.url, params=parameters) as response:
        assert (response.status, response.headers["allow"]) == (405, "POST")
    assert server.application.log.items == []


async def test_delete_needs_an_operation_id_and_forgives_an_unknown_one(
    server: Server, client: aiohttp.ClientSession
) -> None:
    token = await reserve(client, server)
    assert await cancel(client, server, token) == 400
    assert await cancel(client, server, token, operationId="unknown") == 200
    assert await cancel(client, server, "no-such-token", operationId="1") == 404


async def test_reservations_that_are_not_used_lapse_and_are_bounded(application: MemoryApplication) -> None:
    policy = StreamPolicy(reservations=ReservationPolicy(unused_for=QUICK, max_unused_per_holder=3))
    async with (
        started(graphql_endpoint(application, streams=policy), application) as server,
        aiohttp.ClientSession(headers={"x-api-key": KEY}) as client,
    ):
        first, *_ = [await reserve(client, server) for _ in range(3)]
        assert await submit(client, server, first, "1", "subscription { never }") == 202
        async with client.put(server.url) as response:
            assert (response.status, response.headers["retry-after"]) == (429, "1")
            assert (await response.json())["errors"][0]["extensions"]["retryAfterMs"] == 1_000
        assert await reserve(client, server, **{"x-api-key": OTHER_KEY}), "others are not affected"
        await eventually(lambda: application.running == 0)
        assert await submit(client, server, first, "1", "{hello}") == 404
        async with opened(client, server, await reserve(client, server)):
            await asyncio.sleep(2 * QUICK.total_seconds())
            assert connections(server) > 0, "an open one does not lapse"
    assert all(not session.callbacks for session in application.sessions)


async def test_opened_responses_count_for_the_key_or_else_for_the_address_that_reserved_them(
    application: MemoryApplication,
) -> None:
    policy = StreamPolicy(reservations=ReservationPolicy(max_per_holder=2))

    def client(number: int, **headers: str) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(local_addr=(f"127.0.0.{number}", 0))
        return aiohttp.ClientSession(headers=headers, connector=connector, timeout=aiohttp.ClientTimeout(10))

    async with (
        started(graphql_endpoint(application, streams=policy), application) as server,
        client(1) as nobody,
        client(2) as neighbour,
        client(1, **{"x-api-key": KEY}) as customer,
        client(2, **{"x-api-key": KEY}) as colleague,
    ):
        for one, same in ((nobody, nobody), (customer, colleague)):
            first = await reserve(one, server)
            async with opened(one, server, first), opened(same, server, await reserve(same, server)):
                async with same.put(server.url) as response:
                    assert (response.status, response.headers["retry-after"]) == (429, "1")
                    assert (await response.json())["errors"][0]["extensions"]["code"] == "RATE_LIMITED"
                invented = {"authorization": "Bearer invented"}
                async with same.put(server.url, headers=invented) as response:
                    assert response.status == 429, "what nobody has checked makes nobody another"
                assert await reserve(neighbour, server), "others are not affected"
            watched = application.sessions[-5:]
            await eventually(lambda of=tuple(watched): sum(bool(one.callbacks) for one in of) == 1)  # the neighbour's
            assert await reserve(one, server), "a response that has ended gives its place back"


async def test_a_revoked_key_ends_a_shared_response_and_each_operation_in_it(
    server: Server, client: aiohttp.ClientSession
) -> None:
    token = await reserve(client, server)
    unopened = await reserve(client, server)
    async with opened(client, server, token) as events:
        assert await submit(client, server, token, "1", "subscription { never }") == 202
        server.application.revoke(KEY)
        revoked = '{"errors":[{"message":"This API key has been revoked.","extensions":{"code":"UNAUTHENTICATED"}}]}'
        assert without_request_ids(await events.rest()).removeprefix(":\n\n") == (
            NEXT.format('{"id":"1","payload":' + revoked + "}") + 'event: complete\ndata: {"id":"1"}\n\n'
        )
    await eventually(lambda: server.application.running == 0)
    assert await submit(client, server, unopened, "1", "{hello}") == 404
