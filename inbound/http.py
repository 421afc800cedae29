"""Reading requests, bounded, and the answers that all routes share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from db.failures import is_passing
from engine.errors import RateLimited, Unavailable

READ_SECONDS = 10.0
"""For a whole body: the services that call send theirs in one piece."""
LOOK_UPS_AT_ONCE = 2
"""Of addresses that nothing is known of yet: each takes a connection of the pool, and anybody can ask for it."""
RETRY_AFTER_SECONDS = 5
"""What a caller is told while the log cannot take anything: about what the restart of a PostgreSQL takes."""

Handler = Callable[[Request], Awaitable[Response]]


class TooLarge(Exception):
    """The body is larger than the route takes."""


class TooSlow(Exception):
    """The body did not come in time, or not to its end."""


async def read_body(request: Request, *, most: int) -> bytes:
    """The body, never more than `most` bytes of it in memory. Raises `TooLarge` and `TooSlow`."""
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > most:
        raise TooLarge
    body = bytearray()
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise TooLarge
    except (TimeoutError, ClientDisconnect):
        raise TooSlow from None
    return bytes(body)


def headers_of(request: Request) -> Mapping[str, str]:
    """By name in lower case; of one that comes twice, the first."""
    found: dict[str, str] = {}
    for name, value in request.headers.items():
        found.setdefault(name, value)
    return found


def answer(status: int, text: str, *, retry_after: int | None = None) -> Response:
    """A constant: it never holds anything of the request."""
    name = "error" if status >= 400 else "status"
    headers = None if retry_after is None else {"Retry-After": str(retry_after)}
    return JSONResponse({name: text}, status_code=status, headers=headers)


def received() -> Response:
    """The same for the first delivery and for any other."""
    return answer(200, "received")


def guarded(handler: Handler) -> Handler:
    """Turns what may happen to any of these requests into its answer."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except TooLarge:
            return answer(413, "too large")
        except TooSlow:
            return answer(408, "the body did not come in time")
        except (RateLimited, Unavailable):
            return unavailable()
        except Exception as error:
            if not is_passing(error):
                raise
            return unavailable()

    return handle


def unavailable() -> Response:
    """Nothing is lost: whoever calls here comes again."""
    return answer(503, "try again later", retry_after=RETRY_AFTER_SECONDS)
