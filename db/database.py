"""The pool: raw asyncpg connections and transactions, through `databases`.

Guarantees: a slot always returns, also when the task that holds it is cancelled anywhere or its backend dies; nobody
waits for one longer than `acquire_timeout`; a statement ends after `STATEMENT_TIMEOUT` at the latest, on the server.
Leaves to others: retrying, and committing (`transaction()` commits when its block ends without an error).

Three things are deliberate, each because the plain way fails:
- `databases.transaction()` is never used: cancelled while BEGIN is awaited, it keeps its slot for ever.
- A fresh `Connection` is made per use: the one `databases` keeps per task is unusable after a cancelled release.
- Connections are not reset on release (a third of a short query's cost). So nobody may leave SET, LISTEN, an advisory
  lock or a temporary table on a pooled connection; asyncpg itself rolls back a transaction that was left open.

One task holds at most one connection: waiting for a second while holding a first can starve the whole pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import databases
from databases.core import Connection as PooledConnection

if TYPE_CHECKING:
    import asyncpg

ACQUIRE_TIMEOUT = timedelta(seconds=5)
"""Longer than any burst should take to pass; after it an honest error is better than a longer queue."""
CONNECT_TIMEOUT = timedelta(seconds=10)
STATEMENT_TIMEOUT = timedelta(seconds=15)
"""An older snapshot makes every update of a head dearer: dead versions cannot be pruned."""
IDLE_TRANSACTION_TIMEOUT = timedelta(seconds=30)
"""A client that died inside a transaction must not hold a project's head for longer."""
CLIENT_MARGIN = timedelta(seconds=5)
"""How much longer than the server's own limit the client waits before it gives the connection up."""


class Database:
    """A pool of connections to one PostgreSQL. `url` is whatever libpq reads, unix sockets and their port included.

    `application_name` is what operators see in `pg_stat_activity`. Without `waits_for_disk` a commit is answered before
    it is on disk, and the last ones are lost with the server: for what is no truth of its own.
    """

    def __init__(
        self,
        url: str,
        *,
        min_size: int = 2,
        max_size: int = 8,
        application_name: str = "sendora",
        acquire_timeout: timedelta = ACQUIRE_TIMEOUT,
        statement_timeout: timedelta = STATEMENT_TIMEOUT,
        waits_for_disk: bool = True,
    ) -> None:
        self.max_size = max_size
        self._acquire_timeout = acquire_timeout.total_seconds()
        self._database = databases.Database(
            "postgresql://",
            # asyncpg reads the URL itself: `databases` loses the port of a socket URL and the query's other options.
            dsn=url,
            host=None,
            port=None,
            user=None,
            password=None,
            database=None,
            min_size=min(min_size, max_size),
            max_size=max_size,
            timeout=CONNECT_TIMEOUT.total_seconds(),
            command_timeout=(statement_timeout + CLIENT_MARGIN).total_seconds(),
            reset=_keep_session,
            server_settings=_server_settings(application_name, statement_timeout, waits_for_disk=waits_for_disk),
        )

    async def connect(self) -> None:
        """Open the pool. Raises `OSError` or `asyncpg.PostgresError` when the server cannot be reached."""
        await self._database.connect()

    async def disconnect(self) -> None:
        """Close the pool; waits for connections still in use."""
        await self._database.disconnect()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A raw connection in autocommit. Raises `TimeoutError` when none is free within `acquire_timeout`."""
        pooled = PooledConnection(self._database, self._database._backend)
        async with asyncio.timeout(self._acquire_timeout):
            await pooled.__aenter__()
        try:
            yield pooled.raw_connection
        finally:
            await pooled.__aexit__()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.Connection]:
        """A raw connection in a READ COMMITTED transaction, committed at the end of the block."""
        async with self.connection() as connection, connection.transaction(isolation="read_committed"):
            yield connection


async def _keep_session(_connection: asyncpg.Connection) -> None:
    """Instead of `RESET ALL` and its like, see above."""


def _server_settings(application_name: str, statement_timeout: timedelta, *, waits_for_disk: bool) -> dict[str, str]:
    return {
        # What the server itself is set to, unless told otherwise: only the operator may weaken it.
        **({} if waits_for_disk else {"synchronous_commit": "off"}),
        "application_name": application_name,
        "timezone": "UTC",
        # What a single statement in autocommit gets; the append relies on it.
        "default_transaction_isolation": "read committed",
        "statement_timeout": _milliseconds(statement_timeout),
        "idle_in_transaction_session_timeout": _milliseconds(IDLE_TRANSACTION_TIMEOUT),
        # Tenants differ by orders of magnitude, and a plan made for an empty table must not outlive it.
        "plan_cache_mode": "force_custom_plan",
        # Compiling costs more than these statements take.
        "jit": "off",
    }


def _milliseconds(duration: timedelta) -> str:
    return str(int(duration.total_seconds() * 1000))
