"""GraphiQL for browsers: one page and its files, all from this origin, under a strict content security policy.

Guarantees: nothing is loaded from or sent to another host; no path that a client sends reaches the file system (files
are looked up by exact name among those of the build); the page holds no secret and no product of its own: title, hint
and sample are handed in. Where the build is missing, the page says so and how to mend it, and comes alive with the
first reload after it.
Leaves to others: deciding that a request wants the page (`wants_page` helps), and everything GraphQL. Keeps no tasks
and no open files, so there is nothing to stop.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from transport.http.negotiation import MediaRange, MediaType, parse_accept

BUILD = Path(__file__).parent / "static" / "explorer"
"""Where `web/explorer` puts its build."""
NONCE_BYTES = 18
"""144 random bits, a multiple of three so that base64 needs no padding; CSP asks for at least 128."""
ONE_YEAR_SECONDS = 31_536_000
"""What RFC 9111 caches treat as for ever; the files' names change with their content."""

MEDIA_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".ttf": "font/ttf",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}
ENCODINGS = (("br", ".br"), ("gzip", ".gz"))
"""Best first: the server's choice among what the client accepts."""

EXACTLY = 3
"""`MediaRange.specificity` of a range that names one type."""

_SAFE_HOST = re.compile(r"[A-Za-z0-9.\-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
"""What may stand in the page's ready command: no quotes, blanks or shell signs."""
_REFUSED = re.compile(r"\s*q\s*=\s*0(\.0{0,3})?\s*")
"""The weight of what a client does not want at all (RFC 9110 §12.4.2)."""

_COMMON_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}
_PAGE_HEADERS = _COMMON_HEADERS | {
    # The page carries a nonce, and the same URL answers GraphQL requests.
    "cache-control": "no-store",
    "vary": "Accept",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_ASSET_HEADERS = _COMMON_HEADERS | {
    "cache-control": f"public, max-age={ONE_YEAR_SECONDS}, immutable",
    "vary": "Accept-Encoding",
    # A worker takes its policy from its own response. Monaco's import shared modules and talk to nobody.
    "content-security-policy": "default-src 'none'; script-src 'self'",
}


@dataclass(frozen=True, slots=True)
class ExplorerPage:
    """What the product tells the page about itself. Shown to everybody who opens it: no secrets."""

    title: str
    """The product's name."""
    key_hint: str
    """Where a newcomer finds an API key, in one sentence; `backticks` mark what to type."""
    sample_query: str
    """A query of one line for the ready `curl` of the page without a build."""
    path: str = "/graphql"
    """Where the endpoint, and so the page, is served."""


class Workers(msgspec.Struct, frozen=True):
    """File names of Monaco's three workers."""

    editor: str
    graphql: str
    json: str


class Manifest(msgspec.Struct, frozen=True):
    """What the build made, by file name."""

    script: str
    style: str
    icon: str
    preload: tuple[str, ...]
    workers: Workers
    files: tuple[str, ...]


class Explorer:
    """An ASGI application for `page.path` and everything below `page.path` + `/assets/`."""

    def __init__(self, page: ExplorerPage, *, build: Path = BUILD) -> None:
        self._page = page
        self._build = build
        self._assets_prefix = page.path.rstrip("/") + "/assets/"
        self._manifest: Manifest | None = None
        self._manifest_time = 0
        self._files: Mapping[str, str] = {}
        self._load()

    def owns(self, path: str) -> bool:
        """Whether a path belongs to the page's files, so that no GraphQL request can be meant."""
        return path.startswith(self._assets_prefix)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request. 404 for what is not there, 405 for other methods than GET and HEAD."""
        await self._respond(scope)(scope, receive, send)

    def _respond(self, scope: Scope) -> Response:
        path = scope["path"]
        if path != self._page.path and not self.owns(path):
            return Response("Not found.\n", 404, _COMMON_HEADERS, "text/plain")
        if scope["method"] not in ("GET", "HEAD"):
            return Response("Method not allowed.\n", 405, _COMMON_HEADERS | {"allow": "GET, HEAD"}, "text/plain")
        if path == self._page.path:
            return self._page_response(scope)
        return self._asset_response(path.removeprefix(self._assets_prefix), Headers(scope=scope))

    def _load(self) -> None:
        """Read the manifest if it is another than before. The build writes it last, so with it everything is there."""
        path = self._build / "manifest.json"
        try:
            written = path.stat().st_mtime_ns
            if written == self._manifest_time:
                return
            manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
        except (OSError, msgspec.DecodeError):
            self._manifest, self._manifest_time, self._files = None, 0, {}
            return
        self._files = {name: MEDIA_TYPES.get(Path(name).suffix, "application/octet-stream") for name in manifest.files}
        self._manifest, self._manifest_time = manifest, written

    def _page_response(self, scope: Scope) -> Response:
        self._load()
        if self._manifest is None:
            body = missing_build_page(self._page, _origin(scope))
            policy = _MISSING_BUILD_POLICY
        else:
            nonce = secrets.token_urlsafe(NONCE_BYTES)
            body = explorer_page(self._page, self._manifest, nonce=nonce)
            policy = explorer_policy(nonce)
        response = Response(body, 200, _PAGE_HEADERS | {"content-security-policy": policy}, "text/html; charset=utf-8")
        return _without_body(response) if scope["method"] == "HEAD" else response

    def _asset_response(self, name: str, headers: Headers) -> Response:
        media_type = self._files.get(name)
        if media_type is None or not (self._build / name).is_file():
            return Response("Not found.\n", 404, _COMMON_HEADERS, "text/plain")
        encoding, path = _best_encoding(self._build / name, headers.get("accept-encoding", ""))
        content_encoding = {"content-encoding": encoding} if encoding else {}
        return FileResponse(path, headers=_ASSET_HEADERS | content_encoding, media_type=media_type)


def wants_page(method: str, accept: str) -> bool:
    """Whether a request is a browser's for a page: GET or HEAD, and `text/html` preferred to every answer of GraphQL.

    Equal quality is decided by order, as browsers list HTML first. `*/*` alone does not ask for a page.
    """
    if method not in ("GET", "HEAD"):
        return False
    named = [one for one in parse_accept(accept) if one.quality > 0 and _is_offered(one)]
    return bool(named) and _is_page(max(named, key=lambda one: one.quality))


def _is_page(media_range: MediaRange) -> bool:
    return (media_range.type, media_range.subtype) == ("text", "html")


def _is_offered(media_range: MediaRange) -> bool:
    return _is_page(media_range) or any(media_range.specificity(answer) == EXACTLY for answer in MediaType)


def explorer_policy(nonce: str) -> str:
    """The page's content security policy.

    Everything comes from this origin, and `connect-src 'self'` covers its WebSocket too (CSP 3). Monaco needs two
    exceptions, both for styles: it fills style elements from scripts (they get the nonce, so that injected markup has
    none), and it writes lines of text as HTML with `style` attributes for their position (attributes only).
    """
    return (
        "default-src 'none'; script-src 'self'; worker-src 'self'; connect-src 'self'; font-src 'self'; "
        f"img-src 'self' data:; style-src 'self' 'nonce-{nonce}'; style-src-attr 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def explorer_page(page: ExplorerPage, manifest: Manifest, *, nonce: str) -> str:
    """The page's HTML: links to the build, and a data block with what the script needs to know."""
    assets = page.path.rstrip("/") + "/assets/"
    about = {
        "title": page.title,
        "endpoint": page.path,
        "keyHint": page.key_hint,
        "workers": {name: assets + file for name, file in msgspec.to_builtins(manifest.workers).items()},
    }
    # No "<" may be left in the block: "</script" would end it.
    data = msgspec.json.encode(about).decode().replace("<", "\\u003c")
    preloads = "".join(f'<link rel="modulepreload" href="{assets}{html.escape(name)}">' for name in manifest.preload)
    title = html.escape(page.title)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · GraphiQL</title>
<link rel="icon" type="image/svg+xml" href="{assets}{html.escape(manifest.icon)}">
<link rel="stylesheet" href="{assets}{html.escape(manifest.style)}" nonce="{nonce}">
{preloads}
<script type="module" src="{assets}{html.escape(manifest.script)}"></script>
</head>
<body>
<div id="explorer"><p class="explorer-loading">Loading {title}…</p></div>
<noscript>GraphiQL needs JavaScript, which this browser has switched off for this page.</noscript>
<script type="application/json" id="explorer-page">{data}</script>
</body>
</html>
"""


_MISSING_BUILD_STYLE = """
:root { color-scheme: light dark; }
body { margin: 0; font: 16px/1.55 system-ui, sans-serif; background: Canvas; color: CanvasText; }
main { max-width: 44rem; margin: 12vh auto 0; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; }
p.lead { margin-top: 0; opacity: .75; }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
code, pre { font: .9rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { padding: .9rem 1rem; border-radius: 8px; background: rgba(127, 127, 127, .14); white-space: pre-wrap;
  overflow-wrap: anywhere; }
"""
_MISSING_BUILD_POLICY = (
    "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_MISSING_BUILD_STYLE.encode()).digest()).decode()
    + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def missing_build_page(page: ExplorerPage, origin: str) -> str:
    """The page of a gateway without the build: what is missing, how to mend it, and how to go on without it."""
    body = msgspec.json.encode({"query": page.sample_query}).decode().replace("'", "'\\''")
    command = (
        f"curl {origin}{page.path} \\\n  -H 'content-type: application/json' \\\n  -H 'x-api-key: YOUR_KEY' \\\n"
        f"  -d '{body}'"
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(page.title)} · GraphiQL is not built</title>
<style>{_MISSING_BUILD_STYLE}</style>
</head>
<body>
<main>
<h1>{html.escape(page.title)} is running</h1>
<p class="lead">Only this page, GraphiQL, has not been built yet. Building it needs Node.</p>
<h2>Build it</h2>
<p>Install Node 20 or newer, run this in the project's folder, and reload. The gateway need not be restarted.</p>
<pre>make explorer</pre>
<h2>Or go on without it</h2>
<p>You need an API key: {_marked(page.key_hint)}</p>
<pre>{html.escape(command)}</pre>
</main>
</body>
</html>
"""


def _marked(sentence: str) -> str:
    parts = html.escape(sentence).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))


def _origin(scope: Scope) -> str:
    """Where the client believes the gateway to be, or the usual place if its Host header is not a plain one."""
    host = Headers(scope=scope).get("host", "")
    return f"{scope['scheme']}://{host}" if _SAFE_HOST.fullmatch(host) else "http://localhost:8000"


def _best_encoding(path: Path, accept_encoding: str) -> tuple[str | None, Path]:
    accepted = _accepted_encodings(accept_encoding)
    for encoding, suffix in ENCODINGS:
        compressed = path.with_name(path.name + suffix)
        if encoding in accepted and compressed.exists():
            return encoding, compressed
    return None, path


def _accepted_encodings(accept_encoding: str) -> frozenset[str]:
    """Content codings named with a quality above zero. `*` is left alone: nobody who can unpack says only that."""
    codings = (coding.partition(";") for coding in accept_encoding.lower().split(","))
    return frozenset(name.strip() for name, _, weight in codings if not _REFUSED.fullmatch(weight))


def _without_body(response: Response) -> Response:
    """The same headers, Content-Length included, and nothing after them."""
    response.body = b""
    return response
