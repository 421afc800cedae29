"""From JSON text and URLs to requests."""

from __future__ import annotations

import json
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.errors import RequestError
from transport.execution.requests import GraphQLRequest, read_parameters, read_request


def variables_of(request: GraphQLRequest) -> object:
    assert isinstance(request.variables, msgspec.Raw)
    return msgspec.json.decode(request.variables)


@pytest.mark.parametrize("kind", [bytes, str])
def test_a_request_is_read_with_its_variables_undecoded(kind: type) -> None:
    text = '{"query":"{a}","operationName":"A","variables": {"n":"é"} ,"extensions":{"x":[1]},"unknown":1}'

    request = read_request(text.encode() if kind is bytes else text)

    assert (request.query, request.operation_name, request.extensions) == ("{a}", "A", {"x": [1]})
    assert variables_of(request) == {"n": "é"}


def test_null_means_absent() -> None:
    request = read_request(b'{"query":"{a}","operationName":null,"variables":null,"extensions":null}')

    assert request == GraphQLRequest("{a}")


def test_a_persisted_query_needs_no_text() -> None:
    request = read_request(b'{"extensions":{"persistedQuery":{"version":1,"sha256Hash":"x"}}}')

    assert request.query is None


@pytest.mark.parametrize(
    ("text", "message", "ill_typed"),
    [
        (b"", "The request is not valid JSON.", False),
        (b"{", "The request is not valid JSON.", False),
        (b"\xff", "The request is not valid UTF-8.", False),
        (b"3", "The request must be a JSON object.", True),
        (b" [1]", "Batches are not supported: send one request at a time.", True),
        (b"{}", "The request has no `query`.", True),
        (b'{"query":[]}', "`query` must be a string.", True),
        (b'{"query":"","operationName":1}', "`operationName` must be a string or null.", True),
        (b'{"query":"","variables":1}', "`variables` must be an object or null.", True),
        (b'{"query":"","variables":[]}', "`variables` must be an object or null.", True),
        (b'{"query":"","extensions":[]}', "`extensions` must be an object or null.", True),
        (b'{"query":"\\u0000"}', "Strings must not contain NUL (U+0000).", False),
    ],
)
def test_what_is_no_request_is_refused_in_a_sentence(text: bytes, message: str, ill_typed: bool) -> None:
    with pytest.raises(RequestError) as refused:
        read_request(text)

    assert (refused.value.message, refused.value.code, refused.value.ill_typed) == (
        message,
        "BAD_USER_INPUT",
        ill_typed,
    )


def test_text_with_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(RequestError, match="UTF-8"):
        read_request('{"query":"\ud800"}')


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(text: bytes) -> None:
    with suppress(RequestError):
        read_request(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["query", "variables", "x"]), inner),
        max_leaves=10,
    )
)
def test_no_json_raises_anything_else(value: object) -> None:
    with suppress(RequestError):
        read_request(json.dumps(value).encode())


def test_an_empty_parameter_is_absent() -> None:
    parameters = {"query": "{a}", "operationName": "", "variables": "", "extensions": ""}

    assert read_parameters(parameters) == GraphQLRequest("{a}")


def test_parameters_hold_json() -> None:
    request = read_parameters({"query": "{a}", "variables": '{"n":1}', "extensions": '{"e":2}'})

    assert (variables_of(request), request.extensions) == ({"n": 1}, {"e": 2})


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"query": ""},
        {"query": "{a}", "variables": "[]"},
        {"query": "{a}", "variables": "{"},
        {"query": "{a}", "variables": '{"n":"\\u0000"}'},
        {"query": "{a}", "extensions": "3"},
        {"query": "{a}\0"},
    ],
)
def test_malformed_parameters_are_refused(parameters: dict[str, str]) -> None:
    with pytest.raises(RequestError):
        read_parameters(parameters)
