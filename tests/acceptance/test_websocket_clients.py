"""The clients that our users use, unmodified, over WebSocket and server-sent events, against a real server."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.streaming import KEY, MemoryApplication, Server, eventually, graphql_endpoint, started

CLIENTS = Path(__file__).parent / "clients"
ITEMS = 3
REFUSAL = "Cannot query field 'nothing' on type 'Query'."

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="Node and npm are needed to run these clients")


async def run(*command: str, within: float) -> str:
    """What the command prints. Fails with what it complains about."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=CLIENTS, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        output, complaints = await asyncio.wait_for(process.communicate(), within)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, complaints.decode()
    return output.decode()


@pytest.fixture(scope="session", autouse=True)
def installed_clients() -> None:
    """From the lock, once; nothing of theirs is run at install."""
    if not (CLIENTS / "node_modules" / ".package-lock.json").exists():
        command = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
        asyncio.run(run(*command, within=300))


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    application = MemoryApplication()
    async with started(graphql_endpoint(application), application) as server:
        yield server


def scenario(server: Server, **extra: Any) -> dict[str, Any]:
    """One of each kind of operation."""
    return {
        "url": server.url,
        "websocketUrl": server.websocket_url,
        "key": KEY,
        "query": {"query": "query Hello($name: String) { hello(name: $name) me }", "variables": {"name": "ß"}},
        "mutation": {"query": "mutation Append($v: String!) { append(value: $v) }", "variables": {"v": "a"}},
        "subscription": {
            "query": "subscription Log($after: String) { log(after: $after) { value cursor } }",
            "variables": {"after": "c0"},
        },
        "items": ITEMS,
        "refused": {"query": "query Nothing { nothing }", "variables": {}},
        **extra,
    }


@pytest.mark.parametrize(
    ("client", "mode"),
    [
        ("graphql-ws", "websocket"),
        ("graphql-sse", "distinct"),
        ("graphql-sse", "single"),
        ("apollo", "split"),
        ("apollo", "websocket"),
        # Not with queries over the socket: when urql drops an operation in the instant in which its `complete` arrives,
        # the `releaser` of graphql-ws runs twice, and it closes a socket that is in use. Browsers are not affected.
        ("urql", "split"),
        ("urql", "sse"),
    ],
)
async def test_a_stock_client_queries_mutates_subscribes_and_sees_errors(
    server: Server, client: str, mode: str
) -> None:
    report = json.loads(await run("node", f"{client}.js", json.dumps(scenario(server, mode=mode)), within=30))
    hello = {"data": {"hello": "hello ß", "me": KEY}}
    assert report["query"] == hello
    assert report["mutations"] == [{"data": {"append": number}} for number in range(1, ITEMS + 1)]
    items = [item["data"]["log"] for item in report["items"]]
    assert [(item["value"], item["cursor"]) for item in items] == [("a", f"c{n}") for n in range(1, ITEMS + 1)]
    refusal = "Server responded with 400: Bad Request" if mode == "single" else REFUSAL
    assert report["refused"] == [refusal]
    assert report["queryAfterwards"] == hello
    await eventually(lambda: not server.application.log.members, within=10)
    await eventually(lambda: not server.uvicorn.server_state.connections, within=10)


async def test_a_stock_client_that_keeps_its_cursor_loses_nothing_when_sockets_drop(server: Server) -> None:
    log = server.application.log
    log.append("before")
    options = scenario(server, items=60)
    process = await asyncio.create_subprocess_exec(
        "node", "reconnect.js", json.dumps(options), cwd=CLIENTS, stdout=asyncio.subprocess.PIPE
    )
    await eventually(lambda: len(log.members) == 1, within=15)
    for number in range(60):
        if number % 7 == 3:  # also before the first item, when only the announced position is known
            for connection in tuple(server.uvicorn.server_state.connections):
                connection.transport.abort()
        log.append(str(number))
        await asyncio.sleep(0.02)
    output, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0
    assert [json.loads(line)["value"] for line in output.decode().splitlines()] == [str(n) for n in range(60)]
