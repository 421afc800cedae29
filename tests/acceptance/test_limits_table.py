"""Every row of the table in docs/limits.md, met: what is within passes, what is beyond is refused as the row says.

The numbers are the table's. What can be met on a running gateway in no time is met there, over the wire; where that
would take ten thousand sockets, or a minute, the row is held to the product's own default, and the bound is met over
the wire with a smaller one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import msgspec
import orjson
import pytest

import engine.log
from app import GatewaySession
from engine import members, rate_limits, trusted_documents
from engine.accounts import passwords
from engine.analytics import live, pool
from engine.analytics.pool import AnalyticsPool
from engine.erasure import exporting
from engine.errors import GatewayError, RateLimited
from engine.identity import Role
from engine.live.streams import MAX_STREAMS_PER_PROJECT
from engine.reading import PROJECT_READS, Readers
from settings import Settings
from tests.acceptance.gateway_client import TRACK, TRACK_BATCH, Gateway, open_socket
from tests.acceptance.http_server import Response, exchange, get, post, query, read_response
from tests.acceptance.socket_client import close_of, initialised, receive, send, subscribe
from tests.acceptance.socket_client import open_socket as open_raw_socket
from tests.acceptance.streaming import KEY, OTHER_KEY, MemoryApplication, Server, eventually, graphql_endpoint, started
from tests.integration.graphql_support import Tenant, open_gateway
from transport.execution.limits import Limits
from transport.execution.service import GraphQLRequest
from transport.execution.turns import LARGE_BODY_BYTES
from transport.http.server import BODY_TIMEOUT, HEAD_TIMEOUT, STALL_TIMEOUT, HTTPProtocol
from transport.sse.reservations import ReservationPolicy
from transport.sse.streams import StreamPolicy
from transport.websocket.endpoint import REPLY_BOUND_BYTES, WebSocketPolicy
from transport.websocket.server import HIGH_WATER_BYTES

TABLE = Path(__file__).parents[2] / "docs" / "limits.md"
UNITS = {"KiB": 1024, "MiB": 1024 * 1024}
VIEWER = "{ viewer { role } }"
SHORT = timedelta(milliseconds=100)


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    what: str
    limit: str
    setting: str
    answer: str

    @property
    def numbers(self) -> list[int]:
        """All numbers of the limit, in bytes where they are."""
        found = re.findall(r"([0-9][0-9,]*)( KiB| MiB)?", self.limit)
        return [int(number.replace(",", "")) * UNITS.get(unit.strip(), 1) for number, unit in found]

    @property
    def number(self) -> int:
        return self.numbers[0]

    @property
    def status(self) -> int | None:
        """HTTP status or close code, where the row names one."""
        found = re.match(r"[0-9]+", self.answer)
        return int(found[0]) if found else None

    @property
    def code(self) -> str | None:
        found = re.search(r"`([A-Z_]+)`", self.answer)
        return found[1] if found else None

    def check(self, error: Any, number: int | None = None) -> None:
        """Fail unless an error has the row's code and says what the limit is."""
        if "extensions" in error:
            assert error["extensions"]["code"] == self.code, error
        else:
            assert error["code"] == self.code, error
        self.check_words(error["message"], number)

    def check_words(self, message: str, number: int | None = None) -> None:
        number = self.number if number is None else number
        assert str(number) in message.replace(",", ""), (number, message)

    def check_answer(self, answer: Response, number: int | None = None) -> None:
        """Fail unless a response refuses as the row says."""
        if self.status is not None:
            assert answer.status == self.status, answer
        if self.code is None:
            self.check_words(answer.body.decode(), number)
        else:
            assert "data" not in answer.json or answer.json["data"] is None
            self.check(answer.json["errors"][0], number)  # type: ignore[index]


def read_table() -> dict[str, Row]:
    lines = TABLE.read_text().partition("## The table")[2].splitlines()
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("| ")]
    return {row[0]: Row(*row) for row in cells[2:]}


ROWS = read_table()


@dataclass
class Stage:
    """Where a row is met."""

    row: Row
    gateway: Gateway

    async def refused(self, document: str, **options: Any) -> None:
        """Fail unless the gateway refuses this document as the row says."""
        self.row.check_answer(await self.gateway.ask(document, **options))

    async def taken(self, document: str, **options: Any) -> None:
        """Fail if the gateway does not run this document, or find no more wrong with it than a field."""
        answer = (await self.gateway.ask(document, **options)).json
        errors: Any = answer.get("errors", [])
        assert not [each for each in errors if each["extensions"]["code"] == self.row.code], errors


TESTS: dict[str, Callable[[Stage], Awaitable[None]]] = {}
Test = Callable[[Stage], Awaitable[None]]


def row(what: str) -> Callable[[Test], Test]:
    def register(test: Test) -> Test:
        TESTS[what] = test
        return test

    return register


def test_every_row_has_a_test_and_every_test_a_row() -> None:
    assert list(TESTS) == list(ROWS)


@pytest.mark.parametrize("what", ROWS)
async def test_a_limit_is_met(gateway: Gateway, what: str) -> None:
    await TESTS[what](Stage(ROWS[what], gateway))


