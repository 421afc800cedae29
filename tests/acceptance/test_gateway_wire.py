"""The published audits against the whole gateway, and what a page of another site cannot do with a browser."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote, urlencode

import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.acceptance.gateway_client import FOLLOW, SUBPROTOCOLS, TRACK, Gateway, code_of, harmless, open_event_source
from tests.acceptance.http_server import exchange, get, post, query
from tests.acceptance.test_http_audits import audits, failed_audits

__all__ = ["audits"]

MUTATION = 'mutation { track(input: { event: { eventType: "cross.site" } }) { duplicate } }'
ELSEWHERE = ("Origin: https://evil.example", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors")
PAGE = "Origin: https://shop.example"


@pytest.mark.parametrize("with_key", [False, True])
async def test_all_61_audits_pass(gateway: Gateway, audits: str, with_key: bool) -> None:
    """Without a key, too: what the audits ask needs none."""
    if with_key:
        async with proxy_with_key(gateway) as port:
            count, failures = await asyncio.to_thread(failed_audits, audits, f"http://127.0.0.1:{port}/graphql")
    else:
        count, failures = await asyncio.to_thread(failed_audits, audits, gateway.url)

    assert failures == {}
    assert count == 61


class proxy_with_key:  # noqa: N801, used like a function
    """A port that adds the key to each request on its way to the gateway: the audits know no keys."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._gateway.port)
        answering = asyncio.create_task(self._answer(upstream_reader, writer))
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                upstream.write(head[:-2] + f"x-api-key: {self._gateway.secret_key}\r\n\r\n".encode())
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                if lengths:
                    upstream.write(await reader.readexactly(int(lengths[0].split(b":")[1])))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            upstream.close()
            await answering
            writer.close()

    @staticmethod
    async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65_536):
            writer.write(chunk)


FORMS = {
    # what <form> sends, by enctype
    "form": ("application/x-www-form-urlencoded", urlencode({"query": MUTATION}).encode()),
    "form of JSON": ("application/x-www-form-urlencoded", query(MUTATION)),
    "multipart": (
        "multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="query"\r\n\r\n' + MUTATION.encode() + b"\r\n--b--\r\n",
    ),
    "multipart upload": (
        "multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="operations"\r\n\r\n' + query(MUTATION) + b"\r\n--b--\r\n",
    ),
    "text": ("text/plain", query(MUTATION)),
    "text in UTF-8": ("text/plain; charset=utf-8", query(MUTATION)),
    # what fetch() and sendBeacon() may send without asking
    "none": (None, query(MUTATION)),
    "empty": ("", query(MUTATION)),
    "JSON hidden in a parameter": ("text/plain; application/json", query(MUTATION)),
    "JSON after a comma": ("text/plain, application/json", query(MUTATION)),
    "GraphQL": ("application/graphql", MUTATION.encode()),
}


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
@pytest.mark.parametrize("form", FORMS)
async def test_no_form_of_another_site_runs_a_mutation(gateway: Gateway, form: str, accept: str) -> None:
    """With the key as well, as if a proxy in front had put it there."""
    content_type, body = FORMS[form]

    async with harmless(gateway):
        answer = await gateway.send(body, *ELSEWHERE, f"Accept: {accept}", content_type=content_type)

    assert answer.status == 415


