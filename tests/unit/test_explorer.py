"""The explorer's page and files as an HTTP client sees them: policy, caching, compression, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from transport.explorer import Explorer, ExplorerPage, wants_page

PAGE = ExplorerPage(
    title="Test & Co",
    key_hint="`make run` prints one.",
    sample_query='{ events(filter: { userId: "o\'neill" }) { totalCount } }',
)
SCRIPT = b"console.log('explorer')" * 100
CHROMIUM_ACCEPT = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


class Answer:
    """One HTTP response, taken apart."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        start = messages[0]
        self.status: int = start["status"]
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}
        self.body = b"".join(message.get("body", b"") for message in messages[1:])

    @property
    def policy(self) -> dict[str, str]:
        """The content security policy by directive."""
        directives = (part.strip().partition(" ") for part in self.headers["content-security-policy"].split(";"))
        return {name: sources for name, _, sources in directives}


async def get(explorer: Explorer, path: str, *, method: str = "GET", **headers: str) -> Answer:
    """Ask the application as a server would."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "method": method,
        "scheme": "http",
        "path": path,
        "query_string": b"",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }
    messages: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)

    await explorer(scope, receive, send)
    return Answer(messages)


def write_build(folder: Path) -> None:
    """A build as `web/explorer/build.js` leaves it, only smaller."""
    folder.mkdir(parents=True, exist_ok=True)
    files = ["explorer-A.js", "explorer-B.css", "icon-C.svg", "font-D.woff2"]
    for name in files:
        (folder / name).write_bytes(SCRIPT)
    (folder / "explorer-A.js.br").write_bytes(b"as brotli")
    (folder / "explorer-A.js.gz").write_bytes(b"as gzip")
    (folder / "secret.txt").write_text("not of the build")
    manifest = {
        "script": "explorer-A.js",
        "style": "explorer-B.css",
        "icon": "icon-C.svg",
        "preload": ["explorer-A.js"],
        "workers": {"editor": "e.js", "graphql": "g.js", "json": "j.js"},
        "files": files,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def explorer(tmp_path: Path) -> Explorer:
    write_build(tmp_path / "build")
    return Explorer(PAGE, build=tmp_path / "build")


async def test_the_page_allows_nothing_but_its_own_origin(explorer: Explorer) -> None:
    answer = await get(explorer, "/graphql")
    nonce = re.search(rb'<link rel="stylesheet"[^>]* nonce="([\w-]+)">', answer.body)
    assert nonce is not None
    assert answer.policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "worker-src": "'self'",
        "connect-src": "'self'",
        "font-src": "'self'",
        "img-src": "'self' data:",
        "style-src": f"'self' 'nonce-{nonce[1].decode()}'",
        "style-src-attr": "'unsafe-inline'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


async def test_a_nonce_is_used_once(explorer: Explorer) -> None:
    first, second = await get(explorer, "/graphql"), await get(explorer, "/graphql")
    assert first.policy["style-src"] != second.policy["style-src"]


async def test_the_page_is_never_cached_framed_or_sniffed(explorer: Explorer) -> None:
    headers = (await get(explorer, "/graphql")).headers
    assert headers["cache-control"] == "no-store"
    assert headers["vary"] == "Accept"
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["content-type"] == "text/html; charset=utf-8"


async def test_what_the_page_is_told_cannot_break_out_of_its_markup(tmp_path: Path) -> None:
    write_build(tmp_path)
    hostile = ExplorerPage(title="</script><b>", key_hint="</script><i>", sample_query="{ a }")
    body = (await get(Explorer(hostile, build=tmp_path), "/graphql")).body.decode()
    assert "<b>" not in body
    assert "<i>" not in body
    block = re.search(r'<script type="application/json" id="explorer-page">(.*?)</script>', body)
    assert block is not None
    assert json.loads(block[1])["title"] == "</script><b>"


@pytest.mark.parametrize(
    ("accepted", "encoding", "body"),
    [
        ("gzip, deflate, br, zstd", "br", b"as brotli"),
        ("gzip, deflate", "gzip", b"as gzip"),
        # Weights that refuse.
        ("br;q=0, gzip;q=0.5", "gzip", b"as gzip"),
        ("br; q=0.000, gzip ;q=0", None, SCRIPT),
        ("identity", None, SCRIPT),
        ("", None, SCRIPT),
    ],
)
async def test_a_file_comes_in_the_best_encoding_that_the_client_takes(
    explorer: Explorer, accepted: str, encoding: str | None, body: bytes
) -> None:
    answer = await get(explorer, "/graphql/assets/explorer-A.js", accept_encoding=accepted)
    assert (answer.status, answer.headers.get("content-encoding"), answer.body) == (200, encoding, body)
    assert answer.headers["content-length"] == str(len(body))
    assert answer.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("explorer-A.js", "text/javascript; charset=utf-8"),
        ("explorer-B.css", "text/css; charset=utf-8"),
        ("icon-C.svg", "image/svg+xml"),
        ("font-D.woff2", "font/woff2"),
    ],
)
async def test_a_file_is_cached_for_ever_under_its_media_type(explorer: Explorer, name: str, media_type: str) -> None:
    headers = (await get(explorer, f"/graphql/assets/{name}")).headers
    assert headers["content-type"] == media_type
    assert headers["cache-control"] == "public, max-age=31536000, immutable"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'; script-src 'self'"


@pytest.mark.parametrize("path", ["/graphql", "/graphql/assets/explorer-A.js"])
async def test_head_gives_the_headers_of_get_and_no_body(explorer: Explorer, path: str) -> None:
    asked, got = await get(explorer, path, method="HEAD"), await get(explorer, path)
    assert (asked.status, asked.body) == (200, b"")
    assert asked.headers["content-length"] == got.headers["content-length"] == str(len(got.body))


@pytest.mark.parametrize(
    "path",
    [
        "/graphql/assets/",
        "/graphql/assets/explorer-Z.js",
        # In the folder, but not of the build; the compressed copies have no names of their own either.
        "/graphql/assets/secret.txt",
        "/graphql/assets/manifest.json",
        "/graphql/assets/explorer-A.js.br",
        "/graphql/assets/../build/explorer-A.js",
        "/graphql/assets/../../../../etc/passwd",
        "/graphql/assets//etc/passwd",
        "/graphql/assets/explorer-A.js\x00",
        "/graphql/elsewhere",
    ],
)
async def test_what_is_no_file_of_the_build_is_not_found(explorer: Explorer, path: str) -> None:
    answer = await get(explorer, path)
    assert (answer.status, answer.body) == (404, b"Not found.\n")


@pytest.mark.parametrize("path", ["/graphql", "/graphql/assets/explorer-A.js"])
async def test_other_methods_are_told_which_ones_there_are(explorer: Explorer, path: str) -> None:
    answer = await get(explorer, path, method="DELETE")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_without_a_build_the_page_shows_a_command_that_a_shell_takes(tmp_path: Path) -> None:
    answer = await get(Explorer(PAGE, build=tmp_path / "nothing"), "/graphql", host="localhost:8123")
    body = answer.body.decode()
    assert answer.status == 200
    assert "<pre>make explorer</pre>" in body
    assert "Test &amp; Co is running" in body
    blocks = re.findall(r"<pre>(.*?)</pre>", body, re.DOTALL)
    command = blocks[1].replace("&quot;", '"').replace("&#x27;", "'").replace("&amp;", "&")
    words = shlex.split(command.replace("\\\n", ""))
    assert words[:2] == ["curl", "http://localhost:8123/graphql"]
    assert json.loads(words[-1]) == {"query": PAGE.sample_query}


async def test_without_a_build_the_pages_policy_admits_its_one_style_and_nothing_else(tmp_path: Path) -> None:
    answer = await get(Explorer(PAGE, build=tmp_path), "/graphql")
    style = re.search(rb"<style>(.*?)</style>", answer.body, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1]).digest()).decode()
    assert answer.policy == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


@pytest.mark.parametrize("host", ["a.example'; rm -rf ~; '", "<script>", "a b", "x:99999999", ""])
async def test_a_host_header_that_is_no_host_is_not_repeated(tmp_path: Path, host: str) -> None:
    body = (await get(Explorer(PAGE, build=tmp_path), "/graphql", host=host)).body.decode()
    assert "curl http://localhost:8000/graphql" in body


async def test_a_build_made_while_the_gateway_runs_is_served_from_then_on(tmp_path: Path) -> None:
    explorer = Explorer(PAGE, build=tmp_path / "build")
    assert b"is not built" in (await get(explorer, "/graphql")).body
    write_build(tmp_path / "build")
    assert b"explorer-A.js" in (await get(explorer, "/graphql")).body
    assert (await get(explorer, "/graphql/assets/explorer-A.js")).status == 200


async def test_a_file_that_a_newer_build_removed_is_not_found(explorer: Explorer, tmp_path: Path) -> None:
    (tmp_path / "build" / "explorer-B.css").unlink()
    assert (await get(explorer, "/graphql/assets/explorer-B.css")).status == 404


@pytest.mark.parametrize(
    ("method", "accept", "wanted"),
    [
        ("GET", CHROMIUM_ACCEPT, True),
        ("HEAD", CHROMIUM_ACCEPT, True),
        ("GET", "text/html", True),
        ("GET", "TEXT/HTML;level=1", True),
        ("GET", "text/html, application/json", True),
        # Quality before order.
        ("GET", "text/html;q=0.5, application/json", False),
        ("GET", "application/json;q=0.5, text/html", True),
        ("GET", "application/json, text/html", False),
        ("GET", "application/graphql-response+json, text/html;q=0.9", False),
        ("GET", "text/event-stream, text/html;q=0.9", False),
        ("GET", "text/html;q=0", False),
        # Programs, which say nothing of pages.
        ("GET", "*/*", False),
        ("GET", "application/json", False),
        ("GET", "", False),
        ("POST", CHROMIUM_ACCEPT, False),
    ],
)
def test_only_a_browsers_request_for_a_page_gets_the_page(method: str, accept: str, wanted: bool) -> None:
    assert wants_page(method, accept) is wanted
