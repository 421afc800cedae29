"""GraphiQL in a real browser with the network cut: Chromium, driven from Node, on a gateway as `make run` starts it.

Needs Node ≥ 20 with npm, Debian's `chromium` (or CHROMIUM) and a built explorer; skipped where one of them is missing.
The scripts in `browser/` take any gateway's URL and key.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.ports import free_port
from tests.acceptance.running import ROOT, Running
from transport.explorer import BUILD

HERE = Path(__file__).parent / "browser"
RUN_SECONDS = 300
"""A dozen browsers, one after the other, at a few seconds each on a busy machine."""


@pytest.fixture(scope="module")
def chromium() -> str:
    """The browser's executable, with its driver installed."""
    npm, node = shutil.which("npm"), shutil.which("node")
    executable = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser"))), ""
    )
    if npm is None or node is None:
        pytest.skip("Node is not installed")
    if not executable:
        pytest.skip("Chromium is not installed")
    if not (HERE / "node_modules").is_dir():
        subprocess.run([npm, "ci"], cwd=HERE, check=True, capture_output=True, timeout=300)
    return executable


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Running]:
    """Everything, started anew."""
    if not (BUILD / "manifest.json").exists():
        pytest.skip("GraphiQL is not built: make explorer")
    run = Running(tmp_path / "data", free_port())
    try:
        run.until_welcomed()
        yield run
    finally:
        run.kill_all()


@pytest.fixture
def unbuilt(tmp_path: Path) -> Iterator[str]:
    """The URL of an explorer that was never built."""
    command = [sys.executable, str(HERE / "unbuilt.py"), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


def drive(script: str, *, url: str, key: str, chromium: str) -> None:
    """Run one of the browser scripts, and show what it said if it failed."""
    finished = subprocess.run(
        ["node", "--test", "--test-reporter=spec", script],
        cwd=HERE,
        env=os.environ | {"EXPLORER_URL": url, "EXPLORER_KEY": key, "CHROMIUM": chromium},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_graphiql_works_with_the_network_cut(gateway: Running, chromium: str) -> None:
    url = f"http://127.0.0.1:{gateway.port}/graphql"
    drive("explorer.test.js", url=url, key=gateway.keys["secretKey"], chromium=chromium)


def test_a_gateway_without_the_build_serves_a_page_that_says_so(unbuilt: str, chromium: str) -> None:
    drive("missing.test.js", url=unbuilt, key="no-key-is-needed-here", chromium=chromium)
