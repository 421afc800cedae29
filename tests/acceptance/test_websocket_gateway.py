"""The clients that our users use against two whole gateways that share a port."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from launch.ports import free_port
from tests.acceptance.running import Running
from tests.acceptance.test_websocket_clients import ITEMS, installed_clients, run

__all__ = ["installed_clients"]

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="Node and npm are needed to run these clients")

TRACK = """mutation Track($type: String!, $user: String!) {
  track(input: { event: { module: "test", eventType: $type, userId: $user } }) {
    event { eventType } duplicate userErrors { message }
  }
}"""
FOLLOW = """subscription Follow($filter: EventFilter, $after: Cursor) {
  eventStream(filter: $filter, after: $after) { cursor node { seq eventType userId } }
}"""


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("gateways") / "data", free_port(), SENDORA_GATEWAYS="2")
    running.until_welcomed(60)
    yield running
    running.process.terminate()
    assert running.process.wait(20) == 0


def scenario(gateways: Running, user: str, mode: str) -> dict[str, Any]:
    """One of each kind of operation; the stream begins where the log ends now."""
    head: Any = gateways.query("{ viewer { project { head } } }")
    after = head["viewer"]["project"]["head"]
    return {
        "url": f"http://127.0.0.1:{gateways.port}/graphql",
        "websocketUrl": f"ws://127.0.0.1:{gateways.port}/graphql",
        "key": gateways.keys["secretKey"],
        "mode": mode,
        "query": {"query": "query Viewer { viewer { role } }", "variables": {}},
        "mutation": {"query": TRACK, "variables": {"type": "test.happened", "user": user}},
        "subscription": {"query": FOLLOW, "variables": {"after": after, "filter": {"userId": user}}},
        "items": ITEMS,
        "refused": {"query": "query Nothing { nothing }", "variables": {}},
    }


@pytest.mark.parametrize(
    ("client", "mode"),
    [
        ("graphql-ws", "websocket"),
        ("graphql-sse", "distinct"),
        ("graphql-sse", "single"),
        ("apollo", "split"),
        ("apollo", "websocket"),
        ("urql", "split"),
        ("urql", "sse"),
    ],
)
async def test_a_stock_client_sees_its_own_events_arrive(gateways: Running, client: str, mode: str) -> None:
    user = f"user-{uuid4()}"
    options = await asyncio.to_thread(scenario, gateways, user, mode)
    report = json.loads(await run("node", f"{client}.js", json.dumps(options), within=30))
    assert report["query"]["data"]["viewer"]["role"] == "ADMIN"
    for mutation in report["mutations"]:
        assert mutation["data"]["track"]["event"]["eventType"] == "test.happened"
        assert mutation["data"]["track"]["duplicate"] is False
    nodes = [item["data"]["eventStream"]["node"] for item in report["items"]]
    assert [(node["eventType"], node["userId"]) for node in nodes] == [("test.happened", user)] * ITEMS
    first = nodes[0]["seq"]
    assert [node["seq"] for node in nodes] == list(range(first, first + ITEMS))
    assert len(report["refused"]) == 1


def test_the_scripts_of_the_clients_are_all_run_somewhere() -> None:
    scripts = {path.stem for path in (Path(__file__).parent / "clients").glob("*.js")}
    assert scripts == {"apollo", "graphql-sse", "graphql-ws", "reconnect", "scenario", "urql"}
