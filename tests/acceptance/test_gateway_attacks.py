"""Requests that are meant to hurt, sent to a whole gateway beside a second client that must not notice.

`test_attacks.py` does the same to the transport alone, with a schema that costs nothing; here it is the product's own.
"""

from __future__ import annotations

import asyncio
import gzip
import time
from functools import cache
from typing import Any

import orjson
import pytest

from tests.acceptance.gateway_client import PROMISE, Gateway, code_of, harmless, open_socket
from tests.acceptance.http_server import post, query, read_response

ATTACKERS = 4
"""At once, each of them the same."""


def doubling_fragments(levels: int) -> str:
    """Twice as many fields with each level, in some hundred bytes."""
    fragments = [f"fragment F{i} on Profile {{ ...F{i + 1} ...F{i + 1} }}" for i in range(levels)]
    return f'{{ profile(userId: "u") {{ ...F0 }} }} {" ".join(fragments)} fragment F{levels} on Profile {{ id }}'


def deepening_fragments(levels: int) -> str:
    """The same by real nesting: a person's events, their person, and so on."""
    field = "timeline {{ edges {{ node {{ profile {{ ...F{0} ...F{0} }} }} }} }}"
    fragments = [f"fragment F{i} on Profile {{ {field.format(i + 1)} {field.format(i + 1)} }}" for i in range(levels)]
    return f'{{ profile(userId: "u") {{ ...F0 }} }} {" ".join(fragments)} fragment F{levels} on Profile {{ id }}'


