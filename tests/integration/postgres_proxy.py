"""A PostgreSQL socket that can be cut: it forwards bytes, and loses answers or connections when told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

FILE_NAME = ".s.PGSQL.5432"


class PostgresProxy:
    """Forwards between a socket of its own and a server's. `url` is the database behind it."""

    def __init__(self, directory: Path, database_url: str) -> None:
        parts = urlsplit(database_url)
        self._server_path = str(Path(parse_qs(parts.query)["host"][0]) / FILE_NAME)
        self._directory = directory
        self.url = f"postgresql://postgres@{parts.path}?host={directory}"
        self.refuses = False
        """Whether new connections are closed at once."""
        self._loses: Callable[[bytes], bool] = lambda _sent: False
        self.lost = 0
        self._serving: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def lose_answers_to(self, wanted: Callable[[bytes], bool], *, times: int) -> None:
        """Lose the answers to the next `times` requests for which `wanted(bytes sent)`, and then the connection."""
        remaining = times

        def loses(sent: bytes) -> bool:
            nonlocal remaining
            if remaining and wanted(sent):
                remaining -= 1
                return True
            return False

        self._loses = loses

    def cut(self) -> None:
        """Close every connection now."""
        for writer in self._writers:
            writer.transport.abort()

    async def finished(self) -> None:
        """Return once no connection is left."""
        while self._serving:
            await asyncio.wait(self._serving)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        if task is not None:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        server_reader, server_writer = await asyncio.open_unix_connection(self._server_path)
        self._writers |= {writer, server_writer}
        link = _Link()
        pumps = [
            asyncio.create_task(self._forward_requests(reader, server_writer, link)),
            asyncio.create_task(self._forward_answers(server_reader, writer, link)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for each in (writer, server_writer):
            each.transport.abort()
        self._writers -= {writer, server_writer}

    async def _forward_requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link) -> None:
        while data := await reader.read(65536):
            link.losing = link.losing or self._loses(data)
            writer.write(data)
            await writer.drain()

    async def _forward_answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link) -> None:
        while data := await reader.read(65536):
            if link.losing and data.endswith(b"Z\x00\x00\x00\x05I"):
                # The server is ready again, so its transaction is over: the client will not learn how
                self.lost += 1
                return
            if not link.losing:
                writer.write(data)
                await writer.drain()


class _Link:
    """One connection: whether the answer under way is to be lost."""

    losing = False


@asynccontextmanager
async def open_proxy(directory: Path, database_url: str) -> AsyncIterator[PostgresProxy]:
    proxy = PostgresProxy(directory, database_url)
    server = await asyncio.start_unix_server(proxy.serve, str(directory / FILE_NAME))
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
        await proxy.finished()
