"""A deployment whose guard is off says so: in the log of each process at its start, and to whoever asks a gateway."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from app import create_app
from settings import Settings, read_settings
from tests.integration.inbound_support import serve_app
from worker import WorkerProcess


@pytest.fixture(autouse=True)
def own_collector() -> Iterator[None]:
    """A gateway settles the garbage collector of its process, which here is that of the tests."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def settings_of(database_url: str, redis_url: str, *, guarded: bool) -> Settings:
    secret = "a secret of tests, long enough for it"
    # By their names in the environment, where these have one of their own.
    return read_settings(
        DATABASE_URL=database_url, REDIS_URL=redis_url, secret_key=secret, SSRF_GUARD="on" if guarded else "off"
    )


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    found = [(each.name, each.levelname, each.getMessage()) for each in caplog.records]
    return [each for each in found if "ssrf" in each[2]]


@pytest.mark.parametrize("guarded", [False, True])
async def test_a_gateway_says_that_its_guard_is_off(
    module_database_url: str, redis_url: str, caplog: pytest.LogCaptureFixture, guarded: bool
) -> None:
    app = create_app(settings_of(module_database_url, redis_url, guarded=guarded))
    async with serve_app(app, lifespan="on") as server:
        probes = [await server.request("GET", "/readyz") for _ in range(2)]
    assert {(each.status, each.body) for each in probes} == {
        (200, b"ready\n" if guarded else b"ready\nssrf guard: off\n")
    }
    assert said(caplog) == ([] if guarded else [("app", "WARNING", "ssrf_guard.off")])


@pytest.mark.parametrize("guarded", [False, True])
async def test_a_worker_says_that_its_guard_is_off(
    module_database_url: str, redis_url: str, caplog: pytest.LogCaptureFixture, guarded: bool
) -> None:
    stop = asyncio.Event()
    stop.set()
    await WorkerProcess(settings_of(module_database_url, redis_url, guarded=guarded)).run(stop)
    assert said(caplog) == ([] if guarded else [("worker", "WARNING", "ssrf_guard.off")])
