"""`cli.py run` as a user starts it: a process of its own, watched from outside."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

ROOT = Path(__file__).resolve().parents[2]
MARK = "SENDORA_TEST_MARK"
NOT_OURS = ("PORT", "DATABASE_URL", "REDIS_URL")
PATIENCE = 60.0
"""Seconds for what takes two on a machine that has nothing else to do. Only what hangs takes as long."""


def clean_environment(**settings: str) -> dict[str, str]:
    """This process's environment with none of the gateway's settings but the given."""
    inherited = {
        name: value for name, value in os.environ.items() if name not in NOT_OURS and not name.startswith("SENDORA_")
    }
    return inherited | settings


def run_command(*arguments: str, timeout: float = PATIENCE, **settings: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(
        [sys.executable, "cli.py", *arguments],
        cwd=ROOT,
        env=clean_environment(**settings),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def wait_until(condition: Callable[[], object], *, seconds: float, what: str) -> None:
    """Look again and again; `AssertionError` when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.02)


async def eventually(condition: Callable[[], object], *, seconds: float, what: str) -> None:
    """The same in an event loop."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        await asyncio.sleep(0.01)


class Running:
    """One start. `output` is what it has written so far; `instances` are all starts, for the last clean-up."""

    instances: ClassVar[list[Running]] = []

    def __init__(self, data_dir: Path, port: int, **settings: str) -> None:
        self.data_dir = data_dir
        self.port = port
        self.mark = uuid4().hex
        self._output = data_dir.with_suffix(f".{self.mark}.log")
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        self.instances.append(self)
        self.started_at = time.monotonic()
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "cli.py", "run"],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=clean_environment(SENDORA_DATA_DIR=str(data_dir), PORT=str(port), **{MARK: self.mark, **settings}),
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def keys(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.data_dir / "keys.json").read_text())
        return found

    def until_welcomed(self, seconds: float = 30) -> float:
        """Wait for the welcome; seconds since the start."""

        def is_decided() -> bool:
            return "is running" in self.output or self.process.poll() is not None

        wait_until(is_decided, seconds=seconds, what="start")
        assert self.process.poll() is None, self.output
        return time.monotonic() - self.started_at

    def query(self, document: str, *, key: str | None = None, timeout: float = 10) -> dict[str, object]:
        """The `data` of one operation."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            data=json.dumps({"query": document}).encode(),
            headers={"content-type": "application/json", "x-api-key": key or self.keys["secretKey"]},
        )
        with urllib.request.urlopen(request, timeout=timeout) as response:
            answer = json.loads(response.read())
        assert "errors" not in answer, answer
        data: dict[str, object] = answer["data"]
        return data

    def answers(self, document: str = "{ viewer { __typename } }") -> bool:
        """Whether a query is answered without an error."""
        try:
            self.query(document, timeout=2)
        except (OSError, AssertionError, ValueError):
            return False
        return True

    def children(self) -> dict[str, list[int]]:
        """Process ids of the supervisor's children: gateway, worker, postgres, redis."""
        found: dict[str, list[int]] = {}
        for pid, parent, command in processes():
            if parent == self.process.pid:
                found.setdefault(_kind(command), []).append(pid)
        return found

    def left_over(self) -> list[tuple[int, list[str]]]:
        """What still runs of this start: by a mark in the environment, or, for PostgreSQL's backends, by its folder."""
        mark, data = f"{MARK}={self.mark}".encode(), str(self.data_dir / "postgres")
        return [(pid, command) for pid, _, command in processes() if mark in _environ(pid) or _folder(pid) == data]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Stop it; seconds until it had ended."""
        began = time.monotonic()
        self.send(number)
        self.process.wait(20)
        return time.monotonic() - began

    def kill_all(self) -> None:
        """For clean-up after a test that failed."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def processes() -> list[tuple[int, int, list[str]]]:
    """(pid, parent's pid, command line) of everything that runs, zombies left out."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if state != "Z":
                found.append((int(folder.name), int(parent), command))
    return found


def _kind(command: list[str]) -> str:
    program = Path(command[0]).name
    if program.startswith(("postgres", "valkey")):
        return "postgres" if program.startswith("postgres") else "redis"
    return "gateway" if "serve" in command else "worker" if "worker" in command else program


def _environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def _folder(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""
