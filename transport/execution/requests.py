"""From JSON text to a GraphQL request, the same for HTTP and WebSocket.

`read_request` accepts an object with `query`, `documentId`, `operationName`, `variables` and `extensions` of the right
types and ignores whatever else is there, as GraphQL over HTTP demands. `variables` stay undecoded JSON until the
document is known, so that a compiled decoder can take them. Nothing has been parsed as GraphQL yet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from transport.errors import RequestError
from transport.execution.json_bounds import NOT_JSON, check_json


class GraphQLRequest(msgspec.Struct, frozen=True):
    """One request as the client sent it. `variables` of type Raw are the JSON text of an object."""

    query: str | None = None
    operation_name: str | None = None
    variables: Mapping[str, Any] | msgspec.Raw | None = None
    extensions: Mapping[str, Any] | None = None
    document_id: str | None = None


class _Envelope(msgspec.Struct, frozen=True, rename="camel"):
    query: str | None = None
    operation_name: str | None = None
    variables: msgspec.Raw = msgspec.Raw(b"null")
    extensions: dict[str, Any] | None = None
    document_id: str | None = None


_DECODER = msgspec.json.Decoder(_Envelope)
_EXTENSIONS_DECODER = msgspec.json.Decoder(dict[str, Any] | None)
_FIELD = re.compile(r"`\$\.(query|documentId|operationName|variables|extensions)[`.\[]")
_EXPECTED = {
    "query": "a string",
    "documentId": "a string or null",
    "operationName": "a string or null",
    "variables": "an object or null",
    "extensions": "an object or null",
}


def read_request(value: bytes | str) -> GraphQLRequest:
    """Read the JSON text of one request.

    Raises `RequestError` for text that is no UTF-8 or no JSON, that passes the bounds of `json_bounds`, or that has
    another shape; also when there is neither a document nor the hash of one.
    """
    text = _utf8(value)
    check_json(text)
    try:
        envelope = _DECODER.decode(text)
    except msgspec.ValidationError as error:
        raise _wrong_shape(text, str(error)) from None
    except msgspec.DecodeError:
        raise RequestError(NOT_JSON) from None
    return _request(
        envelope.query, envelope.operation_name, envelope.variables, envelope.extensions, envelope.document_id
    )


def read_parameters(parameters: Mapping[str, str]) -> GraphQLRequest:
    """Read the request from the parameters of a URL, where an empty string means absent.

    Raises `RequestError` as `read_request` does.
    """
    extensions = parameters.get("extensions")
    return _request(
        parameters.get("query") or None,
        parameters.get("operationName") or None,
        _json_parameter("variables", parameters.get("variables")),
        _decoded_extensions(_json_parameter("extensions", extensions)) if extensions else None,
        parameters.get("documentId") or None,
    )


def _request(
    query: str | None,
    operation_name: str | None,
    variables: msgspec.Raw,
    extensions: dict[str, Any] | None,
    document_id: str | None,
) -> GraphQLRequest:
    if query is None and document_id is None and not (extensions and extensions.get("persistedQuery")):
        raise RequestError("The request has no `query`.", ill_typed=True)
    if query is not None and "\0" in query:
        raise RequestError("The query must not contain NUL (U+0000).")
    first = bytes(memoryview(variables)[:1])
    if first not in (b"{", b"n"):
        raise _wrong_type("variables")
    return GraphQLRequest(query, operation_name, variables if first == b"{" else None, extensions, document_id)


def _utf8(value: bytes | str) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise RequestError("The request is not valid UTF-8.") from None


def _json_parameter(name: str, value: str | None) -> msgspec.Raw:
    if not value:
        return msgspec.Raw(b"null")
    text = _utf8(value)
    check_json(text)
    try:
        return msgspec.json.decode(text, type=msgspec.Raw)
    except msgspec.DecodeError:
        raise RequestError(f"The parameter `{name}` is not valid JSON.") from None


def _decoded_extensions(raw: msgspec.Raw) -> dict[str, Any] | None:
    try:
        extensions: dict[str, Any] | None = _EXTENSIONS_DECODER.decode(raw)
    except msgspec.ValidationError:
        raise _wrong_type("extensions") from None
    return extensions


def _wrong_shape(text: bytes, reason: str) -> RequestError:
    if text.lstrip()[:1] == b"[":
        return RequestError("Batches are not supported: send one request at a time.", ill_typed=True)
    field = _FIELD.search(reason)
    return _wrong_type(field[1]) if field else RequestError("The request must be a JSON object.", ill_typed=True)


def _wrong_type(field: str) -> RequestError:
    return RequestError(f"`{field}` must be {_EXPECTED[field]}.", ill_typed=True)
