"""A gateway in process, over a database that all tests of a module share: each test has a project of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.graphql_support import Gateway, Tenant, open_gateway
from tests.integration.inbound_support import InboundServer, serve_inbound


@pytest.fixture
async def gateway(module_database_url: str) -> AsyncIterator[Gateway]:
    """Modules that need live streams, or a database of a test's own, say so with a `gateway` of theirs."""
    async with open_gateway(module_database_url) as opened:
        yield opened


@pytest.fixture
async def shop(gateway: Gateway) -> Tenant:
    """A project, and an ADMIN key to it."""
    return await gateway.tenant()


@pytest.fixture
async def server(gateway: Gateway) -> AsyncIterator[InboundServer]:
    """What comes in from outside, served on loopback."""
    async with serve_inbound(gateway.services) as served:
        yield served
