"""GraphiQL in a real browser with the network cut: Chromium driven from Node against a gateway look-alike.

Needs Node ≥ 20, `npm ci` in `tests/acceptance/browser`, Debian's `chromium` and a built explorer; skipped, with the
command that mends it, where one of them is missing, except with CI set: there, missing is failing.
`tests/acceptance/browser/explorer.test.js` takes any gateway's URL and key.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from transport.explorer import BUILD

ROOT = Path(__file__).parents[2]
BROWSER_TESTS = Path(__file__).parent / "browser"
KEY = "sk_us_prod_browser-tests-only"
RUN_SECONDS = 300
"""A dozen browsers, one after the other, at a few seconds each on a busy machine."""


def missing_tools(*, needs_build: bool) -> list[str]:
    """What is not here, as commands that bring it."""
    needed = {
        "apt-get install -y --no-install-recommends nodejs npm": shutil.which("node"),
        "npm --prefix tests/acceptance/browser ci": (BROWSER_TESTS / "node_modules" / "playwright-core").exists(),
        "apt-get install -y --no-install-recommends chromium": chromium(),
        "make explorer": not needs_build or (BUILD / "manifest.json").exists(),
    }
    return [command for command, found in needed.items() if not found]


def chromium() -> str | None:
    """The browser's executable."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium")


@contextmanager
def serve(*arguments: str) -> Iterator[str]:
    """The look-alike as a process of its own; gives its URL."""
    command = [sys.executable, str(BROWSER_TESTS / "app.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, "the look-alike did not start"
            yield url
        finally:
            process.terminate()


def drive(script: str, url: str, *, needs_build: bool = True) -> None:
    """Run one of the browser scripts against a gateway, and show what it said if it failed."""
    missing = missing_tools(needs_build=needs_build)
    if missing and "CI" in os.environ:
        pytest.fail("missing here; run: " + " && ".join(missing))
    if missing:
        pytest.skip("run: " + " && ".join(missing))
    environment = os.environ | {"EXPLORER_URL": url, "EXPLORER_KEY": KEY, "CHROMIUM": str(chromium())}
    finished = subprocess.run(
        ["node", "--test", "--test-reporter=spec", script],
        cwd=BROWSER_TESTS,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_graphiql_works_with_the_network_cut() -> None:
    with serve() as url:
        drive("explorer.test.js", url)


def test_a_gateway_without_the_build_serves_a_page_that_says_so(tmp_path: Path) -> None:
    with serve("--build", str(tmp_path)) as url:
        drive("missing.test.js", url, needs_build=False)
