"""The single connection mode where the requests of one client reach different processes of one machine."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.acceptance.streaming import KEY, OTHER_KEY, MemoryApplication, Server, eventually, graphql_endpoint, started
from transport.sse.forwarding import Homes, private_socket

SECRET = b"0123456789abcdef0123456789abcdef"
TOKEN = "x-graphql-event-stream-token"


@dataclass(frozen=True)
class Process:
    """A server with a private socket, as `cli.py serve` has one."""

    server: Server
    homes: Homes
    private: Path


@asynccontextmanager
async def serving(application: MemoryApplication) -> AsyncIterator[Process]:
    with private_socket() as private, socket.create_server(("127.0.0.1", 0)) as public:
        path = Path(private.getsockname())
        homes = Homes(path, SECRET)
        app = graphql_endpoint(application, homes=homes)
        async with started(app, application, sockets=[public, private]) as server:
            yield Process(server, homes, path)


@pytest.fixture
async def two() -> AsyncIterator[tuple[Server, Server]]:
    """Two servers on one log, which know each other by their tokens only."""
    application = MemoryApplication()
    async with serving(application) as one, serving(application) as other:
        yield one.server, other.server


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        headers={"x-api-key": KEY}, timeout=aiohttp.ClientTimeout(10), connector=aiohttp.TCPConnector(force_close=True)
    ) as client:
        yield client


async def reserve(client: aiohttp.ClientSession, server: Server) -> str:
    async with client.put(server.url) as response:
        assert response.status == 201
        return await response.text()


async def submit(client: aiohttp.ClientSession, server: Server, token: str, query: str, **headers: str) -> int:
    body = {"query": query, "extensions": {"operationId": "1"}}
    async with client.post(server.url, json=body, headers={TOKEN: token, **headers}) as response:
        return response.status


async def next_event(response: aiohttp.ClientResponse) -> str:
    while (event := await response.content.readuntil(b"\n\n")) == b":\n\n":
        pass
    return event.decode()


async def test_every_request_of_a_reservation_may_reach_another_process(
    two: tuple[Server, Server], client: aiohttp.ClientSession
) -> None:
    holder, other = two
    token = await reserve(client, holder)
    async with client.get(other.url, headers={TOKEN: token, "accept": "text/event-stream"}) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert await submit(client, other, token, "subscription { log { value } }") == 202
        assert await next_event(response) == ': {"1":"c0"}\n\n'
        for number in range(1, 4):
            other.application.log.append("x" * 200_000)
            kind, event, data = (await next_event(response)).split("\n")[:3]
            assert (kind, event) == (f"id: c{number}", "event: next")
            assert len(json.loads(data[6:])["payload"]["data"]["log"]["value"]) == 200_000
        async with client.get(other.url, params={"token": token}, headers={"accept": "text/event-stream"}) as second:
            assert second.status == 409
        async with client.delete(other.url, params={"operationId": "1"}, headers={TOKEN: token}) as deleted:
            assert deleted.status == 200
        assert not holder.application.log.members
        assert await submit(client, other, token, "subscription { never }") == 202
        await eventually(lambda: holder.application.running == 1)
    await eventually(lambda: holder.application.running == 0)
    assert await submit(client, other, token, "{hello}") == 404


async def test_what_is_refused_there_is_refused_here(two: tuple[Server, Server], client: aiohttp.ClientSession) -> None:
    holder, other = two
    token = await reserve(client, holder)
    assert await submit(client, other, token, "{nothing}") == 400
    assert await submit(client, other, token, "{hello}", **{"x-api-key": OTHER_KEY}) == 404
    assert await submit(client, other, token, "#" * 1000, **{"content-type": "text/plain"}) == 415


async def test_a_process_that_is_gone_has_no_reservations(
    two: tuple[Server, Server], client: aiohttp.ClientSession
) -> None:
    holder, other = two
    token = await reserve(client, holder)
    async with client.get(other.url, headers={TOKEN: token, "accept": "text/event-stream"}) as response:
        await response.content.readuntil(b"\n\n")
        holder.stop()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()
    await eventually(lambda: not holder.uvicorn.servers[0].is_serving())
    assert await submit(client, other, token, "{hello}") == 404


@dataclass
class Stranger:
    """Somebody else's program, where a process used to be. `received` is what it was sent."""

    connected: int = 0
    received: bytes = b""

    async def listen(self, path: Path) -> asyncio.Server:
        return await asyncio.start_unix_server(self._take, path)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected += 1
        self.received += await reader.read()
        writer.close()


def open_to_all(folder: Path) -> None:
    folder.chmod(0o755)


def of_another_user(folder: Path) -> None:
    os.chown(folder, 65534, 65534)


def behind_a_link(folder: Path) -> None:
    elsewhere = folder.rename(folder.with_suffix(".elsewhere"))
    folder.symlink_to(elsewhere)


@pytest.mark.parametrize(
    "disguise",
    [
        open_to_all,
        behind_a_link,
        pytest.param(of_another_user, marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs root")),
    ],
)
async def test_whoever_takes_the_place_of_a_dead_process_is_sent_nothing(
    client: aiohttp.ClientSession, disguise: Callable[[Path], None]
) -> None:
    application = MemoryApplication()
    async with serving(application) as other:
        async with serving(application) as holder:
            token = await reserve(client, holder.server)
            assert await submit(client, other.server, token, "{hello}") == 202
        assert not holder.private.parent.exists()
        assert await submit(client, other.server, token, "{hello}") == 404

        stranger = Stranger()
        holder.private.parent.mkdir(mode=0o700)
        async with await stranger.listen(holder.private):
            disguise(holder.private.parent)
            try:
                assert await submit(client, other.server, token, "{hello}") == 404
                await eventually(lambda: stranger.connected == 1)
                assert stranger.received == b""
            finally:
                _remove(holder.private.parent)


async def test_a_process_that_was_killed_leaves_a_socket_that_nobody_answers(client: aiohttp.ClientSession) -> None:
    application = MemoryApplication()
    with private_socket() as left:
        path = Path(left.getsockname())
        assert path.parent.stat().st_mode & 0o777 == 0o700
        async with serving(application) as other:
            assert await submit(client, other.server, Homes(path, SECRET).issue(), "{hello}") == 404
    assert not path.parent.exists()


def test_the_path_of_a_private_socket_fits_however_deep_temporary_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with private_socket() as private:
        assert len(private.getsockname()) < 104


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        shutil.rmtree(folder.readlink())
        folder.unlink()
    else:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "forge",
    [
        lambda token: token[:-1] + ("A" if token[-1] != "A" else "B"),
        lambda token: "Li4" + token[token.index(".") :],  # the folder ..
        lambda token: token + "x",
        lambda token: token.rpartition(".")[0],
        lambda token: ".." + token,
        lambda token: "é",
    ],
)
async def test_a_forged_token_makes_nobody_connect_anywhere(
    two: tuple[Server, Server], client: aiohttp.ClientSession, forge: Any
) -> None:
    holder, other = two
    token = await reserve(client, holder)
    forged = forge(token)
    assert Homes(Path("/run/another/gateway.sock"), SECRET).elsewhere(forged) is None
    async with client.get(other.url, params={"token": forged}, headers={"accept": "text/event-stream"}) as response:
        assert response.status == 404