def test_settings_are_those_of_the_table() -> None:
    fields = {f"SENDORA_{name.upper()}": field.default for name, field in Settings.model_fields.items()}

    assert {each.setting.strip("`"): each.number for each in ROWS.values() if each.setting} == {
        name: fields[name] for name in ("SENDORA_MAX_OPERATION_COST", "SENDORA_COST_LIMIT", "SENDORA_COST_RESTORE")
    }


# Bytes and time


class HastyProtocol(HTTPProtocol):
    head_timeout = 0.3
    stall_timeout = 0.3
    body_timeout = 0.6


@asynccontextmanager
async def small_server(
    protocol: type[HTTPProtocol] = HTTPProtocol,
    *,
    limits: Limits | None = None,
    streams: StreamPolicy | None = None,
    **websocket: Any,
) -> AsyncIterator[Server]:
    """All transports over a small schema, with bounds that can be met."""
    application = MemoryApplication()
    endpoint = graphql_endpoint(application, streams=streams, websocket=WebSocketPolicy(**websocket), limits=limits)
    async with started(endpoint, application, http=protocol) as server:
        yield server


async def answer_to(port: int, *pieces: bytes, pause: float = 0) -> Response:
    """What comes back when these are sent one after the other, and then nothing more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def write() -> None:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause)

    writing = asyncio.create_task(write())
    try:
        return await asyncio.wait_for(read_response(reader), 5)
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        writer.close()


def cut(request: bytes) -> tuple[bytes, bytes]:
    """The head of a request, and its body."""
    end = request.index(b"\r\n\r\n") + 4
    return request[:end], request[end:]


@row("request line and headers")
async def _(stage: Stage) -> None:
    stage.row.check_answer(await stage.gateway.send(query(VIEWER), f"x-long: {'x' * stage.row.number}"))
    assert (await stage.gateway.send(query(VIEWER), f"x-long: {'x' * (stage.row.number - 2_000)}")).status == 200


@row("time for the headers")
async def _(stage: Stage) -> None:
    assert stage.row.number == HEAD_TIMEOUT
    async with small_server(HastyProtocol) as server:
        answer = await answer_to(server.port, b"POST /graphql HTTP/1.1\r\nHost: a\r\n")
    assert (answer.status, answer.body) == (stage.row.status, b"The headers must arrive within 0.3 seconds.")


@row("time between two pieces of a body")
async def _(stage: Stage) -> None:
    assert stage.row.number == STALL_TIMEOUT
    head, body = cut(post(query("{ hello }")))
    async with small_server(HastyProtocol) as server:
        answer = await answer_to(server.port, head, body[:5])
    message = b"A body must arrive within 0.6 seconds, and pause for no more than 0.3."
    assert (answer.status, answer.body) == (stage.row.status, message)


@row("time for a whole body")
async def _(stage: Stage) -> None:
    assert stage.row.number == BODY_TIMEOUT
    head, body = cut(post(query("{ hello }", variables={"x": "x" * 100})))
    async with small_server(HastyProtocol) as server:
        answer = await answer_to(server.port, head, *(bytes([byte]) for byte in body), pause=0.05)
    assert answer.status == stage.row.status
    assert b"0.6 seconds" in answer.body


@row("body")
async def _(stage: Stage) -> None:
    body = query(VIEWER, variables={})
    filled = body[:-1] + b" " * (stage.row.number - len(body)) + body[-1:]
    assert (await stage.gateway.send(filled)).status == 200
    stage.row.check_answer(await stage.gateway.send(filled + b" "))


@row("parameters of a URL")
async def _(stage: Stage) -> None:
    key = stage.gateway.key_lines("")
    parameters = "query={__typename}" + "".join(f"&p{number}=" for number in range(stage.row.number - 1))
    assert (await exchange(stage.gateway.port, get(parameters, *key))).status == 200
    stage.row.check_answer(await exchange(stage.gateway.port, get(parameters + "&more=", *key)))


@row("operations in one request")
async def _(stage: Stage) -> None:
    answer = await stage.gateway.send(b"[" + query(VIEWER) + b"," + query(VIEWER) + b"]")
    assert answer.json["errors"][0]["message"] == "Batches are not supported: send one request at a time."  # type: ignore[index]
    assert (answer.status, answer.code) == (stage.row.status, stage.row.code)


@row("nesting of JSON in a request")
async def _(stage: Stage) -> None:
    def nested(levels: int) -> bytes:
        return query(VIEWER)[:-1] + b',"variables":{"a":' + b"[" * levels + b"]" * levels + b"}}"

    assert (await stage.gateway.send(nested(stage.row.number - 2))).status == 200
    stage.row.check_answer(await stage.gateway.send(nested(stage.row.number - 1)))


@row("arrays and objects in a request")
async def _(stage: Stage) -> None:
    def holding(count: int) -> bytes:
        return query(VIEWER)[:-1] + b',"variables":{"a":[' + b",".join([b"[]"] * count) + b"]}}"

    assert (await stage.gateway.send(holding(stage.row.number - 10))).status == 200
    stage.row.check_answer(await stage.gateway.send(holding(stage.row.number + 1)))


@row("numbers")
async def _(stage: Stage) -> None:
    def number(text: str) -> bytes:
        return query(VIEWER)[:-1] + b',"variables":{"a":' + text.encode() + b"}}"

    bits, _ = stage.row.numbers
    assert (await stage.gateway.send(number(str(2 ** (bits - 1) - 1)))).status == 200
    stage.row.check_answer(await stage.gateway.send(number(str(2**bits))))
    stage.row.check_answer(await stage.gateway.send(number("0." + "1" * 64)))


# Documents


@row("characters of a document")
async def _(stage: Stage) -> None:
    await stage.taken(VIEWER + " " * (stage.row.number - len(VIEWER)))
    await stage.refused(VIEWER + " " * (stage.row.number - len(VIEWER) + 1))


@row("tokens of a document")
async def _(stage: Stage) -> None:
    def document(tokens: int) -> str:
        return '{ nodes(ids: ["' + '" "'.join("a" * (tokens - 12)) + '"]) { id } }'

    await stage.refused(document(stage.row.number + 10))
    answer = await stage.gateway.ask(document(stage.row.number - 10))
    assert b"tokens" not in answer.body


@row("operations in a document")
async def _(stage: Stage) -> None:
    def document(operations: int) -> bytes:
        return query(" ".join(f"query Q{n} {VIEWER}" for n in range(operations)), operationName="Q0")

    assert "data" in (await stage.gateway.send(document(stage.row.number))).json
    stage.row.check_answer(await stage.gateway.send(document(stage.row.number + 1)))


@row("depth")
async def _(stage: Stage) -> None:
    def nested(levels: int) -> str:
        return (
            "{ __schema { types { fields { type { "
            + "ofType { " * (levels - 5)
            + "name"
            + " }" * (levels - 5)
            + "}}}}}"
        )

    await stage.taken(nested(stage.row.number))
    await stage.refused(nested(stage.row.number + 1))


@row("aliases")
async def _(stage: Stage) -> None:
    def document(aliases: int) -> str:
        return "{" + " ".join(f"a{number}: __typename" for number in range(aliases)) + "}"

    await stage.taken(document(stage.row.number))
    await stage.refused(document(stage.row.number + 1))


@row("repeats of one name in one place")
async def _(stage: Stage) -> None:
    await stage.taken("{" + "__typename " * stage.row.number + "}")
    await stage.refused("{" + "__typename " * (stage.row.number + 1) + "}")


def selecting(fields: int) -> str:
    """An operation of that many fields: 100 in a fragment that is spread, the rest one by one."""
    spreads, rest = divmod(fields - 2, 100)
    inner = "role " * 50 + "scopes " * 50
    wrapped = "".join(f"a{number}: viewer {{ ...F }} " for number in range(spreads))
    return (
        "{"
        + wrapped
        + "viewer { "
        + "role " * (rest // 2)
        + "scopes " * (rest - rest // 2)
        + "} } fragment F on Viewer { "
        + inner
        + "}"
    )


@row("fields of an operation, with every fragment spread replaced by its fragment")
async def _(stage: Stage) -> None:
    beyond = selecting(stage.row.number + 50)
    await stage.refused(beyond)
    await stage.taken(selecting(stage.row.number - 30))


@row("fields of all definitions of a document")
async def _(stage: Stage) -> None:
    def document(fragments: int) -> str:
        """Each fragment spreads the first, of 900 fields; nothing selects them."""
        inner = "".join(f"... on Viewer {{ {'role ' * 45} }} " for _ in range(20))
        spreading = "".join(f"fragment F{n} on Viewer {{ ...F }} " for n in range(fragments))
        return VIEWER + " fragment F on Viewer { " + inner + "} " + spreading

    assert (
        stage.row.number
        == 10 * ROWS["fields of an operation, with every fragment spread replaced by its fragment"].number
    )
    answer = await stage.gateway.ask(document(stage.row.number // 900 + 1))
    stage.row.check_answer(answer)
    assert "All definitions together" in str(answer.json)


@row("directives in one place")
async def _(stage: Stage) -> None:
    await stage.refused("{ viewer { role " + "@include(if: true) " * (stage.row.number + 1) + "} }")
    answer = await stage.gateway.ask("{ viewer { role " + "@include(if: true) " * stage.row.number + "} }")
    assert answer.code != stage.row.code  # it may stand there once, validation says


@row("directives in a document")
async def _(stage: Stage) -> None:
    def document(directives: int) -> str:
        return (
            "{ viewer { " + "role @include(if: true) " * (directives - 10) + "scopes @include(if: true) " * 10 + "} }"
        )

    await stage.taken(document(stage.row.number))
    await stage.refused(document(stage.row.number + 1))


# Cost


def two_pages(first: int, second: int) -> str:
    """An operation of 202 points and 100 for each of these."""
    page = "profiles(first: 100) {{ edges {{ node {{ timeline(first: {}) {{ edges {{ cursor }} }} }} }} }}"
    return f"{{ a: {page.format(first)} b: {page.format(second)} }}"


@row("cost of an operation")
async def _(stage: Stage) -> None:
    page = stage.row.number // 100 // 2
    within = two_pages(page - 1, page - 2)
    await stage.taken(within, key="")
    answer = await stage.gateway.ask(two_pages(page - 1, page))
    stage.row.check_answer(answer)
    assert f"100 × (1 + timeline {page} × 1)" in str(answer.json)


async def spent(stage: Stage) -> tuple[str, Response]:
    """A key whose bucket is empty, and the answer that said so. What is refused for its role costs in full."""
    key = (await stage.gateway.make_key("INGEST"))[1]
    document = two_pages(98, 98)
    for _ in range(200):
        answers = await asyncio.gather(*(stage.gateway.ask(document, key=key) for _ in range(10)))
        refused = [answer for answer in answers if answer.status == stage.row.status]
        if refused:
            return key, refused[-1]
    raise AssertionError("the bucket has no end")


@row("points in a bucket")
async def _(stage: Stage) -> None:
    assert stage.row.number == rate_limits.LIMIT
    key, answer = await spent(stage)
    stage.row.check_answer(answer)
    error: Any = answer.json["errors"][0]  # type: ignore[index]
    assert int(answer.headers["retry-after"]) == 1
    assert error["extensions"]["cost"]["requested"] == 19_802
    assert error["extensions"]["cost"]["actual"] == 0
    async with open_socket(stage.gateway, key) as socket:
        await socket.subscribe("1", two_pages(98, 98))
        message = await socket.receive()
    assert (message["type"], message["payload"][0]["extensions"]["code"]) == ("error", stage.row.code)
    async with aiohttp.ClientSession(headers={"x-api-key": key}) as client:
        async with client.put(stage.gateway.url) as reserved:
            token = {"x-graphql-event-stream-token": await reserved.text()}
        body = {"query": two_pages(98, 98), "extensions": {"operationId": "1"}}
        async with client.post(stage.gateway.url, json=body, headers=token) as refused:
            [told] = (await refused.json())["errors"]
            assert (refused.status, told["extensions"]["code"]) == (stage.row.status, stage.row.code)
            assert int(refused.headers["retry-after"]) == -(-told["extensions"]["retryAfterMs"] // 1_000)


@row("points that come back")
async def _(stage: Stage) -> None:
    assert stage.row.number == rate_limits.RESTORE_RATE
    key, answer = await spent(stage)
    stage.row.check_answer(answer)
    error: Any = answer.json["errors"][0]  # type: ignore[index]
    await asyncio.sleep(error["extensions"]["retryAfterMs"] / 1000 + 0.2)
    again = await stage.gateway.ask(two_pages(98, 98), key=key)
    assert again.code == "FORBIDDEN"


@row("time for a query or mutation")
async def _(stage: Stage) -> None:
    assert timedelta(seconds=stage.row.number) == Limits().execution_time
    async with small_server(limits=Limits(execution_time=SHORT)) as server:
        answer = await exchange(server.port, post(query("{ wait(ms: 60000) }")))
    assert (answer.status, answer.code) == (stage.row.status, stage.row.code)
    assert "0.1 seconds" in str(answer.json)


@row("time for a subscription to begin")
async def _(stage: Stage) -> None:
    assert timedelta(seconds=stage.row.number) == Limits().subscribe_time
    async with small_server(limits=Limits(subscribe_time=SHORT)) as server, open_raw_socket(server) as socket:
        await initialised(socket)
        await send(socket, subscribe("1", "subscription { late }"))
        [error] = (await receive(socket))["payload"]
    assert error["extensions"]["code"] == stage.row.code
    assert "0.1 seconds" in error["message"]


async def store(stage: Stage, count: int) -> str:
    """The type of so many new events."""
    event_type = f"limits.stored_{uuid4().hex}"
    for start in range(0, count, 1_000):
        events = [{"eventType": event_type}] * min(1_000, count - start)
        await stage.gateway.data(TRACK_BATCH, events=events)
    return event_type


@row("page")
async def _(stage: Stage) -> None:
    longest, usual = stage.row.numbers
    event_type = await store(stage, longest + 20)
    for arguments, expected in ((f"first: {longest + 20}", longest), (f"first: {longest}", longest), ("", usual)):
        chosen = f'filter: {{ eventTypes: ["{event_type}"] }} {arguments}'
        answer = await stage.gateway.data(f"{{ events({chosen}) {{ edges {{ cursor }} }} }}")
        assert len(answer["events"]["edges"]) == expected


@row("`totalCount`")
async def _(stage: Stage) -> None:
    event_type = await store(stage, stage.row.number + 1)
    answer = await stage.gateway.data(f'{{ events(filter: {{ eventTypes: ["{event_type}"] }}) {{ totalCount }} }}')
    assert answer == {"events": {"totalCount": stage.row.number}}


# What is open


@row("operations on one WebSocket")
async def _(stage: Stage) -> None:
    async with open_socket(stage.gateway) as socket:
        for number in range(stage.row.number + 1):
            await socket.subscribe(str(number), "subscription { eventStream { cursor } }")
        message = await socket.receive()
    assert (message["type"], message["id"]) == ("error", str(stage.row.number))
    stage.row.check(message["payload"][0])


PUT = f"PUT /graphql HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nx-api-key: {KEY}\r\n\r\n".encode()


@asynccontextmanager
async def shared_stream(port: int) -> AsyncIterator[Callable[[str, str], Awaitable[Response]]]:
    """A reserved event stream; what it gives starts an operation on it."""
    token = (await exchange(port, PUT)).body.decode()

    async def start(identifier: str, document: str) -> Response:
        body = query(document, extensions={"operationId": identifier})
        return await exchange(port, post(body, f"x-api-key: {KEY}", f"x-graphql-event-stream-token: {token}"))

    yield start


@row("operations in one shared event stream")
async def _(stage: Stage) -> None:
    assert StreamPolicy().max_operations == stage.row.number
    async with small_server() as server, shared_stream(server.port) as start:
        for number in range(stage.row.number):
            assert (await start(str(number), "subscription { never }")).status == 202
        stage.row.check_answer(await start("more", "subscription { never }"))


@row("new documents, requests over 64 KiB and introspection that wait for their turn, here")
async def _(stage: Stage) -> None:
    assert (Limits().waiting, LARGE_BODY_BYTES) == (stage.row.number, 64 * 1024)
    long = [query("{" + f"a{number}: hello " + "hello " * 49 + "}") for number in range(20)]
    async with small_server(limits=Limits(waiting=3)) as server:
        answers = await asyncio.gather(*(exchange(server.port, post(each)) for each in long))
        refused = [answer for answer in answers if answer.status != 200]
        assert refused
        for answer in refused:
            stage.row.check_answer(answer, 3)
            assert answer.headers["retry-after"] == "1"
        assert (await exchange(server.port, post(long[0]))).status == 200


@row("open streams of a key or session, here")
async def _(stage: Stage) -> None:
    assert Limits().streams_per_holder == stage.row.number
    async with small_server(limits=Limits(streams_per_holder=3)) as server, AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(open_raw_socket(server)) for _ in range(2)]
        for socket in sockets:
            await initialised(socket)
            await send(socket, subscribe("1", "subscription { log { value } }"))
        await send(sockets[0], subscribe("2", "subscription { never }"), subscribe("3", "subscription { never }"))
        message = await receive(sockets[0])
        assert message["type"] == "error"
        stage.row.check(message["payload"][0], 3)
        # what has ended gives its place back
        await send(sockets[1], {"id": "1", "type": "complete"}, subscribe("2", "subscription { count(to: 1) }"))
        assert (await receive(sockets[1]))["payload"] == {"data": {"count": "1"}}


# Within one process, beside the running gateway


@asynccontextmanager
async def beside(stage: Stage) -> AsyncIterator[Tenant]:
    """A tenant of another gateway, in this process, on the running one's PostgreSQL and Redis."""
    keys = stage.gateway.running.keys
    async with open_gateway(keys["databaseUrl"], keys["redisUrl"]) as gateway:
        yield await gateway.tenant(f"limits {uuid4().hex}")


