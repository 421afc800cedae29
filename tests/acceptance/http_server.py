"""Starting `graphql_http/served.py`, and speaking HTTP to it byte by byte where a client library would tidy up."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

HERE = Path(__file__).parent / "graphql_http"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Server:
    """A started server."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/graphql"


@contextmanager
def served(*arguments: str) -> Iterator[Server]:
    """A server of its own process, gone afterwards."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "served.py"), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield Server(int(process.stdout.readline()), process.pid)
    finally:
        process.terminate()
        assert process.wait(10) in (0, -15)
        process.stdout.close()


@dataclass(frozen=True)
class Response:
    """What came back. `headers` have lower-case names."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        parsed = orjson.loads(self.body)
        assert isinstance(parsed, dict)
        return parsed

    @property
    def code(self) -> object:
        """The code of the first error."""
        return self.json["errors"][0]["extensions"]["code"]  # type: ignore[index]


async def exchange(port: int, request: bytes) -> Response:
    """Send these bytes on a connection of their own and read one response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await read_response(reader)
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def read_response(reader: asyncio.StreamReader) -> Response:
    """One response with a Content-Length. Raises `asyncio.IncompleteReadError` if the connection ends before it."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Response(int(head[0].split()[1]), headers, body)


def post(body: bytes, *lines: str, content_type: str | None = "application/json") -> bytes:
    """A POST of this body. `lines` are further headers as they are to be sent."""
    headers = ["POST /graphql HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *lines]
    if content_type is not None:
        headers.append(f"Content-Type: {content_type}")
    return "\r\n".join([*headers, "", ""]).encode("latin-1") + body


def get(query_string: str, *lines: str) -> bytes:
    """A GET with these parameters."""
    return "\r\n".join([f"GET /graphql?{query_string} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode("latin-1")


def query(text: str, **members: object) -> bytes:
    """The body of a request for this document."""
    return orjson.dumps({"query": text, **members})
