"""Errors that a caller is meant to see, each with the code it travels under.

    GatewayError
    ├── Unauthenticated   UNAUTHENTICATED   no credentials, or wrong ones
    ├── Forbidden         FORBIDDEN         the credentials do not reach this far
    ├── BadUserInput      BAD_USER_INPUT    an argument that can never work
    ├── NotFound          NOT_FOUND
    ├── CursorInvalid     CURSOR_INVALID    forged, of another project, or of another list
    ├── CursorExpired     CURSOR_EXPIRED    older than retention, beyond the head, or of another epoch
    ├── RateLimited       RATE_LIMITED      too much work waiting; carries retryAfterMs
    ├── Unavailable       UNAVAILABLE       the database cannot be reached; carries retryAfterMs
    └── TimedOut          TIMEOUT           the database needs longer for this than it may

Expected outcomes of a mutation are not errors but `UserError` values.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class GatewayError(Exception):
    """Base of every error whose message may be shown to the client."""

    code: ClassVar[str]

    def extensions(self) -> dict[str, object]:
        """What goes under `extensions` of the GraphQL error."""
        return {"code": self.code}


class Unauthenticated(GatewayError):
    code = "UNAUTHENTICATED"


class Forbidden(GatewayError):
    code = "FORBIDDEN"


class BadUserInput(GatewayError):
    """`path` leads to the offending part of the input, for mutations that answer with a `UserError` instead."""

    code = "BAD_USER_INPUT"

    def __init__(self, message: str, *, path: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.path = path


class NotFound(GatewayError):
    code = "NOT_FOUND"


class CursorInvalid(GatewayError):
    code = "CURSOR_INVALID"


class CursorExpired(GatewayError):
    code = "CURSOR_EXPIRED"


class _TryLater(GatewayError):
    def __init__(self, message: str, *, retry_after_ms: int) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms

    def extensions(self) -> dict[str, object]:
        return {"code": self.code, "retryAfterMs": self.retry_after_ms}


class RateLimited(_TryLater):
    code = "RATE_LIMITED"


class Unavailable(_TryLater):
    code = "UNAVAILABLE"


class TimedOut(GatewayError):
    code = "TIMEOUT"


class UserError(msgspec.Struct, frozen=True):
    """An expected failure of a mutation. `path` leads from the argument name to the offending part of the input."""

    message: str
    code: str
    path: tuple[str, ...]
