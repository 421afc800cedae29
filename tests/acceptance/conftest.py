"""Over the wire, on the event loop that the gateway runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest
import uvloop

from launch.ports import free_port
from tests.acceptance.gateway_client import Gateway
from tests.acceptance.running import Running


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], object]]:
    """asyncio's own loop buffers, pauses and aborts differently from the one in production."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway with all it needs, as `make run` starts it, which no test may bring to an error of its own making.

    Tests that break something start one of their own.
    """
    running = Running(tmp_path_factory.mktemp("gateway") / "data", free_port())
    running.until_welcomed(60)
    yield Gateway.of(running)
    running.process.terminate()
    assert running.process.wait(20) == 0
    assert not [line for line in running.output.splitlines() if '"level": "error"' in line or "Traceback" in line]
