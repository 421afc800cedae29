"""Which web pages may open a connection from a browser.

Browsers let any page open a WebSocket anywhere, and say in `Origin` which page it was. Nothing here is authorised by a
cookie, so a foreign page gains nothing by connecting; still it is refused unless it is named, because a publishable key
lies open in its site's scripts, and because one site's visitors should not be able to use up another's connections.
Programs that are no browser send no `Origin` and are always let in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

ANY = "*"
"""In the list of allowed origins: every page."""

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def read_origins(text: str) -> frozenset[str]:
    """A comma-separated setting as a set: `https://app.example.com, https://www.example.com`."""
    return frozenset(origin.strip().rstrip("/").lower() for origin in text.split(",") if origin.strip())


def is_allowed(headers: Mapping[str, str], allowed: Iterable[str]) -> bool:
    """Whether the page that sent these headers may connect: none, our own, or one that is named.

    Our own is recognised by host and port, not by scheme: TLS usually ends at a proxy before us.
    """
    origin = headers.get("origin")
    if origin is None:
        return True
    origin = origin.lower()
    return origin in allowed or ANY in allowed or _is_own(origin, headers.get("host", ""))


def _is_own(origin: str, host: str) -> bool:
    try:
        page, own = urlsplit(origin), urlsplit(f"//{host.lower()}")
        default = _DEFAULT_PORTS.get(page.scheme)
        return (
            default is not None
            and page.hostname is not None
            and (page.hostname, page.port or default) == (own.hostname, own.port or default)
        )
    except ValueError:
        return False
