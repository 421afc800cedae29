"""What a client is told when something went wrong, and what it is not told.

Three kinds of error leave this server. A `RequestError` is about bytes that are no GraphQL request. An error of
graphql-core itself (syntax, validation, coercion) is shown under the code of its stage. Anything that a resolver raised
is shown only if `Application.describe_error` knows it; everything else becomes "Internal error." with an id under which
the log holds its type and its stack, never its text, because exceptions of drivers quote rows. It is the request's id,
which every other error of it holds too.

Messages are cut: a client that sends a name of 100 kB does not get it back.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable, Collection, Iterable
from typing import Any

from graphql import GraphQLError

from transport.application import PublicError
from transport.request_ids import RequestTrace, current

logger = logging.getLogger(__name__)

PARSE_FAILED = "GRAPHQL_PARSE_FAILED"
VALIDATION_FAILED = "GRAPHQL_VALIDATION_FAILED"
BAD_USER_INPUT = "BAD_USER_INPUT"
COST_EXCEEDED = "COST_EXCEEDED"
DEPTH_EXCEEDED = "DEPTH_EXCEEDED"
PERSISTED_QUERY_NOT_FOUND = "PERSISTED_QUERY_NOT_FOUND"
DOCUMENT_NOT_TRUSTED = "DOCUMENT_NOT_TRUSTED"
RATE_LIMITED = "RATE_LIMITED"
TIMEOUT = "TIMEOUT"
INTERNAL = "INTERNAL"

MASKED_MESSAGE = "Internal error."

REQUEST_ID = "requestId"
RETRY_AFTER_MS = "retryAfterMs"
"""Of an error's extensions: the second says that it passes by itself, and when."""

MESSAGE_LENGTH = 600
"""Characters of an error message: enough for the longest sentence of graphql-core around names of ordinary length."""

NAME_LENGTH = 80
"""Characters of a quoted name in a message. Longer ones are an attack or a mistake, and recognised by their start."""

_LONG_NAME = re.compile(rf"(['\"$])([^'\"\s]{{{NAME_LENGTH}}})[^'\"\s]+")


class RequestError(Exception):
    """Bytes that are no GraphQL request, or a request that this server refuses to look at.

    `code` goes under `extensions`. `ill_typed` tells well-formed JSON of the wrong shape (422 in the newer draft of
    GraphQL over HTTP) from bytes that could not be read at all (400).
    """

    def __init__(self, message: str, code: str = BAD_USER_INPUT, *, ill_typed: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.ill_typed = ill_typed

    def as_graphql_error(self) -> GraphQLError:
        """The same as an error of a GraphQL response."""
        return GraphQLError(self.message, extensions={"code": self.code})


def shortened(message: str) -> str:
    """The message with long names and itself cut."""
    if len(message) <= NAME_LENGTH:
        return message
    message = _LONG_NAME.sub(r"\1\2…", message)
    return message if len(message) <= MESSAGE_LENGTH else message[: MESSAGE_LENGTH - 1] + "…"


def coded(error: GraphQLError, code: str) -> GraphQLError:
    """The error of graphql-core under a code, without what it was raised from."""
    extensions = {"code": code, **(error.extensions or {})}
    return GraphQLError(
        shortened(error.message),
        error.nodes,
        error.source,
        error.positions,
        error.path,
        extensions=extensions,
    )


def formatted(errors: Iterable[GraphQLError]) -> list[dict[str, Any]]:
    """The `errors` of a response to the current request, each with its id."""
    trace = current()
    if trace is None:
        return [dict(error.formatted) for error in errors]
    request_id = {REQUEST_ID: trace.id}
    return [{**error.formatted, "extensions": {**(error.extensions or {}), **request_id}} for error in errors]


def code_of(error: GraphQLError) -> str:
    """The code of an error that was made here."""
    code = (error.extensions or {}).get("code")
    return code if isinstance(code, str) else INTERNAL


class ErrorReporter:
    """Turns whatever was raised into what the client may read."""

    def __init__(self, describe: Callable[[BaseException], PublicError | None]) -> None:
        self._describe = describe

    def shown(self, error: BaseException) -> GraphQLError:
        """The error as the client sees it: worded and coded, or masked and logged."""
        if isinstance(error, RequestError):
            return error.as_graphql_error()
        located = error if isinstance(error, GraphQLError) else GraphQLError("")
        cause = _cause(error)
        if isinstance(cause, GraphQLError):
            return coded(located if located.message else cause, BAD_USER_INPUT)
        public = self._describe(cause)
        if public is None:
            public = PublicError(MASKED_MESSAGE, {"code": INTERNAL, "id": _log(cause, located.path)})
        return GraphQLError(
            shortened(public.message),
            located.nodes,
            located.source,
            located.positions,
            located.path,
            extensions=dict(public.extensions),
        )


def _cause(error: BaseException) -> BaseException:
    """What a resolver raised, beneath the location that graphql-core wrapped around it."""
    while isinstance(error, GraphQLError) and error.original_error is not None:
        error = error.original_error
    return error


def _log(error: BaseException, path: Collection[str | int] | None) -> str:
    error_id = (current() or RequestTrace()).id
    logger.error(
        "internal_error",
        extra={
            "error_id": error_id,
            "error_type": f"{type(error).__module__}.{type(error).__qualname__}",
            "path": ".".join(map(str, path or ())),
            "frames": [f"{at.filename}:{at.lineno} {at.name}" for at in traceback.extract_tb(error.__traceback__)],
        },
    )
    return error_id
