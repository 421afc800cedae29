"""GraphQL over HTTP as bytes on a socket: what is asked, what comes back, and that nothing ran which must not."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from urllib.parse import quote, urlencode

import orjson
import pytest

from tests.acceptance.http_server import Server, exchange, get, post, query, read_response, served

GRAPHQL = "application/graphql-response+json"
JSON = "application/json; charset=utf-8"
GRAPHQL_JSON = "application/graphql-response+json; charset=utf-8"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with served("audits") as started:
        yield started


@pytest.fixture(scope="module")
def draft_server() -> Iterator[Server]:
    with served("draft") as started:
        yield started


async def runs(server: Server) -> object:
    """How often a mutation has run so far."""
    response = await exchange(server.port, post(query("{ runs }")))
    return response.json["data"]["runs"]  # type: ignore[index]


async def test_a_query_is_answered_with_exact_headers_and_body(server: Server) -> None:
    response = await exchange(server.port, post(query("{ hello }")))

    assert (response.status, response.body) == (200, b'{"data":{"hello":"Hello, world!"}}')
    assert response.headers["content-type"] == JSON
    assert response.headers["vary"] == "Accept"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "server" not in response.headers


@pytest.mark.parametrize(
    ("accept", "status", "content_type"),
    [
        # the new type where it is asked for, by name, by quality or by order
        (GRAPHQL, 200, GRAPHQL_JSON),
        (f"{GRAPHQL}, application/json;q=0.9", 200, GRAPHQL_JSON),
        (f"application/json;q=0.5, {GRAPHQL};q=0.6", 200, GRAPHQL_JSON),
        (f"{GRAPHQL}, application/json", 200, GRAPHQL_JSON),
        ("APPLICATION/GraphQL-Response+JSON", 200, GRAPHQL_JSON),
        # urql's, which names streams last
        (
            f"{GRAPHQL}, application/graphql+json, application/json, text/event-stream, multipart/mixed",
            200,
            GRAPHQL_JSON,
        ),
        # the old one where it is asked for, and where anything will do
        (f"application/json, {GRAPHQL}", 200, JSON),
        ("*/*", 200, JSON),
        ("application/*", 200, JSON),
        ("text/html, */*;q=0.1", 200, JSON),
        # q=0 is never
        ("*/*, application/json;q=0", 200, GRAPHQL_JSON),
        (f"*/*, application/json;q=0, {GRAPHQL};q=0.0, text/event-stream;q=0", 406, JSON),
        ("text/html", 406, JSON),
        ("image/png, text/*", 501, JSON),
        ("nonsense", 406, JSON),
    ],
)
async def test_accept_decides_the_media_type(server: Server, accept: str, status: int, content_type: str) -> None:
    response = await exchange(server.port, post(query("{ hello }"), f"Accept: {accept}"))

    assert response.status == status
    if status != 501:  # which is where the streams would be
        assert response.headers["content-type"] == content_type


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("Application/JSON", 200),
        ("application/json; charset=utf-8", 200),
        ('application/json;charset="UTF-8"; other=1', 200),
        ("application/json; charset=latin-1", 415),
        ("text/plain", 415),
        # browsers that do not follow Fetch would send these without a preflight
        ("text/plain, application/json", 415),
        ("text/plain; application/json", 415),
        ("application/json-seq", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/graphql", 415),
        ("", 415),
        (None, 415),
    ],
)
async def test_only_json_in_utf8_is_read_and_runs(server: Server, content_type: str | None, status: int) -> None:
    before = await runs(server)

    response = await exchange(server.port, post(query("mutation { bump }"), content_type=content_type))

    assert response.status == status
    assert await runs(server) == before + (1 if status == 200 else 0)  # type: ignore[operator]


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "GZIP", "identity, gzip"])
async def test_compressed_bodies_are_refused_unread(server: Server, encoding: str) -> None:
    response = await exchange(server.port, post(b"\x1f\x8b" + bytes(100), f"Content-Encoding: {encoding}"))

    assert (response.status, response.code) == (415, "BAD_USER_INPUT")


@pytest.mark.parametrize("method", ["PATCH", "HEAD", "TRACE", "OPTIONS"])
async def test_other_methods_are_405_with_allow(server: Server, method: str) -> None:
    request = f"{method} /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request.encode())
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()

    assert head.startswith(b"HTTP/1.1 405 ")
    assert b"allow: GET, POST\r\n" in head


@pytest.mark.parametrize(
    ("body", "status", "draft_status"),
    [
        # no JSON at all
        (b"", 400, 400),
        (b'{ "not a JSON', 400, 400),
        (b'{"query":"{hello}"} trailing', 400, 400),
        (b"\xff\xfe", 400, 400),
        (b'{"query":"{ hello(name: \\"\xff\\") }"}', 400, 400),
        # JSON, but no request
        (b"null", 400, 422),
        (b"0", 400, 422),
        (b'"text"', 400, 422),
        (b"true", 400, 422),
        (b"[]", 400, 422),
        (b"[null]", 400, 422),
        (b"[[]]", 400, 422),
        (b'[{"query":"{hello}"}]', 400, 422),
        (b"{}", 400, 422),
        (b'{"query":null}', 400, 422),
        (b'{"query":1}', 400, 422),
        (b'{"query":"{hello}","operationName":[]}', 400, 422),
        (b'{"query":"{hello}","variables":"{}"}', 400, 422),
        (b'{"query":"{hello}","variables":[]}', 400, 422),
        (b'{"query":"{hello}","extensions":"x"}', 400, 422),
        # too much of something
        (b'{"query":"{hello}","variables":{"a":' + b"[" * 5000 + b"]" * 5000 + b"}}", 400, 400),
        (b'{"query":' + b"[" * 20_000, 400, 400),
        (b'{"query":"{hello}","variables":{"a":' + b"7" * 5000 + b"}}", 400, 400),
        (b'{"query":"{hello}","variables":{"a":18446744073709551616}}', 400, 400),
        (b'{"query":"{hello}","variables":{"a":-1e999}}', 400, 400),
        (b'{"query":"{hello}","variables":{"a":"\\u0000"}}', 400, 400),
        (b'{"query":"{hello}","variables":{"a":"\\ud800"}}', 400, 400),
    ],
)
async def test_bytes_that_are_no_request_are_4xx(
    server: Server, draft_server: Server, body: bytes, status: int, draft_status: int
) -> None:
    for accept in (GRAPHQL, "application/json"):
        response = await exchange(server.port, post(body, f"Accept: {accept}"))
        assert (response.status, response.code) == (status, "BAD_USER_INPUT")
        assert set(response.json) == {"errors"}
        drafted = await exchange(draft_server.port, post(body, f"Accept: {accept}"))
        assert (drafted.status, drafted.code) == (draft_status, "BAD_USER_INPUT")


@pytest.mark.parametrize(
    ("document", "members", "code", "statuses"),
    [
        # statuses: audits with the new type and with JSON, then the draft's
        ("{", {}, "GRAPHQL_PARSE_FAILED", (400, 200, 400)),
        ("{ nope }", {}, "GRAPHQL_VALIDATION_FAILED", (400, 200, 422)),
        ('query($n: Int!) { broken(code: "x") hello @skip(if: $n) }', {}, "GRAPHQL_VALIDATION_FAILED", (400, 200, 422)),
        ("query($n: ID!) { hello }", {}, "GRAPHQL_VALIDATION_FAILED", (400, 200, 422)),
        ("query($n: String!) { hello(name: $n) }", {"variables": {"n": 1}}, "BAD_USER_INPUT", (400, 200, 422)),
        ("query($n: String!) { hello(name: $n) }", {}, "BAD_USER_INPUT", (400, 200, 422)),
        ("query A { hello } query B { hello }", {}, "BAD_USER_INPUT", (400, 200, 422)),
        ("query A { hello }", {"operationName": "B"}, "BAD_USER_INPUT", (400, 200, 422)),
        ("query A { hello }", {"operationName": ""}, "BAD_USER_INPUT", (400, 200, 422)),
        ('{ broken(code: "FORBIDDEN") }', {}, "FORBIDDEN", (403, 200, 403)),
        ('{ broken(code: "X") }', {}, "X", (400, 200, 400)),
        ("{ slow(ms: 5000) }", {}, "TIMEOUT", (504, 504, 504)),
        # data beside errors
        ('{ hello refused(code: "FORBIDDEN") }', {}, "FORBIDDEN", (200, 200, 294)),
        ("{ crash }", {}, "INTERNAL", (200, 200, 294)),
    ],
)
async def test_statuses_follow_the_profile(
    server: Server,
    draft_server: Server,
    document: str,
    members: dict[str, object],
    code: str,
    statuses: tuple[int, int, int],
) -> None:
    body = query(document, **members)
    answers = [
        await exchange(server.port, post(body, f"Accept: {GRAPHQL}")),
        await exchange(server.port, post(body, "Accept: application/json")),
        await exchange(draft_server.port, post(body, f"Accept: {GRAPHQL}")),
        await exchange(draft_server.port, post(body, "Accept: application/json")),
    ]

    assert tuple(answer.status for answer in answers[:3]) == statuses
    assert answers[3].status == answers[2].status
    assert {answer.code for answer in answers} == {code}


async def test_an_ambiguous_request_runs_nothing(server: Server) -> None:
    before = await runs(server)
    document = "mutation First { bump } query Second { hello }"

    ambiguous = await exchange(server.port, post(query(document)))
    chosen = await exchange(server.port, post(query(document, operationName="Second")))

    assert ambiguous.code == "BAD_USER_INPUT"
    assert "data" not in ambiguous.json
    assert chosen.json == {"data": {"hello": "Hello, world!"}}
    assert await runs(server) == before


@pytest.mark.parametrize("accept", [GRAPHQL, "application/json"])
async def test_subscriptions_do_not_go_over_a_single_response(server: Server, accept: str) -> None:
    response = await exchange(server.port, post(query("subscription { ticks }"), f"Accept: {accept}"))

    assert (response.status, set(response.json)) == (400, {"errors"})
    assert "WebSocket" in response.body.decode()


async def test_a_mutation_by_get_is_405_and_does_not_run(server: Server) -> None:
    before = await runs(server)

    response = await exchange(server.port, get(urlencode({"query": "mutation { bump }"})))

    assert (response.status, response.headers["allow"]) == (405, "POST")
    assert await runs(server) == before


async def test_get_takes_variables_and_empty_parameters_as_absent(server: Server) -> None:
    parameters = {
        "query": "query Q($n: String) { hello(name: $n) }",
        "variables": '{"n":"Zoë"}',
        "operationName": "",
        "extensions": "",
        "unknown": "ignored",
    }

    response = await exchange(server.port, get(urlencode(parameters)))

    assert response.json == {"data": {"hello": "Hello, Zoë!"}}


@pytest.mark.parametrize(
    "query_string",
    [
        "",
        "query=",
        "query=%ff",
        "query=" + quote("{hello}") + "&variables=[]",
        "query=" + quote("{hello}") + "&variables=%7Bx",
        "query=" + quote("{hello}") + "&extensions=1",
        "query=" + quote("{hello}") + "&query=" + quote("{runs}"),
        "&".join(f"p{i}=1" for i in range(100)),
        "query=" + quote('{hello(name:"\0")}'),
    ],
)
async def test_malformed_urls_are_400(server: Server, query_string: str) -> None:
    response = await exchange(server.port, get(query_string))

    assert (response.status, response.code) == (400, "BAD_USER_INPUT")


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Sec-Fetch-Site: cross-site"], 403),
        (["Sec-Fetch-Site: Cross-Site", "Accept: */*"], 403),
        (["Sec-Fetch-Site: cross-site", "GraphQL-Require-Preflight: 1"], 200),
        (["Sec-Fetch-Site: cross-site", "Apollo-Require-Preflight: true"], 200),
        (["Sec-Fetch-Site: cross-site", "X-Api-Key: some"], 200),
        (["Sec-Fetch-Site: same-origin"], 200),
        (["Sec-Fetch-Site: none"], 200),
        ([], 200),
    ],
)
async def test_another_site_cannot_query_by_get_without_a_preflight(
    server: Server, lines: list[str], status: int
) -> None:
    response = await exchange(server.port, get(urlencode({"query": "{ hello }"}), *lines))

    assert response.status == status


async def test_what_a_resolver_raised_is_masked(server: Server) -> None:
    response = await exchange(server.port, post(query("{ crash hello }")))

    error = response.json["errors"][0]  # type: ignore[index]
    assert (error["message"], error["path"]) == ("Internal error.", ["crash"])
    assert error["extensions"].keys() == {"code", "id", "requestId"}
    assert error["extensions"]["id"] == error["extensions"]["requestId"] == response.headers["x-request-id"]
    assert response.json["data"] == {"crash": None, "hello": "Hello, world!"}
    assert b"secret" not in response.body


@pytest.mark.parametrize(
    ("key", "status", "code", "header"),
    [
        ("unauthenticated", 401, "UNAUTHENTICATED", ("www-authenticate", "Bearer")),
        ("limited", 429, "RATE_LIMITED", ("retry-after", "2")),
        ("down", 503, "UNAVAILABLE", ("retry-after", "1")),
        ("crash", 500, "INTERNAL", ("content-type", JSON)),
    ],
)
async def test_a_caller_who_is_not_let_in_runs_nothing(
    server: Server, key: str, status: int, code: str, header: tuple[str, str]
) -> None:
    before = await runs(server)

    response = await exchange(server.port, post(query("mutation { bump }"), f"X-Api-Key: {key}"))

    assert (response.status, response.code, set(response.json)) == (status, code, {"errors"})
    assert response.headers[header[0]] == header[1]
    assert await runs(server) == before


async def test_persisted_queries_are_registered_by_hash_and_found_over_post_and_get(server: Server) -> None:
    text = '{ hello(name: "persisted") }'
    persisted = {"persistedQuery": {"version": 1, "sha256Hash": hashlib.sha256(text.encode()).hexdigest()}}
    by_hash = orjson.dumps({"extensions": persisted})
    expected = {"data": {"hello": "Hello, persisted!"}}

    missing = await exchange(server.port, post(by_hash))
    registering = await exchange(server.port, post(query(text, extensions=persisted)))
    by_post = await exchange(server.port, post(by_hash))
    by_get = await exchange(server.port, get(urlencode({"extensions": orjson.dumps(persisted).decode()})))

    assert (missing.json["errors"][0]["message"], missing.code) == (  # type: ignore[index]
        "PersistedQueryNotFound",
        "PERSISTED_QUERY_NOT_FOUND",
    )
    assert [registering.json, by_post.json, by_get.json] == [expected] * 3


async def test_a_lie_about_a_hash_is_refused_and_not_stored(server: Server) -> None:
    wanted = hashlib.sha256(b"{ runs }").hexdigest()
    persisted = {"persistedQuery": {"version": 1, "sha256Hash": wanted}}

    lie = await exchange(server.port, post(query("mutation { bump }", extensions=persisted)))
    later = await exchange(server.port, post(orjson.dumps({"extensions": persisted})))

    assert (lie.code, later.code) == ("BAD_USER_INPUT", "PERSISTED_QUERY_NOT_FOUND")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_two_mebibytes_is_413_however_it_is_sent(server: Server, chunked: bool) -> None:
    body = query("{ hello }", variables={"x": "x" * (20 * 1024 * 1024)})
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = "POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    writer.write(f"{head}{length}\r\n\r\n".encode())
    writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body)
    await writer.drain()

    response = await read_response(reader)

    assert (response.status, response.code) == (413, "COST_EXCEEDED")
    assert "2097152" in response.body.decode()
    writer.write(post(query("{ hello }")))  # the connection is still good
    assert (await read_response(reader)).status == 200
    writer.close()


async def test_a_body_of_just_under_two_mebibytes_is_read(server: Server) -> None:
    name = "x" * (2 * 1024 * 1024 - 200)
    body = query("query($n: String) { hello(name: $n) }", variables={"n": name})

    response = await exchange(server.port, post(body))

    assert response.json == {"data": {"hello": f"Hello, {name}!"}}


async def test_requests_on_one_connection_are_answered_in_order(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    names = [f"name {number}" for number in range(20)]
    writer.write(b"".join(post(query("query($n: String){hello(name:$n)}", variables={"n": name})) for name in names))

    answers = [(await read_response(reader)).json for _ in names]

    writer.close()
    assert answers == [{"data": {"hello": f"Hello, {name}!"}} for name in names]
