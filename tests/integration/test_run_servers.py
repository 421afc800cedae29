"""Servers of others: what is said of one that is too old, closed, or refuses us. Small servers speak the protocol."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from launch.data_folder import StartError
from launch.servers import check_postgres, check_redis, place_of

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(serve: Serve) -> AsyncIterator[int]:
    """A server on a free loopback port; the port."""

    async def serve_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve_and_close, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body


def postgres_of(version: str) -> Serve:
    """As far as the start of a session."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length, code = struct.unpack(">II", await reader.readexactly(8))
        await reader.readexactly(length - 8)
        if code == 80877103:  # SSLRequest
            writer.write(b"N")
            (length,) = struct.unpack(">I", await reader.readexactly(4))
            await reader.readexactly(length - 4)
        writer.write(message(b"R", struct.pack(">I", 0)))
        for name, value in (("server_version", version), ("client_encoding", "UTF8"), ("TimeZone", "UTC")):
            writer.write(message(b"S", f"{name}\0{value}\0".encode()))
        writer.write(message(b"K", struct.pack(">II", 1, 1)) + message(b"Z", b"I"))
        await reader.read(1)

    return serve


def postgres_that_refuses(code: str, text: str) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length, code_number = struct.unpack(">II", await reader.readexactly(8))
        await reader.readexactly(length - 8)
        if code_number == 80877103:
            writer.write(b"N")
            (length,) = struct.unpack(">I", await reader.readexactly(4))
            await reader.readexactly(length - 4)
        fields = f"SFATAL\0VFATAL\0C{code}\0M{text}\0\0".encode()
        writer.write(message(b"E", fields))
        await writer.drain()

    return serve


def redis_of(version: str) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2].upper())
            if words[0] == b"INFO":
                body = f"# Server\r\nredis_version:{version}\r\n".encode()
                writer.write(b"$%d\r\n%b\r\n" % (len(body), body))
            elif words[0] == b"HELLO":
                writer.write(b"-ERR unknown command 'HELLO'\r\n" if version < "6" else b"%1\r\n$5\r\nproto\r\n:3\r\n")
            else:
                writer.write(b"+PONG\r\n" if words[0] == b"PING" else b"+OK\r\n")

    return serve


async def test_a_postgres_that_is_too_old_is_told_with_its_version() -> None:
    async with served(postgres_of("14.11")) as port:
        with pytest.raises(StartError) as raised:
            await check_postgres(f"postgresql://me:hunter2@127.0.0.1:{port}/shop")

    assert str(raised.value) == (
        f"PostgreSQL at 127.0.0.1:{port} is version 14, and 15 or newer is needed: "
        "upgrade it, or point DATABASE_URL at a newer one."
    )


@pytest.mark.parametrize(
    ("code", "text", "words"),
    [
        ("28P01", 'password authentication failed for user "me"', "refused the user name or password"),
        ("28000", 'role "me" does not exist', "refused the user name or password"),
        ("3D000", 'database "shop" does not exist', "has no database of that name"),
        ("53300", "sorry, too many clients already", "cannot be reached (sorry, too many clients already)"),
    ],
)
async def test_a_postgres_that_refuses_is_told_without_the_credentials(code: str, text: str, words: str) -> None:
    async with served(postgres_that_refuses(code, text)) as port:
        with pytest.raises(StartError) as raised:
            await check_postgres(f"postgresql://me:hunter2@127.0.0.1:{port}/shop")

    assert words in str(raised.value)
    assert "DATABASE_URL" in str(raised.value)
    assert "hunter2" not in str(raised.value)


async def test_a_postgres_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.servers.CONNECT_TIMEOUT_SECONDS", 0.2)

    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with served(silent) as port:
        with pytest.raises(StartError, match=r"cannot be reached \(no answer within"):
            await check_postgres(f"postgresql://me@127.0.0.1:{port}/shop")


@pytest.mark.parametrize(("version", "words"), [("6.0.16", "version 6.0"), ("5.0.14", "older than 6.0")])
async def test_a_redis_that_is_too_old_is_told_with_its_version(version: str, words: str) -> None:
    async with served(redis_of(version)) as port:
        with pytest.raises(StartError) as raised:
            await check_redis(f"redis://127.0.0.1:{port}/0")

    assert str(raised.value) == (
        f"Redis at 127.0.0.1:{port} is {words}, and 6.2 or newer is needed: "
        "upgrade it, or point REDIS_URL at a newer one."
    )


async def test_servers_that_are_new_enough_are_taken(database_url: str, redis_url: str) -> None:
    await check_postgres(database_url)
    await check_redis(redis_url)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://me:secret@db.example:6543/shop", "db.example:6543"),
        ("postgresql://me:secret@db.example/shop", "db.example:5432"),
        ("postgresql://me@/shop?host=/run/postgresql", "/run/postgresql"),
        ("postgresql://me@[::1]:5433/shop", "::1:5433"),
        ("unix:///run/redis.sock", "/run/redis.sock"),
        ("redis://:secret@cache:99999/0", "the address given"),  # no such port
    ],
)
def test_a_place_is_named_without_anything_secret(url: str, place: str) -> None:
    assert place_of(url, default_port=5432) == place
