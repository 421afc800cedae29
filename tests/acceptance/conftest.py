"""Over the wire, on the event loop that the gateway runs on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], object]]:
    """asyncio's own loop buffers, pauses and aborts differently from the one in production."""
    return {"uvloop": uvloop.new_event_loop}