async def opened(tenant: Tenant, document: str, **variables: Any) -> AsyncGenerator[bytes]:
    """A subscription that is no live source."""
    service = tenant.gateway.service
    session = GatewaySession(tenant.gateway.services, tenant.gateway.revocations, tenant.viewer)
    request = GraphQLRequest(query=document, variables=msgspec.Raw(orjson.dumps(variables)))
    prepared = await service.prepare(request, session)
    assert not isinstance(prepared, list), prepared
    source = await service.subscribe(prepared, session)
    assert isinstance(source, AsyncGenerator), source
    return source


def shown(error: GatewayError) -> dict[str, Any]:
    """As the client sees it."""
    return {"message": str(error), "extensions": error.extensions()}


@row("open streams of a project, here")
async def _(stage: Stage) -> None:
    assert stage.row.number == MAX_STREAMS_PER_PROJECT
    async with beside(stage) as tenant:
        tenant.gateway.services.streams._max_streams = 2
        document = "subscription { eventStream { cursor } }"
        first, _ = [await tenant.follow(document) for _ in range(2)]
        with pytest.raises(RateLimited) as refusal:
            await tenant.follow(document)
        stage.row.check(shown(refusal.value), 2)
        assert first.membership is not None
        first.membership.leave()
        await tenant.follow(document)


