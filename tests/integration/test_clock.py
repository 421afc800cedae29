"""Business time is the database's, and tests may move it."""

from __future__ import annotations

from datetime import timedelta

from db.heads import read_clock
from engine.clock import DatabaseClock
from tests.integration.log_support import open_database


async def test_it_is_the_databases_time(module_database_url: str) -> None:
    async with open_database(module_database_url) as database:
        clock = DatabaseClock(database)
        async with clock.running(), database.connection() as connection:
            difference = clock.now() - await read_clock(connection)

    assert abs(difference) < timedelta(seconds=0.5)


async def test_it_goes_on_never_backwards_and_as_far_as_it_is_moved(module_database_url: str) -> None:
    async with open_database(module_database_url) as database:
        clock = DatabaseClock(database)
        async with clock.running():
            before = clock.now()
            clock.advance(timedelta(days=3))
            moved = clock.now()
            clock.advance(timedelta(days=-1))

            assert timedelta(days=3) <= moved - before < timedelta(days=3, seconds=1)
            assert clock.now() == moved
