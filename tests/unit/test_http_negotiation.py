"""Which media type, which status, which transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from graphql import ExecutionResult, GraphQLError
from hypothesis import given
from hypothesis import strategies as st

from transport.endpoint import GraphQLEndpoint
from transport.http.negotiation import EVERYTHING, MediaType, choose_media_type, is_json
from transport.http.statuses import StatusProfile, headers_of_errors, status_of_errors, status_of_result

NEW, OLD, STREAM = MediaType.GRAPHQL_RESPONSE, MediaType.JSON, MediaType.EVENT_STREAM
AUDITS, DRAFT = StatusProfile.AUDITS, StatusProfile.DRAFT


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, OLD),
        ("*/*", OLD),
        ("application/*", OLD),
        ("", None),
        (",", None),
        ("application/json", OLD),
        ("application/graphql-response+json", NEW),
        ("Application/GraphQL-Response+JSON", NEW),
        # quality before order, order before our own preference
        ("application/graphql-response+json, application/json", NEW),
        ("application/json, application/graphql-response+json", OLD),
        ("application/json;q=0.8, application/graphql-response+json;q=0.9", NEW),
        ("application/graphql-response+json;q=0.1, */*;q=0.2", OLD),
        ("application/graphql-response+json, */*", NEW),
        # never
        ("application/json;q=0, */*", NEW),
        ("application/json;q=0", None),
        ("*/*;q=0", None),
        ("application/json;Q=0.000, application/graphql-response+json;q=0.001", NEW),
        # the more specific range speaks, wherever it stands
        ("*/*;q=0.9, application/json;q=0.1, application/graphql-response+json;q=0.2", NEW),
        ("application/*;q=0.1, */*;q=0.9", OLD),
        # parameters, blanks, quoted commas
        ("application/json ; charset=utf-8 ; q=0.5 , application/graphql-response+json ; q=0.4", OLD),
        ('text/plain;x="a,b;q=1", application/json', OLD),
        ('text/plain;x="\\",application/json"', None),
        # no numbers are no elements
        ("application/json;q=high", None),
        ("application/json;q=2", None),
        ("application/json;q=nan", None),
        ("json", None),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", OLD),
    ],
)
def test_accept_chooses_between_the_two_responses(accept: str | None, chosen: MediaType | None) -> None:
    assert choose_media_type(accept) is chosen


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("text/event-stream", STREAM),
        ("text/*", STREAM),
        ("text/event-stream, application/json;q=0.9", STREAM),
        # urql names it last, in every query
        ("application/graphql-response+json, application/json, text/event-stream, multipart/mixed", NEW),
        ("text/event-stream;q=0, */*", OLD),
        ("text/event-stream;q=0", None),
        ("*/*", OLD),
        (None, OLD),
    ],
)
def test_streams_are_chosen_only_where_they_come_first(accept: str | None, chosen: MediaType | None) -> None:
    assert choose_media_type(accept, EVERYTHING) is chosen


@given(st.text(st.sampled_from('application/json,;q=0.5* "\\'), max_size=60))
def test_no_accept_header_raises(accept: str) -> None:
    assert choose_media_type(accept) in (None, NEW, OLD)


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/json", True),
        ("APPLICATION/JSON ; Charset=UTF-8", True),
        ('application/json;charset="utf-8";profile=x', True),
        ("application/json;charset=utf8", True),
        ("application/json;charset=utf-16", False),
        ("application/json, text/plain", False),
        ("application/jsonp", False),
        ("application/graphql+json", False),
        ("text/plain;application/json", False),
        ("", False),
        (None, False),
    ],
)
def test_only_json_is_json(content_type: str | None, expected: bool) -> None:
    assert is_json(content_type) is expected


def error(code: str, **extensions: object) -> GraphQLError:
    return GraphQLError("…", extensions={"code": code, **extensions})


@pytest.mark.parametrize(
    ("code", "statuses"),
    [
        # audits with JSON and with the new type, the draft with JSON and with the new type
        ("GRAPHQL_PARSE_FAILED", (200, 400, 400, 400)),
        ("GRAPHQL_VALIDATION_FAILED", (200, 400, 422, 422)),
        ("BAD_USER_INPUT", (200, 400, 422, 422)),
        ("COST_EXCEEDED", (200, 400, 422, 422)),
        ("PERSISTED_QUERY_NOT_FOUND", (200, 400, 422, 422)),
        ("UNAUTHENTICATED", (401, 401, 401, 401)),
        ("RATE_LIMITED", (429, 429, 429, 429)),
        ("UNAVAILABLE", (503, 503, 503, 503)),
        ("INTERNAL", (500, 500, 500, 500)),
    ],
)
def test_status_of_a_request_that_never_ran(code: str, statuses: tuple[int, ...]) -> None:
    found = [status_of_errors([error(code)], kind, profile) for profile in (AUDITS, DRAFT) for kind in (OLD, NEW)]

    assert tuple(found) == statuses


@pytest.mark.parametrize(
    ("data", "code", "statuses"),
    [
        ({"a": 1}, None, (200, 200, 200, 200)),
        ({"a": None}, "FORBIDDEN", (200, 200, 294, 294)),
        (None, "FORBIDDEN", (200, 403, 403, 403)),
        (None, "INTERNAL", (200, 500, 500, 500)),
        (None, "CURSOR_EXPIRED", (200, 400, 400, 400)),
        (None, "TIMEOUT", (504, 504, 504, 504)),
    ],
)
def test_status_of_an_operation_that_ran(
    data: dict[str, Any] | None, code: str | None, statuses: tuple[int, ...]
) -> None:
    result = ExecutionResult(data, [error(code)] if code else None)

    found = [status_of_result(result, kind, profile) for profile in (AUDITS, DRAFT) for kind in (OLD, NEW)]

    assert tuple(found) == statuses


@pytest.mark.parametrize(
    ("milliseconds", "seconds"), [(1, 1), (1000, 1), (1001, 2), (0, 1), ("soon", None), (None, None)]
)
def test_retry_after_is_in_whole_seconds(milliseconds: object, seconds: int | None) -> None:
    errors = [error("RATE_LIMITED", retryAfterMs=milliseconds)]
    expected = () if seconds is None else ((b"retry-after", str(seconds).encode()),)

    assert [headers_of_errors(status, errors) for status in (429, 503, 400)] == [expected, expected, ()]


@pytest.mark.parametrize(
    ("method", "path", "headers", "transport"),
    [
        ("POST", "", {}, "http"),
        ("POST", "", {"accept": "application/json, text/event-stream"}, "http"),
        ("POST", "", {"accept": "text/event-stream"}, "event_stream"),
        ("GET", "query={a}", {"accept": "text/event-stream"}, "event_stream"),
        ("PUT", "", {"accept": "*/*"}, "event_stream"),
        ("DELETE", "operationId=1", {}, "event_stream"),
        ("POST", "", {"x-graphql-event-stream-token": "t"}, "event_stream"),
        ("GET", "token=t", {}, "event_stream"),
        ("GET", "query={a}&token=t", {}, "event_stream"),
        ("GET", "query={token=}", {}, "http"),
        ("GET", "", {"accept": "text/html,*/*"}, "explorer"),
        ("GET", "query={a}", {"accept": "*/*"}, "http"),
        ("PATCH", "", {"accept": "text/html"}, "http"),
    ],
)
async def test_a_request_goes_to_the_transport_that_speaks_its_protocol(
    method: str, path: str, headers: dict[str, str], transport: str
) -> None:
    reached: list[str] = []

    def named(name: str) -> Callable[..., Any]:
        async def app(_scope: object, _receive: object, _send: object) -> None:
            reached.append(name)

        return app

    endpoint = GraphQLEndpoint(
        http=named("http"),
        websocket=named("websocket"),
        event_stream=named("event_stream"),
        explorer=named("explorer"),
        wants_page=lambda method, accept: method == "GET" and accept.startswith("text/html"),
    )
    scope = {
        "type": "http",
        "method": method,
        "query_string": path.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }

    await endpoint(scope, None, None)  # type: ignore[arg-type]
    await endpoint({**scope, "type": "websocket"}, None, None)  # type: ignore[arg-type]

    assert reached == [transport, "websocket"]