@row("followed funnels of a project, here")
async def _(stage: Stage) -> None:
    assert stage.row.number == live.MAX_FUNNELS
    document = """subscription ($type: String!) {
      funnelUpdates(input: { period: "P1D", steps: [{ eventType: $type }, { eventType: "b" }] }) { completed }
    }"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "MAX_FUNNELS", 1)
        async with beside(stage) as tenant, AsyncExitStack() as stack:
            followed = await opened(tenant, document, type="a")
            stack.push_async_callback(followed.aclose)
            await anext(followed)
            another = await opened(tenant, document, type="c")
            [error] = orjson.loads(await anext(another))["errors"]
    stage.row.check(error, 1)


async def check_turns(stage: Stage, kind: type[Readers | AnalyticsPool], at_once: int) -> None:
    """As many as may read and wait do so; one more is refused."""
    release = asyncio.Event()
    async with beside(stage) as tenant:
        readers = kind(tenant.gateway.services.database)
        project_id = uuid4()

        async def read() -> None:
            async with readers.connection(project_id):
                await release.wait()

        reading = [asyncio.create_task(read()) for _ in range(at_once + stage.row.number)]
        await asyncio.sleep(0)
        with pytest.raises(RateLimited) as refusal:
            async with readers.connection(project_id):
                raise AssertionError("it did not wait")
        release.set()
        await asyncio.gather(*reading)
    stage.row.check(shown(refusal.value))


@row("lists of a project that wait for their turn, here")
async def _(stage: Stage) -> None:
    await check_turns(stage, Readers, PROJECT_READS)


@row("questions of a project that wait for their turn, here")
async def _(stage: Stage) -> None:
    await check_turns(stage, AnalyticsPool, pool.PROJECT_QUESTIONS)


@row("events of a project that wait to be stored, here")
async def _(stage: Stage) -> None:
    """Who is refused while a head is held is tested in tests/integration/test_log.py."""
    async with beside(stage) as tenant:
        log, lane = tenant.gateway.services.log, engine.log._Lane()
        lane.size = stage.row.number - 1_000
        log._admit(lane, 1_000)
        with pytest.raises(RateLimited) as refusal:
            log._admit(lane, 1_001)
    stage.row.check(shown(refusal.value))


@row("events of all projects that wait to be stored, here")
async def _(stage: Stage) -> None:
    async with beside(stage) as tenant:
        log = tenant.gateway.services.log
        log._size = stage.row.number - 1_000
        log._admit(engine.log._Lane(), 1_000)
        with pytest.raises(RateLimited) as refusal:
            log._admit(engine.log._Lane(), 1_001)
        log._size = 0
    stage.row.check(shown(refusal.value))


# Sockets and event streams


@row("WebSockets of a key or session, here")
async def _(stage: Stage) -> None:
    assert WebSocketPolicy().max_per_holder == stage.row.number
    async with small_server(max_per_holder=1) as server, AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(open_raw_socket(server)) for _ in range(3)]
        await initialised(sockets[0])
        await send(sockets[1], {"type": "connection_init", "payload": {"x-api-key": KEY}})
        assert await close_of(sockets[1]) == (
            stage.row.status,
            "Too many connections with these credentials: at most 1",
        )
        await initialised(sockets[2], {"type": "connection_init", "payload": {"x-api-key": OTHER_KEY}})
        await sockets[0].close()
        async with open_raw_socket(server) as again:
            await initialised(again)


@row("WebSockets without credentials of one address, here")
async def _(stage: Stage) -> None:
    assert WebSocketPolicy().max_anonymous_per_client == stage.row.number
    async with small_server(max_anonymous_per_client=1) as server, AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(open_raw_socket(server)) for _ in range(2)]
        await initialised(first, {"type": "connection_init"})
        await send(second, {"type": "connection_init"})
        code, reason = await close_of(second)
    assert code == stage.row.status
    stage.row.check_words(reason, 1)


async def check_reservations(stage: Stage, policy: ReservationPolicy) -> None:
    """The third is one too many."""
    async with small_server(streams=StreamPolicy(reservations=policy)) as server:
        assert [(await exchange(server.port, PUT)).status for _ in range(2)] == [201, 201]
        stage.row.check_answer(await exchange(server.port, PUT), 2)


@row("shared event streams of a key or session, here")
async def _(stage: Stage) -> None:
    assert ReservationPolicy().max_per_holder == stage.row.number
    await check_reservations(stage, ReservationPolicy(max_per_holder=2))


@row("shared event streams that wait to be opened")
async def _(stage: Stage) -> None:
    assert ReservationPolicy().max_unused_per_holder == stage.row.number
    await check_reservations(stage, ReservationPolicy(max_unused_per_holder=2))


@row("time for a shared event stream to be opened")
async def _(stage: Stage) -> None:
    assert ReservationPolicy().unused_for == timedelta(seconds=stage.row.number)
    streams = StreamPolicy(reservations=ReservationPolicy(unused_for=SHORT))
    async with small_server(streams=streams) as server, shared_stream(server.port) as start:
        await asyncio.sleep(2 * SHORT.total_seconds())
        answer = await start("1", "{ hello }")
    assert (answer.status, answer.code) == (stage.row.status, stage.row.code)


@row("WebSocket message")
async def _(stage: Stage) -> None:
    async with open_socket(stage.gateway) as socket:
        await socket.send(" " * stage.row.number)
        code, _ = await socket.closed()
        assert code == 4400  # taken, and no message
    async with open_socket(stage.gateway) as socket:
        await socket.send(" " * (stage.row.number + 1))
        code, _ = await socket.closed()
    assert code == stage.row.status


@row("time for `connection_init`")
async def _(stage: Stage) -> None:
    assert WebSocketPolicy().init_timeout == timedelta(seconds=stage.row.number)
    async with small_server(init_timeout=SHORT) as server, open_raw_socket(server) as socket:
        assert await close_of(socket) == (stage.row.status, "Connection initialisation timeout")


@row("silence of a WebSocket after a ping")
async def _(stage: Stage) -> None:
    assert WebSocketPolicy().ping_interval == timedelta(seconds=stage.row.number)
    async with small_server(ping_interval=SHORT) as server, open_raw_socket(server) as socket:
        await initialised(socket)
        assert await close_of(socket) == (stage.row.status, "No sign of life since the last ping")


@row("unsent bytes of a stream")
async def _(stage: Stage) -> None:
    """That nothing is lost by it is tested in tests/acceptance/test_websocket_bounds.py."""
    assert stage.row.number == HIGH_WATER_BYTES
    async with small_server() as server, open_raw_socket(server, max_queue=1) as socket:
        await initialised(socket)
        await send(socket, subscribe("1", "subscription { log { value } }"))
        await eventually(lambda: len(server.application.log.members) == 1)
        (protocol,) = server.uvicorn.server_state.connections
        for _ in range(1_000):
            server.application.log.append("x" * 20_000)
        assert len(server.application.log.members) == 0
        assert protocol.buffered < stage.row.number + 25_000  # type: ignore[union-attr]
        socket.transport.abort()


@row("unread answers on a WebSocket")
async def _(stage: Stage) -> None:
    assert stage.row.number == REPLY_BOUND_BYTES
    async with small_server() as server, open_raw_socket(server, max_queue=1) as socket:
        await initialised(socket)
        (protocol,) = server.uvicorn.server_state.connections

        async def flood() -> None:
            for _ in range(1_000):  # 60 MB, and not one answer is taken
                await socket.send('{"type":"ping","payload":{"a":"' + "x" * 60_000 + '"}}')

        flooding = asyncio.create_task(flood())
        await asyncio.sleep(0.5)
        assert not flooding.done()
        assert protocol.buffered < stage.row.number + 100_000  # type: ignore[union-attr]
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        socket.transport.abort()


# Events


async def check_event(stage: Stage, within: dict[str, Any], beyond: dict[str, Any], number: int | None = None) -> None:
    """An event within the limit is stored, one beyond is refused."""
    base = {"eventType": "limits.tested", "userId": f"u-{uuid4().hex}"}
    stored = await stage.gateway.track(**(base | within))
    assert stored["userErrors"] == []
    [error] = (await stage.gateway.track(**(base | beyond)))["userErrors"]
    stage.row.check(error, number)


@row("event")
async def _(stage: Stage) -> None:
    size = stage.row.number
    await check_event(stage, {"properties": {"a": "x" * (size - 2_000)}}, {"properties": {"a": "x" * size}})


@row("events in `trackBatch`")
async def _(stage: Stage) -> None:
    events = [{"eventType": "limits.batch"}] * (stage.row.number + 1)
    refused = (await stage.gateway.data(TRACK_BATCH, events=events))["trackBatch"]
    stored = (await stage.gateway.data(TRACK_BATCH, events=events[1:]))["trackBatch"]
    stage.row.check(refused["userErrors"][0])
    assert (refused["accepted"], stored["accepted"]) == (0, stage.row.number)


@row("`id` of an event")
async def _(stage: Stage) -> None:
    unique = uuid4().hex
    await check_event(
        stage, {"id": unique.ljust(stage.row.number, "x")}, {"id": unique.ljust(stage.row.number + 1, "x")}
    )


@row("`userId`, `anonymousId`")
async def _(stage: Stage) -> None:
    for name in ("userId", "anonymousId"):
        await check_event(stage, {name: "x" * stage.row.number}, {name: "x" * (stage.row.number + 1)})


@row("`eventType`")
async def _(stage: Stage) -> None:
    await check_event(stage, {"eventType": "x" * stage.row.number}, {"eventType": "x" * (stage.row.number + 1)})


@row("`module`")
async def _(stage: Stage) -> None:
    await check_event(stage, {"module": "x" * stage.row.number}, {"module": "x" * (stage.row.number + 1)})


@row("`timestamp`")
async def _(stage: Stage) -> None:
    first, last = stage.row.numbers
    await check_event(stage, {"timestamp": f"{first}-01-01T00:00:00Z"}, {"timestamp": f"{first - 1}-12-31T23:59:59Z"})
    await check_event(
        stage, {"timestamp": f"{last}-12-31T23:59:59Z"}, {"timestamp": f"{last + 1}-01-01T00:00:00Z"}, last
    )


@row("nesting of `properties`, `context`, `traits`")
async def _(stage: Stage) -> None:
    def nested(levels: int) -> Any:
        value: Any = 1
        for _ in range(levels):
            value = {"a": value}
        return value

    for name in ("properties", "context", "traits"):
        event = {"eventType": "limits.tested", "userId": "u"}
        assert (await stage.gateway.track(**event, **{name: nested(stage.row.number)}))["userErrors"] == []
        await stage.refused(TRACK, event={**event, name: nested(stage.row.number + 1)})


@row("all traits of a person")
async def _(stage: Stage) -> None:
    user_id, errors = uuid4().hex, []
    for number in range(stage.row.number // 60_000 + 2):
        stored = await stage.gateway.track(
            eventType="limits.traits", userId=user_id, traits={f"t{number}": "x" * 60_000}
        )
        errors += stored["userErrors"]
        assert errors or number < stage.row.number // 60_000
    assert errors[0]["code"] == stage.row.code
    assert "256 KiB" in errors[0]["message"]


# People and documents

SIGN_UP = "mutation ($input: SignUpInput!) { signUp(input: $input) { userErrors { code message } } }"
SIGN_IN_ANONYMOUSLY = """mutation ($input: SignInAnonymouslyInput!) {
  signInAnonymously(input: $input) { userErrors { code message } }
}"""
SAVE_DOCUMENTS = """mutation ($documents: [TrustedDocumentInput!]!) {
  saveTrustedDocuments(documents: $documents) { userErrors { code message } }
}"""
ADD_MEMBER = (
    "mutation ($e: String!) { addMember(email: $e, role: VIEWER) { member { id } userErrors { code message } } }"
)
MAKE_TOKEN = "mutation ($id: ID!) { createMemberToken(memberId: $id) { userErrors { code message } } }"
ROTATE = "mutation { rotateIdentitySecret { userErrors { code message } } }"


def document(number: int) -> dict[str, str]:
    return {"name": f"n{number}", "document": f"{{ a{number}: __typename }}"}


async def user_errors(source: Gateway | Tenant, text: str, **variables: Any) -> list[Any]:
    """Those of the document's one mutation."""
    [payload] = (await source.data(text, **variables)).values()
    errors: list[Any] = payload["userErrors"]
    return errors


