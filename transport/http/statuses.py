"""Which HTTP status a GraphQL response travels under, in either of two profiles.

The audits that everyone publishes and the draft they came from have parted ways since April 2026; nobody can satisfy
both. `AUDITS` passes all 61 of them and is what clients expect today. `DRAFT` follows the newer text: 422 for what is
well-formed but wrong, the same statuses under `application/json` as under the new media type, and 294 for data that
comes with errors, a number that no proxy knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from math import ceil

from graphql import ExecutionResult, GraphQLError

from transport.errors import INTERNAL, PARSE_FAILED, RATE_LIMITED, RETRY_AFTER_MS, TIMEOUT, RequestError, code_of
from transport.http.negotiation import MediaType

OK = 200
PARTIAL = 294
BAD_REQUEST = 400
UNPROCESSABLE = 422
UNAUTHORIZED = 401
TOO_MANY_REQUESTS = 429
SERVER_ERROR = 500
UNAVAILABLE = 503


class StatusProfile(Enum):
    """Which text the statuses follow."""

    AUDITS = "audits"
    DRAFT = "draft"


EVERYWHERE = {
    "UNAUTHENTICATED": UNAUTHORIZED,
    RATE_LIMITED: TOO_MANY_REQUESTS,
    "UNAVAILABLE": UNAVAILABLE,
    TIMEOUT: 504,
    INTERNAL: SERVER_ERROR,
}
"""Failures of a whole request that proxies and clients act upon whatever the media type."""

WITHOUT_DATA = {**EVERYWHERE, "FORBIDDEN": 403, "NOT_FOUND": 404}
"""Of an executed operation whose data is null, where the media type forbids a 2xx."""


def status_of_errors(errors: Sequence[GraphQLError], media_type: MediaType, profile: StatusProfile) -> int:
    """Of a request that never ran: the document, its operation or its variables are at fault, or the caller is."""
    code = code_of(errors[0])
    if code in EVERYWHERE:
        return EVERYWHERE[code]
    if profile is StatusProfile.DRAFT:
        return BAD_REQUEST if code == PARSE_FAILED else UNPROCESSABLE
    return OK if media_type is MediaType.JSON else BAD_REQUEST


def status_of_result(result: ExecutionResult, media_type: MediaType, profile: StatusProfile) -> int:
    """Of an operation that ran."""
    if not result.errors:
        return OK
    if result.data is not None:
        return PARTIAL if profile is StatusProfile.DRAFT else OK
    code = code_of(result.errors[0])
    if code == TIMEOUT:
        return WITHOUT_DATA[code]
    if media_type is MediaType.JSON and profile is StatusProfile.AUDITS:
        return OK
    return WITHOUT_DATA.get(code, BAD_REQUEST)


def status_of_request_error(error: RequestError, profile: StatusProfile) -> int:
    """Of bytes that are no GraphQL request."""
    if error.code in EVERYWHERE:
        return EVERYWHERE[error.code]
    return UNPROCESSABLE if error.ill_typed and profile is StatusProfile.DRAFT else BAD_REQUEST


def headers_of_errors(status: int, errors: Sequence[GraphQLError]) -> tuple[tuple[bytes, bytes], ...]:
    """What goes with the status of a request that was refused: when to come again, and what to come with."""
    if status == UNAUTHORIZED:
        return ((b"www-authenticate", b"Bearer"),)
    seconds = _retry_after(errors) if status in (TOO_MANY_REQUESTS, UNAVAILABLE) else None
    return () if seconds is None else ((b"retry-after", str(seconds).encode()),)


def _retry_after(errors: Sequence[GraphQLError]) -> int | None:
    """Whole seconds after which the client may try again, where an error says so."""
    for error in errors:
        milliseconds = (error.extensions or {}).get(RETRY_AFTER_MS)
        if isinstance(milliseconds, int | float):
            return max(1, ceil(milliseconds / 1000))
    return None
