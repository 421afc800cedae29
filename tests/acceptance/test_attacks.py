"""Requests that are meant to hurt, each beside a second client that must not notice.

The attacker sends each of them several times at once; the other client asks a small query every 10 ms on a connection
of its own, and no answer of its may take a second. (What it takes in truth is some tens of milliseconds; the bound is
the one that was promised.)
"""

from __future__ import annotations

import asyncio
import gzip
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.acceptance.http_server import Server, exchange, get, post, query, read_response, served

PROMISE = 1.0
"""Seconds that another client may wait."""

ATTACKERS = 4

HEARTBEAT = post(query("{ hello }"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with served() as started:
        yield started


@pytest.fixture(scope="module")
def impatient_server() -> Iterator[Server]:
    with served("audits", "impatient") as started:
        yield started


@dataclass
class Heartbeat:
    """What the second client waited for the server, in seconds: not what either waited for a processor."""

    waits: list[float] = field(default_factory=list)


def starved_of(server: Server) -> float:
    """Seconds for which the server and this process waited for a processor, where the system tells."""
    schedulers = [Path(f"/proc/{pid}/schedstat") for pid in (server.pid, os.getpid())]
    return sum(int(each.read_text().split()[1]) for each in schedulers if each.exists()) / 1e9


@asynccontextmanager
async def heartbeat(server: Server) -> AsyncIterator[Heartbeat]:
    """The second client. Fails the test if it had to wait, or was never served."""
    beat = Heartbeat()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

    async def ask() -> None:
        started, starved = time.perf_counter(), starved_of(server)
        writer.write(HEARTBEAT)
        assert (await read_response(reader)).status == 200
        beat.waits.append(time.perf_counter() - started - (starved_of(server) - starved))

    async def beating() -> None:
        while True:
            await ask()
            await asyncio.sleep(0.01)

    await ask()
    task = asyncio.create_task(beating())
    try:
        yield beat
        await asyncio.sleep(0.05)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        writer.close()
    assert beat.waits
    assert max(beat.waits) < PROMISE


def doubling_fragments(levels: int) -> str:
    fragments = [f"fragment F{i} on Node {{ node {{ ...F{i + 1} ...F{i + 1} }} }}" for i in range(levels)]
    return f"{{ node {{ ...F0 }} }} {' '.join(fragments)} fragment F{levels} on Node {{ id }}"


def unaliased_doubling(levels: int) -> str:
    """Fields that appear twice under one name merge when they run, but not while they are validated."""
    fragments = [f"fragment F{i} on Node {{ node {{ ...F{i + 1} }} node {{ ...F{i + 1} }} }}" for i in range(levels)]
    return f"{{ node {{ ...F0 }} }} {' '.join(fragments)} fragment F{levels} on Node {{ id }}"


def nested(levels: int) -> str:
    return "{ " + "node { " * levels + "id" + " }" * levels + " }"


DOCUMENTS: dict[str, tuple[str, str]] = {
    "fragments that double fourteen times": (unaliased_doubling(14), "COST_EXCEEDED"),
    "fragments that double thirty times": (unaliased_doubling(30), "COST_EXCEEDED"),
    "50,000 operations": (" ".join(f"query Q{i} {{ __typename }}" for i in range(50_000)), "COST_EXCEEDED"),
    "400 operations": (" ".join(f"query Q{i} {{ hello }}" for i in range(400)), "COST_EXCEEDED"),
    "5,000 directives on a field": ("{ hello " + "@skip(if: false) " * 5_000 + "}", "COST_EXCEEDED"),
    "6 directives on a field": ("{ hello " + "@skip(if: false) " * 6 + "}", "COST_EXCEEDED"),
    "10,000 aliases": ("{ " + " ".join(f"a{i}: hello" for i in range(10_000)) + " }", "COST_EXCEEDED"),
    "100 aliases": ("{ " + " ".join(f"a{i}: hello" for i in range(100)) + " }", "COST_EXCEEDED"),
    "500 repeats of a field": ("{ " + "hello " * 500 + "}", "COST_EXCEEDED"),
    "900 fields under 30 repeated ones": ("{ " + ("node { " + "id " * 30 + "} ") * 30 + "}", "COST_EXCEEDED"),
    "merging fields, 45 times 9": ("{ " + ("node { " + "node { id } " * 9 + "} ") * 45 + "}", "COST_EXCEEDED"),
    "200 levels": (nested(199), "DEPTH_EXCEEDED"),
    "2,000 levels": (nested(2_000), "DEPTH_EXCEEDED"),
    "21 levels": (nested(20), "DEPTH_EXCEEDED"),
    "a string of 1.9 MB": ('{ hello(name: "' + "x" * 1_900_000 + '") }', "COST_EXCEEDED"),
    "1.9 MB of commas": ("{ hello " + "," * 1_900_000 + "}", "COST_EXCEEDED"),
    "90 kB of commas": ("{ hello " + "," * 90_000 + " nope }", "GRAPHQL_VALIDATION_FAILED"),
    "90 kB of comments": ("{ hello }" + "\n#" * 45_000, "COST_EXCEEDED"),
    "a field name of 90 kB": ("{ " + "x" * 90_000 + " }", "GRAPHQL_VALIDATION_FAILED"),
    "ten unknown directives": (
        "{ " + " ".join(f"a{i}: hello @unknown{i}" for i in range(10)) + " }",
        "GRAPHQL_VALIDATION_FAILED",
    ),
    "fragments in a circle": (
        "{ node { ...A } } fragment A on Node { node { ...B } } fragment B on Node { node { ...A } }",
        "GRAPHQL_VALIDATION_FAILED",
    ),
    "a circle through introspection": (
        "{ __schema { types { fields { type { fields { type { fields { type { fields { name } } } } } } } } } }",
        "GRAPHQL_VALIDATION_FAILED",
    ),
    "600 unknown fields": ("{ " + " ".join(f"f{i}" for i in range(600)) + " }", "GRAPHQL_VALIDATION_FAILED"),
    "600 undefined variables": (
        "{ node { " + " ".join(f"name(of: $v{i})" for i in range(45)) + " } }",
        "GRAPHQL_VALIDATION_FAILED",
    ),
    "NUL in a literal": (r'{ hello(name: "\u0000") }', "BAD_USER_INPUT"),
    "an integer of 5,000 digits": ("{ hello(name: " + "7" * 5_000 + ") }", "BAD_USER_INPUT"),
    "a huge exponent": ("{ hello(name: 1e999999999) }", "BAD_USER_INPUT"),
    "NUL in braces": (r'{ hello(name: "\u{0}") }', "BAD_USER_INPUT"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
async def test_a_hostile_document_is_refused_and_nobody_waits(server: Server, name: str) -> None:
    document, code = DOCUMENTS[name]

    async with heartbeat(server):
        answers = await asyncio.gather(*(exchange(server.port, post(query(document))) for _ in range(ATTACKERS)))

    for answer in answers:
        assert answer.code == code
        assert "data" not in answer.json
        assert len(answer.body) < 20_000


async def test_ten_unknown_directives_give_one_error(server: Server) -> None:
    document, _ = DOCUMENTS["ten unknown directives"]

    answer = await exchange(server.port, post(query(document)))

    assert len(answer.json["errors"]) == 1  # type: ignore[arg-type]


async def test_a_long_name_is_not_echoed(server: Server) -> None:
    document, _ = DOCUMENTS["a field name of 90 kB"]

    answer = await exchange(server.port, post(query(document)))

    assert answer.json["errors"][0]["message"] == f"Cannot query field '{'x' * 80}…' on type 'Query'."  # type: ignore[index]


async def test_names_of_the_schema_are_not_suggested_to_whoever_may_not_ask_for_it(server: Server) -> None:
    answer = await exchange(server.port, post(query("{ helo node { nam(off: 1) } }"), "x-api-key: stranger"))

    assert len(answer.json["errors"]) == 2  # type: ignore[arg-type]
    assert b"Did you mean" not in answer.body


@pytest.mark.parametrize("levels", [14, 12])
async def test_doubling_spreads_of_one_fragment_do_not_double_the_work(server: Server, levels: int) -> None:
    async with heartbeat(server):
        answers = await asyncio.gather(
            *(exchange(server.port, post(query(doubling_fragments(levels)))) for _ in range(ATTACKERS))
        )

    assert {answer.code for answer in answers} == {"COST_EXCEEDED"}


BODIES: dict[str, tuple[bytes, int]] = {
    "a body of 20 MiB": (query("{ hello }", variables={"x": "x" * 20 * 1024 * 1024}), 413),
    "2 MB of brackets": (b'{"query":"{hello}","variables":' + b"[" * 2_000_000 + b"}", 400),
    "chains a hundred deep": (
        b'{"query":"{hello}","variables":{"a":[' + b",".join([b"[" * 97 + b"]" * 97] * 1_000) + b"]}}",
        200,
    ),
    "chains a hundred and one deep": (
        b'{"query":"{hello}","variables":{"a":[' + b",".join([b"[" * 99 + b"]" * 99] * 1_000) + b"]}}",
        400,
    ),
    "half a million empty arrays": (b'{"query":"{hello}","variables":{"a":[' + b"[]," * 500_000 + b"1]}}", 400),
    "2 MB of digits": (b'{"query":"{hello}","variables":{"a":' + b"9" * 2_000_000 + b"}}", 400),
    "a hundred thousand numbers of twenty digits": (
        b'{"query":"{hello}","variables":{"a":[' + b",".join([b"1" * 20] * 90_000) + b"]}}",
        400,
    ),
    "a hundred thousand long numbers that fit": (
        b'{"query":"{hello}","variables":{"a":[' + b",".join([b"1" * 19] * 90_000) + b"]}}",
        200,
    ),
    "2 MB of quotation marks": (b'{"query":"{hello}","variables":{"a":["' + b'","' * 650_000 + b'"]}}', 200),
    "2 MB of strings with brackets": (b'{"query":"{hello}","variables":{"a":["' + b'{","' * 490_000 + b'"]}}', 200),
    "2 MB of backslashes": (b'{"query":"{hello}","variables":{"a":"' + b"\\\\" * 1_000_000 + b'"}}', 200),
    "2 MB of escaped pairs": (b'{"query":"{hello}","variables":{"a":"' + b"\\ud83d\\ude00" * 170_000 + b'"}}', 200),
    "2 MB of escapes like NUL": (b'{"query":"{hello}","variables":{"a":"' + b"\\\\u0000" * 290_000 + b'"}}', 200),
    "a hundred thousand members": (
        b'{"query":"{hello}","variables":{' + b",".join(b'"v%d":1' % i for i in range(140_000)) + b"}}",
        200,
    ),
    "a hundred thousand extensions": (
        b'{"query":"{hello}","extensions":{' + b",".join(b'"v%d":1' % i for i in range(140_000)) + b"}}",
        200,
    ),
    "a wrong list of a million": (
        b'{"query":"query($n: NoteInput!){hello}","variables":{"n":[' + b"1," * 900_000 + b"1]}}",
        200,
    ),
}


@pytest.mark.parametrize("name", BODIES)
async def test_a_hostile_body_is_answered_and_nobody_waits(server: Server, name: str) -> None:
    body, status = BODIES[name]

    async with heartbeat(server):
        answers = await asyncio.gather(*(exchange(server.port, post(body)) for _ in range(ATTACKERS)))

    assert {answer.status for answer in answers} == {status}


async def test_a_gzip_bomb_is_not_opened(server: Server) -> None:
    bomb = gzip.compress(bytes(100 * 1024 * 1024))
    before = psutil.Process(server.pid).memory_info().rss

    async with heartbeat(server):
        answer = await exchange(server.port, post(bomb, "Content-Encoding: gzip"))

    assert answer.status == 415
    assert psutil.Process(server.pid).memory_info().rss - before < 20 * 1024 * 1024


async def test_an_endless_chunked_body_is_refused_and_cut_off(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = "POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked"
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"

    async def send_without_end() -> int:
        sent = 0
        try:
            while True:
                writer.write(chunk)
                await writer.drain()
                sent += len(chunk)
        except ConnectionError:
            return sent

    async with heartbeat(server):
        writer.write(f"{head}\r\n\r\n".encode() + chunk * 40)
        answer = await read_response(reader)
        sent = await asyncio.wait_for(send_without_end(), 20)

    assert answer.status == 413
    assert sent < 80 * 1024 * 1024
    writer.close()


@pytest.mark.parametrize("where", ["one header", "many headers", "the url", "a header that never ends"])
async def test_heads_over_64_kib_are_431(server: Server, where: str) -> None:
    request = {
        "one header": get("query={hello}", "X: " + "x" * 256 * 1024),
        "many headers": get("query={hello}", *(f"X-{i}: {'x' * 100}" for i in range(1000))),
        "the url": get("query={hello}&x=" + "x" * 256 * 1024),
        "a header that never ends": b"GET /graphql HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 256 * 1024,
    }[where]

    async with heartbeat(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request)
        status = await reader.readline()
        writer.close()

    assert status.startswith(b"HTTP/1.1 431 ")


async def test_a_get_of_just_under_64_kib_is_read(server: Server) -> None:
    answer = await exchange(server.port, get("query={hello}&x=" + "x" * 60_000))

    assert answer.json == {"data": {"hello": "Hello, world!"}}


def trickled(request: bytes, at: int) -> tuple[bytes, bytes]:
    return request[:at], request[at:]


@pytest.mark.parametrize("sent", [b"", b"P", b"POST /graphql HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
async def test_a_head_that_does_not_come_is_408(impatient_server: Server, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient_server.port)
    started = time.perf_counter()

    async with heartbeat(impatient_server):
        writer.write(sent)
        status = await asyncio.wait_for(reader.readline(), 5)

    assert status.startswith(b"HTTP/1.1 408 ")
    assert 0.4 < time.perf_counter() - started < 3
    writer.close()


async def test_a_head_that_drips_is_408(impatient_server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient_server.port)
    writer.write(b"POST /graphql HTTP/1.1\r\n")

    async def drip() -> None:
        for number in range(100):
            writer.write(f"X-{number}: 1\r\n".encode())
            await asyncio.sleep(0.1)

    dripping = asyncio.create_task(drip())
    status = await asyncio.wait_for(reader.readline(), 5)
    dripping.cancel()
    writer.close()

    assert status.startswith(b"HTTP/1.1 408 ")


async def test_a_second_request_on_a_connection_has_the_same_deadline(impatient_server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient_server.port)
    writer.write(post(query("{ hello }")))
    assert (await read_response(reader)).status == 200
    writer.write(b"POST /graphql HTTP/1.1\r\nHost:")

    status = await asyncio.wait_for(reader.readline(), 5)

    assert status.startswith(b"HTTP/1.1 408 ")
    writer.close()


@pytest.mark.parametrize("kept", [0, 1, 20])
async def test_a_body_that_stalls_is_408(impatient_server: Server, kept: int) -> None:
    request = post(query("mutation { bump }"))
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient_server.port)

    async with heartbeat(impatient_server):
        writer.write(request[: request.index(b"\r\n\r\n") + 4 + kept])
        status = await asyncio.wait_for(reader.readline(), 5)

    assert status.startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_a_body_that_drips_is_408_after_its_time(impatient_server: Server) -> None:
    body = query("{ hello }", variables={"x": "x" * 10_000})
    request = post(body)
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient_server.port)
    start = request.index(b"\r\n\r\n") + 4
    writer.write(request[:start])

    async def drip() -> None:
        for byte in body:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.1)

    started = time.perf_counter()
    dripping = asyncio.create_task(drip())
    status = await asyncio.wait_for(reader.readline(), 5)
    dripping.cancel()
    writer.close()

    assert status.startswith(b"HTTP/1.1 408 ")
    assert 0.9 < time.perf_counter() - started < 3


async def test_a_slow_answer_is_not_a_slow_request(impatient_server: Server) -> None:
    answer = await exchange(impatient_server.port, post(query("{ slow(ms: 800) }")))

    assert answer.json == {"data": {"slow": "done"}}


async def test_idle_connections_end(impatient_server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient_server.port)
    writer.write(post(query("{ hello }")))
    assert (await read_response(reader)).status == 200

    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


async def test_five_hundred_slow_clients_leave_room_for_others(server: Server) -> None:
    connections = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(500)]
    async with heartbeat(server):
        for _, writer in connections:
            writer.write(b"POST /graphql HTTP/1.1\r\nContent-Length: 100\r\n")
        await asyncio.sleep(0.2)
    for _, writer in connections:
        writer.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        # two lengths, in either order: which of them a proxy believed is anyone's guess
        b"POST /graphql HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        b"POST /graphql HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nG",
        b"POST /graphql HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /graphql HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /graphql\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_400(server: Server, request_bytes: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request_bytes)

    status = await asyncio.wait_for(reader.readline(), 5)

    assert status.startswith(b"HTTP/1.1 400 ")
    writer.close()


async def test_a_client_that_leaves_in_the_middle_of_its_body_runs_nothing(server: Server) -> None:
    request = post(query("mutation { bump }"))
    before = (await exchange(server.port, post(query("{ runs }")))).json

    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request[:-5])
    await writer.drain()
    writer.close()
    await asyncio.sleep(0.1)

    assert (await exchange(server.port, post(query("{ runs }")))).json == before