@row("`ids` of `nodes`")
async def _(stage: Stage) -> None:
    nodes = "query ($ids: [ID!]!) { nodes(ids: $ids) { id } }"
    assert (await stage.gateway.data(nodes, ids=["x"] * stage.row.number))["nodes"] == [None] * stage.row.number
    stage.row.check_answer(await stage.gateway.ask(nodes, ids=["x"] * (stage.row.number + 1)))


@row("records in a page of `exportProfile`")
async def _(stage: Stage) -> None:
    longest, most_bytes = stage.row.numbers
    assert most_bytes == exporting.MAX_PAGE_BYTES
    user_id, events = uuid4().hex, [{"eventType": "limits.exported"}] * 1_000
    await stage.gateway.data(TRACK_BATCH, events=[{**each, "userId": user_id} for each in events])
    export = "query ($u: String!, $n: Int) { exportProfile(userId: $u, first: $n) { lines hasNextPage } }"
    page = (await stage.gateway.data(export, u=user_id, n=longest + 20))["exportProfile"]
    assert (len(page["lines"].splitlines()), page["hasNextPage"]) == (longest, True)


@row("password")
async def _(stage: Stage) -> None:
    longest, shortest = stage.row.numbers
    for length in (longest + 1, shortest - 1):
        given = {"email": f"{uuid4().hex}@example.com", "password": ("pass-Word 7" * 30)[:length]}
        [error] = await user_errors(stage.gateway, SIGN_UP, input=given)
        stage.row.check(error)