def deep(levels: int) -> str:
    inner = "id"
    for _ in range(levels // 4):
        inner = f"timeline(first: 1) {{ edges {{ node {{ profile {{ {inner} }} }} }} }}"
    return f'{{ profile(userId: "u") {{ {inner} }} }}'


def wide(levels: int) -> str:
    inner = "id"
    for _ in range(levels):
        inner = f"timeline(first: 100) {{ edges {{ node {{ profile {{ {inner} }} }} }} }}"
    return f"{{ profiles(first: 100) {{ edges {{ node {{ {inner} }} }} }} }}"


DOCUMENTS = {
    "200 levels": (deep(200), "DEPTH_EXCEEDED"),
    "doubling fragments": (doubling_fragments(30), "COST_EXCEEDED"),
    "deepening fragments": (deepening_fragments(20), "COST_EXCEEDED"),
    "fragments in a circle": (
        '{ profile(userId: "u") { ...A } } fragment A on Profile { ...B } fragment B on Profile { ...A }',
        "GRAPHQL_VALIDATION_FAILED",
    ),
    "10,000 aliases": ("{" + " ".join(f"a{i}: viewer {{ role }}" for i in range(10_000)) + "}", "COST_EXCEEDED"),
    "200 aliases": ("{" + " ".join(f"a{i}: viewer {{ role }}" for i in range(200)) + "}", "COST_EXCEEDED"),
    "200 repeats": ("{ viewer { " + "role " * 200 + "} }", "COST_EXCEEDED"),
    "200 directives": ("{ viewer { role " + "@include(if: true) " * 200 + "} }", "COST_EXCEEDED"),
    "50,000 operations": (" ".join(f"query Q{i} {{ id }}" for i in range(50_000)), "COST_EXCEEDED"),
    "1,000 operations": (" ".join(f"query Q{i} {{ viewer {{ role }} }}" for i in range(1_000)), "COST_EXCEEDED"),
    "lists of lists of lists": (wide(2), "COST_EXCEEDED"),
    "fifty lists of lists": ("{" + " ".join(f"a{i}: {wide(1)[1:-1]}" for i in range(50)) + "}", "COST_EXCEEDED"),
    "commas": ("{ viewer { role } }" + "," * 1_900_000, "COST_EXCEEDED"),
    "blanks": ("{ viewer { role } }" + " " * 1_900_000, "COST_EXCEEDED"),
    "comments": ("{ viewer { role } }" + "#\n" * 600_000, "COST_EXCEEDED"),
    "brackets": ("{" * 1_000_000, "COST_EXCEEDED"),
    "introspection, deep": (
        "{ __schema { types { fields { type { fields { type { fields { type { fields { type { fields { type { fields "
        "{ type { fields { type { fields { type { fields { type { fields { name } } } } } } } } } } } } } } } } } } "
        "} } } }",
        "DEPTH_EXCEEDED",
    ),
    "a name of 90,000": ("{ " + "x" * 90_000 + " }", "GRAPHQL_VALIDATION_FAILED"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
async def test_a_document_that_costs_too_much_is_refused_at_once(gateway: Gateway, name: str) -> None:
    document, code = DOCUMENTS[name]

    async with harmless(gateway):
        answers = await asyncio.gather(*(gateway.ask(document) for _ in range(ATTACKERS)))

    assert [code_of(answer) for answer in answers] == [code] * ATTACKERS
    assert all(len(answer.body) < 100_000 for answer in answers)


async def test_the_same_documents_are_refused_over_a_socket_which_stays(gateway: Gateway) -> None:
    codes = {}

    async with harmless(gateway), open_socket(gateway) as socket:
        for name, (document, _) in DOCUMENTS.items():
            await socket.subscribe(name, document)
            message = await socket.receive()
            assert (message["type"], message["id"]) == ("error", name)
            codes[name] = message["payload"][0]["extensions"]["code"]
        await socket.subscribe("last", "{ viewer { role } }")
        assert (await socket.receive())["payload"]["data"] == {"viewer": {"role": "ADMIN"}}

    assert codes == {name: code for name, (_, code) in DOCUMENTS.items()}


async def test_two_levels_of_full_pages_are_read_and_nobody_waits(gateway: Gateway) -> None:
    """As much as an operation may ask for. The other client asks the database, too."""
    waits = []

    async def read_on() -> None:
        while True:
            began = time.perf_counter()
            await gateway.data("{ events(first: 1) { edges { node { seq } } } }")
            waits.append(time.perf_counter() - began)

    reading = asyncio.create_task(read_on())
    async with harmless(gateway):
        answers = await asyncio.gather(*(gateway.ask(wide(1)) for _ in range(ATTACKERS)))
    assert not reading.done()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)

    assert all("errors" not in answer.json for answer in answers)
    assert max(waits) < PROMISE


async def test_long_work_that_many_ask_for_at_once_is_done_in_turns(gateway: Gateway) -> None:
    """Each takes some tenths of a second of the whole process. Nobody has to ask for the like with a key of theirs."""
    schema = "{ __schema { types { fields { name description args { name type { name } } type { name } } } } }"
    wide = "{{ {} a{}: __typename }}".format
    documents = [wide("viewer { role project { id uuid name } } " * 49, number) for number in range(ATTACKERS)]
    numbers = {"query": "{ viewer { role } }", "variables": {"unused": [1e300] * 200_000}}

    async with harmless(gateway):
        answers = await asyncio.gather(
            *(gateway.ask(schema) for _ in range(4 * ATTACKERS)),
            *(gateway.ask(document) for document in documents),
            *(gateway.send(orjson.dumps(numbers)) for _ in range(ATTACKERS)),
        )

    assert [answer.json["errors"] for answer in answers if "errors" in answer.json] == []


async def test_5_mb_of_commas_are_413_before_they_have_come(gateway: Gateway) -> None:
    body = query("{ viewer { role } }" + "," * 5_000_000)

    async with harmless(gateway):
        answers = await asyncio.gather(*(first_answer(gateway, post(body)) for _ in range(ATTACKERS)))

    assert [status for status, _ in answers] == [413] * ATTACKERS


@cache
def bomb() -> bytes:
    """100 MB in some hundred bytes."""
    return gzip.compress(gzip.compress(b'{"query": "{ viewer { role } }"}' + b" " * 100_000_000))


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
async def test_a_compressed_body_is_not_unpacked(gateway: Gateway, encoding: str) -> None:
    async with harmless(gateway):
        answer = await gateway.send(bomb(), f"Content-Encoding: {encoding}")

    assert (answer.status, code_of(answer)) == (415, "BAD_USER_INPUT")


async def test_a_chunked_body_is_bounded_while_it_comes(gateway: Gateway) -> None:
    head = post(b"", *gateway.key_lines("")).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    chunk = b"10000\r\n" + b"," * 65_536 + b"\r\n"

    async with harmless(gateway):
        status, _ = await first_answer(gateway, head + chunk * 40)

    assert status == 413


async def first_answer(gateway: Gateway, request: bytes) -> tuple[int, Any]:
    """What comes back, perhaps before all of the request has gone out."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        writer.write(request)
        answer = await asyncio.wait_for(read_response(reader), 5)
        return answer.status, answer
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


@pytest.mark.parametrize("sent", ["nothing", "half a head", "a head", "half a body"])
async def test_clients_that_stop_in_the_middle_are_waited_for_by_nobody(gateway: Gateway, sent: str) -> None:
    """What ends them, ten seconds later, is tested with shorter limits in `test_attacks.py`."""
    document = 'mutation { track(input: { event: { eventType: "half.sent" } }) { duplicate } }'
    request = post(query(document), *gateway.key_lines(""))
    cut = {"nothing": 0, "half a head": 20, "a head": request.index(b"\r\n\r\n") + 4, "half a body": len(request) - 1}
    connections = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(100)]

    async with harmless(gateway):
        for _, writer in connections:
            writer.write(request[: cut[sent]])
        await asyncio.sleep(0.2)

    for _, writer in connections:
        writer.close()


@pytest.mark.parametrize(
    "frames",
    [
        b"\x81",  # a text frame's first byte
        b"\x81\xfe\x10\x00" + bytes(4) + b"x" * 10,  # ten bytes of 4,096
        b"\x01\x81" + bytes(4) + b"{",  # a message's first fragment, and no more
        b"\x81\xff" + (2**62).to_bytes(8, "big") + bytes(4),  # a frame of 4 exabytes is announced
    ],
)
async def test_half_a_frame_and_then_silence_is_waited_for_by_nobody(gateway: Gateway, frames: bytes) -> None:
    upgrade = (
        b"GET /graphql HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
    )
    connections = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(20)]

    async with harmless(gateway):
        for reader, writer in connections:
            writer.write(upgrade)
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            writer.write(frames)
        await asyncio.sleep(0.2)

    for _, writer in connections:
        writer.close()


async def test_a_socket_message_over_2_mib_closes_the_socket(gateway: Gateway) -> None:
    async with harmless(gateway), open_socket(gateway) as socket:
        await socket.send({"id": "1", "type": "subscribe", "payload": {"query": "," * 2_200_000}})
        code, _ = await socket.closed()

    assert code == 1009


async def test_values_that_can_never_work_end_their_operation_over_a_socket_too(gateway: Gateway) -> None:
    track = "mutation ($e: EventInput!) { track(input: { event: $e }) { duplicate } }"
    good = orjson.dumps({"id": "ID", "type": "subscribe", "payload": {"query": track, "variables": {"e": "EVENT"}}})
    events = [
        b'{"eventType": 5}',
        b'{"eventType": "a", "unknown": 1}',
        b'{"eventType": "a", "userId": "\\u0000"}',
        b'{"eventType": "a", "userId": "\\ud800"}',
        b'{"eventType": "a", "properties": {"a": 9223372036854775808}}',
        b'{"eventType": "a", "properties": {"a": ' + b"[" * 500 + b"]" * 500 + b"}}",
    ]
    codes = []

    async with harmless(gateway), open_socket(gateway) as socket:
        for number, event in enumerate(events):
            await socket.send(good.replace(b"ID", str(number).encode()).replace(b'"EVENT"', event).decode())
            message = await socket.receive()
            assert (message["type"], message["id"]) == ("error", str(number))
            codes.append(message["payload"][0]["extensions"]["code"])

    assert codes == ["BAD_USER_INPUT"] * len(events)


async def test_a_socket_message_nested_a_thousand_deep_is_no_message(gateway: Gateway) -> None:
    nested = "[" * 1000 + "]" * 1000

    async with harmless(gateway), open_socket(gateway) as socket:
        await socket.send(
            f'{{"id": "1", "type": "subscribe", "payload": {{"query": "", "variables": {{"a": {nested}}}}}}}'
        )

        assert await socket.closed() == (4400, "A message must be well-formed JSON, and not nested too deep")


async def test_a_thousand_wildcards_against_a_long_name_cost_nothing(gateway: Gateway) -> None:
    """Patterns that make a backtracking matcher run for ever, in SQL and in memory."""
    patterns = [("*a" * 90)[: 180 + number % 9] + "b" + str(number) for number in range(200)]
    event_filter = {"eventTypes": patterns}
    stream = "subscription ($f: EventFilter) { eventStream(filter: $f) { cursor } }"

    async with harmless(gateway, stored=20), open_socket(gateway) as socket:
        await socket.subscribe("1", stream, f=event_filter)
        await socket.position("1")
        for _ in range(20):
            await gateway.track(eventType="a" * 200)
        listed = await gateway.data("query ($f: EventFilter) { events(filter: $f) { totalCount } }", f=event_filter)

    assert listed == {"events": {"totalCount": 0}}