@pytest.mark.parametrize("lines", [(), ELSEWHERE, ("Accept: text/event-stream",), (*ELSEWHERE, "Accept: text/html")])
async def test_a_mutation_by_get_is_not_run(gateway: Gateway, lines: tuple[str, ...]) -> None:
    async with harmless(gateway):
        answer = await exchange(gateway.port, get(f"query={quote(MUTATION)}", *gateway.key_lines(""), *lines))

    if "Accept: text/html" in lines:
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/html")
    else:
        assert (answer.status, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
async def test_a_query_by_get_from_another_site_is_not_run_without_a_preflight(gateway: Gateway, accept: str) -> None:
    request = get(f"query={quote('{ viewer { role } }')}", *ELSEWHERE, f"Accept: {accept}")

    async with harmless(gateway):
        answer = await exchange(gateway.port, request)

    assert (answer.status, code_of(answer)) == (403, "FORBIDDEN")


async def test_another_site_is_not_let_through_by_its_preflight(gateway: Gateway) -> None:
    """Nor may it read an answer: no origin is named in the settings."""
    preflight = (
        b"OPTIONS /graphql HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n"
        b"Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type,x-api-key\r\n\r\n"
    )

    asked = await exchange(gateway.port, preflight)
    answered = await gateway.ask("{ viewer { role } }", *ELSEWHERE)

    assert asked.status == 405
    for answer in (asked, answered):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_a_socket_from_another_site_is_refused(gateway: Gateway) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        async with connect(gateway.websocket_url, subprotocols=SUBPROTOCOLS, origin="https://evil.example"):
            pass

    assert refusal.value.response.status_code == 403


async def test_an_event_stream_that_another_site_reserves_cannot_be_read_by_it(gateway: Gateway) -> None:
    """A browser asks first, and is refused (above); what answers one that does not ask is not for the page to read."""
    request = b"PUT /graphql HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n\r\n"

    answer = await exchange(gateway.port, request)

    assert answer.status == 201
    assert "access-control-allow-origin" not in answer.headers


INGEST_ALLOWED = {
    "track": 'mutation { track(input: { event: { eventType: "page.viewed" } }) { event { seq eventType } } }',
    "trackBatch": 'mutation { trackBatch(input: { events: [{ eventType: "page.viewed" }] }) { accepted } }',
    "identify": 'mutation { identify(input: { userId: "u", traits: { plan: "free" } }) { event { seq } } }',
    "viewer": "{ viewer { role project { id } organization { id } scopes } }",
}
INGEST_FORBIDDEN = {
    "events": "{ events { totalCount } }",
    "eventTypes": "{ eventTypes { edges { cursor } } }",
    "profile": '{ profile(userId: "u") { id } }',
    "profiles": "{ profiles { totalCount } }",
    "node": '{ node(id: "prj_00000000000000000000000000000000") { id } }',
    "nodes": '{ nodes(ids: ["prj_00000000000000000000000000000000"]) { id } }',
    "head": "{ viewer { project { head } } }",
    "name": "{ viewer { project { name } } }",
    "keys": "{ viewer { project { apiKeys { prefix } } } }",
    "organization": "{ viewer { organization { name } } }",
    "the person of an event": (
        'mutation { track(input: { event: { eventType: "a.b", userId: "u" } }) { event { profile { traits } } } }'
    ),
    "createProject": 'mutation { createProject(name: "x") { token } }',
    "createApiKey": 'mutation { createApiKey(name: "x", kind: SECRET, role: ADMIN) { token } }',
    "revokeApiKey": 'mutation { revokeApiKey(id: "key_00000000000000000000000000000000") { apiKey { id } } }',
}


@pytest.mark.parametrize("origin", [True, False])
@pytest.mark.parametrize("name", INGEST_ALLOWED)
async def test_a_publishable_key_writes(gateway: Gateway, name: str, origin: bool) -> None:
    lines = [PAGE] if origin else []

    answer: Any = (await gateway.ask(INGEST_ALLOWED[name], *lines, key=gateway.publishable_key)).json

    assert "errors" not in answer, answer


@pytest.mark.parametrize("name", INGEST_FORBIDDEN)
async def test_a_publishable_key_reads_nothing_and_manages_nothing(gateway: Gateway, name: str) -> None:
    stored = 1 if name == "the person of an event" else 0

    async with harmless(gateway, stored=stored):
        answer = await gateway.ask(INGEST_FORBIDDEN[name], PAGE, key=gateway.publishable_key)

    assert code_of(answer) == "FORBIDDEN"


async def test_a_publishable_key_follows_no_stream(gateway: Gateway) -> None:
    async with open_event_source(gateway, FOLLOW, key=gateway.publishable_key) as stream:
        errors = (await stream.item())["errors"]
        await stream.ended()
    async with connect(gateway.websocket_url, subprotocols=SUBPROTOCOLS) as socket:
        await socket.send(
            orjson.dumps({"type": "connection_init", "payload": {"x-api-key": gateway.publishable_key}}).decode()
        )
        assert orjson.loads(await socket.recv())["type"] == "connection_ack"
        await socket.send(orjson.dumps({"id": "1", "type": "subscribe", "payload": {"query": FOLLOW}}).decode())
        message = orjson.loads(await socket.recv())

    assert [error["extensions"]["code"] for error in errors] == ["FORBIDDEN"]
    assert message["type"] == "error"
    assert [error["extensions"]["code"] for error in message["payload"]] == ["FORBIDDEN"]


async def test_a_publishable_key_with_a_greater_role_is_cut_down_in_a_browser_only(gateway: Gateway) -> None:
    _, key = await gateway.make_key(role="VIEWER", kind="PUBLISHABLE")
    document = "{ viewer { role } events { totalCount } }"

    on_a_server = await gateway.ask(document, key=key)
    in_a_page = await gateway.ask(document, PAGE, key=key)

    assert "errors" not in on_a_server.json
    assert code_of(in_a_page) == "FORBIDDEN"


@pytest.mark.parametrize(
    "key",
    [
        None,
        "sk_us_prod_" + "A" * 43,
        "pk_us_dev_" + "A" * 43,
        "sk_eu_prod_" + "A" * 43,
        "sk_us_prod_",
        "Bearer",
        "x" * 10_000,
        "sk_us_prod_é" + "A" * 42,
    ],
)
async def test_a_wrong_key_is_unauthenticated_and_never_repeated(gateway: Gateway, key: str | None) -> None:
    async with harmless(gateway):
        body = query(TRACK, variables={"event": {"eventType": "a.b"}})
        answer = await exchange(gateway.port, post(body, *gateway.key_lines(key)))

    assert (code_of(answer), answer.headers.get("www-authenticate") is not None) == (
        "UNAUTHENTICATED",
        answer.status == 401,
    )
    assert key is None or key.encode() not in answer.body


async def test_a_key_in_the_address_counts_for_nothing(gateway: Gateway) -> None:
    parameters = f"query={quote('{ viewer { role } }')}&x-api-key={gateway.secret_key}"

    answer = await exchange(gateway.port, get(parameters))

    assert code_of(answer) == "UNAUTHENTICATED"


async def test_a_wrong_key_closes_a_socket_with_4403(gateway: Gateway) -> None:
    async with connect(gateway.websocket_url, subprotocols=SUBPROTOCOLS) as socket:
        init = {"type": "connection_init", "payload": {"x-api-key": "sk_us_prod_" + "A" * 43}}
        await socket.send(orjson.dumps(init).decode())
        with pytest.raises(ConnectionClosed):
            await socket.recv()

    assert (socket.close_code, socket.close_reason) == (4403, "This API key is not known.")