@row("`deviceId`")
async def _(stage: Stage) -> None:
    device = uuid4().hex * 8
    assert len(device) == stage.row.number
    assert await user_errors(stage.gateway, SIGN_IN_ANONYMOUSLY, input={"deviceId": device}) == []
    [error] = await user_errors(stage.gateway, SIGN_IN_ANONYMOUSLY, input={"deviceId": f"{device}x"})
    stage.row.check(error)


@row("passwords that wait to be looked at, here")
async def _(stage: Stage) -> None:
    assert stage.row.number == passwords.MAX_WAITING
    given = {"email": f"{uuid4().hex}@example.com", "password": "pass-Word 7"}
    async with beside(stage) as tenant:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(passwords, "MAX_WAITING", 0)
            [error] = (await tenant.run(SIGN_UP, input=given))["errors"]
        assert (error["extensions"]["code"], error["extensions"]["retryAfterMs"]) == (stage.row.code, 2_000)
        assert await user_errors(tenant, SIGN_UP, input=given) == []


@row("trusted documents of a project")
async def _(stage: Stage) -> None:
    assert stage.row.number == trusted_documents.MAX_DOCUMENTS
    async with beside(stage) as tenant:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trusted_documents, "MAX_DOCUMENTS", 2)
            assert await user_errors(tenant, SAVE_DOCUMENTS, documents=[document(1), document(2)]) == []
            [error] = await user_errors(tenant, SAVE_DOCUMENTS, documents=[document(3)])
        stage.row.check(error, 2)


@row("trusted documents in one save")
async def _(stage: Stage) -> None:
    documents = [document(number) for number in range(stage.row.number + 1)]
    async with beside(stage) as tenant:
        [error] = await user_errors(tenant, SAVE_DOCUMENTS, documents=documents)
        stage.row.check(error)
        assert await user_errors(tenant, SAVE_DOCUMENTS, documents=documents[1:]) == []


@row("name of a trusted document")
async def _(stage: Stage) -> None:
    async with beside(stage) as tenant:
        for length, refused in ((stage.row.number, False), (stage.row.number + 1, True)):
            errors = await user_errors(tenant, SAVE_DOCUMENTS, documents=[{**document(1), "name": "n" * length}])
            assert bool(errors) == refused
        stage.row.check(errors[0])


@row("members of an organization")
async def _(stage: Stage) -> None:
    assert stage.row.number == members.MAX_MEMBERS
    async with beside(stage) as tenant:
        admin = await tenant.as_member(Role.ADMIN)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(members, "MAX_MEMBERS", 2)
            assert await user_errors(admin, ADD_MEMBER, e=f"{uuid4().hex}@example.com") == []
            [error] = await user_errors(admin, ADD_MEMBER, e=f"{uuid4().hex}@example.com")
        stage.row.check(error, 2)


@row("tokens of a member")
async def _(stage: Stage) -> None:
    async with beside(stage) as tenant:
        admin = await tenant.as_member(Role.ADMIN)
        made = await admin.data(ADD_MEMBER, e=f"{uuid4().hex}@example.com")
        member_id = made["addMember"]["member"]["id"]
        for _ in range(stage.row.number - 1):
            assert await user_errors(admin, MAKE_TOKEN, id=member_id) == []
        [error] = await user_errors(admin, MAKE_TOKEN, id=member_id)
        stage.row.check(error)


@row("identity secrets of a project that are valid at once")
async def _(stage: Stage) -> None:
    async with beside(stage) as tenant:
        for _ in range(stage.row.number):
            assert await user_errors(tenant, ROTATE) == []
        [error] = await user_errors(tenant, ROTATE)
        stage.row.check(error)
